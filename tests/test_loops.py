"""The training scripts in `examples/` on photographs: every loss equals that of dense labels, and pixels belong to labels."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from recorded_losses import marks, recorded_losses

from softlabel_codec import SoftLabelWriter
from softlabel_codec.cli.main import main as slcodec
from softlabel_codec.torch import ImageTurn, SoftCrossEntropy, SoftLabelDataset, check_against_teacher, collate_crops, soft_cross_entropy

pytestmark = [pytest.mark.others, pytest.mark.shared]

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NUM_IMAGES, NUM_CROPS = 8, 12
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = ["--model", "squeezenet1_1", "--size", "64"]
SMALLEST_OF_TIMM = ["--model", "test_resnet", "--size", "64"]
ONE_EPOCH = ["--epochs", "1", "--batch-size", "16", "--lr", "0.001"]  # of two steps
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
SPARSE = ["imagenet", "lightning_module", "webdataset_shards", "hf_datasets"]
PLAIN = ["imagenet", "torchvision_references", "timm_loader", "fkd", "lightning_module", "webdataset_shards", "hf_datasets"]


def of_lightning(test):
    """Let Lightning's warnings of a few workers, and of its own use of PyTorch, pass."""
    for warning in ("ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning"):
        test = pytest.mark.filterwarnings(warning)(test)
    return test


@pytest.fixture(scope="module")
def photos(tmp_path_factory, teacher_logits):
    """A folder of a few photographs, and labels of their crops: with tails, and without."""
    folder = tmp_path_factory.mktemp("photos")
    keys = teacher_logits["keys"][:NUM_IMAGES].tolist()
    link_photos(folder / "train", keys)
    preprocessing = {"size": 224, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}
    for name, codec in (("labels", "marginal_smoothing:t=0.05,tail=100"), ("top5", "marginal_smoothing:k=5")):
        with SoftLabelWriter(folder / f"{name}.slc", 1000, codec, metadata={"preprocessing": preprocessing}) as writer:
            for number, key in enumerate(keys):
                crops, flips, logits = (teacher_logits[part][number][:NUM_CROPS] for part in ("crops", "flips", "logits"))
                probs = torch.softmax(torch.from_numpy(logits).float(), 1).numpy()
                size = teacher_logits["image_size"][number].tolist()
                writer.add(key, image_size=size, crops=crops, flips=flips, probs=probs)
    return folder


def link_photos(folder, keys):
    for key in keys:
        (folder / key).parent.mkdir(parents=True)
        (folder / key).symlink_to(ROOT.parent / "shared" / "data" / "imagenet-100" / "train" / key)


@pytest.fixture(scope="module")
def shards(photos):
    """The same photographs with their classes in two tar files, as WebDataset names them."""
    for shard in range(2):
        with tarfile.open(photos / f"shard-{shard}.tar", "w") as tar:
            for number, photo in list(enumerate(sorted((photos / "train").rglob("*.JPEG"))))[shard::2]:
                name = f"{photo.parent.name}/{photo.stem}"
                for member, data in ((f"{name}.jpg", photo.read_bytes()), (f"{name}.cls", str(number).encode())):
                    head = tarfile.TarInfo(member)
                    head.size = len(data)
                    tar.addfile(head, io.BytesIO(data))
    return photos / "shard-{0..1}.tar"


@pytest.fixture(scope="module")
def parquet(photos):
    """The same photographs as rows of a Parquet file, as Hugging Face keeps them."""
    from datasets import Dataset, Image

    files = sorted((photos / "train").rglob("*.JPEG"))
    images = [{"bytes": photo.read_bytes(), "path": photo.name} for photo in files]
    dataset = Dataset.from_dict({"image": images, "label": list(range(len(files)))}).cast_column("image", Image())
    dataset.to_parquet(photos / "parquet" / "train-00000-of-00001.parquet")
    return photos / "parquet"


@pytest.fixture
def images_of(photos, request, monkeypatch, tmp_path):
    """Where a script finds the photographs."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    others = {"webdataset_shards": "shards", "hf_datasets": "parquet"}
    return lambda name: request.getfixturevalue(others[name]) if name in others else photos / "train"


@pytest.fixture(scope="module")
def photos_of_fkd(tmp_path_factory, teacher_logits):
    """A folder of three photographs, and FKD's label files of them, imported."""
    folder, fkd = tmp_path_factory.mktemp("fkd"), ROOT.parent / "shared" / "interop" / "fkd" / "marginal_smoothing_k10"
    link_photos(folder / "train", teacher_logits["keys"][:3].tolist())
    words = ["import", "fkd", fkd, folder / "labels.slc", "--label-type", fkd.name, "--images", folder / "train"]
    assert CliRunner().invoke(slcodec, [str(word) for word in words]).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def teacher():
    """The network that made the labels."""
    return module_at(ROOT.parent / "shared" / "teacher" / "mobilenet_v2.py").build()


def module_at(path):
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module, words, monkeypatch, capsys):
    """Run a script, and return the losses that its criterion returned, and those that it printed."""
    torch.manual_seed(0)
    np.random.seed(0)
    monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, words)])
    with recorded_losses() as losses:
        module.main()
    return losses, printed(capsys.readouterr().out)


