"""Label maps of ReLabel, written as its files are, and pooled by a plain translation of torchvision's `roi_align`."""

import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from softlabel_codec import ArgumentError, CorruptError, MismatchError, SoftLabelReader, SoftLabelWriter
from softlabel_codec.cli.main import main
from softlabel_codec.formats import import_labels
from softlabel_codec.formats.relabel import pooled_logits
from softlabel_codec.show.pairs import Partner, compare
from softlabel_codec.torch import SoftLabelDataset

SIZES = [(40, 64), (61, 30), (33, 33)]


def label_map(rng, num_classes=1000, side=15, k=5):
    """Return a map as ReLabel's: the largest logits of smooth maps of a few classes."""
    classes = rng.choice(num_classes, 9, replace=False)
    coarse = torch.tensor(rng.normal(2, 4, (1, 9, 4, 5)))
    maps = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")[0]
    values, places = maps.topk(k, dim=0)
    return torch.stack([values.float(), torch.tensor(classes)[places].float()])


@pytest.fixture
def maps(tmp_path):
    rng = np.random.default_rng(0)
    keys = ["n01/n01_1.JPEG", "n01/n01_2.JPEG", "n02/n02_7.png"]
    written = {}
    for key, size in zip(keys, SIZES, strict=True):
        for folder in ("images", "maps"):
            (tmp_path / folder / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1]).save(tmp_path / "images" / key)
        written[key] = label_map(rng)
        torch.save(written[key], (tmp_path / "maps" / key).with_suffix(".pt"))
    return written


def roi_align(full, box):
    """Return what torchvision's `roi_align` returns of maps (C, H, W) for x1, y1, x2, y2, one bin, `aligned=False`."""
    full = np.asarray(full, np.float64)
    _, height, width = full.shape
    x1, y1, x2, y2 = (float(np.float32(number)) for number in box)
    roi_width, roi_height = max(float(np.float32(x2 - x1)), 1.0), max(float(np.float32(y2 - y1)), 1.0)
    grid_h, grid_w = math.ceil(roi_height), math.ceil(roi_width)
    total = np.zeros(len(full))
    for iy in range(grid_h):
        for ix in range(grid_w):
            y, x = y1 + (iy + 0.5) * roi_height / grid_h, x1 + (ix + 0.5) * roi_width / grid_w
            if y < -1 or y > height or x < -1 or x > width:
                continue
            y, x = max(y, 0), max(x, 0)
            y_low, x_low = int(y), int(x)
            if y_low >= height - 1:
                y = y_low = y_high = height - 1
            else:
                y_high = y_low + 1
            if x_low >= width - 1:
                x = x_low = x_high = width - 1
            else:
                x_high = x_low + 1
            ly, lx = y - y_low, x - x_low
            total += (1 - ly) * (1 - lx) * full[:, y_low, x_low] + (1 - ly) * lx * full[:, y_low, x_high]
            total += ly * (1 - lx) * full[:, y_high, x_low] + ly * lx * full[:, y_high, x_high]
    return total / (grid_h * grid_w)


def of_relabel(label_map_topk, crop, size, *, swapped, num_classes=1000):
    """Return what ReLabel trains with: `get_labelmaps` and `get_relabel`; boxes in the order of its code, or of `roi_align`."""
    full = torch.zeros(num_classes, *label_map_topk.shape[2:]).scatter_(0, label_map_topk[1].long(), label_map_topk[0])
    i, j, h, w = crop
    coords = (i / size[0], j / size[1], h / size[0], w / size[1])
    boxes = torch.tensor([coords[0], coords[1], coords[0] + coords[2], coords[1] + coords[3]], dtype=torch.float64).float()
    if not swapped:
        boxes = boxes[[1, 0, 3, 2]]
    pooled = roi_align(full, (boxes * full.size(2) - 0.5).numpy())
    return torch.softmax(torch.tensor(pooled), 0).numpy()


