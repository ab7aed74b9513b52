"""What is asked of a codec that is to be chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.errors import ArgumentError

DEFAULT_FIDELITY = 0.04
NUMBERS_OF_CROPS = (5, 10, 20, 50, 100, 200)
FEW_DRAWS = 80
COST_OF_FEW_CROPS = {5: 0.05, 10: 0.03, 20: 0.01}
"""What few stored crops count as, in shares lost, where an image is drawn more than `FEW_DRAWS` times (docs/codecs.md)."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a codec: to lose little, or to take few bytes.

    Attributes
    ----------
    fidelity : float or None
        The largest share that may be lost.
    bytes_per_image : float or None
        The most bytes that an image may take.
    draws : int or None
        How often an image will be drawn in training, None: many times. Only with `bytes_per_image`.
    fixed_crops : bool
        Whether the number of crops is not to be chosen.
    """

    fidelity: float | None
    bytes_per_image: float | None = None
    draws: int | None = None
    fixed_crops: bool = False

    @classmethod
    def of(cls, fidelity: float | str | None, bytes_per_image: float | None, draws: int | None, fixed_crops: bool = False) -> Asked:
        """Return what these arguments ask for; ArgumentError if they contradict each other, or a value is out of range."""
        if bytes_per_image is None:
            if draws is not None:
                raise ArgumentError(f"draws: expected None, as bytes_per_image is not given, got {draws!r}")
            return cls(DEFAULT_FIDELITY if fidelity is None else _share(fidelity))
        if fidelity is not None:
            raise ArgumentError(f"fidelity: expected None, as bytes_per_image is given, got {fidelity!r}")
        is_number = isinstance(bytes_per_image, int | float) and not isinstance(bytes_per_image, bool)
        if not is_number or not 0 < bytes_per_image < math.inf:
            raise ArgumentError(f"bytes_per_image: expected a positive number, got {bytes_per_image!r}")
        return cls(None, float(bytes_per_image), None if draws is None else check_whole("draws", draws, 1), fixed_crops)

    def described(self) -> dict[str, float]:
        """Return what is asked for, by name."""
        named = {"fidelity": self.fidelity, "bytes_per_image": self.bytes_per_image, "draws": self.draws}
        return {name: value for name, value in named.items() if value is not None}

    def numbers_of_crops(self, most: int) -> list[int]:
        """Return the numbers of crops among which one is chosen if there are so many; only that one if it is not to be chosen."""
        if self.bytes_per_image is None or self.fixed_crops:
            return [most]
        most = min(most, self.draws or most, max(NUMBERS_OF_CROPS))
        return [number for number in NUMBERS_OF_CROPS if number < most] + [most]

    def cost_of(self, num_crops: int) -> float:
        """Return what it costs that no more crops are stored, as a share lost."""
        if self.draws is not None and self.draws <= FEW_DRAWS:
            return 0.0
        return max((cost for number, cost in COST_OF_FEW_CROPS.items() if num_crops <= number), default=0.0)


def _share(value: Any) -> float:
    """Return a share, given as 0.04 or '4%'."""
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise ArgumentError(f"fidelity: expected the share that may be lost, such as 4% or 0.04, got {value!r}")
    return share
