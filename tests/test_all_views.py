"""Labels of every view of images that are padded, cropped and mirrored: those of a teacher that runs in every step."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from softlabel_codec import AllViews, ArgumentError, Padding, SoftLabelReader
from softlabel_codec.cli.main import main
from softlabel_codec.images.cutting import Cutter
from softlabel_codec.sampler import CropSampler
from softlabel_codec.teacher import EncodeConfig, encode, load_teacher
from softlabel_codec.teacher.check import check_labels
from softlabel_codec.torch import SoftLabelDataset, normalize
from softlabel_codec.torch.device import cut_crops

PADDINGS = [Padding(4), Padding(4, fill=(124, 116, 104)), Padding(4, "reflect"), Padding(4, "edge"), Padding(4, "symmetric")]


@pytest.fixture
def images(tmp_path):
    """A folder of two images of 32 x 32 pixels."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "images" / name)
    return tmp_path / "images"


def views_of(path, padding):
    """Return every view that pad, crop and mirror can give of an image, uint8 (162, 3, 32, 32), without the package."""
    fills = [{"constant_values": fill} if padding.mode == "constant" else {} for fill in padding.fill]
    planes = np.asarray(Image.open(path)).transpose(2, 0, 1)
    whole = np.stack([np.pad(plane, 4, mode=padding.mode, **fill) for plane, fill in zip(planes, fills, strict=True)])
    cut = [whole[:, top : top + 32, left : left + 32] for top in range(9) for left in range(9)]
    return torch.from_numpy(np.stack([view[..., ::step] for view in cut for step in (1, -1)]))


def label(images, tmp_path, teacher_file, padding, **options):
    options = {"codec": "dense", "sampler": AllViews(32, 32), "size": 32, "batch_size": 50, **options}
    out = tmp_path / "out.slc"
    return encode(EncodeConfig(images=str(images), out=str(out), teacher=teacher_file, padding=padding, **options))


@pytest.mark.parametrize("padding", PADDINGS, ids=str)
def test_stored_labels_are_those_of_the_teacher_on_every_view(images, tmp_path, teacher_file, padding):
    report = label(images, tmp_path, teacher_file, padding)
    assert (report.num_images, report.crops_per_image) == (2, 162)
    teacher = load_teacher(teacher_file).model
    with SoftLabelReader(report.path) as reader:
        assert (reader.padding, reader.sampler, reader.metadata["crops_per_image"]) == (padding, AllViews(32, 32), 162)
        for key in reader.keys:
            pixels = normalize(views_of(images / key, padding), (0.5,) * 3, (0.25,) * 3)
            online = torch.softmax(teacher(pixels), dim=1).detach().numpy()
            np.testing.assert_allclose(reader[key].labels.dense(), online, atol=1e-6)


@pytest.mark.parametrize("padding", PADDINGS, ids=str)
def test_a_dataset_gives_the_pixels_of_every_view_with_its_label(images, tmp_path, teacher_file, padding):
    path = label(images, tmp_path, teacher_file, padding).path
    dataset = SoftLabelDataset(images, path, crops_per_image=81, size=32, normalized=False, reduced_decoding=True)
    for index, key in enumerate(("a.png", "b.png")):
        wanted = {bytes(view.numpy().tobytes()): number for number, view in enumerate(views_of(images / key, padding))}
        seen = []
        for _ in range(2):
            sample = dataset[index]
            numbers = [wanted[view.numpy().tobytes()] for view in sample.images]
            np.testing.assert_array_equal(sample.labels.dense(), dataset.reader.read(key, numbers).labels.dense())
            seen += numbers
        assert sorted(seen) == list(range(162))


def test_crops_that_torch_cuts_are_padded_too(images, tmp_path, teacher_file):
    path = label(images, tmp_path, teacher_file, PADDINGS[1]).path
    exact, fast = (SoftLabelDataset(images, path, 81, 32, normalized=False, backend=backend) for backend in ("pillow", "torch"))
    assert torch.equal(exact[1].images, fast[1].images)


def test_crops_on_a_device_are_cut_out_of_the_padded_image(images, tmp_path, teacher_file):
    dataset = SoftLabelDataset(images, label(images, tmp_path, teacher_file, PADDINGS[2]).path, 4, 32, normalized=False)
    whole = torch.from_numpy(np.array(dataset.whole_image(1))).permute(2, 0, 1)[None]
    image = dataset.reader.read(1, range(0, 162, 5))
    crops, flips = torch.from_numpy(image.crops), torch.from_numpy(image.flips)
    found = cut_crops(whole, torch.zeros(len(crops), dtype=torch.long), crops, flips, 32)
    assert torch.equal(found, views_of(images / "b.png", PADDINGS[2])[::5])


