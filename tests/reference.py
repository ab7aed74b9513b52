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
    rest = rest_of(probs, kept)
    rest = sum(probs[c] for c in range(num_classes) if c not in kept) if rest < 1e-5 else rest

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


def full_tail_codes(rows: list[list[float]], k: int | None = None, t: float | None = None) -> list[tuple[int, int]]:
    """Return level and slope of each class in an image's tail of all classes, with `mean=log` (spec/sparse-v1.md, section 6.2)."""
    kept = [kept_classes(probs, k, t) for probs in rows]
    of_main = _of_main_class(rows, kept)
    lines = [_line(rows, kept, of_main, c) for c in range(len(rows[0]))]
    largest = max((a for a, _ in lines), default=-math.inf)
    if largest == -math.inf:
        return [(0, 0) for _ in lines]
    return [(min(31, round((largest - a) / 0.5)) if a > -math.inf else 31, slope) for a, slope in lines]


def _of_main_class(rows: list[list[float]], kept: list[list[int]]) -> list[float]:
    """Return x of each crop: its probability of the class that most crops put first, 0 if it does not keep it."""
    first = [classes[0] for classes in kept]
    main = min(first, key=lambda c: (-first.count(c), c))
    return [probs[main] if main in classes else 0.0 for probs, classes in zip(rows, kept, strict=True)]


def _line(rows: list[list[float]], kept: list[list[int]], of_main: list[float], c: int) -> tuple[float, int]:
    """Return a_c and slope_c: of the line through (x less 1/2, ln of the share of class c) over the crops that left it out."""
    points = []
    for probs, classes, of_class in zip(rows, kept, of_main, strict=True):
        whole = sum(p for other, p in enumerate(probs) if other not in classes)
        if c not in classes and whole > 0:
            share = max(1e-9, probs[c] / whole)
            points.append((of_class - 0.5, math.log(share), share**0.25))
    if not points:
        return -math.inf, 0
    total = sum(weight for _, _, weight in points)
    x, y = (sum(point[place] * point[2] for point in points) / total for place in (0, 1))
    variance = sum(weight * (one - x) ** 2 for one, _, weight in points) / total
    slope = sum(weight * (one - x) * (other - y) for one, other, weight in points) / total / (variance + 0.01)
    rounded = max(-4, min(3, int(slope / 1.5 + math.copysign(0.4, slope))))
    return y - 1.5 * rounded * x, rounded


def full_tail_targets(
    rows: list[list[float]], codes: list[tuple[int, int]], k: int | None = None, t: float | None = None
) -> list[list[float]]:
    """Return the targets of an image's crops with exact values and a tail of all classes (spec/sparse-v1.md, sections 6.2 and 7)."""
    targets, kept = [], [kept_classes(probs, k, t) for probs in rows]
    for probs, classes, x in zip(rows, kept, _of_main_class(rows, kept), strict=True):
        rest = rest_of(probs, classes)
        e = [0.0 if c in classes else math.exp(-0.5 * (level - slope * (3 * x - 1.5))) for c, (level, slope) in enumerate(codes)]
        targets.append([probs[c] if c in classes else rest * e[c] / sum(e) for c in range(len(probs))])
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


def field_features(edges: list[float]) -> list[float]:
    """Return the features f_0 to f_7 of a crop from its top, left, bottom and right edge, as fractions (spec/field-v1.md, section 3)."""
    t, l, b, r = (min(max(edge, 0.0), 1.0) for edge in edges)  # noqa: E741
    size, across, down = ((r - l) + (b - t) - 1.25) / 0.35, (l + r - 1) / 0.25, (t + b - 1) / 0.25
    shape = ((r - l) - (b - t)) / 0.2
    raw = [1.0, size, across, down, shape, *(0.75 * (axis * axis - 1) for axis in (size, across, down))]
    return [round(feature * 2**20) / 2**20 for feature in raw]


def field_target(edges: list[float], numbers: dict[int, list[int]], step: float, num_classes: int) -> list[float]:
    """Return the target of each class, from the level and the slopes of each listed one (spec/field-v1.md, section 4)."""
    features = field_features(edges)
    logits = [0.0] * num_classes
    for c, of_class in numbers.items():
        logits[c] = step * sum(number * feature for number, feature in zip(of_class, features, strict=True))
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / math.fsum(powers) for power in powers]


def mean_kl(rows: list[list[float]], targets: list[list[float]]) -> float:
    """Return the mean over crops of the KL divergence of targets from probabilities, in nats."""
    pairs = [(p, q) for probs, target in zip(rows, targets, strict=True) for p, q in zip(probs, target, strict=True) if p > 0]
    return math.fsum(p * math.log(p / q) for p, q in pairs) / len(rows)


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
