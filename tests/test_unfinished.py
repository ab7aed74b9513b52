"""Unfinished files: what is continued, what is refused, and what recovering keeps; and where the writer puts its bytes."""

import errno
import gc
import os
import stat
import subprocess
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import random_probs, write_labels

from softlabel_codec import CorruptError, FormatError, SoftLabelReader, SoftLabelWriter, recover
from softlabel_codec.container.files import FileSource
from softlabel_codec.container.framing import HEADER
from softlabel_codec.container.scan import BlockScan, read_beginning
from softlabel_codec.report import inspect, stats, verify
from softlabel_codec.sampler import CropSampler

COUNTS = [12] * 40


def unfinished(folder: Path, name: str = "a.slc", counts=COUNTS) -> tuple[Path, list[int]]:
    """Write a file that is not finished, and return its path and where its blocks begin, and where the last ends."""
    path = folder / name
    writer = SoftLabelWriter(path, 20, "marginal_smoothing:k=5")
    add_images(writer, counts)
    writer.close()
    partial = path.with_name(f"{name}.partial")
    source = FileSource(partial)
    blocks = list(BlockScan(source, read_beginning(source)).all())
    source.close()
    assert len(blocks) > 5
    return partial, [block.offset for block in blocks] + [blocks[-1].end]


def add_images(writer: SoftLabelWriter, counts=COUNTS) -> None:
    for number, count in enumerate(counts):
        key = f"image{number}"
        if key in writer.keys:
            continue
        crops, flips = CropSampler(seed=1).sample(key, (48, 64), range(count))
        writer.add(key, image_size=(48, 64), crops=crops, flips=flips, probs=random_probs(np.random.default_rng(number), count, 20))


def flip_bit(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)


def continue_it(folder: Path, name: str = "a.slc", **options) -> None:
    with SoftLabelWriter(folder / name, 20, "marginal_smoothing:k=5", resume=True, **options) as writer:
        add_images(writer)


def test_damage_in_the_middle_is_not_taken_for_a_torn_write(tmp_path):
    partial, offsets = unfinished(tmp_path)
    flip_bit(partial, offsets[2] + 30)
    before = partial.read_bytes()
    for options in ({}, {"overwrite": True}):
        with pytest.raises(
            CorruptError, match=rf"a\.slc\.partial: damaged at byte {offsets[2]}, but complete blocks follow from byte {offsets[3]}"
        ):
            continue_it(tmp_path, **options)
    assert partial.read_bytes() == before


def test_what_was_kept_of_a_damaged_unfinished_file_can_be_continued(tmp_path):
    partial, offsets = unfinished(tmp_path)
    flip_bit(partial, offsets[2] + 30)
    result = recover(partial, tmp_path / "sound.partial")
    assert result.num_blocks == len(offsets) - 2
    assert (result.lost_keys, result.unused_bytes) == (None, offsets[3] - offsets[2])
    os.replace(tmp_path / "sound.partial", partial)
    continue_it(tmp_path)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert sorted(reader.keys) == sorted(f"image{number}" for number in range(len(COUNTS)))
    assert verify(tmp_path / "a.slc", deep=True).ok


@pytest.mark.parametrize("field", [4, 8, 12, 20])  # number, length, checksum and payload of a block
@pytest.mark.parametrize("block", [0, 3, -2])
def test_recovering_keeps_every_other_block_of_an_unfinished_file(tmp_path, field, block):
    partial, offsets = unfinished(tmp_path)
    flip_bit(partial, offsets[:-1][block] + field)
    result = recover(partial, tmp_path / "kept.slc")
    assert result.num_blocks == len(offsets) - 2
    assert verify(tmp_path / "kept.slc", deep=True).ok


def test_recovering_finds_blocks_behind_bytes_that_were_lost_or_added(tmp_path):
    partial, offsets = unfinished(tmp_path)
    data = partial.read_bytes()
    for damaged, blocks in (
        (data[: offsets[2]] + data[offsets[3] :], len(offsets) - 2),  # a block is gone
        (data[: offsets[2]] + b"SLBK" * 500 + data[offsets[2] :], len(offsets) - 1),
        (data[: offsets[2] + 7] + data[offsets[2] + 8 :], len(offsets) - 2),
        (data[: offsets[2]] + data, len(offsets) - 1),  # each block once
    ):
        partial.write_bytes(damaged)
        assert recover(partial, tmp_path / "kept.slc", overwrite=True).num_blocks == blocks
        assert verify(tmp_path / "kept.slc", deep=True).ok


def test_a_file_that_claims_blocks_within_blocks_takes_no_time_to_speak_of(tmp_path):
    partial, offsets = unfinished(tmp_path)
    data = partial.read_bytes()[: offsets[1]]
    claim = b"SLBK" + (1).to_bytes(4, "little") + (2**20).to_bytes(4, "little") + bytes(4)
    partial.write_bytes(data + claim * 2**17)
    assert recover(partial, tmp_path / "kept.slc").num_blocks == 1


