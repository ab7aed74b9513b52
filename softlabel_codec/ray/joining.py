"""From parts to the shards of a label set, which depend on the images and their labels only (spec/set-v1.md, section 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from pyarrow import compute

from softlabel_codec.container.metadata import Description
from softlabel_codec.container.stored_images import stored_image
from softlabel_codec.container.summary import keys_sha256
from softlabel_codec.errors import MismatchError
from softlabel_codec.label_set.index_file import Shard
from softlabel_codec.label_set.making import images_of_shard, read_shards, shard_name
from softlabel_codec.ray.folders import SharedFolder
from softlabel_codec.ray.parts import Part, new_writer, opened

_SKIPPED = -1


@dataclass(frozen=True)
class Asked:
    """Images of which labels were asked for, each once, in the order of the UTF-8 bytes of their keys.

    Attributes
    ----------
    keys : pyarrow.LargeBinaryArray (n,)
        Their keys.
    part : int64 (n,)
        Place in the list of parts of the one that holds an image; -1 if it could not be read.
    number : int64 (n,)
        Number of the image in that part.
    """

    keys: Any
    part: NDArray[np.int64]
    number: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, places: range) -> Asked:
        """Return a range of them. Keys are copied: a slice of an array of Arrow's is pickled with all of the array."""
        rows = slice(places.start, places.stop)
        return Asked(pa.concat_arrays([self.keys[rows]]), self.part[rows], self.number[rows])

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Whether each was labelled, bool (n,)."""
        labelled: NDArray[np.bool_] = self.part != _SKIPPED
        return labelled

    def skipped_keys(self) -> list[str]:
        """Return the keys of those that could not be read."""
        return [key.decode() for key in self.keys.filter(pa.array(~self.labelled)).to_pylist()]

    def described(self) -> dict[str, Any]:
        """Return what the metadata say of the images that were asked for (spec/container-v1.md, section 4.1)."""
        return {"count": len(self), "keys_sha256": keys_sha256(scalar.as_py() for scalar in self.keys)}


def asked_for(folder: SharedFolder, parts: Sequence[Part]) -> Asked:
    """Return the images that parts hold or could not read.

    Raises
    ------
    MismatchError
        If two parts hold images of the same key which are not the same image.
    """
    lengths = [len(part.keys) for part in parts]
    skipped = sorted({key.encode() for part in parts for key in part.skipped})
    keys = pa.concat_arrays([*(part.keys for part in parts), pa.array(skipped, pa.large_binary())])
    part = np.concatenate([np.repeat(np.arange(len(parts)), lengths), np.full(len(skipped), _SKIPPED)])
    number = np.concatenate([*(np.arange(length) for length in lengths), np.arange(len(skipped))]).astype(np.int64)
    order = compute.sort_indices(keys).to_numpy()  # stable: of equal keys those that were labelled come first
    keys, part, number = keys.take(pa.array(order)), part[order], number[order]
    first = np.ones(len(keys), np.bool_)
    first[1:] = compute.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    for again in np.flatnonzero(~first & (part != _SKIPPED)).tolist():
        _check_same_image(folder, *((parts[part[place]], int(number[place])) for place in (again - 1, again)))
    return Asked(keys.filter(pa.array(first)), part[first], number[first])


def _check_same_image(folder: SharedFolder, one: tuple[Part, int], other: tuple[Part, int]) -> None:
    """Raise MismatchError unless images of the same key in two parts, of which a task that ran twice made both, are the same image."""
    found = []
    for part, number in (one, other):
        with opened(folder, part.name) as container:
            block, slot = container.index.locate(number)
            image = stored_image(container.layout, container.blocks.content(block), slot, part.keys[number].as_py().decode())
            found.append((image.size, image.crc32))
    if found[0] != found[1]:
        raise MismatchError(f"{image.key!r}: two images of the Ray Dataset have this key. Give each image a key of its own")


def write_shards(
    folder: SharedFolder, parts_in: SharedFolder, parts: Sequence[Part], asked: Asked, said: Description, count: int
) -> list[Shard]:
    """Write all shards of a set, by tasks on the cluster, and return what its index says of them."""
    write = ray.remote(_write_shard)
    tasks = []
    for number in range(count):
        images = asked[images_of_shard(len(asked), number, count)]
        used = np.unique(images.part[images.labelled]).tolist()
        names = {place: parts[place].name for place in used}
        tasks.append(write.remote(folder, shard_name(folder.name, number, count), parts_in, names, images, said))
    return list(ray.get(tasks))


def _write_shard(folder: SharedFolder, name: str, parts_in: SharedFolder, names: dict[int, str], images: Asked, said: Description) -> Shard:
    """Write the shard of some images, read it again, and return what the index says of it."""
    contents = {place: _Contents(parts_in, part, images.number[images.part == place]) for place, part in names.items()}
    layout = said.layout
    with folder.writing(name) as path:
        with new_writer(path, said) as writer:
            for key, part, number in _rows(images):
                if part != _SKIPPED:
                    writer.add_stored(stored_image(layout, *contents[part].of(number), key))
            writer.finish(skipped_keys=images.skipped_keys())
        return read_shards([path]).shards[0]


def _rows(images: Asked) -> Iterator[tuple[str, int, int]]:
    for key, part, number in zip(images.keys, images.part.tolist(), images.number.tolist(), strict=True):
        yield key.as_py().decode(), part, number


class _Contents:
    """The contents of the blocks of a part that hold some images, which are read at once."""

    def __init__(self, folder: SharedFolder, name: str, numbers: NDArray[np.int64]) -> None:
        with opened(folder, name) as part:
            self._first_images = part.index.first_images
            self._of_block = {block: part.blocks.content(block) for block in np.unique(self._block(numbers)).tolist()}

    def of(self, number: int) -> tuple[bytes, int]:
        """Return the content of the block that holds an image, and the position of the image in it."""
        block = int(self._block(number))
        return self._of_block[block], number - int(self._first_images[block])

    def _block(self, numbers: Any) -> Any:
        return self._first_images.searchsorted(numbers, side="right") - 1
