"""The reference trainer: every label source, resuming, several processes, what can go wrong."""

import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from shapes import NUM_CROPS, SAMPLER, SIDE, config, options, write_shape_labels, write_two_teachers
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader

import softlabel_codec
from softlabel_codec import (
    AllViews,
    ArgumentError,
    CorruptError,
    CropSampler,
    MismatchError,
    Padding,
    SoftLabelReader,
    SoftLabelWriter,
    StateError,
)
from softlabel_codec.cli.main import main
from softlabel_codec.container.whole_files import read_result, write_json
from softlabel_codec.evaluate import evaluate, load_student
from softlabel_codec.images.cutting import Cutter
from softlabel_codec.images.files import load_image
from softlabel_codec.images.paths import list_images
from softlabel_codec.label_maps import make_label_maps
from softlabel_codec.options.train import TrainConfig
from softlabel_codec.students import build_student, load_weights
from softlabel_codec.students.weights import weights_sha256
from softlabel_codec.teacher import EncodeConfig, encode
from softlabel_codec.teacher.load import load_teacher
from softlabel_codec.torch import (
    DenseTargets,
    ImageTurn,
    SoftLabelDataset,
    SoftLabelSampler,
    collate_crops,
    soft_cross_entropy,
    to_targets,
)
from softlabel_codec.torch.device import ImageMemory
from softlabel_codec.torch.workers import SHARED_MEMORY
from softlabel_codec.trainer import train
from softlabel_codec.trainer.batches import Loader
from softlabel_codec.trainer.draws import check_draws, images_per_step, make_sampler
from softlabel_codec.trainer.log import RunLog
from softlabel_codec.trainer.loop import learning_rate
from softlabel_codec.trainer.mixing import mix_crops
from softlabel_codec.trainer.processes import Processes
from softlabel_codec.trainer.setup import make_online_teachers, parameter_groups, set_up


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "weights.pt", weights_only=True)


def assert_same_weights(first: Path, second: Path, **tolerance: float) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


def log_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def maps(shapes):
    make_label_maps(shapes / "train", f"{shapes / 'teacher.py'}:build").save(shapes / "maps.npz")
    return str(shapes / "maps.npz")


@pytest.mark.parametrize("source", ["stored", "truth", "online", "maps"])
def test_a_student_learns_from_every_source(source, shapes, maps, tmp_path):
    labels = {"stored": str(shapes / "labels.slc"), "maps": maps}.get(source, source)
    more = {"teacher": f"{shapes / 'teacher.py'}:build"} if source == "online" else {}
    report = train(config(shapes, tmp_path / "run", labels=labels, epochs=8, mean=[0.5] * 3, std=[0.5] * 3, **more))
    assert (report.epochs, report.steps) == (8, 40)
    assert report.evaluation["top1"] > 0.8  # chance is 0.25
    assert 0 < report.data_seconds < report.seconds
    first, *epochs = log_of(tmp_path / "run")
    assert first["run"]["labels"] == labels
    assert first["versions"]["torch"] == torch.__version__.partition("+")[0] or first["versions"]["torch"] == torch.__version__
    assert [line["epoch"] for line in epochs] == list(range(8))
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert epochs[-1]["loss"] == report.loss
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["loss"], result["evaluation"], result["config"]["labels"]) == (report.loss, report.evaluation, labels)
    load_weights(build_student("small", 4), tmp_path / "run" / "weights.pt")  # anybody's code


def test_the_log_says_what_the_labels_are(shapes, tmp_path):
    train(config(shapes, tmp_path / "run", epochs=1))
    with SoftLabelReader(shapes / "labels.slc") as reader:
        assert log_of(tmp_path / "run")[0]["labels"] == {
            "labels": str(shapes / "labels.slc"),
            "codec": "marginal_smoothing:k=2",
            "fingerprint": reader.fingerprint,
        }


EVERYTHING = {
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "warmup_epochs": 1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "ema": 0.9,
    "truth_weight": 0.2,
    "temperature": 2.0,
}


class StoppedError(Exception):
    """The run was interrupted."""


def stop_after(step: int):
    def progress(done: int, total: int) -> None:
        if done == step:
            raise StoppedError

    return progress


MOMENTUM = {"momentum": 0.8, "nesterov": True, "student": "resnet18_small"}
DROPOUT = {"student": "teacher.py:drops", "workers": 1, "ema": 0.9, "mixup": 0.3}


