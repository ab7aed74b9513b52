"""Labels that TinyViT stored, in files written by the formulas of its `save_logits.py` and `data/augmentation/manager.py`."""

import numpy as np
import pytest
from conftest import random_probs

from softlabel_codec import ArgumentError, CorruptError, MismatchError, SoftLabelReader
from softlabel_codec.formats import import_labels

NUM_CLASSES, TOPK = 120, 10


def save_epoch(folder, epoch, keys_of_ranks, rng, topk=TOPK, num_classes=NUM_CLASSES):
    """Write an epoch as TinyViT does, and return probabilities and seed of each key, of the rank that came first."""
    place = folder / f"logits_top{topk}_epoch{epoch}"
    place.mkdir(parents=True)
    stored = {}
    for rank, keys in enumerate(keys_of_ranks):
        softmax_prob = random_probs(rng, len(keys), num_classes)
        indices = np.argsort(-softmax_prob, axis=1, kind="stable")[:, :topk]  # topk(largest=True, sorted=True)
        values = np.take_along_axis(softmax_prob, indices, axis=1)
        with open(place / f"rank{rank}-keys.txt", "w") as keys_file, open(place / f"rank{rank}-values.bin", "wb") as values_file:
            for key, indice, value in zip(keys, indices.astype(np.int16), values.astype(np.float16), strict=True):
                seed = np.int32(rng.integers(0, 1 << 31))
                keys_file.write(key + "\n")
                values_file.write(seed.tobytes() + indice.tobytes() + value.tobytes())
                stored.setdefault(key, (indice, value))
    return stored


def target(indice, value, num_classes=NUM_CLASSES):
    """Return what TinyViT trains with: `train_one_epoch_distill_using_saved_logits` of its `main.py`."""
    logits_index, logits_value = indice.astype(np.int64), value.astype(np.float32)
    minor_value = (1.0 - logits_value.sum()) / (num_classes - len(logits_value))
    outputs_teacher = np.full(num_classes, minor_value, np.float32)
    outputs_teacher[logits_index] = logits_value
    return outputs_teacher


@pytest.fixture
def saved(tmp_path):
    """Two epochs of two processes, and what is in them. The second process of epoch 0 has an image again, to fill up its last batch."""
    rng = np.random.default_rng(0)
    ranks = [["n01/n01_1", "n01/n01_2", "n02/n02_7"], ["n02/n02_8", "n02/n02_9", "n01/n01_2"]]
    epochs = [save_epoch(tmp_path / "logits", epoch, [ranks[epoch], ranks[1 - epoch]], rng) for epoch in range(2)]
    return tmp_path / "logits", epochs


def test_labels_are_those_that_tinyvit_trains_with(saved, tmp_path):
    folder, epochs = saved
    report = import_labels(folder, tmp_path / "a.slc", num_classes=NUM_CLASSES)
    assert (report.format, report.codec) == ("TinyViT", "marginal_smoothing:k=10,values=f16")
    assert (report.num_images, report.num_crops) == (5, 10)
    assert report.source_bytes == 12 * (4 + 4 * TOPK)
    assert report.lost[0].startswith("seeds: 10 seeds of 4 bytes. Keep the files")
    assert report.lost[1].startswith("2 labels of images that came twice in an epoch")
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert set(reader.keys) == set(epochs[0])
        assert reader.metadata["source"] == {"format": "TinyViT", "epochs": [0, 1], "top_k": TOPK}
        assert reader.temperature == 1.0
        for key in reader.keys:
            expected = [target(*epoch[key]) for epoch in epochs]
            labels = reader[key].labels
            np.testing.assert_allclose(labels.dense(), np.maximum(expected, 0), rtol=0, atol=2e-6)
            for row, epoch in enumerate(epochs):
                np.testing.assert_array_equal(labels.values[row], epoch[key][1].astype(np.float32))


def test_no_student_is_trained_from_crops_that_nobody_knows(saved, tmp_path):
    folder, _ = saved
    report = import_labels(folder / "logits_top10_epoch1", tmp_path / "a.slc", num_classes=NUM_CLASSES)
    assert report.num_crops == 5
    assert "training: TinyViT stores the seed of its augmentation, not the crop" in report.lost[-1]
    with SoftLabelReader(tmp_path / "a.slc") as reader, pytest.raises(MismatchError, match="TinyViT stores the seed"):
        reader.draw([0], crops_per_image=1)


