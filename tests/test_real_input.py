"""The main job on real photographs with a real teacher, and the sizes and fidelity that the README states."""

import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from softlabel_codec import SoftLabelReader, SoftLabelWriter, recover
from softlabel_codec.report import inspect, stats, verify
from softlabel_codec.sampler import CropSampler
from softlabel_codec.torch import SoftLabelDataset, collate_crops, soft_cross_entropy

pytestmark = pytest.mark.shared
PHOTOGRAPHS = 6
CROPS = 200  # three images fill a block
SIZE = 96  # at which this teacher takes a fifth of the time of 224


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    from conftest import SHARED

    folder = tmp_path_factory.mktemp("photographs")
    for path in sorted((SHARED / "data" / "imagenet-100" / "train").rglob("*.JPEG"))[:PHOTOGRAPHS]:
        (folder / path.parent.name).mkdir()
        shutil.copy(path, folder / path.parent.name)
    return folder


def command(photographs, out):
    from conftest import SHARED

    teacher = f"{SHARED / 'teacher' / 'mobilenet_v2.py'}:build"
    options = ["--teacher", teacher, "--crops", str(CROPS), "--size", str(SIZE), "--codec", "marginal_smoothing:k=5", "--workers", "1"]
    return [sys.executable, "-m", "softlabel_codec", "encode", str(photographs), str(out), *options]


