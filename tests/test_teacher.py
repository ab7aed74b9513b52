"""The teacher side: labelling image folders."""

import argparse
import errno
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from softlabel_codec import ArgumentError, Codec, CorruptError, MismatchError, SoftLabelReader, StateError
from softlabel_codec.images.cutting import Cutter
from softlabel_codec.images.files import apply_crop, load_image
from softlabel_codec.images.sources import FolderSource
from softlabel_codec.sampler import CropSampler
from softlabel_codec.students.weights import weights_sha256
from softlabel_codec.teacher import EncodeConfig, encode, load_teacher
from softlabel_codec.teacher.batches import CropBatches, Plan, Run, load_batches
from softlabel_codec.teacher.run import device_labels
from softlabel_codec.torch import normalize
from softlabel_codec.torch import workers as workers_module


def config(image_folder, tmp_path, teacher_file, **options):
    options = {"crops": 6, "codec": "marginal_smoothing:k=3", "sampler": CropSampler(seed=2), **options}
    return EncodeConfig(images=str(image_folder), out=str(tmp_path / "out.slc"), teacher=teacher_file, **options)


def test_labels_are_what_the_teacher_says(image_folder, tmp_path, teacher_file):
    seen = []
    report = encode(config(image_folder, tmp_path, teacher_file, codec="dense", temperature=2.0), lambda *done: seen.append(done))
    assert (report.num_images, report.resumed_images, report.skipped) == (6, 0, {})
    assert (seen[0], seen[-1]) == ((0, 6), (6, 6))
    teacher = load_teacher(teacher_file)
    with SoftLabelReader(report.path) as reader:
        for key, image in zip(reader.keys, reader, strict=True):
            loaded = load_image(image_folder / key)
            assert image.image_size == loaded.size[::-1]
            crops, flips = CropSampler(seed=2).sample(key, image.image_size, range(6))
            np.testing.assert_array_equal(image.crops, crops)
            np.testing.assert_array_equal(image.flips, flips)
            pixels = [np.asarray(apply_crop(loaded, *crop, 16)) for crop in zip(crops, flips.tolist(), strict=True)]
            batch = normalize(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), (0.5,) * 3, (0.25,) * 3)
            wanted = torch.softmax(teacher.model(batch) / 2, dim=1).numpy()
            np.testing.assert_allclose(image.labels.dense(), wanted, atol=1e-5)


def test_the_file_says_how_its_labels_were_made(image_folder, tmp_path, teacher_file):
    report = encode(config(image_folder, tmp_path, teacher_file, size=20, exif_orientation="applied", temperature=1.5))
    with SoftLabelReader(report.path) as reader:
        found = reader.metadata
        assert found["teacher"] == {"name": "tiny", "source": "tiny_teacher.py:build", **found["teacher"]}
        assert found["teacher"]["code_sha256"] == sha256(Path(teacher_file.rpartition(":")[0]).read_bytes()).hexdigest()
        assert found["teacher"]["weights_sha256"] == weights_sha256(load_teacher(teacher_file).model)
        assert found["temperature"] == 1.5
        assert found["precision"] == "float32"
        assert found["preprocessing"]["size"] == 20
        assert found["preprocessing"]["mean"] == [0.5] * 3
        assert found["preprocessing"]["exif_orientation"] == "applied"
        assert found["crop_sampler"]["name"] == "random_resized_crop/1"
        assert found["crop_sampler"]["seed"] == 2
        assert found["crops_per_image"] == 6
        assert found["images"] == {"count": 6, "keys_sha256": reader.summary["keys_sha256"]}
        assert found["package"].startswith("softlabel_codec ")
        assert found["libraries"]["torch"] == importlib.metadata.version("torch")
        assert reader.num_classes == 10


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_size": 13}, {"batch_size": 100}, {"workers": 2}])
def test_crops_do_not_depend_on_batches_and_workers(image_folder, tmp_path, teacher_file, options):
    encode(config(image_folder, tmp_path, teacher_file, codec="hard"))
    whole = (tmp_path / "out.slc").read_bytes()
    encode(config(image_folder, tmp_path, teacher_file, codec="hard", overwrite=True, **options))
    assert (tmp_path / "out.slc").read_bytes() == whole


