"""Features, the vectors of self-supervised teachers: stored, and trained on at chosen temperatures; k-NN and linear evaluation."""

import functools
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from shapes import COLORS, TEACHER, config, options, write_shapes
from torch import nn
from torch.utils.data import DataLoader

from softlabel_codec import ArgumentError, MismatchError, SoftLabelReader, SoftLabelWriter, StateError
from softlabel_codec.cli.main import main
from softlabel_codec.compare import compare
from softlabel_codec.evaluate import Student, evaluate, evaluate_frozen, knn_classes, linear_classes, load_student
from softlabel_codec.images.cutting import Cutter
from softlabel_codec.images.paths import list_images
from softlabel_codec.options.train import TrainConfig
from softlabel_codec.report import stats
from softlabel_codec.sampler import CropSampler
from softlabel_codec.students import build_student
from softlabel_codec.students.weights import save_state
from softlabel_codec.teacher import EncodeConfig, encode, load_teacher
from softlabel_codec.teacher.check import check_labels
from softlabel_codec.torch import (
    DenseTargets,
    FeatureTargets,
    LabelledCrops,
    SoftCrossEntropy,
    SoftLabelDataset,
    check_against_teacher,
    collate_crops,
    collate_dense,
    normalize,
    soft_cross_entropy,
)
from softlabel_codec.trainer import train