def test_an_image_that_an_epoch_lacks(tmp_path):
    rng = np.random.default_rng(0)
    save_epoch(tmp_path, 0, [["a", "b"]], rng)
    save_epoch(tmp_path, 3, [["b", "c"]], rng)
    import_labels(tmp_path, tmp_path / "a.slc", num_classes=NUM_CLASSES)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert {key: reader[key].num_crops for key in reader.keys} == {"a": 1, "b": 2, "c": 1}


def test_negative_remainders_are_clamped(tmp_path):
    rng = np.random.default_rng(0)
    save_epoch(tmp_path, 0, [["a"]], rng)
    values = np.array([0.5, 0.2, 0.1, 0.1, 0.1, 0.0003, 0, 0, 0, 0], np.float16)
    assert values.astype(np.float32).sum() > 1
    path = tmp_path / "logits_top10_epoch0" / "rank0-values.bin"
    path.write_bytes(path.read_bytes()[:24] + values.tobytes())
    import_labels(tmp_path, tmp_path / "a.slc", num_classes=NUM_CLASSES)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert reader["a"].labels.dense().min() == 0


def test_numbers_for_names_are_said(tmp_path):
    save_epoch(tmp_path, 0, [["0", "1"]], np.random.default_rng(0))
    assert (
        "names of images: keys are their numbers in TinyViT's dataset" in import_labels(tmp_path, tmp_path / "a.slc", num_classes=120).lost
    )


def refused(folder, error, message, num_classes=NUM_CLASSES, **options):
    with pytest.raises(error, match=message):
        import_labels(folder, folder.parent / "out.slc", num_classes=num_classes, **options)


def test_indices_that_wrapped(saved):
    folder, _ = saved
    refused(folder, MismatchError, "int16, which wrapped above 32767", num_classes=40_000)
    refused(folder, ArgumentError, "TinyViT's files do not say it", num_classes=None)
    refused(folder, MismatchError, "expected class indices from 0 to 99, got .* indices above 32767 wrapped", num_classes=100)
    path = folder / "logits_top10_epoch0" / "rank0-values.bin"
    data = bytearray(path.read_bytes())
    data[4:6] = np.int16(np.array(40_000).astype(np.int16)).tobytes()
    path.write_bytes(data)
    refused(folder, MismatchError, r"rank0-values\.bin: n01/n01_1: expected class indices from 0 to 119, got -25536")


def test_damaged_and_missing_files(saved):
    folder, _ = saved
    epoch = folder / "logits_top10_epoch0"
    keys, values = epoch / "rank1-keys.txt", epoch / "rank1-values.bin"
    for damaged, data, message in (
        (values, values.read_bytes()[:-1], r"rank1-values\.bin: expected 132 bytes, 3 labels of 44 bytes, got 131. It is cut off"),
        (keys, keys.read_bytes()[:-1], r"rank1-keys\.txt: is cut off"),
        (keys, b"a\nb\na\n", "expected a key on each line, each once"),
        (keys, b"\xff\n", "expected UTF-8"),
    ):
        before = damaged.read_bytes()
        damaged.write_bytes(data)
        refused(folder, CorruptError, message)
        damaged.write_bytes(before)
    with_nan = bytearray(values.read_bytes())
    with_nan[42:44] = np.float16(np.nan).tobytes()
    values.write_bytes(with_nan)
    refused(folder, MismatchError, "holds NaN")
    keys.unlink()
    refused(folder, MismatchError, "expected its keys beside it, rank1-keys.txt")
    values.unlink()
    (epoch / "rank0-values.bin").rename(epoch / "rank2-values.bin")
    refused(folder, MismatchError, "expected files of all processes, rank0 to the last, got rank2")


def test_the_name_of_the_folder_counts(saved):
    folder, _ = saved
    (folder / "logits_top10_epoch1").rename(folder / "logits_top5_epoch1")
    refused(folder, MismatchError, "expected folders of one K, got 5, 10")
    refused(folder / "logits_top5_epoch1", CorruptError, "or K, 5 by the name of its folder, is another")
    (folder / "logits_top5_epoch1").rename(folder / "logits")
    refused(folder / "logits", ArgumentError, "only its name says what K is", format="tinyvit")