def printed(text):
    return [float(line.partition(" loss ")[2].split()[0]) for line in text.splitlines() if " loss " in line]


def marks_of_an_epoch(labels, images):
    """Return the marks of all labels that are due in epoch 0, ascending."""
    dataset = SoftLabelDataset(images, labels, mean=MEAN, std=STD)
    due = dataset.labels_of([ImageTurn(number, 0) for number in range(len(dataset))])
    return sorted(mark for image in due for mark in marks(torch.from_numpy(image.labels.dense())))


@pytest.mark.parametrize("name", SPARSE)
@of_lightning
def test_losses_are_those_of_dense_labels(name, photos, images_of, monkeypatch, capsys):
    val = ["--val", photos / "train"] if name == "imagenet" else []
    words = [images_of(name), photos / "labels.slc", *SMALL, *ONE_EPOCH, "--workers", 1, *val]
    losses, shown = run(module_at(EXAMPLES / f"{name}.py"), words, monkeypatch, capsys)
    assert len(shown) == NUM_IMAGES * 4 / 16
    assert shown == pytest.approx([loss.given for loss in losses], abs=1e-6)
    assert shown == pytest.approx([loss.dense for loss in losses], abs=2e-5)
    came = sorted(mark for loss in losses for mark in loss.marks)
    assert came == pytest.approx(marks_of_an_epoch(photos / "labels.slc", photos / "train"), abs=1e-6)


@pytest.mark.parametrize("name", ["ddp", "accelerate_launch"])
def test_losses_of_two_processes_are_those_of_dense_labels(name, photos, tmp_path):
    script = [ROOT / "tests" / "recorded_losses.py", tmp_path, EXAMPLES / f"{name}.py"]
    words = [photos / "train", photos / "labels.slc", *SMALL, *ONE_EPOCH, "--batch-size", 8, "--workers", 0]
    text = started([*TORCHRUN, 2, *script, *words])
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    for loss in [*one, *other]:
        assert loss["given"] == pytest.approx(loss["dense"], abs=2e-5)
    means = [(mine["dense"] + theirs["dense"]) / 2 for mine, theirs in zip(one, other, strict=True)]
    assert len(means) == NUM_IMAGES * 4 / (2 * 8)
    assert printed(text) == pytest.approx(means, abs=2e-5)
    came = sorted(mark for loss in [*one, *other] for mark in loss["marks"])
    assert came == pytest.approx(marks_of_an_epoch(photos / "labels.slc", photos / "train"), abs=1e-6)  # each image in one of the two


DISPATCHED = """
import sys
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from softlabel_codec.torch import SoftLabelDataset, SoftLabelSampler, collate_dense

accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(dispatch_batches=True, use_seedable_sampler=True))
dataset = SoftLabelDataset(*sys.argv[1:], size=16, mean=[0.5] * 3, std=[0.5] * 3)
sampler = SoftLabelSampler(dataset, rank=0, world_size=1)
for _, labels in accelerator.prepare(torch.utils.data.DataLoader(dataset, 2, sampler=sampler, collate_fn=collate_dense)):
    torch.nn.CrossEntropyLoss()(torch.zeros_like(labels), labels)
"""


def test_accelerate_may_load_in_one_process_for_all(photos, tmp_path):
    (tmp_path / "script.py").write_text(DISPATCHED)
    words = [ROOT / "tests" / "recorded_losses.py", tmp_path, tmp_path / "script.py", photos / "train", photos / "labels.slc"]
    started([*TORCHRUN, 2, *words])
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert len(one) == len(other) == NUM_IMAGES / 4
    came = sorted(mark for loss in [*one, *other] for mark in loss["marks"])
    assert came == pytest.approx(marks_of_an_epoch(photos / "labels.slc", photos / "train"), abs=1e-6)


