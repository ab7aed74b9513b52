"""`check_against_teacher` and `slcodec check`: whether pixels, labels and teacher belong together."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch.utils.data import DataLoader, Subset

from softlabel_codec import ArgumentError, MismatchError, SoftLabelReader, SoftLabelWriter
from softlabel_codec.cli.main import main
from softlabel_codec.images.files import apply_crop, load_image
from softlabel_codec.images.paths import list_images
from softlabel_codec.sampler import CropSampler
from softlabel_codec.teacher import EncodeConfig, check_labels, encode, load_teacher
from softlabel_codec.torch import (
    SoftLabelDataset,
    SoftLabelSampler,
    check_against_teacher,
    collate_crops,
)

TEACHER = """
import torch
from torch import nn

INPUT_SIZE = 24
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)

class Sees(nn.Module):
    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(12, 3 * 24 * 24, generator=generator) / 12)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        return self.dropout(images.flatten(1)) @ self.weight.T

def build():
    return Sees(0)

def other():
    return Sees(1)

def of_thirteen():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 13))
"""
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
OWN = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
CODECS = [
    "hard",
    "smoothing",
    "marginal_smoothing:k=3",
    "marginal_smoothing:t=0.02",
    "marginal_smoothing:t=0.05,tail=8",
    "marginal_smoothing:t=0.1,tail=4,step=1",
    "marginal_smoothing:t=0.1,tail=all,mean=log",
    "marginal_renorm:k=3",
    "dense:values=f16",
    "dense:content=logits",
    "dense:values=log8",
    "dense:values=log8,step=0.25",
]


class Desk:
    """Images, a teacher, and its labels in several codecs."""

    def __init__(self, folder):
        self.folder, self.images, self.source = folder, folder / "images", f"{folder / 'teacher.py'}:build"
        (folder / "teacher.py").write_text(TEACHER)
        self.images.mkdir()
        rng = np.random.default_rng(0)
        for number in range(24):
            small = Image.fromarray(rng.integers(0, 256, (14, 16, 3), dtype=np.uint8))
            small.resize((96, 84), Image.Resampling.BICUBIC).save(self.images / f"{number}.png")
        self.teacher = load_teacher(self.source).model
        self.sampler = CropSampler(seed=2, scale=(0.4, 1.0))

    def labels(self, codec):
        path = self.folder / f"{codec}.slc".replace(":", "-")
        if not path.exists():
            encode(EncodeConfig(str(self.images), str(path), self.source, codec, crops=6, sampler=self.sampler, device="cpu"))
        return path

    def dataset(self, codec, **options):
        return SoftLabelDataset(options.pop("images", self.images), self.labels(codec), 6, 24, **{**OWN, "check_images": False, **options})

    def loader(self, codec, **options):
        return DataLoader(self.dataset(codec, **options), batch_size=12, collate_fn=collate_crops)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.mark.parametrize("codec", CODECS)
def test_right_labels_are_right_whatever_the_codec(desk, codec):
    report = check_against_teacher(desk.loader(codec), desk.teacher)
    assert report.ok, report
    assert (report.num_crops, report.agreement, report.outside) == (144, 1.0, 0.0)
    assert report.reason == "the teacher's output for these pixels agrees with the labels"
    assert (report.difference is None) == (codec == "hard")
    assert report.kl >= -1e-5


def pixels(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def floats(image, mean, std):
    return (pixels(image) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def cropped_again(image):
    crops, flips = CropSampler(seed=9).sample(str(np.asarray(image).sum()), (24, 24), range(1))
    return pixels(apply_crop(image, crops[0], bool(flips[0]), 24))


def mirrored(image):
    return pixels(image if np.asarray(image).sum() % 2 else image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def zoomed(image):
    return pixels(image.resize((28, 28)).crop((2, 2, 26, 26)))


class Prefetcher:
    """Normalises what a loader gives, as timm's PrefetchLoader does."""

    def __init__(self, loader, mean, std):
        self.loader, self.dataset = loader, loader.dataset
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (mean, std))

    def __iter__(self):
        for images, targets in self.loader:
            yield (images.float() - self.mean) / self.std, targets


def exchanged(desk):
    keys = list_images(desk.images)
    return {key: desk.images / other for key, other in zip(keys, keys[1:] + keys[:1], strict=True)}


def compressed(desk, folder):
    folder.mkdir(exist_ok=True)
    for key in list_images(desk.images):
        load_image(desk.images / key).save(folder / f"{key}.jpg", quality=40)
    return {key: folder / f"{key}.jpg" for key in list_images(desk.images)}


