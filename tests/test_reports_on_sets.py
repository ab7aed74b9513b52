"""`inspect`, `stats` and `verify` of label sets, finished and not, sound and not."""

import json
from hashlib import sha256
from zlib import crc32

import numpy as np
import pytest
from click.testing import CliRunner
from label_sets import SHARDS, edit_index, shard_of, write_both, write_set, write_shard
from PIL import Image

from softlabel_codec import ArgumentError, CorruptError, SoftLabelReader, SoftLabelWriter, TruncatedError
from softlabel_codec.cli.main import main
from softlabel_codec.label_set.making import index_path, shard_name, write_index
from softlabel_codec.report import SetReport, inspect, set_report, stats, verify


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


# inspect


@pytest.mark.parametrize("num_crops", [None, 4])
def test_a_set_is_described_like_a_file(tmp_path, num_crops):
    folder, whole = write_both(tmp_path, num_crops=num_crops)
    report, of_file = inspect(folder), inspect(whole)
    assert isinstance(report, SetReport)
    same = ("codec", "num_classes", "crops", "sampler", "padding", "num_images", "num_crops", "fewest_crops", "most_crops")
    for name in (*same, "metadata", "skipped_keys", "finished", "problems", "format_version", "written_by"):
        assert getattr(report, name) == getattr(of_file, name), name
    sizes = [shard_of(folder, number).stat().st_size for number in range(4)]
    assert (report.smallest_shard_bytes, report.largest_shard_bytes) == (min(sizes), max(sizes))
    assert report.file_bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert abs(sum(part.file_bytes for part in report.budget) - report.file_bytes) <= len(report.budget)  # rounding
    assert report.bytes_per_crop == report.file_bytes / report.num_crops
    assert report.bytes_per_image == report.file_bytes / report.num_images
    assert (report.num_shards, report.read_shards, report.begun_shards, report.missing_shards) == (4, 4, [], [])
    assert {part.name for part in of_file.budget} < {part.name for part in report.budget}
    with SoftLabelReader(folder) as reader:
        assert (report.fingerprint, report.path) == (reader.fingerprint, str(reader.path))


def test_of_a_large_set_some_shards_are_read(tmp_path, monkeypatch):
    folder = write_set(tmp_path / "set", [[f"{shard}/{image}" for image in range(4)] for shard in range(9)], num_crops=3)
    whole = inspect(folder)
    monkeypatch.setattr(set_report, "MOST_READ", 3)
    report = inspect(folder)
    assert (report.read_shards, report.num_shards, report.num_images, report.num_crops) == (3, 9, 36, 108)
    for part, wanted in zip(report.budget, whole.budget, strict=True):
        assert part.name == wanted.name
        assert part.file_bytes == pytest.approx(wanted.file_bytes, rel=0.2, abs=9)
    assert abs(sum(part.file_bytes for part in report.budget) - report.file_bytes) <= len(report.budget)
    assert "9 of" in run("inspect", folder)
    assert "; 3 were read" in run("inspect", folder)


def test_inspecting_a_set_for_people_and_programs(tmp_path):
    folder = write_set(tmp_path / "set")
    printed = run("inspect", folder)
    for expected in ("set ", "x.slc.index.json", "shards", "4 of ", "temperature", "index of the set", "fingerprint", "are sound"):
        assert expected in printed
    found = json.loads(run("inspect", folder / "x.slc.index.json", "--json"))
    assert (found["num_shards"], found["num_images"], found["metadata"]["temperature"]) == (4, 6, 1.0)


def test_shards_that_are_bad_are_problems(tmp_path):
    folder = write_set(tmp_path / "set")
    shard_of(folder, 0).write_bytes(b"")
    shard_of(folder, 2).unlink()
    report = inspect(folder)
    assert [problem.partition(": ")[0] for problem in report.problems] == [str(shard_of(folder, number)) for number in (2, 0)]
    assert (report.missing_shards, report.read_shards, report.num_images) == ([2], 2, 6)
    printed = run("inspect", folder, code=1)
    assert "missing: 2" in printed
    assert "x-00002-of-00004.slc: shard 2 is not there" in printed


def begin(path, keys, suffix=".partial", **options):
    """Leave an unfinished shard."""
    write_shard(path, keys, **options)
    data = path.read_bytes()
    with SoftLabelReader(path) as reader:
        end = reader.container.trailer.keys_offset
    path.unlink()
    path.with_name(path.name + suffix).write_bytes(data[:end])


