"""Crops that are cut on the device: the same pixels as Pillow's, to the last bit."""

import numpy as np
import pytest
import torch

from softlabel_codec.images.files import apply_crop, load_image
from softlabel_codec.torch.device import cut_crops
from softlabel_codec.torch.pixels import to_tensor

FILTERS = ("bilinear", "bicubic", "lanczos", "hamming", "box")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [8, 24, 61])
def test_they_equal_the_crops_of_the_host(interpolation, size, device):
    rng = np.random.default_rng(size)
    pixels = rng.integers(0, 256, (5, 40, 52, 3), dtype=np.uint8)
    which = rng.integers(0, 5, 60)
    height, width = rng.integers(1, 41, 60), rng.integers(1, 53, 60)
    crops = np.stack([rng.integers(0, 41 - height), rng.integers(0, 53 - width), height, width], axis=1)
    flips = rng.random(60) < 0.5
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device)
    where = [torch.from_numpy(array).to(device) for array in (which, crops, flips)]
    found = cut_crops(images, *where, size, interpolation).cpu()
    due = zip(which, crops.tolist(), flips.tolist(), strict=True)
    expected = to_tensor([apply_crop(load_image(pixels[image]), crop, flip, size, interpolation) for image, crop, flip in due])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_nothing_waits_for_the_device():
    images = torch.zeros(3, 3, 40, 20, dtype=torch.uint8, device="meta")  # where any look at a number is an error
    crops = torch.tensor([[0, 0, 40, 10], [5, 5, 10, 15]])  # of the first, columns are scaled before rows
    found = cut_crops(images, torch.tensor([0, 2]), crops, torch.tensor([True, False]), 12)
    assert (found.device.type, found.shape) == ("meta", (2, 3, 12, 12))
