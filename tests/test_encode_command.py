"""`slcodec encode` and `slcodec import` as somebody uses them: finished files, interruptions, other people's checkpoints."""

import dataclasses
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from softlabel_codec import SoftLabelReader
from softlabel_codec.cli.main import main
from softlabel_codec.formats.fkd import import_fkd
from softlabel_codec.sampler import CropSampler
from softlabel_codec.teacher import EncodeConfig, encode


def run(*arguments, code=0):
    """Run a command, check its exit code and return what it printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_encode_from_the_command_line(image_folder, teacher_file, tmp_path):
    out = tmp_path / "out.slc"
    arguments = ["encode", image_folder, out, "--teacher", teacher_file, "--crops", 5, "--codec", "marginal_smoothing:k=3"]
    assert "labelled  6 images, 0 skipped" in run(*arguments, "--scale", 0.2, 0.9, "--mean", 0.1, 0.2, 0.3)
    with SoftLabelReader(out) as reader:
        assert reader.metadata["crop_sampler"]["scale"] == [0.2, 0.9]
        assert reader.metadata["preprocessing"]["mean"] == [0.1, 0.2, 0.3]
        assert reader.metadata["preprocessing"]["std"] == [0.25, 0.25, 0.25]
    found = json.loads(run(*arguments, "--overwrite", "--json"))
    assert (found["num_images"], found["skipped"]) == (6, {})
    assert "did you mean 'marginal_smoothing'" in run(*arguments[:-1], "marginal_smooth:k=3", "--overwrite", code=2)
    assert "has no function 'x'" in run(*arguments[:4], f"{teacher_file[:-5]}x", "--overwrite", code=2)
    assert "expected 20 classes, got 10" in run(*arguments, "--num-classes", 20, "--overwrite", code=1)
    assert "does not exist" in run("encode", tmp_path / "nowhere", out, "--teacher", "x:y", code=2)
    (image_folder / "cat" / "broken.png").write_bytes(b"")
    assert "cat/broken.png" in run(*arguments, "--overwrite", code=1)
    assert "skipped  cat/broken.png" in run(*arguments, "--overwrite", "--on-error", "skip")


@pytest.mark.shared
def test_import_from_the_command_line(shared, tmp_path):
    source = shared / "interop" / "fkd" / "smoothing_f16"
    text = run("import", "fkd", source, tmp_path / "a.slc", "--label-type", "smoothing")
    assert "3 files, 120 crops, 0 skipped, to smoothing:values=f16" in text
    found = json.loads(run("import", "fkd", source, tmp_path / "b.slc", "--label-type", "smoothing", "--codec", "hard", "--json"))
    assert found["codec"] == "hard"
    assert "expected one of hard" in run("import", "fkd", source, tmp_path / "c.slc", "--label-type", "soft", code=2)
    assert "expected labels of shape" in run("import", "fkd", source, tmp_path / "c.slc", "--label-type", "hard", code=1)


@pytest.fixture
def command(image_folder, teacher_file, tmp_path):
    """The words of a short labelling run, to which options can be added."""
    return ["encode", image_folder, tmp_path / "out.slc", "--teacher", teacher_file, "--crops", 5, "--codec", "marginal_smoothing:k=3"]


def test_the_same_command_on_its_finished_file_is_no_error(command, tmp_path):
    run(*command)
    written = (tmp_path / "out.slc").stat().st_mtime_ns
    text = run(*command)
    assert "finished  before, with the same options: 6 images, 0 skipped; nothing to do" in text
    found = json.loads(run(*command, "--json"))
    assert (found["finished_before"], found["num_images"], found["resumed_images"]) == (True, 6, 6)
    assert (tmp_path / "out.slc").stat().st_mtime_ns == written
    assert json.loads(run(*command, "--json", "--overwrite"))["finished_before"] is False


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--temperature", 2], r"metadata\['temperature'\]: expected 2.0, found 1.0"),
        (["--seed", 1], r"metadata\['crop_sampler'\]\['seed'\]: expected 1, found 0"),
        (["--store-crops"], "crops: expected pixels, found derived"),
        (["--size", 20, "--teacher-output", "logits"], r"metadata\['preprocessing'\]\['size'\]: expected 20, found 16"),
    ],
)
def test_a_finished_file_of_other_options_says_what_differs(command, options, difference):
    run(*command)
    assert re.search(f"the file exists and was made with other options: {difference}. Pass overwrite=True", run(*command, *options, code=1))


def test_a_finished_file_of_other_codec_images_or_teacher(command, image_folder, teacher_file, tmp_path):
    run(*command)
    assert "codec: expected hard, found marginal_smoothing:k=3" in run(*command[:-1], "hard", code=1)
    shutil.copyfile(image_folder / "cat" / "b.png", image_folder / "cat" / "c.png")
    assert "metadata['images']" in run(*command, code=1)
    (image_folder / "cat" / "c.png").unlink()
    path = Path(teacher_file.rpartition(":")[0])
    path.write_text(path.read_text().replace("manual_seed(0)", "manual_seed(1)"))
    assert "metadata['teacher']" in run(*command, code=1)


def test_skipped_images_of_a_finished_file_are_told_again(command, image_folder):
    (image_folder / "cat" / "broken.png").write_bytes(b"")
    run(*command, "--on-error", "skip")
    text = run(*command, "--on-error", "skip")
    assert "skipped  cat/broken.png: could not be read by the run that made the file" in text
    assert "6 images, 1 skipped; nothing to do" in text
    assert "lacks 1 image that could not be read, 'cat/broken.png' first" in run(*command, code=1)


def test_wrong_options_are_told_before_the_file_that_exists(command, image_folder, teacher_file):
    run(*command)
    assert "has no function 'x'" in run(*command[:4], f"{teacher_file[:-5]}x", code=2)
    assert "device 'abacus' cannot be used" in run(*command, "--device", "abacus", code=2)
    assert "expected 20 classes, got 10" in run(*command, "--num-classes", 20, code=1)


def test_a_folder_that_is_missing_is_named(command, tmp_path):
    text = " ".join(run("encode", command[1], tmp_path / "nodir" / "e.slc", *command[3:], code=2).split())
    assert f"the folder '{tmp_path / 'nodir'}' does not exist" in text
    assert ".partial" not in text


def interrupt_after(num_images):
    def progress(done, total):
        if done >= num_images:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(("crops", "after"), [(5, 0), (5, 6), (150, 0), (150, 1), (150, 4), (150, 6)])
def test_an_interruption_says_truly_how_many_images_are_kept(image_folder, teacher_file, tmp_path, crops, after):
    config = EncodeConfig(str(image_folder), str(tmp_path / "out.slc"), teacher_file, "marginal_smoothing:k=3", crops)
    with pytest.raises(KeyboardInterrupt) as stopped:
        encode(config, interrupt_after(after))
    said = str(stopped.value)
    kept = int(said.split(maxsplit=1)[0]) if said[0].isdigit() else 0
    assert kept == encode(config).resumed_images
    if kept:
        assert "kept in" in said
        assert "out.slc.partial; run the same command again to continue" in said
    else:
        assert said == "No image is stored yet; run the same command again"
    assert ("1 image is kept" in said) == (kept == 1)


def test_ctrl_c(command, image_folder, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(200):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(image_folder / f"{number}.png")
    config = EncodeConfig(*map(str, (image_folder, tmp_path / "out.slc", command[4])), codec="dense", crops=80, device="cpu")
    words = [sys.executable, "-m", "softlabel_codec", *map(str, command[:5]), "--codec", "dense", "--crops", "80", "--workers", "0"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell lets its background jobs ignore it
    process = subprocess.Popen(words, **pipes, env=alone, preexec_fn=heard)  # noqa: PLW1509
    unfinished = tmp_path / "out.slc.partial"
    while not unfinished.exists() or unfinished.stat().st_size < 20_000:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert (process.returncode, output) == (130, "")
    kept = re.fullmatch(
        r"slcodec: interrupted. (\d+) images are kept in .*out.slc.partial; run the same command again to continue\n", errors
    )
    assert kept, errors
    with pytest.raises(KeyboardInterrupt, match=f"{kept[1]} images are kept"):
        encode(config, interrupt_after(0))


def test_an_interrupted_import_says_what_is_kept(tmp_path):
    (tmp_path / "FKD" / "n1").mkdir(parents=True)
    for number in range(200):
        stored = np.stack([[[1, 2, 3, 4, 5]] * 40, [[0.5, 0.2, 0.1, 0.05, 0.05]] * 40], axis=1).astype(np.float32)
        torch.save([np.zeros((40, 4), np.float32) + 0.5, np.array([True] * 40), stored], tmp_path / "FKD" / "n1" / f"{number}.tar")
    how = (tmp_path / "FKD", tmp_path / "out.slc", "marginal_smoothing_k5")
    with pytest.raises(KeyboardInterrupt, match=r"\d+ images are kept in .*out\.slc\.partial; run the same command again") as stopped:
        import_fkd(*how, progress=interrupt_after(150))
    kept = int(str(stopped.value).split()[0])
    assert 0 < kept <= 200  # images are converted some at a time, and those that were are kept
    with pytest.raises(KeyboardInterrupt, match=f"{kept} images are kept"):
        import_fkd(*how, progress=interrupt_after(0))


def test_the_logger_tells_what_was_begun_skipped_continued_and_finished(image_folder, teacher_file, tmp_path, caplog, capsys):
    (image_folder / "cat" / "broken.png").write_bytes(b"")
    config = EncodeConfig(
        str(image_folder), str(tmp_path / "out.slc"), teacher_file, "marginal_smoothing:k=3", 150, CropSampler(), on_error="skip"
    )
    with caplog.at_level(logging.INFO, "softlabel_codec"):
        with pytest.raises(KeyboardInterrupt):
            encode(config, interrupt_after(5))
        encode(config)
        encode(config)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    out = tmp_path / "out.slc"
    assert ("INFO", f"{out}: labelling 7 images, 150 crops each") in told
    assert any(re.fullmatch(rf"{out}: labelling 7 images, [34] images of them by an earlier run, 150 crops each", text) for _, text in told)
    assert ("INFO", f"{out}: finished with 6 images, 1 skipped") in told
    assert any(level == "WARNING" and text.startswith("image 'cat/broken.png' skipped: ") for level, text in told)
    assert ("INFO", f"{out}: finished before, with the same options: 6 images") in told
    assert capsys.readouterr().err == ""


def test_the_command_line_says_nothing_twice(command, image_folder):
    (image_folder / "cat" / "broken.png").write_bytes(b"")
    words = [sys.executable, "-m", "softlabel_codec", *map(str, command), "--on-error", "skip"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert len([line for line in done.stdout.splitlines() if "broken" in line]) == 1
    assert done.stderr == ""


def test_every_option_is_on_the_command_line():
    text = CliRunner().invoke(main, ["encode", "--help"]).output
    for option in dataclasses.fields(EncodeConfig):
        names = [field.name for field in dataclasses.fields(option.metadata["group"])] if "group" in option.metadata else [option.name]
        for name in names:
            assert name in ("images", "out") or option.metadata.get("flag", f"--{name.replace('_', '-')}") in text
