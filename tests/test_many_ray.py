"""Label sets made and read on a cluster of Ray's: two nodes on this machine."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.data
from conftest import write_labels
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs
from ray_driver import CROPS, label
from ray_kills import CODEC, kills_of_actors, kills_of_drivers, shards_of, two_nodes, write_desk
from servers import s3_server
from test_architecture import MODULES

import softlabel_codec.ray
from softlabel_codec import ArgumentError, MismatchError, SoftLabelReader
from softlabel_codec.labels import SparseLabels
from softlabel_codec.ray import label_images, labelling, read_labels
from softlabel_codec.teacher import EncodeConfig, encode

pytestmark = [pytest.mark.many, pytest.mark.filterwarnings("ignore")]  # Ray gives many warnings to itself

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with two_nodes() as nodes:
        yield nodes


@pytest.fixture(autouse=True)
def small_blocks():
    """Leave blocks at their usual size, which they have in the processes of the cluster."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with images, a teacher, and the file `one.slc` of the labels that one process gives them."""
    folder = write_desk(tmp_path_factory.mktemp("desk"))
    with SoftLabelReader(folder / "one.slc") as reader:
        assert reader.container.trailer.num_blocks > 2
    return folder


def images_of(*paths):
    """Return keys and labels of all images of some files."""
    images = []
    for path in paths:
        with SoftLabelReader(path) as reader:
            images += [(key, image.image_crc32, image.labels.dense().tobytes()) for key, image in zip(reader.keys, reader, strict=True)]
    return images


def test_shards_hold_the_labels_that_one_process_gives(desk, tmp_path):
    report = label(desk / "images", tmp_path / "set", f"{desk}/teacher.py:slow", codec=CODEC, shards=3)
    paths = shards_of(tmp_path / "set")
    assert [path.name for path in paths] == [f"set-0000{number}-of-00003.slc" for number in range(3)]
    assert images_of(*paths) == images_of(tmp_path / "set") == images_of(desk / "one.slc")
    keys = sorted(row["key"] for row in read_labels(tmp_path / "set").take_all())  # Ray keeps no order of rows unless it is told to
    assert keys == sorted(key for key, _, _ in images_of(tmp_path / "set"))
    assert (report.num_images, report.resumed_images, report.crops_per_image, report.skipped) == (26, 0, CROPS, {})
    again = label(desk / "images", tmp_path / "set", f"{desk}/teacher.py:slow", codec=CODEC, shards=3)
    assert (again.num_images, again.finished_before) == (26, True)
    with pytest.raises(FileExistsError, match="made with other options: shards: expected 2, found 3. Pass overwrite=True"):
        label(desk / "images", tmp_path / "set", f"{desk}/teacher.py:slow", codec=CODEC, shards=2)
    (tmp_path / "set" / "set.slc.index.json").unlink()
    with pytest.raises(FileExistsError, match="is of a label set that was not begun on Ray.*set-00000-of-00003.slc"):
        label(desk / "images", tmp_path / "set", f"{desk}/teacher.py:slow", codec=CODEC, shards=3)


def test_a_killed_actor_costs_nothing(desk, tmp_path):
    found = kills_of_actors(desk, tmp_path, 1)
    assert (found.kills, found.finished_sets) == (1, 1)


def test_a_killed_driver_continues(desk, tmp_path, cluster):
    found = kills_of_drivers(cluster, desk, tmp_path, 1)
    assert (found.kills, found.finished_sets) == (1, 1)
    assert min(found.resumed_images, found.labelled_images) > 0


def test_a_driver_that_is_killed_when_all_is_labelled_labels_nothing_again(desk, tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(labelling, "write_shards", killed)
    with pytest.raises(KeyboardInterrupt):
        label(desk / "images", tmp_path / "set", f"{desk}/teacher.py:slow", codec=CODEC, shards=2)
    assert not list(tmp_path.glob("set/*.json"))
    monkeypatch.undo()
    assert label(desk / "images", tmp_path / "set", f"{desk}/teacher.py:slow", 1, codec=CODEC).resumed_images == 26
    (path,) = shards_of(tmp_path / "set")
    assert path.read_bytes() == (desk / "one.slc").read_bytes()


@contextmanager
def file_system(kind, folder):
    """Yield a file system, and a path there."""
    if kind == "S3 of Arrow":
        with s3_server() as server:
            yield (
                fs.S3FileSystem(access_key="key", secret_key="secret", endpoint_override=server, allow_bucket_creation=True),
                "bucket/some/set",
            )
    elif kind == "part of Arrow's":
        yield fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem()), "some/set"
    else:
        yield DirFileSystem(str(folder), LocalFileSystem()), "some/set"


