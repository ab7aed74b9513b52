"""Datasets, training and comparing with labels in several files: the same as with one."""

import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from label_sets import write_both
from PIL import Image
from shapes import COLORS, NUM_CROPS, SAMPLER, SIDE, config, options, write_shape_labels
from torch.utils.data import DataLoader

from softlabel_codec import ArgumentError, SoftLabelReader, SoftLabelWriter
from softlabel_codec.cli.main import main
from softlabel_codec.compare import compare
from softlabel_codec.compare.quality import label_quality
from softlabel_codec.images.paths import list_images
from softlabel_codec.label_set import open_shards
from softlabel_codec.label_set.making import images_of_shard, index_path, shard_name, write_index
from softlabel_codec.options.train import kind_of_labels
from softlabel_codec.teacher import check_labels
from softlabel_codec.torch import LabelledCrops, SoftLabelDataset, SoftLabelSampler, collate_crops
from softlabel_codec.trainer import train


@pytest.fixture
def labels(tmp_path) -> tuple[Path, Path, Path]:
    """A folder of images, their labels as a set, and as a file."""
    folder, whole = write_both(tmp_path, num_crops=6)
    with SoftLabelReader(whole) as reader:
        for number, key in enumerate(reader.keys):
            (tmp_path / "images" / key).parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / key)
    return tmp_path / "images", folder, whole


def batches(dataset, start=None):
    loader = DataLoader(
        dataset,
        batch_size=2,
        sampler=SoftLabelSampler(dataset),
        collate_fn=collate_crops,
        num_workers=2 if start else 0,
        multiprocessing_context=start,
    )
    return [(images, labels.dense()) for images, labels in loader]


@pytest.mark.parametrize("start", [None, *multiprocessing.get_all_start_methods()])
def test_a_dataset_of_a_set_is_that_of_the_file(labels, start, monkeypatch):
    monkeypatch.setattr(open_shards, "MOST_OPEN", 2)
    images, folder, whole = labels
    first, second = (SoftLabelDataset(images, path, crops_per_image=3, size=16) for path in (folder, whole))
    assert list(first.keys) == list(second.keys)
    for (pixels, targets), (others, wanted) in zip(batches(first, start), batches(second), strict=True):
        torch.testing.assert_close(pixels, others, rtol=0, atol=0)
        torch.testing.assert_close(targets, wanted, rtol=0, atol=0)


def test_some_images_of_a_set(labels):
    images, folder, whole = labels
    (images / "b" / "2.jpg").unlink()
    keys = ["c/1.jpg", "a/3.jpg"]
    first, second = (SoftLabelDataset(images, path, 2, 16, keys=keys) for path in (folder, whole))
    assert first.numbers.tolist() == second.numbers.tolist() == [5, 2]
    with pytest.warns(UserWarning, match=r"1 of 6 labelled images are not in .*: 'b/2.jpg'"):
        assert len(SoftLabelDataset(images, folder, 2, 16, on_missing="skip")) == 5


def test_labelled_crops_of_a_set(labels):
    images, folder, whole = labels
    samples = [{"__key__": key, "jpg": (images / f"{key}.jpg").read_bytes()} for key in ("c/1", "a/2", "b/1")]
    first, second = ([LabelledCrops(path, 2, 16, match="stem")(sample) for sample in samples] for path in (folder, whole))
    for mine, theirs in zip(first, second, strict=True):
        assert (mine.index, mine.key) == (theirs.index, theirs.key)
        torch.testing.assert_close(mine.images, theirs.images, rtol=0, atol=0)


def write_shape_set(shapes: Path, out: Path, num_shards: int = 3) -> Path:
    """Write the labels of the shapes as a set."""
    out.mkdir()
    with SoftLabelReader(shapes / "labels.slc") as reader:
        files = [out / shard_name("shapes", number, num_shards) for number in range(num_shards)]
        rng = np.random.default_rng(0)
        keys = list_images(shapes / "train")
        for number, file in enumerate(files):
            with SoftLabelWriter(file, len(COLORS), reader.codec, reader.metadata, crops="derived", sampler=SAMPLER) as writer:
                for place in images_of_shard(len(keys), number, num_shards):
                    logits = rng.normal(0, 1, (NUM_CROPS, len(COLORS))) + 3 * (np.array(list(COLORS)) == keys[place].split("/")[0])
                    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
                    writer.add(keys[place], image_size=(SIDE, SIDE), probs=probs.astype(np.float32))
    write_index(index_path(out, "shapes"), files)
    return out


def test_a_student_of_a_set_is_that_of_the_file(shapes, tmp_path):
    folder = write_shape_set(shapes, tmp_path / "set")
    train(config(shapes, tmp_path / "file", epochs=1))
    train(config(shapes, tmp_path / "run", epochs=1, labels=str(folder)))
    first, second = ((tmp_path / run / "weights.pt").read_bytes() for run in ("file", "run"))
    assert first == second
    about = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    with SoftLabelReader(folder) as reader:
        assert about["labels"]["fingerprint"] == reader.fingerprint


def test_a_set_is_compared_like_a_file(shapes, tmp_path):
    folder = write_shape_set(shapes, tmp_path / "set")
    write_shape_labels(shapes, tmp_path / "full.slc", "dense:values=f32")
    sources = {"full": str(tmp_path / "full.slc"), "set": str(folder), "index": str(folder / "shapes.slc.index.json")}
    given = {name: value for name, value in options(shapes, shapes, epochs=1).items() if name not in ("labels", "out")}
    report = compare(sources, tmp_path / "out", given, seeds=(0,))
    size = sum(file.stat().st_size for file in folder.iterdir())
    for row in report.rows[1:]:
        assert row.codec == "marginal_smoothing:k=2"
        assert row.bytes_per_crop == size / 480
        assert row.accuracies == report.rows[1].accuracies
    quality = label_quality({"file": str(shapes / "labels.slc"), **sources}, str(shapes / "train"))
    assert quality["set"] == quality["file"] == quality["index"]


def test_a_set_is_checked_against_its_teacher(shapes, tmp_path):
    folder = write_shape_set(shapes, tmp_path / "set")
    arguments = {"images": shapes / "train", "teacher": f"{shapes / 'teacher.py'}:build", "device": "cpu", "sample": 8}
    found, wanted = (check_labels(labels, **arguments).found for labels in (folder, shapes / "labels.slc"))
    assert found == wanted
    command = ["check", folder, "--images", shapes / "train", "--teacher", arguments["teacher"], "--device", "cpu", "--quiet"]
    assert "checked" in CliRunner().invoke(main, [str(part) for part in command]).output


def test_which_labels_are_stored(tmp_path):
    for labels in ("a.slc", str(tmp_path), "sets/x.slc.index.json", "s3://bucket/sets/x", "https://host/a.slc?signature=1"):
        assert kind_of_labels(labels) == "stored"
    shutil.rmtree(tmp_path)
    with pytest.raises(ArgumentError, match=r"a label set \(its folder, or NAME\.slc\.index\.json\), a URL of one of these, 'truth'"):
        kind_of_labels(str(tmp_path))