@pytest.mark.parametrize("more", [EVERYTHING, MOMENTUM, DROPOUT])
def test_a_run_that_is_continued_equals_an_unbroken_one(more, shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(shapes)
    write_shape_labels(shapes, tmp_path / "warm.slc", temperature=2.0)
    more = {"labels": str(tmp_path / "warm.slc"), **more}
    whole = train(config(shapes, tmp_path / "whole", **more))
    with pytest.raises(StoppedError):
        train(config(shapes, tmp_path / "parts", **more), stop_after(12))  # in the third epoch of five steps
    part = train(config(shapes, tmp_path / "parts", resume=True, **more))
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert (part.loss, part.steps, part.evaluation) == (whole.loss, whole.steps, whole.evaluation)
    begun = [line["first_epoch"] for line in log_of(tmp_path / "parts") if "first_epoch" in line]
    assert begun == [0, 2]
    assert [line["epoch"] for line in log_of(tmp_path / "parts") if "epoch" in line] == [0, 1, 2, 3]


def test_a_finished_run_stays_what_it_is(shapes, tmp_path):
    first = train(config(shapes, tmp_path / "run"))
    again = train(config(shapes, tmp_path / "run", resume=True))
    assert again == first


def test_a_finished_run_looks_at_other_images_if_asked(shapes, tmp_path):
    first = train(config(shapes, tmp_path / "run", epochs=8))
    shutil.copytree(shapes / "val", tmp_path / "val")
    for path in (tmp_path / "val" / "red").iterdir():
        shutil.copy(shapes / "val" / "blue" / path.name, path)
    for _ in range(2):
        again = train(config(shapes, tmp_path / "run", epochs=8, resume=True, val=str(tmp_path / "val")))
        found = evaluate(load_student(tmp_path / "run" / "checkpoint.pt"), tmp_path / "val")
        assert again.evaluation["top1"] == found.top1 < first.evaluation["top1"]
        assert json.loads((tmp_path / "run" / "result.json").read_text())["evaluation"] == again.evaluation
    assert train(config(shapes, tmp_path / "run", epochs=8, resume=True, val=None)).evaluation is None


@pytest.mark.parametrize("source", ["stored", "truth", "maps"])
def test_images_in_memory_and_in_workers_give_the_same_student(source, shapes, maps, tmp_path):
    labels = {"stored": str(shapes / "labels.slc"), "maps": maps}.get(source, source)
    dropout = f"{shapes / 'teacher.py'}:drops"  # which takes random numbers of its own
    student = {"student": dropout, "labels": labels, "exif_orientation": None if source == "maps" else "applied"}
    train(config(shapes, tmp_path / "plain", **student))
    train(config(shapes, tmp_path / "memory", in_memory=True, **student))
    train(config(shapes, tmp_path / "workers", workers=2, **student))
    assert_same_weights(tmp_path / "plain", tmp_path / "memory")
    assert_same_weights(tmp_path / "plain", tmp_path / "workers")


def test_padded_images_in_memory_give_the_same_student(shapes, tmp_path):
    memory = ImageMemory()
    for padding in (Padding(6, "edge"), Padding(6, "reflect"), Padding(1)):
        labels, teacher = str(tmp_path / f"{padding.mode}.slc"), f"{shapes / 'teacher.py'}:build"
        encode(EncodeConfig(str(shapes / "train"), labels, teacher, "dense", sampler=AllViews(24, 24), padding=padding, size=24))
        student = {"student": f"{shapes / 'teacher.py'}:drops", "labels": labels, "crops_per_image": 2, "epochs": 1}
        train(config(shapes, tmp_path / f"{padding.mode}-plain", **student))
        train(config(shapes, tmp_path / f"{padding.mode}-memory", in_memory=True, **student), memory=memory)
        assert_same_weights(tmp_path / f"{padding.mode}-plain", tmp_path / f"{padding.mode}-memory")


VIEWS = {"size": SIDE, "all_views": SIDE, "padding": 1}
"""What fresh crops of a recipe that pads and crops are: 18 views of each image."""


def write_views(shapes, path, padding, codec="dense"):
    """Write the teacher's labels of all views of the images, and return the path."""
    teacher = f"{shapes / 'teacher.py'}:build"
    encode(EncodeConfig(str(shapes / "train"), str(path), teacher, codec, sampler=AllViews(SIDE, SIDE), padding=padding, size=SIDE))
    return str(path)


@pytest.mark.parametrize("crops_per_image", [1, 4, 10])
@pytest.mark.parametrize(
    ("padding", "how"),
    [
        (Padding(1, fill=(9, 99, 200)), {"fill": [9, 99, 200]}),
        (Padding(1, "reflect"), {"padding_mode": "reflect"}),
    ],
    ids=str,
)
def test_fresh_views_are_those_that_are_drawn_of_a_file_of_all_views(padding, how, crops_per_image, shapes, tmp_path):
    path = write_views(shapes, tmp_path / "views.slc", padding)
    stored = SoftLabelDataset(shapes / "train", path, crops_per_image, SIDE, 5, normalized=False)
    made = config(shapes, tmp_path, labels="truth", seed=5, crops_per_image=crops_per_image, batch_size=20, **VIEWS, **how)
    fresh = set_up(made).crops
    for turns in ([ImageTurn(image, turn) for image in (3, 39)] for turn in range(20)):
        for one, other in zip(fresh.labels_of(turns), stored.labels_of(turns), strict=True):
            np.testing.assert_array_equal(one.crops, other.crops)
            np.testing.assert_array_equal(one.flips, other.flips)
            assert one.image_size == other.image_size == (SIDE, SIDE)
        for one, other in zip(fresh.__getitems__(turns), stored.__getitems__(turns), strict=True):
            assert torch.equal(one.images, other.images)
            assert (one.key, one.index) == (other.key, other.index)
    assert np.array_equal(np.asarray(fresh.whole_image(7)), np.asarray(stored.whole_image(7)))


def test_crops_that_torch_cuts_are_the_same_whether_they_are_stored_or_not(shapes, tmp_path):
    path = write_views(shapes, tmp_path / "views.slc", Padding(1))
    common = {"backend": "torch", "seed": 5, "size": SIDE - 5}
    stored, fresh = (
        set_up(config(shapes, tmp_path, labels=labels, **common, **how)).crops
        for labels, how in ((path, {}), ("truth", {"all_views": SIDE, "padding": 1}))
    )
    exact = set_up(config(shapes, tmp_path, labels=path, **{**common, "backend": "pillow"})).crops
    turns = [ImageTurn(3, 1), ImageTurn(39, 1)]
    for one, other, slow in zip(*(crops.__getitems__(turns) for crops in (fresh, stored, exact)), strict=True):
        assert torch.equal(one.images, other.images)
        assert 0 < (one.images.int() - slow.images.int()).abs().max() <= 1
    with pytest.raises(ArgumentError, match="interpolation: expected one of bilinear, bicubic with backend='torch', got 'box'"):
        set_up(config(shapes, tmp_path, labels="truth", interpolation="box", **common))


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("labels", ["truth", "online"])
def test_students_see_the_same_views_whether_they_are_stored_or_not(labels, in_memory, shapes, tmp_path):
    path = write_views(shapes, tmp_path / "views.slc", Padding(1, "edge"))
    common = {"seed": 5, "size": SIDE, "in_memory": in_memory}
    teacher = {"teacher": f"{shapes / 'teacher.py'}:build"} if labels == "online" else {}
    made = [
        config(shapes, tmp_path, labels=path, **common),
        config(shapes, tmp_path, labels=labels, padding_mode="edge", **teacher, **{**common, **VIEWS}),
    ]
    stored, fresh = (Loader(one, set_up(one), Processes(0, 1, torch.device("cpu")), ImageMemory()) for one in made)
    for epoch in (0, 1, 2, 30):
        for one, other in zip(stored.batches(epoch), fresh.batches(epoch), strict=True):
            assert torch.equal(one.pixels, other.pixels)
            assert torch.equal(one.classes, other.classes)


def test_the_teacher_in_every_step_says_of_all_views_what_is_stored(shapes, tmp_path):
    path = write_views(shapes, tmp_path / "views.slc", Padding(1), "dense:values=f32")
    common = {"size": SIDE, "epochs": 2, "seed": 3}
    train(config(shapes, tmp_path / "stored", labels=path, **common))
    how = {"labels": "online", "teacher": f"{shapes / 'teacher.py'}:build"}
    train(config(shapes, tmp_path / "online", **how, **{**common, **VIEWS}))
    assert_same_weights(tmp_path / "stored", tmp_path / "online", rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("average", "given"), [("probs", {}), ("probs", {"workers": 1}), ("logits", {"in_memory": True})], ids=["here", "worker", "in memory"]
)
def test_several_teachers_in_every_step_say_what_is_stored(average, given, shapes, tmp_path, monkeypatch):
    monkeypatch.setattr("softlabel_codec.trainer.batches.need_pipes", lambda num_bytes, workers: workers > 0)
    teachers, path = write_two_teachers(shapes, tmp_path), tmp_path / "both.slc"
    how = {"average": average, "temperature": 3.0}
    views = {"sampler": AllViews(SIDE - 2, SIDE - 2), "padding": Padding(1)}
    encode(EncodeConfig(str(shapes / "train"), str(path), teachers, "dense:values=f32", weights=(1, 3), **views, **how))
    common = {"seed": 3, "epochs": 1, **given}
    stored = config(shapes, tmp_path, labels=str(path), **common)
    fresh = {"all_views": SIDE - 2, "padding": 1, "teacher": teachers, "teacher_shares": [1, 3], **how}
    online = config(shapes, tmp_path, labels="online", **fresh, **common)
    cpu, setup = torch.device("cpu"), set_up(online)
    assert (setup.crops.interpolation, setup.crops.mean) == ("bilinear", (0.485, 0.456, 0.406))  # which teachers have not in common
    labelled = make_online_teachers(online, setup, cpu)
    both = ((stored, set_up(stored)), (online, setup))
    batches = (Loader(one, found, Processes(0, 1, cpu), ImageMemory()).batches(0) for one, found in both)
    for batch, other in zip(*batches, strict=True):
        probs = labelled.probs({setup.shape: other.pixels, **other.others})
        assert float((probs - batch.labels.dense()).abs().max()) < 1e-5 < float(probs.std())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"teacher": "seven"}, "teachers: expected the same number of classes of all, got 7 of teacher.py:seven, 4 of other.py:other"),
        ({"teacher_shares": "1,2,3"}, "teacher_shares: expected a positive number for each of 2 teachers, such as 0.5,0.5, got '1,2,3'"),
        ({"teacher_size": 16}, "teacher_size: expected None, as each of several teachers has its own, got 16"),
        ({"backend": "torch"}, "backend: expected 'pillow' with a teacher that sees crops of another kind, got 'torch'"),
        ({"average": "median"}, "average: expected probs or logits, got 'median'"),
        ({"teacher_weights": ["none"]}, "teacher_weights: is for timm:NAME and torchvision:NAME"),
    ],
)
def test_teachers_that_do_not_fit_together(more, message, shapes, tmp_path):
    first, other = write_two_teachers(shapes, tmp_path)
    teacher = [first.replace(":build", f":{more.get('teacher', 'build')}"), other]
    with pytest.raises((ArgumentError, MismatchError), match=message):
        train(config(shapes, tmp_path / "run", labels="online", **{**more, "teacher": teacher}))


