"""Checks of arguments, before anything is stored."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softlabel_codec.checks.arrays import as_array
from softlabel_codec.checks.limits import MAX_CROPS_PER_IMAGE, MAX_IMAGE_SIDE, MAX_KEY_BYTES
from softlabel_codec.errors import ArgumentError, LimitError

ON_ERROR = ("fail", "skip")
"""What to do with an unreadable input: end the run, or skip and report it."""
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "hamming", "box", "nearest")
"""Pillow's filters."""
EXIF_POLICIES = ("ignored", "applied")
BACKENDS = ("pillow", "torch")
"""What cuts and scales crops."""
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
OUTPUTS_OF_CLASSES = ("logits", "probs")
"""What a teacher of classes returns for a crop: unnormalised scores, or their softmax."""
TEACHER_OUTPUTS = (*OUTPUTS_OF_CLASSES, "features")
"""What any teacher returns: or else numbers that are of no classes, such as the projection of a self-supervised one."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-4, 1e4
"""Beyond them softmax(logits / T) is, in float32, no more than the largest class, or the same for all classes."""
TEMPERATURES = f"a number from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"


def is_temperature(value: Any) -> bool:
    """Return whether a value is a number that may be T of softmax(logits / T)."""
    if isinstance(value, bool | str | bytes) or getattr(value, "ndim", 0) != 0:
        return False
    try:
        return MIN_TEMPERATURE <= float(value) <= MAX_TEMPERATURE  # no NaN
    except (TypeError, ValueError, OverflowError):
        return False


def check_temperature(value: Any, name: str = "temperature") -> float:
    """Return T of softmax(logits / T) as a float; ArgumentError unless it is a number from `MIN_TEMPERATURE` to `MAX_TEMPERATURE`."""
    if not is_temperature(value):
        raise ArgumentError(f"{name}: expected {TEMPERATURES}, got {value!r}")
    return float(value)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ArgumentError unless `value` is one of `choices`."""
    if value not in choices:
        raise ArgumentError(f"{name}: expected {' or '.join(choices)}, got {value!r}")


def check_whole(name: str, value: Any, smallest: int) -> int:
    """Return `value` if it is an integer (of any type) of at least `smallest`."""
    number = whole(value)
    if number is None or number < smallest:
        raise ArgumentError(f"{name}: expected an integer of at least {smallest}, got {value!r}")
    return number


def whole(value: Any) -> int | None:
    """Return an integer of any type as int; None for anything else, including booleans and arrays of one number."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def check_key(key: object) -> str:
    """Return `key` if it can be the key of an image."""
    if not isinstance(key, str) or not key:
        raise ArgumentError(f"key: expected a non-empty str, got {key!r}")
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise ArgumentError(f"key: expected text that can be encoded as UTF-8, got {key!r}") from None
    if length > MAX_KEY_BYTES:
        raise LimitError(f"key: expected at most {MAX_KEY_BYTES} bytes of UTF-8, got {length}")
    return key


def check_image_size(image_size: object, padding: int = 0) -> tuple[int, int]:
    """Return height and width of an image in pixels, which is to be padded by so many on each side."""
    size = as_array("image_size", image_size)
    if size.dtype.kind not in "iu" or size.shape != (2,):
        raise ArgumentError(f"image_size: expected (height, width) in pixels, got {image_size!r}")
    height, width = size.tolist()
    if not (1 <= height <= MAX_IMAGE_SIDE and 1 <= width <= MAX_IMAGE_SIDE):
        raise LimitError(f"image_size: expected 1 to {MAX_IMAGE_SIDE} pixels, got {height} x {width}")
    if max(height, width) > MAX_IMAGE_SIDE - 2 * padding:
        raise LimitError(f"image_size: expected at most {MAX_IMAGE_SIDE} pixels with padding of {padding}, got {height} x {width}")
    return height, width


def check_pixel_crops(crops: ArrayLike, image_size: tuple[int, int], padding: int = 0) -> NDArray[np.int64]:
    """Return crops (M, 4) of integers that lie inside their image, which is padded by so many pixels on each side."""
    array = _check_shape(crops, "iu", "integers").astype(np.int64)
    top, left, height, width = array.T
    inside = (top >= 0) & (left >= 0) & (height >= 1) & (width >= 1)
    inside &= (height <= image_size[0] + 2 * padding - top) & (width <= image_size[1] + 2 * padding - left)
    if not inside.all():
        row = int(np.argmin(inside))
        raise ArgumentError(
            f"crops: row {row}: expected top, left, height, width inside an image of {image_size[0]} x {image_size[1]} pixels "
            f"(height x width){f' and its padding of {padding}' if padding else ''}, got {array[row].tolist()}"
        )
    return array


def check_fraction_crops(crops: ArrayLike, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return crops (M, 4) of finite floats of at most the precision that is stored."""
    array = _check_shape(crops, "f", "floats")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ArgumentError(f"crops: row {row}: expected finite fractions, got {array[row].tolist()}")
    if array.dtype.itemsize > dtype.itemsize:
        raise ArgumentError(f"crops: expected {dtype} (another type would be rounded), got {array.dtype}")
    return array.astype(dtype)


