"""The demo, with little training: everything it promises is there and true."""

import json

import numpy as np
import pytest
from conftest import write_labels
from PIL import Image

from softlabel_codec import SoftLabelReader, StateError
from softlabel_codec.codec import Codec
from softlabel_codec.demo import run_demo, story
from softlabel_codec.demo.digits import IMAGE_SIDE
from softlabel_codec.demo.outcome import write_fkd_file
from softlabel_codec.fkd import import_fkd
from softlabel_codec.report import verify


def test_the_whole_story(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(story, "TEACHER_EPOCHS", 12)
    monkeypatch.setattr(story, "CROPS", 8)
    out, steps = tmp_path / "demo", []
    outcome = run_demo(out, epochs=4, seeds=2, progress=lambda done, total: steps.append((done, total)))
    rows = {row.name: row for row in outcome.comparison.rows}
    assert list(rows) == [*story.CODECS, "ground truth", "teacher in every step"]
    assert steps == [(done, 14 * 60) for done in range(1, 14 * 60 + 1)]
    assert 0.5 < outcome.teacher_accuracy <= 1  # chance is 0.1
    for name in story.CODECS:
        path = out / f"{name.replace(' ', '-')}.slc"
        assert verify(path, deep=True).ok
        with SoftLabelReader(path) as reader:
            assert (len(reader), set(reader.num_crops.tolist()), reader.num_classes) == (1000, {8}, 10)
        assert rows[name].bytes_per_crop == path.stat().st_size / 8000
        assert outcome.fkd_bytes_per_crop[name] > 3 * rows[name].bytes_per_crop
    assert all(20 < accuracy <= 100 for row in rows.values() for accuracy in row.accuracies)
    assert 0 < rows["marginal smoothing"].kl < rows["smoothing"].kl
    results = json.loads((out / "results.json").read_text())
    assert [row["accuracies"] for row in results["comparison"]["rows"]] == [row.accuracies for row in rows.values()]
    with Image.open(out / "demo.png") as picture:
        assert picture.size[0] > 1000
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("$ slcodec inspect", "$ slcodec stats", "Where the bytes go", "7 x 2 students", "FKD's files"))


@pytest.mark.parametrize("codec", ["marginal_smoothing:k=3", "smoothing", "hard"])
def test_fkd_files_hold_the_same_labels(codec, tmp_path):
    write_labels(tmp_path / "a.slc", codec=codec, counts=[6], num_classes=10, size=(IMAGE_SIDE, IMAGE_SIDE))
    (tmp_path / "fkd" / "class").mkdir(parents=True)
    with SoftLabelReader(tmp_path / "a.slc") as ours:
        write_fkd_file(ours[0], Codec.parse(codec), tmp_path / "fkd" / "class" / "a.tar")
        import_fkd(tmp_path / "fkd", tmp_path / "b.slc", codec.replace(":k=", "_k"), num_classes=10)
        with SoftLabelReader(tmp_path / "b.slc") as theirs:
            np.testing.assert_allclose(theirs[0].labels.dense(), ours[0].labels.dense(), atol=1e-6)
            np.testing.assert_array_equal(theirs[0].flips, ours[0].flips)
            np.testing.assert_allclose(theirs[0].crops * IMAGE_SIDE, ours[0].crops, atol=1e-4)


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StateError, match="expected an empty folder, or one that an earlier demo made"):
        run_demo(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_what_is_missing_is_said_first(tmp_path, monkeypatch):
    monkeypatch.setattr(story, "find_spec", lambda package: None if package == "sklearn" else object())
    with pytest.raises(StateError, match=r"needs sklearn: pip install 'softlabel_codec\[demo\]'"):
        run_demo(tmp_path / "demo")
