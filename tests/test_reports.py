"""Reports and the command line."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_labels
from PIL import Image

from softlabel_codec import SoftLabelReader, SoftLabelWriter, StateError, TruncatedError
from softlabel_codec.cli.main import main
from softlabel_codec.cli.output import printable, progress_bar
from softlabel_codec.report import inspect, stats, stats_report, verify
from softlabel_codec.report.stats_report import plot_stats
from softlabel_codec.sampler import CropSampler


@pytest.fixture
def labels(tmp_path):
    write_labels(tmp_path / "a.slc", counts=[150, 200, 40, 7], metadata={"teacher": {"name": "tiny"}})
    return tmp_path / "a.slc"


def run(*arguments, code=0):
    """Run a command, check its exit code and return what it printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("codec", ["marginal_smoothing:k=5", "marginal_smoothing:t=0.1,values=f16", "hard", "dense", "field"])
def test_every_byte_is_in_the_budget(tmp_path, codec):
    write_labels(tmp_path / "a.slc", codec, counts=[150, 20, 20, 300, 5])
    report = inspect(tmp_path / "a.slc")
    size = (tmp_path / "a.slc").stat().st_size
    assert report.file_bytes == size
    assert abs(sum(part.file_bytes for part in report.budget) - size) <= len(report.budget)  # rounding
    assert (report.bytes_per_crop, report.bytes_per_image) == (size / 495, size / 5)
    for part in report.budget:
        assert (part.bytes_per_crop, part.bytes_per_image) == (part.file_bytes / 495, part.file_bytes / 5)
    assert (report.fewest_crops, report.most_crops, report.num_images, report.num_crops) == (5, 300, 5, 495)


def test_stats_are_those_of_the_targets(tmp_path):
    written = write_labels(tmp_path / "a.slc", "marginal_smoothing:k=4,values=f32", counts=[30, 50])
    report = stats(tmp_path / "a.slc")
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        targets = np.concatenate([image.labels.dense() for image in reader]).astype(np.float64)
        flips = np.concatenate([image.flips for image in reader])
        top = [image.labels.dense().argmax(axis=1) for image in reader]
    assert report.confidence.mean == pytest.approx(targets.max(axis=1).mean(), rel=1e-6)
    assert report.confidence.quantiles["50%"] == pytest.approx(np.median(targets.max(axis=1)), rel=1e-6)
    assert sum(report.confidence_histogram) == 80
    entropy = -(targets * np.log(np.where(targets > 0, targets, 1))).sum(axis=1)
    assert report.entropy.mean == pytest.approx(entropy.mean(), rel=1e-5)
    assert report.kept_classes_histogram == {"4": 80}
    assert report.flipped == pytest.approx(flips.mean())
    assert report.top1_classes_seen == len(np.unique(np.concatenate(top)))
    assert report.top1_agreement.mean == pytest.approx(np.mean([np.bincount(classes).max() / len(classes) for classes in top]))
    areas = np.concatenate([crops[:, 2] * crops[:, 3] for crops, _, _ in written.values()]) / (48 * 64)
    assert report.crop_area.mean == pytest.approx(areas.mean())


@pytest.mark.parametrize("codec", ["dense", "marginal_renorm:k=3", "hard"])
def test_stats_of_other_codecs(tmp_path, codec):
    write_labels(tmp_path / "a.slc", codec)
    report = stats(tmp_path / "a.slc", max_images=2)
    assert report.sampled_images == 2
    assert 0 <= report.entropy.mean <= math.log(20)
    assert report.kept_classes.mean == {"dense": 20, "marginal_renorm:k=3": 3, "hard": 1}[codec]


def test_stats_at_another_temperature(tmp_path):
    write_labels(tmp_path / "a.slc", "marginal_smoothing:t=0.1,tail=6", metadata={"temperature": 1.0})
    stored = stats(tmp_path / "a.slc")
    report = stats(tmp_path / "a.slc", temperature=4)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        powers = reader.read_batch(range(4)).labels.dense().astype(np.float64) ** 0.25
    targets = powers / powers.sum(axis=1, keepdims=True)
    assert (stored.temperature, report.temperature) == (None, 4)
    assert report.confidence.mean == pytest.approx(targets.max(axis=1).mean(), rel=1e-4)
    assert report.entropy.mean == pytest.approx(-(targets * np.log(targets)).sum(axis=1).mean(), rel=1e-4)
    assert stored.kept_classes == report.kept_classes
    done = CliRunner().invoke(main, ["stats", str(tmp_path / "a.slc"), "--temperature", "4"])
    assert "read at temperature 4" in done.output
    done = CliRunner().invoke(main, ["stats", str(tmp_path / "a.slc"), "--temperature", "4", "--json"])
    assert json.loads(done.output)["entropy"]["mean"] == report.entropy.mean
    done = CliRunner().invoke(main, ["stats", str(tmp_path / "a.slc"), "--against", str(tmp_path / "a.slc"), "--temperature", "4"])
    assert (done.exit_code, "--temperature does not apply to --against" in done.output) == (2, True)
    write_labels(tmp_path / "b.slc", metadata={"temperature": 1.0})
    done = CliRunner().invoke(main, ["stats", str(tmp_path / "b.slc"), "--temperature", "4"])
    assert (done.exit_code, "spread the remainder evenly" in done.output) == (2, True)


