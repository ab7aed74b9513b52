"""`slcodec encode --codec auto`: the codec that a run chooses, stores, and goes on with."""

import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from softlabel_codec import AllViews, ArgumentError, Codec, MismatchError, SoftLabelReader, writer
from softlabel_codec.checks.interrupted import Interrupted
from softlabel_codec.cli.main import main
from softlabel_codec.report import inspect
from softlabel_codec.teacher import EncodeConfig, choosing, encode
from softlabel_codec.teacher import run as teacher_run
from softlabel_codec.teacher.run import TeacherRun


@pytest.fixture
def folder(tmp_path):
    """Twelve images."""
    rng = np.random.default_rng(0)
    (tmp_path / "many").mkdir()
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "many" / f"{number:02}.png")
    return tmp_path / "many"


@pytest.fixture
def config(folder, tmp_path, teacher_file):
    def make(out="out.slc", **options):
        return EncodeConfig(str(folder), str(tmp_path / out), teacher_file, **{"crops": 20, **options})

    return make


@pytest.fixture
def labelled(monkeypatch):
    """Counts the crops that go through the teacher."""
    counted = []
    forward = TeacherRun._label_pixels

    def label_pixels(self, pixels, runs):
        counted.append(sum(len(run.flips) for run in runs))
        return forward(self, pixels, runs)

    monkeypatch.setattr(TeacherRun, "_label_pixels", label_pixels)
    return counted


def run(*words, code=0):
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == code, done.output
    return done.output


def interrupt(done, total):
    if done >= 5:
        raise KeyboardInterrupt


def test_the_default_chooses_and_says_what(config, tmp_path):
    report = encode(config())
    choice = report.codec_choice
    assert choice.lost <= 0.04
    assert choice.asked == {"fidelity": 0.04}
    assert choice.pilot_images == 12
    with SoftLabelReader(report.path) as reader:
        assert reader.codec == choice.codec
        assert reader.metadata["codec_choice"] == choice.described()
        assert list(reader.metadata["codec_choice"]) == ["asked", "temperature", "pilot_images", "lost", "bytes_per_image"]
    encode(config("given.slc", codec=choice.codec))
    assert [column.file_bytes for column in inspect(tmp_path / "given.slc").budget][:2]
    with SoftLabelReader(tmp_path / "given.slc") as given, SoftLabelReader(report.path) as chosen:
        assert "codec_choice" not in given.metadata
        for one, other in zip(given, chosen, strict=True):
            np.testing.assert_array_equal(one.labels.dense(), other.labels.dense())


@pytest.mark.parametrize("options", [{}, {"batch_size": 60}, {"batch_size": 7}, {"store_crops": True}, {"temperature": 3.0}])
def test_the_labels_are_those_of_a_run_with_that_codec(config, options):
    chosen = encode(config("a.slc", **options))
    given = encode(config("b.slc", codec=chosen.codec_choice.codec, **options))
    with SoftLabelReader(chosen.path) as one, SoftLabelReader(given.path) as other:
        assert one.keys[:] == other.keys[:]
        batches = [reader.read_batch(range(12)).labels.dense() for reader in (one, other)]
    np.testing.assert_array_equal(*batches)


def test_small_sets_go_through_the_teacher_once(config, labelled):
    encode(config(batch_size=60))
    assert sum(labelled) == 12 * 20


def test_a_pilot_is_spread_over_the_images_and_is_not_labelled_again(config, labelled, monkeypatch):
    monkeypatch.setattr(choosing, "PILOT_IMAGES", 4)
    report = encode(config(batch_size=20))
    assert report.codec_choice.pilot_images == 4
    assert sum(labelled) == 12 * 20
    again = encode(config("again.slc", batch_size=60))  # three images go through the teacher together: other images beside them
    assert sum(labelled) == 2 * 12 * 20 + 4 * 20
    assert again.num_images == 12


def test_a_pilot_of_very_many_probabilities_has_fewer_images(config, monkeypatch):
    monkeypatch.setattr(choosing, "PILOT_NUMBERS", 7 * 20 * 10)
    monkeypatch.setattr(choosing, "FEWEST_PILOT_IMAGES", 3)
    assert encode(config()).codec_choice.pilot_images == 7


