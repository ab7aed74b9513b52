"""Naive references: the formulas as they are printed, one number at a time."""

from __future__ import annotations

import math


def kept_classes(probs: list[float], k: int | None, t: float | None) -> list[int]:
    """Return the classes that a codec keeps, most probable first, lowest class first among equals."""
    ranked = sorted(range(len(probs)), key=lambda c: (-probs[c], c))
    return ranked[:k] if k is not None else [c for c in ranked if probs[c] >= t] or ranked[:1]


def fkd_target(probs: list[float], name: str, k: int | None = None, t: float | None = None) -> list[float]:
    """Return the target of each class by FKD's formulas (Shen & Xing, ECCV 2022), the remainder clamped at 0."""
    num_classes = len(probs)
    if name in ("hard", "smoothing"):
        k = 1
    kept = kept_classes(probs, k, t)
    total = sum(probs[c] for c in kept)
    if name == "hard":
        return [1.0 if c == kept[0] else 0.0 for c in range(num_classes)]
    if name == "marginal_renorm":
        return [probs[c] / total if c in kept else 0.0 for c in range(num_classes)]
    others = num_classes - len(kept)
    rest = max(0.0, 1 - total) / others if others else 0.0
    return [probs[c] if c in kept else rest for c in range(num_classes)]


def log8_target(probs: list[float], step: float, k: int | None = None, t: float | None = None) -> list[float]:
    """Return the target of each class by marginal smoothing with log8 values (spec/sparse-v1.md, section 5.3)."""
    num_classes = len(probs)
    kept = kept_classes(probs, k, t)
    top = probs[kept[0]]
    rest = max(0.0, 1 - sum(probs[c] for c in kept)) if len(kept) < num_classes else 0.0

    def rounded(value: float, of_zero: float) -> float:
        if value == 0:
            return 0.0
        code = round((math.log(top) - math.log(value)) / step)
        return math.exp(-(code or of_zero) * step) if code < 255 else 0.0

    powers = {c: rounded(probs[c], 0.25) for c in kept} | {kept[0]: 1.0}
    rest_power = rounded(rest, 0.0)
    total = sum(powers.values()) + rest_power
    others = num_classes - len(kept)
    return [powers[c] / total if c in powers else rest_power / total / others for c in range(num_classes)]


def tail_targets(rows: list[list[float]], tail: int, k: int | None = None, t: float | None = None) -> list[list[float]]:
    """Return the targets of an image's crops with exact values and a tail (spec/sparse-v1.md, sections 6 and 7)."""
    num_classes = len(rows[0])
    kept = [kept_classes(probs, k, t) for probs in rows]
    rests = [rest_of(probs, classes) for probs, classes in zip(rows, kept, strict=True)]
    weights = _tail_weights([_share(rows, kept, rests, c) for c in range(num_classes)], tail)
    targets = []
    for probs, classes, rest in zip(rows, kept, rests, strict=True):
        total = sum(weights[c] for c in range(num_classes) if c not in classes)
        even = rest / max(1, num_classes - len(classes))
        targets.append([probs[c] if c in classes else rest * weights[c] / total if total else even for c in range(num_classes)])
    return targets


def rest_of(probs: list[float], kept: list[int]) -> float:
    """Return the probability of the classes that are not kept."""
    return max(0.0, 1 - sum(probs[c] for c in kept)) if len(kept) < len(probs) else 0.0


def _share(rows: list[list[float]], kept: list[list[int]], rests: list[float], c: int) -> float:
    """Return which part of the remainders is that of class c, over the crops that do not keep it."""
    others = [crop for crop, classes in enumerate(kept) if c not in classes]
    total = sum(rests[crop] for crop in others)
    return sum(rows[crop][c] for crop in others) / total if total > 1e-7 else 0.0


def _tail_weights(shares: list[float], tail: int) -> list[float]:
    largest = max(shares)
    if largest == 0:
        return [0.0] * len(shares)

    def rounded(value: float) -> float:
        level = round(math.log(largest / value) / 0.5) if value > 0 else 255
        return math.exp(-0.5 * level) if level < 255 else 0.0

    ranked = sorted(range(len(shares)), key=lambda c: (-shares[c], c))[:tail]
    weights = {c: rounded(shares[c]) for c in ranked if rounded(shares[c]) > 0}
    others = [shares[c] for c in range(len(shares)) if c not in weights]
    floor = rounded(sum(others) / len(others)) if others else 0.0
    return [weights.get(c, floor) for c in range(len(shares))]


def kept_by_gain(rows: list[list[float]], gain: float, tail: int) -> tuple[list[set[int]], list[int]]:
    """Return the classes that each crop keeps with `gain`, and those that the tail lists for their weight (sparse-v1.md, section 6)."""
    num_classes = len(rows[0])
    tops = [max(range(num_classes), key=lambda c, probs=probs: (probs[c], -c)) for probs in rows]
    kept = [{c for c in range(num_classes) if probs[c] >= 8 * gain} | {top} for probs, top in zip(rows, tops, strict=True)]
    for _ in range(3):
        weights, listed = _tail_by_gain(rows, kept, gain, tail)
        others = [weights[c] for c in range(num_classes) if c not in listed]
        shared = [weights[c] if c in listed else sum(others) / len(others) for c in range(num_classes)]
        chosen = []
        for probs, classes, top in zip(rows, kept, tops, strict=True):
            rest = sum(probs[c] for c in range(num_classes) if c not in classes)
            total = sum(shared[c] for c in range(num_classes) if c not in classes)
            q = [max(rest * share / max(total, 1e-30), 1e-30) for share in shared]
            gains = [divergence(p, q_c) if p > q_c and p > gain / 16 else 0.0 for p, q_c in zip(probs, q, strict=True)]
            chosen.append({c for c in range(num_classes) if gains[c] > gain} | {top})
        kept = chosen
    return kept, _tail_by_gain(rows, kept, gain, tail)[1]


def divergence(p: float, q: float) -> float:
    """Return what a target q instead of the probability p adds to a divergence."""
    return p * math.log(p / q) - p + q


def _tail_by_gain(rows: list[list[float]], kept: list[set[int]], gain: float, tail: int) -> tuple[list[float], list[int]]:
    """Return the weights of all classes, and those that are worth to be listed."""
    num_classes = len(rows[0])
    rests = [sum(probs[c] for c in range(num_classes) if c not in classes) for probs, classes in zip(rows, kept, strict=True)]
    weights = []
    for c in range(num_classes):
        others = [crop for crop, classes in enumerate(kept) if c not in classes]
        total = sum(rests[crop] for crop in others)
        weights.append(sum(rows[crop][c] for crop in others) / total if total else 0.0)
    ranked = sorted(range(num_classes), key=lambda c: (-weights[c], c))
    shares = [weights[c] / max(sum(weights), 1e-30) for c in ranked]

    def cost(number: int) -> float:
        mean = sum(shares[number:]) / (num_classes - number)
        return gain * number + sum(rests) * sum(share * math.log(share / mean) for share in shares[number:] if share)

    return weights, ranked[: min(min(range(1, num_classes), key=cost), tail)]