SURE = """
import torch
from torch import nn

class Sure(nn.Linear):
    def __init__(self, later):
        super().__init__(4, 4)
        self.first, self.later = [1.0, 0, 0, 0], later

    def forward(self, images):
        says, self.first = self.first, self.later  # noise, to test it, comes first
        return torch.tensor([says] * len(images))

def first():
    return Sure([1.0, 0, 0, 0])

def last():
    return Sure([0, 0, 0, 1.0])

def nan():
    return Sure([torch.nan] * 4)
"""


@pytest.mark.parametrize(
    ("factories", "message"),
    [
        (["first", "last"], r"teachers: sure\.py:first \+ sure\.py:last give no class a probability above 0 in common.*--average probs"),
        (["first", "nan"], r"teacher sure\.py:nan: expected probs without NaN, got NaN or infinity"),
    ],
)
def test_a_loss_without_labels_is_not_blamed_on_the_learning_rate(factories, message, shapes, tmp_path):
    (tmp_path / "sure.py").write_text(SURE)
    teachers = [f"{tmp_path / 'sure.py'}:{name}" for name in factories]
    with pytest.raises(MismatchError, match=message):
        train(config(shapes, tmp_path / "run", labels="online", teacher=teachers, teacher_output="probs", average="logits"))


def test_the_command_takes_several_teachers_and_continues_with_the_same_only(shapes, tmp_path):
    teachers = write_two_teachers(shapes, tmp_path)
    both = {**options(shapes, tmp_path / "run", labels="online", epochs=1, val=None), "teacher": teachers, "average": "logits"}
    write_json(tmp_path / "recipe.json", {name: value for name, value in both.items() if value is not None})
    given = ["train", "--config", str(tmp_path / "recipe.json"), "--teacher-shares", "3,1", "--resume"]
    result = CliRunner().invoke(main, given)
    assert (result.exit_code, result.stderr) == (0, "")
    found = read_result(tmp_path / "run" / "result.json")["config"]
    assert (found["teacher"], found["teacher_shares"], found["average"]) == (teachers, "3,1", "logits")
    again = CliRunner().invoke(main, [*given, "--teacher", teachers[1], "--teacher", teachers[0]])  # in place of those of the file
    assert again.exit_code == 1
    assert "was made with other labels than online" in again.stderr


def test_fresh_random_crops_of_padded_images(shapes, tmp_path):
    random = {"labels": "truth", "scale": [0.5, 1.0], "seed": 8, "padding": 5, "fill": [255, 0, 7], "epochs": 1}
    made = config(shapes, tmp_path / "plain", **random)
    crops = set_up(made).crops
    key = crops.keys[4]
    planes = np.asarray(load_image(shapes / "train" / key)).transpose(2, 0, 1)
    whole = np.stack([np.pad(plane, 5, constant_values=fill) for plane, fill in zip(planes, random["fill"], strict=True)], axis=2)
    boxes, flips = CropSampler(8, (0.5, 1.0)).sample(key, (SIDE + 10, SIDE + 10), [6, 7])
    (sample,) = crops.__getitems__([ImageTurn(4, 3)])
    expected = Cutter(16).cut(whole, lambda size: (boxes, flips)).images
    assert torch.equal(sample.images, torch.from_numpy(np.stack(expected).transpose(0, 3, 1, 2)))
    train(made)
    train(replace(made, out=str(tmp_path / "memory"), in_memory=True))
    assert_same_weights(tmp_path / "plain", tmp_path / "memory")


def test_an_image_that_has_too_few_views(shapes, tmp_path):
    few = {"crops_per_image": 4, "size": SIDE, "labels": "truth"}
    for views, padding, found in ((SIDE, 0, 2), (SIDE + 9, 4, 0)):
        message = rf"all_views: expected at least 4 views of .*blue/0\.png, .* got {found}: it has 24 x 24 pixels .* padding of {padding}"
        with pytest.raises(ArgumentError, match=message):
            set_up(config(shapes, tmp_path / "run", all_views=views, padding=padding, **few))
    shutil.copytree(shapes / "train", tmp_path / "train")
    Image.new("RGB", (30, SIDE - 3)).save(tmp_path / "train" / "red" / "3.png")
    for workers in (0, 1):
        more = {"images": str(tmp_path / "train"), "workers": workers, "crops_per_image": 1}
        with pytest.raises(ArgumentError, match=r"views of .*red/3\.png, .* got 0: it has 21 x 30 pixels"):
            train(config(shapes, tmp_path / f"run{workers}", **{**few, **VIEWS, **more}))


