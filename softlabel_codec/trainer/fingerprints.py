"""By what labels and images are told from others, so that nothing is continued or reused that belongs to other ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.container.summary import keys_sha256

_PART_BYTES = 2**20


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(_PART_BYTES):
            digest.update(part)
    return digest.hexdigest()


def images_sha256(folder: str | os.PathLike[str], paths: Sequence[Path], classes: NDArray[np.int64] | None) -> str:
    """Return a fingerprint of images in any order: place below the folder, class, and bytes of each file.

    Their pixels are not looked at, which would take as long as an epoch; an image that was changed hardly ever has the same length.
    """
    known = classes if classes is not None else [""] * len(paths)
    return keys_sha256(
        sorted(
            os.fsencode(path.relative_to(folder).as_posix()) + f"\0{number}\0{path.stat().st_size}".encode()
            for path, number in zip(paths, known, strict=True)
        )
    )
