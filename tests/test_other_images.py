"""Labels beside images that are not those that were labelled: other files under the same names, of the same size."""

import json
import pickle
import zlib

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import random_probs
from PIL import Image
from torch.utils.data import DataLoader

from softlabel_codec import MismatchError, SoftLabelReader, SoftLabelWriter
from softlabel_codec.cli.main import main
from softlabel_codec.report import verify
from softlabel_codec.sampler import CropSampler
from softlabel_codec.torch import SoftLabelDataset, collate_crops

KEYS = [f"class{number % 3}/{number}.png" for number in range(9)]
SIZE = (30, 40)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8))


@pytest.fixture
def labelled(tmp_path):
    """A folder of images of one size, and their labels with checksums."""
    folder = tmp_path / "images"
    sampler = CropSampler(seed=1)
    with SoftLabelWriter(tmp_path / "a.slc", 10, "hard", crops="derived", sampler=sampler, image_checksums=True) as writer:
        for number, key in enumerate(KEYS):
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            picture(number).save(folder / key)
            probs = random_probs(np.random.default_rng(number), 8, 10)
            writer.add(key, image_size=SIZE, probs=probs, image_crc32=zlib.crc32((folder / key).read_bytes()))
    return folder, tmp_path / "a.slc"


def dataset(folder, labels, **options):
    return SoftLabelDataset(folder, labels, crops_per_image=2, size=16, mean=(0.5,) * 3, std=(0.5,) * 3, **options)


@pytest.mark.parametrize("reduced_decoding", [False, True])
def test_a_dataset_notices_other_images_of_the_same_size(labelled, reduced_decoding):
    folder, labels = labelled
    picture(100).save(folder / KEYS[4])
    images = dataset(folder, labels, reduced_decoding=reduced_decoding)
    assert len(images[3].images) == 2
    with pytest.raises(
        MismatchError, match=rf"a\.slc: image '{KEYS[4]}': expected the file that was labelled, with CRC-32 [0-9a-f]{{8}}, got"
    ):
        images[4]
    assert len(dataset(folder, labels, reduced_decoding=reduced_decoding, check_images=False)[4].images) == 2


def test_workers_notice_it_too(labelled):
    folder, labels = labelled
    picture(100).save(folder / KEYS[4])
    loader = DataLoader(dataset(folder, labels), batch_size=3, num_workers=2, collate_fn=collate_crops)
    with pytest.raises(MismatchError, match="expected the file that was labelled"):
        list(loader)


def test_an_image_is_compared_once_in_a_process(labelled, monkeypatch):
    folder, labels = labelled
    images = dataset(folder, labels)
    compared = []
    monkeypatch.setattr("softlabel_codec.torch.cropper.check_image", lambda data, found, key, path: compared.append(key))
    for _ in range(3):
        images.__getitems__([2, 5])
    assert compared == [KEYS[2], KEYS[5]]
    copy = pickle.loads(pickle.dumps(images))
    copy[2]
    assert compared == [KEYS[2], KEYS[5], KEYS[2]]


def test_bytes_are_compared_and_pictures_are_not(labelled):
    folder, labels = labelled
    sources = {key: (folder / key).read_bytes() for key in KEYS}
    wanted = dataset(folder, labels)[4].images
    assert (dataset(sources, labels)[4].images == wanted).all()
    sources[KEYS[4]] = sources[KEYS[5]]
    with pytest.raises(MismatchError, match="expected the file that was labelled"):
        dataset(sources, labels)[4]
    sources[KEYS[4]] = picture(100)
    assert len(dataset(sources, labels)[4].images) == 2
    sources[KEYS[4]] = np.asarray(picture(100))
    assert len(dataset(sources, labels)[4].images) == 2


def test_verify_compares_all_images(labelled):
    folder, labels = labelled
    report = verify(labels, images=folder)
    assert (report.ok, report.compared_images, report.checksums) == (True, 9, True)
    picture(100).save(folder / KEYS[4])
    picture(101).resize((20, 20)).save(folder / KEYS[6])
    (folder / KEYS[1]).unlink()
    (folder / KEYS[2]).write_bytes(b"no image")
    report = verify(labels, images=folder)
    assert (report.ok, report.compared_images, {problem.error for problem in report.problems}) == (False, 8, {"MismatchError"})
    messages = [problem.message for problem in report.problems]
    assert len(messages) == 4
    for key in (KEYS[1], KEYS[2], KEYS[4], KEYS[6]):
        assert any(repr(key) in message for message in messages), key


def test_verify_of_labels_without_checksums_compares_sizes(labelled, tmp_path):
    folder, labels = labelled
    with SoftLabelReader(labels) as reader, SoftLabelWriter(tmp_path / "b.slc", 10, "hard") as writer:
        for key, image in zip(reader.keys, reader, strict=True):
            writer.add(key, image_size=SIZE, crops=image.crops, flips=image.flips, probs=image.labels.dense())
    picture(100).save(folder / KEYS[4])
    report = verify(tmp_path / "b.slc", images=folder)
    assert (report.ok, report.compared_images, report.checksums) == (True, 9, False)
    picture(100).resize((41, 30)).save(folder / KEYS[4])
    (problem,) = verify(tmp_path / "b.slc", images=folder).problems
    assert f"image '{KEYS[4]}': expected 30 x 40 pixels" in problem.message


def test_the_command_compares_images(labelled, tmp_path):
    folder, labels = labelled
    run = CliRunner().invoke(main, ["verify", str(labels), "--images", str(folder)])
    assert (run.exit_code, "9 images are the ones that were labelled (sizes and checksums)" in run.output) == (0, True)
    picture(100).save(folder / KEYS[4])
    run = CliRunner().invoke(main, ["verify", str(labels), "--images", str(folder), "--json"])
    assert run.exit_code == 1
    assert json.loads(run.stdout)["compared_images"] == 9
    (tmp_path / "empty").mkdir()
    run = CliRunner().invoke(main, ["verify", str(labels), "--images", str(tmp_path / "empty")])
    assert run.exit_code == 1
    assert "expected images" in run.output