def test_batches_are_planned_without_regard_to_what_is_done():
    assert list(Plan(3, 5, 12)) == [[Run(0, 0, 5), Run(1, 0, 5)], [Run(2, 0, 5)]]
    assert Plan(2, 5, 2)[:] == [[Run(image, start, min(start + 2, 5))] for image in (0, 1) for start in (0, 2, 4)]
    assert list(Plan(2, 5, 5)) == [[Run(0, 0, 5)], [Run(1, 0, 5)]]
    assert [len(Plan(*numbers)) for numbers in ((3, 5, 12), (2, 5, 2), (1_281_167, 200, 16))] == [2, 6, 13 * 1_281_167]
    assert list(Plan(3, 5, 12).due([True, True, False])) == [1]
    assert list(Plan(3, 5, 12).due([False, True, True])) == [0]
    assert list(Plan(3, 5, 2).due([True, False, True])) == [3, 4, 5]


@pytest.mark.parametrize(("crops", "batch_size"), [(150, 100), (150, 400), (5, 16)])
def test_an_interrupted_run_continues_to_the_same_bytes(image_folder, tmp_path, teacher_file, crops, batch_size):
    wanted = config(image_folder, tmp_path, teacher_file, crops=crops, batch_size=batch_size)
    encode(wanted)
    whole = (tmp_path / "out.slc").read_bytes()
    (tmp_path / "out.slc").unlink()

    class Interrupted(BaseException):
        pass

    def interrupt(done, total):
        if done >= 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        encode(wanted, interrupt)
    assert (tmp_path / "out.slc.partial").exists()
    report = encode(wanted)
    assert (tmp_path / "out.slc").read_bytes() == whole
    assert report.resumed_images == {100: 3, 400: 4, 16: 0}[batch_size]  # whole blocks only