def test_little_shared_memory_is_enough(shapes, tmp_path, monkeypatch):
    train(config(shapes, tmp_path / "plain", epochs=1))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000) if path == SHARED_MEMORY else usage)
    train(config(shapes, tmp_path / "pipes", epochs=1, workers=1))
    assert_same_weights(tmp_path / "plain", tmp_path / "pipes")


@pytest.mark.parametrize("processes", [2])
def test_several_processes_train_the_same_student(processes, shapes, tmp_path):
    student = {"student": f"{shapes / 'teacher.py'}:plain"}  # without batch norm, whose statistics each process has for itself
    train(config(shapes, tmp_path / "one", **student))
    arguments = []
    for name, value in options(shapes, tmp_path / "two", **student).items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m", "softlabel_codec.trainer"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": "0"}
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained") == 1  # only the first process speaks
    assert_same_weights(tmp_path / "one", tmp_path / "two", rtol=1e-3, atol=1e-5)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    assert results[0]["evaluation"]["top1"] == pytest.approx(results[1]["evaluation"]["top1"], abs=0.1)
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-3)


APART = """
import os, sys
from pathlib import Path
from shapes import config
from softlabel_codec.trainer import train
from torch import distributed

def run(name, progress=None, **more):  # each process has a folder of its own, as machines have that share none
    return train(config(SHAPES, OUT / f"{name}{os.environ['RANK']}", student="teacher.py:drops", **{"val": None, **more}), progress)

class Stopped(Exception):
    pass

def stop(done, total):
    if done == 12:
        raise Stopped

SHAPES, OUT = map(Path, sys.argv[1:])
os.chdir(SHAPES)
distributed.init_process_group("gloo")
try:
    run("wrong", val="nowhere")  # only the first process looks at them
except Exception as error:
    sys.stdout.write(f"refused: {type(error).__name__}\\n")  # in one piece, beside the other process
run("whole")
try:
    run("parts", stop)
except Stopped:
    pass
run("parts", resume=True)
distributed.barrier()
sys.stdout.flush()
os._exit(0)  # threads of gloo now and then abort a process while its interpreter ends
"""


def test_processes_that_share_no_folder(shapes, tmp_path):
    (tmp_path / "apart.py").write_text(APART)
    arguments = [str(path) for path in (tmp_path / "apart.py", shapes, tmp_path)]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *arguments]
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(softlabel_codec.__file__).parents[1])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": "0", "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused: ArgumentError") == 2  # what one process finds wrong, all say
    assert_same_weights(tmp_path / "whole0", tmp_path / "parts0")
    assert not (tmp_path / "parts1").exists()


def draws_config(**more):
    return TrainConfig.from_mapping({"images": "", "labels": "a.slc", "out": "", "epochs": 12, "batch_size": 8, **more})


def steps_of(made, num_images, epoch, rank=0, world_size=1):
    """Return the images and turns of each step of an epoch, as a DataLoader takes them from the sampler."""
    sampler = make_sampler(made, num_images, rank, world_size)
    sampler.set_epoch(epoch)
    return list(BatchSampler(sampler, images_per_step(made, world_size), drop_last=True))