def test_the_check_accepts_padded_labels(images, tmp_path, teacher_file):
    assert check_labels(label(images, tmp_path, teacher_file, PADDINGS[2]).path, images, teacher_file).found.ok


def test_random_crops_may_lie_in_the_padding(images, tmp_path, teacher_file):
    sampler = CropSampler(seed=4)
    report = label(images, tmp_path, teacher_file, Padding(16, "edge"), sampler=sampler, crops=9, size=20, store_crops=True)
    with SoftLabelReader(report.path) as reader:
        crops, flips = sampler.sample("a.png", (64, 64), range(9))
        np.testing.assert_array_equal(reader["a.png"].crops, crops)
        dataset = SoftLabelDataset(images, report.path, 9, 20, normalized=False)
        whole = Image.fromarray(np.pad(np.asarray(Image.open(images / "a.png")), ((16, 16), (16, 16), (0, 0)), mode="edge"))
        cut = Cutter(20).cut(whole, lambda size: (crops, flips)).images
        found = {image.numpy().tobytes() for image in dataset[0].images}
        assert found == {np.asarray(image).transpose(2, 0, 1).tobytes() for image in cut}
    assert check_labels(report.path, images, teacher_file).found.ok


def test_images_with_another_number_of_views(images, tmp_path, teacher_file):
    Image.new("RGB", (31, 32)).save(images / "c.png")
    message = "image 'c.png': expected an image with 162 views, as the first one has, got 144 of 32 x 31 pixels. Repair or remove it"
    with pytest.raises(OSError, match=message):
        label(images, tmp_path, teacher_file, Padding(4))
    Image.new("RGB", (5, 5)).save(images / "c.png")
    (images / "Broken.png").write_bytes(b"")
    report = label(images, tmp_path, teacher_file, Padding(4), on_error="skip", overwrite=True)
    assert (report.num_images, list(report.skipped)) == (2, ["Broken.png", "c.png"])


def test_views_that_an_image_cannot_have(images, tmp_path, teacher_file):
    with pytest.raises(ArgumentError, match=r"all views: .* got 0 of 41 x 41 pixels of image 'a.png' \(32 x 32\) with padding of 4"):
        label(images, tmp_path, teacher_file, Padding(4), sampler=AllViews(41, 41))
    with pytest.raises(ArgumentError, match="all views: expected 1 to 65535 of an image, got 131072 of 1 x 1"):
        label(images, tmp_path, teacher_file, Padding(112), sampler=AllViews(1, 1))
    with pytest.raises(ArgumentError, match="crops: expected None, as all views are labelled, got 5"):
        label(images, tmp_path, teacher_file, Padding(4), crops=5)
    for image in images.iterdir():
        image.write_bytes(b"")
    with pytest.raises(OSError, match="none of 2 images could be read"):
        label(images, tmp_path, teacher_file, Padding(4))


def run(*arguments, code=0):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_the_command_line(images, tmp_path, teacher_file):
    start = ["encode", images, tmp_path / "out.slc", "--teacher", teacher_file, "--size", 32, "--workers", 0, "--codec", "hard"]
    views = [*start, "--padding", 4, "--padding-mode", "reflect", "--all-views", 32]
    assert json.loads(run(*views, "--json"))["crops_per_image"] == 162
    assert "nothing to do" in run(*views)
    refused = "padding: expected 4 pixels on each side, constant (0, 0, 0), found 4 pixels on each side, reflect"
    assert refused in run(*start, "--padding", 4, "--all-views", 32, code=1)
    for command in ("inspect", "stats"):
        text = run(command, tmp_path / "out.slc")
        assert "sampler" in text
        assert "all_views/1, height 32, width 32, flips True" in text
        assert "pixels 4, mode reflect" in text
    assert "--seed does not apply to --all-views" in run(*views, "--seed", 3, code=2)
    assert "crops: expected None, as all views are labelled, got 5" in run(*views, "--crops", 5, code=2)
    assert "padding: expected 1 to 1024 pixels for mode 'edge'" in run(*start, "--padding-mode", "edge", code=2)
    assert "fill: expected one or three integers from 0 to 255" in run(*start, "--padding", 4, "--fill", 0, 0, 300, code=2)
    run(*start, "--padding", 4, "--fill", 1, 2, 3, "--crops", 2, "--overwrite")
    with SoftLabelReader(tmp_path / "out.slc") as reader:
        assert reader.padding == Padding(4, "constant", (1, 2, 3))
