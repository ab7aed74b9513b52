"""CIFAR-100's images as `.npz` files that slcodec takes: from torchvision's folder, which holds pickles of Python 2."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cifar.plan import SIDE
from softlabel_codec.container.whole_files import whole_file

SPLITS = ("train", "test")


def images_in(data: Path, work: Path) -> Path:
    """Return the folder with `train.npz` and `test.npz`: `data` if they are there, else one in `work`, for which `unpack` makes them."""
    return data if (data / "train.npz").exists() else work / "images"


def unpack(data: Path, folder: Path) -> None:
    """Write `train.npz` and `test.npz` with arrays `images`, uint8 (N, 32, 32, 3), and `labels`, int64 (N,), unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        if not (folder / f"{split}.npz").exists():
            found = _read(data / split)
            planes = found[b"data"].pixels.reshape(-1, 3, SIDE, SIDE)
            with whole_file(folder / f"{split}.npz") as file:
                np.savez(file, images=planes.transpose(0, 2, 3, 1), labels=np.array(found[b"fine_labels"], np.int64))


class _Array:
    """Stands in for numpy's arrays in a pickle; only bytes become one."""

    def __init__(self, *arguments: Any) -> None:
        self.pixels: NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, _, _, data = state
        self.pixels = np.frombuffer(data, np.uint8).reshape(shape)


class _Type:
    """Stands in for the types of numpy's arrays."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_STAND_INS = {("numpy.core.multiarray", "_reconstruct"): _Array, ("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Type}


class _Unpickler(pickle.Unpickler):
    """Runs no code of a pickle's choosing."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"expected numbers, text and arrays, got {module}.{name}")
        return _STAND_INS[module, name]


def _read(path: Path) -> dict[bytes, Any]:
    with path.open("rb") as file:
        found: dict[bytes, Any] = _Unpickler(file, encoding="bytes").load()
    return found
