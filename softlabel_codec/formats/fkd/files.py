"""The label files that FKD's generator writes, read safely.

FKD (Shen & Xing, ECCV 2022) writes one `torch.save` file per image: crops as fractions, flips, and labels in which class indices
are floats beside their values. Only torch's safe loader reads them, which runs no code.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, CorruptError, MismatchError
from softlabel_codec.formats.fkd.pickled import STAND_INS, as_array
from softlabel_codec.formats.labels import whole_classes

LABEL_TYPES = ("hard", "smoothing", "marginal_smoothing_k5", "marginal_smoothing_k10", "marginal_renorm_k5", "marginal_renorm")

_ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True)
class FkdImage:
    """The contents of one label file.

    Attributes
    ----------
    crops : float16 or float32 (M, 4)
        top, left, height, width as fractions of the image.
    flips : bool (M,)
        Whether each crop is mirrored.
    indices : int64 (M, K)
        Classes.
    values : float16 or float32 (M, K)
        Their probabilities; 1 for `hard`.
    """

    crops: NDArray[Any]
    flips: NDArray[np.bool_]
    indices: NDArray[np.int64]
    values: NDArray[Any]


def label_codec(label_type: str) -> Codec:
    """Return the codec, with float values still to be chosen, of one of FKD's label types; ArgumentError for other types."""
    name, _, k = label_type.partition("_k")
    known = name in ("hard", "smoothing") and not k
    if name in ("marginal_smoothing", "marginal_renorm") and (k.isdecimal() or (name == "marginal_renorm" and not k)):
        return Codec.parse(f"{name}:k={k or 5}")
    if not known:
        raise ArgumentError(f"label type: expected one of {', '.join(LABEL_TYPES)} (or another _kN), got {label_type!r}")
    return Codec.parse(name)


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
    wanted = {"hard": (num_crops,), "smoothing": (num_crops, 2)}.get(codec.name, (num_crops, 2, codec.k))
    if labels.shape != wanted or labels.dtype.kind not in "fi":
        raise MismatchError(f"{path}: expected labels of shape {wanted} for {str(codec)!r}, got {labels.dtype} of shape {labels.shape}")
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
    """Return the three arrays of a label file, without running any code in it.

    `torch.load` does not compare the checksums that `torch.save` writes, so that is done first. (Files of torch before 1.6 have none.)
    """
    data = Path(path).read_bytes()
    try:
        _check_crc32(data)
        with torch.serialization.safe_globals(STAND_INS):
            parts = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it requires {wanted[1]}" if wanted else "it contains more than arrays"
        raise CorruptError(f"{path}: not a label file that can be read without running code: {reason}") from None
    except Exception as error:  # torch.load raises many types of errors for damaged files
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CorruptError(f"{path}: not a readable label file: {reason}") from None
    if not isinstance(parts, list | tuple) or len(parts) != 3:
        raise CorruptError(f"{path}: expected a list of crops, flips and labels, got {type(parts).__name__}")
    if any(isinstance(part, torch.Tensor) and _claims_too_much(part) for part in parts):
        raise CorruptError(f"{path}: a tensor claims more numbers than the file holds")
    try:
        crops, flips, labels = map(as_array, parts)
    except Exception as error:  # other lists, and tensors of types that numpy does not support
        raise CorruptError(f"{path}: expected arrays of crops, flips and labels: {error}") from None
    if not all(np.isfinite(part).all() for part in (crops, labels) if part.dtype.kind == "f"):
        raise CorruptError(f"{path}: its crops or labels hold NaN or infinity")
    if crops.dtype not in (np.float16, np.float32) or crops.ndim != 2 or crops.shape[1] != 4 or not len(crops):
        raise CorruptError(f"{path}: expected crops as float16 or float32 (M, 4), got {crops.dtype} of shape {crops.shape}")
    if flips.dtype != np.bool_ or flips.shape != (len(crops),):
        raise CorruptError(f"{path}: expected flips as bool ({len(crops)},), got {flips.dtype} of shape {flips.shape}")
    return crops, flips, labels


def _claims_too_much(tensor: torch.Tensor) -> bool:
    """Return whether a tensor claims more numbers than are stored: a stride of 0 repeats one number any number of times."""
    return tensor.layout == torch.strided and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def _check_crc32(data: bytes) -> None:
    if not data.startswith(_ZIP_MAGIC):
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise zipfile.BadZipFile("it is compressed, but torch.save does not compress")
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of {damaged!r} differs")
