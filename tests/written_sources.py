"""The same image files in a folder, in shards, in tables and in an array."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "owl")
KEYS = [f"{CLASSES[number // 4]}/{number:02d}.{'png' if number % 4 else 'jpg'}" for number in range(12)]


def picture(seed: int) -> bytes:
    """Return an image file, PNG or JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20 + seed, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG" if seed % 4 else "JPEG")
    return file.getvalue()


IMAGES = {key: picture(number) for number, key in enumerate(KEYS)}
TARGETS = [number // 4 for number in range(12)]


def write_folder(folder: Path) -> Path:
    for key, data in IMAGES.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    return folder


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_shards(folder: Path, num_shards: int = 3, keys: list[str] = KEYS) -> str:
    """Write shards and return their pattern; each image comes with its class and something else."""
    folder.mkdir()
    parts = np.array_split(np.arange(len(keys)), num_shards)
    for shard, part in enumerate(parts):
        members = {}
        for number in part.tolist():
            stem = keys[number].rpartition(".")[0]
            members |= {keys[number]: IMAGES[keys[number]], f"{stem}.cls": str(TARGETS[number]).encode(), f"{stem}.json": b"{}"}
        write_tar(folder / f"s-{shard:03d}.tar", members)
    return f"{folder}/s-{{000..{num_shards - 1:03d}}}.tar"


def table(paths: bool = True, **columns):
    """Return a table as `datasets` writes it: structs of bytes and path, and labels."""
    import pyarrow

    images = [{"bytes": data, "path": key if paths else None} for key, data in IMAGES.items()]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    return pyarrow.table({"image": pyarrow.array(images, kind), "label": TARGETS, **columns})


def write_parquet(path: Path, written=None, rows_per_group: int = 5) -> str:
    from pyarrow import parquet

    parquet.write_table(table() if written is None else written, path, row_group_size=rows_per_group)
    return str(path)


def write_saved(folder: Path, written=None, rows_per_file: int = 7) -> str:
    """Write what `datasets.Dataset.save_to_disk` would."""
    import pyarrow

    written = table() if written is None else written
    folder.mkdir(parents=True)
    names = []
    for start in range(0, len(written), rows_per_file):
        names.append(f"data-{len(names):05d}-of-00002.arrow")
        with pyarrow.OSFile(str(folder / names[-1]), "wb") as file, pyarrow.ipc.new_stream(file, written.schema) as stream:
            stream.write_table(written.slice(start, rows_per_file), max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return str(folder)


def write_npz(path: Path) -> str:
    np.savez(path, images=np.array(list(IMAGES.values())), keys=np.array(KEYS), labels=np.array(TARGETS))
    return str(path)


WRITE = {
    "folder": lambda folder: str(write_folder(folder / "images")),
    "shards": lambda folder: write_shards(folder / "shards"),
    "parquet": lambda folder: write_parquet(folder / "a.parquet"),
    "saved": lambda folder: write_saved(folder / "saved"),
    "npz": lambda folder: write_npz(folder / "a.npz"),
}
"""Writes the images in one of these ways, in the order of their keys in a folder, and returns how to name them."""
