"""`check_against_teacher`: checks that a loader delivers the pixels that the labels were made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softlabel_codec.checks.arguments import check_temperature
from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.torch.dataset import SoftLabelDataset
from softlabel_codec.torch.loaders import Normalization, dataset_of, keys_of_rows, left_as_it_was, pixels_and_targets
from softlabel_codec.torch.loss import soft_cross_entropy
from softlabel_codec.torch.pixels import as_std, as_triple
from softlabel_codec.torch.targets import SparseTargets, Targets

MOST_MARGIN = 0.005
"""Nats by which the teacher may prefer another class to the stored top class, on average."""
MOST_DIFFERENCE = 0.025
"""By which the probability of the top class may differ from the stored one, on average; more where it is stored in coarse steps."""
DIFFERENCE_PER_STEP = 0.04
MORE_IN_BFLOAT16 = 0.02
"""How much more of both there may be where labels were made in bfloat16: its rounding changes them by that."""
MORE_THAN_A_FIELD = 1.25, 0.05
"""How much larger than the KL that the file states of its fields that of the crops that are looked at may be: a factor, and nats."""
FIELDS = 256
"""Of so many images the stated KL is read."""
NUM_WORST = 5
_TINY = 1e-12
_EDGE = 0.5 / 255
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WorstCrop:
    """A crop for which teacher and label disagree.

    Attributes
    ----------
    batch, row : int
        Number of the batch, and of the crop in it.
    key : str or None
        Key of its image, if the loader reads a `SoftLabelDataset` in order.
    margin, difference : float
        As in `TeacherCheck`, of this crop. The difference is 0 where labels hold no probabilities.
    """

    batch: int
    row: int
    key: str | None
    margin: float
    difference: float


@dataclass(frozen=True)
class TeacherCheck:
    """The teacher's output for the crops that a loader delivers, compared with their labels.

    Attributes
    ----------
    ok : bool
        Whether pixels, labels and teacher belong together.
    reason : str
        Why, or why not.
    num_crops : int
        Crops looked at.
    agreement : float
        Share of crops whose most probable class is that of the label.
    margin : float
        Mean of ln(p of the teacher's top class / p of the label's top class), in nats: 0 if they always agree, and slightly more if
        they differ only where two classes are almost equally probable.
    difference, largest_difference : float or None
        Mean and largest difference between label and teacher in the probability of the label's top class. None for labels without
        values (`hard`).
    cross_entropy, entropy, kl : float
        Cross-entropy of teacher and label, entropy of the label, and the difference of the two, in nats. They include the codec's loss:
        a label of `hard` is far from the teacher's output and still correct.
    outside : float
        Share of pixel values outside of 0..1 after the normalisation was reversed.
    worst : list of WorstCrop
        Where they disagree most.
    """

    ok: bool
    reason: str
    num_crops: int
    agreement: float
    margin: float
    difference: float | None
    largest_difference: float | None
    cross_entropy: float
    entropy: float
    kl: float
    outside: float
    worst: list[WorstCrop]


def check_against_teacher(
    loader: Iterable[Any],
    teacher: Callable[[Tensor], Any],
    batches: int | None = 2,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    teacher_mean: Sequence[float] | None = None,
    teacher_std: Sequence[float] | None = None,
    temperature: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TeacherCheck:
    """Run a teacher on what a loader delivers, and check that the labels belong to these pixels.

    Do this once before a long training. It detects crops that were cut or mirrored a second time, pixels normalised twice or with other
    values than stated, another interpolation, other images under the same names, another teacher, and another temperature. Leave out
    augmentation that changes colours. Afterwards sampler and dataset continue as if nothing had been drawn.

    Parameters
    ----------
    loader : iterable of (images, targets)
        The loader as training will use it: images uint8 or float (B, 3, H, W), targets SparseTargets, DenseTargets, or probabilities
        float (B, C).
    teacher : callable
        The teacher that made the labels: maps images, normalised as it expects, to logits (B, C), or to an object with `logits`.
    batches : int, optional
        Number of batches to check, with at least 30 images together; None: all.
    mean, std : three floats, optional
        Normalisation of the loader's floats. By default that of its `SoftLabelDataset`.
    teacher_mean, teacher_std : three floats, optional
        Normalisation that the teacher expects. By default from the label file.
    temperature : float, optional
        T of softmax(logits / T) that the labels were made with. By default that of the `SoftLabelDataset`'s labels.
    progress : callable, optional
        Called with the number of batches done and in all, for a loader that has a length.

    Returns
    -------
    TeacherCheck

    Raises
    ------
    ArgumentError
        If the normalisation of the pixels or of the teacher is unknown, or the loader delivers anything but images and targets.
    MismatchError
        If the teacher has another number of classes, or looked at another size of crop.
    StateError
        If the labels are features.

    Notes
    -----
    Labels are accepted if `margin` is at most 0.005 nats and `difference` at most 0.025 (0.04 times the step of `log8` values, if that is
    more; both 0.02 more where the file says that it was made in bfloat16). Measured with a MobileNetV2 on 132 crops of ImageNet
    photographs (`benchmarks/results/wrong-uses.json`): right labels have a margin of 0.000 and a difference of 0.000 to 0.014, by codec;
    with steps of 1, 0.029. Of the wrong uses, the nearest are another JPEG compression of the images at quality 95 (0.015 and 0.035),
    Pillow's bicubic filter instead of the bilinear one (0.027 and 0.045), and half of the crops mirrored (0.041 and 0.063); a second
    random crop has 1.2 and 0.31. Crops of one image fail together: look at 30 images or more, 4 crops of each.
    Label fields (`codec="field"`) are an approximation. They are accepted if KL(teacher || label) is at most 1.25 times what the file
    states of crops that fields were not made from, and 0.05 nats: this detects other images, crops that are cut a second time and other
    teachers, but not what changes pixels a little.
    `hard` labels have no difference: they do not tell one temperature from another, nor depend on it.
    """
    dataset = dataset_of(loader)
    expected = _expected_by_teacher(dataset, teacher_mean, teacher_std)
    temperature = _temperature(dataset) if temperature is None else temperature
    check_temperature(temperature)
    given = None if mean is None and std is None else (as_triple("mean", mean), as_std(std))
    candidates = 1 if dataset is not None and not dataset.reader.parsed_codec.tail else 2
    looked = []
    with left_as_it_was(loader, dataset), _evaluating(teacher):
        for batch in islice(loader, batches):
            pixels, targets = pixels_and_targets(batch, dataset, given)
            _check_size(pixels, dataset)
            looked.append(_look(pixels, targets, teacher, expected, temperature, candidates))
            if progress is not None and isinstance(loader, Sized):
                progress(len(looked), min(len(loader), batches or len(loader)))
    if not looked:
        raise ArgumentError("loader: expected at least one batch, got none")
    return _judge(looked, _tolerance(dataset), keys_of_rows(loader, dataset))


class _Look(NamedTuple):
    """What was seen of the crops of a batch, float64 (B,) each; whether all labels are sure; the share of pixel values outside of 0..1.

    `from_teacher` is KL(teacher || label).
    """

    agree: _Floats
    margin: _Floats
    difference: _Floats
    cross_entropy: _Floats
    entropy: _Floats
    from_teacher: _Floats
    sure: bool
    outside: float


def _look(
    pixels: Tensor, targets: Targets, teacher: Callable[[Tensor], Any], expected: Normalization, temperature: float, candidates: int
) -> _Look:
    device = _device_of(teacher, pixels)
    targets = targets.to(device)
    logits = _logits(teacher, _changed(pixels.to(device), expected), targets) / temperature
    log_p = torch.log_softmax(logits, dim=1)
    top, said, sure = _top(targets, log_p, candidates)
    of_label = log_p.gather(1, top[:, None])[:, 0]
    dense = targets.dense().double()
    return _Look(
        agree=_numpy(log_p.argmax(dim=1) == top),
        margin=_numpy(log_p.amax(dim=1) - of_label),
        difference=_numpy((of_label.exp() - said).abs()),
        cross_entropy=_numpy(soft_cross_entropy(logits, targets, "none")),
        entropy=_numpy(-(dense * dense.clamp(min=_TINY).log()).sum(dim=1)),
        from_teacher=_numpy((log_p.double().exp() * (log_p.double() - dense.clamp(min=_TINY).log())).sum(dim=1)),
        sure=sure,
        outside=float(((pixels < -_EDGE) | (pixels > 1 + _EDGE)).double().mean()),
    )


class _Tolerance(NamedTuple):
    """How large margin and difference may be, or else, for fields, KL(teacher || label)."""

    margin: float
    difference: float
    from_teacher: float | None = None


def _tolerance(dataset: SoftLabelDataset | None) -> _Tolerance:
    """Return what may be for the labels of a file."""
    if dataset is None:
        return _Tolerance(MOST_MARGIN, MOST_DIFFERENCE)
    codec = Codec.parse(dataset.reader.codec)
    of_steps = DIFFERENCE_PER_STEP * codec.step if codec.values == "log8" else 0.0
    more = MORE_IN_BFLOAT16 if dataset.reader.metadata.get("precision") == "bfloat16" else 0.0
    return _Tolerance(MOST_MARGIN + more, max(MOST_DIFFERENCE, of_steps) + more, _stated_by_fields(dataset.reader))


def _stated_by_fields(reader: SoftLabelReader) -> float | None:
    """Return how large KL(teacher || label) may be for labels that are fields; None for others."""
    if reader.parsed_codec.family != "field":
        return None
    fitted, unseen = reader.field_kl(np.unique(np.linspace(0, len(reader) - 1, min(FIELDS, len(reader))).astype(np.int64)))
    measured = unseen[~np.isnan(unseen)]
    factor, more = MORE_THAN_A_FIELD
    return factor * max(float(np.nanmean(fitted)), float(measured.mean()) if len(measured) else 0.0) + more


def _judge(looked: Sequence[_Look], most: _Tolerance, key_of: Callable[[int, int], str] | None) -> TeacherCheck:
    places = [(batch, row) for batch, look in enumerate(looked) for row in range(len(look.agree))]
    agree, margin, cross_entropy, entropy = (np.concatenate([getattr(look, name) for look in looked]) for name in _JOINED)
    hard = all(look.sure for look in looked)
    difference = None if hard else np.concatenate([look.difference for look in looked])
    outside = float(np.mean([look.outside for look in looked]))
    wrong = margin / most.margin + (0 if difference is None else difference / most.difference)
    worst = []
    for number in np.argsort(-wrong, kind="stable")[:NUM_WORST].tolist():
        (batch, row), apart = places[number], 0.0 if difference is None else float(difference[number])
        worst.append(WorstCrop(batch, row, None if key_of is None else key_of(batch, row), float(margin[number]), apart))
    mean_difference = None if difference is None else float(difference.mean())
    ok, reason = _verdict(float(agree.mean()), float(margin.mean()), mean_difference, outside, most)
    if most.from_teacher is not None:
        ok, reason = _verdict_on_fields(float(np.mean(np.concatenate([look.from_teacher for look in looked]))), most.from_teacher, reason)
    return TeacherCheck(
        ok=ok,
        reason=reason,
        num_crops=len(agree),
        agreement=float(agree.mean()),
        margin=float(margin.mean()),
        difference=mean_difference,
        largest_difference=None if difference is None else float(difference.max()),
        cross_entropy=float(cross_entropy.mean()),
        entropy=float(entropy.mean()),
        kl=float((cross_entropy - entropy).mean()),
        outside=outside,
        worst=worst,
    )


_JOINED = ("agree", "margin", "cross_entropy", "entropy")


def _verdict(agreement: float, margin: float, difference: float | None, outside: float, most: _Tolerance) -> tuple[bool, str]:
    """Return whether labels are accepted, and why, or what is probably wrong."""
    if margin <= most.margin and (difference is None or difference <= most.difference):
        return True, "the teacher's output for these pixels agrees with the labels"
    if not (math.isfinite(margin) and (difference is None or math.isfinite(difference))):
        return False, "the teacher's logits are not finite"
    if outside:
        advice = "they are normalised twice, or with another mean and std than stated"
        return False, f"{outside:.1%} of the pixel values are outside of 0..1 after reversing the normalisation: {advice}"
    if margin <= most.margin:
        return False, "the top classes agree but their probabilities do not: another temperature, or a slightly different teacher"
    if agreement < 0.1:
        return False, "almost no top class agrees: other images, another teacher, another order of classes, or pixels of another scale"
    what = "cut, mirrored or coloured a second time, another interpolation, another normalisation, another copy of the images"
    return False, f"the teacher's output for these pixels differs from the labels: {what}, or another version of the teacher"


def _verdict_on_fields(kl: float, most: float, otherwise: str) -> tuple[bool, str]:
    if kl <= most:
        return True, f"the labels are as near to the teacher's output as their fields are said to be: KL {kl:.3f}, of at most {most:.3f}"
    return False, f"KL {kl:.3f}, where the fields are said to have at most {most:.3f}: {otherwise}"


def _logits(teacher: Callable[[Tensor], Any], images: Tensor, targets: Targets) -> Tensor:
    with torch.inference_mode():
        output = teacher(images)
    logits = getattr(output, "logits", output)
    expected = (len(targets), targets.num_classes)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise MismatchError(f"teacher: expected logits of shape {expected} for these labels, got {found}")
    return logits.double()


def _top(targets: Targets, log_p: Tensor, candidates: int) -> tuple[Tensor, Tensor, bool]:
    """Return the top class of each label, int64 (B,), and its probability; and whether all labels are that class and nothing else.

    Dense targets do not say which class was stored as the top one, and a tail may give another class more: of so many `candidates` with
    the largest targets, it is the one that the teacher finds most probable.
    """
    if isinstance(targets, SparseTargets):
        top, said = targets.indices[:, 0].long(), targets.values[:, 0].double()
        hard = targets.indices.shape[1] == 1 and not bool(targets.remainder.any())
        return top, said, hard and bool((said == 1).all())
    said, classes = targets.probs.double().topk(candidates, dim=1)
    chosen = log_p.gather(1, classes).argmax(dim=1, keepdim=True)
    return classes.gather(1, chosen)[:, 0], said.gather(1, chosen)[:, 0], bool((said[:, 0] == 1).all())


def _changed(pixels: Tensor, expected: Normalization) -> Tensor:
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in expected)
    return (pixels - mean) / std


def _expected_by_teacher(dataset: SoftLabelDataset | None, mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalization:
    said = _preprocessing(dataset)
    mean, std = said.get("mean") if mean is None else mean, said.get("std") if std is None else std
    if mean is None or std is None:
        raise ArgumentError("teacher_mean, teacher_std: the label file does not say how the teacher's images are normalised: pass it here")
    return as_triple("teacher_mean", mean), as_std(std)


def _temperature(dataset: SoftLabelDataset | None) -> float:
    """Return the temperature of the labels; ArgumentError if they were made of stored ones, and are not the teacher's for that."""
    if dataset is None:
        return 1.0
    reader = dataset.reader
    if reader.approximated:
        advice = "Check a dataset without temperature=: these labels are made of those"
        raise ArgumentError(f"loader: expected labels as they are stored, got them at temperature {reader.temperature:g}. {advice}")
    return reader.temperature