@pytest.mark.parametrize("crops_per_image", [1, 2, 4])
def test_a_pass_over_the_images_takes_each_once(crops_per_image):
    made = draws_config(crops_per_image=crops_per_image)
    for first in range(0, 12, crops_per_image):
        epochs = [steps_of(made, 48, epoch) for epoch in range(first, first + crops_per_image)]
        assert {len(steps) for steps in epochs} == {6}  # as many crops as there are images
        turns = [turn for steps in epochs for step in steps for turn in step]
        assert sorted(turns) == list(range(48))
        assert {turn.turn for turn in turns} == {first // crops_per_image}


def crops_taken(setup, made, image, epochs):
    """Return a text for each crop of an image that is taken in some epochs."""
    taken = []
    for epoch in epochs:
        crops = setup.crops
        for turn in [turn for step in steps_of(made, len(crops.keys), epoch) for turn in step if turn == image]:
            (found,) = crops.labels_of([turn])
            rows = np.column_stack([found.crops, found.flips, found.labels.indices, found.labels.values])
            assert len(np.unique(rows, axis=0)) == len(rows) == crops.crops_per_image  # no crop twice in a step
            taken += [str(row) for row in rows.tolist()]
    return taken


@pytest.mark.parametrize("crops_per_image", [1, 2, 5])
def test_all_stored_crops_are_used_before_any_is_used_again(crops_per_image, shapes, tmp_path):
    made = config(shapes, tmp_path, batch_size=20, crops_per_image=crops_per_image, epochs=36)
    taken = crops_taken(set_up(made), made, 3, range(36))
    assert len(taken) >= 34
    for start in range(0, len(taken) - NUM_CROPS + 1, NUM_CROPS):
        assert len(set(taken[start : start + NUM_CROPS])) == NUM_CROPS


def test_the_trainer_takes_the_crops_that_a_dataset_gives(shapes, tmp_path):
    made = config(shapes, tmp_path, seed=5)
    dataset = SoftLabelDataset(shapes / "train", shapes / "labels.slc", 2, 16, 5, normalized=False)
    sampler = SoftLabelSampler(dataset, seed=5, parts=2)
    own = DataLoader(dataset, 4, sampler=sampler, collate_fn=collate_crops)
    here = Processes(0, 1, torch.device("cpu"))
    for in_memory in (False, True):
        loader = Loader(replace(made, in_memory=in_memory), set_up(made), here, ImageMemory())
        for epoch in (0, 1, 2):
            sampler.set_epoch(epoch)
            for batch, (pixels, labels) in zip(loader.batches(epoch), list(own), strict=True):
                assert torch.equal(batch.pixels, pixels)
                assert torch.equal(batch.labels.dense(), labels.dense())
        sampler = SoftLabelSampler(dataset, seed=5, parts=2)
        own = DataLoader(dataset, 4, sampler=sampler, collate_fn=collate_crops)


def test_processes_share_each_step():
    made = draws_config(crops_per_image=2)
    alone = steps_of(made, 48, 3)
    shared = [steps_of(made, 48, 3, rank, 2) for rank in range(2)]
    assert [sorted(first + second) for first, second in zip(*shared, strict=True)] == [sorted(step) for step in alone]
    check_draws(made, 48, 2)
    with pytest.raises(ArgumentError, match="8 crops are 4 images, which 3 processes cannot share evenly"):
        check_draws(made, 48, 3)
    with pytest.raises(ArgumentError, match="a step takes 4 images, but an epoch has only 3"):
        check_draws(made, 6)


def test_mixing_losses_is_mixing_labels(shapes):
    rng = np.random.default_rng(0)
    with SoftLabelReader(shapes / "labels.slc") as reader:
        targets = to_targets(reader[0].labels)
    pixels, logits = torch.rand(NUM_CROPS, 3, 8, 8), torch.randn(NUM_CROPS, 4)
    for mixup, cutmix in ((0.4, 0.0), (0.0, 1.0)):
        mixed, mix = mix_crops(pixels, 1, mixup, cutmix, rng)
        assert 0 <= mix.share <= 1
        share_of_pixels = (mixed == pixels).all(dim=1).double().mean() if cutmix else mix.share
        if cutmix:
            moved = mix.other != torch.arange(NUM_CROPS)
            share_of_pixels = (mixed == pixels).all(dim=1)[moved].double().mean()
        else:
            torch.testing.assert_close(mixed, mix.share * pixels + (1 - mix.share) * pixels[mix.other])
        assert float(share_of_pixels) == pytest.approx(mix.share)
        dense = DenseTargets(mix.share * targets.dense() + (1 - mix.share) * targets.dense()[mix.other])
        parts = mix.share * soft_cross_entropy(logits, targets) + (1 - mix.share) * soft_cross_entropy(logits, targets[mix.other])
        torch.testing.assert_close(parts, soft_cross_entropy(logits, dense))
    assert mix_crops(pixels, 1, 0, 0, rng)[1] is None


@pytest.mark.parametrize(("num_images", "crops_per_image"), [(2, 1), (2, 4), (3, 4), (16, 4), (5, 1)])
def test_a_crop_is_never_mixed_with_one_of_its_own_image(num_images, crops_per_image):
    rng = np.random.default_rng(0)
    images = torch.arange(num_images).repeat_interleave(crops_per_image)
    partners = set()
    for _ in range(200):
        mix = mix_crops(torch.zeros(len(images), 3, 2, 2), crops_per_image, 0.4, 0.4, rng)[1]
        assert (images[mix.other] != images).all()
        assert sorted(mix.other.tolist()) == list(range(len(images)))  # each crop takes part twice
        partners.add(tuple(images[mix.other].tolist()))
    assert len(partners) > 1 or num_images == 2


def test_a_single_image_cannot_be_mixed():
    for mixed in ({"mixup": 0.4}, {"cutmix": 1.0}):
        with pytest.raises(ArgumentError, match="a step takes one image in each process, got mixup=.* which mix crops of different images"):
            check_draws(draws_config(crops_per_image=8, **mixed), 48)
    check_draws(draws_config(crops_per_image=4, mixup=0.4), 48)


def test_the_learning_rate_rises_and_falls():
    made = draws_config(learning_rate=0.4, warmup_epochs=2, epochs=12)
    rates = [learning_rate(made, step / 4, (step + 1) / 4) for step in range(48)]
    assert rates[:7] == pytest.approx([0.4 * (step + 1) / 8 for step in range(7)])
    assert rates[8] == pytest.approx(0.4)
    assert rates[28] == pytest.approx(0.2)
    assert all(before > after for before, after in itertools.pairwise(rates[8:]))
    assert rates[-1] < 0.001


def test_the_learning_rate_falls_at_milestones():
    made = draws_config(learning_rate=0.05, warmup_epochs=1, epochs=12, milestones=[6, 9])
    rates = [learning_rate(made, step / 4, (step + 1) / 4) for step in range(48)]
    assert rates[:3] == pytest.approx([0.0125, 0.025, 0.0375])
    assert rates[3:] == pytest.approx([0.05] * 21 + [0.005] * 12 + [0.0005] * 12)


def test_biases_and_norms_do_not_decay():
    decayed, others = parameter_groups(build_student("small", 4), 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {parameter.ndim for parameter in decayed["params"]} == {2, 4}
    assert {parameter.ndim for parameter in others["params"]} == {1}
    transformer = nn.ModuleDict({"blocks": nn.Linear(2, 3)})
    for name in ("cls_token", "pos_embed", "class_token", "pos_embedding"):
        transformer.register_parameter(name, nn.Parameter(torch.zeros(1, 2, 3)))
    decayed, others = parameter_groups(transformer, 0.1)
    assert [tuple(parameter.shape) for parameter in decayed["params"]] == [(3, 2)]
    assert len(others["params"]) == 5


def first_loss(folder, out, **more) -> float:
    """Return the loss of the first step, whose weights are known: one epoch of one step at a learning rate of 0."""
    return train(config(folder, out, epochs=1, batch_size=40, crops_per_image=1, learning_rate=0.0, **more)).loss


def test_soft_and_true_labels_are_weighed(shapes, tmp_path):
    soft = first_loss(shapes, tmp_path / "a")
    true = first_loss(shapes, tmp_path / "b", truth_weight=1.0)
    assert first_loss(shapes, tmp_path / "c", truth_weight=0.25) == pytest.approx(0.75 * soft + 0.25 * true, rel=1e-5)
    assert abs(soft - true) > 0.001


def test_the_temperature_is_that_of_hinton(shapes, tmp_path):
    write_shape_labels(shapes, tmp_path / "warm.slc", temperature=4.0)
    steps = {"epochs": 1, "batch_size": 40, "crops_per_image": 1, "learning_rate": 0.0}
    made = config(shapes, tmp_path / "run", labels=str(tmp_path / "warm.slc"), **steps)
    found = train(made).loss
    torch.manual_seed(0)
    student = build_student("small", 4, 16)
    (batch,) = Loader(made, set_up(made), Processes(0, 1, torch.device("cpu")), ImageMemory()).batches(0)
    logits = student((batch.pixels / 255 - 0.5) / 0.5)
    assert found == pytest.approx(16 * cross_entropy(logits / 4, batch.labels.dense()).item(), rel=1e-4)


def labels_at(made):
    """Return the temperature of a run, and the labels of its first crops as it learns them."""
    setup = set_up(made)
    (found,) = setup.crops.labels_of([ImageTurn(0, 0)])
    return setup.temperature, found.labels.dense()


def test_labels_are_at_the_temperature_of_the_student(shapes, maps, tmp_path):
    write_shape_labels(shapes, tmp_path / "warm.slc", temperature=2.0)
    warm = {"labels": str(tmp_path / "warm.slc")}
    assert labels_at(config(shapes, tmp_path, **warm))[0] == labels_at(config(shapes, tmp_path, temperature=2.0, **warm))[0] == 2.0
    with pytest.raises(ArgumentError, match=r"temperature: expected 2, that of these labels, got 4: .* spread the remainder evenly"):
        set_up(config(shapes, tmp_path, temperature=4.0, **warm))
    write_shape_labels(shapes, tmp_path / "odd.slc", temperature="hot")
    with pytest.raises(MismatchError, match="its metadata say temperature='hot'"):
        set_up(config(shapes, tmp_path, labels=str(tmp_path / "odd.slc")))
    write_shape_labels(shapes, tmp_path / "logits.slc", "dense:content=logits,values=f32")
    write_shape_labels(shapes, tmp_path / "probs.slc", "dense", temperature=1)
    for labels in (maps, str(tmp_path / "logits.slc"), str(tmp_path / "probs.slc")):  # without a warning
        one, four = (labels_at(config(shapes, tmp_path, labels=labels, temperature=T))[1] for T in (1.0, 4.0))
        softer = one ** (1 / 4)
        np.testing.assert_allclose(four, softer / softer.sum(axis=1, keepdims=True), rtol=1e-4)


def test_another_temperature_than_that_of_the_codec_is_mentioned(shapes, tmp_path):
    write_shape_labels(shapes, tmp_path / "tail.slc", "marginal_smoothing:k=1,tail=2", temperature=1.0)
    labels = str(tmp_path / "tail.slc")
    one = labels_at(config(shapes, tmp_path, labels=labels))[1]
    with pytest.warns(UserWarning, match=r"tail\.slc: .* was chosen for labels at temperature 1; at 4 they may be"):
        temperature, four = labels_at(config(shapes, tmp_path, labels=labels, temperature=4))
    softer = one ** (1 / 4)
    np.testing.assert_allclose(four, softer / softer.sum(axis=1, keepdims=True), rtol=1e-4)
    assert temperature == 4


def test_students_learn_from_labels_with_a_bucket(shapes, tmp_path):
    for more in ({}, {"mixup": 0.5, "cutmix": 1.0, "batch_size": 16}):
        found = train(config(shapes, tmp_path / f"run{len(more)}", epochs=1, policy="bucket", **more))
        assert np.isfinite(found.loss)
    assert first_loss(shapes, tmp_path / "bucket", policy="bucket") < first_loss(shapes, tmp_path / "even", policy="uniform")


def test_the_teacher_says_how_its_images_are_prepared(shapes, tmp_path):
    (tmp_path / "other.py").write_text((shapes / "teacher.py").read_text() + "\nINTERPOLATION = 'bicubic'\n")
    teacher = f"{tmp_path / 'other.py'}:build"
    setup = set_up(config(shapes, tmp_path, labels="online", teacher=teacher))
    assert (setup.crops.interpolation, setup.crops.mean, setup.crops.std) == ("bicubic", (0.5,) * 3, (0.5,) * 3)
    assert setup.label_facts["fingerprint"] == weights_sha256(load_teacher(teacher).model)
    setup = set_up(config(shapes, tmp_path, labels="online", teacher=teacher, interpolation="box", mean=[0.1] * 3))
    assert (setup.crops.interpolation, setup.crops.mean) == ("box", (0.1,) * 3)


def test_images_are_turned_as_for_the_labels(shapes, maps, tmp_path):
    how = {"mean": [0.5] * 3, "std": [0.5] * 3, "exif_orientation": "applied"}
    write_shape_labels(shapes, tmp_path / "turned.slc", preprocessing=how)
    turned = {"labels": str(tmp_path / "turned.slc")}
    train(config(shapes, tmp_path / "run", epochs=1, **turned))
    assert load_student(tmp_path / "run" / "checkpoint.pt").exif_orientation == "applied"
    with pytest.raises(MismatchError, match="these labels were made with exif_orientation='applied', expected 'ignored'"):
        set_up(config(shapes, tmp_path, exif_orientation="ignored", **turned))
    with pytest.raises(MismatchError, match="these labels were made with exif_orientation='ignored', expected 'applied'"):
        set_up(config(shapes, tmp_path, exif_orientation="applied", labels=maps))
    assert set_up(config(shapes, tmp_path, exif_orientation="applied", labels="truth")).crops.exif_orientation == "applied"


def test_two_classes_need_no_more_than_all_labels_right(shapes, tmp_path):
    shutil.copytree(shapes / "train", tmp_path / "train", ignore=shutil.ignore_patterns("blue", "green"))
    with SoftLabelWriter(tmp_path / "two.slc", 2, "hard", crops="derived", sampler=SAMPLER) as writer:
        for key in list_images(tmp_path / "train"):
            writer.add(key, image_size=(SIDE, SIDE), probs=np.eye(2, dtype=np.float32)[[int(key.startswith("white"))] * NUM_CROPS])
    set_up(config(shapes, tmp_path, images=str(tmp_path / "train"), labels=str(tmp_path / "two.slc")))  # a warning would be an error


def test_the_largest_seed(shapes, tmp_path):
    train(config(shapes, tmp_path / "run", epochs=1, seed=2**63 - 1))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"a": 1})
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="the disk is full"):
        write_json(tmp_path / "a.json", {"a": 2})
    with pytest.raises(OSError, match="the disk is full"):
        RunLog(tmp_path, config(tmp_path, tmp_path), {}, 0)
    assert read_result(tmp_path / "a.json") == {"a": 1}
    assert not (tmp_path / "log.jsonl").exists()
    (tmp_path / "a.json").write_text('{"a": ')
    assert read_result(tmp_path / "a.json") is read_result(tmp_path / "b.json") is None


