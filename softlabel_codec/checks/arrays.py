"""Conversion of arguments to numpy arrays, with a clear error if that fails."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import ArgumentError


def as_array(name: str, values: object) -> NDArray[Any]:
    """Return `values` as an array; ArgumentError if numpy cannot make one of them (ragged lists, tensors on another device, ...)."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{name}: expected an array, got {type(values).__name__} that numpy cannot convert: {error}") from None
