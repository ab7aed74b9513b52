"""Refuses transforms that shift, crop or mirror an image, because stored labels do not apply afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from softlabel_codec.errors import ArgumentError

CROPS = "RandomCrop RandomResizedCrop CenterCrop FiveCrop TenCrop RandomIoUCrop RandomZoomOut RandomResize RandomShortestSize ScaleJitter"
WARPS = "RandomHorizontalFlip RandomVerticalFlip RandomAffine RandomRotation RandomPerspective ElasticTransform"
POLICIES = "AutoAugment RandAugment TrivialAugmentWide AugMix"  # which rotate, shear and shift
OF_TIMM = "RandomResizedCropAndInterpolation RandomCropOrPad CenterCropOrPad RandomPad TrimBorder AugMixAugment AugmentOp"
MOVES = frozenset(f"{CROPS} {WARPS} {POLICIES} {OF_TIMM}".split())
"""Classes of torchvision (v1 and v2) and of timm, by name: neither library is needed here."""
WHY = "the labels belong to the stored crop as the teacher saw it, which the dataset cuts and mirrors itself"
_MOST = 10_000


def refuse_geometry(name: str, transform: Callable[..., Any] | None) -> None:
    """Raise ArgumentError if a transform, or any part of it, crops, shifts or mirrors the image.

    Containers, modules, attributes and closures are searched. What the code of a function does is not visible here;
    `check_against_teacher` detects it.
    """
    for part in _parts(transform):
        moves = next((kind.__name__ for kind in type(part).__mro__ if kind.__name__ in MOVES), None)
        if moves is not None:
            advice = f"Leave out {moves}; changing colours and erasing parts is allowed"
            raise ArgumentError(f"{name}: expected no transform that crops, shifts or mirrors, got {moves}: {WHY}. {advice}")


def _parts(whole: Any) -> Iterator[Any]:
    """Yield an object and all objects inside it, each once."""
    waiting, seen = [whole], {id(whole)}
    while waiting and len(seen) < _MOST:
        part = waiting.pop()
        yield part
        for inner in _held_by(part):
            if id(inner) not in seen:
                seen.add(id(inner))
                waiting.append(inner)


def _held_by(part: Any) -> list[Any]:
    if isinstance(part, Mapping):
        return list(part.values())
    if isinstance(part, list | tuple | set | frozenset):
        return list(part)
    if isinstance(part, type | ModuleType):
        return []
    held = list(getattr(part, "__dict__", {}).values())
    held += [cell.cell_contents for cell in getattr(part, "__closure__", None) or () if _is_filled(cell)]
    return held + [getattr(part, name) for name in ("__self__", "__wrapped__", "func", "args", "keywords") if hasattr(part, name)]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