def test_averaged_weights_are_evaluated_and_saved(shapes, tmp_path):
    train(config(shapes, tmp_path / "run", ema=0.5))
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert torch.equal(state["average"]["module.head.weight"], weights(tmp_path / "run")["head.weight"])
    assert not torch.equal(state["model"]["head.weight"], state["average"]["module.head.weight"])


def test_given_weights_are_where_it_begins(shapes, tmp_path):
    train(config(shapes, tmp_path / "first", epochs=8))
    second = train(config(shapes, tmp_path / "second", epochs=1, learning_rate=0.0, weights=str(tmp_path / "first" / "weights.pt")))
    assert second.evaluation["top1"] > 0.8


def test_a_loss_that_is_no_number(shapes, tmp_path):
    explodes = {"student": f"{shapes / 'teacher.py'}:explodes"}
    advice = r"Start again with a lower --learning-rate in another --out \(--weights OUT/checkpoint\.pt begins from the last good weights\)"
    with pytest.raises(StateError, match=rf"epoch 1, step 0: the loss is nan\. {advice}"):
        train(config(shapes, tmp_path / "run", val=None, **explodes))
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["epoch"] == 1
    advised = {"weights": str(tmp_path / "run" / "checkpoint.pt"), "learning_rate": 0.001, "epochs": 1}
    train(config(shapes, tmp_path / "lower", val=None, **explodes, **advised))
    with pytest.raises(StateError, match="val: the network predicts NaN: its training has diverged"):
        train(config(shapes, tmp_path / "other", **explodes))