@pytest.mark.parametrize("place", [3, 20, 30, HEADER.size + 5])
def test_a_damaged_beginning_is_written_anew_where_blocks_prove_what_it_was(tmp_path, place):
    unfinished(tmp_path, "whole.slc")
    continue_it(tmp_path, "whole.slc")
    partial, _ = unfinished(tmp_path)
    flip_bit(partial, place)
    continue_it(tmp_path)
    assert (tmp_path / "a.slc").read_bytes() == (tmp_path / "whole.slc").read_bytes()


def test_what_is_cut_off_stays_beside_the_file_until_it_is_finished(tmp_path):
    partial, offsets = unfinished(tmp_path)
    torn = partial.read_bytes()[: offsets[-1] - 10]
    partial.write_bytes(torn)
    with SoftLabelWriter(tmp_path / "a.slc", 20, "marginal_smoothing:k=5", resume=True) as writer:
        assert (tmp_path / "a.slc.partial.cut").read_bytes() == torn[offsets[-2] :]
        add_images(writer)
    assert [path.name for path in tmp_path.iterdir()] == ["a.slc"]


@pytest.mark.parametrize("place", [0, 9, 25, HEADER.size, HEADER.size + 40])
def test_header_and_metadata_come_back_from_their_copy(tmp_path, place):
    write_labels(tmp_path / "a.slc", metadata={"teacher": "the very best"})
    flip_bit(tmp_path / "a.slc", place)
    with pytest.raises(FormatError):
        SoftLabelReader(tmp_path / "a.slc")
    result = recover(tmp_path / "a.slc", tmp_path / "b.slc")
    assert (result.num_images, result.lost_keys, result.unused_bytes) == (4, [], 0)
    with SoftLabelReader(tmp_path / "b.slc") as reader:
        assert reader.metadata == {"teacher": "the very best"}


def test_recovering_tells_why_there_is_nothing_to_begin_with(tmp_path):
    write_labels(tmp_path / "a.slc")
    data = (tmp_path / "a.slc").read_bytes()
    (tmp_path / "a.slc").write_bytes(data[:30] + b"?" + data[31:-20])
    with pytest.raises(CorruptError, match="checksum of the header differs"):
        recover(tmp_path / "a.slc", tmp_path / "b.slc")
    assert not (tmp_path / "b.slc").exists()


# Where the bytes go


BELOW_3 = """
import os, sys
from softlabel_codec import SoftLabelReader, SoftLabelWriter
writer = SoftLabelWriter(sys.argv[1], 4, "hard")
try:
    os.write(2, b"a C library warns on standard error\\n")
except OSError:
    pass
writer.add("a", image_size=(1, 1), crops=[[0, 0, 1, 1]], flips=[False], indices=[[1]], values=[[1.0]])
writer.finish()
with SoftLabelReader(sys.argv[1]) as reader:
    assert list(reader.keys) == ["a"]
    for descriptor in os.listdir("/proc/self/fd"):
        assert int(descriptor) > 2 or not os.path.realpath(f"/proc/self/fd/{descriptor}").endswith(".slc")
"""


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", ">&-"])
def test_files_are_never_what_a_library_writes_its_warnings_to(tmp_path, closed):
    command = f'"{sys.executable}" -c "$CODE" "{tmp_path}/a.slc" {closed}'
    assert subprocess.run(["sh", "-c", command], env={**os.environ, "CODE": BELOW_3}, check=False).returncode == 0
    assert verify(tmp_path / "a.slc", deep=True).ok