def test_a_killed_command_continues_to_the_same_bytes(image_folder, tmp_path, teacher_file):
    command = [sys.executable, "-m", "softlabel_codec", "encode", str(image_folder)]
    options = ["--teacher", teacher_file, "--crops", "2000", "--codec", "marginal_smoothing:k=3"]
    subprocess.run([*command, str(tmp_path / "whole.slc"), *options], check=True, capture_output=True)
    partial = tmp_path / "again.slc.partial"
    for number in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen([*command, str(tmp_path / "again.slc"), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        before = partial.stat().st_size if partial.exists() else 0
        while process.poll() is None and (not partial.exists() or partial.stat().st_size <= max(before, 2000)):
            time.sleep(0.001)
        process.send_signal(number)
        output = process.communicate()[1].decode()
        assert process.returncode in (-signal.SIGKILL, 130, 0)
        assert "Traceback" not in output
    subprocess.run([*command, str(tmp_path / "again.slc"), *options], check=False, capture_output=True)
    assert (tmp_path / "again.slc").read_bytes() == (tmp_path / "whole.slc").read_bytes()


def test_another_command_does_not_continue_it(image_folder, tmp_path, teacher_file):
    encode(config(image_folder, tmp_path, teacher_file))
    (tmp_path / "out.slc").rename(tmp_path / "out.slc.partial")
    with pytest.raises(MismatchError, match=r"metadata\['crop_sampler'\]\['seed'\]: expected 3, found 2"):
        encode(config(image_folder, tmp_path, teacher_file, sampler=CropSampler(seed=3)))
    encode(config(image_folder, tmp_path, teacher_file, sampler=CropSampler(seed=3), overwrite=True))
    assert not (tmp_path / "out.slc.partial").exists()


def test_unreadable_images_are_named_and_fatal_or_skipped(image_folder, tmp_path, teacher_file):
    (image_folder / "cat" / "broken.jpg").write_bytes(b"no image at all")
    with pytest.raises(OSError, match=r"image 'cat/broken.jpg': .*--on-error skip"):
        encode(config(image_folder, tmp_path, teacher_file, batch_size=4))
    report = encode(config(image_folder, tmp_path, teacher_file, batch_size=4, on_error="skip"))
    assert list(report.skipped) == ["cat/broken.jpg"]
    with SoftLabelReader(report.path) as reader:
        assert len(reader) == 6
        assert reader.summary["skipped_keys"] == ["cat/broken.jpg"]
        assert reader.metadata["images"]["count"] == 7
    for path in image_folder.rglob("*.*"):
        path.write_bytes(b"no image")
    with pytest.raises(OSError, match="none of 7 images could be read"):
        encode(config(image_folder, tmp_path, teacher_file, on_error="skip", overwrite=True))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EINTR, errno.ETIMEDOUT])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_system_that_fails_does_not_make_images_unreadable(image_folder, tmp_path, teacher_file, monkeypatch, number, workers):
    read_bytes = Path.read_bytes

    def fails_now_and_then(path):
        if path.name == "grey.jpg" and not (tmp_path / "mended").exists():
            raise OSError(number, os.strerror(number), str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", fails_now_and_then)
    wanted = config(image_folder, tmp_path, teacher_file, on_error="skip", batch_size=6, workers=workers)
    with pytest.raises(OSError, match=rf"image 'cat/grey\.jpg': .*{os.strerror(number)}.*run the same command again"):
        encode(wanted)
    (tmp_path / "mended").touch()
    assert (encode(wanted).num_images, encode(config(image_folder, tmp_path, teacher_file, overwrite=True)).skipped) == (6, {})


def test_images_that_are_absent_or_forbidden_may_be_skipped(image_folder, tmp_path, teacher_file, monkeypatch):
    read_bytes = Path.read_bytes

    def forbidden(path):
        if path.name == "grey.jpg":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert list(encode(config(image_folder, tmp_path, teacher_file, on_error="skip")).skipped) == ["cat/grey.jpg"]


def stop_after(images):
    def stop(done, total):
        if done >= images:
            raise KeyboardInterrupt

    return stop


def test_labelled_images_that_were_replaced_are_noticed_when_a_run_continues(image_folder, tmp_path, teacher_file):
    wanted = config(image_folder, tmp_path, teacher_file, crops=150)
    with pytest.raises(KeyboardInterrupt):
        encode(wanted, stop_after(3))
    kept = (image_folder / "cat" / "a.JPEG").read_bytes()
    Image.new("RGB", (50, 40)).save(image_folder / "cat" / "a.JPEG")
    with pytest.raises(MismatchError, match=r"image 'cat/a\.JPEG': is not the one that an earlier run labelled"):
        encode(wanted)
    (image_folder / "cat" / "a.JPEG").write_bytes(kept)
    assert encode(wanted).resumed_images > 0


def test_a_labelled_image_that_became_unreadable_is_not_skipped_as_well(image_folder, tmp_path, teacher_file):
    wanted = config(image_folder, tmp_path, teacher_file, crops=150, on_error="skip", batch_size=700)  # several images in a batch
    with pytest.raises(KeyboardInterrupt):
        encode(wanted, stop_after(3))
    (image_folder / "cat" / "a.JPEG").unlink()
    (image_folder / "cat" / "a.JPEG").symlink_to("nowhere")
    report = encode(wanted)
    assert (report.skipped, report.num_images) == ({}, 6)
    with SoftLabelReader(report.path) as reader:
        assert "skipped_keys" not in reader.summary


def test_an_image_that_is_replaced_between_its_crops_is_noticed(image_folder, tmp_path, teacher_file, monkeypatch):
    read_bytes = Path.read_bytes
    times = []

    def replaced(path):
        if path.name == "grey.jpg":
            times.append(path)
            if len(times) == 2:
                Image.new("L", (61, 33)).save(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", replaced)
    with pytest.raises(MismatchError, match=r"image 'cat/grey\.jpg': was replaced while its crops were being labelled"):
        encode(config(image_folder, tmp_path, teacher_file, batch_size=4))


def test_the_file_keeps_a_checksum_of_each_image(image_folder, tmp_path, teacher_file):
    report = encode(config(image_folder, tmp_path, teacher_file))
    with SoftLabelReader(report.path) as reader:
        wanted = [zlib.crc32((image_folder / key).read_bytes()) for key in reader.keys]
        assert [image.image_crc32 for image in reader] == wanted
        assert reader.read_batch(range(6), [[0]] * 6).image_crc32s.tolist() == wanted
        assert reader.read(5, [1]).image_crc32 == wanted[5]


@pytest.mark.parametrize(
    ("factory", "error", "message"),
    [
        ("nothing", ArgumentError, "has no function 'nothing'; it has build, three_outputs"),
        ("fails", ArgumentError, r"fails failed with RuntimeError: weights are missing \(tiny_teacher.py, line \d+\)"),
        ("leaves", ArgumentError, "leaves failed with SystemExit: 7"),
        ("not_a_model", MismatchError, "returned str: expected a torch.nn.Module"),
        ("feature_map", MismatchError, r"expected float logits of shape \(2, C\) for 2 crops, got torch.float32 of shape \(2, 8"),
    ],
)
def test_factories_that_give_no_teacher(image_folder, tmp_path, teacher_file, factory, error, message):
    with pytest.raises(error, match=message):
        encode(config(image_folder, tmp_path, teacher_file.replace(":build", f":{factory}")))
    assert not (tmp_path / "out.slc.partial").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("teacher.py", "expected FILE.py:FACTORY"),
        ("nowhere.py:build", "file not found"),
        ("no_such_module:build", "no_such_module failed with ModuleNotFoundError"),
        ("timm:", "expected FILE.py:FACTORY"),
    ],
)
def test_names_that_are_no_teacher(text, message):
    with pytest.raises(ArgumentError, match=message):
        load_teacher(text)


