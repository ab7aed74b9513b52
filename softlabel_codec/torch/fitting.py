"""`add_fields`: label fields of many images, fitted together on the device of their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softlabel_codec.container.preparing import GivenImage, Preparer
from softlabel_codec.errors import ArgumentError
from softlabel_codec.quantise.field_fit import FieldNumbers, FieldTask
from softlabel_codec.quantise.selection import SUM_TOLERANCE, check_probs
from softlabel_codec.torch.field_batches import fit_together
from softlabel_codec.writer import SoftLabelWriter

DEVICES = ("cpu", "cuda")
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TAKEN = ("crops", "flips", "image_size", "image_crc32")


def add_fields(writer: SoftLabelWriter, images: Mapping[str, Mapping[str, Any]]) -> None:
    """Add images to a file of label fields (codec `field`), which are fitted together on the device of their labels.

    `SoftLabelWriter.add` fits one image after another, on one core. This is for labels that are on a GPU, some hundred images at a time:
    their probabilities stay there. The fields are those that `add` makes, up to differences in rounding; on the same device and versions,
    they do not depend on which images are added together. On a CPU it is slower than `add`.

    Parameters
    ----------
    writer : SoftLabelWriter
        Writer of the file.
    images : mapping
        For each key, in the order of the file, the arguments of `SoftLabelWriter.add`: `crops`, `flips`, `image_size` and `image_crc32` as
        there, and `probs`, a float tensor (M, C), all on the same device; the numbers of crops may differ.

    Raises
    ------
    ArgumentError
        If the file has another codec, or anything is invalid: no image is added then. If an image of the same key was added before: those
        in front of it are added.
    LimitError, OSError, StateError
        As for `SoftLabelWriter.add`. If an image exceeds the limits of the format, none is added.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from softlabel_codec import SoftLabelReader, SoftLabelWriter
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "labels.slc"
    >>> device = "cuda" if torch.cuda.is_available() else "cpu"
    >>> geometry = {"image_size": (60, 80), "crops": [[0, 0, 60, 40], [0, 40, 60, 40]], "flips": [False, False]}
    >>> with SoftLabelWriter(path, num_classes=4, codec="field") as writer:
    ...     logits = torch.tensor([[0.0, 2.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]], device=device)  # those of a teacher
    ...     add_fields(writer, {"a.jpg": {**geometry, "probs": logits.softmax(dim=1)}})
    >>> with SoftLabelReader(path) as reader:
    ...     reader["a.jpg"].labels.top1.tolist()
    [1, 0]
    """
    said = writer.description
    if said.codec.family != "field":
        raise ArgumentError(f"codec: expected field, got {str(said.codec)!r}, whose labels are added by SoftLabelWriter.add")
    given = [_given(key, arguments) for key, arguments in images.items()]
    if not given:
        return
    probs = {one.key: one.labels["probs"] for one in given}
    _check_alike(probs, said.num_classes)
    with torch.no_grad(), torch.autocast(next(iter(probs.values())).device.type, enabled=False):
        _check_values(probs)
        prepared = Preparer(said).fitted(given, _fit)
    for image in prepared:
        try:
            writer.add_stored(image)
        except ArgumentError as error:
            raise ArgumentError(f"image {image.key!r}: {error}") from None


def _fit(tasks: Sequence[FieldTask], step: float, cost: float) -> list[tuple[FieldNumbers, float]]:
    return fit_together([task._replace(probs=task.probs.float()) for task in tasks], step, cost)


def _given(key: str, arguments: Mapping[str, Any]) -> GivenImage:
    if "probs" not in arguments or not set(arguments) <= {"probs", *_TAKEN}:
        raise ArgumentError(f"image {key!r}: expected probs, and of {', '.join(_TAKEN)} what is needed, got {', '.join(arguments)}")
    crops, flips, image_size, image_crc32 = (arguments.get(name) for name in _TAKEN)
    return GivenImage(key, image_size, crops, flips, {"probs": arguments["probs"]}, image_crc32)


def _check_alike(probs: Mapping[str, Any], num_classes: int) -> None:
    """Raise ArgumentError unless all are dense float tensors (M, C) on the same device, on which fields can be fitted."""
    first = next(iter(probs.values()))
    for key, of_image in probs.items():
        expected = f"image {key!r}: probs: expected a float tensor of shape (M, {num_classes})"
        if not isinstance(of_image, Tensor):
            raise ArgumentError(f"{expected}, got {type(of_image).__name__}")
        if of_image.ndim != 2 or of_image.shape[1] != num_classes or of_image.dtype not in _TYPES:
            raise ArgumentError(f"{expected}, got {of_image.dtype} of shape {tuple(of_image.shape)}")
        if of_image.layout != torch.strided:
            raise ArgumentError(f"{expected}, got a sparse one ({of_image.layout}). Pass probs.to_dense()")
        if of_image.device != first.device or of_image.device.type not in DEVICES:
            raise ArgumentError(f"{expected} on one device, cpu or cuda, got {of_image.device}; the first is on {first.device}")


def _check_values(probs: Mapping[str, Tensor]) -> None:
    """Raise ArgumentError unless all are probabilities; asks the device once."""
    good = [_are_probs(of_image) for of_image in probs.values()]
    for (key, of_image), is_good in zip(probs.items(), torch.stack(good).tolist(), strict=True):
        if not is_good:
            try:
                check_probs(np.asarray(of_image.detach().cpu().double()), *of_image.shape)
            except ArgumentError as error:
                raise ArgumentError(f"image {key!r}: {error}") from None


def _are_probs(probs: Tensor) -> Tensor:
    """Return whether all rows are probabilities, as `check_probs` demands; where it is in doubt, False."""
    off = (probs.sum(dim=1, dtype=torch.float64) - 1).abs()
    return (off <= SUM_TOLERANCE).all() & (probs >= 0).all()
