"""Labels in WebDataset shards: tar files with a member `SAMPLE.labels.npz` for each image, beside the images or in shards of their own.

Each member holds the arrays of one image (see `softlabel_codec.formats.arrays`), and `key`, the whole name of the image, which may have an
ending that the sample's name lacks, and `num_classes`. A member `__softlabel_codec__`, which WebDataset skips, holds `about`.
A shard is never in memory as a whole.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.limits import MAX_METADATA_BYTES
from softlabel_codec.errors import CorruptError, MismatchError
from softlabel_codec.formats.arrays import NUM_CLASSES, OF_IMAGE, WHY_NO_CROPS, About, Form, whole_number
from softlabel_codec.formats.importing import NO_CROPS, Entry, Found, SourceImage
from softlabel_codec.formats.npz import read_npz, write_npz
from softlabel_codec.storage.patterns import open_file

ENDING, ABOUT_MEMBER, KEY = ".labels.npz", "__softlabel_codec__", "key"
_MOST_BYTES = 2**28
"""The most bytes of one image's labels."""


@dataclass(frozen=True)
class WebDatasetSource:
    """Labels in WebDataset shards.

    Attributes
    ----------
    shards : sequence of str
        Tar files, not compressed.
    num_classes : int or None
        C, if the caller says it.
    """

    shards: Sequence[str]
    num_classes: int | None = None

    @cached_property
    def found(self) -> Found:
        """What the shards hold, by the names of their members and the first image.

        Raises
        ------
        MismatchError
            If there are no labels, or they have no such form.
        CorruptError
            If a shard is cut off or damaged.
        """
        form, about = self._form, self._about
        num_images, num_bytes = self._counted
        return Found(
            format="webdataset",
            kind=form.kind,
            num_images=num_images,
            num_crops=num_images * form.num_crops,
            crops=form.crops,
            source_bytes=num_bytes,
            provenance={"shards": len(self.shards)},
            metadata=about.metadata,
            stored_as=about.codec,
            image_checksums=form.image_checksums,
            lost=form.lost,
            why_no_crops=WHY_NO_CROPS if form.crops == NO_CROPS else "",
        )

    def entries(self) -> Iterator[Entry]:
        """Yield all images in the order of the shards, each when its labels are in memory."""
        form = self._form
        for shard in self.shards:
            for name, data in members(shard, _is_labels):
                where = f"{shard}: {name}"
                try:
                    arrays = read_npz(data, where)
                except CorruptError as error:
                    yield Entry(name.removesuffix(ENDING), where, partial(_fail, error))
                    continue
                held = sum(array.nbytes for array in arrays.values())
                yield Entry(_key(arrays, name), where, partial(self._image, form, arrays), held)

    def _image(self, form: Form, arrays: Mapping[str, NDArray[Any]]) -> SourceImage:
        stated = _classes(arrays)
        if stated not in (None, form.kind.num_classes):
            raise MismatchError(f"expected {form.kind.num_classes} classes, as in the first image, got {stated}")
        return form.image({name: array for name, array in arrays.items() if name in OF_IMAGE})

    @cached_property
    def _counted(self) -> tuple[int, int]:
        """Number of labels in all shards, and bytes of these."""
        number = num_bytes = 0
        for shard in self.shards:
            with open_file(shard) as file:
                for member in headers(file, shard):
                    if _is_labels(member.name):
                        number, num_bytes = number + 1, num_bytes + member.size
        return number, num_bytes

    @cached_property
    def _about(self) -> About:
        for shard in self.shards[:1]:
            for _, data in members(shard, lambda name: name == ABOUT_MEMBER):
                return About.parse(data.decode(errors="replace"), f"{shard}: {ABOUT_MEMBER}")
        return About()

    @cached_property
    def _form(self) -> Form:
        for shard in self.shards:
            for name, data in members(shard, _is_labels):
                where = f"{shard}: {name}"
                arrays = read_npz(data, where)
                stated = _classes(arrays)
                if None not in (stated, self.num_classes) and stated != self.num_classes:
                    raise MismatchError(f"{where}: expected {self.num_classes} classes, got {stated}")
                try:
                    return Form.of(arrays, self._about, self.num_classes or stated)
                except MismatchError as error:
                    raise MismatchError(f"{where}: {error}") from None
        raise MismatchError(f"{self.shards[0]}: expected members SAMPLE{ENDING} in the shards, found none")