def test_a_teacher_from_a_module(tmp_path, monkeypatch):
    (tmp_path / "teachers_of_mine.py").write_text("from torch import nn\ndef make():\n    return nn.Flatten()\n")
    monkeypatch.syspath_prepend(tmp_path)
    teacher = load_teacher("teachers_of_mine:make")
    assert (teacher.name, teacher.input_size) == ("teachers_of_mine:make", 224)


def test_a_teacher_that_fails_on_images_of_that_size(image_folder, tmp_path, teacher_file):
    with pytest.raises(MismatchError, match=r"teacher tiny: failed on 2 crops of 20 x 20 pixels with RuntimeError: mat1 and mat2"):
        encode(config(image_folder, tmp_path, teacher_file.replace(":build", ":three_outputs"), size=20))


def test_wrong_number_of_classes(image_folder, tmp_path, teacher_file):
    with pytest.raises(MismatchError, match="teacher tiny: expected 1000 classes, got 10"):
        encode(config(image_folder, tmp_path, teacher_file, num_classes=1000))
    with pytest.raises(ArgumentError, match="expected k <= 3, got 5"):
        encode(config(image_folder, tmp_path, teacher_file.replace(":build", ":three_outputs"), codec="marginal_smoothing:k=5"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crops": 0}, "crops: expected 1 to 65535, got 0"),
        ({"temperature": 0.0}, "temperature: expected a number from 0.0001 to 10000"),
        ({"codec": "dense:content=features"}, "codec: expected one of probabilities or logits, unless --teacher-output features"),
        ({"precision": "int8"}, "precision: expected auto or float32"),
        ({"on_error": "ignore"}, "on_error: expected fail or skip, got 'ignore'"),
        ({"interpolation": "cubic"}, "interpolation: expected bilinear or"),
        ({"std": (0.0, 1.0, 1.0)}, "std: expected positive numbers"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
    ],
)
def test_wrong_options(image_folder, tmp_path, teacher_file, options, message):
    with pytest.raises(ArgumentError, match=message):
        encode(config(image_folder, tmp_path, teacher_file, **options))


def test_empty_folders_and_files_of_others(image_folder, tmp_path, teacher_file):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArgumentError, match="expected images .* found none"):
        encode(config(tmp_path / "empty", tmp_path, teacher_file))
    (tmp_path / "out.slc").write_bytes(b"somebody's")
    with pytest.raises(FileExistsError, match="the file exists and is not a finished label file"):
        encode(config(image_folder, tmp_path, teacher_file))


def test_logits_are_kept_as_they_are(image_folder, tmp_path, teacher_file):
    report = encode(config(image_folder, tmp_path, teacher_file, codec="dense:content=logits"))
    with SoftLabelReader(report.path) as reader:
        logits = reader[0].labels
        np.testing.assert_allclose(logits.dense().sum(axis=1), 1, rtol=1e-5)
        assert np.abs(logits.vectors.sum(axis=1)).max() > 1e-3
    with pytest.raises(ArgumentError, match="temperature: expected 1, as logits are kept before any temperature, got 3.0"):
        config(image_folder, tmp_path, teacher_file, codec="dense:content=logits", temperature=3.0)


@pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
@pytest.mark.parametrize(
    "codec",
    ["hard", "marginal_smoothing:k=5", "marginal_smoothing:t=0.02", "marginal_smoothing:t=0.5"]
    + ["marginal_smoothing:k=3,tail=20", "marginal_smoothing:t=0.1,tail=20"]
    + ["marginal_smoothing:k=3,tail=all", "marginal_smoothing:t=0.1,tail=all,mean=log"],
)
def test_what_the_device_sends_is_enough_for_the_codec(codec, device):
    torch.manual_seed(0)
    logits = 4 * torch.randn(64, 100)
    logits[1, 3], logits[2, 5] = 30, 60  # 1 less what is left of it is rounding
    probs = torch.softmax(logits, dim=1)
    probs[0] = 0.01  # ties
    labels = {name: tensor.cpu().numpy() for name, tensor in device_labels(probs.to(device), Codec.parse(codec)).items()}
    from softlabel_codec.block.families import label_quantiser

    quantiser = label_quantiser(Codec.parse(codec), 100)
    from_device, from_probs = quantiser.quantise(labels, 64), quantiser.quantise({"probs": probs.numpy()}, 64)
    for mine, theirs in zip([*from_device[:3], *(from_device.tails or ())], [*from_probs[:3], *(from_probs.tails or ())], strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_file_names_that_are_no_text(tmp_path, teacher_file):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(os.fsencode(folder) + b"/\xff.png", format="png")
    with pytest.raises(ArgumentError, match="is not valid UTF-8; rename it"):
        encode(config(folder, tmp_path, teacher_file))


def test_images_that_are_too_large_for_the_format(image_folder, tmp_path, teacher_file):
    Image.new("1", (65536, 1)).save(image_folder / "wide.png")
    with pytest.raises(OSError, match="image 'wide.png': image_size: expected 1 to 65535 pixels, got 1 x 65536"):
        encode(config(image_folder, tmp_path, teacher_file))
    assert set(encode(config(image_folder, tmp_path, teacher_file, on_error="skip")).skipped) == {"wide.png"}


def test_a_link_that_leads_nowhere_is_an_unreadable_image(image_folder, tmp_path, teacher_file):
    (image_folder / "gone.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(OSError, match="image 'gone.jpg'"):
        encode(config(image_folder, tmp_path, teacher_file))
    assert set(encode(config(image_folder, tmp_path, teacher_file, on_error="skip")).skipped) == {"gone.jpg"}


def test_changed_teacher_code_does_not_continue(image_folder, tmp_path, teacher_file):
    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(config(image_folder, tmp_path, teacher_file, crops=150), stop)
    path = Path(teacher_file.rpartition(":")[0])
    path.write_text(path.read_text() + "\n# changed\n")
    with pytest.raises(MismatchError, match=r"was started with other arguments: metadata\['teacher'\]\['code_sha256'\]"):
        encode(config(image_folder, tmp_path, teacher_file, crops=150))


def test_an_attempt_that_labelled_nothing_is_not_in_the_way(image_folder, tmp_path, teacher_file):
    path = Path(teacher_file.rpartition(":")[0])
    path.write_text(
        path.read_text()
        + "\nclass Broken(nn.Module):\n    def forward(self, x):\n        return x.new_full((len(x), 10), nan)\nnan = float('nan')\n"
    )
    with pytest.raises(MismatchError, match="holds NaN"):
        encode(config(image_folder, tmp_path, f"{path}:Broken"))
    assert (tmp_path / "out.slc.partial").exists()
    assert encode(config(image_folder, tmp_path, teacher_file)).num_images == 6


def test_an_interrupted_replacement_continues(image_folder, tmp_path, teacher_file):
    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    encode(config(image_folder, tmp_path, teacher_file, crops=150, sampler=CropSampler(seed=9)))
    wanted = config(image_folder, tmp_path, teacher_file, crops=150, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        encode(wanted, stop)
    assert encode(wanted).resumed_images > 0
    with SoftLabelReader(tmp_path / "out.slc") as reader:
        assert reader.metadata["crop_sampler"]["seed"] == 2


def test_files_that_are_not_named_like_images_are_mentioned(image_folder, tmp_path, teacher_file):
    Image.new("RGB", (8, 8)).save(image_folder / "moving.gif")
    report = encode(config(image_folder, tmp_path, teacher_file))
    assert (report.num_images, report.other_files) == (7, ["notes.txt"])


@pytest.mark.parametrize("lazy", [False, True])
def test_teachers_import_what_lies_beside_them(tmp_path, lazy):
    for number, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "network_beside.py").write_text(f"from torch import nn\ndef make():\n    return nn.Linear(2, {number + 2})\n")
        importing = "from network_beside import make"
        code = f"def build():\n    {importing}\n    return make()\n" if lazy else f"{importing} as build\n"
        (tmp_path / name / "teacher.py").write_text(code)
    assert [load_teacher(f"{tmp_path / name}/teacher.py:build").model.out_features for name in ("one", "two")] == [2, 3]
    assert "network_beside" not in sys.modules
    assert "torch.nn" in sys.modules


def test_a_teacher_from_a_module_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "teachers_here.py").write_text("from torch import nn\ndef make():\n    return nn.Flatten()\n")
    monkeypatch.chdir(tmp_path)
    assert load_teacher("teachers_here:make").name == "teachers_here:make"


def test_a_killed_worker_is_not_the_teachers_fault(image_folder, tmp_path, teacher_file):
    command = [sys.executable, "-m", "softlabel_codec", "encode", str(image_folder), str(tmp_path / "out.slc"), "--teacher", teacher_file]
    process = subprocess.Popen([*command, "--crops", "60000", "--workers", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    children = []
    while not children:
        assert process.poll() is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        time.sleep(0.01)
    os.kill(int(children[0]), signal.SIGKILL)
    output = process.communicate()[1]
    assert process.returncode == 1
    assert re.search(r"slcodec: a worker process was killed: DataLoader worker .* fewer --workers", output), output


def test_little_shared_memory_is_enough(image_folder, tmp_path, teacher_file, monkeypatch):
    encode(config(image_folder, tmp_path, teacher_file))
    whole = (tmp_path / "out.slc").read_bytes()
    monkeypatch.setattr(workers_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    seen = []
    original = CropBatches.__getitem__
    monkeypatch.setattr(CropBatches, "__getitem__", lambda self, index: seen.append(self.as_array) or original(self, index))
    encode(config(image_folder, tmp_path, teacher_file, workers=2, overwrite=True))
    assert (tmp_path / "out.slc").read_bytes() == whole
    batches = CropBatches(FolderSource(image_folder), ["cat/a.JPEG"], Plan(1, 6, 6), CropSampler(), [Cutter(16)], as_array=True)
    (((pixels,), _),) = load_batches(batches, [0], 0, False)
    assert isinstance(pixels, torch.Tensor)
    assert isinstance(batches[0][0][0], np.ndarray)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("STD = (0.0, 1.0, 1.0)", "tiny_teacher.py: std: expected positive numbers"),
        ("MEAN = 0.5", "MEAN: expected three numbers, got 0.5"),
        ("INPUT_SIZE = (32, 32)", r"INPUT_SIZE: expected pixels, 1 to 8192, got \(32, 32\)"),
        ("INTERPOLATION = 'cubic'", "interpolation: expected one of bilinear, bicubic"),
    ],
)
def test_teacher_files_that_say_nonsense(image_folder, tmp_path, teacher_file, line, message):
    path = Path(teacher_file.rpartition(":")[0])
    path.write_text(path.read_text() + f"\n{line}\n")
    with pytest.raises(ArgumentError, match=message):
        encode(config(image_folder, tmp_path, teacher_file))


def test_a_teacher_without_numbers_is_named(image_folder, tmp_path, teacher_file):
    path = Path(teacher_file.rpartition(":")[0])
    path.write_text(
        path.read_text() + "\nclass Broken(nn.Module):\n    def forward(self, x):\n        return x.new_full((len(x), 10), float('nan'))\n"
    )
    with pytest.raises(MismatchError, match="teacher tiny: its output cannot be stored as labels: .*row 0: holds NaN"):
        encode(config(image_folder, tmp_path, f"{path}:Broken"))


def test_two_runs_at_once(image_folder, tmp_path, teacher_file):
    from softlabel_codec import SoftLabelWriter

    with SoftLabelWriter(tmp_path / "out.slc", 10, "hard"), pytest.raises(StateError, match="another writer is writing"):
        encode(config(image_folder, tmp_path, teacher_file))


def small_model(num_classes=10):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 20 * 20, num_classes))


