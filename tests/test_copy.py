"""Copies of label files and sets: merged, split, chosen from, stored in another codec."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softlabel_codec import (
    CropSampler,
    SoftLabelReader,
    SoftLabelWriter,
    copy_labels,
)
from softlabel_codec.label_set.index_file import SetIndex
from softlabel_codec.label_set.making import read_shards
from softlabel_codec.report import verify

NUM_CLASSES = 20
CODECS = ["marginal_smoothing:k=5", "marginal_smoothing:t=0.05,tail=6", "hard", "dense:values=f16"]


def write(path, keys="abcdefgh", codec="marginal_smoothing:k=5", counts=None, **options):
    """Write a file of images with these keys, whose labels depend on the key only."""
    with SoftLabelWriter(path, NUM_CLASSES, codec, options.pop("metadata", {"temperature": 1.0}), **options) as writer:
        for place, key in enumerate(keys):
            rng = np.random.default_rng(list(key.encode()))
            count = int(rng.integers(1, 9)) if counts is None else counts[place]
            size = tuple(rng.integers(40, 60, 2).tolist())
            where = (
                {} if options.get("sampler") else dict(zip(("crops", "flips"), CropSampler(1).sample(key, size, range(count)), strict=True))
            )
            extra = {"image_crc32": len(key)} if options.get("image_checksums") else {}
            writer.add(key, image_size=size, probs=rng.dirichlet(np.full(NUM_CLASSES, 0.2), count).astype("f4"), **where, **extra)
    return path


def files_of(path):
    """Return the files of a set, or the one that is none, after checking that each is sound and that the index is true."""
    files = [path]
    if path.is_dir():
        (index_file,) = path.glob("*.slc.index.json")
        index = SetIndex.unpack(index_file.read_bytes())
        files = [path / shard.file for shard in index.shards]
        assert sorted(path.iterdir()) == sorted([*files, index_file])
        assert read_shards(files) == index
    for file in files:
        report = verify(file, deep=True)
        assert report.ok, report.problems
    return files


def contents(*paths):
    """Return what is stored of each image of files and sets, by key, in order."""
    found = {}
    for path in paths:
        for file in files_of(path):
            with SoftLabelReader(file) as reader:
                for key, image in zip(reader.keys, reader, strict=True):
                    assert key not in found
                    found[key] = image
    return found


def same(found, expected):
    """Assert that images have the same crops and labels, in the same order."""
    assert list(found) == list(expected)
    for key, image in found.items():
        other = expected[key]
        assert (image.image_size, image.image_crc32) == (other.image_size, other.image_crc32)
        np.testing.assert_array_equal(image.crops, other.crops)
        np.testing.assert_array_equal(image.flips, other.flips)
        np.testing.assert_array_equal(image.labels.dense(), other.labels.dense())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", [{}, {"crops": "derived", "sampler": CropSampler(3)}, {"image_checksums": True}])
def test_an_unchanged_copy_has_the_same_bytes(tmp_path, codec, layout):
    source = write(tmp_path / "a.slc", [f"k{number}" for number in range(1200)], codec, counts=[1] * 1200, **layout)
    report = copy_labels(source, tmp_path / "b.slc")
    assert (tmp_path / "b.slc").read_bytes() == source.read_bytes()
    assert (report.num_images, report.num_crops, report.num_files, report.decoded_blocks) == (1200, 1200, 1, 0)
    with SoftLabelReader(source) as reader:
        assert report.copied_blocks == reader.container.trailer.num_blocks
    assert report.num_bytes == source.stat().st_size


@pytest.mark.parametrize("codec", CODECS)
def test_split_and_merged_again(tmp_path, codec):
    source = write(tmp_path / "a.slc", [f"k{number:04d}" for number in range(700)], codec)
    report = copy_labels([source], tmp_path / "set", shards=4)
    files = files_of(tmp_path / "set")
    assert [file.name for file in files] == [f"set-{number:05d}-of-00004.slc" for number in range(4)]
    assert report.num_files == 4
    assert report.decoded_blocks == 0  # files end between blocks
    assert report.num_bytes == sum(file.stat().st_size for file in files)
    same(contents(tmp_path / "set"), contents(source))
    copy_labels(tmp_path / "set", tmp_path / "again.slc")
    assert (tmp_path / "again.slc").read_bytes() == source.read_bytes()
    copy_labels(files, tmp_path / "by-files.slc")
    same(contents(tmp_path / "by-files.slc"), contents(source))


@pytest.mark.parametrize("derived", [True, False])
@pytest.mark.parametrize("codec", CODECS)
@given(data=st.data())
def test_random_splits_and_merges_keep_the_labels(tmp_path_factory, codec, derived, data):
    folder = tmp_path_factory.mktemp("random")
    layout = {"crops": "derived", "sampler": CropSampler(2)} if derived else {"image_checksums": True}
    keys = data.draw(st.lists(st.text("abc/é", min_size=1, max_size=4), unique=True, max_size=30))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(keys)), max_size=3)))
    parts = [keys[start:end] for start, end in zip([0, *cuts], [*cuts, len(keys)], strict=True)]
    sources = [write(folder / f"{number}.slc", part, codec, **layout) for number, part in enumerate(parts)]
    how = data.draw(
        st.one_of(
            st.just({}),
            st.builds(lambda n: {"shards": n}, st.integers(1, 9)),
            st.builds(lambda n: {"shard_bytes": n}, st.integers(1, 4000)),
        )
    )
    chosen = data.draw(st.one_of(st.none(), st.lists(st.sampled_from(keys or ["none"]), unique=True, min_size=1)))
    crops = data.draw(st.one_of(st.none(), st.integers(1, 9)))
    if not keys and chosen:
        chosen = None
    report = copy_labels(sources, folder / "copy", keys=chosen, crops=crops, **how)
    expected = contents(*sources)
    found = contents(folder / "copy")
    wanted = {key: image for key, image in expected.items() if chosen is None or key in chosen}
    assert list(found) == list(wanted)
    for key, image in found.items():
        rows = slice(0, crops)
        np.testing.assert_array_equal(image.crops, wanted[key].crops[rows])
        np.testing.assert_array_equal(image.flips, wanted[key].flips[rows])
        np.testing.assert_array_equal(image.labels.dense(), wanted[key].labels.dense()[rows])
        assert image.image_crc32 == wanted[key].image_crc32
    assert report.num_images == len(found)
    assert report.num_crops == sum(image.num_crops for image in found.values())
    if "shards" in how:
        assert report.num_files == how["shards"]
