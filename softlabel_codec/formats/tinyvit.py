"""Labels that TinyViT stores (Wu et al., ECCV 2022; `save_logits.py` and `data/augmentation/` of microsoft/Cream): import only.

A folder `logits_topK_epochE` for each epoch, in it a pair of files of each process: `rankN-keys.txt`, a key on each line, and
`rankN-values.bin`, for each key in the same order 4 + 4 K bytes: the seed of the augmentation (int32), the K most probable classes (int16)
and their probabilities (float16), the softmax of the teacher. K stands only in the folder's name. TinyViT spreads what is left to 1 evenly,
as `marginal_smoothing` does; where rounding makes it negative, so does TinyViT, and we take 0.

What the crops are is not stored: they follow from the seed, the size of the image and TinyViT's own code and configuration, which also
rotates, shears and recolours them (RandAugment), erases parts, and may mix two images. No list of boxes says that. So labels are imported
to be looked at and compared, and readers refuse to train from them. The seeds are not kept: to train, keep TinyViT's files and its code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.limits import MAX_KEPT_CLASSES, MAX_KEY_BYTES
from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import ArgumentError, CorruptError, MismatchError
from softlabel_codec.formats.importing import NO_CROPS, Entry, Found, SourceImage
from softlabel_codec.formats.labels import INDICES, VALUES, Kind

WHY_NO_CROPS = (
    "TinyViT stores the seed of its augmentation, not the crop. The same pixels need its own code and configuration, which also rotates, "
    "recolours, erases and may mix images"
)
_FOLDER = re.compile(r"logits_top(\d{1,5})_epoch(\d{1,9})")
_RANK = re.compile(r"rank(\d{1,9})-values\.bin")
_MOST_CLASSES = 2**15


class _Package(NamedTuple):
    """The labels of one process in one epoch."""

    values: Path
    keys: list[str]


class _Epoch(NamedTuple):
    """The labels of one epoch: its number, and where each key is, a package and a row."""

    number: int
    packages: list[_Package]
    places: dict[str, tuple[int, int]]


def holds_tinyvit(folder: Path) -> bool:
    """Return whether a folder is one of TinyViT's, or has such folders."""
    return any(_FOLDER.fullmatch(path.name) for path in (folder.resolve(), *folder.iterdir()) if path.is_dir())


