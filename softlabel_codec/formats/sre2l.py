"""Labels in batches, as SRe2L stores them (Yin et al., NeurIPS 2023), and after it CDA, LPLD and LPQLD: import only.

A batch is a list in a `torch.save` file `batch_B.tar`:

=============================  =====================================================================================================
coords (B, 4)                  float32, LPQLD float16: top, left, height, width of the crops as fractions of their images
flips (B,)                     bool; or, for ImageNet-21k, what is erased of each crop, float (B, 7)
RandAugment                    only if LPQLD uses it: a list, which is not read
mix index (B,), lambda, box    which crop of the batch is mixed in, its share, and where; None without mixing, no box for MixUp
logits (B, C) or (B, K)        float16 or float32: of all classes, or of LPQLD's K largest, with
classes (B, K)                 int16
=============================  =====================================================================================================

SRe2L and LPLD have a folder `epoch_E` for each epoch. Which image a row belongs to is nowhere in SRe2L's files: they follow torch's
RandomSampler with a seed. LPLD says it in `sampler_indices_epoch.json`, LPQLD, which has no folders of epochs, in
`sampler_indices_batch.json`. All count images as torchvision's ImageFolder does. RDED's published code stores no labels.

A mixed crop shows two images, and its label is that of the mixture: no list of boxes says that, so such labels are imported to be looked
at. Without mixing, RandAugment and erasing, they are labels of crops like any others. LPQLD trains with the softmax of its K logits at a
temperature, which `marginal_renorm` stores.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import RandomSampler

from softlabel_codec.checks.limits import MAX_KEPT_CLASSES
from softlabel_codec.checks.wording import counted
from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, CorruptError, MismatchError
from softlabel_codec.formats.image_folders import image_folder_keys, share_in_own_folder
from softlabel_codec.formats.importing import NO_CROPS, Entry, Found, SourceImage
from softlabel_codec.formats.labels import INDICES, LOGITS, VALUES, Kind, checked, softmax
from softlabel_codec.formats.sre2l_batches import Batch, Layout, read_batch

SEED = 42
"""Of the sampler; the default of all these projects."""
OF_EPOCHS, OF_BATCHES = "sampler_indices_epoch.json", "sampler_indices_batch.json"
_EPOCH, _BATCH = re.compile(r"epoch_(\d{1,9})"), re.compile(r"batch_(\d{1,9})\.tar")
_OPEN_FILES = 2**15


class _Form(NamedTuple):
    """What is made of the batches of a source."""

    layout: Layout
    kind: Kind
    crops: bool
    temperature: float


@dataclass(frozen=True)
class Sre2lSource:
    """Stored labels of SRe2L or LPLD, or of LPQLD.

    Attributes
    ----------
    folder : Path
        Where the folders of epochs, or the batches, are.
    images : path
        The images that were labelled, in folders of their classes.
    num_classes : int or None
        C, if the caller says it; needed for the largest logits only.
    seed : int
        Of the sampler, if no file says which image is where.
    temperature : float
        T of softmax(logits / T) of the largest logits.
    """

    folder: Path
    images: Any
    num_classes: int | None = None
    seed: int = SEED
    temperature: float = 1.0

    @cached_property
    def found(self) -> Found:
        """What the files hold.

        Raises
        ------
        ArgumentError
            If there are no such files, or the number of classes is not known.
        MismatchError
            If epochs or batches are missing, or the images are others.
        CorruptError
            If the first or last batch is damaged.
        """
        first, numbers = self._first, np.diff(self._starts)
        share = self._share_of_agreement()
        provenance: dict[str, Any] = {
            "epochs": len({epoch for epoch, _ in self._batches}),
            "batches": len(self._batches),
            "batch_size": self._size,
            "mix": first.layout.mix,
        }
        if self._listed is None:
            provenance["sampler_seed"] = self.seed
        if share is not None:
            provenance["largest_class_is_the_folders"] = round(share, 3)
        return Found(
            format="SRe2L",
            kind=self._kind,
            num_images=int((numbers > 0).sum()),
            num_crops=int(numbers.sum()),
            crops=NO_CROPS if self._why_no_crops else f"fractions:f{first.crops.dtype.itemsize * 8}",
            source_bytes=sum(path.stat().st_size for path in self._batches.values()),
            provenance=provenance,
            metadata={"temperature": self.temperature} if first.layout.top_k else {},
            lost=tuple(self._lost(int((numbers == 0).sum()))),
            why_no_crops=self._why_no_crops,
        )

    def entries(self) -> Iterator[Entry]:
        """Yield all images that have labels, in the order of the image folder."""
        paths, sizes = list(self._batches.values()), (self._owners >= 0).sum(axis=1).tolist()
        opened = _OpenBatches(_Form(self._first.layout, self._kind, not self._why_no_crops, self.temperature), uuid4().hex)
        for number, key in enumerate(self._keys):
            places = self._places[self._starts[number] : self._starts[number + 1]]
            if len(places):
                batches, numbers = (part.tolist() for part in divmod(places, self._size))
                rows = [(paths[batch], sizes[batch], row) for batch, row in zip(batches, numbers, strict=True)]
                yield Entry(key, f"{self.folder}: {key}", partial(_image, opened, rows))

    @cached_property
    def _batches(self) -> dict[tuple[int, int], Path]:
        """The files of all batches, by epoch and number, in the order in which they were written."""
        folders = {int(name[1]): path for path in self.folder.iterdir() if (name := _EPOCH.fullmatch(path.name)) and path.is_dir()}
        if not folders and (self.folder / "batch_0.tar").is_file() and not self._is_flat:
            what = f"batches without folders of epochs are LPQLD's, whose {OF_BATCHES} says what images they are of"
            raise MismatchError(f"{self.folder}: {what}: expected it beside them")
        epochs = {0: self.folder} if self._is_flat else dict(sorted(folders.items()))
        found = {(epoch, number): path for epoch, folder in epochs.items() for number, path in _batches_in(folder).items()}
        if not found:
            raise ArgumentError(f"{self.folder}: expected batches of labels, epoch_0/batch_0.tar or batch_0.tar, found none")
        return found

    @property
    def _is_flat(self) -> bool:
        return (self.folder / OF_BATCHES).is_file()

    @cached_property
    def _listed(self) -> dict[int, list[int]] | None:
        """What images LPLD and LPQLD say that the rows are of: by epoch or by batch. None if there is no such file."""
        path = self.folder / (OF_BATCHES if self._is_flat else OF_EPOCHS)
        return _read_numbers(path) if path.is_file() else None

    @cached_property
    def _first(self) -> Batch:
        return read_batch(next(iter(self._batches.values())), None, self.num_classes)

    @cached_property
    def _keys(self) -> list[str]:
        return image_folder_keys(self.images)

    @cached_property
    def _size(self) -> int:
        """The number of crops in a batch, of which the last one of an epoch may have fewer."""
        if self._is_flat and self._listed:
            return max(1, *map(len, self._listed.values()))
        return len(self._first.crops)

    def _check_complete(self) -> None:
        """Raise MismatchError if batches are missing, or there are more than the images have."""
        images, found = f"{counted(len(self._keys), 'image')} of {self.images}", Counter(epoch for epoch, _ in self._batches)
        if self._listed is None:
            wanted = dict.fromkeys(range(len(found)), math.ceil(len(self._keys) / self._size))
        elif self._is_flat:
            images, wanted = f"what {OF_BATCHES} lists", {0: len(self._listed)}
        else:
            images = f"what {OF_EPOCHS} lists"
            wanted = {epoch: math.ceil(len(numbers) / self._size) for epoch, numbers in self._listed.items() if numbers}
        for epoch in sorted({*wanted, *found}):  # of epochs without a list, one that is missing comes first
            number, folder = wanted.get(epoch, 0), self.folder if self._is_flat else self.folder / f"epoch_{epoch}"
            missing = [name for name in range(number) if (epoch, name) not in self._batches]
            if missing or found[epoch] != number:
                got = f"{found[epoch]}; batch_{missing[0]}.tar is not there" if missing else str(found[epoch])
                raise MismatchError(f"{folder}: expected {counted(number, 'batch', 'batches')} of {self._size} for {images}, got {got}")

    @cached_property
    def _owners(self) -> NDArray[np.int32]:
        """The number of the image that each row of each batch is of; batches are filled up to the same size with -1."""
        self._check_complete()
        size, num_images, listed = self._size, len(self._keys), self._listed
        owners = np.full((len(self._batches), size), -1, np.int32)
        epochs = _sampled(num_images, self.seed)
        numbers: Sequence[int] = ()
        for row, (epoch, number) in enumerate(self._batches):
            if listed is None and number == 0:
                numbers = next(epochs)
            elif listed is not None:
                numbers = listed.get(number if self._is_flat else epoch, ())
            part = numbers if self._is_flat else numbers[number * size : (number + 1) * size]
            owners[row, : len(part)] = part
        if owners.max() >= num_images:
            named = f"{self.folder} names image {owners.max()}"
            raise MismatchError(f"{self.images}: expected the images that were labelled, got {num_images}, but {named}")
        return owners

    @cached_property
    def _order(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        owners = self._owners.reshape(-1)
        places = np.argsort(owners, kind="stable")
        starts = np.searchsorted(owners[places], np.arange(len(self._keys) + 1))
        return places, starts

    @property
    def _places(self) -> NDArray[np.int64]:
        """Where the crops of the images are, image after image: number of the batch times its size, plus the row."""
        return self._order[0]

    @property
    def _starts(self) -> NDArray[np.int64]:
        """Where the places of each image start; one more at the end."""
        return self._order[1]

    @cached_property
    def _kind(self) -> Kind:
        layout = self._first.layout
        if not layout.top_k:
            if self.temperature != 1:
                raise ArgumentError("temperature: is for the largest logits only; labels of all classes are read at any temperature")
            return Kind(LOGITS, layout.width, None, 2 if layout.logit_type == "float16" else 4)
        if self.num_classes is None:
            raise ArgumentError(f"{self.folder}: num_classes: files with the largest logits do not say it: pass it (--num-classes)")
        if not 1 <= layout.width <= min(MAX_KEPT_CLASSES, self.num_classes):
            raise MismatchError(f"{self.folder}: expected 1 to {self.num_classes} classes of each crop, got {layout.width}")
        return Kind(INDICES, self.num_classes, layout.width, 4, Codec("marginal_renorm", k=layout.width, values="f32"))

    @cached_property
    def _why_no_crops(self) -> str:
        layout, reasons = self._first.layout, []
        if layout.mix != "none":
            reasons.append(f"each crop is mixed with another one of its batch ({layout.mix}), and its label is that of the mixture")
        if layout.rand_augment:
            reasons.append("RandAugment changed the images before they were cropped")
        if layout.erases:
            reasons.append("a part of each crop was erased")
        return f"{'; '.join(reasons)}. The same pixels need the project's own code and files" if reasons else ""

    def _lost(self, num_without: int) -> Iterator[str]:
        layout = self._first.layout
        if layout.mix != "none":
            known = ". Their numbers, uint8, wrapped above 255: not even the files say it" if self._first.partners_wrapped else ""
            yield f"which crops were mixed, in what shares and where{known}"
        if layout.rand_augment or layout.erases:
            yield f"parameters of {'RandAugment' if layout.rand_augment else 'what was erased'}"
        if layout.top_k:
            yield f"the size of the logits: only differences among the {layout.width} of a crop count, and are kept"
        if num_without:
            yield f"{counted(num_without, 'image')} of {self.images} have no labels"

    def _share_of_agreement(self) -> float | None:
        """Return how often the largest logit is that of the image's folder, or of the image that has the larger share of a mixture.

        Of the first batch and the last full one, the smaller number; None if it says nothing. See `share_in_own_folder` for errors.
        """
        shares, paths = [], list(self._batches.values())
        full = np.flatnonzero((self._owners >= 0).all(axis=1))
        for number in sorted({0, int(full.max(initial=0))}):
            owners = self._owners[number][self._owners[number] >= 0]
            batch = _read_whole(paths[number], len(owners), self._first.layout, self._kind.num_classes)
            if batch.partners_wrapped:
                return None
            if batch.partners is not None and batch.own_share < 0.5:
                owners = owners[batch.partners]
            largest = batch.logits.argmax(axis=1)
            if batch.classes is not None:
                largest = np.take_along_axis(batch.classes, largest[:, None], axis=1)[:, 0]
            shares.append(share_in_own_folder(self._keys, owners, largest, self._kind.num_classes, paths[number]))
        return min((share for share in shares if share is not None), default=None)


class _OpenBatches:
    """Batches that are read once for all images of an import, and closed when nothing refers to it any more.

    Of an import in several processes, each has one, for which all images that come to it are unpickled. `run` tells imports apart.
    """

    def __init__(self, form: _Form, run: str) -> None:
        self.form, self._run = form, run
        self._batches: OrderedDict[Path, Batch] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_this_process, (self.form, self._run)

    def read(self, path: Path, num_crops: int) -> Batch:
        """Return a batch; errors as of `_read_whole`."""
        if path not in self._batches:
            if len(self._batches) == _OPEN_FILES:
                self._batches.popitem(last=False)
            self._batches[path] = _read_whole(path, num_crops, self.form.layout, self.form.kind.num_classes)
        self._batches.move_to_end(path)
        return self._batches[path]


@lru_cache(1)
def _of_this_process(form: _Form, run: str) -> _OpenBatches:
    return _OpenBatches(form, run)


def _image(opened: _OpenBatches, rows: Sequence[tuple[Path, int, int]]) -> SourceImage:
    """Return an image, given the file, its number of crops, and the row of each of its crops."""
    form, batches = opened.form, [(opened.read(path, num_crops), row) for path, num_crops, row in rows]
    logits = np.stack([batch.logits[row] for batch, row in batches])
    labels = {LOGITS: logits}
    if form.layout.top_k:
        classes = np.stack([batch.classes[row] for batch, row in batches if batch.classes is not None])
        labels = {INDICES: classes, VALUES: softmax(logits.astype(np.float32) / form.temperature)}
    labels = checked(labels, form.kind)
    if not form.crops:
        return SourceImage(labels)
    flips = np.array([batch.flips[row] for batch, row in batches if batch.flips is not None], np.bool_)
    return SourceImage(labels, np.stack([batch.crops[row] for batch, row in batches]), flips)


def _read_whole(path: Path, num_crops: int, layout: Layout, num_classes: int) -> Batch:
    batch = read_batch(path, layout, num_classes)
    if len(batch.crops) != num_crops:
        raise MismatchError(f"{path}: expected {counted(num_crops, 'crop')}, as there are images for it, got {len(batch.crops)}")
    return batch


def _sampled(num_images: int, seed: int) -> Iterator[list[int]]:
    """Yield the order of the images in each epoch."""
    sampler = RandomSampler(range(num_images), generator=torch.Generator().manual_seed(seed))
    while True:
        yield list(sampler)


def _batches_in(folder: Path) -> dict[int, Path]:
    found = {int(name[1]): path for path in folder.iterdir() if (name := _BATCH.fullmatch(path.name))}
    return dict(sorted(found.items()))


def _read_numbers(path: Path) -> dict[int, list[int]]:
    """Return the lists of image numbers in a file of LPLD or LPQLD."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        listed = {int(name): numbers for name, numbers in found.items()}
        good = all(isinstance(numbers, list) and all(type(number) is int for number in numbers) for numbers in listed.values())
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CorruptError(f"{path}: expected JSON with lists of image numbers: {error}") from None
    if not good or any(not 0 <= number < 2**31 for numbers in listed.values() for number in numbers):
        raise CorruptError(f"{path}: expected JSON with lists of image numbers, got something else")
    return listed