@pytest.mark.parametrize("epochs", [1, 3])
def test_weights_that_are_no_numbers_are_not_kept(epochs, shapes, tmp_path):
    made = config(shapes, tmp_path / "run", val=None, epochs=epochs, student=f"{shapes / 'teacher.py'}:last_gradient")
    with pytest.raises(StateError, match=r"epoch 0: after its last step, weight is not finite any more\. Start again"):
        train(made)
    assert not {path.name for path in (tmp_path / "run").iterdir()} & {"checkpoint.pt", "weights.pt", "result.json"}


def test_checkpoints_of_other_runs(shapes, tmp_path):
    train(config(shapes, tmp_path / "run", epochs=1))
    with pytest.raises(StateError, match=r"run: holds a run already\. Continue it with --resume, or choose another --out"):
        train(config(shapes, tmp_path / "run", epochs=1))
    with pytest.raises(MismatchError, match="was made with epochs=1, expected 2. Use the same options, or another folder"):
        train(config(shapes, tmp_path / "run", epochs=2, resume=True))
    write_shape_labels(shapes, tmp_path / "other.slc", seed=5)
    with pytest.raises(MismatchError, match="was made with other labels"):
        train(config(shapes, tmp_path / "run", epochs=1, resume=True, labels=str(tmp_path / "other.slc")))
    (tmp_path / "turned.txt").write_text("green\nblue\nred\nwhite\n")
    with (
        pytest.raises(MismatchError, match="was made with other images"),  # or the same in other classes
        pytest.warns(UserWarning, match="agree with the class folders for only"),
    ):
        train(config(shapes, tmp_path / "run", epochs=1, resume=True, classes=str(tmp_path / "turned.txt")))
    train(config(shapes, tmp_path / "run", epochs=1, resume=True, workers=1, checkpoint_epochs=3))  # what trains the same


def test_a_checkpoint_of_more_processes(shapes, tmp_path):
    train(config(shapes, tmp_path / "run", epochs=1))
    path = tmp_path / "run" / "checkpoint.pt"
    torch.save({**torch.load(path, weights_only=True), "world_size": 2}, path)
    with pytest.raises(MismatchError, match=r"was made by 2 processes, expected 1\. Continue it with as many"):
        train(config(shapes, tmp_path / "run", epochs=1, resume=True))