def test_an_unfinished_file_is_not_written_through_a_link(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("do not touch")
    (tmp_path / "a.slc.partial").symlink_to(precious)
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(FileExistsError, match="symbolic link"):
            SoftLabelWriter(tmp_path / "a.slc", 4, "hard", **options)
    assert precious.read_text() == "do not touch"


def test_links_that_lead_in_a_circle_are_named(tmp_path):
    (tmp_path / "a.slc").symlink_to("b.slc")
    (tmp_path / "b.slc").symlink_to("a.slc")
    with pytest.raises(OSError, match=r"a\.slc") as caught:
        SoftLabelWriter(tmp_path / "a.slc", 4, "hard")
    assert caught.value.errno == errno.ELOOP


def test_a_private_file_stays_private_when_it_is_replaced(tmp_path):
    write_labels(tmp_path / "a.slc")
    (tmp_path / "a.slc").chmod(0o600)
    with SoftLabelWriter(tmp_path / "a.slc", 20, "hard", overwrite=True) as writer:
        assert stat.S_IMODE((tmp_path / "a.slc.partial").stat().st_mode) == 0o600
        add_images(writer)
    assert stat.S_IMODE((tmp_path / "a.slc").stat().st_mode) == 0o600


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder") as caught:
        SoftLabelWriter(tmp_path / "nowhere" / "a.slc", 4, "hard")
    assert caught.value.filename == str(tmp_path / "nowhere")


@pytest.mark.parametrize("use", [SoftLabelReader, inspect, stats, verify, lambda path: recover(path, path.with_name("b.slc"))])
def test_what_is_no_file_is_refused_at_once(tmp_path, use):
    os.mkfifo(tmp_path / "pipe.slc")
    with pytest.raises(OSError, match=r"not a regular file: .*pipe\.slc"):
        use(tmp_path / "pipe.slc")
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        use(tmp_path)


def test_a_reader_that_is_forgotten_closes_its_file(tmp_path):
    write_labels(tmp_path / "a.slc")
    gc.disable()
    try:
        reader = SoftLabelReader(tmp_path / "a.slc")
        reader.keys.find(reader.keys[0])
        forgotten = weakref.ref(reader)
        del reader
        assert forgotten() is None
        open_files = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        assert str(tmp_path / "a.slc") not in open_files
    finally:
        gc.enable()


# What the caller does meanwhile


CODECS = ["hard", "smoothing", "marginal_smoothing:k=3", "marginal_smoothing:t=0.1,tail=5", "marginal_renorm:k=3,values=f32", "dense"]
CODECS += ["dense:values=f16", "dense:content=logits", "dense:values=f16,content=features", "dense:values=log8"]


@pytest.mark.parametrize("mode", ["pixels", "fractions:f32", "fractions:f16", "derived"])
@pytest.mark.parametrize("codec", CODECS)
def test_the_caller_may_use_its_arrays_again(tmp_path, codec, mode):
    sampler = CropSampler(seed=4)
    files = []
    for reused in (False, True):
        with SoftLabelWriter(tmp_path / f"{reused}.slc", 20, codec, crops=mode, sampler=sampler if mode == "derived" else None) as writer:
            for number in range(6):
                rng = np.random.default_rng(number)
                crops, flips = sampler.sample(str(number), (48, 64), range(5))
                probs = random_probs(rng, 5, 20).astype(np.float16 if "f16" in codec else np.float32)
                arrays = {"crops": crops, "flips": flips, "vectors" if "content" in codec else "probs": probs}
                if mode.startswith("fractions"):
                    arrays["crops"] = (crops / 64).astype(f"f{int(mode[-2:]) // 8}")
                writer.add(str(number), image_size=(48, 64), **arrays)
                for array in arrays.values() if reused else ():
                    array[...] = 1
        files.append((tmp_path / f"{reused}.slc").read_bytes())
    assert files[0] == files[1]


def test_top_k_labels_may_be_used_again_too(tmp_path):
    files = []
    for reused in (False, True):
        with SoftLabelWriter(tmp_path / f"{reused}.slc", 20, "marginal_smoothing:k=2,values=f32,tail=5") as writer:
            for number in range(6):
                indices, values = np.array([[3, 5], [7, 1]]), np.float32([[0.5, 0.25 + number / 100], [0.75, 0.125]])
                left_out, crops, flips = (
                    np.full(20, 0.01),
                    np.array([[0, 0, 4, 4 + number], [1, 1, 2, 2]]),
                    np.array([number % 2 == 0, False]),
                )
                arrays = {"indices": indices, "values": values, "left_out": left_out, "crops": crops, "flips": flips}
                writer.add(str(number), image_size=(48, 64), **arrays)
                for array in arrays.values() if reused else ():
                    array[...] = 0
        files.append((tmp_path / f"{reused}.slc").read_bytes())
    assert files[0] == files[1]


def test_several_threads_may_add_images(tmp_path):
    errors = []

    def add(part: int) -> None:
        try:
            for number in range(part, 600, 3):
                crops, flips = CropSampler().sample(str(number), (48, 64), range(3))
                writer.add(
                    str(number), image_size=(48, 64), crops=crops, flips=flips, probs=random_probs(np.random.default_rng(number), 3, 20)
                )
        except Exception as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with SoftLabelWriter(tmp_path / "a.slc", 20, "marginal_smoothing:k=3") as writer:
            threads = [threading.Thread(target=add, args=(part,)) for part in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert Counter(reader.keys) == Counter(str(number) for number in range(600))
        for key in ("0", "299", "598"):
            wanted = random_probs(np.random.default_rng(int(key)), 3, 20).argmax(axis=1)
            np.testing.assert_array_equal(reader[key].labels.top1, wanted)
    assert verify(tmp_path / "a.slc", deep=True).ok


def test_two_threads_with_the_same_key(tmp_path):
    refused = []
    barrier = threading.Barrier(2)

    def add() -> None:
        barrier.wait()
        for number in range(200):
            try:
                writer.add(str(number), image_size=(1, 1), crops=[[0, 0, 1, 1]], flips=[False], indices=[[1]], values=[[1.0]])
            except ValueError as error:
                refused.append(str(error))

    with SoftLabelWriter(tmp_path / "a.slc", 20, "hard") as writer:
        threads = [threading.Thread(target=add) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(refused) == 200
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert len(set(reader.keys)) == len(reader) == 200
