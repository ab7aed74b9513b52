"""Test vectors of label sets: valid ones with what a reader must find in them, and invalid ones with exactly one defect each.

In the invalid ones all lengths, digests, fingerprints and numbers are right that are not the defect itself.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from dissect import Pieces

from softlabel_codec import CropSampler, Padding, SoftLabelWriter
from softlabel_codec.label_set.index_file import SUFFIX
from softlabel_codec.label_set.making import index_path, shard_name, write_index
from softlabel_codec.padding import NO_PADDING
from vectors.valid import contents

FOLDER = Path(__file__).parents[2] / "spec" / "vectors" / "sets"
VALID_FOLDER = FOLDER / "valid"
REFUSED_FOLDER, VERIFIER_FOLDER = FOLDER / "invalid", FOLDER / "invalid-for-verifiers"
SAMPLER = CropSampler(seed=11)
SIZE = (20, 30)


@dataclass(frozen=True)
class Case:
    """What the shards of a set are made of: keys with numbers of crops, shard by shard."""

    shards: Sequence[dict[str, int]]
    codec: str = "marginal_smoothing:k=2"
    crops: str = "derived"
    padding: Padding = NO_PADDING
    checksums: bool = False
    skipped_keys: Sequence[Sequence[str]] = ()
    seed: int = 5
    change: Callable[[dict[str, Any]], dict[str, Any]] = field(default=lambda index: index)
    rename: Callable[[str], str] = field(default=str)


def with_unknown_keys(index: dict[str, Any]) -> dict[str, Any]:
    """Return an index as a later version may write it: other keys, in another order."""
    shards = [{"later": None, **shard, "versions": {"may": ["add", 1]}} for shard in index["shards"]]
    return {"shards": shards, **{name: index[name] for name in reversed(index) if name != "shards"}, "minor": 3, "later": [1.5]}


def with_integers_for_floats(index: dict[str, Any]) -> dict[str, Any]:
    """Return an index of a program that writes 4.0 as 4."""
    return {**index, "metadata": {**index["metadata"], "temperature": 4}}


def with_a_crop_sampler(index: dict[str, Any]) -> dict[str, Any]:
    """Return an index with a crop sampler that nothing is derived from, and nobody knows."""
    return {**index, "crop_sampler": {"name": "another"}}


VALID = {
    "one-shard": Case([{"a.jpg": 2, "b.jpg": 1}]),
    "several-shards": Case([{"a/1.jpg": 2, "a/2.jpg": 2}, {"b/1.jpg": 2}, {}, {"c/3.jpg": 2, "c/1.jpg": 2, "c/2.jpg": 2}]),
    "different-numbers-of-crops": Case([{"a": 3, "b": 1}, {"c": 7}], "marginal_smoothing:t=0.1,tail=3", "pixels"),
    "overlapping-ranges-of-keys": Case([{"b": 1, "y": 1}, {"z": 1, "a": 1}, {"c": 1}, {"d": 1, "x": 1}], "hard", "pixels"),
    "skipped-images": Case([{"a": 2}, {"b": 2}, {"c": 2}], "hard", skipped_keys=(["broken.jpg"], [], ["größe.png", "a0"])),
    "padding-and-image-checksums": Case([{"a": 2}, {"b": 2}], "dense:values=f16", padding=Padding(4, "reflect"), checksums=True),
    "keys-that-utf-16-orders-otherwise": Case([{"\U0001f600.jpg": 1}, {"\uffee.jpg": 1, "\ufeffa": 1}], "hard"),
    "unknown-keys-in-the-index": Case([{"a": 1}, {"b": 1}], "hard", change=with_unknown_keys),
    "integers-for-floats-in-the-index": Case([{"a": 1}, {"b": 1}], "hard", change=with_integers_for_floats),
    "other-names-of-shards": Case([{"a": 1}, {"b": 1}], "hard", rename=lambda name: f"part {name[6]}.slc"),
    "crop-sampler-beside-stored-crops": Case([{"a": 1}, {"b": 1}], "hard", "pixels", change=with_a_crop_sampler),
    "no-images": Case([{}, {}], "hard"),
}


def write_missing() -> None:
    """Write the vectors that are not there yet; what is there stays as it is."""
    for name, case in VALID.items():
        if not (VALID_FOLDER / name).exists():
            write_files(VALID_FOLDER / name, files_of(case))
            np.savez_compressed(VALID_FOLDER / f"{name}.npz", **contents(VALID_FOLDER / name))
    for folder, cases in ((REFUSED_FOLDER, REFUSED), (VERIFIER_FOLDER, FOUND_BY_VERIFIERS)):
        for name, make in cases.items():
            if not (folder / name).exists():
                write_files(folder / name, make())


Files = dict[str, bytes]


def write_files(folder: Path, files: Files) -> None:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def files_of(case: Case) -> Files:
    """Return the files of a set by name."""
    rng = np.random.default_rng(case.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [folder / shard_name("x", number, len(case.shards)) for number in range(len(case.shards))]
        for number, (file, keys) in enumerate(zip(files, case.shards, strict=True)):
            how = {"crops": case.crops, "padding": case.padding, "image_checksums": case.checksums}
            sampler = SAMPLER if case.crops == "derived" else None
            with SoftLabelWriter(file, 6, case.codec, {"temperature": 4.0, "teacher": {"name": "é"}}, sampler=sampler, **how) as writer:
                for key, count in keys.items():
                    crops, flips = SAMPLER.sample(key, case.padding.around(SIZE), range(count))
                    checksum = {"image_crc32": len(key)} if case.checksums else {}
                    probs = rng.dirichlet(np.full(6, 0.5), count).astype(np.float32)
                    writer.add(key, image_size=SIZE, crops=crops, flips=flips, probs=probs, **checksum)
                writer.finish(skipped_keys=case.skipped_keys[number] if case.skipped_keys else ())
        files = [file.rename(file.with_name(case.rename(file.name))) for file in files]
        write_index(index_path(folder, "x"), files)
        found = {file.name: file.read_bytes() for file in folder.iterdir()}
    return with_index(found, case.change(index_of(found)))


INDEX = "x" + SUFFIX


def index_of(files: Files) -> dict[str, Any]:
    """Return the index of a set."""
    return json.loads(files[INDEX])


def with_index(files: Files, index: dict[str, Any]) -> Files:
    """Return the files of a set with another index, a shard to a line."""
    text = json.dumps({**index, "shards": []} if "shards" in index else index, ensure_ascii=False, indent=1)
    shards = ",\n".join(f"  {json.dumps(shard, ensure_ascii=False)}" for shard in index.get("shards", []))
    return {**files, INDEX: text.replace('"shards": []', f'"shards": [\n{shards}\n ]').encode() + b"\n"}


# Sound sets to spoil

Make = Callable[[], Files]
FIRST, SECOND = shard_name("x", 0, 2), shard_name("x", 1, 2)


@cache
def _base() -> tuple[tuple[str, bytes], ...]:
    return tuple(files_of(Case([{"a": 2, "b": 2}, {"c": 2}], "hard")).items())


def base() -> Files:
    """Return a sound set of two shards."""
    return dict(_base())


def text(change: Callable[[bytes], bytes]) -> Make:
    """Return how to make the index of the base with other bytes, without its shards."""
    return lambda: {INDEX: change(base()[INDEX])}


def alone(make: Make) -> Make:
    """Return how to make the index of a set without its shards, for which nobody looks."""
    return lambda: {INDEX: make()[INDEX]}


def index(**changes: Any) -> Make:
    """Return how to make the base with other values in its index; those that are `...` are left out."""
    return lambda: with_index(base(), _without_dots({**index_of(base()), **changes}))


def shard(**changes: Any) -> Make:
    """Return how to make the base with other values for its second shard in the index, and sums that fit if they can."""

    def make() -> Files:
        values = index_of(base())
        shards = [values["shards"][0], _without_dots({**values["shards"][1], **changes})]
        return with_index(base(), added_up({**values, "shards": shards}))

    return make


def unlisted(data: Callable[[], bytes]) -> Make:
    """Return how to make the base with another file in the place of its second shard, which the index does not know."""
    return lambda: {**base(), SECOND: data()}


def listed(data: Callable[[], bytes]) -> Make:
    """Return how to make the base with another second shard, which the index knows."""

    def make() -> Files:
        file = data()
        digests = {"sha256": hashlib.sha256(file).hexdigest(), "fingerprint": hashlib.sha256(file[-112:]).hexdigest()}
        return {**shard(bytes=len(file), **digests)(), SECOND: file}

    return make


def added_up(values: dict[str, Any]) -> dict[str, Any]:
    """Return an index whose sums and fingerprint are those of its shards, as far as these have any."""
    shards = values["shards"]
    for name in ("images", "crops"):
        numbers = [shard.get(name) for shard in shards]
        if all(type(number) is int for number in numbers):
            values = {**values, f"num_{name}": sum(numbers)}
    if all("fingerprint" in shard for shard in shards):
        digests = b"".join(bytes.fromhex(shard["fingerprint"]) for shard in shards)
        values = {**values, "fingerprint": hashlib.sha256(digests).hexdigest()}
    return values


def _without_dots(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not ...}


def changed(header: dict[str, int] | None = None, **values: Any) -> Callable[[], bytes]:
    """Return how to make the second shard of the base with other values in its header or metadata."""

    def make() -> bytes:
        pieces = Pieces.split(base()[SECOND])
        pieces.set_values(**values)
        pieces.header = {**pieces.header, **(header or {})}
        return pieces.join()

    return make


def of_another_run() -> bytes:
    """Return a shard with the keys and the length of the second of the base, and other labels."""
    file = files_of(Case([{"a": 2, "b": 2}, {"c": 2}], "hard", seed=8))[SECOND]
    assert len(file) == len(base()[SECOND])
    assert file != base()[SECOND]
    return file


def damaged() -> bytes:
    """Return the second shard of the base with another bit in its block."""
    pieces = Pieces.split(base()[SECOND])
    place = 32 + len(pieces.metadata) + 18
    data = base()[SECOND]
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def shard_not_an_object() -> Files:
    """Return the base with a number among its shards."""
    values = index_of(base())
    return with_index(base(), {**values, "shards": [*values["shards"], 7]})


def fewer_crops_than_images() -> Files:
    """Return the base with one crop for two images."""
    values = index_of(base())
    del values["crops_per_image"]
    values["shards"][0]["crops"] = 1
    return with_index(base(), added_up(values))


def uneven(crops_per_image: int | None, crops: int) -> Files:
    """Return a set of an image with one crop and one with three, whose index says something else."""
    files = files_of(Case([{"a": 1, "b": 3}], "hard"))
    values = index_of(files)
    values["shards"][0]["crops"] = crops
    return with_index(files, added_up({**values, **({} if crops_per_image is None else {"crops_per_image": crops_per_image})}))


def key_in_two_shards() -> Files:
    """Return a set with a key in both shards."""
    first, second = (files_of(Case([keys], "hard")) for keys in ({"a": 1, "c": 1}, {"b": 1, "c": 1}))
    shards = [{**index_of(files)["shards"][0], "file": name} for files, name in ((first, FIRST), (second, SECOND))]
    alone = shard_name("x", 0, 1)
    return with_index({FIRST: first[alone], SECOND: second[alone]}, added_up({**index_of(first), "shards": shards}))


REFUSED: dict[str, Make] = {
    "NotAContainerError-index-empty": text(lambda data: b""),
    "NotAContainerError-index-no-json": text(lambda data: data.rstrip()[:-1]),
    "NotAContainerError-index-no-object": text(lambda data: b"[" + data + b"]"),
    "NotAContainerError-index-not-utf-8": text(lambda data: data.replace("é".encode(), b"\xe9")),
    "NotAContainerError-number-that-is-none": text(lambda data: data.replace(b'"minor": 0', b'"minor": NaN')),
    "NotAContainerError-another-format": alone(index(format="softlabel")),
    "NotAContainerError-without-format": alone(index(format=...)),
    "NewerVersionError-major-2": alone(index(major=2, num_classes="later")),
    "CorruptError-major-with-a-fraction": alone(index(major=1.0)),
    "CorruptError-without-major": alone(index(major=...)),
    "CorruptError-minor-of-another-type": alone(index(minor="0")),
    "CorruptError-key-twice": text(lambda data: data.replace(b'"minor": 0', b'"minor": 0, "minor": 0')),
    "CorruptError-key-twice-in-a-shard": text(lambda data: data.replace(b'"images": 1', b'"images": 1, "images": 1')),
    "CorruptError-without-codec": alone(index(codec=...)),
    "UnknownFeatureError-codec-name": alone(index(codec="harder")),
    "LimitError-one-class": alone(index(num_classes=1)),
    "CorruptError-num-classes-of-another-type": alone(index(num_classes=True)),
    "UnknownFeatureError-crop-mode": alone(index(crops="polygons")),
    "CorruptError-without-crop-sampler": alone(index(crop_sampler=...)),
    "UnknownFeatureError-image-checksum": alone(index(image_checksum="md5")),
    "CorruptError-padding-not-an-object": alone(index(padding=4)),
    "CorruptError-metadata-not-an-object": alone(index(metadata=[])),
    "CorruptError-num-images": alone(index(num_images=4)),
    "CorruptError-num-crops-with-a-fraction": alone(index(num_crops=6.0)),
    "CorruptError-crops-per-image-0": alone(index(crops_per_image=0)),
    "CorruptError-crops-per-image-against-a-shard": alone(index(crops_per_image=3)),
    "CorruptError-fingerprint": alone(index(fingerprint="0" * 64)),
    "CorruptError-without-shards": alone(index(shards=...)),
    "CorruptError-no-shards": alone(index(shards=[])),
    "CorruptError-shard-not-an-object": alone(shard_not_an_object),
    "CorruptError-file-in-another-folder": alone(shard(file=f"../{SECOND}")),
    "CorruptError-file-in-another-folder-of-windows": alone(shard(file=f"..\\{SECOND}")),
    "CorruptError-file-empty": alone(shard(file="")),
    "CorruptError-file-of-two-shards": alone(shard(file=FIRST)),
    "CorruptError-bytes-negative": alone(shard(bytes=-1)),
    "CorruptError-sha256-in-capitals": alone(shard(sha256="A" * 64)),
    "CorruptError-fingerprint-of-a-shard-missing": alone(shard(fingerprint=...)),
    "CorruptError-images-with-an-exponent": text(lambda data: data.replace(b'"images": 1,', b'"images": 1e0,')),
    "CorruptError-fewer-crops-than-images": alone(fewer_crops_than_images),
    "CorruptError-first-key-after-last-key": alone(shard(first_key="d")),
    "CorruptError-first-key-missing": alone(shard(first_key=...)),
    "CorruptError-last-key-null-with-images": alone(shard(last_key=None)),
    "CorruptError-keys-without-images": alone(shard(images=0, crops=0)),
    "CorruptError-key-that-utf-8-cannot-express": text(lambda data: data.replace(b'"first_key": "a"', b'"first_key": "\\ud800"')),
    "OSError-shard-missing": lambda: {name: data for name, data in base().items() if name != SECOND},
    "MismatchError-shard-cut-off": unlisted(lambda: base()[SECOND][:-1]),
    "MismatchError-shard-empty": unlisted(lambda: b""),
    "MismatchError-shard-of-another-run": unlisted(of_another_run),
    "MismatchError-shard-in-the-place-of-another": unlisted(lambda: base()[FIRST]),
    "MismatchError-shard-of-another-writer": listed(changed(writer="another")),
    "MismatchError-shard-with-another-number-of-classes": listed(changed(num_classes=7)),
    "MismatchError-shard-with-another-header": listed(changed({"compatible_features": 1 << 9})),
    "MismatchError-codec-of-the-index": index(codec="smoothing"),
    "MismatchError-metadata-of-the-index": index(metadata={"temperature": 1.0, "teacher": {"name": "é"}}),
    "MismatchError-metadata-missing-in-the-index": index(metadata={"teacher": {"name": "é"}}),
    "CorruptError-damaged-block-of-a-shard": unlisted(damaged),
}
FOUND_BY_VERIFIERS: dict[str, Make] = {
    "CorruptError-images-of-a-shard": shard(images=2, crops=4, last_key="d"),
    "CorruptError-crops-of-a-shard": lambda: uneven(None, 3),
    "CorruptError-crops-of-an-image": lambda: uneven(2, 4),
    "CorruptError-first-key": shard(first_key="b"),
    "CorruptError-last-key": shard(last_key="d"),
    "CorruptError-sha256": shard(sha256="0" * 64),
    "CorruptError-key-in-two-shards": key_in_two_shards,
}