def check_image_crc32(crc32: object, wanted: bool) -> None:
    """Raise ArgumentError unless `crc32` is a CRC-32 (if one is wanted) or None (if not)."""
    if not wanted and crc32 is not None:
        raise ArgumentError("image_crc32: expected None, because the writer was created without image_checksums=True")
    if wanted and not (isinstance(crc32, int) and 0 <= crc32 < 2**32):
        raise ArgumentError(f"image_crc32: expected an integer from 0 to 2^32 - 1, got {crc32!r}")


def check_num_crops(num_crops: int) -> int:
    """Return `num_crops` if an image may have this many crops."""
    if not 1 <= num_crops <= MAX_CROPS_PER_IMAGE:
        raise LimitError(f"crops: expected 1 to {MAX_CROPS_PER_IMAGE} crops, got {num_crops}")
    return num_crops


def check_flips(flips: ArrayLike, num_crops: int) -> NDArray[np.bool_]:
    """Return a copy of flips (M,) of bools."""
    return np.array(check_flips_of(flips, (num_crops,)))


def check_boxes(crops: ArrayLike, num_images: int) -> NDArray[Any]:
    """Return crops (B, N, 4) in pixels, int64, or as finite fractions, float64, whose height and width are above 0."""
    array = as_array("crops", crops)
    if array.dtype.kind not in "iuf" or array.ndim != 3 or len(array) != num_images or array.shape[2] != 4 or not array.size:
        raise ArgumentError(
            f"crops: expected top, left, height, width in pixels (integers) or fractions (floats) of shape ({num_images}, N, 4), "
            f"got {array.dtype} of shape {array.shape}"
        )
    numbers = array.astype(np.float64)
    good = (np.abs(numbers) <= 2**31).all(axis=2) & (numbers[:, :, 2:] > 0).all(axis=2)  # no NaN
    if not good.all():
        image, crop = np.argwhere(~good)[0].tolist()
        raise ArgumentError(
            f"crops: row {image}, crop {crop}: expected finite numbers, height and width above 0, got {array[image, crop].tolist()}"
        )
    return numbers if array.dtype.kind == "f" else array.astype(np.int64)


def check_flips_of(flips: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return flips of this shape, bool."""
    array = as_array("flips", flips)
    if array.dtype != np.bool_ or array.shape != shape:
        raise ArgumentError(f"flips: expected bool of shape {shape}, got {array.dtype} of shape {array.shape}")
    return np.asarray(array, np.bool_)


def _check_shape(crops: ArrayLike, kinds: str, name: str) -> NDArray[Any]:
    array = as_array("crops", crops)
    if array.dtype.kind not in kinds or array.ndim != 2 or array.shape[1] != 4:
        raise ArgumentError(f"crops: expected {name} of shape (M, 4), got {array.dtype} of shape {array.shape}")
    check_num_crops(len(array))
    return array


def crop_numbers(crops: Sequence[int] | NDArray[np.integer[Any]]) -> list[int]:
    """Return the crop numbers wanted of one image."""
    try:
        return [operator.index(crop) for crop in crops]
    except TypeError:
        raise ArgumentError(f"crops: expected crop numbers, got {crops!r}") from None


def batch_crop_numbers(crops: ArrayLike, num_images: int) -> NDArray[np.integer[Any]]:
    """Return the crop numbers (B, N) wanted of several images, of any integer type."""
    array = as_array("crops", crops)
    if array.ndim != 2 or len(array) != num_images or (array.size and array.dtype.kind not in "iu"):
        raise ArgumentError(f"crops: expected integers of shape ({num_images}, N), got {array.dtype} of shape {array.shape}")
    return array if array.size else array.astype(np.int64)