EXAMPLE = Path(__file__).parents[1] / "examples" / "self_supervised.py"
WIDTH = 6
SAMPLER = CropSampler(seed=2)
CODEC = "dense:values=f16,content=features"
TEACHERS = """
def vectors():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(128, 6))

class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.model, self.factor = vectors(), factor
    def forward(self, images):
        return self.model(images) * self.factor

def huge():
    return Scaled(1e6)

class Constant(nn.Module):
    '''Says the same of every image.'''
    def __init__(self, num_classes):
        super().__init__()
        self.said = nn.Parameter(torch.linspace(-1, 1, num_classes))
    def forward(self, images):
        return self.said.expand(len(images), -1)

def constant(num_classes):
    return Constant(num_classes)
"""


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A folder of images, with a file of labels and one of features."""
    folder = tmp_path_factory.mktemp("features")
    write_shapes(folder)
    (folder / "teacher.py").write_text(TEACHER + TEACHERS)
    encode(encoding(folder, folder / "features.slc"))
    return folder


def encoding(folder, out, factory="vectors", **how):
    how = {"codec": CODEC, "crops": 6, "sampler": SAMPLER, "teacher_output": "features", "size": 16, **how}
    return EncodeConfig(str(folder / "train"), str(out), f"{folder / 'teacher.py'}:{factory}", **how)


def of_features(folder, out, **more):
    how = {"labels": str(folder / "features.slc"), "val": None, "teacher_temperature": 0.1, "temperature": 0.2, **more}
    return config(folder, out, **{name: value for name, value in how.items() if value is not None or name == "val"})


def run(*words, code=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


# Labelling


@pytest.mark.parametrize(("values", "tolerance"), [("f32", 1e-5), ("f16", 1e-3)])
def test_a_file_holds_what_the_teacher_returns(labelled, tmp_path, values, tolerance):
    encode(encoding(labelled, tmp_path / "a.slc", codec=f"dense:values={values},content=features"))
    teacher = load_teacher(f"{labelled / 'teacher.py'}:vectors").model
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert (reader.num_classes, reader.metadata["teacher_output"]) == (WIDTH, "features")
        assert "temperature" not in reader.metadata
        for key in list(reader.keys)[::9]:
            cut = Cutter(16, "bilinear", "ignored").cut(
                (labelled / "train" / key).read_bytes(), lambda size, key=key: SAMPLER.sample(key, size, range(6)), key
            )
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in cut.images])).permute(0, 3, 1, 2)
            wanted = teacher(normalize(pixels, (0.5,) * 3, (0.5,) * 3)).detach().numpy()
            found = reader[key].labels
            assert found.content == "features"
            np.testing.assert_allclose(found.vectors, wanted, atol=tolerance)


def test_labelling_continues_after_an_interruption(labelled, tmp_path):
    def stop(done, total):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(encoding(labelled, tmp_path / "a.slc"), stop)
    assert encode(encoding(labelled, tmp_path / "a.slc")).resumed_images >= 10
    encode(encoding(labelled, tmp_path / "whole.slc"))
    assert (tmp_path / "a.slc").read_bytes() == (tmp_path / "whole.slc").read_bytes()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"codec": "auto"}, r"codec: expected dense:values=f16,content=features \(or f32\), as the teacher returns features, got 'auto'"),
        ({"codec": "marginal_smoothing:k=2"}, "codec: expected dense:values=f16,content=features"),
        ({"codec": "dense:content=logits"}, "codec: expected dense:values=f16,content=features"),
        ({"teacher_output": "logits"}, "codec: expected one of probabilities or logits, unless --teacher-output features"),
        ({"teacher_output": "probs"}, "codec: expected one of probabilities or logits, unless --teacher-output features"),
        ({"temperature": 0.1}, "temperature: expected 1, as features are kept before any temperature, got 0.1"),
        ({"teacher_output": "vectors"}, "teacher_output: expected logits or probs or features, got 'vectors'"),
    ],
)
def test_options_of_labelling(labelled, tmp_path, how, message):
    with pytest.raises(ArgumentError, match=message):
        encoding(labelled, tmp_path / "a.slc", **how)


def test_teachers_whose_output_is_no_features(labelled, tmp_path):
    with pytest.raises(MismatchError, match="expected features, got probabilities: .* Pass --teacher-output probs"):
        encode(encoding(labelled, tmp_path / "a.slc", "probs"))
    with pytest.raises(MismatchError, match="expected finite numbers within the range of f16"):
        encode(encoding(labelled, tmp_path / "a.slc", "huge"))
    encode(encoding(labelled, tmp_path / "b.slc", "huge", codec="dense:values=f32,content=features"))


# Targets


def test_targets_are_the_softmax_of_features_at_a_temperature():
    features = FeatureTargets(torch.tensor([[0.6, 0.8, 0.0], [-1.0, 0.0, 0.0]]))
    powers = np.exp(features.features.double().numpy() / 0.1)
    np.testing.assert_allclose(features.at(0.1).dense().numpy(), powers / powers.sum(axis=1, keepdims=True), rtol=1e-6)
    assert FeatureTargets(torch.tensor([[3e38, -3e38, 3e38]])).at(1e-3).dense().tolist() == [[0.5, 0.0, 0.5]]
    assert features.at(1e-4).dense().tolist() == [[0.0, 1.0, 0.0], [0.0, 0.5, 0.5]]
    for temperature in (0, 1e-60, -1, math.inf, math.nan):
        with pytest.raises(ArgumentError, match="temperature: expected a number from 0.0001 to 10000"):
            features.at(temperature)


def test_features_move_and_are_joined_like_targets():
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    features = FeatureTargets(rows)
    assert (len(features), features.shape, features.num_classes, features.to("cpu").device.type) == (5, torch.Size([5, 3]), 3, "cpu")
    torch.testing.assert_close(features[torch.tensor([4, 0])].features, rows[[4, 0]])
    assert features[2].shape == (1, 3)
    torch.testing.assert_close(torch.cat([features, features[:2]]).features, torch.cat([rows, rows[:2]]))
    doubled = torch.utils._pytree.tree_map(lambda leaf: leaf * 2, features)
    torch.testing.assert_close(doubled.features, rows * 2)
    with pytest.raises(MismatchError, match="expected targets, or features of all crops, got both. Make targets of features"):
        torch.cat([features, DenseTargets(torch.eye(3))])


NOT_TARGETS = r"got features, the vectors of a self-supervised teacher\. Choose a temperature T: labels\.at\(T\)"


def test_features_are_never_taken_for_probabilities(labelled):
    dataset = SoftLabelDataset(labelled / "train", labelled / "features.slc", 2, 16, normalized=False)
    _, labels = next(iter(DataLoader(dataset, 4, collate_fn=collate_crops)))
    assert isinstance(labels, FeatureTargets)
    outputs = torch.zeros(8, WIDTH)
    for loss in (soft_cross_entropy, SoftCrossEntropy(), SoftCrossEntropy(kl=True, truth_weight=0.5)):
        with pytest.raises(StateError, match=f"labels: expected SparseTargets or DenseTargets, {NOT_TARGETS}"):
            loss(outputs, labels)
    with pytest.raises(StateError, match=NOT_TARGETS):
        collate_dense([dataset[0], dataset[1]])
    with pytest.raises(ArgumentError, match="temperature: expected none, as features are stored without one, got 4"):
        SoftLabelDataset(labelled / "train", labelled / "features.slc", temperature=4)
    loader = DataLoader(dataset, 4, collate_fn=collate_crops)
    with pytest.raises(StateError, match="loader: expected labels of classes, got features"):
        check_against_teacher(loader, nn.Identity())
    with pytest.raises(StateError, match=r"features\.slc: expected labels of classes, got features"):
        check_labels(labelled / "features.slc", labelled / "train", f"{labelled / 'teacher.py'}:vectors")


def test_datasets_and_streams_give_the_features_of_their_crops(labelled):
    dataset = SoftLabelDataset(labelled / "train", labelled / "features.slc", 2, 16, normalized=False)
    stream = LabelledCrops(labelled / "features.slc", 2, 16, normalized=False)
    path = labelled / "train" / dataset.keys[3]
    for sample in (dataset[3], stream({"key": dataset.keys[3], "image": path.read_bytes()})):
        _, labels = collate_crops([sample])
        np.testing.assert_array_equal(labels.features.numpy(), sample.labels.vectors)
    with SoftLabelReader(labelled / "features.slc") as reader:
        stored = {tuple(row) for row in reader[3].labels.vectors.tolist()}
    assert {tuple(row) for row in labels.features.tolist()} <= stored


# Training


def test_the_loss_is_that_of_both_at_their_temperatures(labelled, tmp_path):
    vector = np.float32([0.3, -0.5, 0.1, 0.9])
    with SoftLabelWriter(tmp_path / "same.slc", 4, "dense:content=features", crops="derived", sampler=SAMPLER) as writer:
        for key in list_images(labelled / "train"):
            writer.add(key, image_size=(24, 24), vectors=np.repeat(vector[None], 4, axis=0))
    how = {"labels": str(tmp_path / "same.slc"), "student": f"{labelled / 'teacher.py'}:constant", "learning_rate": 0.0}
    found = train(of_features(labelled, tmp_path / "run", teacher_temperature=0.25, temperature=0.5, mixup=1.0, **how))
    p, q = (np.exp(numbers) / np.exp(numbers).sum() for numbers in (vector / 0.25, np.linspace(-1, 1, 4) / 0.5))
    assert found.loss == pytest.approx(float(-(p * np.log(q)).sum()), rel=1e-5)
    assert found.evaluation is None


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_student_learns_features(labelled, tmp_path, in_memory):
    report = train(of_features(labelled, tmp_path / "run", epochs=12, in_memory=in_memory))
    untrained = train(of_features(labelled, tmp_path / "none", epochs=1, learning_rate=0.0))
    assert report.loss < untrained.loss - 0.3
    about = json.loads((tmp_path / "run" / "weights.json").read_text())
    assert (about["num_classes"], about["output"]) == (WIDTH, "features")
    student = load_student(tmp_path / "run" / "weights.pt")
    assert student.output == "features"
    with pytest.raises(MismatchError, match="student: expected one of classes, got one of features. Evaluate its features"):
        evaluate(student, labelled / "val")


def test_training_on_features_continues(labelled, tmp_path):
    train(of_features(labelled, tmp_path / "whole"))
    train(of_features(labelled, tmp_path / "parts"))
    shutil.copy(tmp_path / "parts" / "checkpoint.pt", tmp_path / "kept.pt")
    with pytest.raises(MismatchError, match="was made with teacher_temperature=0.1, expected 0.3"):
        train(of_features(labelled, tmp_path / "parts", teacher_temperature=0.3, resume=True))
    assert train(of_features(labelled, tmp_path / "parts", resume=True)).epochs == 4


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (
            {"teacher_temperature": None, "temperature": None},
            MismatchError,
            "expected probabilities or logits of classes, got features. To",
        ),
        ({"teacher_temperature": None}, ArgumentError, "temperature: expected none, as features are stored without one, got 0.2"),
        ({"temperature": None}, MismatchError, "pass --teacher-temperature T for .*, and --temperature T for softmax"),
        ({"val": "val"}, MismatchError, "val: a student of features predicts no classes: leave it out, .* slcodec evaluate --knn"),
        ({"truth_weight": 0.5}, MismatchError, "truth_weight: a student of features predicts no classes"),
        ({"classes": "classes.txt"}, MismatchError, "classes: a student of features predicts no classes"),
        ({"num_classes": 4}, MismatchError, "expected labels of 4 classes, got 6"),
        ({"policy": "renorm"}, ArgumentError, "policy: labels of .*content=features' have no remainder"),
        ({"teacher_temperature": 0.0}, ArgumentError, "teacher_temperature: expected a number from 0.0001 to 10000, got 0.0"),
        ({"labels": "labels.slc"}, MismatchError, "teacher_temperature: is for labels that are features, got those of 'marginal_smoothing"),
        ({"labels": "truth"}, ArgumentError, "teacher_temperature: is for label files"),
    ],
)
def test_what_does_not_go_with_features(labelled, tmp_path, how, error, message):
    how = {name: str(labelled / value) if name in ("val", "labels") and value != "truth" else value for name, value in how.items()}
    with pytest.raises(error, match=message):
        train(of_features(labelled, tmp_path / "run", **how))
    assert not (tmp_path / "run").exists()


def test_teachers_of_every_step_are_of_classes(labelled, tmp_path):
    how = options(labelled, tmp_path / "run", labels="online", teacher=f"{labelled / 'teacher.py'}:vectors", teacher_output="features")
    with pytest.raises(ArgumentError, match="teacher_output: expected logits or probs, got 'features'"):
        TrainConfig.from_mapping(how)


def test_features_are_not_compared_by_accuracy(labelled, tmp_path):
    how = {name: value for name, value in options(labelled, tmp_path).items() if name not in ("labels", "out")}
    sources = {"labels": str(labelled / "labels.slc"), "features": str(labelled / "features.slc")}
    with pytest.raises(MismatchError, match="expected probabilities or logits of classes, got features"):
        compare(sources, tmp_path / "compare", how)


def test_features_have_no_statistics_of_classes(labelled):
    with pytest.raises(StateError, match=r"features\.slc: expected labels of classes, got features, of which there are no statistics"):
        stats(labelled / "features.slc")


# Frozen networks


def naive_knn(train, classes, vector, k, temperature):
    cosines = [float(vector @ one / np.linalg.norm(vector) / np.linalg.norm(one)) for one in train]
    votes = dict.fromkeys(range(max(classes) + 1), 0.0)
    for near in sorted(range(len(train)), key=lambda number: -cosines[number])[:k]:
        votes[classes[near]] += math.exp(cosines[near] / temperature)
    return max(votes, key=votes.get)


@pytest.mark.parametrize("k", [1, 7, 60])
@pytest.mark.parametrize("temperature", [0.07, 1.0, 1e-3])
def test_nearest_neighbours(k, temperature):
    rng = np.random.default_rng(0)
    known, others, classes = rng.normal(size=(60, 5)), rng.normal(size=(40, 5)), rng.integers(4, size=60)
    wanted = [naive_knn(known, classes.tolist(), vector, k, max(temperature, 0.01)) for vector in others]
    tensors = torch.from_numpy(known).float(), torch.from_numpy(classes), torch.from_numpy(others).float()
    assert knn_classes(*tensors, k, max(temperature, 0.01)).tolist() == wanted
    assert len(knn_classes(*tensors, k, temperature)) == 40  # and no power is too large


@pytest.mark.parametrize("factor", [1e-30, 1e25])
def test_neighbours_do_not_depend_on_the_length_of_vectors(factor):
    rng = np.random.default_rng(0)
    known, others = (torch.from_numpy(rng.normal(size=(count, 5))).float() for count in (60, 40))
    classes = torch.from_numpy(rng.integers(4, size=60))
    wanted = knn_classes(known, classes, others, 7)
    assert torch.equal(knn_classes(known * factor, classes, others * factor, 7), wanted)


def test_vectors_of_length_0_are_near_to_none():
    known = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [2.0, 0.1]])
    assert knn_classes(known, torch.tensor([0, 1, 2]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), k=1).tolist()[0] == 2
    assert knn_classes(known, torch.tensor([0, 1, 1]), torch.zeros(1, 2), k=3).tolist() == [1]


def test_linear_evaluation_finds_the_minimum():
    rng = np.random.default_rng(0)
    classes = rng.integers(3, size=90)
    known = rng.normal(size=(90, 4)) * [1, 10, 0.1, 0] + np.eye(3)[classes] @ rng.normal(size=(3, 4)) * [1, 10, 0.1, 0] + 5
    others = rng.normal(size=(200, 4)) * [2, 20, 0.2, 0] + 5
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    deviation[deviation < 1e-9] = 1  # the last one is the same for all
    x, truth, weights, bias = (known - mean) / deviation, np.eye(3)[classes], np.zeros((4, 3)), np.zeros(3)
    for _ in range(4000):  # gradient descent on the sum of cross-entropies and half of the squared weights
        powers = np.exp(x @ weights + bias)
        apart = powers / powers.sum(axis=1, keepdims=True) - truth
        weights -= 0.02 * (x.T @ apart + weights)
        bias -= 0.02 * apart.sum(axis=0)
    outputs = (others - mean) / deviation @ weights + bias
    sure = np.diff(np.sort(outputs, axis=1)[:, 1:], axis=1)[:, 0] > 1e-3
    found = linear_classes(torch.from_numpy(known).float(), torch.from_numpy(classes), torch.from_numpy(others).float()).numpy()
    assert sure.mean() > 0.95
    np.testing.assert_array_equal(found[sure], outputs.argmax(axis=1)[sure])


class Mean(nn.Module):
    """Its features are the mean colour of an image; it ends in a layer of no use."""

    def __init__(self, flat=True):
        super().__init__()
        self.head, self.flat = nn.Linear(3, WIDTH), flat

    def forward(self, images):
        if not self.flat:
            return self.head(images.permute(0, 2, 3, 1)).mean(dim=(1, 2))
        return self.head(images.mean(dim=(2, 3)))


def mean_student(**how):
    return Student(Mean(**how), WIDTH, 16, (0.5,) * 3, (0.5,) * 3, output="features")


def test_colours_are_told_apart_by_mean_colours(labelled):
    student = mean_student()
    student.model.train()
    found = evaluate_frozen(student, labelled / "val", labelled / "train", k=5, device="cpu")
    assert (found.num_images, found.num_train, found.num_classes, found.layer, found.num_features) == (20, 40, 4, "head", 3)
    assert (found.knn, found.linear, found.k, found.temperature) == (1.0, 1.0, 5, 0.07)
    assert student.model.training
    alone = evaluate_frozen(student, labelled / "val", labelled / "train", knn=False, device="cpu")
    assert (alone.knn, alone.linear) == (None, 1.0)


def test_classes_of_training_and_test_images_are_numbered_alike(labelled, tmp_path):
    shutil.copytree(labelled / "val" / "white", tmp_path / "val" / "white")  # the last of four
    assert evaluate_frozen(mean_student(), tmp_path / "val", labelled / "train", k=5).knn == 1.0
    (tmp_path / "classes.txt").write_text("\n".join(reversed(COLORS)))
    assert evaluate_frozen(mean_student(), tmp_path / "val", labelled / "train", k=5, classes=tmp_path / "classes.txt").knn == 1.0
    (tmp_path / "val" / "white").rename(tmp_path / "val" / "pink")
    with pytest.raises(MismatchError, match=r"val: the image 'pink/0\.png' lies in none of the 4 class folders"):
        evaluate_frozen(mean_student(), tmp_path / "val", labelled / "train", k=5)
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (24, 24)).save(tmp_path / "flat" / "a.png")
    with pytest.raises(MismatchError, match=r"flat: expected images of known classes, in folders CLASS/NAME or with class numbers"):
        evaluate_frozen(mean_student(), labelled / "val", tmp_path / "flat", k=1)


def test_frozen_networks_that_cannot_be_evaluated(labelled):
    evaluated = functools.partial(evaluate_frozen, images=labelled / "val", train=labelled / "train")
    with pytest.raises(ArgumentError, match="k: expected at most 40, the number of training images, got 41"):
        evaluated(mean_student(), k=41)
    with pytest.raises(ArgumentError, match="k: expected an integer of at least 1, got 0"):
        evaluated(mean_student(), k=0)
    with pytest.raises(ArgumentError, match="temperature: expected a number from 0.0001 to 10000, got 0"):
        knn_classes(torch.eye(3), torch.arange(3), torch.eye(3), k=1, temperature=0)
    with pytest.raises(ArgumentError, match="expected knn or linear, got neither"):
        evaluated(mean_student(), knn=False, linear=False)
    without = Student(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 3, 16)
    with pytest.raises(MismatchError, match="expected a network that ends in a linear layer of 3 outputs"):
        evaluated(without)
    with pytest.raises(MismatchError, match="expected one vector per image as the input of its last linear layer, 'head'"):
        evaluated(mean_student(flat=False))
    broken = mean_student(flat=True)
    broken.model.forward = lambda images: broken.model.head(images.mean(dim=(2, 3)) * math.nan)
    with pytest.raises(StateError, match="its features are not finite"):
        evaluated(broken)


def test_students_of_classes_are_evaluated_too(labelled, tmp_path):
    torch.manual_seed(0)
    save_state(tmp_path / "a.pt", build_student("small", 4).state_dict())
    how = ("--student", "small", "--num-classes", 4, "--size", 16, "--mean", 0.5, 0.5, 0.5, "--std", 0.5, 0.5, 0.5)
    words = ("evaluate", labelled / "val", tmp_path / "a.pt", "--knn", "--linear", "--train", labelled / "train", *how)
    said = run(*words)
    assert "features      64 numbers, the input of 'head'; 40 training images" in said
    assert "k-NN top-1    " in said
    assert "of 20 images, k=20, cosine similarity, T=0.07" in said
    found = json.loads(run(*words, "--k", 3, "--json"))
    assert (found["k"], found["num_images"]) == (3, 20)
    for wrong, message in [
        (words[:4], "--knn and --linear need --train"),
        ((*words[:3], "--train", labelled / "train"), "--train is for --knn and --linear"),
        ((*words[:3], "--linear", *words[5:7], "--k", 3), "--k is for --knn"),
        ((*words, "--real", tmp_path / "a.pt"), "--real does not apply to --knn and --linear"),
    ]:
        assert message in run(*wrong, code=2)


def test_the_example_trains_teacher_and_student(labelled, tmp_path):
    words = ["--seeds", "2", "--epochs", "2", "--crops", "4", "--batch-size", "8", "--k", "5"]
    folders = [labelled / "train", labelled / "val", tmp_path / "out"]
    lines = subprocess.run([sys.executable, EXAMPLE, *folders, *words], check=True, capture_output=True, text=True).stdout.splitlines()
    for name, line in zip(("teacher", "student", "untrained student"), lines[-3:], strict=True):
        assert line.startswith(f"{name:<18} k-NN top-1 ")
        assert 0 <= float(line.split("top-1 ")[1].split(" ")[0]) <= 100
    with SoftLabelReader(tmp_path / "out" / "seed-1" / "vectors.slc") as reader:
        assert (reader.num_classes, reader.codec, reader.metadata["teacher"]["name"]) == (64, CODEC, "SimCLR")