def test_files_that_are_no_checkpoints(shapes, tmp_path):
    path = tmp_path / "run" / "checkpoint.pt"
    path.parent.mkdir()
    made = config(shapes, tmp_path / "run", resume=True)
    for content, message in (
        (b"noise" * 50, "no weights that can be read"),
        (pickle.dumps(print, protocol=2), "no weights that can be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(CorruptError, match=rf"checkpoint\.pt: {message}"):
            train(made)
    torch.save({"model": {}}, path)
    with pytest.raises(CorruptError, match="not a checkpoint of the trainer"):
        train(made)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"crops_per_image": 16, "batch_size": 16}, "crops_per_image: expected at most 12, the crops stored of an image in .*, got 16"),
        ({"stored_crops": 13}, "stored_crops: expected at most 12, the crops stored of an image in .*, got 13"),
        ({"num_classes": 5}, "expected labels of 5 classes, got 4"),
        ({"labels": "labels.txt"}, r"labels: expected FILE\.slc, FILE\.npz"),
        ({"labels": "truth", "stored_crops": 4}, "stored_crops: is for label files, leave it out with labels='truth'"),
        ({"scale": [0.1, 1]}, "scale: is for fresh crops: those of a label file are fixed"),
        ({"all_views": 24}, "all_views: is for fresh crops: those of a label file are fixed"),
        ({"padding": 4}, "padding: is for fresh crops: those of a label file are fixed"),
        ({"labels": "truth", "padding_mode": "edge"}, "padding: expected 1 to 1024 pixels for mode 'edge'"),
        ({"labels": "truth", "padding": 4, "padding_mode": "wrap"}, "padding mode: expected constant or edge or reflect or symmetric"),
        ({"labels": "truth", "padding": 4, "fill": [0, 0, 300]}, "fill: expected one or three integers from 0 to 255"),
        ({"student": "resnet5"}, "student: unknown name 'resnet5'"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"batch_size": 96}, "a step takes 48 images, but an epoch has only 20"),
        ({"labels": "truth", "std": [0.0, 0.0, 0.0]}, "std: expected positive numbers"),
        ({"labels": "truth", "temperature": 2.0}, "temperature: is for soft labels: classes have none"),
        (
            {"student": "teacher.py:always_seven"},
            r"student teacher.py:always_seven: expected logits of shape \(2, 4\) .* got shape \(2, 7\)",
        ),
        ({"student": "teacher.py:always_seven", "truth_weight": 1.0}, r"expected logits of shape \(2, 4\)"),
        ({"student": "teacher.py:pair"}, "student teacher.py:pair: expected logits .* got tuple"),
        ({"student": "teacher.py:of_another_size"}, r"teacher.py:of_another_size with 2 images of 16 x 16 pixels \(--size\) failed"),
    ],
)
def test_things_that_do_not_fit_together(more, message, shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(shapes)
    with pytest.raises((ArgumentError, MismatchError), match=message):
        train(config(shapes, tmp_path / "run", **more))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_teacher_of_other_classes(shapes, tmp_path):
    with pytest.raises(MismatchError, match=r"teacher teacher\.py:seven: expected 4 classes, got 7"):
        train(config(shapes, tmp_path / "run", labels="online", teacher=f"{shapes / 'teacher.py'}:seven"))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_teacher_that_returns_probabilities(shapes, tmp_path, temperature):
    online = {"labels": "online", "epochs": 1, "temperature": temperature}
    by_logits = train(config(shapes, tmp_path / "logits", teacher=f"{shapes / 'teacher.py'}:build", **online))
    of_probs = {"teacher": f"{shapes / 'teacher.py'}:probs", **online}
    with pytest.raises(MismatchError, match="expected logits, got probabilities: .* Pass --teacher-output probs"):
        train(config(shapes, tmp_path / "probs", **of_probs))
    report = train(config(shapes, tmp_path / "probs", teacher_output="probs", **of_probs))
    assert report.loss == pytest.approx(by_logits.loss, rel=1e-4)


def test_labels_of_other_images(shapes, tmp_path):
    shutil.copytree(shapes / "train", tmp_path / "train")
    (tmp_path / "train" / "red" / "3.png").unlink()
    with pytest.raises(MismatchError, match=r"1 of 40 labelled images are not in .*train: 'red/3\.png'"):
        train(config(shapes, tmp_path / "run", images=str(tmp_path / "train")))
    shutil.copy(shapes / "train" / "red" / "4.png", tmp_path / "train" / "red" / "3.png")
    Image.new("RGB", (30, 24)).save(tmp_path / "train" / "red" / "3.png")
    for workers in (0, 1):
        with pytest.raises(MismatchError, match=r"image 'red/3\.png': expected 24 x 24 pixels .* as labelled, got 24 x 30"):
            train(config(shapes, tmp_path / f"run{workers}", images=str(tmp_path / "train"), workers=workers))
    with pytest.raises(MismatchError, match="in_memory: expected images of one size, got 2 sizes"):
        train(config(shapes, tmp_path / "run2", images=str(tmp_path / "train"), in_memory=True))


def test_images_that_cannot_be_read(shapes, tmp_path):
    shutil.copytree(shapes / "train", tmp_path / "train")
    (tmp_path / "train" / "red" / "3.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"3\.png"):
        train(config(shapes, tmp_path / "run", images=str(tmp_path / "train"), workers=1))


def test_classes_in_another_order(shapes, tmp_path):
    (tmp_path / "classes.txt").write_text("blue first\ngreen second\nred\nwhite\n")
    same = train(config(shapes, tmp_path / "same", classes=str(tmp_path / "classes.txt"), epochs=8))
    assert same.evaluation["top1"] > 0.8
    (tmp_path / "turned.txt").write_text("white\nred\ngreen\nblue\n")
    with pytest.warns(UserWarning, match=r"agree with the class folders for only 2?\d?\.?\d% of the images"):
        train(config(shapes, tmp_path / "turned", classes=str(tmp_path / "turned.txt"), epochs=1))
    (tmp_path / "few.txt").write_text("white\nred\n")
    with pytest.raises(MismatchError, match=r"few\.txt: expected 4 class folders, got 2"):
        train(config(shapes, tmp_path / "few", classes=str(tmp_path / "few.txt")))
    (tmp_path / "twice.txt").write_text("white\nwhite\n")
    with pytest.raises(ArgumentError, match=r"twice\.txt: a class folder is listed twice"):
        train(config(shapes, tmp_path / "twice", classes=str(tmp_path / "twice.txt")))
    (tmp_path / "strange.txt").write_text("white\nred\ngreen\nyellow\n")
    with pytest.raises(MismatchError, match="lies in none of the 4 class folders"):
        train(config(shapes, tmp_path / "strange", classes=str(tmp_path / "strange.txt")))


def test_labels_of_more_classes_than_there_are_folders(shapes, tmp_path):
    shutil.copytree(shapes / "train", tmp_path / "train", ignore=shutil.ignore_patterns("red"))
    shutil.copytree(shapes / "val", tmp_path / "val", ignore=shutil.ignore_patterns("red"))
    with SoftLabelWriter(tmp_path / "some.slc", 4, "hard") as writer, SoftLabelReader(shapes / "labels.slc") as reader:
        for key in list_images(tmp_path / "train"):
            image = reader[key]
            writer.add(key, image_size=(24, 24), crops=image.crops, flips=image.flips, probs=image.labels.dense())
    some = {"labels": str(tmp_path / "some.slc"), "images": str(tmp_path / "train")}
    train(config(shapes, tmp_path / "a", val=None, **some))  # nobody needs to know the classes
    for more in ({"val": str(tmp_path / "val")}, {"val": None, "truth_weight": 0.5}):
        with pytest.raises(MismatchError, match="Say with --classes FILE which class folder has which number"):
            train(config(shapes, tmp_path / "b", **some, **more))
    (tmp_path / "classes.txt").write_text("blue\ngreen\nred\nwhite\n")
    (tmp_path / "classes.json").write_text('{"blue": 0, "white": 3, "green": 1}')  # of the class without images nothing need be said
    for name in ("classes.txt", "classes.json"):
        out, classes = tmp_path / f"c {name}", str(tmp_path / name)
        report = train(config(shapes, out, val=str(tmp_path / "val"), classes=classes, epochs=8, **some))
        assert report.evaluation["top1"] > 0.8
        assert evaluate(load_student(out / "checkpoint.pt"), tmp_path / "val").top1 == report.evaluation["top1"]


def test_the_command(shapes, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(options(shapes, tmp_path / "a", epochs=1)))
    done = CliRunner().invoke(main, ["train", "--config", str(tmp_path / "run.json"), "--epochs", "2", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["epochs"] == 2
    done = CliRunner().invoke(main, ["train", "--config", str(tmp_path / "run.json"), "--out", str(tmp_path / "b")])
    assert [line.split()[0] for line in done.output.splitlines()] == ["trained", "top-1", "top-5", "calibration", "wrote"]
    (tmp_path / "wrong.json").write_text('{"epoch": 3}')
    done = CliRunner().invoke(main, ["train", "--config", str(tmp_path / "wrong.json")])
    assert (done.exit_code, done.output) == (2, f"slcodec: {tmp_path / 'wrong.json'}: unknown option 'epoch': did you mean 'epochs'?\n")
    done = CliRunner().invoke(main, ["train", "--images", str(shapes / "train")])
    assert (done.exit_code, done.output) == (2, "slcodec: configuration: labels, out: missing\n")


def test_reduced_precision_on_the_host(shapes, tmp_path):
    report = train(config(shapes, tmp_path / "run", precision="bfloat16", epochs=8))
    assert report.evaluation["top1"] > 0.7
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} <= {torch.float32, torch.int64}


def test_a_network_in_the_mode_for_training(shapes, tmp_path, monkeypatch):
    seen = []
    forward = nn.BatchNorm2d.forward
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, x: (seen.append((self.training, len(x))), forward(self, x))[1])
    train(config(shapes, tmp_path / "run", epochs=2))
    assert {training for training, size in seen if size == 8} == {True}
    assert {training for training, size in seen if size == 20} == {False}


def test_tensorboard_where_it_is_installed(shapes, tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, epoch):
            written.append((name, epoch))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    train(config(shapes, tmp_path / "run", epochs=1))
    assert (written[0], written[-1]) == (tmp_path / "run", "closed")
    assert {("loss", 0), ("learning_rate", 0), ("top1", 0), ("seconds", 0)} <= set(written[1:-1])
