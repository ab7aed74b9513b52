"""Labelling and training from any source of images: the labels are those of the folder."""

import json
import pickle

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_encode_command import interrupt_after
from torch.utils.data import DataLoader
from written_sources import IMAGES, KEYS, WRITE, picture, write_folder, write_npz, write_shards, write_tar

from softlabel_codec import ArgumentError, MismatchError, SoftLabelReader
from softlabel_codec.cli.main import main
from softlabel_codec.images.files import load_image
from softlabel_codec.report import verify
from softlabel_codec.teacher import EncodeConfig, encode
from softlabel_codec.torch import SoftLabelDataset, collate_crops

OTHERS = [kind for kind in WRITE if kind != "folder"]
PIXELS = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "size": 8}


def config(images, out, teacher_file, **options):
    return EncodeConfig(images, str(out), teacher_file, **{"codec": "marginal_smoothing:k=3", "crops": 5, **options})


@pytest.fixture
def labelled(tmp_path, teacher_file):
    """A folder of images and its labels."""
    folder = write_folder(tmp_path / "images")
    encode(config(str(folder), tmp_path / "folder.slc", teacher_file))
    return folder, tmp_path / "folder.slc"


def run(*arguments, code=0):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


def read(path):
    with SoftLabelReader(path) as reader:
        return dict(zip(reader.keys, reader, strict=True))


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_images_in_the_same_order_make_the_same_file(kind, workers, labelled, teacher_file, tmp_path):
    (tmp_path / "other").mkdir()
    name = WRITE[kind](tmp_path / "other")
    report = encode(config(name, tmp_path / "other.slc", teacher_file, workers=workers))
    assert (report.num_images, report.skipped, report.other_files) == (12, {}, [])
    assert (tmp_path / "other.slc").read_bytes() == labelled[1].read_bytes()


def test_labels_do_not_depend_on_the_order_of_the_images(labelled, teacher_file, tmp_path):
    pattern = write_shards(tmp_path / "shards", keys=KEYS[::-1])
    encode(config(pattern, tmp_path / "other.slc", teacher_file, batch_size=5))
    encode(config(str(labelled[0]), labelled[1], teacher_file, batch_size=5, overwrite=True))
    mine, others = read(labelled[1]), read(tmp_path / "other.slc")
    assert list(others) == KEYS[::-1]
    for key, image in mine.items():
        assert (image.crops == others[key].crops).all()
        assert (image.flips == others[key].flips).all()
        assert (image.labels.dense() == others[key].labels.dense()).all()
        assert image.image_crc32 == others[key].image_crc32


@pytest.mark.parametrize("kind", WRITE)
def test_a_dataset_brings_the_same_crops_from_every_source(kind, labelled, tmp_path):
    wanted = SoftLabelDataset(labelled[0], labelled[1], 2, **PIXELS)
    (tmp_path / "other").mkdir()
    dataset = SoftLabelDataset(WRITE[kind](tmp_path / "other"), labelled[1], 2, **PIXELS)
    copy = pickle.loads(pickle.dumps(dataset))
    loader = DataLoader(dataset, batch_size=5, num_workers=2, collate_fn=collate_crops)
    for number, (images, _) in enumerate(loader):
        rows = range(5 * number, min(5 * number + 5, 12))
        assert torch.equal(images, torch.cat([wanted[row].images for row in rows]))
        assert torch.equal(images, torch.cat([copy[row].images for row in rows]))
    assert verify(labelled[1], images=WRITE["folder"](tmp_path)).ok


@pytest.mark.parametrize("kind", OTHERS)
def test_the_commands_take_every_source(kind, labelled, teacher_file, tmp_path):
    (tmp_path / "other").mkdir()
    name = WRITE[kind](tmp_path / "other")
    out = tmp_path / "other.slc"
    arguments = ["encode", name, out, "--teacher", teacher_file, "--crops", 5, "--codec", "marginal_smoothing:k=3", "--workers", 0]
    assert "labelled  12 images, 0 skipped" in run(*arguments)
    assert "nothing to do" in run(*arguments)
    assert "12 images are the ones that were labelled (sizes and checksums)" in run("verify", out, "--images", name)
    assert "they belong together" in run("check", out, "--images", name, "--teacher", teacher_file)


def test_the_commands_take_what_a_function_makes(labelled, teacher_file, tmp_path):
    (tmp_path / "mine.py").write_text(f"def images():\n    return {{key: {str(labelled[0])!r} + '/' + key for key in {KEYS}}}\n")
    out = tmp_path / "mine.slc"
    run("encode", f"{tmp_path}/mine.py:images", out, "--teacher", teacher_file, "--crops", 5, "--codec", "marginal_smoothing:k=3")
    assert out.read_bytes() == labelled[1].read_bytes()


LARGE = {"codec": "dense", "crops": 60}
"""Labels of one image fill a block, which is kept when a run is interrupted."""


@pytest.mark.parametrize("after", [0, 7])
def test_an_interrupted_run_continues_by_key(after, labelled, teacher_file, tmp_path):
    out = tmp_path / "other.slc"
    with pytest.raises(KeyboardInterrupt):
        encode(config(write_shards(tmp_path / "shards"), out, teacher_file, **LARGE), interrupt_after(after))
    encode(config(str(labelled[0]), tmp_path / "whole.slc", teacher_file, **LARGE))
    report = encode(config(write_npz(tmp_path / "a.npz"), out, teacher_file, **LARGE))  # from another source of the same images
    assert report.num_images == 12
    assert (report.resumed_images >= after - 1) if after else (report.resumed_images == 0)
    assert out.read_bytes() == (tmp_path / "whole.slc").read_bytes()