def test_an_interrupted_run_goes_on_with_its_codec_to_the_same_bytes(config, tmp_path, labelled, caplog):
    whole = (tmp_path / "whole.slc", encode(config("whole.slc", batch_size=20)))[0].read_bytes()
    del labelled[:]
    with pytest.raises(Interrupted):
        encode(config(batch_size=20), interrupt)
    assert (tmp_path / "out.slc.partial").exists()
    with caplog.at_level(logging.INFO, "softlabel_codec"):
        report = encode(config(batch_size=20))
    assert (tmp_path / "out.slc").read_bytes() == whole
    assert report.codec_choice is None
    assert report.resumed_images > 0
    assert "to choose a codec" not in caplog.text
    before = len(labelled)
    assert encode(config(batch_size=20)).finished_before
    assert len(labelled) == before


def test_ctrl_c_while_choosing_leaves_nothing(config, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    before = sorted(path.name for path in tmp_path.iterdir())
    for where, name in ((choosing, "labelled_images"), (choosing, "choose_codec")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, stop)
            for options in ({}, {"out": "a-set", "shards": 2}):
                with pytest.raises(Interrupted, match="No image is stored yet; run the same command again"):
                    encode(config(**options))
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_other_wishes_do_not_continue(config, tmp_path):
    encode(config())
    with pytest.raises(Interrupted):
        encode(config("b.slc", overwrite=True), interrupt)
    with pytest.raises(FileExistsError, match=r"something else: expected {'fidelity': 0.5}, found {'fidelity': 0.04}. Pass overwrite=True"):
        encode(config(fidelity="50%"))
    with pytest.raises(
        MismatchError, match=r"b.slc.partial: was made with a codec that was chosen for something else: expected .* Pass overwrite"
    ):
        encode(config("b.slc", bytes_per_image=100))
    report = encode(config("b.slc", fidelity="50%", overwrite=True))
    assert report.codec_choice.asked == {"fidelity": 0.5}
    assert encode(config("b.slc", fidelity=0.5)).finished_before


def test_a_file_whose_codec_was_given_is_not_continued_by_auto(config):
    encode(config(codec="hard"))
    with pytest.raises(FileExistsError, match="was made with codec 'hard', which was not chosen. Pass --codec hard for the same"):
        encode(config())
    with pytest.raises(Interrupted):
        encode(config("b.slc", codec="hard"), interrupt)
    with pytest.raises(MismatchError, match=r"b.slc.partial: was made with codec 'hard', which was not chosen"):
        encode(config("b.slc"))


def test_other_options_are_refused_as_ever(config):
    encode(config())
    with pytest.raises(FileExistsError, match=r"metadata\['temperature'\]: expected 2.0, found 1.0"):
        encode(config(temperature=2.0))
    with pytest.raises(FileExistsError, match="crops_per_image: expected 21, found 20"):
        encode(config(crops=21))


def test_a_set_goes_on_with_the_codec_of_its_shards(config, tmp_path, labelled):
    first = encode(config("a-set", shards=3, shard=1))
    assert first.codec_choice.lost <= 0.04
    second = encode(config("a-set", shards=3))
    assert second.codec_choice is None
    assert second.label_set.finished
    assert sum(labelled) == (12 + 8) * 20  # the first worker had labelled all to choose a codec
    with SoftLabelReader(tmp_path / "a-set") as reader:
        assert reader.codec == first.codec_choice.codec
        assert reader.metadata["codec_choice"] == first.codec_choice.described()
    encode(config("b-set", shards=3))
    for path in (tmp_path / "a-set").glob("*.slc"):
        assert path.read_bytes() == (tmp_path / "b-set" / path.name.replace("a-set", "b-set")).read_bytes()


def test_workers_that_begin_together_choose_the_same(folder, tmp_path, teacher_file):
    words = [sys.executable, "-m", "softlabel_codec", "encode", folder, tmp_path / "labels", "--teacher", teacher_file, "--crops", 20]
    words += ["--shards", 2, "--workers", 0, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [*map(str, words), "--shard", str(shard)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for shard in range(2)
    ]
    for worker in workers:
        output, _ = worker.communicate(timeout=200)
        assert worker.returncode == 0, output
    with SoftLabelReader(tmp_path / "labels") as reader:
        assert len(reader) == 12
        assert reader.metadata["codec_choice"]["asked"] == {"fidelity": 0.04}


def test_a_worker_whose_choice_differs_takes_that_of_the_others(config, monkeypatch):
    choose = choosing.choose_codec

    def slower(*labels, **how):
        with monkeypatch.context() as patch:
            patch.setattr(choosing, "choose_codec", choose)
            encode(config("a-set", shards=2, shard=1))
        return replace(choose(*labels, **how), codec="dense:values=f32", lost=0.0)

    monkeypatch.setattr(choosing, "choose_codec", slower)
    report = encode(config("a-set", shards=2, shard=0))
    assert report.label_set.finished
    with SoftLabelReader(report.path) as reader:
        assert reader.codec != "dense:values=f32"


def test_bytes_per_image_chooses_the_number_of_crops(config):
    report = encode(config(crops=None, bytes_per_image=60, draws=40))
    assert report.crops_per_image == report.codec_choice.crops_per_image
    assert report.crops_per_image in (5, 10, 20, 40)
    with SoftLabelReader(report.path) as reader:
        assert (reader.num_crops == report.crops_per_image).all()
        assert reader.metadata["crops_per_image"] == report.crops_per_image
        assert reader.metadata["codec_choice"]["asked"] == {"bytes_per_image": 60.0, "draws": 40}
        assert reader.container.trailer.summary_offset < 60 * 12 + len(reader.container.beginning.data)
    again = encode(config(crops=None, bytes_per_image=60, draws=40))
    assert (again.finished_before, again.crops_per_image) == (True, report.crops_per_image)


def test_crops_that_are_given_are_not_chosen(config):
    report = encode(config(bytes_per_image=200))
    assert (report.crops_per_image, report.codec_choice.crops_per_image) == (20, 20)
    views = encode(config("b.slc", crops=None, sampler=AllViews(38, 48), bytes_per_image=500))
    assert views.crops_per_image == 18


def test_a_pilot_with_unreadable_images(config, folder):
    (folder / "06.png").write_bytes(b"")
    with pytest.raises(OSError, match=r"image '06.png': .*--on-error skip"):
        encode(config())
    report = encode(config(on_error="skip"))
    assert (report.num_images, list(report.skipped), report.codec_choice.pilot_images) == (11, ["06.png"], 11)
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(OSError, match="none of 12 images could be read"):
        encode(config("b.slc", on_error="skip"))


def test_a_teacher_whose_output_cannot_be_stored(config, tmp_path):
    (tmp_path / "bad.py").write_text(
        "import torch\nfrom torch import nn\n\nclass Bad(nn.Module):\n"
        "    def forward(self, images):\n        return images.mean((2, 3)) * (torch.nan if len(images) != 2 else 1)\n\n"
        "def build():\n    return Bad()\n"
    )
    with pytest.raises(MismatchError, match=r"teacher .*: its output cannot be stored as labels: image '00.png': probs"):
        encode(EncodeConfig(str(config().images), str(tmp_path / "a.slc"), f"{tmp_path / 'bad.py'}:build", crops=5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "hard", "fidelity": 0.04}, "fidelity: expected None, as the codec is not 'auto', got 0.04"),
        ({"codec": "hard", "bytes_per_image": 4}, "bytes_per_image: expected None, as the codec is not 'auto', got 4"),
        ({"codec": "hard", "draws": 4}, "draws: expected None, as the codec is not 'auto', got 4"),
        ({"fidelity": "4"}, "fidelity: expected the share that may be lost, such as 4% or 0.04, got '4'"),
        ({"fidelity": 0.1, "bytes_per_image": 5}, "fidelity: expected None, as bytes_per_image is given, got 0.1"),
        ({"draws": 100}, "draws: expected None, as bytes_per_image is not given, got 100"),
        ({"codec": None}, "codec: expected a string"),
    ],
)
def test_wrong_options(config, options, message):
    with pytest.raises(ArgumentError, match=message):
        config(**options)


