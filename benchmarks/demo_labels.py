"""Labels for machines without the shared data: those that the demo's teacher gives to handwritten digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from common import Labels
from numpy.typing import NDArray
from torch import Tensor, nn

from softlabel_codec.demo.digits import IMAGE_SIDE, MEAN, NUM_CLASSES, STD, write_digits
from softlabel_codec.demo.story import OPTIONS, SCALE
from softlabel_codec.images import apply_crop, list_images, load_image
from softlabel_codec.sampler import CropSampler
from softlabel_codec.torch.pixels import normalize, to_tensor
from softlabel_codec.trainer import TrainConfig, load_student, train

NUM_IMAGES, NUM_CROPS = 100, 200
EPOCHS = 30
SIZE = IMAGE_SIDE, IMAGE_SIDE


def demo_labels(folder: Path) -> Labels:
    """Train the demo's teacher for a few seconds and return its labels."""
    write_digits(folder)
    model = _train_teacher(folder)
    sampler = CropSampler(seed=1, scale=SCALE)
    keys = list_images(folder / "train")
    keys = keys[:: len(keys) // NUM_IMAGES][:NUM_IMAGES]
    geometry = [sampler.sample(key, SIZE, range(NUM_CROPS)) for key in keys]
    probs = [_label(model, folder / "train" / key, crops) for key, (crops, _) in zip(keys, geometry, strict=True)]
    return Labels(
        source=f"the demo's teacher on {len(keys)} handwritten digits, {NUM_CROPS} crops each",
        keys=keys,
        image_sizes=np.tile(np.array(SIZE), (len(keys), 1)),
        crops=np.stack([crops for crops, _ in geometry]),
        flips=np.stack([flips for _, flips in geometry]),
        probs=np.stack(probs),
        real=False,
    )


def _train_teacher(folder: Path) -> nn.Module:
    own = {"images": str(folder / "train"), "labels": "truth", "out": str(folder / "teacher"), "epochs": EPOCHS, "flip_probability": 0.5}
    report = train(TrainConfig.from_mapping({**OPTIONS, **own, "checkpoint_epochs": EPOCHS}))
    return load_student(Path(report.out) / "weights.pt", OPTIONS["student"], NUM_CLASSES).model.eval()


@torch.inference_mode()
def _label(model: nn.Module, path: Path, crops: NDArray[np.int64]) -> NDArray[np.float32]:
    image = load_image(path)
    cut: Tensor = to_tensor([apply_crop(image, crop, False, IMAGE_SIDE) for crop in crops.tolist()])
    return model(normalize(cut, MEAN, STD)).softmax(dim=1).numpy()
