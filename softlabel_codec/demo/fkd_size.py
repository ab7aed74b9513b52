"""The size of FKD's files with the same labels."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from softlabel_codec.labels import ImageLabels, SparseLabels
from softlabel_codec.reader import SoftLabelReader


def fkd_bytes_per_crop(path: Path) -> float | None:
    """Return bytes per crop of FKD's files with the labels of a label file; None if FKD has no such labels."""
    with SoftLabelReader(path) as reader, TemporaryDirectory() as folder:
        codec, total = reader.parsed_codec, 0
        if codec.name != "hard" and (codec.k is None or codec.tail):
            return None
        for key, image in zip(reader.keys, reader, strict=True):
            file = Path(folder) / f"{Path(key).stem}.tar"  # its name is in the file too
            write_fkd_file(image, file)
            total += file.stat().st_size
        return total / int(reader.num_crops.sum())


def write_fkd_file(image: ImageLabels, path: Path) -> None:
    """Write an image's labels as FKD's generator does (`generate_soft_label.py`), in half precision: fractions, flips and labels."""
    assert isinstance(image.labels, SparseLabels)
    labels = np.stack([image.labels.indices, image.labels.values], axis=1).astype(np.float16)
    labels = labels if labels.shape[2] > 1 else labels[:, 0, 0]  # hard labels have no values
    fractions = (image.crops / np.tile(image.image_size, 2)).astype(np.float16)
    torch.save([fractions, image.flips, labels], path)