@pytest.mark.parametrize("suffix", [".partial", ".0123abcd.partial"])
def test_a_set_that_is_being_made(tmp_path, suffix):
    begin(tmp_path / shard_name("x", 0, 20), SHARDS[0], suffix)  # of a worker that lost the shard to another
    write_shard(tmp_path / shard_name("x", 0, 20), SHARDS[0], overwrite=True)
    write_shard(tmp_path / shard_name("x", 5, 20), SHARDS[2])
    (tmp_path / (shard_name("x", 6, 20) + ".lock")).write_bytes(b"")
    begin(tmp_path / shard_name("x", 6, 20), SHARDS[3], suffix)
    report = inspect(tmp_path)
    assert isinstance(report, SetReport)
    assert (report.finished, report.fingerprint, report.num_shards, report.read_shards) == (False, "", 20, 3)
    assert (report.num_images, report.num_crops, report.begun_shards) == (6, 65, [6])
    assert report.missing_shards == [1, 2, 3, 4, *range(7, 20)]
    assert (report.codec, report.metadata["temperature"]) == ("marginal_smoothing:k=5", 1.0)
    assert report.problems == [f"{tmp_path}: an unfinished label set: 2 of 20 shards of 'x' are finished and 1 begun"]
    printed = run("inspect", tmp_path, code=1)
    for expected in ("2 of 20 finished", "begun: 6", "missing: 1, 2, 3, 4, 7, 8, 9, 10, 11, 12 and 7 more", "6 so far"):
        assert expected in printed


def test_a_set_of_which_only_beginnings_are_there(tmp_path):
    begin(tmp_path / shard_name("x", 1, 2), SHARDS[0])
    report = inspect(tmp_path)
    assert (report.num_images, report.begun_shards, report.missing_shards, report.smallest_shard_bytes) == (3, [1], [0], 0)
    (tmp_path / "x-00001-of-00002.slc.partial").write_bytes(b"")
    with pytest.raises(TruncatedError, match="0 of 2 shards of 'x' are finished and 1 begun, and no shard says what it is to be"):
        inspect(tmp_path)


def test_shards_of_several_runs_in_a_folder(tmp_path):
    write_shard(tmp_path / shard_name("x", 0, 3), ["a/1.jpg"])
    write_shard(tmp_path / shard_name("x", 1, 3), ["b/1.jpg"], codec="hard")
    problems = inspect(tmp_path).problems
    assert problems[1].endswith(
        "x-00001-of-00003.slc: expected the codec and the metadata of x-00000-of-00003.slc, as in one label set, got others"
    )
    write_shard(tmp_path / shard_name("y", 0, 3), ["c/1.jpg"])
    with pytest.raises(ArgumentError, match="got 2, all unfinished: 2 of 3 shards of 'x' are finished; 1 of 3 shards of 'y' are finished"):
        inspect(tmp_path)


# stats


@pytest.mark.parametrize("codec", ["marginal_smoothing:k=5", "dense"])
def test_statistics_of_a_set_are_those_of_the_file(tmp_path, codec):
    folder, whole = write_both(tmp_path, codec=codec)
    found, wanted = stats(folder), stats(whole)
    for name, value in vars(wanted).items():
        if name not in ("path", "bytes_per_crop", "bytes_per_image", "budget"):
            assert getattr(found, name) == value, name
    assert json.loads(run("stats", folder, "--json"))["num_images"] == 6
    assert "65 crops of 6 of 6 images" in run("stats", folder)


# verify


def test_a_sound_set(tmp_path):
    folder = write_set(tmp_path / "set")
    calls = []
    report = verify(folder, deep=True, progress=lambda *call: calls.append(call))
    assert (report.ok, report.problems, report.num_images, report.num_shards, report.bad_shards) == (True, [], 6, 4, [])
    assert calls[-1] == (6, 6)
    assert calls == sorted(calls)
    assert run("verify", folder, "--deep").endswith("sound: 6 images in 3 blocks of 4 shards, all decoded\n")


