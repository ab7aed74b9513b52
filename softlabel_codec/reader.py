"""`SoftLabelReader`: random access to the labels of a container file, or of a label set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softlabel_codec.checks.arguments import check_boxes, check_flips_of
from softlabel_codec.container.crop_reader import CropReader
from softlabel_codec.container.lookup import Lookup
from softlabel_codec.container.matching import KeyFinder
from softlabel_codec.container.msgpack_maps import Plain
from softlabel_codec.crops.due import due_crops, next_crops
from softlabel_codec.errors import ArgumentError, FormatError, MismatchError, StateError
from softlabel_codec.label_set.opening import open_labels
from softlabel_codec.labels import BatchLabels, ImageLabels
from softlabel_codec.quantise.neighbours import NEIGHBOURS
from softlabel_codec.quantise.temperature import power_at, stored_temperature
from softlabel_codec.sampler import CropSampler
from softlabel_codec.storage.cache import Cache
from softlabel_codec.storage.location import Location, is_remote

ON_CORRUPT = ("raise", "skip")
UNKNOWN_CROPS = "unknown_crops"
"""Metadata of imported labels that belong to crops which nobody knows: why that is so."""


class SoftLabelReader:
    """Random access to the labels of a container file, or of a label set: labels in several files, numbered through.

    Threads and forked processes may share a reader. A reader pickles as its path and opens it again when unpickled, so it works in
    DataLoader workers of every start method. Shards of a set are opened, and checked, when they are first needed; those that were used
    last stay open.

    Parameters
    ----------
    path : path or URL
        The file; the folder of a set, or its index (`NAME.slc.index.json`). See `softlabel_codec.storage` for URLs.
    policy : str, optional
        Read sparse labels with this remainder policy (`uniform`, `renorm`, `bucket`, or `tail` if there are tails) instead of the codec's
        own. With `neighbours`, the remainder of a crop goes to classes that overlapping crops of the image keep and it does not: a guess
        that is nearer to the teacher than an even one, for labels without tails; all crops of an image are read for it.
    temperature : float, optional
        Return the labels at this T of softmax(logits / T), made of those at the temperature at which they are stored (its power T0 / T,
        normalised). Kept classes keep their ratios, the remainder becomes what its tail says. Refused where the labels do not know enough
        for that: where a remainder without a tail is spread evenly or dropped, and in `hard`, `features`, and where 16-bit floats have
        rounded small probabilities away.
    on_corrupt : str
        What to do with an image in a damaged block: `raise` an error, or `skip` it: iteration and `read_batch` leave it out, and
        `damaged_images` lists it. A damaged index is always an error, because it affects all images.
    cache : path or bool
        A folder that keeps whole files of labels behind a URL, those of a set when they are first needed. Each is fetched once for all
        processes of the machine, and checked by its SHA-256. True means the folder `SOFTLABEL_CACHE` of the environment, or else
        `~/.cache/softlabel_codec`. Its size is limited: see docs/share.md.

    Attributes
    ----------
    num_classes : int
        C.
    codec : str
        Codec string, canonical.
    parsed_codec : Codec
        What it says.
    crops : str
        How crops are stored: `pixels`, `derived`, `fractions:f32` or `fractions:f16`.
    image_checksums : bool
        Whether the file stores the CRC-32 of each image's file: see `ImageLabels.image_crc32`.
    sampler : CropSampler, AllViews or None
        The sampler of crops that are `derived`.
    any_crop : bool
        Whether there is a crop of every number below 2^32, with its label: crops are derived, and labels are fields. `num_crops` are then
        those that the teacher saw.
    padding : Padding
        How images are enlarged before crops are cut out of them; `padding.pixels` is 0 if they are not. Crops count from the upper left
        corner of the padded image, image sizes are those without padding.
    metadata : dict
        The caller's metadata, as passed to the writer.
    summary : dict
        Information added at the end: `skipped_keys` if there are any, which opens all shards of a set; of a file also `keys_sha256`.
    temperature : float
        T of softmax(logits / T) of the labels as they are read: what was asked for, or else `stored_temperature`, or else 1.
    stored_temperature : float or None
        T of the stored labels, from the metadata; 1 for logits, which are stored as they are; None if it is not known.
    approximated : bool
        Whether these temperatures differ, and what the labels say of classes that are not kept is only what their tail says.
    num_crops : int64 (len(reader),)
        Number of crops of each image. All shards of a set are opened for it if images have different numbers.
    keys : sequence of str
        Keys of all images in order, which reads them a page at a time.
    damaged_images : list of int
        Numbers of the images that were left out so far because their block is damaged, ascending; empty unless `on_corrupt` is `skip`.
    path : Path
        The file, or the index of the set.
    container : OpenContainer or OpenSet
        The open file or set with its parts, for reports and tools.

    Raises
    ------
    FormatError
        One of its subclasses, if the file is not a sound, finished container, or a set has no sound index.
    OSError
        If the file cannot be opened or read; on reading, if a shard is not there or cannot be read.
    MismatchError
        On reading, if a shard is not the one that belongs to the set.
    ArgumentError
        If a folder holds several sets; if the policy does not fit the labels; if they cannot be read at the temperature: the message says
        what is lost, and which codec keeps it.

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

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        policy: str | None = None,
        temperature: float | None = None,
        on_corrupt: str = "raise",
        cache: str | os.PathLike[str] | bool = False,
    ) -> None:
        if on_corrupt not in ON_CORRUPT:
            raise ArgumentError(f"on_corrupt: expected one of {', '.join(ON_CORRUPT)}, got {on_corrupt!r}")
        self._skips_damage = on_corrupt == "skip"
        self._damaged: set[int] = set()
        self._cache = Cache.of(cache) if is_remote(path) else None
        stored = self.container = open_labels(path, self._cache)
        self.path, description = stored.path, stored.description
        self._absolute_path = self.path.absolute()
        self._asked_policy, self._asked_temperature = policy, temperature
        try:
            if policy == NEIGHBOURS:
                _check_crops_known(description.metadata, self.path)
            about = description.codec, description.num_classes, description.metadata, self.path
            self._crops = CropReader(stored, policy, 1.0 if temperature is None else power_at(temperature, *about))
        except BaseException:
            stored.close()
            raise
        self._lookup, self._finder = Lookup(stored), KeyFinder(stored.keys, self.path)
        self.num_classes, self.parsed_codec, self.crops = description.num_classes, description.codec, description.crops
        self.codec = str(description.codec)
        self.sampler, self.image_checksums, self.padding = description.sampler, description.image_checksums, description.padding
        self.metadata: Plain = description.metadata
        self.any_crop = stored.layout.any_crop
        self.keys, self._num_crops = stored.keys, stored.num_crops

    def __len__(self) -> int:
        """Return the number of images."""
        return self.container.num_images

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
    def num_crops(self) -> NDArray[np.int64]:
        return np.asarray(self._num_crops)

    @property
    def stored_temperature(self) -> float | None:
        return stored_temperature(self.parsed_codec, self.metadata, self.path)

    @property
    def temperature(self) -> float:
        return float(self._asked_temperature or self.stored_temperature or 1.0)

    @property
    def approximated(self) -> bool:
        return self.parsed_codec.family != "dense" and self.temperature != (self.stored_temperature or 1.0)

    @property
    def summary(self) -> Plain:
        return self.container.summary

    @property
    def damaged_images(self) -> list[int]:
        return sorted(self._damaged)

    @property
    def fingerprint(self) -> str:
        """64 hex digits that differ if anything in the file differs: the SHA-256 of its trailer, which contains the SHA-256 of the rest.

        Of a set: the SHA-256 of those of its shards.
        """
        return self.container.fingerprint

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
        number = self._lookup.image(image)
        return self._crops.read(number, None if crops is None else self._lookup.crops(crops, number))

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
        numbers = self._lookup.images(images)
        if not len(numbers):
            raise ArgumentError("read_batch: expected at least one image")
        return self._read_chosen(numbers, None if crops is None else self._lookup.batch_crops(crops, numbers))

    def find(self, keys: Iterable[str], match: str | Callable[[str], str] = "exact", missing: int | None = None) -> NDArray[np.int64]:
        """Return the numbers of the images with these keys, int64 (B,), for `draw` and `read_batch`.

        Parameters
        ----------
        keys : iterable of str
            B keys, as another program has them.
        match : str or callable
            When a key fits a stored one. `exact`: if they are equal. `stem`: if they are equal without the file's ending, or with the file
            name cut at its first dot, as WebDataset does. `basename`: if their last path components are equal, or fit like stems where
            none is equal. A function is applied to stored keys and to those asked for, and what it returns must be equal; pass the same
            function each time, because all stored keys are read for a new one.
        missing : int, optional
            A negative number to return for unknown keys, instead of raising KeyError.

        Raises
        ------
        KeyError
            If a key fits no image. The message has the nearest stored keys, and the `match` that all keys fit, if there is one.
        MismatchError
            If a key fits two images.
        ArgumentError
            If an argument is not as described.
        """
        return self._finder.find(keys, match, missing)

    def draw(
        self,
        rows: ArrayLike,
        crops_per_image: int = 4,
        seed: int = 0,
        epoch: ArrayLike = 0,
        *,
        stored_crops: int | None = None,
        sampler: CropSampler | None = None,
    ) -> BatchLabels:
        """Return crops, flips and labels that are due of some images: those that `SoftLabelDataset` draws with the same arguments.

        An image's crops depend on its number, the seed and the epoch only. All are used before any is used again; where there is a crop of
        every number (`any_crop`), none is.

        Parameters
        ----------
        rows : int (B,)
            Numbers of images, as `find` returns them.
        crops_per_image : int
            How many of each.
        seed : int
            Decides the order in which crops are drawn.
        epoch : int, or int (B,)
            The epoch, or how often each image was drawn before.
        stored_crops : int, optional
            Draw from the first so many crops of each image only.
        sampler : CropSampler, optional
            Draw crops of this sampler, which never end, instead of those of the file. For files of label fields only.

        Raises
        ------
        ArgumentError
            If an image has too few crops, or an argument is not as described.
        MismatchError
            If it is not known which crops the labels belong to.
        IndexError, CorruptError
            As for `read_batch`.
        """
        self.check_crops_known()
        numbers = self._lookup.rows(rows)
        if sampler is not None:
            self.check_sampler(sampler, stored_crops)
            drawn = next_crops(len(numbers), crops_per_image, seed, epoch)
            return self._read_sound(numbers, lambda which: self._crops.labels_from(sampler, numbers[which], drawn[which]))
        return self._read_chosen(
            numbers,
            due_crops(numbers, self._num_crops[numbers], crops_per_image, seed, epoch, stored_crops, self.path, any_crop=self.any_crop),
        )

    def labels_at(
        self, images: Sequence[int | str] | NDArray[np.integer[Any]], crops: ArrayLike, flips: ArrayLike | None = None
    ) -> BatchLabels:
        """Return the labels of any crops of several images: label fields (`codec="field"`) know that of every crop.

        With `on_corrupt="skip"` as for `read_batch`.

        Parameters
        ----------
        images : sequence of int or str
            Numbers or keys of B images, in any order, at least one.
        crops : int or float (B, N, 4)
            top, left, height, width of N crops of each image: integers in pixels of the image with its padding, or else fractions of its
            height and width.
        flips : bool (B, N), optional
            Whether each crop is mirrored, by default none. It does not change the label.

        Raises
        ------
        ArgumentError
            If the file holds labels of certain crops only, a crop is not inside of its image, or an argument is not as described.
        KeyError, IndexError, CorruptError
            As for `read_batch`.

        Examples
        --------
        >>> import numpy as np, tempfile, pathlib
        >>> from softlabel_codec import SoftLabelWriter
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "labels.slc"
        >>> with SoftLabelWriter(path, num_classes=4, codec="field") as writer:
        ...     writer.add("a.jpg", image_size=(60, 80), crops=[[0, 0, 60, 40], [0, 40, 60, 40]], flips=[False, False],
        ...                probs=np.float32([[0.1, 0.7, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1]]))
        >>> with SoftLabelReader(path) as reader:
        ...     reader.labels_at(["a.jpg"], [[[0, 0, 60, 40], [0, 40, 60, 40]]]).labels.top1.tolist()
        [1, 0]
        """
        self.check_any_crop("labels_at")
        numbers = self._lookup.images(images)
        boxes = check_boxes(crops, len(numbers))
        mirrored = np.zeros(boxes.shape[:2], np.bool_) if flips is None else check_flips_of(flips, boxes.shape[:2])
        return self._read_sound(numbers, lambda which: self._crops.labels_at(numbers[which], boxes[which], mirrored[which]))

    def _read_chosen(self, numbers: NDArray[np.int64], chosen: NDArray[np.int64] | None) -> BatchLabels:
        if len(numbers) == 1 and not self._skips_damage:
            return self._crops.read_one(int(numbers[0]), None if chosen is None else chosen[0].tolist())
        return self._read_sound(numbers, lambda which: self._crops.read_batch(numbers[which], None if chosen is None else chosen[which]))

    def _read_sound(self, numbers: NDArray[np.int64], read: Callable[[Any], BatchLabels]) -> BatchLabels:
        """Return what `read` gives of those of some images (B,) that can be read, chosen by a slice or a mask; note the others."""
        try:
            return read(slice(None))
        except FormatError:
            if not self._skips_damage:
                raise
            sound = np.array([self._is_sound(number, place, read) for place, number in enumerate(numbers.tolist())], np.bool_)
            if not sound.any():
                raise
        return read(sound)

    def _is_sound(self, number: int, place: int, read: Callable[[Any], BatchLabels]) -> bool:
        try:
            read(slice(place, place + 1))
        except FormatError:
            self._damaged.add(number)
            return False
        return True

    def fields(self, images: Sequence[int | str] | NDArray[np.integer[Any]]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the label fields of several images, for programs that compute labels themselves (spec/field-v1.md, sections 3 and 4).

        Parameters
        ----------
        images : sequence of int or str
            Numbers or keys of B images, in any order, at least one.

        Returns
        -------
        classes : int32 (B, N)
            Listed classes of each image, padded with -1.
        weights : float32 (B, 8, N)
            Level and slopes of each, in nats: the logit of a class is their sum of products with the features of a crop, 1 first.

        Raises
        ------
        ArgumentError
            If the file holds labels of certain crops only.
        KeyError, IndexError, CorruptError
            As for `read_batch`.
        """
        self.check_any_crop("fields")
        return self._crops.fields(self._lookup.images(images))

    def field_kl(self, images: Sequence[int | str] | NDArray[np.integer[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return how far the label fields of several images are from the teacher's labels, as the writer measured it.

        Parameters
        ----------
        images : sequence of int or str
            Numbers or keys of B images, in any order, at least one.

        Returns
        -------
        fitted, unseen : float64 (B,)
            Mean KL(teacher || field) in nats, to about 5 %: on the crops that the field was made from, and on others, which is measured for
            one image in eight. NaN where it was not measured.

        Raises
        ------
        ArgumentError
            If the file holds labels of certain crops only.
        KeyError, IndexError, CorruptError
            As for `read_batch`.
        """
        self.check_any_crop("field_kl")
        return self._crops.field_kl(self._lookup.images(images))

    def check_sampler(self, sampler: CropSampler, stored_crops: int | None) -> None:
        """Raise ArgumentError unless crops of this sampler can be drawn, also if only so many stored crops are to be used."""
        if not isinstance(sampler, CropSampler):
            raise ArgumentError(f"sampler: expected a CropSampler, whose crops never end, got {sampler!r}")
        if stored_crops is not None:
            raise ArgumentError("stored_crops: is for the crops of the file, not for those of a sampler")
        self.check_any_crop("sampler")

    def check_any_crop(self, wanted: str) -> None:
        """Raise ArgumentError unless the labels of all crops are known; `wanted` is what needs them."""
        if not self.container.layout.family.of_places:
            what = f"{wanted}: expected label fields, which know the labels of all crops (codec='field')"
            raise ArgumentError(f"{self.path}: {what}; {self.codec!r} holds those of certain crops")

    def check_crops_known(self) -> None:
        """Raise MismatchError if it is not known which crops the labels belong to, so that no student can be trained from them."""
        _check_crops_known(self.metadata, self.path)

    def check_classes(self, num_classes: int) -> None:
        """Raise MismatchError unless the labels are of that many classes."""
        if num_classes != self.num_classes:
            raise MismatchError(f"{self.path}: expected labels of {num_classes} classes, got {self.num_classes}")

    def close(self) -> None:
        """Close all files. Closing twice is allowed."""
        self.container.close()

    def __enter__(self) -> SoftLabelReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SoftLabelReader({str(self.path)!r}: {len(self)} images, {self.container.total_crops} crops, {self.codec})"

    def __reduce__(self) -> tuple[Any, ...]:
        on_corrupt = "skip" if self._skips_damage else "raise"
        cache = False if self._cache is None else os.fspath(self._cache.folder)
        return _reopen, (os.fspath(self._absolute_path), self._asked_policy, self._asked_temperature, on_corrupt, cache, self.fingerprint)


def _check_crops_known(metadata: Mapping[str, Any], path: Location) -> None:
    if UNKNOWN_CROPS in metadata:
        why = f"it is not known which crops these labels belong to: {metadata[UNKNOWN_CROPS]}"
        raise MismatchError(f"{path}: {why}. They can be looked at (read, stats, copy), but not trained from")


def _reopen(
    path: str, policy: str | None, temperature: float | None, on_corrupt: str, cache: str | bool, fingerprint: str
) -> SoftLabelReader:
    reader = SoftLabelReader(path, policy=policy, temperature=temperature, on_corrupt=on_corrupt, cache=cache)
    if reader.fingerprint != fingerprint:
        raise StateError(f"{reader.path}: the file was replaced after the reader was created")
    return reader
