"""Images: decoding them to RGB, cutting a crop out of one, and comparing one with what was labelled. The only module that decodes.

Teacher and student cut crops in the same way (`cutting.py`), because decoders and resizers differ by a pixel value here and there.
"""

from __future__ import annotations

import errno
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from softlabel_codec.checks.arguments import EXIF_POLICIES, INTERPOLATIONS, check_choice
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.image_source import ImageData
from softlabel_codec.labels import ImageLabels
from softlabel_codec.padding import Padding

_ABOUT_A_FILE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
_ORIENTATION, _ON_ITS_SIDE = 0x0112, range(5, 9)
"""EXIF tag of how a camera was held, and its values for images that lie on their side."""
COLOR_POLICY = "converted to 8-bit RGB by Pillow; alpha dropped; 16-bit samples shifted right by 8"


def load_image(source: ImageData, exif_orientation: str = "ignored", name: str = "image") -> Image.Image:
    """Return an image as 8-bit RGB.

    Parameters
    ----------
    source : path, bytes of an image file, PIL image, or uint8 array (H, W, 3) or (H, W)
        What to load.
    exif_orientation : str
        `ignored`: pixels as they are stored, as ImageNet's loaders do. `applied`: turned as a camera's EXIF tag says. (An array has
        no such tag.)
    name : str
        Name of the image in errors, if it has no path.

    Raises
    ------
    OSError
        If the file cannot be read as an image.
    ArgumentError
        If `source` is something else.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in (2, 3) or (source.ndim == 3 and source.shape[2] != 3) or not source.size:
            raise ArgumentError(f"{name}: expected uint8 of shape (H, W, 3) or (H, W), got {source.dtype} of shape {source.shape}")
        return Image.fromarray(source).convert("RGB")
    if isinstance(source, Image.Image):
        with _readable(name):
            return _turned_to_rgb(source, exif_orientation)
    with _opened(source, name) as image:
        return _turned_to_rgb(image, exif_orientation)


@contextmanager
def _opened(source: object, name: str) -> Iterator[Image.Image]:
    """Open an image file, or the bytes of one."""
    if isinstance(source, bytes):
        with _readable(name), Image.open(io.BytesIO(source)) as image:
            yield image
        return
    if not isinstance(source, str | os.PathLike):
        kinds = "a path, bytes of an image file, a PIL image or a uint8 array"
        raise ArgumentError(f"{name}: expected {kinds}, got {type(source).__name__}")
    with _readable(os.fspath(source)), Image.open(source) as image:
        yield image


def is_plain_jpeg(data: bytes) -> bool:
    """Return whether bytes begin a JPEG file in colour or grey that no EXIF tag turns: all decoders treat these alike."""
    if not data.startswith(b"\xff\xd8\xff"):
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.mode in ("RGB", "L") and image.getexif().get(_ORIENTATION, 1) == 1
    except Exception:  # of any kind, from Pillow's plugins
        return False


def is_about_the_image(error: OSError) -> bool:
    """Return whether an error is about the image itself and would occur again: it is absent, not an image, or cut off.

    Too many open files, or a failing disk or network, are not about the image.
    """
    return error.errno is None or error.errno in _ABOUT_A_FILE


def load_reduced(source: str | os.PathLike[str] | bytes, factor: int, name: str = "image") -> Image.Image:
    """Return an image as 8-bit RGB; a JPEG file is decoded at 1/`factor` (1, 2, 4, 8) of its size.

    The decoder leaves out high frequencies before they are computed, which takes a fraction of the time.
    """
    with _opened(source, name) as image:
        image.draft("RGB", (max(1, image.width // factor), max(1, image.height // factor)))
        return _turned_to_rgb(image, "ignored")


def read_size(source: ImageData, name: str = "image", exif_orientation: str = "ignored") -> tuple[int, int]:
    """Return height and width of an image in pixels, of a file without decoding it; OSError if it is no image."""
    if not isinstance(source, str | os.PathLike | bytes):
        return image_size(load_image(source, exif_orientation, name))
    with _opened(source, name) as image:
        size = image_size(image)
        return size[::-1] if exif_orientation == "applied" and image.getexif().get(_ORIENTATION, 1) in _ON_ITS_SIDE else size


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Convert exceptions of Pillow's plugins for broken files to an OSError that names the file."""
    try:
        yield
    except UnidentifiedImageError:
        raise OSError(f"{name}: not a readable image: unknown format") from None
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"{name}: not a readable image: {error}") from None
    except OSError as error:
        if error.errno is None:  # of a decoder
            raise OSError(f"{name}: not a readable image: {error}") from None
        raise


def _turned_to_rgb(image: Image.Image, exif_orientation: str) -> Image.Image:
    _check_range(image)
    return _to_rgb(ImageOps.exif_transpose(image) if exif_orientation == "applied" else image)