@pytest.fixture(scope="module")
def labels(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("labels") / "out.slc"
    done = subprocess.run(command(photographs, out), capture_output=True, text=True, check=True)
    assert f"{PHOTOGRAPHS} images, 0 skipped" in done.stdout
    return out


def test_verify_inspect_and_stats(labels):
    assert verify(labels, deep=True).ok
    report = inspect(labels)
    assert (report.num_images, report.num_crops, report.num_classes) == (PHOTOGRAPHS, PHOTOGRAPHS * CROPS, 1000)
    assert report.metadata["teacher"]["source"] == "mobilenet_v2.py:build"
    assert len(report.metadata["teacher"]["weights_sha256"]) == 64
    assert 0.2 < stats(labels).confidence.mean < 0.9


def wait_for_a_block(partial, process):
    """Return when a file being written has grown behind its beginning."""
    sizes = set()
    deadline = time.monotonic() + 120
    while len(sizes - {0}) < 2:
        assert process.poll() is None, "the labelling ended before it could be killed"
        assert time.monotonic() < deadline
        if partial.exists():
            sizes.add(partial.stat().st_size)
        time.sleep(0.005)


def test_killed_half_way_and_started_again(photographs, labels, tmp_path):
    out = tmp_path / "out.slc"
    process = subprocess.Popen(command(photographs, out), stdout=subprocess.DEVNULL)
    try:
        wait_for_a_block(tmp_path / "out.slc.partial", process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not out.exists()
    kept = recover(tmp_path / "out.slc.partial", tmp_path / "kept.slc")
    assert kept.num_images == 3
    subprocess.run(command(photographs, out), check=True, stdout=subprocess.DEVNULL)
    assert out.read_bytes() == labels.read_bytes()


def test_a_student_learns_from_them_with_two_workers(photographs, labels):
    torch.manual_seed(0)
    dataset = SoftLabelDataset(photographs, labels, crops_per_image=4, size=64, seed=0, mean=(0.5,) * 3, std=(0.5,) * 3)
    loader = DataLoader(dataset, batch_size=3, collate_fn=collate_crops, num_workers=2)
    student = nn.Sequential(nn.Conv2d(3, 16, 7, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 1000))
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    losses = []
    for epoch in range(6):
        dataset.set_epoch(epoch)
        for images, targets in loader:
            assert images.shape == (12, 3, 64, 64)
            loss = soft_cross_entropy(student(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.fixture(scope="module")
def probs(teacher_logits):
    logits = teacher_logits["logits"].astype(np.float64)
    powers = np.exp(logits - logits.max(axis=2, keepdims=True))
    return (powers / powers.sum(axis=2, keepdims=True)).astype(np.float32)


def bytes_and_divergence(teacher_logits, probs, path, codec, crops):
    """Return bytes per crop of the teacher's labels in a file, and the mean KL divergence of what is read from what was written."""
    sampler = CropSampler(seed=1) if crops == "derived" else None
    names = ("keys", "image_size", "crops", "flips")
    with SoftLabelWriter(path, num_classes=1000, codec=codec, crops=crops, sampler=sampler) as writer:
        for key, size, geometry, flips, rows in zip(*(teacher_logits[name] for name in names), probs, strict=True):
            stored = {"crops": geometry, "flips": flips} if crops == "pixels" else {}
            writer.add(str(key), image_size=size, probs=rows, **stored)
    divergences = []
    with SoftLabelReader(path) as reader:
        for image, geometry, rows in zip(reader, teacher_logits["crops"], probs, strict=True):
            assert crops == "derived" or np.array_equal(image.crops, geometry)
            decoded = image.labels.dense().astype(np.float64)
            divergences.append((rows * (np.log(np.maximum(rows, 1e-30)) - np.log(np.maximum(decoded, 1e-30)))).sum(axis=1).mean())
    return path.stat().st_size / probs.shape[0] / probs.shape[1], float(np.mean(divergences))


@pytest.mark.parametrize(
    ("codec", "crops", "most_bytes", "divergence_of_exact_values"),
    [
        ("marginal_smoothing:k=5,values=f16", "pixels", 16.6, (1, 0.00005)),
        ("marginal_smoothing:k=5", "pixels", 10.3, (1, 0.0006)),
        ("marginal_smoothing:t=0.02", "pixels", 8.8, (1, 0)),
        ("marginal_smoothing:k=5", "derived", 6.3, (1, 0.0006)),
        ("marginal_smoothing:t=0.02", "derived", 4.7, (1, 0)),
        ("marginal_smoothing:t=0.1,tail=30", "derived", 2.3, (1, 0)),
        ("marginal_smoothing:t=0.05,tail=100", "derived", 3.5, (0.65, 0)),
        ("marginal_smoothing:t=0.05,tail=100", "pixels", 7.4, (0.65, 0)),
        ("marginal_smoothing:t=0.1,step=1,tail=all,mean=log", "derived", 4.5, (0.65, 0)),
    ],
)
def test_size_and_fidelity_on_a_real_teacher(
    codec, crops, most_bytes, divergence_of_exact_values, teacher_logits, probs, tmp_path, monkeypatch
):
    monkeypatch.undo()  # blocks of the usual size
    exact = np.take_along_axis(probs, np.argsort(-probs, axis=2)[:, :, :5], axis=2).astype(np.float64)
    rest = 1 - exact.sum(axis=2)
    wide = probs.astype(np.float64)
    entropy_of_rest = (wide * np.log(np.maximum(wide, 1e-30))).sum() - (exact * np.log(exact)).sum()
    uniform = float(entropy_of_rest - (rest * np.log(np.maximum(rest, 1e-30) / 995)).sum()) / rest.size
    size, divergence = bytes_and_divergence(teacher_logits, probs, tmp_path / "a.slc", codec, crops)
    factor, slack = divergence_of_exact_values
    assert size <= most_bytes
    assert divergence <= factor * uniform + slack


@pytest.mark.parametrize(("codec", "most"), [("marginal_smoothing:k=5", 0.198), ("smoothing", 0.64)])
def test_what_neighbours_say_is_nearer_to_a_real_teacher(codec, most, teacher_logits, probs, tmp_path, monkeypatch):
    monkeypatch.undo()  # blocks of the usual size
    _, uniform = bytes_and_divergence(teacher_logits, probs, tmp_path / "a.slc", codec, "pixels")
    divergences = []
    with SoftLabelReader(tmp_path / "a.slc", policy="neighbours") as reader:
        for image, rows in zip(reader, probs, strict=True):
            decoded = image.labels.dense().astype(np.float64)
            divergences.append((rows * (np.log(np.maximum(rows, 1e-30)) - np.log(np.maximum(decoded, 1e-30)))).sum(axis=1).mean())
    assert np.mean(divergences) < most < 0.75 * uniform


@pytest.mark.parametrize(("step", "most_bytes", "most_lost"), [(0.5, 235, 0.013), (1.0, 120, 0.042), (2.0, 52, 0.11)])
def test_size_and_loss_at_temperature_4_of_all_classes_in_steps(step, most_bytes, most_lost, teacher_logits, probs, tmp_path, monkeypatch):
    monkeypatch.undo()  # blocks of the usual size
    images = slice(None, None, 10)
    with SoftLabelWriter(tmp_path / "a.slc", 1000, f"dense:values=log8,step={step}", crops="derived", sampler=CropSampler()) as writer:
        for key, size, rows in zip(*(teacher_logits[name][images] for name in ("keys", "image_size")), probs[images], strict=True):
            writer.add(str(key), image_size=size, probs=rows)
    lost, most = 0.0, 0.0
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        for image, rows in zip(reader, probs[images], strict=True):
            p, q = softened(rows), softened(image.labels.dense())
            lost += (p * np.log(p / q)).sum()
            most += (p * np.log(p * 1000)).sum()
            assert (image.labels.top1 == rows.argmax(axis=1)).mean() > 0.9
    assert (tmp_path / "a.slc").stat().st_size <= most_bytes * 10 * 200
    assert lost <= most_lost * most


def softened(probs):
    """Return the targets at temperature 4."""
    powers = np.maximum(probs, 1e-30).astype(np.float64) ** 0.25
    return powers / powers.sum(axis=1, keepdims=True)


def test_tails_of_all_classes_hold_at_temperature_4(probs):
    """Of the divergence from even probabilities at most a quarter is lost; tails of 100 classes lose nearly half."""
    from softlabel_codec import Codec
    from softlabel_codec.block.families import label_quantiser

    def lost(codec, probs):
        quantiser, lost, whole = label_quantiser(Codec.parse(codec), 1000), 0.0, 0.0
        for rows in probs:
            found = quantiser.dequantise(quantiser.quantise({"probs": rows}, len(rows)), "tail").dense()
            teacher, student = (np.maximum(targets, 1e-12).astype(np.float64) ** 0.25 for targets in (rows, found))
            teacher, student = teacher / teacher.sum(axis=1, keepdims=True), student / student.sum(axis=1, keepdims=True)
            lost += (teacher * np.log(teacher / student)).sum()
            whole += (teacher * np.log(teacher * 1000)).sum()
        return lost / whole

    assert lost("marginal_smoothing:t=0.1,step=1,tail=all,mean=log", probs) < 0.25
    assert lost("marginal_smoothing:t=0.05,tail=100", probs[:10]) > 0.4
