"""Labels for machines without the shared data: those that a small teacher gives to pieces of photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.measure.common import Labels
from softlabel_codec.demo.photographs import INPUT_SIZE, MEAN, PHOTOGRAPHS, PIECE_SIDE, STD, write_pieces
from softlabel_codec.demo.story import OPTIONS
from softlabel_codec.evaluate import load_student
from softlabel_codec.images.files import apply_crop, load_image
from softlabel_codec.images.paths import list_images
from softlabel_codec.sampler import CropSampler
from softlabel_codec.torch.pixels import normalize, to_tensor
from softlabel_codec.trainer import TrainConfig, train

NUM_IMAGES, NUM_CROPS = 100, 200
STUDENT, EPOCHS = "small", 40
SIZE = PIECE_SIDE, PIECE_SIDE


def demo_labels(folder: Path) -> Labels:
    """Train a network on the pieces of the demo's teacher, for a few seconds, and return its labels of the test pieces."""
    write_pieces(folder)
    model = _train_teacher(folder)
    sampler = CropSampler(seed=1)
    keys = list_images(folder / "val")
    keys = keys[:: len(keys) // NUM_IMAGES][:NUM_IMAGES]
    geometry = [sampler.sample(key, SIZE, range(NUM_CROPS)) for key in keys]
    probs = [_label(model, folder / "val" / key, crops) for key, (crops, _) in zip(keys, geometry, strict=True)]
    return Labels(
        source=f"a small network on {len(keys)} pieces of photographs, {NUM_CROPS} crops each",
        keys=keys,
        image_sizes=np.tile(np.array(SIZE), (len(keys), 1)),
        crops=np.stack([crops for crops, _ in geometry]),
        flips=np.stack([flips for _, flips in geometry]),
        probs=np.stack(probs),
        real=False,
    )


def _train_teacher(folder: Path) -> nn.Module:
    own = {"images": str(folder / "teacher-train"), "labels": "truth", "out": str(folder / "teacher"), "student": STUDENT, "epochs": EPOCHS}
    report = train(TrainConfig.from_mapping({**OPTIONS, **own, "checkpoint_epochs": EPOCHS}))
    return load_student(Path(report.out) / "weights.pt", STUDENT, len(PHOTOGRAPHS)).model.eval()


@torch.inference_mode()
def _label(model: nn.Module, path: Path, crops: NDArray[np.int64]) -> NDArray[np.float32]:
    image = load_image(path)
    cut: Tensor = to_tensor([apply_crop(image, crop, False, INPUT_SIZE) for crop in crops.tolist()])
    return model(normalize(cut, MEAN, STD)).softmax(dim=1).numpy()
