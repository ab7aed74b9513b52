"""Label files as FKD's own loader reads them, written without torch.

Crops, flips and labels are tensors, and not numpy's arrays as FKD's generator saves them: FKD's loader calls `torch.load` without further
arguments, which reads arrays only before torch 2.6, and tensors with every torch since 1.6.
"""

from __future__ import annotations

import shutil
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.formats.fkd.files import ALL_CLASSES
from softlabel_codec.formats.labels import EXACT_INDICES, INDICES, PROBS, VALUES
from softlabel_codec.reader import UNKNOWN_CROPS, SoftLabelReader

_KNOWN = ("hard", "smoothing", "marginal_smoothing_k5", "marginal_smoothing_k10", ALL_CLASSES)
"""Label types that FKD's loader recovers; and `marginal_renorm` with any number of classes."""
_STORAGES = {"<f4": "FloatStorage", "<f2": "HalfStorage", "<i8": "LongStorage", "|b1": "BoolStorage"}


def label_type_for(codec: Codec, dense: bool, where: object) -> str:
    """Return FKD's name for the labels of a codec; ArgumentError if FKD has no such labels."""
    if dense or codec.family == "dense":
        if codec.content != PROBS:
            raise ArgumentError(f"{where}: FKD's labels are probabilities, not {codec.content}. --dense writes those of all classes")
        return ALL_CLASSES
    if codec.name in ("hard", "smoothing"):
        return codec.name
    if codec.k is None:
        advice = f"slcodec copy --codec {codec.name}:k=5, or --dense"
        raise ArgumentError(f"{where}: FKD's labels keep as many classes of each crop, but those of {str(codec)!r} do not. {advice}")
    return f"{codec.name}_k{codec.k}"


def lost_in_fkd(reader: SoftLabelReader, dense: bool) -> list[str]:
    """Return what FKD's files do not say of a label file; ArgumentError if they have no such labels, or no crops."""
    label_type = label_type_for(reader.parsed_codec, dense, reader.path)
    if UNKNOWN_CROPS in reader.metadata:
        raise ArgumentError(f"{reader.path}: expected crops, which FKD's files have, got none: {reader.metadata[UNKNOWN_CROPS]}")
    lost = ["metadata, sizes and checksums of images", f"the label type, which FKD's loader must be told: --soft_label_type {label_type}"]
    if label_type.startswith("marginal_renorm"):
        lost[1] = "the label type, which FKD's loader must be told: --soft_label_type marginal_renorm"
    elif label_type not in _KNOWN:
        lost.append(f"FKD's loader knows no {label_type}: only {', '.join(_KNOWN)} and marginal_renorm")
    return lost


class FkdWriter:
    """Writes a folder of label files, `<wnid>/<stem>.tar`.

    Parameters
    ----------
    folder : path
        The folder, which must not exist.
    num_classes : int
        C.
    """

    def __init__(self, folder: Path, num_classes: int) -> None:
        self._folder, self._num_classes = folder, num_classes
        self._keys: dict[str, str] = {}
        self.discard()
        folder.mkdir()

    def add(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the labels of an image; MismatchError if FKD's loader would not find them, or those of another image."""
        name = name_of(key)
        if self._keys.setdefault(name, key) != key:
            raise MismatchError(f"{self._folder}: the images {self._keys[name]!r} and {key!r} would have one label file {name}")
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        save(path, [_fractions(arrays), arrays["flips"], self._labels(arrays)])

    def close(self) -> None:
        """Do nothing: each file is complete when it is written."""

    def discard(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _labels(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return labels as FKD arranges them: classes as floats beside their probabilities."""
        if PROBS in arrays:
            return arrays[PROBS]
        indices, values = arrays[INDICES], arrays.get(VALUES)
        if values is None:
            return indices[:, 0].astype(np.int64)
        kind = values.dtype if self._num_classes <= EXACT_INDICES[values.dtype.itemsize] else np.dtype(np.float32)
        if self._num_classes > EXACT_INDICES[kind.itemsize]:
            raise MismatchError(
                f"{self._num_classes} classes: FKD's files hold classes as float32, which is exact below {EXACT_INDICES[4]}"
            )
        pairs = np.stack([indices, values], axis=1).astype(kind)
        return pairs[:, :, 0] if pairs.shape[2] == 1 else pairs


def name_of(key: str) -> str:
    """Return where FKD's loader looks for the labels of an image: up to the first dot of its path."""
    folder, _, name = key.rpartition("/")
    if not folder or "/" in folder or "." in folder or name.startswith(".") or "\0" in key:
        what = "an image in one folder, whose name has no dot, such as n01440764/tench.JPEG"
        raise MismatchError(f"image {key!r}: FKD's loader finds labels of {what}")
    return f"{folder}/{name.partition('.')[0]}.tar"


def _fractions(arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    crops = arrays["crops"]
    if crops.dtype.kind == "f":
        return crops
    return np.asarray(crops / np.tile(arrays["image_size"], 2), np.float32)


def save(path: Path, arrays: list[NDArray[Any]]) -> None:
    """Write arrays as `torch.save` writes a list of tensors; the same arrays give the same bytes."""
    arrays = [np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for array in arrays]
    members = {"data.pkl": _pickled(arrays), "byteorder": b"little"}
    members |= {f"data/{number}": array.tobytes() for number, array in enumerate(arrays)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {**members, "version": b"3\n"}.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)


def _pickled(arrays: list[NDArray[Any]]) -> bytes:
    """Return a pickle of tensors: the arguments of `_rebuild_tensor_v2`, with storages by their number."""
    return b"\x80\x02](" + b"".join(_tensor(number, array) for number, array in enumerate(arrays)) + b"e."


def _tensor(number: int, array: NDArray[Any]) -> bytes:
    kind = _STORAGES[array.dtype.str].encode()
    storage = b"(" + _text("storage") + b"ctorch\n" + kind + b"\n" + _text(str(number)) + _text("cpu") + _whole(array.size) + b"tQ"
    strides = [stride // array.itemsize for stride in array.strides]
    shape, steps = (b"(" + b"".join(map(_whole, numbers)) + b"t" for numbers in (array.shape, strides))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _whole(0) + shape + steps + b"\x89ccollections\nOrderedDict\n)RtR"


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _whole(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)