def started(words):
    """Run Python, and return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "1"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_losses_of_fkds_labels_are_those_of_dense_labels(photos_of_fkd, monkeypatch, capsys):
    module, shares = module_at(EXAMPLES / "fkd.py"), []
    mix = module.mix

    def recorded(images, args):
        mixed, partner, share = mix(images, args)
        assert (partner // module.CROPS != torch.arange(len(images)) // module.CROPS).all()  # of another image
        shares.append(share)
        return mixed, partner, share

    monkeypatch.setattr(module, "mix", recorded)
    words = [photos_of_fkd / "train", photos_of_fkd / "labels.slc", *SMALL, *ONE_EPOCH, "--batch-size", 12, "--workers", 1, "--epochs", 8]
    losses, shown = run(module, words, monkeypatch, capsys)
    mixed = [share * own.dense + (1 - share) * other.dense for share, own, other in zip(shares, losses[::2], losses[1::2], strict=True)]
    assert len(shown) == 8 / module.CROPS
    assert shown == pytest.approx(mixed, abs=2e-5)


@pytest.mark.parametrize("name", ["torchvision_references", "timm_loader"])
def test_losses_of_mixed_labels_are_those_of_sparse_labels(name, photos, monkeypatch, capsys):
    module, batches = module_at(EXAMPLES / f"{name}.py"), []
    collate_dense = module.collate_dense

    def recorded(samples, order="image"):
        images = [number for number in range(len(samples)) for _ in range(4)] if order == "image" else [*range(len(samples))] * 4
        batches.append((collate_crops(samples, order)[1], torch.tensor(images)))
        return collate_dense(samples, order)

    monkeypatch.setattr(module, "collate_dense", recorded)
    network = SMALLEST_OF_TIMM if name == "timm_loader" else SMALL
    words = [photos / "train", photos / "labels.slc", *network, *ONE_EPOCH, "--workers", 0]
    losses, shown = run(module, words, monkeypatch, capsys)
    assert len(shown) == NUM_IMAGES * 4 / 16
    for loss, value, (labels, images) in zip(losses, shown, batches, strict=True):
        rows = torch.arange(len(images))
        partner = rows.flip(0) if name == "timm_loader" else rows.roll(1)
        assert (images != images[partner]).all()
        share = share_of(loss.labels, labels.dense(), labels[partner].dense())
        mixed = share * soft_cross_entropy(loss.logits, labels) + (1 - share) * soft_cross_entropy(loss.logits, labels[partner])
        assert value == pytest.approx(float(mixed), abs=2e-5)


def share_of(mixed, own, other):
    """Return the share of one label in a mixture of two."""
    share = float(((mixed - other) * (own - other)).sum() / (own - other).square().sum())
    torch.testing.assert_close(mixed, share * own + (1 - share) * other, rtol=0, atol=1e-6)
    assert 0 <= share <= 1
    return share


def test_the_training_task_of_timm_takes_sparse_labels(photos):
    import timm
    from timm.task import ClassificationTask

    dataset = SoftLabelDataset(photos / "train", photos / "labels.slc", size=64, mean=MEAN, std=STD)
    images, labels = collate_crops([dataset[0], dataset[1]])
    task = ClassificationTask(timm.create_model("test_resnet"), criterion=SoftCrossEntropy(), verbose=False)
    with recorded_losses() as losses:
        loss = task(images, labels)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(losses[0].dense, abs=2e-5)


def loader_of(name, words):
    module = module_at(EXAMPLES / f"{name}.py")
    args = module.parse([str(word) for word in words])
    return module.Photographs(args).train_dataloader() if name == "lightning_module" else module.make_loader(args)


UNMIXED = {"torchvision_references": ["--mixup-alpha", 0, "--cutmix-alpha", 0]}


@pytest.mark.parametrize("name", ["imagenet", "torchvision_references", "lightning_module", "accelerate_launch", "ddp"])
def test_pixels_belong_to_labels(name, photos, teacher):
    words = [photos / "train", photos / "top5.slc", "--batch-size", 16, "--workers", 0, *UNMIXED.get(name, [])]
    check = check_against_teacher(loader_of(name, words), teacher, batches=1)
    assert (check.ok, check.num_crops) == (True, 16), check.reason


@pytest.mark.parametrize("name", ["timm_loader", "webdataset_shards", "hf_datasets"])
def test_pixels_of_loaders_that_do_not_say_how_they_normalise(name, photos, images_of, teacher):
    words = [images_of(name), photos / "top5.slc", "--batch-size", 16, "--workers", 1]  # in which WebDataset may leave files open
    of_teacher = {"teacher_mean": [0.5] * 3, "teacher_std": [0.5] * 3}
    check = check_against_teacher(loader_of(name, words), teacher, batches=None, mean=MEAN, std=STD, **of_teacher)
    assert (check.ok, check.num_crops) == (True, 32), check.reason


def test_pixels_belong_to_the_labels_of_fkd(photos_of_fkd, teacher):
    words = [photos_of_fkd / "train", photos_of_fkd / "labels.slc", "--batch-size", 12, "--workers", 0]
    check = check_against_teacher(loader_of("fkd", words), teacher, teacher_mean=[0.5] * 3, teacher_std=[0.5] * 3)
    assert (check.ok, check.num_crops) == (True, 12), check.reason


@pytest.mark.parametrize("name", PLAIN)
@of_lightning
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm leaves files to be closed by the collector
def test_plain_scripts_run_too(name, images_of, monkeypatch, capsys):
    words = [images_of(name), *(SMALLEST_OF_TIMM if name == "timm_loader" else SMALL), *ONE_EPOCH, "--batch-size", 8, "--workers", 1]
    losses, shown = run(module_at(EXAMPLES / "plain" / f"{name}.py"), words, monkeypatch, capsys)
    assert np.isfinite(shown).all()
    assert 1 <= len(shown) <= len(losses)


@pytest.mark.parametrize("name", ["ddp", "accelerate_launch"])
def test_plain_scripts_of_several_processes_run_in_one(name, photos):
    words = [photos / "train", *SMALL, *ONE_EPOCH, "--steps", 1, "--batch-size", 8, "--workers", 0]
    start = [*TORCHRUN, 1] if name == "ddp" else []
    assert np.isfinite(printed(started([*start, EXAMPLES / "plain" / f"{name}.py", *words]))).tolist() == [True]
