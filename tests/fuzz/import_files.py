"""Label files of other formats, made of sound ones by changes to their parts, their checksums right, and read by the importer."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # others map a gigabyte at once

from fuzz.agreement import require
from fuzz.limits import within_a_second
from fuzz.scratch import scratch_folder
from fuzz.script import MAX_CHANGES, Script, edited
from softlabel_codec import SoftLabelError, SoftLabelWriter
from softlabel_codec.codec import Codec
from softlabel_codec.formats import export_labels, import_labels
from softlabel_codec.report import verify
from softlabel_codec.sampler import CropSampler

CODECS = ("marginal_smoothing:k=3,values=f16", "hard", "dense:f16", "marginal_smoothing:t=0.2,values=f32", "dense:content=logits")
NUM_CLASSES, SIZE = 7, (48, 64)
NAMES = {"npz": "l.npz", "safetensors": "l.safetensors", "parquet": "l.parquet", "webdataset": "l.tar", "tinyvit": "logits_top3_epoch0"}
FOLDERS = {"sre2l": "images", "ml_dr": "images", "relabel": "images"}
"""Formats whose labels are of images in a folder."""
FORMATS = (*NAMES, "fkd", "sre2l", "ml_dr", "mobileclip_dr", "relabel")
"""A number in a kept input says which: new ones go to the end."""
WRITTEN_BY_TORCH = ("sre2l", "ml_dr", "mobileclip_dr", "relabel")


KNOWN = {"fkd": {"label_type": "marginal_smoothing_k3"}, "relabel": {"crops": 3}}
"""What the files do not say."""
KEYS = ("n1/a.png", "n1/b.png", "n2/c.png")
CROP_FLIP = {"random_resized_crop": {"size": 224}, "random_horizontal_flip": {}, "normalize": {}}
MIXING = {**CROP_FLIP, "mixup": {"p": 1.0}}


class Base(NamedTuple):
    """A sound source: its format, and the parts of its files by name; `archive/member` are members of an archive in an archive."""

    format: str
    parts: dict[str, bytes]


def read(data: bytes) -> bool:
    """Read a source that an input stands for: the format, the codec, and changes; return whether it was imported."""
    script = Script(data)
    format = script.choice(FORMATS)
    base = base_of(format, script.choice(CODECS))
    parts = dict(base.parts)
    for _ in range(MAX_CHANGES):
        if script.ended or not parts:
            break
        _change(parts, script)
    folder = scratch_folder()
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    _write(source, format, parts, script)
    path = source / NAMES[format] if format in NAMES and format != "tinyvit" else source
    known = dict(KNOWN.get(format, {}))
    if format in FOLDERS:
        known["images"] = images()
    (folder / "out.slc.partial").unlink(missing_ok=True)
    with within_a_second(format):
        try:
            import_labels(path, folder / "out.slc", format=format, num_classes=NUM_CLASSES, overwrite=True, **known)
        except SoftLabelError as error:
            if isinstance(error.__context__, MemoryError):
                raise error.__context__ from None
            return False
        require(verify(folder / "out.slc", deep=True).ok, "what was imported is not sound")
    return True


def _change(parts: dict[str, bytes], script: Script) -> None:
    """Change a part, take it out, repeat it under another name, or give two parts each other's contents."""
    names = sorted(parts)
    name, kind = script.choice(names), script.number() % 8
    if kind == 0:
        del parts[name]
    elif kind == 1:
        parts[script.choice(names)] = parts[name]
    elif kind == 2:
        parts[name + "x"] = parts.pop(name)
    else:
        parts[name] = edited(parts[name], script)


