"""Evaluates networks on an image folder: top-1, top-5, ImageNet ReaL, calibration."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import ArgumentError, CorruptError, MismatchError, StateError
from softlabel_codec.image_source import ImageSource, name_of, where_is
from softlabel_codec.images.classes import images_sha256
from softlabel_codec.images.files import center_crop, load_image
from softlabel_codec.images.sources import open_images
from softlabel_codec.images.truth import stated_or_by_folder
from softlabel_codec.torch.device import ImageMemory
from softlabel_codec.torch.pixels import normalize, to_tensor
from softlabel_codec.torch.workers import end_with_main

CALIBRATION_BINS = 15
LOWER_THE_RATE = "Start again with a lower --learning-rate in another --out (--weights OUT/checkpoint.pt begins from the last good weights)"
_IMAGENET_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


@dataclass(frozen=True)
class Evaluation:
    """The results on an image folder.

    Attributes
    ----------
    num_images : int
        Number of images.
    top1, top5 : float
        Share of images whose class is the most probable one, or among the five most probable.
    calibration_error : float
        Expected calibration error (Guo et al., 2017): mean distance between confidence and accuracy over 15 bins of confidence.
    real : float or None
        Share of images whose most probable class is one of those that ImageNet ReaL accepts (Beyer et al., 2020), if they were given.
    """

    num_images: int
    top1: float
    top5: float
    calibration_error: float
    real: float | None = None


@dataclass(frozen=True)
class TestImages(Dataset[tuple[Tensor, int]]):
    """Images with their classes, scaled and center-cropped.

    Attributes
    ----------
    source : ImageSource
        Where they are.
    keys : sequence of str
        Their keys.
    classes : int64 (n,)
        Their classes.
    size : int
        Side of the crop in pixels.
    crop : float
        Fraction of the shorter side that is cropped; if it is 1, images of `size` x `size` are used unchanged.
    interpolation, exif_orientation : str
        How images are scaled, and turned.
    """

    __test__ = False  # not a pytest class

    source: ImageSource
    keys: Sequence[str]
    classes: NDArray[np.int64]
    size: int
    crop: float = 0.875
    interpolation: str = "bilinear"
    exif_orientation: str = "ignored"

    @classmethod
    def of(cls, images: Any, stated: Sequence[str] | None, usual: Sequence[str], num_classes: int, size: int, **how: Any) -> TestImages:
        """Return images with the classes that are stated for their class folders, or else by their source, or that their folders are.

        Parameters
        ----------
        images : path, mapping, array, dataset or ImageSource
            As for `open_images`.
        stated, usual, num_classes
            As for `stated_or_by_folder`.
        size : int
            Side of the crop in pixels.
        **how
            The other attributes.

        Raises
        ------
        ArgumentError
            If there are no images.
        MismatchError
            If the class of an image is not known.
        """
        source = open_images(images)
        keys = source.keys()
        return cls(source, keys, stated_or_by_folder(source, keys, stated, usual, num_classes), size, **how)

    def sha256(self) -> str:
        """Return a fingerprint of these images and their classes."""
        return images_sha256(self.source, self.keys, self.classes)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        key = self.keys[number]
        image = load_image(self.source.read(key), self.exif_orientation, where_is(self.source, key))
        return to_tensor([center_crop(image, self.size, self.crop, self.interpolation)])[0], int(self.classes[number])


class Evaluator:
    """Evaluates networks repeatedly on the same images.

    Parameters
    ----------
    images : TestImages
        The images.
    mean, std : three floats
        Normalisation of RGB in 0..1.
    device : torch.device
        Device of the networks.
    batch_size, workers : int
        Images per step, and processes that decode.
    memory : ImageMemory, optional
        Decode the images once and keep them there, on the device.
    real : path, optional
        ImageNet ReaL's JSON file: for each validation image, in order of its number, the classes that are accepted.
    """

    def __init__(
        self,
        images: TestImages,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        *,
        batch_size: int = 256,
        workers: int = 0,
        memory: ImageMemory | None = None,
        real: str | os.PathLike[str] | None = None,
    ) -> None:
        self.images, self._mean, self._std, self._device = images, mean, std, device
        self._accepted = None if real is None else read_real(real, images.keys)
        self._loader = DataLoader(
            images, batch_size=batch_size, num_workers=workers, persistent_workers=workers > 0, worker_init_fn=end_with_main
        )
        self._kept: list[tuple[Tensor, Tensor]] | None = None
        if memory is not None:
            how = (images.size, images.crop, images.interpolation, images.exif_orientation)
            what = ("test", name_of(images.source), images.classes.tobytes(), how, batch_size, device)
            self._kept = memory.keep(what, lambda: [(pixels.to(device), classes.to(device)) for pixels, classes in self._loader])

    def measure(self, model: nn.Module, autocast: torch.dtype | None = None) -> Evaluation:
        """Return the results of a network; its training or evaluation mode is restored."""
        probs, classes = self._probs(model, autocast)
        confidence, top = probs.max(dim=1)
        right = (top == classes).double()
        most_probable = probs.topk(min(5, probs.shape[1]), dim=1).indices
        real = None
        if self._accepted is not None:
            judged = [(predicted in accepted) for predicted, accepted in zip(top.tolist(), self._accepted, strict=True) if accepted]
            real = float(np.mean(judged))
        return Evaluation(
            num_images=len(classes),
            top1=float(right.mean()),
            top5=float((most_probable == classes[:, None]).any(dim=1).double().mean()),
            calibration_error=calibration_error(confidence.double(), right),
            real=real,
        )

    @torch.inference_mode()
    def _probs(self, model: nn.Module, autocast: torch.dtype | None) -> tuple[Tensor, Tensor]:
        was_training = model.training
        model.eval()
        probs, classes = [], []
        for pixels, numbers in self._batches():
            with torch.autocast(self._device.type, autocast, enabled=autocast is not None):
                logits = model(normalize(pixels, self._mean, self._std))
            if logits.shape[1] <= int(self.images.classes.max()):
                found = int(self.images.classes.max()) + 1
                raise MismatchError(
                    f"{name_of(self.images.source)}: has {counted(found, 'class', 'classes')}, the network {logits.shape[1]}"
                )
            probs.append(torch.softmax(logits.float(), dim=1).cpu())
            classes.append(numbers.cpu())
        model.train(was_training)
        predicted = torch.cat(probs)
        if not torch.isfinite(predicted).all():
            raise StateError(f"{name_of(self.images.source)}: the network predicts NaN: its training has diverged. {LOWER_THE_RATE}")
        return predicted, torch.cat(classes)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._kept is not None:
            yield from self._kept
            return
        for pixels, classes in self._loader:
            yield pixels.to(self._device, non_blocking=True), classes


def calibration_error(confidence: Tensor, right: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """Return the expected calibration error of predictions from confidences (n,) and whether each is right (n,), 0 or 1.

    Examples
    --------
    >>> round(calibration_error(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([1.0, 0.0, 1.0])), 4)
    0.4
    """
    place = (confidence * bins).long().clamp(max=bins - 1)
    sums = torch.zeros(bins, dtype=torch.float64).scatter_add_(0, place, (confidence - right).double())
    return float(sums.abs().sum() / len(confidence))


def read_real(path: str | os.PathLike[str], keys: Sequence[str]) -> list[list[int]]:
    """Return the accepted classes of validation images of ImageNet, from the JSON file that ImageNet ReaL publishes.

    Raises
    ------
    CorruptError
        If the file holds something else.
    ArgumentError
        If a key has no number of a validation image.
    """
    try:
        accepted = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptError(f"{path}: expected a JSON list: {error}") from None
    if not isinstance(accepted, list) or not all(isinstance(classes, list) for classes in accepted):
        raise CorruptError(f"{path}: expected a list of accepted classes for each validation image")
    found = []
    for key in keys:
        match = _IMAGENET_NUMBER.search(key)
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(accepted):
            raise ArgumentError(f"{key!r}: expected the name of a validation image of ImageNet, ILSVRC2012_val_00000001 and so on")
        found.append([int(number) for number in accepted[number - 1]])
    return found
