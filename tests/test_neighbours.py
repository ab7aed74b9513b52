"""The reading policy `neighbours`: remainders go to classes that overlapping crops of an image keep."""

import pickle
import tracemalloc

import numpy as np
import pytest

from softlabel_codec import CropSampler, SoftLabelReader, SoftLabelWriter
from softlabel_codec.copying import copy_labels
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.labels import SparseLabels
from softlabel_codec.quantise.neighbours import spread_along_neighbours

CLASSES, CROPS, SIZE = 12, 9, (40, 60)


def iou(a, b):
    common = [max(0, min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    both = common[0] * common[1]
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def by_hand(labels, crops, row):
    """Return the targets of a crop, class by class, as the specification says."""
    count, classes = len(labels), labels.num_classes
    kept = [{int(c): float(v) for c, v in zip(labels.indices[j], labels.values[j], strict=True) if c >= 0} for j in range(count)]
    even = [float(labels.remainder[j]) / max(1, classes - len(kept[j])) for j in range(count)]
    weights = [iou(crops[row], crops[j]) ** 3 for j in range(count)]
    mean = {c: sum(w * kept[j].get(c, even[j]) for j, w in enumerate(weights)) / sum(weights) for c in range(classes) if c not in kept[row]}
    anywhere = set().union(*kept)
    scale = float(labels.remainder[row]) / sum(mean.values()) if mean else 0.0
    least = min(kept[row].values())
    targets = dict(kept[row])
    for c in mean.keys() & anywhere:
        targets[c] = min(mean[c] * scale, least if len(anywhere) < classes else np.inf)
    left = float(labels.remainder[row]) - sum(targets[c] for c in mean.keys() & anywhere)
    rest = [c for c in range(classes) if c not in targets]
    return np.array([targets.get(c, left / len(rest) if rest else 0.0) for c in range(classes)])


def random_labels(rng, num_classes=CLASSES, width=3):
    probs = rng.dirichlet(np.full(num_classes, 0.4), CROPS).astype(np.float32)
    indices = np.argsort(-probs, axis=1)[:, :width].astype(np.int32)
    values = np.take_along_axis(probs, indices, axis=1)
    dropped = np.arange(width) >= rng.integers(1, width + 1, CROPS)[:, None]
    indices[dropped], values[dropped] = -1, 0
    return SparseLabels(indices, values, np.maximum(1 - values.sum(axis=1), 0).astype(np.float32), num_classes)


def random_crops(rng):
    heights, widths = rng.integers(5, 41, CROPS), rng.integers(5, 61, CROPS)
    return np.stack([rng.integers(0, 41 - heights), rng.integers(0, 61 - widths), heights, widths], axis=1)


@pytest.mark.parametrize("seed", range(20))
def test_targets_are_those_of_the_specification(seed):
    rng = np.random.default_rng(seed)
    labels, crops = random_labels(rng, num_classes=[4, CLASSES, 100][seed % 3]), random_crops(rng)
    spread = spread_along_neighbours(labels, crops)
    expected = np.stack([by_hand(labels, crops, row) for row in range(CROPS)])
    np.testing.assert_allclose(spread.dense(), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(spread.dense().sum(axis=1), 1, atol=1e-6)
    assert spread.top1.tolist() == labels.top1.tolist()
    chosen = np.array([4, 0, 4])
    np.testing.assert_allclose(spread_along_neighbours(labels, crops / 60, chosen).dense(), spread.dense()[chosen], rtol=1e-5, atol=1e-7)


def test_thousands_of_crops_need_little_memory():
    rng, count = np.random.default_rng(0), 4000
    crops = np.stack([rng.integers(0, 50, count), rng.integers(0, 50, count), *rng.integers(5, 40, (2, count))], axis=1)
    values = rng.uniform(0.3, 0.9, (count, 1)).astype(np.float32)
    labels = SparseLabels(rng.integers(0, 8, (count, 1)).astype(np.int32), values, 1 - values[:, 0], 8)
    tracemalloc.start()
    spread = spread_along_neighbours(labels, crops)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**27  # less than a single matrix of all pairs of crops
    chosen = np.array([3999, 0, 2000])
    np.testing.assert_allclose(spread_along_neighbours(labels, crops, chosen).dense(), spread.dense()[chosen], rtol=1e-5, atol=1e-7)


def test_a_class_that_is_guessed_stays_below_those_that_are_kept():
    indices, values = np.int32([[0], [1]]), np.float32([[0.1], [0.9]])
    labels = SparseLabels(indices, values, np.float32([0.9, 0.1]), 50)
    spread = spread_along_neighbours(labels, np.array([[0, 0, 10, 10], [0, 0, 10, 10]]))
    assert spread.top1.tolist() == [0, 1]
    assert spread.dense()[0, 0] == np.float32(0.1) > spread.dense()[0, 1] > 0.099


def test_crops_that_leave_nothing_are_as_they_were():
    labels = SparseLabels(np.int32([[3], [1]]), np.float32([[1], [1]]), np.float32([0, 0]), CLASSES)
    spread = spread_along_neighbours(labels, np.array([[0, 0, 10, 10], [0, 0, 10, 10]]))
    np.testing.assert_array_equal(spread.dense(), labels.dense())
    assert spread.indices[:, 1].tolist() == [-1, -1]


def write(path, codec="marginal_smoothing:k=3", crops="pixels", images=5, metadata=None):
    rng = np.random.default_rng(1)
    sampler = CropSampler(seed=3) if crops == "derived" else None
    with SoftLabelWriter(path, CLASSES, codec, metadata or {}, crops=crops, sampler=sampler) as writer:
        for number in range(images):
            probs = rng.dirichlet(np.full(CLASSES, 0.3), CROPS + number).astype(np.float32)
            geometry = np.tile(random_crops(rng), (2, 1))[: CROPS + number]
            stored = {} if crops == "derived" else {"crops": geometry, "flips": np.zeros(CROPS + number, bool)}
            writer.add(f"image{number}", image_size=SIZE, probs=probs, **stored)
    return path


@pytest.mark.parametrize("crops", ["pixels", "derived"])
@pytest.mark.parametrize("codec", ["marginal_smoothing:k=3", "marginal_smoothing:t=0.1", "smoothing", "marginal_renorm:k=2"])
def test_a_reader_gives_the_same_whichever_way_it_reads(tmp_path, codec, crops):
    path = write(tmp_path / "a.slc", codec, crops)
    with SoftLabelReader(path) as plain, SoftLabelReader(path, policy="neighbours") as reader:
        for number, image in enumerate(reader):
            stored = plain.read(number)
            expected = spread_along_neighbours(stored.labels, stored.crops).dense()
            assert image.num_crops == CROPS + number
            np.testing.assert_allclose(image.labels.dense(), expected, atol=1e-7)
            some = reader.read(number, [7, 2])
            np.testing.assert_allclose(some.labels.dense(), expected[[7, 2]], atol=1e-7)
            np.testing.assert_array_equal(some.crops, stored.crops[[7, 2]])
        batch = reader.read_batch([3, 1], np.array([[0, 5], [8, 8]]))
        one_by_one = [reader.read(3, [0, 5]), reader.read(1, [8, 8])]
        assert batch.num_crops.tolist() == [2, 2]
        np.testing.assert_array_equal(batch.crops, np.concatenate([image.crops for image in one_by_one]))
        np.testing.assert_allclose(batch.labels.dense(), np.concatenate([image.labels.dense() for image in one_by_one]), atol=1e-7)
        everything = reader.read_batch([4, 0])
        np.testing.assert_allclose(everything.labels.dense()[:13], reader.read(4).labels.dense(), atol=1e-7)
        assert len(reader.read(2, []).labels) == 0
        again = pickle.loads(pickle.dumps(reader))
        np.testing.assert_array_equal(again.read(2).labels.dense(), reader.read(2).labels.dense())
        again.close()


def test_a_set_is_read_like_a_file(tmp_path):
    write(tmp_path / "a.slc")
    copy_labels(tmp_path / "a.slc", tmp_path / "set", shards=2)
    with SoftLabelReader(tmp_path / "a.slc", policy="neighbours") as one, SoftLabelReader(tmp_path / "set", policy="neighbours") as several:
        for key in one.keys:
            np.testing.assert_array_equal(one.read(key, [1, 3]).labels.dense(), several.read(key, [1, 3]).labels.dense())


@pytest.mark.parametrize("codec", ["marginal_smoothing:k=3,tail=4", "hard", "dense", "field"])
def test_labels_that_know_more_or_less_are_refused(tmp_path, codec):
    path = write(tmp_path / "a.slc", codec, images=1)
    with pytest.raises(ArgumentError, match="policy"):
        SoftLabelReader(path, policy="neighbours")


def test_labels_of_unknown_crops_are_refused(tmp_path):
    path = write(tmp_path / "a.slc", metadata={"unknown_crops": "they were augmented elsewhere"})
    with pytest.raises(MismatchError, match="not known which crops"):
        SoftLabelReader(path, policy="neighbours")


def test_another_temperature_is_refused_as_without_neighbours(tmp_path):
    path = write(tmp_path / "a.slc", metadata={"temperature": 1.0})
    with pytest.raises(ArgumentError, match="spread the remainder evenly"):
        SoftLabelReader(path, policy="neighbours", temperature=4)