@cache
def base_of(format: str, codec: str) -> Base:
    """Return a source with labels of a codec, or of one that the format has."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if format in _WRITERS:
            _WRITERS[format](folder, CODECS.index(codec))
            return Base(format, _parts(format, folder))
        if format == "tinyvit":
            rows = np.zeros(4, [("seed", "<i4"), ("index", "<i2", (3,)), ("value", "<f2", (3,))])
            rows["index"], rows["value"] = [1, 5, 2], [0.5, 0.25, 0.125]
            return Base(format, {"keys": b"a\nb\nc\nd\n", "values": rows.tobytes()})
        sparse = codec if format != "fkd" else CODECS[0]
        with SoftLabelWriter(folder / "a.slc", NUM_CLASSES, sparse) as writer:
            rng = np.random.default_rng(0)
            for key in ("n1/a.png", "n1/b.png", "n2/ü.png"):
                crops, flips = CropSampler(seed=7).sample(key, SIZE, range(3))
                probs = rng.dirichlet(np.full(NUM_CLASSES, 0.4), 3).astype(np.float32)
                labels = {"probs": probs} if Codec.parse(sparse).content == "probs" else {"vectors": np.log(probs + np.float32(1e-6))}
                writer.add(key, image_size=SIZE, crops=crops, flips=flips, **labels)
        out = folder / ("train" if format == "fkd" else NAMES[format])
        export_labels(folder / "a.slc", out, format=format)
        return Base(format, _parts(format, out))


def _parts(format: str, path: Path) -> dict[str, bytes]:
    if format == "npz":
        return _unzipped(path.read_bytes())
    if format == "webdataset":
        found = {}
        with tarfile.open(path) as tar:
            for member in tar:
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                found |= {member.name: data} if not member.name.endswith(".npz") else _unzipped(data, f"{member.name}|")
        return found
    if format == "safetensors":
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        return {"header": json.dumps(header, sort_keys=True).encode(), "numbers": data[8 + length :]}
    if path.is_dir():
        found = {}
        for file in sorted(path.rglob("*.*")):
            data, name = file.read_bytes(), str(file.relative_to(path))
            data = gzip.decompress(data) if name.endswith(".gz") else data
            found |= _unzipped(data, f"{name}|") if data.startswith(b"PK") else {name: data}
        return found
    return {"file": path.read_bytes()}


def _unzipped(data: bytes, before: str = "") -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {before + name: archive.read(name) for name in archive.namelist()}


def _zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


def _write(folder: Path, format: str, parts: dict[str, bytes], script: Script) -> None:
    """Write the files of a source. What is left of the input changes them as a whole, checksums and all."""
    if format == "tinyvit":
        below = folder / NAMES[format]
        below.mkdir()
        files = {below / "rank0-keys.txt": parts.get("keys"), below / "rank0-values.bin": parts.get("values")}
    elif format == "mobileclip_dr":
        files = {folder / "config.json": parts.get("config.json"), folder / "a.tar": _tarred(parts)}
    elif format not in NAMES:
        inner = _inner(parts)
        files = {folder / name: data for name, data in inner.pop("", {}).items() if name}
        files |= {folder / name: _zipped(members) for name, members in inner.items()}
    elif format == "npz":
        files = {folder / NAMES[format]: _zipped(parts, zipfile.ZIP_DEFLATED if script.number() % 2 else zipfile.ZIP_STORED)}
    elif format == "webdataset":
        files = {folder / NAMES[format]: _tarred(parts)}
    elif format == "safetensors":
        header = parts.get("header", b"")
        files = {folder / NAMES[format]: len(header).to_bytes(8, "little") + header + parts.get("numbers", b"")}
    else:
        files = {folder / NAMES[format]: parts.get("file", b"")}
    for path, data in files.items():
        if data is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if script.ended else edited(data, script))


def _inner(parts: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Return the members of archives in a source, by archive; those in none are in that named ''."""
    found: dict[str, dict[str, bytes]] = {}
    for name, data in parts.items():
        archive, bar, member = name.partition("|")
        found.setdefault(archive if bar else "", {})[member if bar else name] = data
    return found


def _tarred(parts: dict[str, bytes]) -> bytes:
    inner, out = _inner(parts), io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        alone = inner.pop("", {})
        for name, data in sorted({**alone, **{name: _zipped(members) for name, members in inner.items()}}.items()):
            data = gzip.compress(data, mtime=0) if name.endswith(".gz") else data  # noqa: PLW2901
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


@cache
def images() -> Path:
    """Return a folder of images that the labels of some formats are of."""
    folder = scratch_folder() / "images"
    for key in KEYS:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(folder / key)
    return folder