@pytest.mark.parametrize(("kind", "workers"), [("S3 of Arrow", 0), ("part of Arrow's", 1), ("fsspec's", 0)])
def test_sets_are_written_to_any_file_system(tmp_path, desk, kind, workers):
    arrays = {str(number): np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8) for number in range(6)}
    rows = ray.data.from_items([{"key": key, "image": image} for key, image in arrays.items()], override_num_blocks=3)
    options = {"codec": "dense:values=f16", "crops": 5, "batch_size": 5, "store_crops": True}
    with file_system(kind, tmp_path) as (filesystem, path):
        how = {"filesystem": filesystem, "shards": 2, "workers": workers}
        label_images(rows, path, f"{desk}/teacher.py:build", **how, **options)
        written = filesystem if isinstance(filesystem, fs.FileSystem) else fs.PyFileSystem(fs.FSSpecHandler(filesystem))
        (tmp_path / "copied" / "set").mkdir(parents=True)
        fs.copy_files(path, str(tmp_path / "copied" / "set"), written, fs.LocalFileSystem())
        assert label_images(rows, path, f"{desk}/teacher.py:build", **how, **options).finished_before
    encode(EncodeConfig(arrays, f"{tmp_path}/one.slc", f"{desk}/teacher.py:build", **options))
    assert images_of(*shards_of(tmp_path / "copied" / "set")) == images_of(tmp_path / "one.slc")


def test_unreadable_images_and_other_options(tmp_path, desk):
    folder, out, teacher = tmp_path / "images", tmp_path / "set", f"{desk}/teacher.py:build"
    shutil.copytree(desk / "images" / "n0", folder)
    (folder / "0.png").write_bytes(b"no image")
    with pytest.raises(OSError, match="^image '0.png': 0.png: not a readable image: unknown format. Repair or remove it"):
        label(folder, out, teacher, 1, codec=CODEC)
    assert not (out / "set.slc.index.json").exists()
    report = label(folder, out, teacher, 1, codec=CODEC, on_error="skip")
    assert (report.num_images, report.skipped) == (8, {"0.png": "could not be read"})
    encode(EncodeConfig(str(folder), f"{tmp_path}/one.slc", teacher, CODEC, CROPS, on_error="skip"))
    (path,) = shards_of(out)
    assert path.read_bytes() == (tmp_path / "one.slc").read_bytes()
    with pytest.raises(FileExistsError, match=r"made with other options: codec: expected hard, found marginal_smoothing:t=0.02,tail=5"):
        label(folder, out, teacher, 1, codec="hard", on_error="skip")

    os.rename(out, tmp_path / "set.parts")
    out.mkdir()
    os.rename(tmp_path / "set.parts", out / "set.parts")
    (out / "set.parts" / "set.slc.index.json").unlink()
    with pytest.raises(MismatchError, match="set.parts: was started with other options: codec: expected hard, found marginal"):
        label(folder, out, teacher, 1, codec="hard", on_error="skip")


@pytest.mark.parametrize(
    ("crops_per_part", "message"),
    [(5, "'a': two images of the Ray Dataset have this key"), (10, "the Ray Dataset: expected each key once, got 'a'")],
)
def test_two_images_of_one_key_are_an_error(tmp_path, desk, monkeypatch, crops_per_part, message):
    monkeypatch.setattr(labelling, "CROPS_PER_PART", crops_per_part)
    images = [(desk / "images" / "n0" / name).read_bytes() for name in ("0.png", "3.png")]
    rows = ray.data.from_items([{"key": "a", "bytes": image} for image in images], override_num_blocks=1)
    with pytest.raises(MismatchError, match=message):
        label_images(rows, tmp_path / "set", f"{desk}/teacher.py:build", crops=5, codec="hard")