@pytest.fixture
def timm(monkeypatch):
    """A stand-in for timm with one model, `tiny`; pretrained weights are all 7."""

    def create_model(name, pretrained, num_classes=1000):
        assert name == "tiny"
        model = small_model(num_classes)
        if pretrained:
            torch.nn.init.constant_(model[1].weight, 7.0)
        return model

    config = {"input_size": (3, 20, 20), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bicubic"}
    data = SimpleNamespace(resolve_model_data_config=lambda model: config)
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model, data=data))


@pytest.fixture
def torchvision(monkeypatch):
    """A stand-in for torchvision, likewise."""

    def get_model(name, weights, num_classes=1000):
        assert name == "tiny"
        model = small_model(num_classes)
        if weights == "DEFAULT":
            torch.nn.init.constant_(model[1].weight, 7.0)
        return model

    preset = SimpleNamespace(crop_size=[20], mean=[0.1] * 3, std=[0.2] * 3, interpolation=SimpleNamespace(value="bilinear"))
    weights = SimpleNamespace(DEFAULT=SimpleNamespace(transforms=lambda: preset))
    models = SimpleNamespace(get_model=get_model, get_model_weights=lambda name: weights)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))


def test_models_of_timm(timm):
    teacher = load_teacher("timm:tiny")
    assert (teacher.name, teacher.source, teacher.input_size) == ("timm tiny", "timm:tiny", 20)
    assert (teacher.mean, teacher.std, teacher.interpolation) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic")
    assert not teacher.model.training
    assert bool((teacher.model[1].weight == 7).all())


