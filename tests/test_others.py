"""With timm and torchvision themselves: their networks as teachers and students, their transforms, their loaders (`make test-others`)."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numbered import IMAGES, NUM_IMAGES, PIXELS, write_numbered
from PIL import Image
from shapes import COLORS, options
from torch.utils.data import DataLoader

from softlabel_codec import AllViews, ArgumentError, Padding, SoftLabelReader
from softlabel_codec.cli.main import main
from softlabel_codec.images.cutting import Cutter
from softlabel_codec.padding import PADDING_MODES
from softlabel_codec.students import build_student
from softlabel_codec.torch import SoftLabelDataset, SoftLabelSampler, collate_crops, collate_dense, normalize, soft_cross_entropy
from softlabel_codec.torch.geometry import MOVES
from softlabel_codec.torch.pixels import to_tensor

pytestmark = pytest.mark.others

TEACHERS = ["timm:test_resnet", "timm:test_vit", "torchvision:squeezenet1_1"]
STUDENTS = ["timm:test_resnet", "timm:test_vit", "timm:mobilenetv3_small_050", "torchvision:mobilenet_v3_small"]
STUDENTS_OF_THE_PAPER = ["deit_tiny_patch16_224", "mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0"]


def run(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def command(name, values):
    return [name, *(part for option, value in values.items() for part in (f"--{option.replace('_', '-')}", value))]


@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_network_of_a_library_labels(teacher, shapes, tmp_path):
    out = tmp_path / "labels.slc"
    how = ["--crops", 2, "--codec", "marginal_smoothing:k=5", "--workers", 0]
    run("encode", shapes / "val", out, "--teacher", teacher, "--teacher-weights", "none", *how)
    with SoftLabelReader(out) as reader:
        assert (len(reader), reader.num_classes, reader.metadata["teacher"]["source"]) == (20, 1000, teacher)
        how = reader.metadata["preprocessing"]
    assert how["size"] == (224 if teacher.startswith("torchvision") else 160)
    assert len(how["mean"]) == len(how["std"]) == 3
    run("check", out, "--images", shapes / "val", "--teacher", teacher, "--teacher-weights", "none")


@pytest.mark.parametrize("teacher", ["timm:test_resnet", "torchvision:squeezenet1_1"])
def test_weights_of_ones_own_in_a_network_of_a_library(teacher, shapes, tmp_path):
    model = build_student(teacher, 7)
    torch.save({"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, tmp_path / "mine.pt")
    out = tmp_path / "labels.slc"
    how = ["--crops", 1, "--codec", "hard", "--workers", 0]
    run("encode", shapes / "val", out, "--teacher", teacher, "--teacher-weights", tmp_path / "mine.pt", *how)
    with SoftLabelReader(out) as reader:
        assert reader.num_classes == 7


def test_networks_of_two_libraries_label_together(shapes, tmp_path):
    out, teachers = tmp_path / "labels.slc", ["--teacher", "timm:test_resnet", "--teacher", "torchvision:squeezenet1_1"]
    how = [*teachers, "--teacher-weights", "none", "--teacher-weights", "none"]
    run("encode", shapes / "val", out, *how, "--crops", 2, "--codec", "dense", "--workers", 0)
    with SoftLabelReader(out) as reader:
        found = reader.metadata["teacher"]["teachers"]
    assert [(one["source"], one["size"], one["weights"], one["share"]) for one in found] == [
        ("timm:test_resnet", 160, "none", 0.5),
        ("torchvision:squeezenet1_1", 224, "none", 0.5),
    ]
    run("check", out, "--images", shapes / "val", *how)


@pytest.mark.parametrize("student", STUDENTS)
def test_a_network_of_a_library_is_trained_and_evaluated(student, shapes, tmp_path):
    made = {**options(shapes, tmp_path / "run", student=student, size=32, epochs=1, optimizer="adamw", learning_rate=0.001)}
    found = json.loads(run(*command("train", made), "--json"))
    assert found["epochs"] == 1
    assert np.isfinite(found["loss"])
    again = json.loads(run("evaluate", shapes / "val", tmp_path / "run" / "weights.pt", "--json"))
    assert again["top1"] == found["evaluation"]["top1"]
    weights = torch.load(tmp_path / "run" / "weights.pt", weights_only=True)
    assert len(COLORS) in {len(value) for value in weights.values() if value.ndim}
    frozen = json.loads(run("evaluate", shapes / "val", tmp_path / "run" / "weights.pt", "--knn", "--train", shapes / "train", "--json"))
    assert weights[f"{frozen['layer']}.weight"].shape == (len(COLORS), frozen["num_features"])
    assert 0 <= frozen["knn"] <= 1


@pytest.mark.parametrize("name", STUDENTS_OF_THE_PAPER)
def test_students_of_the_paper_learn_and_their_weights_are_those_of_timm(name, shapes, tmp_path):
    import timm

    is_transformer = name.startswith("deit")
    size, optimizer = (32, {"optimizer": "adamw"}) if is_transformer else (64, {"optimizer": "sgd"})
    seldom = {"epochs": 10, "warmup_epochs": 1.0, "val_epochs": 10, "checkpoint_epochs": 10}
    made = {**options(shapes, tmp_path / "run", student=f"timm:{name}"), **seldom, **optimizer}
    found = json.loads(run(*command("train", {**made, "size": size, "batch_size": 10, "learning_rate": 0.0005}), "--json"))
    _, *epochs = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [epoch["loss"] for epoch in epochs]
    assert len(losses) == 10
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:2])
    model = timm.create_model(name, num_classes=len(COLORS), **({"img_size": size} if is_transformer else {}))
    timm.models.load_checkpoint(model, str(tmp_path / "run" / "weights.pt"))  # in timm's own way, which is strict
    paths = sorted((shapes / "val").rglob("*.png"))
    pixels = to_tensor([Image.open(path).resize((size, size), Image.Resampling.BILINEAR) for path in paths])
    with torch.inference_mode():
        top = model.eval()(normalize(pixels, [0.5] * 3, [0.5] * 3)).argmax(1).tolist()
    right = [list(COLORS)[number] == path.parent.name for number, path in zip(top, paths, strict=True)]
    assert np.mean(right) == pytest.approx(found["evaluation"]["top1"])


def test_transformers_are_made_for_the_size_of_the_images():
    assert build_student("timm:test_vit", 5, 64)(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    with pytest.raises(ArgumentError, match="student: timm:no_such_network failed with RuntimeError"):
        build_student("timm:no_such_network", 5)
    with pytest.raises(ArgumentError, match="student: torchvision:no_such_network failed with ValueError"):
        build_student("torchvision:no_such_network", 5)


def test_residual_networks_take_the_weights_of_torchvision():
    from torchvision.models import resnet50

    build_student("resnet50", 6).load_state_dict(resnet50(num_classes=6).state_dict())


def test_every_name_that_is_refused_is_one_of_theirs():
    from timm.data import auto_augment, transforms
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    libraries = (v1, v2, transforms, auto_augment)
    assert [name for name in sorted(MOVES) if not any(hasattr(library, name) for library in libraries)] == []


@pytest.fixture
def labels(tmp_path):
    return write_numbered(tmp_path / "labels.slc")


def transforms_that_move():
    from timm.data import create_transform
    from timm.data.auto_augment import augment_and_mix_transform, rand_augment_transform
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    return [
        v1.RandomResizedCrop(8),
        v1.Compose([v1.ColorJitter(0.1), v1.RandomHorizontalFlip(), v1.ToTensor()]),
        v1.RandomApply([v1.RandomRotation(10)]),
        v1.TrivialAugmentWide(),
        v1.RandAugment(),
        v2.Compose([v2.ToImage(), v2.RandomChoice([v2.RandomCrop(4)])]),
        v2.RandomAffine(5),
        v2.AutoAugment(),
        rand_augment_transform("rand-m9-mstd0.5", {}),
        augment_and_mix_transform("augmix-m5-w4-d2", {}),
        create_transform(8, is_training=True),
    ]


@pytest.mark.parametrize("number", range(11))
def test_their_transforms_that_move_are_refused(labels, number):
    with pytest.raises(ArgumentError, match="after_crop: expected no transform that crops, shifts or mirrors, got"):
        SoftLabelDataset(IMAGES, labels, after_crop=transforms_that_move()[number])


def test_their_transforms_of_colours_are_taken(labels):
    from timm.data.random_erasing import RandomErasing
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    old = v1.Compose([v1.ColorJitter(0.4, 0.4, 0.4), v1.RandomGrayscale(), v1.GaussianBlur(3), v1.ToTensor(), v1.RandomErasing(1.0)])
    new = v2.Compose([v2.ToImage(), v2.RandomSolarize(128), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])
    of_timm = v1.Compose([v1.ToTensor(), RandomErasing(1.0, device="cpu")])
    for transform in (old, new, of_timm):
        found = SoftLabelDataset(IMAGES, labels, size=8, after_crop=transform)[0].images
        assert (found.shape, found.dtype) == ((4, 3, 8, 8), torch.float32)


def test_a_loader_of_timm_that_sets_a_transform_is_refused(labels):
    from timm.data import create_loader

    dataset = SoftLabelDataset(IMAGES, labels, **PIXELS)
    with pytest.raises(ArgumentError, match="transform: SoftLabelDataset has none: .* wrap a DataLoader of your own"):
        create_loader(dataset, (3, 8, 8), 2, is_training=True, num_workers=0)


def test_a_dataloader_of_ones_own_in_that_of_timm(labels):
    from timm.data.loader import PrefetchLoader

    dataset = SoftLabelDataset(IMAGES, labels, 3, size=8, normalized=False)
    loader = DataLoader(dataset, 2, sampler=SoftLabelSampler(dataset, shuffle=False), collate_fn=collate_crops)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    own = list(loader)
    loader.sampler.set_epoch(0)
    with pytest.warns(UserWarning, match="epoch 0 begins a second time"):
        found = list(PrefetchLoader(loader, mean=mean, std=std, device=torch.device("cpu")))
    assert len(found) == len(own) == NUM_IMAGES // 2
    for (pixels, targets), (bytes_of_pixels, wanted) in zip(found, own, strict=True):
        torch.testing.assert_close(pixels, normalize(bytes_of_pixels, mean, std))
        assert torch.equal(targets.dense(), wanted.dense())


def test_batches_through_transforms_of_torchvision(labels):
    from functools import partial

    from torchvision.transforms import v2

    dataset = SoftLabelDataset(IMAGES, labels, 3, size=8, normalized=False)
    loader = DataLoader(dataset, NUM_IMAGES, collate_fn=partial(collate_crops, order="crop"))
    ((pixels, targets),) = loader
    after = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(dataset.mean, dataset.std)])
    torch.testing.assert_close(after(pixels), normalize(pixels, dataset.mean, dataset.std))
    mixed, probs = v2.MixUp(num_classes=targets.num_classes)(after(pixels), targets.dense())
    assert mixed.shape == pixels.shape
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(len(probs)))


def test_torchcodec_decodes_to_the_same_pixels_as_pillow(tmp_path):
    from torchcodec.decoders import decode_jpeg

    from softlabel_codec.torch.cutting import _decode_jpeg

    rows, columns = np.mgrid[:75, :101]
    image = Image.fromarray(np.stack([127 + 100 * np.sin(rows / 9), columns, rows + columns], axis=2).astype(np.uint8))
    for mode, how in (("RGB", {}), ("L", {}), ("RGB", {"progressive": True}), ("RGB", {"subsampling": 0})):
        image.convert(mode).save(tmp_path / "a.jpg", quality=90, **how)
        data = (tmp_path / "a.jpg").read_bytes()
        decoded = _decode_jpeg(data)
        assert torch.equal(decoded, decode_jpeg(data))
        assert (decoded.permute(1, 2, 0).numpy() == np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB"))).all()
        assert _decode_jpeg(data[: len(data) // 2]) is None
    image.convert("CMYK").save(tmp_path / "a.jpg")
    assert _decode_jpeg((tmp_path / "a.jpg").read_bytes()) is None


@pytest.mark.parametrize("mode", PADDING_MODES)
def test_padded_crops_are_those_of_torchvision(mode):
    from torchvision.transforms import RandomCrop
    from torchvision.transforms import functional as old
    from torchvision.transforms.v2 import functional as new

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8))
    fill = (10, 20, 30) if mode == "constant" else 0
    padding, views = Padding(4, mode, fill), AllViews(8, 8, flips=False)
    cutter = Cutter(8, padding=padding)
    for pad in (old.pad, new.pad):
        assert np.array_equal(np.asarray(cutter.whole(image)), np.asarray(pad(image, [4] * 4, fill, mode)))
    number = views.num_crops(*padding.around((12, 9)))
    cut = cutter.cut(image, lambda size: views.sample("", padding.around(size), range(number)))
    every = {np.asarray(view).tobytes() for view in cut.images}
    assert len(every) == number == 13 * 10
    random_crop = RandomCrop(8, padding=4, fill=fill, padding_mode=mode)
    assert {np.asarray(random_crop(image)).tobytes() for _ in range(2000)} == every


@pytest.mark.parametrize("mixing", ["MixUp", "CutMix"])
@pytest.mark.parametrize("with_classes", [False, True])
def test_dense_batches_are_mixed_by_torchvision(labels, mixing, with_classes):
    from functools import partial

    from torchvision.transforms import v2

    target_of = (lambda key: int(key[5])) if with_classes else None
    dataset = SoftLabelDataset(IMAGES, labels, 3, size=4, target_of=target_of)
    (batch,) = DataLoader(dataset, NUM_IMAGES, collate_fn=partial(collate_dense, order="crop"))
    torch.manual_seed(1)  # with other numbers CutMix may choose a box without pixels
    mixed, probs, *classes = getattr(v2, mixing)(alpha=1.0)(*batch)
    assert mixed.shape == batch[0].shape
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(len(probs)))
    assert (probs.max(dim=1).values < 1).any()
    assert ((probs > 0) <= ((batch[1] > 0) | (batch[1].roll(1, 0) > 0))).all()  # of the crop itself and its neighbour only
    assert [found.tolist() for found in classes] == ([list(range(NUM_IMAGES)) * 3] if with_classes else [])
    assert torch.nn.CrossEntropyLoss()(torch.zeros_like(probs), probs).isfinite()


def test_dense_batches_are_mixed_by_timm(labels):
    from functools import partial

    from timm.data import Mixup
    from timm.loss import SoftTargetCrossEntropy

    dataset = SoftLabelDataset(IMAGES, labels, 2, size=4)
    (pixels, probs), *_ = DataLoader(dataset, NUM_IMAGES, collate_fn=partial(collate_dense, order="crop"))
    mixup = Mixup(mixup_alpha=1.0, label_smoothing=0.0, num_classes=probs.shape[1], multi_label=True)
    mixed, targets = mixup(pixels.clone(), probs)
    share = (mixed[0] - pixels[-1]).mean() / (pixels[0] - pixels[-1]).mean()
    torch.testing.assert_close(targets, share * probs + (1 - share) * probs.flip(0), rtol=1e-4, atol=1e-4)
    logits = torch.randn(probs.shape)
    (_, sparse), *_ = DataLoader(SoftLabelDataset(IMAGES, labels, 2, size=4), NUM_IMAGES, collate_fn=partial(collate_crops, order="crop"))
    torch.testing.assert_close(SoftTargetCrossEntropy()(logits, probs), soft_cross_entropy(logits, sparse))
