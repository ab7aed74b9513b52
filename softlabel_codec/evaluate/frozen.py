"""What the features of a frozen network are worth: k-NN and linear evaluation, as is usual for self-supervised networks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from softlabel_codec.checks.arguments import check_temperature, check_whole
from softlabel_codec.errors import ArgumentError, MismatchError, StateError
from softlabel_codec.evaluate.evaluator import LOWER_THE_RATE, TestImages
from softlabel_codec.evaluate.student import Student
from softlabel_codec.image_source import ImageSource, name_of
from softlabel_codec.images.classes import class_folders, read_class_folders
from softlabel_codec.images.sources import open_images
from softlabel_codec.images.truth import stated_or_by_folder, targets_of
from softlabel_codec.students.factories import device_by_name
from softlabel_codec.torch.pixels import normalize
from softlabel_codec.torch.workers import end_with_main

NEIGHBOURS = 20
VOTE_TEMPERATURE = 0.07
"""T of the votes exp(cosine similarity / T) of neighbours, as of Wu et al. (2018) and those who followed them."""
MOST_STEPS = 500
_NUMBERS_AT_A_TIME = 2**26


@dataclass(frozen=True)
class FrozenEvaluation:
    """The results of a frozen network.

    Attributes
    ----------
    num_images, num_train : int
        Test images, and training images whose classes were given.
    num_classes : int
        Classes of these.
    layer : str
        The network's last linear layer, whose input the features are.
    num_features : int
        Length of a feature vector.
    knn : float or None
        Top-1 of the k nearest neighbours, if asked for.
    k, temperature : int, float
        Number of neighbours, and T of their votes exp(cosine similarity / T).
    linear : float or None
        Top-1 of a logistic regression, if asked for.
    """

    num_images: int
    num_train: int
    num_classes: int
    layer: str
    num_features: int
    knn: float | None
    k: int
    temperature: float
    linear: float | None


def evaluate_frozen(
    student: Student,
    images: Any,
    train: Any,
    *,
    knn: bool = True,
    linear: bool = True,
    k: int = NEIGHBOURS,
    classes: str | os.PathLike[str] | None = None,
    batch_size: int = 256,
    workers: int = 0,
    device: str = "auto",
) -> FrozenEvaluation:
    """Return how well classes can be told from the features of a network that is not trained any more.

    Features are the input of its last linear layer, from the centre of each image. `knn_classes` and `linear_classes` say what is done
    with them. Those of all training images are kept in the device's memory, in binary32.

    Parameters
    ----------
    student : Student
        The network.
    images, train : path, mapping, array, dataset or ImageSource
        Test images, and training images, as for `softlabel_codec.images.open_images`: folders `CLASS/NAME`, or others of known class
        numbers.
    knn, linear : bool
        What to measure.
    k : int
        Number of neighbours.
    classes : path, optional
        File with the numbers of the class folders: see `read_class_folders`.
    batch_size, workers, device
        As for `TrainConfig`.

    Raises
    ------
    ArgumentError
        If there are no images, nothing is to be measured, there are fewer training images than neighbours, or the device cannot be used.
    MismatchError
        If the class of an image is not known, or the network has no last linear layer whose input is one vector per image.
    StateError
        If features are not finite.
    """
    if not (knn or linear):
        raise ArgumentError("evaluate_frozen: expected knn or linear, got neither")
    where, model = device_by_name(device), student.model
    known, asked = _test_images(student, train, images, classes)
    if knn:
        _check_votes(k, VOTE_TEMPERATURE, len(known))
    model.to(where)
    layer, head = _last_linear(model, student.num_classes)
    loaders = (DataLoader(one, batch_size, num_workers=workers, worker_init_fn=end_with_main) for one in (known, asked))
    of_train, of_images = (_features(student, head, layer, loader, where) for loader in loaders)
    truth, right = torch.from_numpy(known.classes).to(where), torch.from_numpy(asked.classes).to(where)

    def share(predicted: Tensor) -> float:
        return float((predicted == right).double().mean())

    return FrozenEvaluation(
        num_images=len(asked),
        num_train=len(known),
        num_classes=int(truth.max()) + 1,
        layer=layer,
        num_features=of_train.shape[1],
        knn=share(knn_classes(of_train, truth, of_images, k)) if knn else None,
        k=k,
        temperature=VOTE_TEMPERATURE,
        linear=share(linear_classes(of_train, truth, of_images)) if linear else None,
    )


def knn_classes(train: Tensor, classes: Tensor, features: Tensor, k: int = NEIGHBOURS, temperature: float = VOTE_TEMPERATURE) -> Tensor:
    """Return the classes that the k nearest neighbours of each vector vote for (Wu et al., 2018), int64 (m,); the lowest of several.

    Near is what has a large cosine similarity s, and a vote weighs exp(s / T).

    Parameters
    ----------
    train, classes : float32 (n, D), int64 (n,)
        Features of known classes.
    features : float32 (m, D)
        Others, on the same device.
    k : int
        Number of neighbours, at most n.
    temperature : float
        T.

    Raises
    ------
    ArgumentError
        If `k` is none of 1 to n, or `temperature` none.

    Examples
    --------
    >>> known = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    >>> knn_classes(known, torch.tensor([0, 1, 1]), torch.tensor([[5.0, 1.0], [1.0, 5.0]]), k=2)
    tensor([0, 1])
    """
    _check_votes(k, temperature, len(train))
    near, num_classes = _of_length_1(train), int(classes.max()) + 1
    predicted = []
    for rows in torch.split(_of_length_1(features), max(1, _NUMBERS_AT_A_TIME // len(train))):
        similar, which = (rows @ near.T).topk(k, dim=1)
        weights = ((similar - similar[:, :1]) / temperature).exp()  # by a factor that all share, so that no power is too large
        votes = weights.new_zeros((len(rows), num_classes)).scatter_add_(1, classes[which], weights)
        predicted.append(votes.argmax(dim=1))
    return torch.cat(predicted)


def _of_length_1(vectors: Tensor) -> Tensor:
    """Return vectors (n, D) scaled to length 1, whatever the range of their numbers; 0 stays 0."""
    largest = vectors.abs().amax(dim=1, keepdim=True)
    return functional.normalize(vectors / torch.where(largest > 0, largest, 1.0), dim=1)


def _check_votes(k: int, temperature: float, num_train: int) -> None:
    if check_whole("k", k, 1) > num_train:
        raise ArgumentError(f"k: expected at most {num_train}, the number of training images, got {k}")
    check_temperature(temperature)


def linear_classes(train: Tensor, classes: Tensor, features: Tensor) -> Tensor:
    """Return the classes that a logistic regression predicts of vectors, int64 (m,).

    Features are standardised by the mean and standard deviation of those of known classes. The regression minimises the sum of the
    cross-entropies plus half of the sum of the squared weights (C = 1 in scikit-learn), by L-BFGS over all vectors at once.

    Parameters
    ----------
    train, classes : float32 (n, D), int64 (n,)
        Features of known classes.
    features : float32 (m, D)
        Others, on the same device.
    """
    deviation, mean = torch.std_mean(train, dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    known, num_classes = (train - mean) / deviation, int(classes.max()) + 1
    weight, bias = train.new_zeros((num_classes, train.shape[1]), requires_grad=True), train.new_zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=MOST_STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe")
    at_a_time = max(1, _NUMBERS_AT_A_TIME // num_classes)

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = weight.square().sum() / (2 * len(known))
        total.backward()  # type: ignore[no-untyped-call]
        total = total.detach()
        for rows, of_rows in zip(torch.split(known, at_a_time), torch.split(classes, at_a_time), strict=True):
            part = functional.cross_entropy(rows @ weight.T + bias, of_rows, reduction="sum") / len(known)
            part.backward()  # type: ignore[no-untyped-call]
            total = total + part.detach()
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return ((features - mean) / deviation @ weight.T + bias).argmax(dim=1).detach()


def _test_images(student: Student, train: Any, images: Any, classes: str | os.PathLike[str] | None) -> tuple[TestImages, TestImages]:
    """Return training and test images, whose classes are numbered alike: by the training images, unless a file says how."""
    stated = None if classes is None else read_class_folders(classes)
    known, asked = open_images(train), open_images(images)
    keys = known.keys()
    folders = class_folders(keys) if stated is None else stated
    targets = targets_of(known, keys) if stated is None else None
    num_classes = len(folders) if targets is None else int(targets.max()) + 1
    if not num_classes:
        raise MismatchError(f"{name_of(known)}: expected images of known classes, in folders CLASS/NAME or with class numbers")
    usual = folders if targets is None else []

    def prepared(source: ImageSource, keys: Sequence[str]) -> TestImages:
        numbers = stated_or_by_folder(source, keys, stated, usual, num_classes)
        return TestImages(source, keys, numbers, student.size, student.crop, student.interpolation, student.exif_orientation)

    return prepared(known, keys), prepared(asked, asked.keys())


def _last_linear(model: nn.Module, num_outputs: int) -> tuple[str, nn.Linear]:
    """Return the last linear layer of a network that has so many outputs, and its name."""
    found = [(name, one) for name, one in model.named_modules() if isinstance(one, nn.Linear) and one.out_features == num_outputs]
    if not found:
        raise MismatchError(
            f"student: expected a network that ends in a linear layer of {num_outputs} outputs, whose input the features are"
        )
    return found[-1]


@torch.no_grad()
def _features(student: Student, head: nn.Linear, layer: str, loader: DataLoader[Any], device: torch.device) -> Tensor:
    """Return the inputs of a layer for all images, float32 (n, D), on the device; the network's mode is restored."""
    taken: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, inputs: taken.append(inputs[0].float()))
    was_training = student.model.training
    student.model.eval()
    try:
        for number, (images, _) in enumerate(loader):
            student.model(normalize(images.to(device, non_blocking=True), student.mean, student.std))
            if len(taken) != number + 1 or taken[-1].ndim != 2 or len(taken[-1]) != len(images):
                raise MismatchError(f"student: expected one vector per image as the input of its last linear layer, {layer!r}")
    finally:
        hook.remove()
        student.model.train(was_training)
    found = torch.cat(taken)
    if not torch.isfinite(found).all():
        raise StateError(f"student: its features are not finite: its training has diverged. {LOWER_THE_RATE}")
    return found