@dataclass(frozen=True)
class TinyVitSource:
    """Stored labels of TinyViT, of one epoch or several.

    Attributes
    ----------
    folder : Path
        A folder `logits_topK_epochE`, or one that holds such folders. Each epoch is one crop of an image.
    num_classes : int
        C, which the files do not say.
    """

    folder: Path
    num_classes: int

    @cached_property
    def found(self) -> Found:
        """What the files hold.

        Raises
        ------
        ArgumentError
            If no folder has such a name.
        MismatchError
            If epochs have different K, files of a process are missing, or there are more classes than their indices can count.
        CorruptError
            If files are cut off, or have not as many labels as keys.
        """
        if self.num_classes > _MOST_CLASSES:
            what = f"their class indices are int16, which wrapped above {_MOST_CLASSES - 1}: the classes cannot be told from one another"
            raise MismatchError(f"{self.folder}: expected at most {_MOST_CLASSES} classes, got {self.num_classes}: {what}")
        sizes = [package.values.stat().st_size for epoch in self._epochs for package in epoch.packages]
        lost = [f"seeds: {counted(self._num_labels, 'seed')} of 4 bytes. Keep the files if their own code is to train from them"]
        repeated = sum(len(package.keys) for epoch in self._epochs for package in epoch.packages) - self._num_labels
        if repeated:
            lost.append(f"{counted(repeated, 'label')} of images that came twice in an epoch, to fill up batches: the first is kept")
        if all(key.isdecimal() for key in self._keys):
            lost.append("names of images: keys are their numbers in TinyViT's dataset")
        return Found(
            format="TinyViT",
            kind=Kind(INDICES, self.num_classes, self._k, 2),
            num_images=len(self._keys),
            num_crops=self._num_labels,
            crops=NO_CROPS,
            source_bytes=sum(sizes),
            provenance={"epochs": [epoch.number for epoch in self._epochs], "top_k": self._k},
            metadata={"temperature": 1.0},
            lost=tuple(lost),
            why_no_crops=WHY_NO_CROPS,
        )

    def entries(self) -> Iterator[Entry]:
        """Yield all images in the order in which their keys first occur."""
        rows = [[self._rows(package) for package in epoch.packages] for epoch in self._epochs]
        for key in self._keys:
            places = [(number, *epoch.places[key]) for number, epoch in enumerate(self._epochs) if key in epoch.places]
            where = f"{self._epochs[places[0][0]].packages[places[0][1]].values}: {key}"
            yield Entry(key, where, partial(_image, [rows[epoch][package][row] for epoch, package, row in places], self.num_classes))

    @cached_property
    def _folders(self) -> list[tuple[int, int, Path]]:
        """Epoch, K and path of each folder."""
        found = []
        for path in (self.folder.resolve(), *self.folder.iterdir()):
            name = _FOLDER.fullmatch(path.name)
            if name is not None and path.is_dir():
                found.append((int(name[2]), int(name[1]), path))
        if not found:
            raise ArgumentError(f"{self.folder}: expected a folder logits_topK_epochE, or such folders in it: only its name says what K is")
        return sorted(found)

    @cached_property
    def _k(self) -> int:
        found = {k for _, k, _ in self._folders}
        if len(found) > 1:
            got = ", ".join(map(str, sorted(found)))
            raise MismatchError(f"{self.folder}: expected folders of one K, got {got}: import each for itself")
        (k,) = found
        if not 1 <= k <= min(MAX_KEPT_CLASSES, self.num_classes):
            raise MismatchError(f"{self.folder}: expected K from 1 to {self.num_classes}, the number of classes, got {k}")
        return k

    @cached_property
    def _epochs(self) -> list[_Epoch]:
        return [self._epoch(number, path) for number, _, path in self._folders]

    @cached_property
    def _keys(self) -> list[str]:
        return list(dict.fromkeys(key for epoch in self._epochs for key in epoch.places))

    @cached_property
    def _num_labels(self) -> int:
        return sum(len(epoch.places) for epoch in self._epochs)

    def _epoch(self, number: int, folder: Path) -> _Epoch:
        values = {int(name[1]): path for path in folder.iterdir() if (name := _RANK.fullmatch(path.name))}
        if not values or sorted(values) != list(range(len(values))):
            got = ", ".join(f"rank{rank}" for rank in sorted(values)) or "none"
            raise MismatchError(f"{folder}: expected files of all processes, rank0 to the last, got {got}")
        packages = [self._package(values[rank]) for rank in sorted(values)]
        places: dict[str, tuple[int, int]] = {}
        for place, package in enumerate(packages):
            for row, key in enumerate(package.keys):
                places.setdefault(key, (place, row))
        return _Epoch(number, packages, places)

    def _package(self, values: Path) -> _Package:
        path = values.with_name(values.name.replace("-values.bin", "-keys.txt"))
        if not path.is_file():
            raise MismatchError(f"{values}: expected its keys beside it, {path.name}, which is not there")
        try:
            keys = path.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError:
            raise CorruptError(f"{path}: expected UTF-8") from None
        if keys.pop() != "":
            raise CorruptError(f"{path}: is cut off: its last line does not end")
        if len(set(keys)) < len(keys) or any(not key or len(key) > MAX_KEY_BYTES for key in keys):
            raise CorruptError(f"{path}: expected a key on each line, each once")
        size, expected = values.stat().st_size, len(keys) * self._row.itemsize
        if size != expected:
            advice = f"It is cut off, or K, {self._k} by the name of its folder, is another"
            labels = f"{counted(len(keys), 'label')} of {self._row.itemsize} bytes"
            raise CorruptError(f"{values}: expected {expected} bytes, {labels}, got {size}. {advice}")
        return _Package(values, keys)

    @property
    def _row(self) -> np.dtype[Any]:
        return np.dtype([("seed", "<i4"), ("index", "<i2", (self._k,)), ("value", "<f2", (self._k,))])

    def _rows(self, package: _Package) -> NDArray[Any]:
        return np.memmap(package.values, self._row, "r") if package.keys else np.zeros(0, self._row)


def _image(rows: Sequence[Any], num_classes: int) -> SourceImage:
    indices = np.stack([row["index"] for row in rows]).astype(np.int64)
    values = np.stack([row["value"] for row in rows]).astype(np.float16)
    if (indices < 0).any() or (indices >= num_classes).any():
        advice = "The number of classes, or K in the folder's name, is another, or indices above 32767 wrapped"
        got = f"{indices.min()} to {indices.max()}"
        raise MismatchError(f"expected class indices from 0 to {num_classes - 1}, got {got}. {advice}")
    if not np.isfinite(values).all():
        raise MismatchError("holds NaN or infinity")
    return SourceImage({INDICES: indices, VALUES: values})