def test_a_budget_that_nothing_fits_is_wrong_usage_and_leaves_nothing(config, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ArgumentError, match="bytes_per_image: expected at least"):
        encode(config(bytes_per_image=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_command_line_prints_what_was_tried(folder, tmp_path, teacher_file):
    words = ["encode", folder, tmp_path / "a.slc", "--teacher", teacher_file, "--crops", 20, "--workers", 0]
    lines = run(*words, "--codec", "auto", "--fidelity", "5 %").splitlines()
    start = lines.index("slcodec: codec auto: the fewest bytes that lose at most 5 % at T = 1, by the labels of 12 images")
    stop = next(number for number, line in enumerate(lines) if line.startswith("slcodec: chosen: "))
    assert 4 <= stop - start <= 5
    for line in lines[start + 1 : stop]:
        assert re.fullmatch(r"slcodec:   \S+ +20 crops, [\d,]+ bytes per image, loses (everything|[\d.e-]+ %)", line), line
    codec = re.fullmatch(r"slcodec: chosen: (\S+), 20 crops per image", lines[stop])[1]
    assert Codec.parse(codec)
    assert f"codec  {codec}, chosen by the labels of 12 images" in lines
    assert "nothing to do" in run(*words, "--fidelity", "5%")


def test_quiet_and_json(folder, tmp_path, teacher_file):
    words = [sys.executable, "-m", "softlabel_codec", "encode", folder, tmp_path / "a.slc", "--teacher", teacher_file, "--crops", 5]
    words += ["--workers", 0, "--quiet", "--json", "--overwrite"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found = json.loads(done.stdout)["codec_choice"]
    assert set(found) >= {"codec", "crops_per_image", "bytes_per_image", "lost", "asked", "temperature", "pilot_images", "tried"}
    assert found["codec"] in [trial["codec"] for trial in found["tried"]]


def test_the_command_line_says_where_auto_is_not_possible(tmp_path):
    words = ["copy", tmp_path, tmp_path / "b.slc", "--codec", "auto"]
    assert "choose_codec" in run(*words, code=2)
    assert "slcodec encode also takes auto" in run("encode", "--codec", "help")


@pytest.mark.parametrize("codec", ["field", "dense", "marginal_smoothing:t=0.05,tail=8", "marginal_smoothing:gain=0.01,tail=8", "hard"])
def test_what_a_gpu_sends_is_what_the_codec_needs(config, codec, monkeypatch):
    """Labels of sparse codecs are made small on a GPU; all others need every probability. A pilot is made small afterwards."""
    expected = encode(config("a.slc", codec=codec))
    label = TeacherRun.label

    def as_on_a_gpu(self, batches):
        monkeypatch.setattr(self, "on_cuda", True)
        return label(self, batches)

    monkeypatch.setattr(TeacherRun, "label", as_on_a_gpu)
    found = encode(config("b.slc", codec=codec))
    with SoftLabelReader(expected.path) as one, SoftLabelReader(found.path) as other:
        np.testing.assert_array_equal(*(reader.read_batch(range(12)).labels.dense() for reader in (one, other)))


@pytest.mark.parametrize("at_once", [1, 5])
def test_a_gpu_fits_fields_of_many_images(config, monkeypatch, at_once):
    """Also in a run that is continued, and of labels that were made to choose the codec, which are arrays: the same bytes."""
    monkeypatch.setattr(writer, "MAX_IMAGES_PER_BLOCK", 4)
    wanted = Path(encode(config("a.slc", codec="field")).path).read_bytes()
    monkeypatch.setattr(TeacherRun, "_fits_fields", property(lambda run: run._codec.family == "field"))
    monkeypatch.setattr(teacher_run, "FIELDS_AT_ONCE", at_once)
    monkeypatch.setattr(writer.SoftLabelWriter, "add", None)
    done = []

    def stop(*progress):
        done.append(progress)
        if len(done) == 9:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        encode(config("b.slc", codec="field"), stop)
    assert Path(encode(config("b.slc", codec="field"), lambda *progress: done.append(progress)).path).read_bytes() == wanted
    assert done[-1] == (12, 12)


def test_a_gpus_pilot_becomes_the_labels_of_its_codec(config):
    from softlabel_codec.teacher.job import prepare
    from softlabel_codec.teacher.labelling import labelled_images

    job = prepare(config())
    run = job.run.with_codec(Codec.parse("marginal_smoothing:t=0.05,tail=8"))
    run.on_cuda = True
    _, image = next(labelled_images(job, job.keys, (), {}, lambda: None))
    made = run.for_codec(image)
    assert {name for part in made.labels for name in part} == {"indices", "values", "others", "left_out"}
    straight = run._labels([torch.from_numpy(image.labels[0]["probs"]).log()], None)
    for name, values in made.labels[0].items():
        np.testing.assert_allclose(values, straight[name].numpy(), rtol=1e-5, atol=1e-6)