@pytest.mark.parametrize("label_type", [None, "swapped"])
def test_labels_are_those_of_relabel(maps, tmp_path, label_type):
    report = import_labels(tmp_path / "maps", tmp_path / "a.slc", images=tmp_path / "images", crops=12, seed=3, label_type=label_type)
    assert (report.format, report.codec) == ("ReLabel", "dense:content=logits")
    assert (report.num_images, report.num_crops) == (3, 36)
    assert report.lost == ["the maps: only labels of crops are made of them"]
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert reader.crops == "derived"
        assert reader.metadata["source"]["axes"] == (label_type or "upright")
        for key, one in maps.items():
            image = reader[key]
            for row, crop in enumerate(image.crops.tolist()):
                expected = of_relabel(one, crop, image.image_size, swapped=bool(label_type))
                np.testing.assert_allclose(image.labels.dense()[row], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("side", [1, 2, 15])
@pytest.mark.parametrize("swapped", [False, True])
def test_pooling_of_any_crop(side, swapped):
    rng = np.random.default_rng(side)
    one, size = label_map(rng, 40, side), (375, 500)
    corners = np.sort(rng.integers(0, np.array([[376, 501]] * 60)[:, None, :].repeat(2, 1), (60, 2, 2)), axis=1)
    crops = np.concatenate([corners[:, 0], np.maximum(corners[:, 1] - corners[:, 0], 1)], axis=1)
    crops = np.concatenate([crops, [[0, 0, 375, 500], [374, 499, 1, 1], [0, 0, 1, 1], [0, 0, 25, 100], [125, 0, 250, 500]]])
    logits, classes = one[0].numpy(), one[1].long().numpy()
    pooled = pooled_logits(logits, classes, crops, size, 40, swapped=swapped)
    got = np.exp(pooled) / np.exp(pooled).sum(axis=1, keepdims=True)
    for row, crop in zip(got, crops.tolist(), strict=True):
        np.testing.assert_allclose(row, of_relabel(one, crop, size, swapped=swapped, num_classes=40), rtol=0, atol=2e-6)


def test_any_codec_and_training(maps, tmp_path):
    given = {"images": tmp_path / "images", "crops": 30}
    import_labels(tmp_path / "maps", tmp_path / "dense.slc", **given)
    for codec, close in (("marginal_smoothing:k=20,values=f32", 1e-5), ("field", 0.15)):
        import_labels(tmp_path / "maps", tmp_path / "a.slc", codec=codec, overwrite=True, **given)
        with SoftLabelReader(tmp_path / "a.slc") as reader, SoftLabelReader(tmp_path / "dense.slc") as dense:
            assert reader.parsed_codec.name == codec.partition(":")[0]
            for image, exact in zip(reader, dense, strict=True):
                np.testing.assert_array_equal(image.crops, exact.crops)
                assert np.abs(image.labels.dense() - exact.labels.dense()).sum(axis=1).mean() < close
        dataset = SoftLabelDataset(tmp_path / "images", tmp_path / "a.slc", 2, size=16)
        assert dataset[1].images.shape == (2, 3, 16, 16)


@pytest.mark.parametrize("crops", ["pixels", "fractions:f32"])
def test_labels_of_the_crops_of_another_set(maps, tmp_path, crops):
    """FKD's labels and those of the maps are compared crop by crop."""
    rng = np.random.default_rng(0)
    boxes = {key: np.array([[0, 0, *size], [3, 5, 20, 17]]) for key, size in zip(maps, SIZES, strict=True)}
    with SoftLabelWriter(tmp_path / "fkd.slc", 1000, "marginal_smoothing:k=5", crops=crops) as writer:
        for (key, box), size in zip(boxes.items(), SIZES, strict=True):
            given = box if crops == "pixels" else (box / np.array([*size, *size])).astype(np.float32)
            probs = rng.dirichlet(np.ones(1000), 2).astype(np.float32)
            writer.add(key.partition(".")[0], image_size=size, crops=given, flips=[True, False], probs=probs)
    report = import_labels(tmp_path / "maps", tmp_path / "a.slc", crops_of=tmp_path / "fkd.slc")
    assert (report.num_images, report.num_crops) == (3, 6)
    with SoftLabelReader(tmp_path / "a.slc") as reader, SoftLabelReader(tmp_path / "fkd.slc") as fkd:
        assert list(reader.keys) == list(fkd.keys)
        for (key, box), size in zip(boxes.items(), SIZES, strict=True):
            image = reader[key.partition(".")[0]]
            np.testing.assert_array_equal(image.flips, [True, False])
            expected = [of_relabel(maps[key], crop, size, swapped=False) for crop in box.tolist()]
            np.testing.assert_allclose(image.labels.dense(), expected, rtol=0, atol=2e-6)
        compared = compare(Partner(fkd, reader))
        assert (compared.common_images, compared.num_crops) == (3, 6)
    refused(tmp_path, ArgumentError, "crops_of: is for maps of ReLabel, without crops, seed or images", crops_of=tmp_path / "fkd.slc")


def test_crops_that_another_set_does_not_know(maps, tmp_path):
    np.savez(tmp_path / "a.npz", keys=["n01/n01_1"], probs=np.full((1, 2, 1000), 0.001, np.float32))
    import_labels(tmp_path / "a.npz", tmp_path / "a.slc")
    with pytest.raises(ArgumentError, match="expected crops of images as they are, got crops that are not known"):
        import_labels(tmp_path / "maps", tmp_path / "b.slc", crops_of=tmp_path / "a.slc")


def test_an_interrupted_import_continues(maps, tmp_path):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_labels(tmp_path / "maps", tmp_path / "a.slc", images=tmp_path / "images", progress=stop)
    import_labels(tmp_path / "maps", tmp_path / "a.slc", images=tmp_path / "images")
    import_labels(tmp_path / "maps", tmp_path / "b.slc", images=tmp_path / "images")
    assert (tmp_path / "a.slc").read_bytes() == (tmp_path / "b.slc").read_bytes()


def test_processes_make_the_same_file(maps, tmp_path):
    import_labels(tmp_path / "maps", tmp_path / "crops.slc", images=tmp_path / "images", crops=3)
    for given in ({"images": tmp_path / "images"}, {"crops_of": tmp_path / "crops.slc"}):
        for workers in (0, 1):
            import_labels(tmp_path / "maps", tmp_path / f"{workers}.slc", workers=workers, overwrite=True, **given)
        assert (tmp_path / "0.slc").read_bytes() == (tmp_path / "1.slc").read_bytes()


def test_the_command(maps, tmp_path, capsys):
    arguments = ["import", "relabel", str(tmp_path / "maps"), str(tmp_path / "a.slc"), "--images", str(tmp_path / "images"), "--crops", "4"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code
    out, err = capsys.readouterr()
    assert "converted: 3 images, 12 crops, 0 skipped, to dense:content=logits" in " ".join(out.split()).replace("converted ", "converted: ")
    assert "found ReLabel: logits of 1000 classes" in err


def refused(tmp_path, error, message, **options):
    with pytest.raises(error, match=message):
        import_labels(tmp_path / "maps", tmp_path / "out.slc", **{"images": tmp_path / "images", **options})


def test_what_does_not_fit(maps, tmp_path):
    refused(tmp_path, ArgumentError, "relabel files do not name their images: pass the folder of these", images=None)
    refused(tmp_path, ArgumentError, "expected upright or swapped for relabel, got 'hard'", label_type="hard")
    refused(tmp_path, ArgumentError, "crops: expected 1 to 65535, got 0", crops=0)
    refused(tmp_path, MismatchError, "expected class indices from 0 to 9", num_classes=10)
    refused(tmp_path, ArgumentError, "temperature: .* for sre2l only", temperature=2.0)
    (tmp_path / "maps" / "n02" / "n02_7.pt").rename(tmp_path / "maps" / "n02" / "n02_8.pt")
    refused(tmp_path, MismatchError, r"n02_7\.pt: expected a map of the image, found none")
    report = import_labels(tmp_path / "maps", tmp_path / "a.slc", images=tmp_path / "images", crops=2, on_error="skip")
    assert list(report.skipped) == ["n02/n02_7.png"]
    assert report.lost[1] == f"1 map of images that are not in {tmp_path / 'images'}"


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_files_that_hold_something_else(maps, tmp_path, capsys):
    path = tmp_path / "maps" / "n01" / "n01_2.pt"
    good, data = maps["n01/n01_2.JPEG"], path.read_bytes()
    path.write_bytes(data[:-50])
    refused(tmp_path, CorruptError, r"n01_2\.pt: not a readable label file")
    for wrong, message in (
        (good[0], r"expected a float tensor \(2, K, H, W\) .* got torch.float32 of shape \(5, 15, 15\)"),
        (good.long(), r"got torch.int64 of shape"),
        ([good], "got list"),
        (good * torch.nan, "holds NaN or infinity"),
        (good.bfloat16(), "expected float16, float32 or float64"),
        (torch.zeros(2, 1, 1, 1).expand(2, 5, 15, 15), "claims more numbers than the file holds"),
        (Evil(), "without running code: it requires"),
        (torch.zeros(2, 5, 65, 15), r"expected up to 1000 classes of 64 x 64 cells, got \(5, 65, 15\)"),
        (good + 0.5, "expected class indices from 0 to 999"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(wrong, path)
        refused(tmp_path, (CorruptError, MismatchError), message)
    assert capsys.readouterr().out == ""