def test_several_teachers_label_on_the_nodes(desk, tmp_path):
    teachers, how = [f"{desk}/teacher.py:build", f"{desk}/teacher.py:slow"], {"crops": 5, "codec": "dense", "weights": (3, 1)}
    rows = ray.data.from_items([{"key": key, "bytes": (desk / "images" / key).read_bytes()} for key in ("n0/0.png", "n0/3.png")])
    label_images(rows, tmp_path / "set", teachers, batch_size=5, **how)
    encode(EncodeConfig(str(desk / "images"), str(tmp_path / "one.slc"), teachers, batch_size=5, **how))
    of_both = {key: rest for key, *rest in images_of(tmp_path / "one.slc")}
    assert {key: rest for key, *rest in images_of(*shards_of(tmp_path / "set"))} == {key: of_both[key] for key in ("n0/0.png", "n0/3.png")}


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ([{"key": "a", "path": "b"}], {}, "dataset: expected columns 'key' and 'bytes' or 'image', got 'key', 'path'"),
        ([], {}, "dataset: expected images, found none"),
        ([], {"shards": 0}, "shards: expected 1 to 100000, got 0"),
        ([], {"crops_of": "one.slc"}, "crops_of: expected None, as crops of a Ray Dataset are drawn"),
        ([], {"shards": 2, "shard": 1}, "shard: expected None, as all shards are made together, got 1"),
        ([], {"concurrency": 0}, "concurrency: expected an integer of at least 1, got 0"),
        ([], {"codec": "dense:content=features"}, "codec: expected one of probabilities or logits, unless --teacher-output features"),
    ],
)
def test_wrong_arguments(tmp_path, rows, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        label_images(ray.data.from_items(rows), tmp_path / "set", "nowhere.py:build", **arguments)


def test_actors_that_leave_no_processor_are_warned_of(tmp_path, desk):
    rows = ray.data.from_items([{"key": "a", "bytes": (desk / "images" / "n0" / "0.png").read_bytes()}])
    message = "the cluster has 4 CPUs: 4 actors of 1 CPU leave none to read images and to write"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(UserWarning, match=message):
            label_images(rows, tmp_path / "set", f"{desk}/teacher.py:build", concurrency=4)


@pytest.mark.parametrize("codec", ["marginal_smoothing:t=0.05,tail=4", "marginal_smoothing:t=0.05,tail=all", "field", "dense"])
def test_labels_are_read_once_each(tmp_path, codec):
    write_labels(tmp_path / "labels.slc", codec, counts=(3, 1, 40, 7) * 10)
    rows = read_labels(tmp_path / "labels.slc")
    assert rows.count() == 40
    with SoftLabelReader(tmp_path / "labels.slc") as reader:
        keys = list(reader.keys)
        found = {row["key"]: row for row in rows.take_all()}
        targets = {row["key"]: row["target"] for row in read_labels(tmp_path / "labels.slc", dense=True).take_all()}
        assert sorted(found) == sorted(targets) == sorted(keys)
        for key, image in zip(keys, reader, strict=True):
            row, labels = found[key], image.labels
            assert tuple(row["image_size"]) == image.image_size
            assert np.array_equal(row["crops"], image.crops)
            assert np.array_equal(row["flips"], image.flips)
            assert np.array_equal(targets[key], labels.dense())
            if codec == "dense":
                assert np.array_equal(row["vectors"], labels.vectors)
                continue
            again = SparseLabels(row["indices"], row["values"], row["remainder"], reader.num_classes)
            assert np.array_equal(again.dense(), labels.with_policy("uniform").dense())
            assert ("tail_classes" in row) == ("tail" in codec)
            if "tail" in codec:
                assert np.array_equal(row["tail_classes"], labels.tails.classes[0][: len(row["tail_classes"])])
                assert row["tail_floor"] == labels.tails.floor[0]
            assert ("tail_slopes" in row) == ("tail=all" in codec)
            if "tail=all" in codec:
                assert np.array_equal(row["tail_slopes"], labels.tails.slopes[0])
                assert row["tail_main_class"] == labels.tails.main_class[0]


def test_no_labels_are_no_rows(tmp_path):
    write_labels(tmp_path / "labels.slc", counts=())
    assert read_labels(tmp_path / "labels.slc").take_all() == []


def test_the_documentation_labels_images_and_reads_labels(tmp_path, desk):
    (tmp_path / "photos").mkdir()
    shutil.copytree(desk / "images" / "n0", tmp_path / "photos" / "train")
    shutil.copy(desk / "teacher.py", tmp_path)
    (block,) = re.findall(r"^```python\n(import ray\n.*?)^```", (ROOT / "docs" / "cluster.md").read_text(), re.MULTILINE | re.DOTALL)
    for written, here in (
        ("/shared", str(tmp_path)),
        ("crops=200", "crops=4"),
        ("shards=64", "shards=2"),
        ("concurrency=8", "concurrency=1"),
    ):
        assert written in block
        block = block.replace(written, here)
    names = {}
    exec(compile(block, "cluster.md", "exec"), names)
    assert len(shards_of(tmp_path / "labels")) == 2
    rows = [row["key"] for row in names["labels"].take_all()]
    assert sorted(rows) == sorted(path.name for path in (tmp_path / "photos" / "train").iterdir())
    assert names["report"].num_images == 9


def test_only_teachers_need_torch():
    code = "import sys; from softlabel_codec.ray import joining, parts, read_labels; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
    with pytest.raises(AttributeError, match="module 'softlabel_codec.ray' has no attribute 'nothing'"):
        softlabel_codec.ray.nothing  # noqa: B018


def test_modules_for_ray_are_imported_and_described():
    modules = sorted(name for name in MODULES if name.startswith("softlabel_codec.ray"))
    assert len(modules) > 5
    for name in modules:
        for thing in vars(importlib.import_module(name)).values():
            if getattr(thing, "__module__", "") == name and callable(thing) and not thing.__name__.startswith("_"):
                assert thing.__doc__, thing