def _classes(arrays: Mapping[str, NDArray[Any]]) -> int | None:
    return whole_number(arrays[NUM_CLASSES], NUM_CLASSES, "labels") if NUM_CLASSES in arrays else None


def _fail(error: CorruptError) -> SourceImage:
    raise error


def _key(arrays: Mapping[str, NDArray[Any]], name: str) -> str:
    return str(arrays[KEY]) if KEY in arrays and arrays[KEY].dtype.kind == "U" and not arrays[KEY].shape else name.removesuffix(ENDING)


def _is_labels(name: str) -> bool:
    return name.endswith(ENDING)


def members(shard: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of those members of a shard whose names are wanted; CorruptError if it is damaged."""
    with open_file(shard) as file:
        for member in headers(file, shard):
            name = member.name.removeprefix("./")
            if not wanted(name):
                continue
            most = _MOST_BYTES if name != ABOUT_MEMBER else 4 * MAX_METADATA_BYTES
            if not member.isreg() or member.size > most:
                got = f"{member.size} bytes" if member.isreg() else "a link or another thing that is no file"
                raise CorruptError(f"{shard}: {name}: expected a file of at most {most} bytes, got {got}")
            place = file.tell()
            file.seek(member.offset_data)
            data = file.read(member.size)
            file.seek(place)
            if len(data) < member.size:
                raise CorruptError(f"{shard}: {name}: is cut off: expected {member.size} bytes, got {len(data)}")
            yield name, data


def headers(file: BinaryIO, shard: str) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of a tar file, which must end as such files do: Python's module takes a damaged header for the end."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # they would be kept
                yield member
            end_at = tar.offset
    except tarfile.TarError as error:
        raise CorruptError(f"{shard}: not a readable tar file: {error}. Compressed ones are not read: unpack it to a plain .tar") from None
    file.seek(end_at)
    end = file.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        what = "a damaged header" if any(end) else "no end marker: it is cut off"
        raise CorruptError(f"{shard}: not a readable tar file: expected its next member or its end at byte {end_at}, got {what}")


class ShardWriter:
    """Writes a shard. The same labels give the same bytes.

    Parameters
    ----------
    path : path
        The tar file.
    about : str
        Contents of the member that says what these labels are.
    num_classes : int
        C.
    """

    def __init__(self, path: Path, about: str, num_classes: int) -> None:
        self._path, self._num_classes = path, num_classes
        self._file = path.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  its file is closed
        self._samples: dict[str, str] = {}
        self._add_member(ABOUT_MEMBER, about.encode())

    def add(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write an image; MismatchError if another image has the same sample name, which is the key up to its first dot."""
        sample = sample_of(key)
        if sample in self._samples:
            both = f"{self._samples[sample]!r} and {key!r}"
            raise MismatchError(f"{self._path}: the images {both} would be one sample {sample!r} of WebDataset")
        self._samples[sample] = key
        buffer = io.BytesIO()
        write_npz(buffer, {KEY: np.array(key), NUM_CLASSES: np.array(self._num_classes), **arrays})
        self._add_member(sample + ENDING, buffer.getvalue())

    def close(self) -> None:
        """Write the end of the file."""
        self._tar.close()
        self._file.close()

    def discard(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _add_member(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o644
        self._tar.addfile(member, io.BytesIO(data))
        self._tar.members = []  # type: ignore[attr-defined]  # they would be kept


def sample_of(key: str) -> str:
    """Return the sample that an image belongs to: its path up to the first dot of the file name, as WebDataset groups members."""
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"