WRONG = {
    "cropped again": lambda desk, codec: (desk.loader(codec, after_crop=cropped_again), {}, "cut, mirrored or coloured a second time"),
    "half mirrored": lambda desk, codec: (desk.loader(codec, after_crop=mirrored), {}, "cut, mirrored or coloured a second time"),
    "zoomed": lambda desk, codec: (desk.loader(codec, after_crop=zoomed), {}, "cut, mirrored or coloured"),
    "normalised twice": lambda desk, codec: (Prefetcher(desk.loader(codec), **IMAGENET), {}, "the pixel values are outside of 0..1"),
    "normalised otherwise than said": lambda desk, codec: (
        desk.loader(codec, after_crop=partial(floats, **IMAGENET)),
        OWN,
        "normalised twice, or with another mean and std than stated",
    ),
    "another interpolation": lambda desk, codec: (desk.loader(codec, interpolation="box"), {}, "another interpolation"),
    "other images": lambda desk, codec: (desk.loader(codec, images=exchanged(desk)), {}, "another copy of the images|other images"),
    "another copy of the images": lambda desk, codec: (
        desk.loader(codec, images=compressed(desk, desk.folder / "jpeg")),
        {},
        "another copy of the images",
    ),
}


@pytest.mark.filterwarnings("ignore:.*crops are normalised with")
@pytest.mark.parametrize("codec", ["hard", "marginal_smoothing:k=3", "marginal_smoothing:t=0.05,tail=8", "dense:values=f16"])
@pytest.mark.parametrize("what", WRONG)
def test_wrong_uses_are_found(desk, what, codec):
    loader, options, reason = WRONG[what](desk, codec)
    report = check_against_teacher(loader, desk.teacher, **options)
    assert not report.ok, report
    assert any(part in report.reason for part in reason.split("|")), report.reason
    assert report.margin > 0.005


@pytest.mark.parametrize("codec", CODECS)
def test_another_teacher(desk, codec):
    report = check_against_teacher(desk.loader(codec), load_teacher(desk.source.replace("build", "other")).model)
    assert not report.ok
    assert report.agreement < 0.5
    with pytest.raises(MismatchError, match=r"teacher: expected logits of shape \(72, 12\) for these labels, got shape \(72, 13\)"):
        check_against_teacher(desk.loader(codec), load_teacher(desk.source.replace("build", "of_thirteen")).model)
    with pytest.raises(MismatchError, match=r"teacher: expected logits of shape \(72, 12\) for these labels, got dict"):
        check_against_teacher(desk.loader(codec), lambda images: {})


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec not in ("hard", "dense:content=logits")])
def test_another_temperature(desk, codec):
    report = check_against_teacher(desk.loader(codec), desk.teacher, temperature=1.5)
    assert not report.ok
    assert (report.agreement, report.reason.partition(":")[0]) == (1.0, "the top classes agree but their probabilities do not")


def test_labels_of_a_temperature_that_the_file_names(desk, tmp_path):
    encode(EncodeConfig(str(desk.images), str(tmp_path / "a.slc"), desk.source, "dense", 6, desk.sampler, temperature=3.0, device="cpu"))
    dataset = SoftLabelDataset(desk.images, tmp_path / "a.slc", 6, 24, **OWN)
    assert check_against_teacher(DataLoader(dataset, 24, collate_fn=collate_crops), desk.teacher).ok
    for wrong in (0.0, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="temperature: expected a number from 0.0001 to 10000"):
            check_against_teacher([], desk.teacher, temperature=wrong, teacher_mean=(0,) * 3, teacher_std=(1,) * 3)


@pytest.mark.parametrize("codec", ["dense", "dense:content=logits"])
def test_labels_that_are_read_at_another_temperature(desk, codec):
    assert check_against_teacher(desk.loader(codec, temperature=3.0), desk.teacher).ok
    assert not check_against_teacher(desk.loader(codec, temperature=3.0), desk.teacher, temperature=1.0).ok


def test_what_a_tail_says_at_another_temperature_is_not_the_teachers(desk):
    loader = desk.loader("marginal_smoothing:k=1,tail=4", temperature=4.0)
    with pytest.raises(ArgumentError, match="loader: expected labels as they are stored, got them at temperature 4"):
        check_against_teacher(loader, desk.teacher)


def dense_targets(samples):
    images, targets = collate_crops(samples, order="crop")
    return images, targets.dense()


