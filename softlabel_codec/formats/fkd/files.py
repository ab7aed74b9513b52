"""The label files that FKD's generator writes, read safely.

FKD (Shen & Xing, ECCV 2022) writes one `torch.save` file per image: crops as fractions, flips, and labels in which class indices
are floats beside their values. `pickled` reads them without running code.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, CorruptError, MismatchError
from softlabel_codec.formats.fkd.archive import MAGIC, members_of
from softlabel_codec.formats.fkd.pickled import Pickle, as_array
from softlabel_codec.formats.labels import whole_classes

ALL_CLASSES = "ori"
"""FKD's name of labels that have the probabilities of all classes."""
LABEL_TYPES = ("hard", "smoothing", "marginal_smoothing_k5", "marginal_smoothing_k10", "marginal_renorm_k5", "marginal_renorm", ALL_CLASSES)
_TYPE_IN_NAME = re.compile(r"(?:^|[_-])(hard|(?<!marginal_)smoothing|marginal_smoothing|marginal_renorm)(?:_k_?(\d+))?(?:_f(?:p)?16)?$")
MAX_FILE_BYTES = 2**28
"""The most bytes of one image's labels."""
_OLD_MAGIC, _OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001
"""What files of torch before 1.6 begin with."""


@dataclass(frozen=True)
class FkdImage:
    """The contents of one label file.

    Attributes
    ----------
    crops : float16 or float32 (M, 4)
        top, left, height, width as fractions of the image.
    flips : bool (M,)
        Whether each crop is mirrored.
    indices : int64 (M, K) or None
        Classes; None if there are probabilities of all.
    values : float16 or float32 (M, K) or (M, C)
        Their probabilities; 1 for `hard`.
    """

    crops: NDArray[Any]
    flips: NDArray[np.bool_]
    indices: NDArray[np.int64] | None
    values: NDArray[Any]


def label_codec(label_type: str) -> Codec:
    """Return the codec, with float values still to be chosen, of one of FKD's label types; ArgumentError for other types."""
    if label_type == ALL_CLASSES:
        return Codec.parse("dense")
    name, _, k = label_type.replace("_k_", "_k").partition("_k")
    known = name in ("hard", "smoothing") and not k
    if name in ("marginal_smoothing", "marginal_renorm") and (k.isdecimal() or (name == "marginal_renorm" and not k)):
        return Codec.parse(f"{name}:k={k or 5}")
    if not known:
        raise ArgumentError(f"label type: expected one of {', '.join(LABEL_TYPES)} (or another _kN), got {label_type!r}")
    return Codec.parse(name)


def label_type_of(folder: Path) -> str | None:
    """Return the label type that the name of a folder, or of one that it is in, says; None if none does.

    Releases are called `FKD_soft_label_500_crops_marginal_smoothing_k_5`, and the generator's own examples
    `FKD_efficientnet_l2_ns_475_marginal_smoothing_k5`; the label files are in `imagenet/train/<wnid>` below it.
    """
    for name in reversed(folder.resolve().parts):
        found = _TYPE_IN_NAME.search(name.lower())
        if found and (found[1] in ("hard", "smoothing", "marginal_renorm") or found[2]):
            return found[1] + (f"_k{found[2]}" if found[2] else "")
    return None


def read_fkd_file(path: str | os.PathLike[str], codec: Codec, num_classes: int) -> FkdImage:
    """Return the contents of a label file of FKD.

    Parameters
    ----------
    path : path
        The `.tar` file.
    codec : Codec
        From `label_codec`: gives the shape that the labels must have.
    num_classes : int
        C.

    Raises
    ------
    CorruptError
        If the file is damaged, needs code to be run, or does not hold what FKD writes.
    MismatchError
        If its labels are of another type than `codec`, or class indices are too large to be exact in float16.
    """
    crops, flips, labels = _load(path)
    num_crops = len(crops)
    wanted = {"hard": (num_crops,), "smoothing": (num_crops, 2), "dense": (num_crops, num_classes)}.get(codec.name, (num_crops, 2, codec.k))
    if labels.shape != wanted or labels.dtype.kind not in "fi":
        raise MismatchError(f"{path}: expected labels of shape {wanted} for {str(codec)!r}, got {labels.dtype} of shape {labels.shape}")
    if codec.name == "dense":
        return FkdImage(crops, flips, None, labels)
    if codec.name == "hard":
        indices, values = labels[:, None], np.ones((num_crops, 1), np.float32)
    else:
        pairs = labels.reshape(num_crops, 2, -1)
        indices, values = pairs[:, 0], pairs[:, 1]
    try:
        whole = whole_classes(indices, num_classes, lowest=0)
    except MismatchError as error:
        raise MismatchError(f"{path}: {error}") from None
    return FkdImage(crops, flips, whole, values)


def _load(path: str | os.PathLike[str]) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any]]:
    """Return the three arrays of a label file, after a look at its checksums, which only files of torch before 1.6 lack."""
    with open(path, "rb") as file:  # asked for the most that there may be, Python would set that aside first
        data = file.read(min(os.fstat(file.fileno()).st_size, MAX_FILE_BYTES) + 1)
    if len(data) > MAX_FILE_BYTES:
        raise CorruptError(f"{path}: expected a label file of at most {MAX_FILE_BYTES} bytes, got more")
    try:
        parts = _unpickled(data)
        if not isinstance(parts, list | tuple) or len(parts) != 3:
            raise CorruptError(f"expected a list of crops, flips and labels, got {type(parts).__name__.strip('_')}")
        crops, flips, labels = map(as_array, parts)
    except CorruptError as error:
        raise CorruptError(f"{path}: not a label file that can be read without running code: {error}") from None
    if not all(np.isfinite(part).all() for part in (crops, labels) if part.dtype.kind == "f"):
        raise CorruptError(f"{path}: its crops or labels hold NaN or infinity")
    if crops.dtype not in (np.float16, np.float32) or crops.ndim != 2 or crops.shape[1] != 4 or not len(crops):
        raise CorruptError(f"{path}: expected crops as float16 or float32 (M, 4), got {crops.dtype} of shape {crops.shape}")
    if flips.dtype != np.bool_ or flips.shape != (len(crops),):
        raise CorruptError(f"{path}: expected flips as bool ({len(crops)},), got {flips.dtype} of shape {flips.shape}")
    return crops, flips, labels


def _unpickled(data: bytes) -> Any:
    """Return what `torch.save` saved in a file with this content."""
    if data.startswith(MAGIC):
        members = members_of(data)
        if "data.pkl" not in members:
            raise CorruptError("the archive has no member data.pkl")
        return Pickle(members["data.pkl"], members).load()[0]
    old, at = Pickle(data), 0
    for expected in (_OLD_MAGIC, _OLD_VERSION):
        value, at = old.load(at)
        if type(value) is not int or value != expected:
            raise CorruptError("it is no file of torch.save")
    _, at = old.load(at)  # byte order and sizes of types, which arrays do not depend on
    return old.load(at)[0]
