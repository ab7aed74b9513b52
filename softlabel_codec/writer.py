"""`SoftLabelWriter`: writes a teacher's probabilities to a container file."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from numpy.typing import ArrayLike

from softlabel_codec.block.layout import Layout
from softlabel_codec.checks.limits import MAX_IMAGES, MAX_IMAGES_PER_BLOCK
from softlabel_codec.codec import Codec
from softlabel_codec.container.builder import Assembly, pack_payload
from softlabel_codec.container.files import PartialFile
from softlabel_codec.container.framing import Header
from softlabel_codec.container.metadata import Description
from softlabel_codec.container.output_stream import OutputStream, Writable
from softlabel_codec.container.pending import PendingBlock, PendingImage
from softlabel_codec.container.preparing import GivenImage, Preparer
from softlabel_codec.container.scan import Beginning
from softlabel_codec.container.summary import check_skipped_keys
from softlabel_codec.errors import ArgumentError, LimitError, StateError
from softlabel_codec.padding import NO_PADDING, Padding
from softlabel_codec.storage.location import path_to_write
from softlabel_codec.version import PACKAGE
from softlabel_codec.views import Sampler

TARGET_BYTES_PER_BLOCK = 6144
"""A block is full with this many bytes of label columns: few enough to read one image quickly, enough to make overhead negligible."""


class SoftLabelWriter:
    """Writes a container file, one image at a time.

    The file is written as `PATH.partial` and renamed when it is finished: by `finish`, or by leaving the `with` block
    without an exception. After an exception, a kill or a power failure the blocks so far are complete. The file can be continued
    (`resume=True`) or recovered (`slcodec recover`); the images of the last block, if it was not full (at most 256), must be added again.

    Parameters
    ----------
    path : path or file object
        The file to write. Or an object with a method `write` that takes bytes, such as an open binary file, an upload or a socket: the same
        bytes are written to it in order, without going back; it is flushed when the file is finished, and never closed. What an
        exception cuts off has no end, so readers refuse it.
    num_classes : int
        C, 2 to 2^31.
    codec : str or Codec
        How labels are selected and stored, for example `marginal_smoothing:k=5`.
    metadata : mapping, optional
        Any values of None, bool, int, float, str, list and dict: teacher, preprocessing, ...
    crops : str
        How crops are given and stored: `pixels`; `derived`: those of `sampler`, which need not be stored; or
        `fractions:f32` / `fractions:f16` of images whose size is not known.
    sampler : CropSampler or AllViews, optional
        Sampler of derived crops.
    image_checksums : bool
        Store the CRC-32 of each image's file (4 bytes), so that readers detect other images under the same names.
    padding : Padding, optional
        How images are enlarged before crops are cut out of them. Crops then count from the upper left corner of the padded image.
    resume : bool
        Continue an unfinished file of the same path, if there is one. `keys` then holds what is already in it. (One without a whole
        block holds nothing, and is started again.) Not for file objects.
    overwrite : bool
        Replace a finished file when this one is finished, and discard an unfinished one; together with `resume` only if it was started with
        other arguments. Not for file objects.
    partial : path, optional
        The unfinished file, in the same folder, if it is not to be `PATH.partial`. Not for file objects.

    Raises
    ------
    ArgumentError, LimitError
        If the codec, the number of classes or the metadata are invalid.
    FileExistsError
        If the file exists and `overwrite` is not set.
    StateError
        If an unfinished file exists and neither `resume` nor `overwrite` is set, or another writer is writing it.
    MismatchError
        If the unfinished file was started with other arguments.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "labels.slc"
    >>> with SoftLabelWriter(path, num_classes=4, codec="marginal_smoothing:k=2") as writer:
    ...     writer.add("a.jpg", image_size=(60, 80), crops=[[0, 10, 50, 40]], flips=[True],
    ...                probs=np.float32([[0.1, 0.6, 0.2, 0.1]]))
    >>> path.exists()
    True
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Writable,
        num_classes: int,
        codec: str | Codec,
        metadata: Mapping[str, Any] | None = None,
        *,
        crops: str = "pixels",
        sampler: Sampler | None = None,
        image_checksums: bool = False,
        padding: Padding = NO_PADDING,
        resume: bool = False,
        overwrite: bool = False,
        partial: str | os.PathLike[str] | None = None,
    ) -> None:
        if metadata is not None and not isinstance(metadata, Mapping):
            raise ArgumentError(f"metadata: expected a mapping, got {type(metadata).__name__}")
        codec = codec if isinstance(codec, Codec) else Codec.parse(codec)
        other = {"writer": PACKAGE}
        self._description = Description(num_classes, codec, crops, dict(metadata or {}), other, sampler, image_checksums, padding)
        self._layout = self._description.layout
        self._preparer = Preparer(self._description)
        packed = self._description.pack()
        header = Header(len(packed), zlib.crc32(packed), incompatible_features=self._description.incompatible_features)
        self._metadata_crc32 = header.metadata_crc32
        self._pending = PendingBlock()
        self._ended: str | None = None
        self._lock = threading.RLock()
        beginning = Beginning(header, self._description, header.pack() + packed)
        if isinstance(path, Writable) and not isinstance(path, os.PathLike):
            self._write_to_stream(path, beginning, resume or overwrite or partial is not None)
        else:
            self._write_to_file(path_to_write(path), beginning, resume, overwrite, None if partial is None else Path(partial))

    def _write_to_stream(self, stream: Writable, beginning: Beginning, to_continue: bool) -> None:
        if to_continue:
            raise ArgumentError("resume, overwrite, partial: are for paths; what a file object was given cannot be continued or replaced")
        self._file: PartialFile | OutputStream = OutputStream(stream)
        self._assembly, self.path = Assembly(self._file), self._file.path
        self._assembly.begin(beginning.data)

    def _write_to_file(self, path: Path, beginning: Beginning, resume: bool, overwrite: bool, partial: Path | None) -> None:
        unfinished = "resume" if resume else "discard" if overwrite else "refuse"
        file = self._file = PartialFile(path, unfinished=unfinished, overwrite=overwrite, partial=partial)
        self._assembly, self.path = Assembly(file), path
        try:
            self._assembly.begin_or_continue(file, beginning, discard_others=overwrite)
        except BaseException:
            file.close()
            raise

    @property
    def partial(self) -> Path:
        """The unfinished file, which is there until the writer finishes; StateError if it writes to a file object."""
        if isinstance(self._file, OutputStream):
            raise StateError(f"{self.path}: a file object has no unfinished file")
        return self._file.partial

    @property
    def keys(self) -> list[str]:
        """Keys of the images added so far, in order, including those of a resumed file."""
        return list(self.image_crc32s)

    @property
    def image_crc32s(self) -> dict[str, int | None]:
        """Key of each image added so far, in order, and the CRC-32 of its file; None if these are not stored."""
        with self._lock:
            return {**self._assembly.image_crc32s, **{key: image.crc32 for key, image in self._pending.images.items()}}

    @property
    def num_stored(self) -> int:
        """Number of images in whole blocks of the file so far: those that are kept if the writer is interrupted now."""
        return len(self._assembly.image_crc32s)

    def __len__(self) -> int:
        """Return the number of images added so far."""
        return len(self._assembly.image_crc32s) + len(self._pending.images)

    def add(
        self,
        key: str,
        *,
        crops: ArrayLike | None = None,
        flips: ArrayLike | None = None,
        image_size: tuple[int, int] | None = None,
        probs: ArrayLike | None = None,
        indices: ArrayLike | None = None,
        values: ArrayLike | None = None,
        others: ArrayLike | None = None,
        left_out: ArrayLike | None = None,
        vectors: ArrayLike | None = None,
        image_crc32: int | None = None,
    ) -> None:
        """Add the crops of one image. Arrays are copied, so the caller may reuse them. Several threads may call this.

        Parameters
        ----------
        key : str
            Name of the image, unique in the file; usually its path inside the image folder, with `/`.
        crops : int (M, 4)
            top, left, height, width of each crop in pixels of the stored image, with its padding; or float fractions of it, if the file
            stores those.
        flips : bool (M,)
            Whether each crop is mirrored left to right. Crops and flips may be left out if they are derived; if given, they must be
            those of the sampler.
        image_size : (int, int)
            Height and width of the stored image in pixels, without padding. Optional only where crops are fractions.
        probs : float (M, C)
            The teacher's probabilities; or else
        indices, values : integer (M, K), float (M, K)
            its K most probable classes, in any order, and their probabilities; and if they are known, with
        others : float (M,)
            the probability of all other classes together, without which remainders below 1e-7 are lost to rounding; with
        left_out : float (C,)
            the sum, for each class, of its probability over the crops that do not keep it, if the codec has a tail (but for `mean=log`,
            which needs `probs`); or else
        vectors : float (M, C)
            the numbers to store with a `dense` codec whose content is not `probs`.
        image_crc32 : int
            CRC-32 of the bytes of the image's file, as `zlib.crc32` gives it; if, and only if, the writer stores `image_checksums`.

        Raises
        ------
        ArgumentError
            If anything is invalid. The image is not added, and the writer can continue.
        LimitError
            If the image exceeds the limits of the format; as for ArgumentError.
        OSError
            If the disk is full or fails. What was written before stays recoverable.
        StateError
            If the writer is finished or closed, or failed before.
        """
        self._check_open()
        labels = {"probs": probs, "indices": indices, "values": values, "others": others, "left_out": left_out, "vectors": vectors}
        try:
            given = {name: value for name, value in labels.items() if value is not None}
            image = self._preparer.image(GivenImage(key, image_size, crops, flips, given, image_crc32))
            with self._lock:
                self._check_open()
                self._add(image)
        except (ArgumentError, LimitError) as error:
            raise type(error)(f"image {key!r}: {error}") from None

    def add_stored(self, image: PendingImage) -> None:
        """Add an image as `stored_image` reads it from another file with the same codec, number of classes and kind of crops."""
        with self._lock:
            self._check_open()
            self._add(image)

    def add_packed(self, block: PackedBlock) -> None:
        """Add a block that `pack_blocks` made, for this writer's description, of images that none of its keys has been added of."""
        with self._lock:
            self._check_open()
            for key in block.keys:
                self._check_new(key)
            if self._pending.images:
                self._guarded(self._write_block)
            self._guarded(
                lambda: self._assembly.add_payload(block.payload, self._metadata_crc32, block.keys, block.num_crops, block.crc32s)
            )

    @property
    def description(self) -> Description:
        """What the file says of its labels."""
        return self._description

    def _add(self, image: PendingImage) -> None:
        """Put an image into the block that is being filled, which is written when it is full."""
        self._check_new(image.key)
        if not self._pending.has_room(image):
            self._guarded(self._write_block)
        self._pending.add(image, self._layout.quantiser.expected_bytes(image.codes))
        if is_full(self._pending):
            self._guarded(self._write_block)

    def finish(self, *, skipped_keys: Sequence[str] = ()) -> None:
        """Write the rest, sync the file to disk and rename it to its final name; or flush the file object.

        Parameters
        ----------
        skipped_keys : sequence of str
            Images that could not be labelled; the file lists them.
        """
        skipped = check_skipped_keys(skipped_keys)
        with self._lock:
            self._check_open()
            if self._pending.images:
                self._guarded(self._write_block)
            self._guarded(lambda: self._assembly.finish(skipped))
            self._ended = "finished"

    def close(self) -> None:
        """Stop without finishing; `PATH.partial` stays, a file object stays open. Does nothing after `finish`."""
        with self._lock:
            if self._ended is None:
                self._ended = "closed"
            self._file.close()

    def __enter__(self) -> SoftLabelWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self._ended is None:
            self.finish()
        self.close()

    def _check_new(self, key: str) -> None:
        if key in self._assembly.image_crc32s or key in self._pending.images:
            raise ArgumentError("key: an image with this key was added before")
        if len(self) >= MAX_IMAGES:
            raise LimitError(f"expected at most {MAX_IMAGES} images")

    def _check_open(self) -> None:
        if self._ended is not None:
            raise StateError(f"{self.path}: the writer is {self._ended}")

    def _guarded(self, action: Callable[[], None]) -> None:
        """Run an action that writes; if it fails, mark the writer as failed."""
        try:
            action()
        except BaseException:
            self._ended = f"failed. {self._file.what_is_left()}"
            self._file.close()
            raise

    def _write_block(self) -> None:
        self._assembly.add_images(self._pending.gather(self._layout), self._layout, self._metadata_crc32)
        self._pending = PendingBlock()


