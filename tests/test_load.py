"""Many workers, many threads, large files, many images; small versions of what `load.py` can do."""

import load
import numpy as np
import pytest

from softlabel_codec import CorruptError, SoftLabelReader

MIB = 2**20


@pytest.mark.torch
@pytest.mark.parametrize(("start_method", "workers"), [("fork", 16), ("spawn", 3), ("forkserver", 3)])
def test_workers_of_every_start_method_read_one_file(tmp_path, start_method, workers):
    found = load.worker_reads(tmp_path, 12_000, start_method, workers=workers, num_images=1000)
    assert (found.start_method, found.workers, len(found.memory_bytes)) == (start_method, workers, 10)
    assert found.reads >= 12_000
    assert found.growth_bytes < workers * 8 * MIB  # the caches of a reader and of numpy fill up; a leak would show over a million reads


def test_threads_share_a_reader(tmp_path):
    found = load.thread_reads(tmp_path, 6000, num_images=1000)
    assert (found.threads, found.reads >= 6000) == (8, True)


def test_offsets_of_more_than_32_bits(tmp_path):
    found = load.holes_before_the_end(tmp_path)
    assert 2**32 < found.last_block_offset < found.keys_offset < found.summary_offset < found.index_offset < found.file_bytes
    assert found.disk_bytes < MIB, "the file system knows no holes"


def test_blocks_of_many_megabytes(tmp_path):
    found = load.large_file(tmp_path, 2 * load.LARGE_IMAGE_BYTES)
    assert found.verified
    assert (found.num_images, found.num_blocks) == (4, 4)
    assert found.last_block_offset > 2 * load.LARGE_IMAGE_BYTES
    assert found.disk_bytes < found.file_bytes


@pytest.mark.parametrize("ascending", [False, True])
def test_many_images(tmp_path, ascending):
    found = load.many_images(tmp_path, 100_000, look_ups=500, ascending=ascending)
    assert (found.num_images, found.look_ups, found.ascending) == (100_000, 500, ascending)
    assert found.open_bytes < found.used_bytes < 50 * MIB


def test_the_workloads_notice_wrong_labels(tmp_path):
    load.write_known(tmp_path / "known.slc", 300)
    with SoftLabelReader(tmp_path / "known.slc") as reader:
        assert load.read_some(reader, 0) == load.BATCH
        images, crops = np.full(2, 7), np.array([3, 4])
        load.check_read(reader.read(7, [3, 4]), images, crops)
        for other in (reader.read(7, [4, 3]), reader.read(8, [3, 4])):
            with pytest.raises(AssertionError, match="images .7, 7., crops .3, 4.: what was read is not what was written"):
                load.check_read(other, images, crops)


def test_a_damaged_block_is_noticed_by_those_who_read_it(tmp_path):
    path = tmp_path / "known.slc"
    load.write_known(path, 30)
    with SoftLabelReader(path) as reader:
        block, _ = reader.container.index.locate(15)
        place = int(reader.container.index.starts[block]) + 40
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    with SoftLabelReader(path) as reader, pytest.raises(CorruptError, match=f"checksum of block {block} differs"):
        load.read_some(reader, 0)