def test_stats_of_nothing(tmp_path):
    write_labels(tmp_path / "a.slc", counts=[])
    with pytest.raises(StateError, match="there are no images"):
        stats(tmp_path / "a.slc")


def test_the_picture(labels, tmp_path, monkeypatch):
    plot_stats(stats(labels), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 300
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(StateError, match="plots need matplotlib"):
        plot_stats(stats(labels), tmp_path / "b.png")


def test_verify_says_where(labels, tmp_path):
    assert verify(labels).ok
    assert verify(labels, deep=True).ok
    with SoftLabelReader(labels) as reader:
        trailer = reader.container.trailer
    data = labels.read_bytes()
    for offset, word in (
        (trailer.keys_offset + 20, "keys at byte"),
        (trailer.summary_offset + 9, "summary"),
        (trailer.index_offset + 9, "index"),
    ):
        labels.write_bytes(data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        report = verify(labels, deep=True)
        assert not report.ok
        assert any(word in problem.message for problem in report.problems)
        assert report.num_blocks == 4
    labels.write_bytes(b"nonsense")
    assert (verify(labels).num_blocks, verify(labels).problems[0].error) == (0, "NotAContainerError")


def test_inspect_and_stats_for_people_and_programs(labels, tmp_path):
    text = run("inspect", labels)
    assert all(word in text for word in ("marginal_smoothing:k=5", "teacher.name", "tiny", "indices", "together", "fingerprint"))
    found = json.loads(run("inspect", labels, "--json"))
    assert (found["num_images"], found["codec"], found["metadata"]) == (4, "marginal_smoothing:k=5", {"teacher": {"name": "tiny"}})
    assert {"name", "file_bytes", "bytes_per_crop", "bytes_per_image"} == set(found["budget"][0])
    per_image = found["file_bytes"] / 4
    assert f" per crop, {per_image:.1f} per image, in 4 blocks" in text
    text = run("stats", labels, "--plot", tmp_path / "a.png")
    assert "confidence (top class)" in text
    assert f" bytes per crop, {per_image:.1f} per image" in text
    assert (tmp_path / "a.png").exists()
    assert json.loads(run("stats", labels, "--json"))["sampled_crops"] == 397


def test_verify_exits_with_1_for_damage(labels):
    assert "sound: 4 images in 4 blocks, all decoded" in run("verify", labels, "--deep")
    assert json.loads(run("verify", labels, "--json"))["ok"] is True
    with SoftLabelReader(labels) as reader:
        index = reader.container.trailer.index_offset
    data = bytearray(labels.read_bytes())
    data[index + 6] ^= 1
    labels.write_bytes(data)
    assert "problem" in run("verify", labels, code=1)
    assert json.loads(run("verify", labels, "--json", code=1))["ok"] is False
    assert "\nproblem  " in run("inspect", labels, code=1)


def test_inspecting_what_is_unfinished_or_damaged(labels):
    whole = inspect(labels)
    data = labels.read_bytes()
    with SoftLabelReader(labels) as reader:
        third = int(reader.container.index.starts[2])
    labels.write_bytes(data[: third + 20])
    report = inspect(labels)
    assert (report.finished, report.num_images, report.num_crops, report.num_blocks) == (False, 2, 350, 2)
    assert (report.codec, report.metadata, report.fewest_crops, report.most_crops) == (whole.codec, whole.metadata, 150, 200)
    assert {part.name: part.file_bytes for part in report.budget}["not in whole blocks"] == 20
    assert abs(sum(part.file_bytes for part in report.budget) - third - 20) <= len(report.budget)
    assert "does not end with a trailer" in report.problems[0]
    text = run("inspect", labels, code=1)
    assert all(word in text for word in ("2 in the whole blocks at the beginning", "teacher.name", "problem", "slcodec recover"))
    assert json.loads(run("inspect", labels, "--json", code=1))["finished"] is False
    labels.write_bytes(data[:third] + b"?" + data[third + 1 :])
    report = inspect(labels)
    assert (report.finished, report.sampled_blocks, len(report.problems)) == (True, 3, 1)
    assert "block 2 at byte" in report.problems[0]
    labels.write_bytes(data[:50])
    with pytest.raises(TruncatedError, match="within its metadata"):
        inspect(labels)


@pytest.mark.parametrize(
    "codec",
    ["marginal_smoothing:t=0.1,tail=6", "marginal_smoothing:k=2,values=f32,tail=20", "marginal_smoothing:k=20,tail=3"]
    + ["marginal_smoothing:t=0.1,tail=all,mean=log"],
)
def test_entropy_along_the_tail_is_that_of_the_dense_targets(tmp_path, codec):
    write_labels(tmp_path / "a.slc", codec, counts=[30, 50, 1])
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        targets = np.concatenate([image.labels.dense() for image in reader]).astype(np.float64)
    entropy = -(targets * np.log(np.where(targets > 0, targets, 1))).sum(axis=1)
    assert stats(tmp_path / "a.slc").entropy.mean == pytest.approx(entropy.mean(), rel=1e-5)


def test_areas_of_derived_crops(tmp_path):
    sampler = CropSampler(scale=(0.5, 0.6))
    with SoftLabelWriter(tmp_path / "a.slc", 2, "hard", crops="derived", sampler=sampler) as writer:
        writer.add("a", image_size=(300, 400), probs=np.float32([[0.9, 0.1]] * 20))
    assert 0.49 < stats(tmp_path / "a.slc").crop_area.mean < 0.61


def test_large_sets_are_looked_at_in_pieces(labels, monkeypatch):
    whole = stats(labels)
    monkeypatch.setattr(stats_report, "NUMBERS_PER_BATCH", 1000)
    assert stats(labels) == whole


def test_file_names_that_look_like_formulas(labels, tmp_path):
    labels.rename(tmp_path / "x$_{$.slc")
    run("stats", tmp_path / "x$_{$.slc", "--plot", tmp_path / "a.png")


def test_a_reader_that_stops_listening_is_no_error(labels):
    command = f"{sys.executable} -m softlabel_codec inspect {labels} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("file")
    assert "slcodec:" not in done.stderr
    assert "Traceback" not in done.stderr


def test_recover_from_the_command_line(labels, tmp_path):
    labels.rename(tmp_path / "a.slc.partial")
    data = (tmp_path / "a.slc.partial").read_bytes()
    (tmp_path / "a.slc.partial").write_bytes(data[:-300])
    assert "unfinished" in run("inspect", tmp_path / "a.slc.partial", code=1)
    assert "4 images in 4 blocks" in run("recover", tmp_path / "a.slc.partial", labels)
    assert verify(labels, deep=True).ok
    with SoftLabelReader(labels) as reader:
        start, key = int(reader.container.index.starts[2]), reader.keys[2]
    data = bytearray(labels.read_bytes())
    data[start + 30] ^= 1
    labels.write_bytes(data)
    text = run("recover", labels, tmp_path / "b.slc")
    assert f"lost  {key}" in text
    assert "3 images in 3 blocks; 1 image in damaged blocks" in text
    assert verify(tmp_path / "b.slc", deep=True).ok


def test_terminal_commands_in_a_file_are_not_obeyed(tmp_path):
    write_labels(tmp_path / "a.slc", keys=["\x1b[2Jwiped", "b\r\n", "c", "d"], metadata={"teacher\x1b": "\x1b]0;title\x07 [red]x[/red]"})
    text = run("inspect", tmp_path / "a.slc") + run("stats", tmp_path / "a.slc")
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]x[/red]" in text
    assert printable("é\x1b\n") == "é\\x1b\\n"


def test_wrong_usage_and_help():
    assert "Usage: " in run("--help")
    assert "Usage: " in run("encode", "--help")
    assert "No such command" in run("enkode", code=2)
    assert "slcodec, version" in run("--version")


def test_interruption_ends_without_a_traceback(labels, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("softlabel_codec.cli.look.verify", interrupted)
    assert "interrupted" in run("verify", labels, code=130)


def test_progress_is_quiet_in_a_pipe(capsys):
    with progress_bar("image") as progress:
        progress(1, 3)
        progress(3, 3)
    assert capsys.readouterr().err == ""