def _check_range(image: Image.Image) -> None:
    """Raise ValueError if the range of the samples is unknown: 16 bits are defined by PNG, but 32 bits or floats are not."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ValueError(f"its samples (mode {image.mode}) have 32 bits and no known range: convert it to 8 or 16 bits")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        samples = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(np.clip(samples, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def image_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width in pixels."""
    return image.height, image.width


def padded(image: Image.Image, padding: Padding) -> Image.Image:
    """Return an RGB image with its padding."""
    return Image.fromarray(padding.pad(np.asarray(image))) if padding else image


def pixel_crops(crops: NDArray[Any], size: tuple[int, int]) -> NDArray[np.int64]:
    """Return crops (M, 4) in whole pixels: as they are if integers; else fractions of the image, rounded and clipped to it."""
    if crops.dtype.kind in "iu":
        return crops.astype(np.int64)
    height, width = size
    top, left, crop_height, crop_width = np.rint(crops.astype(np.float64) * [height, width, height, width]).astype(np.int64).T
    top, left = np.clip(top, 0, height - 1), np.clip(left, 0, width - 1)
    return np.stack([top, left, np.clip(crop_height, 1, height - top), np.clip(crop_width, 1, width - left)], axis=1)


def check_image(data: bytes, labelled: ImageLabels, key: str, labels: str) -> None:
    """Raise MismatchError if these bytes differ from the file that was labelled, if the labels hold its checksum."""
    if labelled.image_crc32 is not None and (found := zlib.crc32(data)) != labelled.image_crc32:
        raise MismatchError(
            f"{labels}: image {key!r}: expected the file that was labelled, with CRC-32 {labelled.image_crc32:08x}, got {found:08x}: "
            "these labels belong to another copy of the images"
        )


def compare_image(image: ImageData, labelled: ImageLabels, key: str, labels: str, where: str) -> None:
    """Raise MismatchError if an image is not the one that was labelled, as far as the labels tell: by the bytes of its file, and its size.

    `where` is what to call it in an error. OSError if it cannot be read as an image.
    """
    if isinstance(image, bytes):
        check_image(image, labelled, key, labels)
    crops_in_pixels(labelled, read_size(image, where), key, labels)


def crops_in_pixels(labelled: ImageLabels, size: tuple[int, int], key: str, labels: str) -> NDArray[np.int64]:
    """Return stored crops (M, 4) in whole pixels of an image of that height and width.

    Raises
    ------
    MismatchError
        If the labelled image had another size; the error names the image's key and the file of the labels.
    """
    if labelled.image_size not in ((0, 0), size):
        raise MismatchError(
            f"{labels}: image {key!r}: expected {labelled.image_size[0]} x {labelled.image_size[1]} pixels (height x width) "
            f"as labelled, got {size[0]} x {size[1]}: these labels belong to another copy of the images"
        )
    return pixel_crops(labelled.crops, size)


def center_crop(image: Image.Image, size: int, part: float = 0.875, interpolation: str = "bilinear") -> Image.Image:
    """Return the middle of an image as networks are tested: `size` x `size` pixels, which are `part` of the shorter side."""
    scale = size / part / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), resampling(interpolation))
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def apply_crop(image: Image.Image, crop: Sequence[int], flip: bool, size: int, interpolation: str = "bilinear") -> Image.Image:
    """Return a stored crop as an image of `size` x `size` pixels: cut, then scaled with Pillow's filter, then mirrored.

    Parameters
    ----------
    image : PIL image
        The whole image.
    crop : (int, int, int, int)
        top, left, height, width in pixels.
    flip : bool
        Whether to mirror left to right.
    size : int
        Side of the result in pixels.
    interpolation : str
        One of `softlabel_codec.checks.arguments.INTERPOLATIONS`.
    """
    top, left, height, width = (int(value) for value in crop)
    cut = image.crop((left, top, left + width, top + height))
    scaled = cut.resize((size, size), resampling(interpolation))
    return scaled.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else scaled


def resampling(interpolation: str) -> Image.Resampling:
    """Return Pillow's filter of that name; ArgumentError if there is none."""
    if interpolation not in INTERPOLATIONS:
        raise ArgumentError(f"interpolation: expected one of {', '.join(INTERPOLATIONS)}, got {interpolation!r}")
    return Image.Resampling[interpolation.upper()]


def agreed_exif_orientation(wanted: str | None, of_labels: Any, labels: object) -> str:
    """Return whether the EXIF orientation is `applied` or `ignored`: as for the labels, else as wanted, else ignored.

    Raises
    ------
    ArgumentError
        If it is something else.
    MismatchError
        If another one is wanted than that of the labels, which are those in the file `labels`.
    """
    found = str(wanted or of_labels or "ignored")
    check_choice("exif_orientation", found, EXIF_POLICIES)
    if of_labels and of_labels != found:
        made = f"these labels were made with exif_orientation={of_labels!r}, expected {wanted!r}"
        raise MismatchError(f"{labels}: {made}. Leave it out, or make the labels again with it")
    return found
