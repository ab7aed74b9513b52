"""Fits label fields of many images at a time, on the device of their labels: what `quantise/field_fit.py` does image by image.

Arrays of images of different sizes are filled up with zeros, which change no sum: a crop that is not there has no features, and a class
that is not there has a logit of 0, as every class has that is not listed. The shapes of all arrays follow from the crops and classes of
an image alone, not from what it is fitted together with, so that neither does its field, to the last bit. Nothing of all classes of many
images is made but a copy of the probabilities, of few images at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from softlabel_codec.quantise.field_fit import (
    FEWEST_BITS,
    FEWEST_CHANGES,
    LARGEST,
    LEAST,
    MAX_CLASSES,
    MAX_LEVEL,
    MAX_SLOPE,
    NEWTON_STEPS,
    PULL,
    PULL_OF_FEW,
    RIDGE,
    ROUNDS,
    ROUNDS_OF_BITS,
    FieldNumbers,
    FieldTask,
    listed_numbers,
)

_NUMBERS_AT_ONCE, _IMAGES_AT_ONCE = {"cpu": 2**17, "cuda": 2**24}, {"cpu": 4, "cuda": 256}
"""How many numbers arrays hold at most, unless one image needs more; and how many images they hold at most."""
_ROUNDS_AT_ONCE, _FEWER_LATER = 4 * ROUNDS_OF_BITS, 8
"""After so many rounds most images have numbers that do not change any more, and are put aside; so many times fewer are left at once."""


class _Image(NamedTuple):
    """The candidate classes of an image, one or more, the most probable first.

    Attributes
    ----------
    task : int
        Which image.
    probs : float32 (M, K)
        Their probabilities.
    features : float32 (M, F + 1)
        Of the crops.
    fitted, measured : float32 (M,)
        1 for each crop that the field is made from, and for each that it is measured on.
    classes : int64 (K,)
        Which classes; -1 where there is none.
    entropy : float64 ()
        Of the probabilities of all classes, summed over the measured crops.
    num_classes : int
        How many there are.
    """

    task: int
    probs: Tensor
    features: Tensor
    fitted: Tensor
    measured: Tensor
    classes: Tensor
    entropy: Tensor
    num_classes: int


def fit_together(tasks: Sequence[FieldTask], step: float, cost: float) -> list[tuple[FieldNumbers, float]]:
    """Return the field of each task, and the mean KL of the labels from it; as `fit_one_by_one`, but of tensors, all on one device."""
    price = cost / 8
    groups: dict[torch.Size, list[_Image]] = {}
    for image in _with_candidates(tasks, price * FEWEST_BITS):
        groups.setdefault(image.probs.shape, []).append(image)
    found = {task: field for group in groups.values() for task, field in _fields(group, tasks[group[0].task].probs.shape[1], step, price)}
    return [found[task] for task in range(len(tasks))]


def _room(count: int, sizes_per_octave: int) -> int:
    """Return the length that so many crops or classes are filled up to: one of few, so that many images share it."""
    unit = max(8, (1 << (count - 1).bit_length()) // (2 * sizes_per_octave))
    return -(-count // unit) * unit


def _at_once(device: torch.device, numbers: int) -> int:
    """Return how many images of so many numbers are worked on together."""
    return min(_IMAGES_AT_ONCE[device.type], max(1, _NUMBERS_AT_ONCE[device.type] // numbers))


def _with_candidates(tasks: Sequence[FieldTask], price: float) -> Iterator[_Image]:
    """Yield images with the classes that may be worth a price, in nats, in any order."""
    by_room: dict[int, list[int]] = {}
    for number, task in enumerate(tasks):
        by_room.setdefault(_room(len(task.probs), 8), []).append(number)
    for room, numbers in by_room.items():
        first = tasks[numbers[0]].probs
        count = _at_once(first.device, room * first.shape[1])
        for start in range(0, len(numbers), count):
            chosen = numbers[start : start + count]
            yield from _candidates([tasks[number] for number in chosen], chosen, count, room, price)


def _candidates(tasks: Sequence[FieldTask], numbers: Sequence[int], count: int, room: int, price: float) -> Iterator[_Image]:
    """Yield images, filled up to `count`, of `room` crops, with their candidates."""
    device, num_classes = tasks[0].probs.device, tasks[0].probs.shape[1]
    probs = torch.zeros((count, room, num_classes), dtype=torch.float32, device=device)
    given = np.zeros((count, room, tasks[0].features.shape[1] + 2), np.float32)
    for place, task in enumerate(tasks):
        num_crops = len(task.probs)
        probs[place, :num_crops] = task.probs
        given[place, :num_crops, :-2] = task.features
        given[place, :num_crops, -2] = 1 if task.left_out is None else ~task.left_out
        given[place, :num_crops, -1] = 1 if task.left_out is None else task.left_out
    here = torch.from_numpy(given).to(device)
    features, fitted, measured = here[..., :-2], here[..., -2], here[..., -1]
    entropies = torch.special.entr(probs)
    entropy = (measured.double() * entropies.sum(dim=2, dtype=torch.float64)).sum(dim=1)
    mean = (fitted / fitted.sum(dim=1, keepdim=True).clamp(min=1))[:, None]
    order, worth = _worth(torch.bmm(mean, probs)[:, 0], torch.bmm(mean, entropies)[:, 0], price)
    counts = worth.sum(dim=1)[: len(tasks)].tolist()
    rooms = [_room(width, 1) for width in counts]
    widest = min(max(rooms), num_classes)
    first = (~worth).byte().sort(dim=1, stable=True).indices[:, :widest]
    classes = order.gather(1, first).masked_fill(~worth.gather(1, first), -1)
    some = probs.gather(2, classes.clamp(min=0)[:, None].expand(-1, room, -1)).masked_fill((classes < 0)[:, None], 0)
    more = max(rooms) - widest
    some, classes = nn.functional.pad(some, (0, more)), nn.functional.pad(classes, (0, more), value=-1)
    for place, (number, width) in enumerate(zip(numbers, rooms, strict=True)):
        of_crops = features[place], fitted[place], measured[place]
        yield _Image(number, some[place, :, :width], *of_crops, classes[place, :width], entropy[place], counts[place])


def _worth(means: Tensor, entropies: Tensor, price: float) -> tuple[Tensor, Tensor]:
    """Return the classes (B, C) in the order of their mean probabilities, and which of them may be worth a price.

    `entropies` (B, C) are the means of -p log p. What a class gains is at most the KL of its probabilities from that of a class without a
    logit.
    """
    num_classes = means.shape[1]
    means, order = means.sort(dim=1, descending=True, stable=True)
    num_likely = min(128, num_classes // 2)
    rest = 1 - means[:, :num_likely].sum(dim=1, keepdim=True, dtype=torch.float64)
    floor = (rest / (num_classes - num_likely)).clamp(min=1e-12).float()
    gains = -entropies.gather(1, order) - means * (floor.log() + 1) + floor
    worth = (gains > price) & (means >= floor / 8)
    worth[:, min(MAX_CLASSES, num_classes - 1) :] = False
    worth[:, 0] = True
    return order, worth


def _fields(images: Sequence[_Image], num_classes: int, step: float, price: float) -> Iterator[tuple[int, tuple[FieldNumbers, float]]]:
    """Yield the tasks of images with as many crops and candidates, and their fields."""
    num_crops, num_candidates = images[0].probs.shape
    count = _at_once(images[0].probs.device, num_crops * num_candidates)
    numbers = [one for part in _parts(images, count) for one in _Batch(part, count, num_classes, step, price).start().unbind()]
    changing = list(range(len(images)))
    for first_round in range(0, ROUNDS, _ROUNDS_AT_ONCE):
        still: list[int] = []
        fewer = count if not first_round else -(-count // _FEWER_LATER)
        for places in _parts(changing, fewer):
            batch = _Batch([images[place] for place in places], fewer, num_classes, step, price)
            better, active = batch.better(_filled_up([numbers[place] for place in places], fewer), first_round)
            for place, of_image in zip(places, better, strict=False):
                numbers[place] = of_image
            still += [place for place, changes in zip(places, active.tolist(), strict=False) if changes]
        changing = still
    for part, of_part in zip(_parts(images, count), _parts(numbers, count), strict=True):
        together = _filled_up(of_part, count)
        kls = _Batch(part, count, num_classes, step, price).mean_kl(together)
        classes = torch.stack([image.classes for image in part]).cpu().numpy()
        for image, of_image, ids, kl in zip(part, together.short().cpu().numpy(), classes, kls.tolist(), strict=False):
            yield image.task, (listed_numbers(of_image.astype(np.int64), ids), kl)


T = TypeVar("T")


def _parts(things: Sequence[T], count: int) -> Iterator[Sequence[T]]:
    """Yield `count` things at a time."""
    return (things[start : start + count] for start in range(0, len(things), count))


def _filled_up(tensors: Sequence[Tensor], count: int) -> Tensor:
    """Return tensors of the same shape as one, filled up with zeros to `count` of them."""
    return torch.stack([*tensors, *[torch.zeros_like(tensors[0])] * (count - len(tensors))])


class _Batch:
    """Images with K candidate classes each, filled up to B; their numbers are float32 (B, F + 1, K), all of them whole."""

    def __init__(self, images: Sequence[_Image], count: int, num_classes: int, step: float, price: float) -> None:
        self._step, self._price, self._num_classes = step, price, num_classes
        all_probs, all_features = (_filled_up([getattr(image, name) for image in images], count) for name in ("probs", "features"))
        self._given = all_probs, all_features
        fitted, self._measured = (_filled_up([getattr(image, name) for image in images], count) for name in ("fitted", "measured"))
        self._entropy = _filled_up([image.entropy for image in images], count)
        self._counts = [image.num_classes for image in images] + [0] * (count - len(images))
        there = torch.tensor(self._counts, device=all_probs.device)
        self._candidates = (torch.arange(all_probs.shape[2], device=there.device) < there[:, None])[:, None]
        self._num_others = num_classes - all_probs.shape[2]  # a candidate that is not there has a logit of 0, too
        self._num_fitted = fitted.sum(dim=1)[:, None, None].clamp(min=1)
        self._probs, self._features = all_probs * fitted[:, :, None], all_features * fitted[:, :, None]
        self._to_sums = self._features.mT / self._num_fitted
        self._known = self._to_sums @ self._probs
        means = self._probs.sum(dim=1, keepdim=True) / self._num_fitted
        self._pull = means.sqrt().repeat(1, all_features.shape[2], 1)
        self._pull[:, 0] = 0
        self._small_pull, self._to_squares = PULL_OF_FEW / self._num_fitted * self._pull, self._to_sums * self._features.mT
        kinds = means.new_tensor([[1, -1, 0], [1, 1, 0]])
        self._plus, self._times = kinds[..., None]
        largest = kinds.new_full((all_features.shape[2], 1), MAX_SLOPE)
        largest[0] = MAX_LEVEL
        self._largest, self._smallest = largest, -largest
        self._smallest[0] = 0

    def _powers(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the exponentials (B, M, K) of the candidates' logits, and the sum (B, M, 1) over all classes."""
        powers = (self._features @ numbers).clamp_(max=LARGEST).exp_()
        return powers, powers.sum(dim=2, keepdim=True) + self._num_others

    def start(self) -> Tensor:
        """Return the rounded maximum of the likelihood, by Newton's method from the fit of the logs."""
        weights = self._least_squares()
        num_features = weights.shape[1]
        products = (self._features[..., :, None] * self._features[..., None, :]).flatten(2) / self._num_fitted
        pull = PULL * self._pull
        eye = torch.eye(num_features, dtype=weights.dtype, device=weights.device)
        diagonal = eye * (pull.mT[..., None] + 1e-5)
        for _ in range(NEWTON_STEPS):
            powers, total = self._powers(weights)
            targets = powers / total
            slope = self._to_sums @ targets - self._known + pull * weights
            curvature = (torch.maximum(targets, self._probs).mT @ products).view(diagonal.shape) + diagonal
            change = torch.linalg.solve_ex(curvature, slope.mT[..., None]).result[..., 0].mT
            weights = (weights - change.clamp(-2, 2)) * self._candidates
        return (weights / self._step).round().clamp(self._smallest, self._largest)

    def _least_squares(self) -> Tensor:
        num_others = self._num_classes - self._candidates.sum(dim=2, keepdim=True)
        others = (1 - self._probs.sum(dim=2, keepdim=True)).clamp(min=1e-6) / num_others
        logs = self._probs.clamp(min=1e-9).log() - others.log()
        ridge = torch.diag(logs.new_tensor([1e-6] + [RIDGE] * (self._features.shape[2] - 1)))
        found: Tensor = torch.linalg.solve_ex(self._to_sums @ self._features + ridge, self._to_sums @ logs).result
        return found * self._candidates

    def better(self, numbers: Tensor, first_round: int) -> tuple[Tensor, Tensor]:
        """Return better numbers, after some rounds of changes, and whether those of each image, bool (B,), may still get better."""
        most = torch.tensor([_most_changes(count, first_round) for count in self._counts], device=numbers.device)
        places = torch.arange(numbers.shape[2], device=numbers.device)
        active = torch.ones((len(numbers), 1), dtype=torch.bool, device=numbers.device)
        for round_number in range(_ROUNDS_AT_ONCE):
            if round_number % ROUNDS_OF_BITS == 0:
                bits = _Bits(numbers)
            gains, row, number, drop = self._changes(numbers, bits)
            gains, order = gains.sort(dim=1, stable=True)
            worth = (gains < -1e-7) & (places < most[:, round_number, None]) & active
            active = worth[:, :1]  # the largest gain comes first
            chosen = torch.zeros_like(worth).scatter_(1, order, worth)
            before = numbers.gather(1, row[:, None])
            after = torch.where(chosen[:, None], number[:, None], before)
            numbers = numbers.scatter(1, row[:, None], after).masked_fill_((chosen & drop)[:, None], 0)
        return numbers, active[:, 0]

    def _changes(self, numbers: Tensor, bits: _Bits) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return for each class (B, K) the best change, as `field_fit` finds it.

        That is what it adds to the sum, which number it changes, what that becomes, and whether the class is dropped instead.
        """
        step, price = self._step, self._price
        scaled = numbers * step
        powers, total = self._powers(scaled)
        targets = powers / total
        slope = torch.baddbmm(self._known, self._to_sums, targets, beta=-1).addcmul_(self._small_pull, scaled)
        half_curvature = torch.baddbmm(self._small_pull, self._to_squares, targets.addcmul(targets, targets, value=-1)).mul_(0.5)
        listed = numbers.any(dim=1, keepdim=True)
        cells = bits.of(numbers)
        of_list = (self._num_classes / listed.sum(dim=2, keepdim=True).clamp_(min=1)).log2_() + 1.44
        of_row = cells.sum(dim=1, keepdim=True) + of_list
        without_row = of_row.masked_fill(listed, 0) - cells
        new = torch.addcmul(self._plus, numbers[:, :, None], self._times)  # (B, F + 1, 3, K): one more, one less, none
        new = torch.minimum(torch.maximum(new, self._smallest[..., None]), self._largest[..., None])  # of no change the effect is 0
        moved = (new - numbers[:, :, None]) * step
        effects = torch.addcmul(slope[:, :, None], half_curvature[:, :, None], moved).mul_(moved)
        effects.add_(bits.of(new).add_(without_row[:, :, None]), alpha=price)
        gains, which = effects.flatten(1, 2).min(dim=1)
        number = new.flatten(1, 2).gather(1, which[:, None])[:, 0]
        others = ((1 - powers) / total).clamp_(min=LEAST)  # what the sum becomes without the class, less 1
        without = others.log1p_().sum(dim=1, keepdim=True) / self._num_fitted + (self._known * scaled).sum(dim=1, keepdim=True)
        dropping = without.sub_(of_row, alpha=price).masked_fill_(~listed, 0)[:, 0]
        return torch.minimum(gains, dropping).mul_(self._candidates[:, 0]), which // 3, number, dropping < gains

    def mean_kl(self, numbers: Tensor) -> Tensor:
        """Return the mean KL (B,) of the measured crops, float64."""
        probs, features = self._given
        logits = features.double() @ (numbers.double() * self._step)
        top = logits.amax(dim=2, keepdim=True).clamp(min=0)
        total = (logits - top).exp().sum(dim=2) + self._num_others * (-top[..., 0]).exp()
        crossed = top[..., 0] + total.log() - (probs * logits).sum(dim=2)
        return (((crossed * self._measured).sum(dim=1) - self._entropy) / self._measured.sum(dim=1)).clamp(min=0)


class _Bits:
    """About how many bits the numbers of fields take: `field_fit.Bits` of numbers (B, F + 1, K), without tables."""

    def __init__(self, numbers: Tensor) -> None:
        listed = numbers.any(dim=1)
        num_listed = listed.sum(dim=1).float()
        levels, sizes = numbers[:, 0], numbers[:, 1:].abs()
        num_stored = (sizes > 0).sum(dim=(1, 2)).float()
        share = (num_stored + 4) / (num_listed * sizes.shape[1] + 10)
        of_first, of_more = _geometric((sizes.sum(dim=(1, 2)) - num_stored + 2) / (num_stored + 4))
        of_first = of_first + 1 - share.log2()
        ordered = levels.masked_fill(~listed, torch.inf).sort(dim=1).values
        middles = [ordered.gather(1, ((num_listed[:, None] - back).clamp(min=0) / 2).long()) for back in (0, 1)]
        middle = ((middles[0] + middles[1]) / 2).floor()[:, 0].masked_fill(num_listed == 0, 0)
        far = (levels - middle[:, None]).abs().masked_fill(~listed, 0).sum(dim=1)
        of_middle, of_far = _geometric((far + 8) / (num_listed + 4))
        none = torch.zeros_like(middle)
        rows = sizes.shape[1]
        self._centre = _of_rows(middle, none, rows)
        self._at_centre = _of_rows(1 + of_middle, of_first - of_more, rows)
        self._per_unit = _of_rows(of_far, of_more, rows)
        self._at_0 = _of_rows(none, of_more - of_first - (1 - share).log2(), rows)

    def of(self, numbers: Tensor) -> Tensor:
        """Return those of each number, (B, F + 1, K) or (B, F + 1, ..., K)."""
        rows = self._centre, self._at_centre, self._per_unit, self._at_0
        centre, at_centre, per_unit, at_0 = (row.view(*row.shape[:2], *[1] * (numbers.ndim - 2)) for row in rows)
        return torch.addcmul(at_centre, (numbers - centre).abs_(), per_unit).addcmul_((numbers == 0).to(numbers.dtype), at_0)


def _of_rows(of_level: Tensor, of_slope: Tensor, num_slopes: int) -> Tensor:
    """Return what belongs to the level, and to each slope, of B images: (B, F + 1, 1)."""
    return torch.cat([of_level[:, None], of_slope[:, None].expand(-1, num_slopes)], dim=1)[..., None]


def _geometric(means: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the number 0 of geometric distributions (B,) takes, and how much more each following one."""
    return (1 + means).log2(), ((1 + means) / means).log2()


def _most_changes(num_candidates: int, first_round: int) -> list[int]:
    """Return how many numbers of an image change at most in each of some rounds."""
    most, found = max(FEWEST_CHANGES, num_candidates // 5), []
    for _ in range(first_round + _ROUNDS_AT_ONCE):
        found.append(most)
        most = max(FEWEST_CHANGES, most * 9 // 10)
    return found[first_round:]