def test_pixels_and_targets_in_every_form(desk):
    codec = "marginal_smoothing:k=3"
    plain = desk.loader(codec)
    as_bytes = desk.loader(codec, normalized=False)
    for loader, options in (
        (as_bytes, {}),
        (desk.loader(codec, **IMAGENET), {}),  # a student's own normalisation, which the dataset knows
        (Prefetcher(as_bytes, **IMAGENET), IMAGENET),
        (DataLoader(Subset(desk.dataset(codec), range(20)), 20, collate_fn=partial(collate_crops, order="crop")), {}),
        (DataLoader(desk.dataset(codec), 20, collate_fn=dense_targets, num_workers=1), {}),
        (list(plain), {"teacher_mean": OWN["mean"], "teacher_std": OWN["std"], **OWN}),
        (desk.loader(codec, after_crop=pixels), {}),
    ):
        report = check_against_teacher(loader, desk.teacher, **options)
        assert report.ok, report
    with pytest.raises(ArgumentError, match="loader: its images are floats: pass their normalisation as mean= and std="):
        check_against_teacher(Prefetcher(as_bytes, **IMAGENET), desk.teacher)
    with pytest.raises(ArgumentError, match="teacher_mean, teacher_std: the label file does not say how"):
        check_against_teacher(list(plain), desk.teacher)
    told = {"teacher_mean": OWN["mean"], "teacher_std": OWN["std"]}
    for batch in ((torch.zeros(4, 3, 24, 24),), torch.zeros(4), {"image": 1}, (torch.zeros(4, 3, 24, 24), torch.zeros(4)), 7):
        with pytest.raises(ArgumentError, match="loader: expected batches of images"):
            check_against_teacher([batch], desk.teacher, **told)
    with pytest.raises(ArgumentError, match="loader: expected at least one batch, got none"):
        check_against_teacher([], desk.teacher, **told)


def test_crops_of_another_size_than_the_teachers_say_nothing(desk):
    dataset = SoftLabelDataset(desk.images, desk.labels("hard"), 6, 16, **OWN)
    with pytest.raises(MismatchError, match="the teacher labelled crops of 24 x 24 pixels, the loader gives 16 x 16"):
        check_against_teacher(DataLoader(dataset, 4, collate_fn=collate_crops), desk.teacher)


