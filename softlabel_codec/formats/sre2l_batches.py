"""One batch of SRe2L, LPLD or LPQLD: what its file holds, checked. `sre2l.py` says what the parts are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import CorruptError, MismatchError
from softlabel_codec.formats.numpy_stand_ins import as_array, shown
from softlabel_codec.formats.torch_files import load_safely

_WRAPS = {"uint8": 2**8, "int16": 2**15}


class Layout(NamedTuple):
    """What all batches have in common."""

    mix: str
    rand_augment: bool
    erases: bool
    crop_type: str
    logit_type: str
    width: int
    top_k: bool


class Batch(NamedTuple):
    """A batch. Its logits stay in the file until they are used. The partners of its crops are mixed in; of each is its own share."""

    layout: Layout
    crops: NDArray[Any]
    flips: NDArray[np.bool_] | None
    logits: NDArray[Any]
    classes: NDArray[Any] | None
    partners: NDArray[Any] | None
    own_share: float

    @property
    def partners_wrapped(self) -> bool:
        """Whether there are more crops than the numbers of partners can count."""
        return self.partners is not None and len(self.crops) > _WRAPS.get(str(self.partners.dtype), 2**31)


def read_batch(path: Path, layout: Layout | None, num_classes: int | None) -> Batch:
    """Return a batch.

    Raises
    ------
    CorruptError
        If the file is damaged or holds something else.
    MismatchError
        If it is not like the first one.
    """
    found = load_safely(path, path)
    what = "a list of coords, flips, mix index, lambda, box and logits"
    if not isinstance(found, list | tuple) or not 6 <= len(found) <= 8:
        raise CorruptError(f"{path}: expected {what}, got {type(found).__name__}")
    rand_augment = isinstance(found[2], list | tuple)
    coords, second, *rest = (*found[:2], *found[3:]) if rand_augment else found
    if not 4 <= len(rest) <= 5:
        raise CorruptError(f"{path}: expected {what}, got {len(found)} parts")
    mix_index, share, box, logits, *classes = rest
    crops, second, logits = (_array(path, part, name) for part, name in ((coords, "coords"), (second, "flips"), (logits, "logits")))
    if crops.dtype not in (np.float16, np.float32) or crops.ndim != 2 or crops.shape[1] != 4 or not len(crops):
        raise CorruptError(f"{path}: expected coords as float16 or float32 (B, 4), got {crops.dtype} of shape {crops.shape}")
    erases = second.dtype.kind == "f" and second.shape == (len(crops), 7)
    if not erases and (second.dtype != np.bool_ or second.shape != (len(crops),)):
        raise CorruptError(f"{path}: expected flips as bool ({len(crops)},), got {second.dtype} of shape {second.shape}")
    if logits.dtype not in (np.float16, np.float32) or logits.ndim != 2 or len(logits) != len(crops) or not logits.shape[1]:
        raise CorruptError(f"{path}: expected logits as float16 or float32 ({len(crops)}, C), got {logits.dtype} of shape {logits.shape}")
    index = None if mix_index is None else _array(path, mix_index, "mix index")
    if index is not None and (
        index.dtype.kind not in "iu" or index.shape != (len(crops),) or not ((index >= 0) & (index < len(crops))).all()
    ):
        raise CorruptError(f"{path}: expected the mix index as {len(crops)} numbers of crops, got {index.dtype} of shape {index.shape}")
    if index is not None and not (isinstance(share, float | int) and 0 <= share <= 1):
        raise CorruptError(f"{path}: expected lambda as a number from 0 to 1, got {shown(share)}")
    mix = "none" if index is None else "mixup" if box is None else "cutmix"
    this = Layout(mix, rand_augment, erases, str(crops.dtype), str(logits.dtype), logits.shape[1], bool(classes))
    if layout is not None and layout != this:
        differ = [(name, mine, first) for name, mine, first in zip(this._fields, this, layout, strict=True) if mine != first]
        wanted, got = (", ".join(f"{one[0]} {one[place]}" for one in differ) for place in (2, 1))
        raise MismatchError(f"{path}: expected {wanted}, as in the first batch, got {got}")
    if not this.top_k and num_classes not in (None, this.width):
        raise MismatchError(f"{path}: expected logits of {num_classes} classes, got {this.width}")
    if not np.isfinite(crops).all():
        raise CorruptError(f"{path}: its coords hold NaN or infinity")
    kept = _checked_classes(path, classes[0], logits.shape, num_classes) if classes else None
    return Batch(this, crops, None if erases else second, logits, kept, index, 1.0 if index is None else float(share))


def _checked_classes(path: Path, part: Any, shape: tuple[int, ...], num_classes: int | None) -> NDArray[Any]:
    found = _array(path, part, "classes")
    if found.dtype.kind not in "iu" or found.shape != shape:
        raise CorruptError(f"{path}: expected classes as integers of shape {shape}, got {found.dtype} of shape {found.shape}")
    most = _WRAPS.get(str(found.dtype), 2**31)
    if num_classes is not None and num_classes > most:
        what = f"its class indices are {found.dtype}, which wrapped above {most - 1}: the classes cannot be told from one another"
        raise MismatchError(f"{path}: expected at most {most} classes, got {num_classes}: {what}")
    if num_classes is not None and not ((found >= 0) & (found < num_classes)).all():
        raise MismatchError(f"{path}: expected class indices from 0 to {num_classes - 1}, got {found.min()} to {found.max()}")
    return found


def _array(path: Path, part: Any, name: str) -> NDArray[Any]:
    try:
        return as_array(part)
    except Exception as error:  # other lists, and tensors of types that numpy does not support
        raise CorruptError(f"{path}: expected an array of {name}: {error}") from None