def test_every_bad_shard_is_named(tmp_path):
    folder = write_set(tmp_path / "set")
    shard_of(folder, 0).write_bytes(shard_of(folder, 3).read_bytes())
    shard_of(folder, 2).unlink()
    damaged = bytearray(shard_of(folder, 3).read_bytes())
    with SoftLabelReader(shard_of(folder, 3)) as reader:
        damaged[int(reader.container.index.starts[0]) + 30] ^= 1
    shard_of(folder, 3).write_bytes(damaged)
    report = verify(folder)
    assert [problem.error for problem in report.problems] == ["MismatchError", "FileNotFoundError", "CorruptError", "CorruptError"]
    assert "block 0" in report.problems[2].message
    assert report.bad_shards == [shard_of(folder, number).name for number in (0, 2, 3)]
    assert (report.ok, report.num_images) == (False, 2)
    printed = run("verify", folder, code=1)
    assert "4 problems in 3 shards: x-00000-of-00004.slc, x-00002-of-00004.slc, x-00003-of-00004.slc" in printed
    assert json.loads(run("verify", folder, "--json", code=1))["bad_shards"] == report.bad_shards


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "x-00002-of-00004.slc: sha256: expected 0000.*, as the index of the set says, got"),
        (
            {"first_key": "b/0"},
            "x-00002-of-00004.slc: first_key and last_key: expected 'b/0' and 'b/1.jpg', .* got 'b/1.jpg' and 'b/1.jpg'",
        ),
        ({"last_key": "z"}, "x-00002-of-00004.slc: first_key and last_key: expected 'b/1.jpg' and 'z'"),
    ],
)
def test_an_index_that_says_something_else_of_a_shard(tmp_path, changes, message):
    folder = write_set(tmp_path / "set")
    edit_index(folder, shard_2=changes)
    report = verify(folder)
    assert [problem.error for problem in report.problems] == ["CorruptError"]
    with pytest.raises(CorruptError, match=message):
        raise CorruptError(report.problems[0].message)
    assert report.bad_shards == ["x-00002-of-00004.slc"]


def test_a_key_in_two_shards(tmp_path):
    files = [write_shard(tmp_path / shard_name("x", number, 3), keys, 2) for number, keys in enumerate(("am", "n", "z"))]
    write_index(index_path(tmp_path, "x"), files)
    index = json.loads((tmp_path / "x.slc.index.json").read_bytes())
    (tmp_path / "other").mkdir()
    write_index(index_path(tmp_path / "other", "x"), [write_shard(tmp_path / "other" / shard_name("x", 2, 3), "mz", 2)])
    of_other = json.loads((tmp_path / "other" / "x.slc.index.json").read_bytes())
    files[2].write_bytes((tmp_path / "other" / files[2].name).read_bytes())
    index["shards"][2] = of_other["shards"][0]
    index |= {"num_images": 5, "num_crops": 10}
    index["fingerprint"] = sha256(b"".join(bytes.fromhex(shard["fingerprint"]) for shard in index["shards"])).hexdigest()
    (tmp_path / "x.slc.index.json").write_text(json.dumps(index))
    (problem,) = verify(tmp_path).problems
    assert problem.error == "CorruptError"
    assert problem.message == "key 'm': expected it in one shard of the set, got it in x-00000-of-00003.slc and x-00002-of-00003.slc"


def test_an_index_that_is_not_sound(tmp_path):
    folder = write_set(tmp_path / "set")
    edit_index(folder, num_images=7)
    report = verify(folder)
    assert [problem.error for problem in report.problems] == ["CorruptError"]
    assert "x.slc.index.json: num_images: expected 6" in report.problems[0].message
    (folder / "x.slc.index.json").unlink()
    report = verify(folder)
    assert (report.ok, [problem.error for problem in report.problems]) == (False, ["TruncatedError"])


def test_images_are_compared_with_all_shards(tmp_path):
    pixels = {key: np.full((8, 8, 3), number, np.uint8) for number, key in enumerate("abc")}
    for key, array in pixels.items():
        Image.fromarray(array).save(tmp_path / f"{key}.png")
    (tmp_path / "set").mkdir()
    files = [tmp_path / "set" / shard_name("x", number, 3) for number in range(3)]
    for file, key in zip(files, pixels, strict=True):
        with SoftLabelWriter(file, 4, "hard", image_checksums=True) as writer:
            checksum = crc32((tmp_path / f"{key}.png").read_bytes())
            place = {"crops": [[0, 0, 4, 4]], "flips": [False], "image_size": (8, 8)}
            writer.add(f"{key}.png", probs=[[1.0, 0, 0, 0]], image_crc32=checksum, **place)
    write_index(index_path(tmp_path / "set", "x"), files)
    report = verify(tmp_path / "set", images=tmp_path)
    assert (report.ok, report.compared_images, report.checksums) == (True, 3, True)
    Image.fromarray(pixels["a"]).save(tmp_path / "c.png")
    report = verify(tmp_path / "set", images=tmp_path)
    assert [problem.error for problem in report.problems] == ["MismatchError"]
    files[0].unlink()
    report = verify(tmp_path / "set", images=tmp_path)
    assert [problem.error for problem in report.problems] == ["FileNotFoundError", "StateError"]
    assert "only if all shards of the set can be opened" in report.problems[1].message