def _write_sre2l(folder: Path, number: int) -> None:
    """Write two epochs: as SRe2L, with CutMix, as LPLD, as LPQLD, or in float32."""
    import torch  # takes seconds

    rng, flat = np.random.default_rng(number), number == 3
    for epoch in range(2):
        below = folder if flat else folder / f"epoch_{epoch}"
        below.mkdir(exist_ok=True)
        for batch, size in enumerate((2, 1)):
            crops = torch.tensor([[0.125, 0.25, 0.5, 0.5]] * size)
            mix = (torch.arange(size), 0.7, [1, 2, 3, 4]) if number == 1 else (None, None, None)
            logits = torch.tensor(
                rng.normal(size=(size, 3 if flat else NUM_CLASSES)), dtype=torch.float32 if number == 4 else torch.float16
            )
            saved = [crops.half() if flat else crops, torch.zeros(size, dtype=torch.bool), *mix, logits]
            if flat:
                saved.append(torch.tensor([[1, 5, 2]] * size, dtype=torch.int16))
            torch.save(saved, below / f"batch_{batch + 2 * epoch if flat else batch}.tar")
    if number == 2:
        (folder / "sampler_indices_epoch.json").write_text(json.dumps({"0": [2, 0, 1], "1": [1, 0, 2]}))
    if flat:
        (folder / "sampler_indices_batch.json").write_text(json.dumps({"0": [2, 0], "1": [1], "2": [0, 1], "3": [2]}))


def _write_ml_dr(folder: Path, number: int) -> None:
    """Write labels of crops, compressed or not, with numpy's numbers, or mixed."""
    import torch  # takes seconds

    augmentations = MIXING if number == 4 else CROP_FLIP
    reinforce = {"topk": 3, "compress": number < 3, "image_augmentation": augmentations}
    torch.save({"dataset": "imagenet", "num_classes": NUM_CLASSES, "reinforce": reinforce}, folder / "config.pth.tar")
    for image in range(len(KEYS)):
        named = {"random_resized_crop": [[1, 2, 30, 40], None], "random_horizontal_flip": [True, None], "mixup": [0.5, 1]}
        params = [[1, 2, 30, 40], False] if number < 2 else [(np.int64(1), 2, 30, 40), np.bool_(True)] if number == 2 else named
        samples = [{"params": params, "prob": ([0.5, 0.25, 0.125], [1, 5, 2])} for _ in range(2)]
        torch.save((image, samples), folder / f"{image}.pth.tar", pickle_protocol=4)


def _write_mobileclip(folder: Path, number: int) -> None:
    """Write members of a shard, which is made of them later."""
    import torch  # takes seconds

    (folder / "config.json").write_text(json.dumps(MIXING if number == 4 else CROP_FLIP))
    embeddings = np.random.default_rng(number).normal(size=(2, NUM_CLASSES)).astype(np.float32)
    for sample in "ab":
        params: object = [[[1, 2, 30, 40], False], [[0, 0, 48, 64], True]]
        if number == 4:
            params = [{"random_resized_crop": [[1, 2, 30, 40], None], "mixup": [0.5, 1]}] * 2
        (folder / f"{sample}.paug.json").write_text(json.dumps({"param_aug": json.dumps(params) if number == 1 else params}))
        shutil.copy(images() / KEYS[0], folder / f"{sample}.jpg")
        if number % 2:
            buffer = io.BytesIO()
            torch.save({"image_emb": torch.tensor(embeddings).to(torch.bfloat16)}, buffer)
            (folder / f"{sample}.pth.gz").write_bytes(gzip.compress(buffer.getvalue()))
        else:
            np.savez(folder / f"{sample}.npz", image_emb=embeddings)


def _write_relabel(folder: Path, number: int) -> None:
    import torch  # takes seconds

    rng = np.random.default_rng(number)
    for key in KEYS:
        path = (folder / key).with_suffix(".pt")
        path.parent.mkdir(exist_ok=True)
        classes = rng.integers(0, NUM_CLASSES, (2, 3, 3))
        kind = (torch.float32, torch.float16, torch.float64)[number % 3]
        torch.save(torch.tensor(np.stack([rng.normal(size=classes.shape), classes]), dtype=kind), path)


_WRITERS = {"sre2l": _write_sre2l, "ml_dr": _write_ml_dr, "mobileclip_dr": _write_mobileclip, "relabel": _write_relabel}


def first_inputs() -> list[bytes]:
    """Return an input for each base, and some with changes."""
    rng = np.random.default_rng(0)
    found = [bytes([format, codec]) for format in range(len(FORMATS)) for codec in range(len(CODECS))]
    return found + [one + rng.bytes(12) for one in found for _ in range(3)]
