"""Images in datasets with numbered items: torchvision's, Hugging Face's, or any other map-style dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import ArgumentError
from softlabel_codec.image_source import ImageData
from softlabel_codec.images.paths import key_of_path
from softlabel_codec.images.sources.keys import class_numbers, label_column, path_keys, row_keys, unique_keys

_NAMES = ("image", "img", "pixel_values", "jpg", "jpeg", "png", "webp")
"""What an image may be called in an item that is a dictionary."""


class MapStyleSource:
    """Images of a map-style dataset: one with `len()` and items by number, which are images, tuples that begin with one, or dictionaries.

    Keys are the paths below `root` if the dataset has `samples`, as torchvision's `ImageFolder` has; else the numbers of the items, with
    eight digits. Classes are the attribute `targets`. Image files that torchvision itself would load are read as bytes.

    Parameters
    ----------
    dataset : object
        The dataset. It must not change its images: its `transform` must be None. A `Subset` or concatenation of such datasets will do.

    Raises
    ------
    ArgumentError
        If it has a transform, or is empty.
    """

    def __init__(self, dataset: Any) -> None:
        for part in _parts(dataset):
            _refuse_transform(part)
        self._dataset, self._paths = dataset, _paths(dataset)
        self._keys = unique_keys(row_keys(len(dataset)) if self._paths is None else self._paths[1], str(self))

    def keys(self) -> Sequence[str]:
        return self._keys

    def read(self, key: str) -> ImageData:
        number = self._keys.number(key)
        if self._paths is not None and _is_plain(self._dataset):
            return self._paths[0].joinpath(os.fsdecode(key.encode())).read_bytes()
        return image_in(self._dataset[number], f"{self}: item {number}")

    def targets(self) -> NDArray[np.int64] | None:
        targets = getattr(self._dataset, "targets", None)
        return None if targets is None else class_numbers(targets, len(self._keys))

    def where(self, key: str) -> str:
        number = self._keys.number(key)
        return str(self._paths[0] / key) if self._paths is not None else f"{self}: item {number}"

    def __str__(self) -> str:
        return type(self._dataset).__name__


def _parts(dataset: Any) -> Iterator[Any]:
    """Yield a dataset and those that it is made of."""
    yield dataset
    inner = getattr(dataset, "dataset", None)
    for part in (*([] if inner is None else [inner]), *(getattr(dataset, "datasets", None) or ())):
        yield from _parts(part)


def _refuse_transform(dataset: Any) -> None:
    both = getattr(dataset, "transforms", None)
    transform = getattr(dataset, "transform", None) or getattr(both, "transform", both if callable(both) else None)
    if _of_hugging_face(dataset) and dataset.format["type"] == "custom":
        transform = dataset.format["format_kwargs"].get("transform")
    if transform is not None:
        why = "images are cut here, as the labels say, and must not be changed before"
        raise ArgumentError(f"images: {type(dataset).__name__}: expected transform=None, got {type(transform).__name__}: {why}")


def _paths(dataset: Any) -> tuple[Path, list[str]] | None:
    """Return the root of a dataset that has `samples`, and the keys of these; None if it has none below a root."""
    root, samples = getattr(dataset, "root", None), getattr(dataset, "samples", None)
    if not isinstance(root, str | os.PathLike) or not samples or len(samples) != len(dataset):
        return None
    try:
        return Path(root), [key_of_path(Path(root), Path(sample[0])) for sample in samples]
    except (TypeError, ValueError, IndexError) as error:
        if isinstance(error, ArgumentError):
            raise
        return None


def _is_plain(dataset: Any) -> bool:
    """Return whether the items of a dataset are files as torchvision opens them, by Pillow."""
    loader = getattr(dataset, "loader", None)
    return getattr(loader, "__name__", "") == "default_loader" and str(getattr(loader, "__module__", "")).startswith("torchvision.")


def image_in(item: Any, where: str) -> ImageData:
    """Return the image in an item of a dataset; ArgumentError if there is none."""
    if isinstance(item, tuple | list) and len(item):
        item = item[0]
    if isinstance(item, Mapping) and "bytes" not in item:
        name = next((name for name in _NAMES if name in item), None)
        if name is None:
            raise ArgumentError(f"{where}: expected an image called {', '.join(_NAMES)}, got {', '.join(map(str, item))}")
        item = item[name]
    if isinstance(item, Mapping):
        item = item["bytes"] if item["bytes"] is not None else item.get("path")
    if isinstance(item, str | os.PathLike):
        return Path(item).read_bytes()
    if hasattr(item, "permute") and item.ndim == 3 and len(item) in (1, 3):  # a tensor (C, H, W)
        pixels: NDArray[Any] = item.permute(1, 2, 0).numpy()
        return pixels if pixels.shape[2] == 3 else pixels[:, :, 0]
    return item  # type: ignore[no-any-return]  # decoding it says what it should be


def _of_hugging_face(dataset: Any) -> bool:
    return type(dataset).__module__.partition(".")[0] == "datasets" and hasattr(dataset, "format")


class HuggingFaceSource:
    """Images of a `datasets.Dataset` in memory, as bytes of image files where it holds these.

    Keys and classes are those of `ColumnSource`.

    Parameters
    ----------
    dataset : datasets.Dataset
        The dataset.
    column : str, optional
        The column that holds images; it can be left out if there is only one.

    Raises
    ------
    ArgumentError
        If there is no such column, there are several, or the dataset has a transform.
    """

    def __init__(self, dataset: Any, column: str | None = None) -> None:
        _refuse_transform(dataset)
        able = [name for name, feature in dataset.features.items() if type(feature).__name__ == "Image"]
        if (column is None and len(able) != 1) or (column is not None and column not in able):
            found = f"{', '.join(able) or 'none'} (columns: {', '.join(dataset.features)})"
            raise ArgumentError(f"images: Dataset: expected one column of images, {column or 'or its name'}, got {found}")
        name = column or able[0]
        undecoded = dataset.with_format(None).cast_column(name, type(dataset.features[name])(decode=False))
        self._images, self._column = undecoded.select_columns([name]), name
        arrow = self._images.with_format("arrow").iter(batch_size=1000)
        paths = [path for batch in arrow for path in batch.column(name).combine_chunks().field("path").to_pylist()]
        self._keys = unique_keys(path_keys(paths), str(self))
        label = label_column({name: str(getattr(feature, "dtype", "")) for name, feature in dataset.features.items()})
        self._targets = None if label is None else class_numbers(list(dataset.with_format(None)[label]), len(self._keys))

    def keys(self) -> Sequence[str]:
        return self._keys

    def read(self, key: str) -> ImageData:
        number = self._keys.number(key)
        image = self._images[number][self._column]
        if image is None:
            raise OSError(f"{self.where(key)}: expected an image, got nothing")
        return image_in(image, self.where(key))

    def targets(self) -> NDArray[np.int64] | None:
        return self._targets

    def where(self, key: str) -> str:
        return f"{self}: row {self._keys.number(key)}"

    def __str__(self) -> str:
        return type(self._images).__name__
