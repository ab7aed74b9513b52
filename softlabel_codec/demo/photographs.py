"""The demo's images: photographs that come with scikit-image, in grey and cut into pieces, as image folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

PHOTOGRAPHS = {
    "astronaut": "astronaut",
    "brick": "brick",
    "camera": "camera",
    "cat": "cat",
    "coffee": "coffee",
    "coins": "coins",
    "galaxies": "hubble_deep_field",
    "grass": "grass",
    "gravel": "gravel",
    "moon": "moon",
    "motorcycle": "stereo_motorcycle",
    "rocket": "rocket",
}
"""Class folders, and the function of `skimage.data` that gives the photograph."""
PIECES_PER_SIDE, PIECE_SIDE = 8, 32
PIECES = {"train": 3, "teacher-train": 30, "val": 31}
"""Number of pieces of each photograph in each folder; no piece is in two."""
INPUT_SIZE = 16
MEAN = STD = (0.5, 0.5, 0.5)


def photograph(name: str) -> Image.Image:
    """Return the middle of a photograph in grey, 256 x 256 pixels. Grey, because colours alone would identify most of them."""
    import skimage.data  # noqa: PLC0415

    found = getattr(skimage.data, PHOTOGRAPHS[name])()
    pixels = found[0] if isinstance(found, tuple) else found  # the left one of a stereo pair
    return ImageOps.fit(Image.fromarray(pixels).convert("L"), (PIECES_PER_SIDE * PIECE_SIDE,) * 2)


def write_pieces(out: Path, seed: int = 1) -> None:
    """Write the pieces of all photographs to `out/FOLDER/PHOTOGRAPH/ROW-COLUMN.png`; the seed decides which go into which folder."""
    rng = np.random.default_rng(seed)
    folders = np.repeat(list(PIECES), list(PIECES.values()))
    for name in PHOTOGRAPHS:
        whole = photograph(name)
        for number, folder in enumerate(rng.permutation(folders)):
            path = out / folder / name / "{}-{}.png".format(*divmod(number, PIECES_PER_SIDE))
            path.parent.mkdir(parents=True, exist_ok=True)
            whole.crop(piece_box(path.stem)).save(path)


def piece_box(stem: str) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a piece in its photograph, by the name of its file without the ending."""
    top, left = (int(part) * PIECE_SIDE for part in stem.split("-"))
    return left, top, left + PIECE_SIDE, top + PIECE_SIDE
