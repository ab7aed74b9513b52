"""How a dataset makes pixels: both backends, and batches that are not copied."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from test_torch_side import label_folder
from torch.utils.data import DataLoader

from softlabel_codec import ArgumentError
from softlabel_codec.torch import SoftLabelDataset, collate_crops, normalize


@pytest.fixture
def labelled(image_folder, tmp_path):
    label_folder(image_folder, tmp_path / "labels.slc")
    return image_folder, tmp_path / "labels.slc"


def waves(folder):
    """Write photographs of every kind that a JPEG file may be."""
    rows, columns = np.mgrid[:150, :200]
    image = Image.fromarray(
        np.stack([127 + 100 * np.sin(rows / 9), 127 + 100 * np.cos(columns / 7), rows + columns / 6], 2).astype(np.uint8)
    )
    (folder / "images").mkdir()
    for name, mode, options in (("a", "RGB", {}), ("b", "L", {}), ("c", "CMYK", {}), ("d", "RGB", {"progressive": True})):
        image.convert(mode).save(folder / "images" / f"{name}.jpg", quality=95, **options)
    image.save(folder / "images" / "e.png")
    label_folder(folder / "images", folder / "labels.slc")
    return folder / "images", folder / "labels.slc"


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_torch_scales_to_nearly_the_same_pixels(tmp_path, interpolation):
    places = waves(tmp_path)
    options = {"size": 40, "normalized": False, "interpolation": interpolation}
    exact, fast = (SoftLabelDataset(*places, backend=backend, **options) for backend in ("pillow", "torch"))
    differences = torch.cat([(exact[i].images.int() - fast[i].images.int()).abs() for i in range(5)])
    assert differences.max() <= 1
    assert 0 < differences.float().mean() < 0.05


def test_torch_normalises_and_turns_as_pillow_does(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.fromarray(np.arange(30 * 40 * 3, dtype=np.uint32).reshape(30, 40, 3).astype(np.uint8)).save(
        tmp_path / "images" / "a.jpg", exif=exif
    )
    label_folder(tmp_path / "images", tmp_path / "ignored.slc")
    options = {"size": 8, "crops_per_image": 2, "mean": (0.2, 0.3, 0.4), "std": (0.1, 0.2, 0.3)}
    pair = [SoftLabelDataset(tmp_path / "images", tmp_path / "ignored.slc", backend=b, **options)[0].images for b in ("pillow", "torch")]
    torch.testing.assert_close(*pair, rtol=0, atol=1.01 / 255 / 0.1)


def test_a_backend_that_cannot_do_what_is_asked(labelled):
    with pytest.raises(ArgumentError, match="backend: expected pillow or torch, got 'cv2'"):
        SoftLabelDataset(*labelled, backend="cv2")
    with pytest.raises(ArgumentError, match="expected 'pillow' with reduced_decoding"):
        SoftLabelDataset(*labelled, backend="torch", reduced_decoding=True)
    with pytest.raises(ArgumentError, match="expected 'pillow' with after_crop"):
        SoftLabelDataset(*labelled, backend="torch", after_crop=lambda image: torch.zeros(1))
    with pytest.raises(ArgumentError, match="interpolation: expected one of bilinear, bicubic with backend='torch', got 'lanczos'"):
        SoftLabelDataset(*labelled, backend="torch", interpolation="lanczos")


@pytest.mark.parametrize("backend", ["pillow", "torch"])
def test_a_file_that_is_cut_off_is_an_error(labelled, backend):
    folder, labels = labelled
    data = (folder / "dog" / "cmyk.jpg").read_bytes()
    (folder / "dog" / "cmyk.jpg").write_bytes(data[: len(data) // 2])
    dataset = SoftLabelDataset(folder, labels, size=8, backend=backend, check_images=False)
    with pytest.raises(OSError, match="cmyk.jpg: not a readable image"):
        dataset[list(dataset.keys).index("dog/cmyk.jpg")]


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("order", ["image", "crop"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_what_single_samples_hold(labelled, normalized, order, workers):
    dataset = SoftLabelDataset(*labelled, size=8, normalized=normalized)
    dataset.set_epoch(5)
    loader = DataLoader(dataset, 4, collate_fn=partial(collate_crops, order=order), num_workers=workers)
    batches = [images for images, _ in loader]
    dataset = SoftLabelDataset(*labelled, size=8, normalized=normalized)
    dataset.set_epoch(5)
    single = [dataset[i].images for i in range(6)]
    for images, first, last in zip(batches, (0, 4), (4, 6), strict=True):
        expected = torch.stack(single[first:last], 0 if order == "image" else 1).flatten(0, 1)
        assert torch.equal(images, expected)
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_images_of_a_batch_are_put_together_without_a_copy(labelled):
    dataset = SoftLabelDataset(*labelled, size=8)
    samples = dataset.__getitems__([0, 1, 2])
    beginning = samples[0].images.data_ptr()
    assert collate_crops(samples)[0].data_ptr() == beginning
    swapped = [samples[1], samples[0], samples[2]]
    other = collate_crops(swapped)[0]
    assert other.data_ptr() not in {sample.images.data_ptr() for sample in samples}
    assert torch.equal(other, torch.cat([sample.images for sample in swapped]))
    assert torch.equal(collate_crops([samples[0], dataset[3]])[0][:4], samples[0].images)


def test_normalised_pixels_are_those_of_normalize(labelled):
    options = {"size": 8, "mean": (0.2, 0.3, 0.4), "std": (0.1, 0.2, 0.3)}
    pixels = SoftLabelDataset(*labelled, normalized=False, **options)[2].images
    expected = normalize(pixels, options["mean"], options["std"])
    assert torch.equal(SoftLabelDataset(*labelled, **options)[2].images, expected)
