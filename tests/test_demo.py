"""The demo, with little training: everything it promises is there and true."""

import json
import shlex
from contextlib import contextmanager

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_labels
from PIL import Image

from softlabel_codec import SoftLabelReader, StateError
from softlabel_codec.cli.main import main
from softlabel_codec.compare.outcome import Interval, Row
from softlabel_codec.demo import run_demo, story
from softlabel_codec.demo.fkd_size import fkd_bytes_per_crop, write_fkd_file
from softlabel_codec.demo.outcome import verdict
from softlabel_codec.demo.photographs import INPUT_SIZE, PHOTOGRAPHS, PIECE_SIDE, PIECES, PIECES_PER_SIDE, photograph, piece_box
from softlabel_codec.formats.fkd import import_fkd
from softlabel_codec.report import verify

ROWS = [*story.CODECS, "ground truth"]
SMALL = {"TEACHER_EPOCHS": 10, "STUDENT_EPOCHS": 3, "SEEDS": 2, "CROPS": 4}


@contextmanager
def interrupted_in_the_middle(unit, quiet):
    def progress(done, total):
        if done == total // 2:
            raise KeyboardInterrupt

    yield progress


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A folder where the demo was interrupted and then told to its end, and what the second run printed."""
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in SMALL.items():
            patch.setattr(story, name, value)
        with pytest.MonkeyPatch.context() as interrupting:
            interrupting.setattr(story, "progress_bar", interrupted_in_the_middle)
            first = CliRunner().invoke(main, ["demo"])
        assert first.exit_code == 130, first.output
        (folder / "demo-output" / "notes.txt").write_text("mine")
        (folder / "demo-output" / "hard.slc.partial").write_bytes(b"of a run that was killed")
        second = CliRunner().invoke(main, ["demo"])
        assert second.exit_code == 0, second.output
        yield folder / "demo-output", second.stdout.splitlines()


def test_the_files_that_it_leaves(told):
    out, _ = told
    files = [*story.WRITTEN, *story.FILES.values(), "made-by-slcodec-demo", "notes.txt"]
    assert sorted(path.name for path in out.iterdir()) == sorted(files)
    assert (out / "notes.txt").read_text() == "mine"
    for file in story.FILES.values():
        assert verify(out / file, deep=True).ok
        with SoftLabelReader(out / file) as reader:
            found = len(reader), set(reader.num_crops.tolist()), reader.num_classes
        assert found == (PIECES["train"] * len(PHOTOGRAPHS), {SMALL["CROPS"]}, len(PHOTOGRAPHS))
    with Image.open(out / "demo.png") as picture:
        assert picture.size[0] > 1200


def test_the_table_is_that_of_the_results(told):
    out, printed = told
    results = json.loads((out / "results.json").read_text())
    rows = results["comparison"]["rows"]
    assert [row["name"] for row in rows] == ROWS
    assert 0.2 < results["teacher_accuracy"] <= 1  # chance is 0.08
    assert f"{100 * results['teacher_accuracy']:.1f} % of the test pieces right" in "\n".join(printed)
    start = next(number for number, line in enumerate(printed) if "students from" in line)
    for row, line in zip(rows, printed[start + 1 :], strict=False):
        assert len(row["accuracies"]) == SMALL["SEEDS"]
        said = line.removeprefix(row["name"]).split()
        sizes = [] if row["codec"] is None else [row["codec"], f"{row['bytes_per_crop']:.2f}"]
        difference = [] if row["difference"] is None else [f"{row['difference']['mean']:+.1f}", "+-"]
        assert said[: len(sizes) + 1 + len(difference)] == [*sizes, f"{row['mean']:.1f}", *difference]
    for name, file in story.FILES.items():
        row = rows[ROWS.index(name)]
        assert row["bytes_per_crop"] == (out / file).stat().st_size / (len(PHOTOGRAPHS) * PIECES["train"] * SMALL["CROPS"])
        assert results["stored_bytes_per_crop"][name] > row["bytes_per_crop"]
        assert results["fkd_bytes_per_crop"][name] == fkd_bytes_per_crop(out / file)
    assert [name for name, size in results["fkd_bytes_per_crop"].items() if size is not None] == ["top 3", "hard"]
    assert 0 < rows[ROWS.index("image tail")]["kl"] < rows[ROWS.index("top 3")]["kl"]


def test_it_fits_a_screen(told):
    _, printed = told
    assert len(printed) <= 30
    assert [line for line in printed[:-4] if len(line) > 100] == []  # the rest are commands


def test_what_it_shows_of_a_file_is_what_inspect_prints(told, monkeypatch):
    out, printed = told
    monkeypatch.chdir(out.parent)
    start = next(number for number, line in enumerate(printed) if line.startswith("$ slcodec inspect"))
    words = shlex.split(printed[start])
    shown = CliRunner().invoke(main, words[2 : words.index("|")]).stdout.splitlines()
    count = story.LINES_OF_INSPECT
    assert words[-2:] == ["head", f"-{count}"]
    assert printed[start + 1 : start + 1 + count] == shown[:count]


def test_what_next_works(told, monkeypatch):
    out, printed = told
    monkeypatch.chdir(out.parent)
    for line in printed[-4:]:
        program, *words = shlex.split(line)
        assert program.endswith("slcodec")
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
    assert (out / "my-student" / "weights.pt").exists()
    assert (out / "labels.html").exists()


def test_pieces_are_those_of_the_photographs_and_lie_in_one_folder_each(told):
    out, _ = told
    for name in PHOTOGRAPHS:
        whole, boxes = photograph(name), []
        for folder, count in PIECES.items():
            paths = list((out / folder / name).iterdir())
            assert len(paths) == count
            for path in paths:
                boxes.append(piece_box(path.stem))
                np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(whole.crop(boxes[-1])))
        assert len(set(boxes)) == len(boxes) == PIECES_PER_SIDE**2
    assert INPUT_SIZE <= PIECE_SIDE


@pytest.mark.parametrize(
    ("low", "high", "said"), [(-3, -0.1, "lower"), (0.1, 1, "higher"), (-1.9, 2, "within 2 points"), (-1, 2.1, "not settled")]
)
def test_verdicts(low, high, said):
    nothing = dict.fromkeys(Row.__dataclass_fields__)
    row = Row(**{**nothing, "difference": Interval((low + high) / 2, low, high), "within_margin": low >= -2 and high <= 2})
    assert verdict(row, 2.0) == said
    assert verdict(Row(**nothing), 2.0) == ""


@pytest.mark.parametrize("codec", ["marginal_smoothing:k=3", "hard"])
def test_fkd_files_hold_the_same_labels(codec, tmp_path):
    write_labels(tmp_path / "a.slc", codec=codec, counts=[6], num_classes=10, size=(PIECE_SIDE, PIECE_SIDE), keys=["class/a.png"])
    (tmp_path / "fkd" / "class").mkdir(parents=True)
    with SoftLabelReader(tmp_path / "a.slc") as ours:
        write_fkd_file(ours[0], tmp_path / "fkd" / "class" / "a.tar")
        assert fkd_bytes_per_crop(tmp_path / "a.slc") == (tmp_path / "fkd" / "class" / "a.tar").stat().st_size / 6
        import_fkd(tmp_path / "fkd", tmp_path / "b.slc", codec.replace(":k=", "_k"), num_classes=10)
        with SoftLabelReader(tmp_path / "b.slc") as theirs:
            np.testing.assert_allclose(theirs[0].labels.dense(), ours[0].labels.dense(), atol=1e-3)
            np.testing.assert_array_equal(theirs[0].flips, ours[0].flips)
            np.testing.assert_allclose(theirs[0].crops * PIECE_SIDE, ours[0].crops, atol=0.02)


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StateError, match="expected an empty folder, or the output folder of an earlier demo"):
        run_demo(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_what_is_missing_is_said_first(tmp_path, monkeypatch):
    monkeypatch.setattr(story, "find_spec", lambda package: None if package == "skimage" else object())
    with pytest.raises(StateError, match=r"needs skimage: pip install 'softlabel_codec\[demo\]'"):
        run_demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