def test_a_run_is_not_continued_with_other_images(teacher_file, tmp_path):
    out = tmp_path / "other.slc"
    with pytest.raises(KeyboardInterrupt):
        encode(config(IMAGES, out, teacher_file, **LARGE), interrupt_after(7))
    with pytest.raises(MismatchError, match=f"image '{KEYS[0]}': is not the one that an earlier run labelled: its bytes differ"):
        encode(config({**IMAGES, KEYS[0]: picture(50)}, out, teacher_file, **LARGE))


def test_an_image_that_cannot_be_decoded_is_named_by_shard_and_member(teacher_file, tmp_path, labelled):
    members = {**IMAGES, KEYS[5]: b"broken"}
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(OSError, match=rf"image '{KEYS[5]}': .*/a\.tar: {KEYS[5]}: not a readable image"):
        encode(config(str(tmp_path / "a.tar"), tmp_path / "a.slc", teacher_file))
    report = encode(config(str(tmp_path / "a.tar"), tmp_path / "b.slc", teacher_file, on_error="skip"))
    assert list(report.skipped) == [KEYS[5]]
    dataset = SoftLabelDataset(tmp_path / "a.tar", labelled[1], 2, check_images=False, **PIXELS)
    with pytest.raises(OSError, match=rf"/a\.tar: {KEYS[5]}: not a readable image"):
        dataset[5]


def test_pixels_have_no_checksums(teacher_file, tmp_path):
    pixels = {key: np.asarray(load_image(data)) for key, data in IMAGES.items()}
    out = tmp_path / "a.slc"
    encode(config(pixels, out, teacher_file))
    images = read(out)
    assert {image.image_crc32 for image in images.values()} == {None}
    encode(config(IMAGES, tmp_path / "b.slc", teacher_file))
    for key, image in read(tmp_path / "b.slc").items():
        assert (image.labels.dense() == images[key].labels.dense()).all()
    report = verify(tmp_path / "b.slc", images=pixels)  # of files; only the sizes of pixels can be compared
    assert (report.ok, report.compared_images, report.checksums) == (True, 12, False)
    report = verify(tmp_path / "b.slc", images={**pixels, KEYS[3]: pixels[KEYS[3]][1:]})
    assert [f"image '{KEYS[3]}': expected 23 x 30 pixels" in problem.message for problem in report.problems] == [True]


def test_a_source_returns_bytes_for_all_images_or_for_none(teacher_file, tmp_path):
    mixed = {**IMAGES, KEYS[5]: np.zeros((20, 20, 3), np.uint8)}
    with pytest.raises(MismatchError, match=rf"image '{KEYS[5]}': expected the bytes of an image file, as the first image is, got ndarray"):
        encode(config(mixed, tmp_path / "a.slc", teacher_file))
    encode(config({key: mixed[key] for key in reversed(KEYS) if key == KEYS[5]} | mixed, tmp_path / "b.slc", teacher_file))
    assert len(read(tmp_path / "b.slc")) == 12


def test_sources_whose_keys_are_none_are_refused_before_the_teacher_runs(tmp_path):
    class Mine:
        def __init__(self, keys):
            self.found = keys

        def keys(self):
            return self.found

        def read(self, key):
            return picture(1)

        def targets(self):
            return None

    for keys, error, message in (
        ([], ArgumentError, "Mine: expected images, found none"),
        (["a", "a"], MismatchError, "got 'a' for image 0"),
    ):
        with pytest.raises(error, match=message):
            encode(config(Mine(keys), tmp_path / "a.slc", "nowhere.py:build"))


def test_keys_that_differ_by_their_endings_or_at_all(labelled, teacher_file, tmp_path):
    stems = {key.rpartition(".")[0]: data for key, data in IMAGES.items()}
    encode(config(stems, tmp_path / "a.slc", teacher_file))
    pattern = write_shards(tmp_path / "shards")
    dataset = SoftLabelDataset(pattern, tmp_path / "a.slc", 2, **PIXELS)
    assert torch.equal(dataset[7].images, SoftLabelDataset(stems, tmp_path / "a.slc", 2, **PIXELS)[7].images)
    write_tar(tmp_path / "b.tar", {f"x/{key}": data for key, data in IMAGES.items()})
    message = f"12 of 12 labelled images are not in .*b.tar: '{KEYS[0]}', .* The first of the images there is 'x/{KEYS[0]}'"
    with pytest.raises(MismatchError, match=message):
        SoftLabelDataset(tmp_path / "b.tar", labelled[1], **PIXELS)
    with pytest.warns(UserWarning, match=f"8 of 12 labelled images are not in .*s-000.tar and are left out: '{KEYS[4]}'"):
        assert len(SoftLabelDataset(tmp_path / "shards" / "s-000.tar", labelled[1], on_missing="skip", **PIXELS)) == 4


def test_wrong_images_on_the_command_line(labelled, teacher_file, tmp_path):
    words = ["encode", "pipe:cat a.tar", tmp_path / "a.slc", "--teacher", teacher_file]
    assert "commands are not run" in run(*words, code=2)
    assert "does not exist" in run("check", labelled[1], "--images", tmp_path / "nowhere", "--teacher", teacher_file, code=2)
    found = json.loads(run("verify", labelled[1], "--images", tmp_path / "nowhere", "--json", code=1))
    assert "does not exist" in found["problems"][0]["message"]
