"""Labels at another temperature than that at which they were made: when it is possible, and how (spec/sparse-v1.md, section 7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.arguments import TEMPERATURES, check_temperature, is_temperature
from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.labels import Labels, SparseLabels, Tails

_SMALLEST = 1e-37
_LARGEST_POWER_OF_FULL_TAILS = 8.0  # of greater ones, the weights of crops that are sure of the main class leave the range of binary32
_OTHERS = "'dense:content=logits' keeps all, a tail such as that of 'marginal_smoothing:t=0.1,step=1,tail=all,mean=log' a part of it"
_ADVICE = f"Leave temperature out, or label again: {_OTHERS}, and with `slcodec encode --temperature` any codec is made for one"


def stored_temperature(codec: Codec, metadata: Mapping[str, Any], where: object) -> float | None:
    """Return T of softmax(logits / T) of stored labels, 1 for logits; None if the metadata do not say it.

    Raises
    ------
    MismatchError
        If what they say is none.
    """
    said = 1.0 if codec.content == "logits" else metadata.get("temperature")
    if said is None:
        return None
    if not is_temperature(said):
        raise MismatchError(f"{where}: its metadata say temperature={said!r}, expected {TEMPERATURES}")
    return float(said)


def power_at(temperature: float, codec: Codec, num_classes: int, metadata: Mapping[str, Any], where: object) -> float:
    """Return the power of stored targets that gives those at a temperature: T of the labels / T.

    Raises
    ------
    ArgumentError
        If the labels do not know what is needed for it. The text says what is lost, and which codec would know it.
    MismatchError
        If it is not known at which temperature the labels were made.
    """
    check_temperature(temperature)
    if codec.content == "features":
        advice = "Training chooses one: slcodec train --teacher-temperature T, or labels.at(T) in a loop of your own"
        raise ArgumentError(f"{where}: temperature: expected none, as features are stored without one, got {temperature:g}. {advice}")
    stored = stored_temperature(codec, metadata, where)
    if temperature == (stored or 1.0):
        return 1.0
    found = f"{where}: temperature: expected {stored or 1.0:g}, that of these labels, got {temperature:g}"
    for each in (codec, *_earlier_codecs(metadata)):
        if not each.knows_all_classes(num_classes):
            made_of = "" if each == codec else ", of which these were made,"
            raise ArgumentError(f"{found}: labels of {str(each)!r}{made_of} {_lost(each, num_classes)}. {_ADVICE}")
    if codec.full_tail and stored is not None and stored / temperature > _LARGEST_POWER_OF_FULL_TAILS:
        least = f"at least {stored / _LARGEST_POWER_OF_FULL_TAILS:g} for labels of {str(codec)!r}, whose tail is too coarse for less"
        raise ArgumentError(f"{where}: temperature: expected {least}, got {temperature:g}")
    if stored is None:
        advice = "If you know it, say it in a copy: slcodec copy LABELS COPY --metadata temperature=1"
        expected = f"metadata that say at which one the labels were made, to read them at {temperature:g}"
        raise MismatchError(f"{where}: temperature: expected {expected}. {advice}")
    return stored / temperature


def _earlier_codecs(metadata: Mapping[str, Any]) -> Iterator[Codec]:
    """Yield the codecs that labels had before a copy stored them in another one (spec/container-v1.md, section 4.1)."""
    merged = metadata.get("merged_from")
    for said in (metadata, *(merged if isinstance(merged, list) else ())):
        earlier = said.get("transcoded_from") if isinstance(said, Mapping) else None
        for text in earlier if isinstance(earlier, list) else ():
            with suppress(ArgumentError):
                yield Codec.parse(text)


def _lost(codec: Codec, num_classes: int) -> str:
    """Return why labels of a codec that does not know all classes cannot be at another temperature."""
    if codec.values == "none":
        return "say which class is on top, and of no class how probable it is"
    if codec.family == "dense" or codec.k == num_classes:
        return "have lost small probabilities, which float16 rounds to 0 and which count more at a higher temperature"
    if codec.tail:
        return f"know the remainder only as what the values ({codec.values}) lack to 1, which rounding may take away; log8 keeps it"
    use = "drop the remainder" if codec.policy == "renorm" else "spread the remainder evenly"
    return f"{use}: how probable each class is that was not kept is lost, and at another temperature they have another share together"


def to_power(labels: Labels, power: float) -> Labels:
    """Return labels whose targets are those of `labels` to a power, normalised; logits are multiplied by it.

    With the power T0 / T, labels made at the temperature T0 become those at T. Sparse labels have values v_k, a remainder r, and weights
    w_c of the classes that are not kept (1 without tails). With Z = sum of w_c and Z' = sum of w_c^power over these classes, and N the sum
    of all that is below, they get

        values v_k^power / N,    remainder (r / Z)^power Z' / N,    weights w_c^power

    Weights that change with the crop's value of a main class change with its first value, and by the power of that.
    So, as long as the remainder is spread by these weights, targets are those of the dense labels to that power.
    """
    if power == 1:
        return labels
    if isinstance(labels, SparseLabels):
        return _sparse_to_power(labels, power)
    if labels.content == "logits":
        return replace(labels, vectors=labels.vectors * np.float32(power))
    powers = (labels.vectors / labels.vectors.max(axis=1, keepdims=True)) ** np.float32(power)
    return replace(labels, vectors=np.asarray(powers / powers.sum(axis=1, dtype=np.float64, keepdims=True), np.float32))


def _sparse_to_power(labels: SparseLabels, power: float) -> SparseLabels:
    top = np.maximum(labels.values[:, 0].astype(np.float64), _SMALLEST)
    num_others = labels.num_classes - labels.counts
    total = softened = num_others.astype(np.float64)  # where all get the same
    tails = labels.tails
    if labels.tails is not None:
        tails, sums = _tails_to_power(labels.tails, power, labels.num_classes)
        listed = labels.listed_not_kept()
        of_tail = labels.weight_not_kept(labels.tails, listed)
        along = of_tail > 0
        total = np.where(along, of_tail, total)
        softened = np.where(along, labels.weight_not_kept(tails, listed) * sums[labels.tail_of], softened)
    values = (labels.values / top[:, None]) ** power
    of_weight_one = np.divide(labels.remainder, top * total, out=np.zeros(len(labels)), where=num_others > 0)  # relative to the top class
    remainder = of_weight_one**power * softened
    norm = values.sum(axis=1) + remainder
    return replace(
        labels,
        values=(values / norm[:, None]).astype(np.float32),
        remainder=(remainder / norm).astype(np.float32),
        tails=tails,
        main_values=None if tails is None or tails.slopes is None else labels.values_of_main_class(),
    )


def _tails_to_power(tails: Tails, power: float, num_classes: int) -> tuple[Tails, NDArray[np.float64]]:
    """Return tails whose weights are those of others to a power, divided by sums of each image; and these, float64 (I,)."""
    weights, floor = tails.weights.astype(np.float64) ** power, tails.floor.astype(np.float64) ** power
    sums = weights.sum(axis=1) + (num_classes - (tails.classes >= 0).sum(axis=1)) * floor
    sums[sums == 0] = 1.0  # a tail without any weight
    softer = replace(
        tails,
        weights=np.asarray(weights / sums[:, None], np.float32),
        floor=np.asarray(floor / sums, np.float32),
        slopes=None if tails.slopes is None else tails.slopes * np.float32(power),
    )
    return softer, sums
