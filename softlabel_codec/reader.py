"""`SoftLabelReader`: random access to the labels of a container file."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softlabel_codec.block.columns import Column
from softlabel_codec.block.layout import BlockImages
from softlabel_codec.block.one_image import MAX_CROPS as MAX_FEW
from softlabel_codec.block.one_image import FewCropsReader
from softlabel_codec.checks.arguments import batch_crop_numbers, crop_numbers
from softlabel_codec.checks.limits import MAX_SUMMARY_BYTES
from softlabel_codec.codec import Codec
from softlabel_codec.container.files import PARTIAL_SUFFIX, FileSource, located
from softlabel_codec.container.framing import TRAILER, Index, Trailer
from softlabel_codec.container.index import BlockIndex, Blocks
from softlabel_codec.container.keys import Keys
from softlabel_codec.container.msgpack_maps import Plain
from softlabel_codec.container.scan import Beginning, read_beginning
from softlabel_codec.container.summary import unpack_summary
from softlabel_codec.errors import ArgumentError, CorruptError, FormatError, MismatchError, StateError, TruncatedError
from softlabel_codec.labels import BatchLabels, ImageLabels, check_policy
from softlabel_codec.quantise.codes import label_quantiser

ON_CORRUPT = ("raise", "skip")
_OTHER_CROPS = "an image has another number of crops in its block than the index says"


class SoftLabelReader:
    """Random access to the labels of a container file.

    Threads and forked processes may share a reader. A reader pickles as its path and opens the file again when unpickled,
    so it works in DataLoader workers of every start method.

    Parameters
    ----------
    path : path
        The file.
    policy : str, optional
        Read sparse labels with this remainder policy (`uniform`, `renorm`, or `tail` if there are tails) instead of the codec's own.
    on_corrupt : str
        What to do with an image in a damaged block: `raise` an error, or `skip` it: iteration and `read_batch` leave it out, and
        `damaged_images` lists it. A damaged index is always an error, because it affects all images.

    Attributes
    ----------
    num_classes : int
        C.
    codec : str
        Codec string, canonical.
    crops : str
        How crops are stored: `pixels`, `derived`, `fractions:f32` or `fractions:f16`.
    image_checksums : bool
        Whether the file stores the CRC-32 of each image's file: see `ImageLabels.image_crc32`.
    sampler : CropSampler or None
        The sampler of crops that are `derived`.
    metadata : dict
        The caller's metadata, as passed to the writer.
    summary : dict
        Information added at the end: `keys_sha256`, and `skipped_keys` if there are any.
    num_crops : int64 (len(reader),)
        Number of crops of each image.
    keys : Keys
        Keys of all images in file order: a sequence that reads them a page at a time.
    damaged_images : list of int
        Numbers of the images that were left out so far because their block is damaged, ascending; empty unless `on_corrupt` is `skip`.
    trailer : Trailer
        The end of the file: numbers of images, blocks and crops, and offsets of the parts.

    Raises
    ------
    FormatError
        One of its subclasses, if the file is not a sound, finished container.
    OSError
        If the file cannot be opened or read.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> from softlabel_codec import SoftLabelWriter
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "labels.slc"
    >>> with SoftLabelWriter(path, num_classes=4, codec="marginal_smoothing:k=2,values=f32") as writer:
    ...     writer.add("a.jpg", image_size=(60, 80), crops=[[0, 10, 50, 40]], flips=[True],
    ...                probs=np.float32([[0.1, 0.6, 0.2, 0.1]]))
    >>> with SoftLabelReader(path) as reader:
    ...     image = reader["a.jpg"]
    ...     print(image.crops.tolist(), image.labels.indices.tolist(), image.labels.dense().round(3).tolist())
    [[0, 10, 50, 40]] [[1, 2]] [[0.10000000149011612, 0.6000000238418579, 0.20000000298023224, 0.10000000149011612]]
    """

    def __init__(self, path: str | os.PathLike[str], *, policy: str | None = None, on_corrupt: str = "raise") -> None:
        if on_corrupt not in ON_CORRUPT:
            raise ArgumentError(f"on_corrupt: expected one of {', '.join(ON_CORRUPT)}, got {on_corrupt!r}")
        self._skips_damage = on_corrupt == "skip"
        self._damaged: set[int] = set()
        self._source = FileSource(path)
        self.path = self._source.path
        self._absolute_path = self.path.absolute()
        try:
            self._open(policy)
        except BaseException:
            self._source.close()
            raise

    def _open(self, policy: str | None) -> None:
        beginning = self.beginning = read_beginning(self._source)
        description = beginning.description
        self._layout = description.layout
        self._quantiser = label_quantiser(description.codec, description.num_classes)
        self._asked_policy = policy
        self._policy = _policy(policy, description.codec)
        self._few = FewCropsReader(self._layout, self._policy) if FewCropsReader.serves(self._layout) else None
        self._sampler_checked = False
        self.blocks_offset = beginning.blocks_offset
        self.format_version = beginning.header.version
        self.num_classes, self.codec, self.crops = description.num_classes, str(description.codec), description.crops
        self.sampler, self.image_checksums = description.sampler, description.image_checksums
        self.metadata: Plain = description.metadata
        self.written_by = description.written_by
        self.trailer = self._read_trailer(beginning)
        self._num_images = self.trailer.num_images
        self.index = self._read_index(beginning.blocks_offset)
        self.blocks = Blocks(self._source, self.index, beginning.metadata_crc32)
        self.num_crops = self.index.num_crops
        self.summary = self._read_summary()
        self.keys = Keys(self._source, self.trailer)

    def _read_trailer(self, beginning: Beginning) -> Trailer:
        length = self._source.length
        try:
            if length < beginning.blocks_offset + TRAILER.size:
                raise TruncatedError("the file ends before its trailer")
            return Trailer.unpack(self._source.read_at(length - TRAILER.size, TRAILER.size), length, beginning.blocks_offset)
        except TruncatedError as error:
            unfinished = "an unfinished file. " if self.path.name.endswith(PARTIAL_SUFFIX) else ""
            advice = "Continue the writer that started it, or save its complete blocks with 'slcodec recover'"
            raise located(TruncatedError(f"{unfinished}{error}. {advice}"), self._source) from None
        except FormatError as error:
            raise located(error, self._source, "trailer") from None

    def _read_index(self, blocks_offset: int) -> BlockIndex:
        trailer = self.trailer
        try:
            data = self._source.read_at(trailer.index_offset, trailer.copy_offset - trailer.index_offset)
            return BlockIndex(Index.unpack(data, trailer.num_blocks, trailer.num_images), blocks_offset, trailer)
        except FormatError as error:
            raise located(error, self._source, f"index at byte {trailer.index_offset}") from None

    def _read_summary(self) -> Plain:
        start, end = self.trailer.summary_offset, self.trailer.index_offset
        try:
            return unpack_summary(self._source.read_at(start, min(end - start, MAX_SUMMARY_BYTES + 5)))
        except FormatError as error:
            raise located(error, self._source, f"summary at byte {start}") from None

    def __len__(self) -> int:
        """Return the number of images."""
        return self._num_images

    def __contains__(self, key: object) -> bool:
        """Return whether there is an image with that key."""
        return key in self.keys

    def __iter__(self) -> Iterator[ImageLabels]:
        """Yield all images, in file order; without those in damaged blocks if these are to be skipped."""
        for number in range(len(self)):
            try:
                image = self.read(number)
            except FormatError:
                if not self._skips_damage:
                    raise
                self._damaged.add(number)
                continue
            yield image

    def __getitem__(self, image: int | str) -> ImageLabels:
        """Return all crops of an image, by number (negative: from the end) or key."""
        return self.read(image)

    @property
    def damaged_images(self) -> list[int]:
        return sorted(self._damaged)

    @property
    def fingerprint(self) -> str:
        """64 hex digits that differ if anything in the file differs: the SHA-256 of its trailer, which contains the SHA-256 of the rest."""
        return hashlib.sha256(self.trailer.pack()).hexdigest()

    def read(self, image: int | str, crops: Sequence[int] | NDArray[np.integer[Any]] | None = None) -> ImageLabels:
        """Return chosen crops of an image.

        Parameters
        ----------
        image : int or str
            Number (negative: from the end) or key.
        crops : int (N,), optional
            Crop numbers, in any order, also repeated. All crops if not given.

        Raises
        ------
        KeyError, IndexError
            If there is no such image, or it has no such crop.
        CorruptError
            If its bytes are damaged. Other images stay readable.
        """
        number = self._number(image)
        chosen = None if crops is None else self._crop_numbers(crops, number)
        block, slot = self.index.locate(number)
        content = self.blocks.content(block)
        if self._layout.derived:
            self._check_sampler(block)
        try:
            if chosen and self._few is not None and len(chosen) <= MAX_FEW:
                return ImageLabels(*self._few.read(content, slot, chosen, self.keys.crop_stream(number) if self._layout.derived else 0))
            numbers = None if chosen is None else np.array([chosen], np.int64)
            streams = self.keys.crop_streams(np.array([number])) if self._layout.derived else None
            found, of_image = self._layout.unpack([content], np.zeros(1, np.int64), np.array([slot]), numbers, streams)
            if chosen is None and int(of_image.image_rows[0]) != self.num_crops[number]:
                raise CorruptError(_OTHER_CROPS)
            labels = self._quantiser.dequantise(found.codes, self._policy)
        except CorruptError as error:
            raise self.blocks.located(error, block) from None
        size, crc32s = of_image.image_sizes[0].tolist(), of_image.image_crc32s
        return ImageLabels(found.crops, found.flips, (size[0], size[1]), labels, None if crc32s is None else int(crc32s[0]))

    def read_batch(self, images: Sequence[int | str] | NDArray[np.integer[Any]], crops: ArrayLike | None = None) -> BatchLabels:
        """Return chosen crops of several images at once, several times faster than one by one.

        With `on_corrupt="skip"` the result lacks the images in damaged blocks; its `images` lists those that are included.

        Parameters
        ----------
        images : sequence of int or str
            Numbers or keys, in any order.
        crops : int (B, N), optional
            Crop numbers of each image. All crops of each if not given.

        Raises
        ------
        ArgumentError
            If there are no images, or `crops` does not have one row for each.
        KeyError, IndexError, CorruptError
            As for `read`; CorruptError also if all images are in damaged blocks.
        """
        numbers = self._numbers(images)
        if not len(numbers):
            raise ArgumentError("read_batch: expected at least one image")
        chosen = None if crops is None else self._batch_crop_numbers(crops, numbers)
        try:
            return self._read_batch(numbers, chosen)
        except FormatError:
            if not self._skips_damage:
                raise
            sound = self._sound(numbers, chosen)
            if not sound.any():
                raise
        return self._read_batch(numbers[sound], None if chosen is None else chosen[sound])

    def _read_batch(self, numbers: NDArray[np.int64], chosen: NDArray[np.int64] | None) -> BatchLabels:
        image_block = self.index.first_images.searchsorted(numbers, side="right") - 1
        blocks, block_place = np.unique(image_block, return_inverse=True)
        slots = numbers - self.index.first_images[image_block]
        contents = self.blocks.contents(blocks)
        streams = None
        if self._layout.derived:
            self._check_sampler(int(blocks[0]))
            streams = self.keys.crop_streams(numbers)
        try:
            found, of_images = self._layout.unpack(contents, block_place, slots, chosen, streams)
            if chosen is None and (of_images.image_rows != self.num_crops[numbers]).any():
                raise CorruptError(_OTHER_CROPS)
            labels = self._quantiser.dequantise(found.codes, self._policy)
        except CorruptError as error:
            raise self._find_corrupt(blocks, error) from None
        sizes, counts, crc32s = of_images.image_sizes, of_images.image_rows, of_images.image_crc32s
        return BatchLabels(found.crops, found.flips, labels, sizes, counts, numbers, crc32s)

    def _sound(self, numbers: NDArray[np.int64], chosen: NDArray[np.int64] | None) -> NDArray[np.bool_]:
        """Return which images (B,) can be read, one by one; note the others."""
        sound = np.ones(len(numbers), np.bool_)
        for place in range(len(numbers)):
            one = slice(place, place + 1)
            try:
                self._read_batch(numbers[one], None if chosen is None else chosen[one])
            except FormatError:
                sound[place] = False
                self._damaged.add(int(numbers[place]))
        return sound

    def check_classes(self, num_classes: int) -> None:
        """Raise MismatchError unless the labels are of that many classes."""
        if num_classes != self.num_classes:
            raise MismatchError(f"{self.path}: expected labels of {num_classes} classes, got {self.num_classes}")

    def close(self) -> None:
        """Close the file. Closing twice is allowed."""
        self.blocks.forget()
        self._source.close()

    def __enter__(self) -> SoftLabelReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SoftLabelReader({str(self.path)!r}: {len(self)} images, {self.trailer.num_crops} crops, {self.codec})"

    def __reduce__(self) -> tuple[Any, ...]:
        on_corrupt = "skip" if self._skips_damage else "raise"
        return _reopen, (str(self._absolute_path), self._asked_policy, on_corrupt, self.fingerprint)

    def _number(self, image: int | str) -> int:
        if isinstance(image, str):
            number = self.keys.find(image)
            if number is None:
                raise KeyError(f"{self.path}: no image with the key {image!r}")
            return number
        try:
            place = operator.index(image)
        except TypeError:
            raise ArgumentError(f"image: expected a number or a key, got {image!r}") from None
        if not -self._num_images <= place < self._num_images:
            raise self._no_such_image(place)
        return place + self._num_images if place < 0 else place

    def _numbers(self, images: Sequence[int | str] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        if not isinstance(images, np.ndarray) or images.dtype.kind not in "iu" or images.ndim != 1:
            return np.array([self._number(image) for image in images], np.int64)
        outside = (images < -self._num_images) | (images >= self._num_images)
        if outside.any():
            raise self._no_such_image(int(images[outside][0]))
        numbers = images.astype(np.int64)
        return np.where(numbers < 0, numbers + self._num_images, numbers)

    def _no_such_image(self, number: int) -> IndexError:
        if not self._num_images:
            return IndexError(f"{self.path}: image number {number}: there are no images in this file")
        return IndexError(f"{self.path}: image number: expected {-self._num_images} to {self._num_images - 1}, got {number}")

    def _crop_numbers(self, crops: Sequence[int] | NDArray[np.integer[Any]], number: int) -> list[int]:
        chosen = crop_numbers(crops)
        if chosen and not 0 <= min(chosen) <= max(chosen) < self.num_crops[number]:
            raise self._no_such_crop(number, chosen)
        return chosen

    def _batch_crop_numbers(self, crops: ArrayLike, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        chosen = batch_crop_numbers(crops, len(numbers))
        outside = (chosen < 0) | (chosen >= self.num_crops[numbers][:, None])
        if outside.any():
            row = int(outside.any(axis=1).argmax())
            raise self._no_such_crop(int(numbers[row]), chosen[row].tolist())
        return chosen.astype(np.int64)

    def _no_such_crop(self, number: int, chosen: list[int]) -> IndexError:
        last = int(self.num_crops[number]) - 1
        wrong = next(crop for crop in chosen if not 0 <= crop <= last)
        return IndexError(f"{self.path}: image {number} ({self.keys[number]!r}): crop number: expected 0 to {last}, got {wrong}")

    def block_columns(self, block: int) -> list[Column]:
        """Return the content of a block as the named columns that our writer makes of it."""
        return self._layout.pack(self._layout.unpack_all(self.blocks.content(block)))

    def check_block(self, block: int) -> BlockImages:
        """Decode everything in a block, compare it with index and keys, and return it; CorruptError if anything is wrong."""
        content = self.blocks.content(block)
        first, last = int(self.index.first_images[block]), int(self.index.first_images[block + 1])
        try:
            images = self._layout.unpack_all(content)
            self._quantiser.dequantise(images.codes, self._policy)
            if images.keys != self.keys[first:last] or images.counts.tolist() != self.num_crops[first:last].tolist():
                raise CorruptError("its keys or numbers of crops are not those of the index")
        except FormatError as error:
            raise self.blocks.located(error, block) from None
        return images

    def read_bytes(self, offset: int, length: int) -> bytes:
        """Return bytes of the file as they stand there."""
        return self._source.read_at(offset, length)

    def _check_sampler(self, block: int) -> None:
        """The first time, check that our sampler gives the crops of a block that were labelled."""
        if not self._sampler_checked:
            self.check_block(block)
            self._sampler_checked = True

    def _find_corrupt(self, blocks: NDArray[np.int64], error: FormatError) -> FormatError:
        """Return the error of the first of some blocks that is not sound in every respect."""
        for block in blocks.tolist():
            try:
                self.check_block(block)
            except FormatError as found:
                return found
        return located(error, self._source)


def _policy(asked: str | None, codec: Codec) -> str:
    """Return the remainder policy to read labels of a codec with; ArgumentError if another is asked for that does not fit."""
    if asked is None:
        return codec.policy
    if codec.family == "dense":
        raise ArgumentError(f"policy: labels of {str(codec)!r} have no remainder, so none is expected, got {asked!r}")
    return check_policy(asked, codec.tail > 0)


def _reopen(path: str, policy: str | None, on_corrupt: str, fingerprint: str) -> SoftLabelReader:
    reader = SoftLabelReader(path, policy=policy, on_corrupt=on_corrupt)
    if reader.fingerprint != fingerprint:
        raise StateError(f"{path}: the file was replaced after the reader was created")
    return reader