def test_models_of_torchvision(torchvision):
    teacher = load_teacher("torchvision:tiny")
    assert (teacher.name, teacher.input_size, teacher.mean, teacher.std) == ("torchvision tiny", 20, (0.1,) * 3, (0.2,) * 3)
    assert bool((teacher.model[1].weight == 7).all())


def test_libraries_that_are_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ArgumentError, match="teacher: timm is not installed"):
        load_teacher("timm:resnet50")


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_an_untrained_network_of_a_library_is_the_same_each_time(library, timm, torchvision):
    torch.manual_seed(5)
    first = load_teacher(f"{library}:tiny", weights="none", num_classes=12)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == after  # other random numbers are not touched
    again = load_teacher(f"{library}:tiny", weights="none", num_classes=12)
    assert (first.weights, first.model[1].out_features) == ("none", 12)
    assert weights_sha256(first.model) == weights_sha256(again.model)
    assert not bool((first.model[1].weight == 7).any())
    assert load_teacher(f"{library}:tiny", weights="none").model[1].out_features == 1000


WRAPPED = {
    "a state_dict": lambda state: state,
    "torchvision's checkpoint": lambda state: {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1, output=Path("x").name)},
    "timm's checkpoint": lambda state: {"arch": "tiny", "state_dict": state, "args": argparse.Namespace(model="tiny"), "version": 2},
    "of a parallel network": lambda state: {f"module.{name}": value for name, value in state.items()},
    "of a compiled, parallel network": lambda state: {"state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()}},
    "averaged": lambda state: {
        "model": {name: value + 1 for name, value in state.items()},
        "model_ema": {"n_averaged": torch.tensor(3), **{f"module.{name}": value for name, value in state.items()}},
    },
    "timm's average": lambda state: {"state_dict": {name: value + 1 for name, value in state.items()}, "state_dict_ema": state},
    "an average beside its decay": lambda state: {"state_dict": state, "ema": 0.99},
    "our trainer's checkpoint": lambda state: {"model": state, "average": None, "epoch": 3},
}


@pytest.mark.parametrize("library", ["timm", "torchvision"])
@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("num_classes", [10, 1000])
def test_ones_own_checkpoint_of_a_network_of_a_library(library, wrapped, num_classes, timm, torchvision, tmp_path):
    torch.manual_seed(3)
    own = small_model(num_classes)
    torch.save(WRAPPED[wrapped](own.state_dict()), tmp_path / "mine.pt")
    teacher = load_teacher(f"{library}:tiny", weights=tmp_path / "mine.pt")
    assert weights_sha256(teacher.model) == weights_sha256(own)
    assert (teacher.weights, teacher.input_size) == ("mine.pt", 20)


def test_weights_that_do_not_fit(timm, teacher_file, tmp_path):
    torch.save(small_model(10).state_dict(), tmp_path / "ten.pt")
    with pytest.raises(MismatchError, match=r"ten\.pt: the weights of another network: .*1\.weight"):
        load_teacher("timm:tiny", weights=tmp_path / "ten.pt", num_classes=12)
    torch.save({"state_dict": torch.nn.Linear(3, 2).state_dict()}, tmp_path / "other.pt")
    with pytest.raises(MismatchError, match=r"other\.pt: the weights of another network"):
        load_teacher("timm:tiny", weights=tmp_path / "other.pt")
    torch.save(small_model(), tmp_path / "code.pt")
    with pytest.raises(CorruptError, match=r"code\.pt: no weights that can be read without running code: it requires torch\.nn"):
        load_teacher("timm:tiny", weights=tmp_path / "code.pt")
    with pytest.raises(FileNotFoundError, match=r"gone\.pt"):
        load_teacher("timm:tiny", weights=tmp_path / "gone.pt")
    with pytest.raises(ArgumentError, match="teacher_weights: is for timm:NAME and torchvision:NAME; .*loads its weights itself"):
        load_teacher(teacher_file, weights=tmp_path / "ten.pt")