def test_the_worst_crops_are_named(desk):
    keys = list_images(desk.images)
    images = {key: desk.images / key for key in keys} | {keys[15]: desk.images / keys[3]}
    report = check_against_teacher(desk.loader("marginal_smoothing:k=3", images=images), desk.teacher)
    assert not report.ok
    assert {(worst.key, worst.batch, worst.row // 6) for worst in report.worst} == {(keys[15], 1, 3)}
    assert report.worst[0].margin > 0.1
    shuffled = DataLoader(desk.dataset("hard"), 12, shuffle=True, collate_fn=collate_crops)
    assert {worst.key for worst in check_against_teacher(shuffled, desk.teacher).worst} == {None}


def test_a_check_leaves_everything_as_it_was(desk):
    def first_batches(check):
        dataset = desk.dataset("hard")
        plain = DataLoader(dataset, 12, collate_fn=collate_crops, num_workers=1, persistent_workers=True)
        sampler = SoftLabelSampler(dataset)
        with_sampler = DataLoader(dataset, 12, sampler=sampler, collate_fn=collate_crops)
        teacher = load_teacher(desk.source).model
        teacher.train()
        teacher.dropout.eval()
        if check:
            assert check_against_teacher(plain, teacher, batches=1).ok
            assert check_against_teacher(with_sampler, teacher, batches=1).ok
        assert (teacher.training, teacher.dropout.training) == (True, False)
        sampler.set_epoch(0)
        return [images for loader in (plain, with_sampler) for images, _ in loader], sampler.state_dict()

    torch.testing.assert_close(first_batches(check=True), first_batches(check=False), rtol=0, atol=0)


def test_logits_that_are_not_finite(desk):
    report = check_against_teacher(desk.loader("hard"), lambda images: images.flatten(1)[:, :12] * float("nan"))
    assert (report.ok, report.reason) == (False, "the teacher's logits are not finite")


def test_labels_made_in_bfloat16_may_differ_by_its_rounding(desk, tmp_path):
    with SoftLabelReader(desk.labels("dense:values=f16")) as reader:
        images, metadata = list(zip(reader.keys, reader, strict=True)), reader.metadata
    found = {}
    for precision in ("float32", "bfloat16"):
        path = tmp_path / f"{precision}.slc"
        with SoftLabelWriter(path, 12, "dense:values=f16", {**metadata, "precision": precision}) as writer:
            for key, image in images:
                probs = image.labels.vectors ** np.float32(1.15)
                probs /= probs.sum(axis=1, keepdims=True)
                writer.add(key, image_size=image.image_size, crops=image.crops, flips=image.flips, probs=probs)
        dataset = SoftLabelDataset(desk.images, path, 6, 24, **OWN)
        found[precision] = check_against_teacher(DataLoader(dataset, 24, collate_fn=collate_crops), desk.teacher)
    assert 0.025 < found["float32"].difference < 0.045
    assert (found["float32"].ok, found["bfloat16"].ok) == (False, True)


def run(desk, codec, *arguments, images=None, teacher=None):
    command = ["check", str(desk.labels(codec)), "--images", str(images or desk.images), "--teacher", teacher or desk.source]
    return CliRunner().invoke(main, [*command, "--device", "cpu", *arguments])


def test_the_command(desk, tmp_path):
    codec = "marginal_smoothing:k=3"
    done = run(desk, codec, "--sample", "10")
    assert done.exit_code == 0, done.output
    assert "its weights: the ones that made the labels" in done.output
    assert "checked           40 crops of 10 images" in done.output
    assert done.output.splitlines()[-1].startswith("verdict           they belong together: the teacher's output")
    found = json.loads(run(desk, codec, "--json").output)
    assert (found["found"]["ok"], found["same_weights"], found["num_images"], found["found"]["num_crops"]) == (True, True, 24, 96)

    done = run(desk, codec, teacher=desk.source.replace("build", "other"))
    assert done.exit_code == 1
    assert "its weights: not the ones that made the labels" in done.output
    assert "they do not belong together: " in done.output
    assert done.output.count("worst") == 5

    images = tmp_path / "images"
    images.mkdir()
    for key, path in exchanged(desk).items():
        (images / key).write_bytes(path.read_bytes())
    assert run(desk, codec, images=images).exit_code == 1
    (images / "3.png").unlink()
    done = run(desk, codec, images=images)
    assert (done.exit_code, "1 of 24 labelled images are not in" in done.output) == (1, True)
    assert run(desk, codec, "--temperature", "0").exit_code == 2


def test_files_that_do_not_say_how_they_were_made(desk, tmp_path):
    with SoftLabelReader(desk.labels("hard")) as reader, SoftLabelWriter(tmp_path / "a.slc", 12, "hard") as writer:
        for key, image in zip(reader.keys, reader, strict=True):
            writer.add(key, image_size=image.image_size, crops=image.crops[:3], flips=image.flips[:3], probs=image.labels.dense()[:3])
    report = check_labels(tmp_path / "a.slc", desk.images, desk.source, sample=50, device="cpu")
    assert (report.found.ok, report.same_weights, report.found.num_crops) == (True, None, 72)


@pytest.mark.shared
def test_a_real_teacher_on_photographs(tmp_path, shared):
    keys = list_images(shared / "data" / "imagenet-100" / "train")[::6]
    source = f"{shared / 'teacher' / 'mobilenet_v2.py'}:build"
    images = tmp_path / "images"
    for key in keys:
        (images / key).parent.mkdir(parents=True)
        (images / key).symlink_to(shared / "data" / "imagenet-100" / "train" / key)
    encode(EncodeConfig(str(images), str(tmp_path / "a.slc"), source, "hard", crops=4, device="cpu", workers=1))
    assert check_labels(tmp_path / "a.slc", images, source).found.ok
    teacher = load_teacher(source).model
    dataset = SoftLabelDataset(images, tmp_path / "a.slc", mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic")
    report = check_against_teacher(DataLoader(dataset, 17, collate_fn=collate_crops), teacher, None)
    assert (report.ok, report.num_crops) == (False, 68)
    assert report.agreement > 0.8


def test_dense_targets_in_which_a_tail_gives_another_class_more_than_the_stored_top_class():
    pixels, targets = torch.rand(8, 3, 4, 4), torch.tensor([[0.1, 0.4, 0.3, 0.2]]).repeat(8, 1)
    same = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "teacher_mean": (0.0,) * 3, "teacher_std": (1.0,) * 3, "temperature": 1.0}
    right = torch.tensor([0.26, 0.25, 0.3, 0.19]).log()
    assert check_against_teacher([(pixels, targets)], lambda crops: right.repeat(len(crops), 1), **same).ok
    wrong = torch.tensor([0.4, 0.2, 0.3, 0.1]).log()
    report = check_against_teacher([(pixels, targets)], lambda crops: wrong.repeat(len(crops), 1), **same)
    assert (report.ok, report.agreement) == (False, 0.0)