def _check_size(pixels: Tensor, dataset: SoftLabelDataset | None) -> None:
    size = _preprocessing(dataset).get("size")
    if isinstance(size, int) and tuple(pixels.shape[2:]) != (size, size):
        found = f"the loader gives {pixels.shape[2]} x {pixels.shape[3]}"
        raise MismatchError(f"loader: the teacher labelled crops of {size} x {size} pixels, {found}: check a loader of that size")


def _preprocessing(dataset: SoftLabelDataset | None) -> dict[str, Any]:
    said = None if dataset is None else dataset.reader.metadata.get("preprocessing")
    return said if isinstance(said, dict) else {}


@contextmanager
def _evaluating(teacher: Callable[[Tensor], Any]) -> Iterator[None]:
    """Put a teacher into eval mode inside the block."""
    modes = [(module, module.training) for module in teacher.modules()] if isinstance(teacher, nn.Module) else []
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def _device_of(teacher: Callable[[Tensor], Any], pixels: Tensor) -> torch.device:
    """Return where a teacher is; what is no module takes pixels where they are."""
    weights = [*teacher.parameters(), *teacher.buffers()] if isinstance(teacher, nn.Module) else []
    return weights[0].device if weights else pixels.device


def _numpy(values: Tensor) -> _Floats:
    return values.double().cpu().numpy()