def test_the_file_says_whose_weights_labelled(image_folder, timm, tmp_path):
    torch.save({"state_dict": small_model(10).state_dict()}, tmp_path / "mine.pt")
    how = config(image_folder, tmp_path, "timm:tiny", teacher_weights=str(tmp_path / "mine.pt"))
    encode(how)
    with SoftLabelReader(tmp_path / "out.slc") as reader:
        assert reader.num_classes == 10
        found = reader.metadata["teacher"]
    model = load_teacher("timm:tiny", weights=tmp_path / "mine.pt").model
    assert found == {"name": "timm tiny", "source": "timm:tiny", "weights": "mine.pt", "weights_sha256": weights_sha256(model)}
    assert encode(how).finished_before


TEACHERS_OF_PROBABILITIES = """
class Softmax(nn.Module):
    def __init__(self, logits, temperature=1.0, scale=1.0):
        super().__init__()
        self.logits, self.scale = logits, scale

    def forward(self, images):
        probs = self.logits(images).softmax(1)
        return probs.to(torch.float16) if self.scale == 16 else probs * self.scale

def probs():
    return Softmax(build())

def half():
    return Softmax(build(), scale=16)

def doubled():
    return Softmax(build(), scale=2.0)

class Sometimes(Softmax):
    def forward(self, images):
        found = super().forward(images)
        return found if len(images) == 2 else found * 2

def sometimes():
    return Sometimes(build())
"""


@pytest.fixture
def probs_file(teacher_file):
    path = Path(teacher_file.rpartition(":")[0])
    path.write_text(path.read_text() + TEACHERS_OF_PROBABILITIES)
    return str(path)


@pytest.mark.parametrize("factory", ["probs", "half"])
def test_probabilities_are_not_taken_for_logits(image_folder, tmp_path, probs_file, factory):
    expected = "teacher tiny: expected logits, got probabilities: .* Pass --teacher-output probs .*, or return the input of"
    with pytest.raises(MismatchError, match=expected):
        encode(config(image_folder, tmp_path, f"{probs_file}:{factory}"))
    assert not (tmp_path / "out.slc.partial").exists()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
@pytest.mark.parametrize(("factory", "tolerance"), [("probs", 2e-7), ("half", 2e-3)])
def test_labels_of_probabilities_are_those_of_the_logits(image_folder, tmp_path, probs_file, temperature, factory, tolerance):
    how = {"codec": "dense:values=f32", "temperature": temperature}
    encode(config(image_folder, tmp_path, f"{probs_file}:build", **how))
    with SoftLabelReader(tmp_path / "out.slc") as reader:
        of_logits = [image.labels.dense() for image in reader]
        assert reader.metadata["teacher_output"] == "logits"
    encode(config(image_folder, tmp_path, f"{probs_file}:{factory}", teacher_output="probs", overwrite=True, **how))
    with SoftLabelReader(tmp_path / "out.slc") as reader:
        assert reader.metadata["teacher_output"] == "probs"
        assert reader.metadata["temperature"] == temperature
        for image, expected in zip(reader, of_logits, strict=True):
            np.testing.assert_allclose(image.labels.dense(), expected, atol=tolerance)


def test_numbers_that_are_no_probabilities(image_folder, tmp_path, probs_file):
    for factory, found in (("build", "values from -"), ("doubled", r"sums from 2 to 2")):
        with pytest.raises(MismatchError, match=f"expected probabilities, of which each row sums to 1, got .*{found}"):
            encode(config(image_folder, tmp_path, f"{probs_file}:{factory}", teacher_output="probs"))
    with pytest.raises(MismatchError, match="its output cannot be stored as labels: .*NaN.* It was said to return probabilities"):
        encode(config(image_folder, tmp_path, f"{probs_file}:sometimes", teacher_output="probs"))


def test_options_about_the_output_of_a_teacher(image_folder, tmp_path, probs_file):
    with pytest.raises(ArgumentError, match="codec: expected one of probabilities, as the teacher returns no logits"):
        config(image_folder, tmp_path, f"{probs_file}:probs", teacher_output="probs", codec="dense:content=logits")
    with pytest.raises(ArgumentError, match="teacher_output: expected logits or probs or features, got 'softmax'"):
        config(image_folder, tmp_path, f"{probs_file}:probs", teacher_output="softmax")
