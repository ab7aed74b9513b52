"""ReLabel-style label maps, the published competitor."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from softlabel_codec import CorruptError, MismatchError
from softlabel_codec.cli.main import main
from softlabel_codec.images.files import load_image
from softlabel_codec.images.paths import list_images
from softlabel_codec.label_maps import LabelMaps, make_label_maps
from softlabel_codec.label_maps.maps import SIDE
from softlabel_codec.teacher import load_teacher
from softlabel_codec.torch.pixels import normalize, to_tensor
from softlabel_codec.trainer import train


def random_maps(num_classes=30, num_images=2):
    rng = np.random.default_rng(0)
    indices = np.argsort(rng.random((num_images, SIDE, SIDE, num_classes)), axis=3)[..., :5].astype(np.uint16)
    logits = rng.normal(2, 2, indices.shape).astype(np.float16)
    return LabelMaps({f"c/{number}.png": number for number in range(num_images)}, indices, logits, num_classes)


def dense_map(maps, key):
    full = np.zeros((maps.num_classes, SIDE, SIDE))
    number = maps.numbers[key]
    for y in range(SIDE):
        for x in range(SIDE):
            np.add.at(full[:, y, x], maps.indices[number, y, x].astype(int), maps.logits[number, y, x].astype(float))
    return full


def roi_mean(full, crop, size, samples=60):
    """Return the mean over a crop of a map that is linear between the middles of its places, sampled at points: as slow as it is plain."""
    top, left, height, width = crop
    total = np.zeros(len(full))
    for row in range(samples):
        for column in range(samples):
            y = (top + (row + 0.5) / samples * height) / size[0] * SIDE - 0.5
            x = (left + (column + 0.5) / samples * width) / size[1] * SIDE - 0.5
            y, x = np.clip(y, 0, SIDE - 1), np.clip(x, 0, SIDE - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, SIDE - 1), min(x0 + 1, SIDE - 1)
            fy, fx = y - y0, x - x0
            above = (1 - fx) * full[:, y0, x0] + fx * full[:, y0, x1]
            below = (1 - fx) * full[:, y1, x0] + fx * full[:, y1, x1]
            total += (1 - fy) * above + fy * below
    return total / samples**2


def test_labels_are_the_softmax_of_the_mean_over_the_crop():
    maps, size = random_maps(), (90, 150)
    crops = np.array([[0, 0, 90, 150], [10, 30, 40, 60], [80, 140, 10, 10], [0, 0, 1, 1], [37, 2, 50, 120]])
    found = maps.labels("c/1.png", crops, size)
    assert found.dense().shape == (5, 30)
    np.testing.assert_allclose(found.dense().sum(axis=1), 1, rtol=1e-6)
    for crop, logits in zip(crops, found.vectors, strict=True):
        np.testing.assert_allclose(logits, roi_mean(dense_map(maps, "c/1.png"), crop, size), atol=0.02)
    with pytest.raises(MismatchError, match=r"there is no label map of the image 'c/9\.png'"):
        maps.labels("c/9.png", crops, size)


def test_a_teacher_gives_its_largest_logits(shapes):
    teacher = f"{shapes / 'teacher.py'}:build"
    seen = []
    maps = make_label_maps(shapes / "train", teacher, batch_size=16, progress=lambda done, total: seen.append((done, total)))
    keys = list_images(shapes / "train")
    assert (list(maps.numbers), seen, maps.num_classes) == (keys, [(16, 40), (32, 40), (40, 40)], 4)
    loaded = load_teacher(teacher)
    pixels = to_tensor([load_image(shapes / "train" / keys[7]).resize((16, 16), 2)])
    with torch.no_grad():
        expected = torch.nn.functional.interpolate(
            loaded.model.logit_map(normalize(pixels, loaded.mean, loaded.std)), (SIDE, SIDE), mode="bilinear"
        )[0]
    np.testing.assert_allclose(dense_map(maps, keys[7]), expected.numpy(), rtol=2e-3, atol=2e-3)


def test_they_come_back_from_their_file(tmp_path):
    maps = random_maps()
    maps.save(tmp_path / "maps.npz")
    again = LabelMaps.load(tmp_path / "maps.npz")
    assert (again.numbers, again.num_classes) == (maps.numbers, maps.num_classes)
    np.testing.assert_array_equal(again.logits, maps.logits)
    np.testing.assert_array_equal(again.indices, maps.indices)
    replace(maps, exif_orientation="applied").save(tmp_path / "maps.npz")
    assert LabelMaps.load(tmp_path / "maps.npz").exif_orientation == "applied"
    assert [path.name for path in tmp_path.iterdir()] == ["maps.npz"]


def test_damaged_files(tmp_path):
    random_maps().save(tmp_path / "maps.npz")
    whole = (tmp_path / "maps.npz").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:300] + bytes(40) + whole[340:], b""):
        (tmp_path / "maps.npz").write_bytes(damaged)
        with pytest.raises(CorruptError, match=r"maps\.npz: expected label maps"):
            LabelMaps.load(tmp_path / "maps.npz")


def test_files_that_hold_none(tmp_path, shapes):
    path = tmp_path / "maps.npz"
    path.write_bytes(b"noise")
    with pytest.raises(CorruptError, match=r"maps\.npz: expected label maps"):
        LabelMaps.load(path)
    np.savez(path, keys=["a"])
    with pytest.raises(CorruptError, match=r"maps\.npz: expected label maps"):
        LabelMaps.load(path)
    maps = random_maps()
    np.savez(path, keys=["a"], indices=maps.indices, logits=maps.logits, num_classes=30)
    with pytest.raises(CorruptError, match="expected label maps of 15 x 15 x 5"):
        LabelMaps.load(path)
    np.savez(path, keys=list(maps.numbers), indices=maps.indices, logits=maps.logits, num_classes=3)
    with pytest.raises(CorruptError, match="expected label maps of 15 x 15 x 5"):
        LabelMaps.load(path)
    np.savez(path, keys=list(maps.numbers), indices=maps.indices, logits=maps.logits, num_classes=30, exif_orientation="odd")
    with pytest.raises(CorruptError, match="expected exif_orientation ignored or applied, got 'odd'"):
        LabelMaps.load(path)
    random_maps().save(path)
    from shapes import config

    with pytest.raises(MismatchError, match=r"maps\.npz: there are no label maps of 40 of 40 images, 'blue/0\.png' first"):
        train(config(shapes, tmp_path / "run", labels=str(path)))


def test_a_teacher_without_a_map(shapes):
    with pytest.raises(MismatchError, match="label maps need a method logit_map, which Sequential does not have"):
        make_label_maps(shapes / "train", f"{shapes / 'teacher.py'}:seven")


def encode(*arguments, code=0):
    done = CliRunner().invoke(main, ["encode", *map(str, arguments), "--label-maps"])
    assert done.exit_code == code, done.output
    return done.output


def test_the_command(shapes, tmp_path):
    out, teacher = tmp_path / "maps.npz", ["--teacher", f"{shapes / 'teacher.py'}:build"]
    assert encode(shapes / "train", out, *teacher) == f"wrote  {out}: label maps of 40 images\n"
    assert LabelMaps.load(out).indices.shape == (40, 15, 15, 5)
    assert "the file exists. Pass --overwrite to replace it" in encode(shapes / "train", out, *teacher, code=1)
    found = json.loads(
        encode(shapes / "train", out, *teacher, "--overwrite", "--json", "--exif", "applied", "--size", 20, "--batch-size", 7)
    )
    assert found == {"path": str(out), "num_images": 40, "num_classes": 4}
    assert LabelMaps.load(out).exif_orientation == "applied"
    assert "OUT: label maps are a file .npz, got" in encode(shapes / "train", tmp_path / "labels.slc", *teacher, code=2)
    for size in (0, -5, 10**8):
        assert f"size: expected 1 to 8192, got {size}" in encode(shapes / "train", tmp_path / "a.npz", *teacher, "--size", size, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["maps.npz"]


@pytest.mark.parametrize("option", ["--crops 200", "--codec hard", "--store-crops", "--temperature 2", "--seed 1", "--mean 0 0 0"])
def test_options_that_do_not_apply_to_them_are_refused(shapes, tmp_path, option):
    words = [shapes / "train", tmp_path / "maps.npz", "--teacher", "teacher.py:build", *option.split()]
    assert f"{option.split()[0]} does not apply to --label-maps" in encode(*words, code=2)
    assert list(tmp_path.iterdir()) == []