class PackedBlock(NamedTuple):
    """A block of images, compressed: what `SoftLabelWriter.add_packed` takes."""

    payload: bytes
    keys: list[str]
    num_crops: list[int]
    crc32s: list[int] | None


def pack_blocks(images: Iterable[PendingImage], layout: Layout) -> Iterator[PackedBlock]:
    """Yield images in blocks, as a writer makes them of images that are added one by one; the last may not be full."""
    pending = PendingBlock()
    for image in images:
        if not pending.has_room(image):
            yield _packed(pending, layout)
            pending = PendingBlock()
        pending.add(image, layout.quantiser.expected_bytes(image.codes))
        if is_full(pending):
            yield _packed(pending, layout)
            pending = PendingBlock()
    if pending.images:
        yield _packed(pending, layout)


def _packed(block: PendingBlock, layout: Layout) -> PackedBlock:
    images = block.gather(layout)
    crc32s = None if images.image_crc32s is None else images.image_crc32s.tolist()
    return PackedBlock(pack_payload(images, layout), images.keys, images.num_crops.tolist(), crc32s)


def is_full(block: PendingBlock) -> bool:
    """Return whether a block is large enough to be written."""
    return block.num_bytes >= TARGET_BYTES_PER_BLOCK or len(block.images) == MAX_IMAGES_PER_BLOCK
