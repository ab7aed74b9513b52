"""Label files to copy, and what is stored in the copies."""

import numpy as np

from softlabel_codec import CropSampler, Padding, SoftLabelReader, SoftLabelWriter
from softlabel_codec.label_set.index_file import SetIndex
from softlabel_codec.label_set.making import read_shards
from softlabel_codec.report import verify

NUM_CLASSES = 20
CODECS = ["marginal_smoothing:k=5", "marginal_smoothing:t=0.05,tail=6", "hard", "dense:values=f16", "dense:values=log8"]
LAYOUTS = [{}, {"crops": "derived", "sampler": CropSampler(3)}, {"image_checksums": True, "padding": Padding(4)}]


def probs_of(key, count):
    rng = np.random.default_rng(list(key.encode()))
    return rng.dirichlet(np.full(NUM_CLASSES, 0.2), count).astype(np.float32)


def write(path, keys="abcdefgh", codec="marginal_smoothing:k=5", *, counts=None, skipped=(), num_classes=NUM_CLASSES, **options):
    """Write a file of images with these keys, whose labels depend on the key only, and return its path."""
    options = {"metadata": {"temperature": 1.0}, **options}
    with SoftLabelWriter(path, num_classes, codec, **options) as writer:
        for place, key in enumerate(keys):
            rng = np.random.default_rng(len(key) + place)
            count = int(rng.integers(1, 9)) if counts is None else counts[place]
            size = tuple(rng.integers(40, 60, 2).tolist())
            crops, flips = CropSampler(1).sample(key, size, range(count))
            where = {} if options.get("sampler") else {"crops": crops, "flips": flips}
            extra = {"image_crc32": len(key)} if options.get("image_checksums") else {}
            probs = probs_of(key, count)
            writer.add(key, image_size=size, probs=np.pad(probs, ((0, 0), (0, num_classes - NUM_CLASSES))), **where, **extra)
        writer.finish(skipped_keys=skipped)
    return path


def files_of(path):
    """Return the files of a set, or the one that is none, after checking that all are sound, and that the index is true."""
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
    for file in (file for path in paths for file in files_of(path)):
        with SoftLabelReader(file) as reader:
            for key, image in zip(reader.keys, reader, strict=True):
                assert key not in found
                found[key] = image
    return found


def same(found, expected, crops=None):
    """Assert that images are the same in the same order, or the first crops of them."""
    assert list(found) == list(expected)
    for key, image in found.items():
        other = expected[key]
        assert (image.image_size, image.image_crc32) == (other.image_size, other.image_crc32)
        np.testing.assert_array_equal(image.crops, other.crops[:crops])
        np.testing.assert_array_equal(image.flips, other.flips[:crops])
        np.testing.assert_array_equal(image.labels.dense(), other.labels.dense()[:crops])


def metadata_of(path):
    with SoftLabelReader(files_of(path)[0]) as reader:
        return reader.metadata
