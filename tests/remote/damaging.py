"""Objects of a label set that are damaged in their bucket."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from remote.stores import IMAGES_PER_SHARD, KEYS, SHARDS, Labels, Store, check_names, few_bytes
from softlabel_codec import SoftLabelError, SoftLabelReader
from softlabel_codec.errors import FormatError
from softlabel_codec.label_set.index_file import SetIndex
from softlabel_codec.report import verify

_INDEX = "x.slc.index.json"
KINDS = ("a bit", "bytes", "zeros", "cut off", "another shard")


@dataclass(frozen=True)
class DamagedObjects:
    """What came of label sets of which an object was damaged in the bucket.

    Attributes
    ----------
    damaged : int
        Sets that were tried, each with one damaged object.
    damaged_indexes : int
        Of these, such whose index was damaged; of the others a shard was.
    found_by_verify : int
        Those that `verify` found, naming the object.
    reads : int
        Batches that were read of them.
    right : int
        Those that were right, among them all of which nothing lies in the damaged object.
    refused : dict
        All others, by the error, which names the object.
    """

    damaged: int
    damaged_indexes: int
    found_by_verify: int
    reads: int
    right: int
    refused: dict[str, int]


def damaged_objects(store: Store, folder: Path, count: int, *, seed: int = 0) -> DamagedObjects:
    """Damage a random shard, or the index, in a random place, read the set, from the bucket or by way of a cache, and verify it."""
    rng, found, refused = np.random.default_rng(seed), Counter(), Counter()
    with few_bytes():
        labels = Labels(folder / "x")
        files, url = labels.files, labels.put(store, f"damaged-{seed}")
        for number in range(count):
            name = _INDEX if rng.random() < 0.2 else f"x-{rng.integers(0, len(SHARDS)):05d}-of-{len(SHARDS):05d}.slc"
            store.put(f"damaged-{seed}/{name}", _damaged(files, name, rng))
            cache = folder / f"cache-{number}" if number % 2 else None
            _read(url, labels, name, cache, rng, found, refused)
            found["damaged"] += 1
            found["damaged_indexes"] += name == _INDEX
            report = verify(url, deep=True)
            assert not report.ok, f"{url}: verify misses damage of {name}"
            said = "index" if name == _INDEX else name  # a shard is named then, with what the index says of it
            assert any(said in problem.message for problem in report.problems), f"expected {name}, got {report.problems}"
            found["found_by_verify"] += 1
            store.put(f"damaged-{seed}/{name}", files[name])
    assert found["reads"] == found["right"] + sum(refused.values())
    return DamagedObjects(*(found[name] for name in ("damaged", "damaged_indexes", "found_by_verify", "reads", "right")), dict(refused))


def _damaged(files: dict[str, bytes], name: str, rng: np.random.Generator) -> bytes:
    """Return an object with damage; that of an index says something else then, or is none."""
    data = files[name]
    while True:
        kind = rng.choice(KINDS)
        place = int(rng.integers(0, len(data)))
        damaged = bytearray(data)
        if kind == "a bit":
            damaged[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == "bytes":
            damaged[place : place + 16] = rng.bytes(len(data[place : place + 16]))
        elif kind == "zeros":
            damaged[place : place + 512] = bytes(len(data[place : place + 512]))
        elif kind == "cut off":
            del damaged[place:]
        else:
            damaged[:] = files[rng.choice([other for other in files if other != name])]
        if damaged != data and not (name == _INDEX and _says_the_same(bytes(damaged), data)):
            return bytes(damaged)


def _says_the_same(damaged: bytes, data: bytes) -> bool:
    try:
        return SetIndex.unpack(damaged) == SetIndex.unpack(data)
    except FormatError:
        return False


def _read(
    url: str, labels: Labels, name: str, cache: Path | None, rng: np.random.Generator, found: Counter[str], refused: Counter[str]
) -> None:
    """Read batches of a set of which an object is damaged: of all shards together, and of each."""
    of_shards = [range(start, start + IMAGES_PER_SHARD) for start in range(0, len(KEYS), IMAGES_PER_SHARD)]
    for images in (rng.choice(some, 5, replace=False).tolist() for some in (range(len(KEYS)), *of_shards)):
        found["reads"] += 1
        try:
            with SoftLabelReader(url, cache=cache) as reader:
                batch = reader.read_batch(images)
                numbers = [reader.keys.find(KEYS[image]) for image in images]
        except (SoftLabelError, OSError) as error:
            check_names(error, name)
            _check_affected(name, images)
            refused[type(error).__name__] += 1
        else:
            assert numbers == images, f"{url}: images {images} are said to have the numbers {numbers} beside damage of {name}"
            assert labels.are_those_of(batch, images), f"{url}: other labels of images {images} beside damage of {name}"
            found["right"] += 1


def _check_affected(name: str, images: list[int]) -> None:
    """Check that one of these images lies in an object that is damaged, if that is a shard."""
    shards = {image // IMAGES_PER_SHARD for image in images}
    assert name == _INDEX or int(name[2:7]) in shards, f"images {images} are refused for damage of {name}, in which none of them lies"
