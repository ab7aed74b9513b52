"""Labels for machines without the shared data: those that the demo's teacher gives to handwritten digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from common import Labels
from numpy.typing import NDArray
from torch import Tensor, nn

from softlabel_codec.demo.digits import IMAGE_SIDE, MEAN, STD, Digits, small_network, write_digits
from softlabel_codec.images import apply_crop, load_image
from softlabel_codec.sampler import CropSampler
from softlabel_codec.torch.pixels import normalize, to_tensor

NUM_IMAGES, NUM_CROPS = 100, 200
WIDTH, EPOCHS, BATCH = 32, 3, 50
SIZE = IMAGE_SIDE, IMAGE_SIDE


def demo_labels(folder: Path) -> Labels:
    """Train the demo's teacher for a few seconds and return its labels."""
    digits = write_digits(folder)
    model = _train_teacher(digits)
    sampler = CropSampler(seed=1, scale=(0.35, 1.0))
    keys = sorted(digits.classes)[:: len(digits.classes) // NUM_IMAGES][:NUM_IMAGES]
    geometry = [sampler.sample(key, SIZE, range(NUM_CROPS)) for key in keys]
    probs = [_label(model, digits.folder / key, crops) for key, (crops, _) in zip(keys, geometry, strict=True)]
    return Labels(
        source=f"the demo's teacher on {len(keys)} handwritten digits, {NUM_CROPS} crops each",
        keys=keys,
        image_sizes=np.tile(np.array(SIZE), (len(keys), 1)),
        crops=np.stack([crops for crops, _ in geometry]),
        flips=np.stack([flips for _, flips in geometry]),
        probs=np.stack(probs),
        real=False,
    )


def _train_teacher(digits: Digits) -> nn.Module:
    torch.manual_seed(0)
    model = small_network(WIDTH)
    pixels = to_tensor([load_image(digits.folder / key) for key in digits.classes])
    images, classes = normalize(pixels, MEAN, STD), torch.tensor(list(digits.classes.values()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(model(images[batch]), classes[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.inference_mode()
def _label(model: nn.Module, path: Path, crops: NDArray[np.int64]) -> NDArray[np.float32]:
    image = load_image(path)
    cut: Tensor = to_tensor([apply_crop(image, crop, False, IMAGE_SIDE) for crop in crops.tolist()])
    return model(normalize(cut, MEAN, STD)).softmax(dim=1).numpy()
