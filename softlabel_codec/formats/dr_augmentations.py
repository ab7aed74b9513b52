"""The augmentations whose parameters Apple's dataset reinforcement stores (`dr/transforms.py` of ml-dr, likewise in ml-mobileclip-dr)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from softlabel_codec.errors import CorruptError, MismatchError
from softlabel_codec.formats.numpy_stand_ins import shown

CROP, FLIP = "random_resized_crop", "random_horizontal_flip"
_IN_ORDER = ("resize", "random_crop", CROP, FLIP, "rand_augment", "random_erase", "mixup", "cutmix")
"""Those with parameters, in the order in which they are stored."""
_PAIRED = ("mixup", "cutmix")
_PIXELS_STAY = ("uint8", "to_tensor", "to_rgb", "normalize")
_KNOWN = (*_IN_ORDER, *_PIXELS_STAY, "center_crop")


@dataclass(frozen=True)
class Augmentations:
    """What was done to the images.

    Attributes
    ----------
    names : tuple of str
        Names of the augmentations with parameters, in their order.
    why_no_crops : str
        Why the result is no crop of an image; empty if it is one.
    """

    names: tuple[str, ...]
    why_no_crops: str

    @property
    def mixes(self) -> bool:
        """Whether images were mixed with others."""
        return bool(set(self.names) & set(_PAIRED))

    @classmethod
    def of(cls, config: object, where: object) -> Augmentations:
        """Return the augmentations of a configuration, names to options; errors if it is something else, or has others."""
        if not isinstance(config, Mapping) or not all(isinstance(options, Mapping) for options in config.values()):
            raise CorruptError(f"{where}: expected augmentations and their options, got {type(config).__name__}")
        enabled = {name for name, options in config.items() if options.get("enable", True)}
        unknown = sorted(map(shown, enabled - set(_KNOWN)))
        if unknown:
            raise MismatchError(f"{where}: expected augmentations among {', '.join(_KNOWN)}, got {', '.join(unknown)}")
        others = [name for name in (*_IN_ORDER, "center_crop") if name in enabled and name not in (CROP, FLIP)]
        why = ""
        if others:
            why = f"the images were not only cropped and mirrored: {_joined(others)}. The same pixels need the project's own code and files"
        elif CROP not in enabled:
            why = "the images were not cropped at random, but used as they were given to the teacher, whose size is not known"
        return cls(tuple(name for name in _IN_ORDER if name in enabled), why)

    def crop(self, params: object) -> tuple[list[int], bool]:
        """Return a crop, top, left, height, width in pixels, and whether it is mirrored; CorruptError if that is something else."""
        if isinstance(params, Mapping):  # not compressed: a pair of each, of which the second is of an image to mix in
            pairs = [params.get(name) for name in self.names]
            found = [pair[0] if isinstance(pair, list | tuple) and pair else None for pair in pairs]
        elif isinstance(params, list | tuple) and not self.mixes:
            found = list(params)
        else:
            raise CorruptError(f"expected parameters of {_joined(self.names)}, got {type(params).__name__}")
        if len(found) != len(self.names):
            raise CorruptError(f"expected parameters of {_joined(self.names)}, got {len(found)}")
        named = dict(zip(self.names, found, strict=True))
        box, flip = named[CROP], named.get(FLIP, False)
        if not isinstance(box, list | tuple) or len(box) != 4 or not all(type(number) is int and 0 <= number < 2**31 for number in box):
            raise CorruptError(f"expected a crop as four whole numbers of pixels, got {_box(box)}")
        if not isinstance(flip, bool | int) or flip not in (0, 1):
            raise CorruptError(f"expected whether the crop is mirrored, got {shown(flip)}")
        return list(box), bool(flip)


def _box(box: object) -> str:
    return ", ".join(map(shown, box)) if isinstance(box, list | tuple) and len(box) == 4 else shown(box)


def _joined(names: Iterable[str]) -> str:
    return ", ".join(names)
