"""`LabelledCrops`: crops and labels for images that come from pipelines of others."""

import io
import pickle
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from test_torch_side import label_folder
from torch.utils.data import DataLoader, IterableDataset

from softlabel_codec import ArgumentError, MismatchError, SoftLabelReader, SoftLabelWriter
from softlabel_codec.images import ArraySource
from softlabel_codec.images.files import load_image
from softlabel_codec.images.paths import list_images
from softlabel_codec.torch import LabelledCrops, SoftLabelDataset, collate_crops, collate_dense


@pytest.fixture
def labelled(image_folder, tmp_path):
    label_folder(image_folder, tmp_path / "labels.slc")
    return image_folder, tmp_path / "labels.slc"


def fields(folder, key):
    """Return a sample as WebDataset has it before decoding."""
    name, _, ending = key.rpartition(".")
    return {"__key__": name, "__url__": "a.tar", ending: (folder / key).read_bytes(), "cls": b"3"}


def assert_same(one, other):
    assert torch.equal(one.images, other.images)
    assert (one.key, one.index) == (other.key, other.index)
    np.testing.assert_array_equal(one.labels.dense(), other.labels.dense())


@pytest.mark.parametrize("options", [{}, {"normalized": False}, {"backend": "torch"}, {"stored_crops": 5, "seed": 3}])
def test_a_stream_gives_what_a_dataset_gives(labelled, options):
    folder, labels = labelled
    dataset, crops = SoftLabelDataset(folder, labels, 3, 8, **options), LabelledCrops(labels, 3, 8, match="stem", **options)
    for _ in range(4):
        for number, key in enumerate(list_images(folder)):
            assert_same(crops(fields(folder, key)), dataset[number])
    dataset.set_epoch(9)
    crops.set_epoch(9)
    assert_same(crops(fields(folder, "dog/palette.png")), dataset[5])


def test_every_form_of_an_image(labelled):
    folder, labels = labelled
    key = "dog/palette.png"
    image, data = load_image(folder / key), (folder / key).read_bytes()
    forms = [data, bytearray(data), str(folder / key), folder / key, image, np.asarray(image), {"bytes": data, "path": key}]
    expected = SoftLabelDataset(folder, labels, 2, 8)[5].images
    for form in forms:
        assert torch.equal(LabelledCrops(labels, 2, 8)({"key": key, "image": form}).images, expected)
    assert torch.equal(LabelledCrops(labels, 2, 8)({"image": {"bytes": data, "path": key}}).images, expected)
    assert torch.equal(LabelledCrops(labels, 2, 8)({"image": {"bytes": None, "path": str(folder / key)}, "key": key}).images, expected)
    other = LabelledCrops(labels, 2, 8, key="name", image="picture", match="basename")
    assert torch.equal(other({"name": "palette.png", "picture": data, "image": b"something else"}).images, expected)
    function = LabelledCrops(labels, 2, 8, key=lambda sample: "dog/" + sample["name"])
    assert torch.equal(function({"name": "palette.png", "PNG": data}).images, expected)


def test_batches_of_fields(labelled):
    folder, labels = labelled
    keys = list_images(folder)
    batch = {"image": [{"bytes": (folder / key).read_bytes(), "path": key} for key in keys], "label": [1, 2, 3, 4, 5, 6]}
    found = LabelledCrops(labels, 2, 8, target="label").batched(batch)
    rows = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    images, targets, classes = collate_crops(rows)
    dataset = SoftLabelDataset(folder, labels, 2, 8)
    expected, expected_targets = collate_crops([dataset[number] for number in range(6)])
    assert torch.equal(images, expected)
    assert torch.equal(targets.dense(), expected_targets.dense())
    assert classes.tolist() == np.repeat(batch["label"], 2).tolist()
    assert torch.equal(collate_dense(rows)[1], expected_targets.dense())


class Stream(IterableDataset):
    def __init__(self, folder, function, times):
        self.folder, self.function, self.times = folder, function, times

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        keys = list_images(self.folder) * self.times
        return map(self.function, (fields(self.folder, key) for key in keys[worker.id :: worker.num_workers]))


def test_workers_together_use_all_crops_before_any_again(labelled):
    folder, labels = labelled
    stream = Stream(folder, LabelledCrops(labels, 3, 8, match="stem", target="cls"), 1)
    loader = DataLoader(stream, 2, collate_fn=list, num_workers=2, persistent_workers=True)
    drawn = {}
    for _ in range(3):  # 9 crops are stored
        for samples in loader:
            for sample in samples:
                assert sample.target == 3
                drawn.setdefault(sample.key, []).append(sample.labels.dense())
    with SoftLabelReader(labels) as reader:
        for key, parts in drawn.items():
            got, stored = np.concatenate(parts), reader[key].labels.dense()
            assert sorted(map(tuple, got.tolist())) == sorted(map(tuple, stored.tolist()))


def test_boxes_without_images(labelled):
    labels = labelled[1]
    crops = LabelledCrops(labels, 2, 8, match="stem")
    first, second = crops.boxes(["dog/palette", "cat/a"]), crops.boxes(["dog/palette"])
    with SoftLabelReader(labels) as reader:
        rows = reader.find(["dog/palette.png", "cat/a.JPEG"])
        expected = reader.draw(rows, 2, seed=0, epoch=0)
        np.testing.assert_array_equal(first.crops, expected.crops)
        np.testing.assert_array_equal(first.labels.dense(), expected.labels.dense())
        np.testing.assert_array_equal(second.crops, reader.draw(rows[:1], 2, epoch=1).crops)


def test_a_copy_in_another_process_counts_on(labelled):
    folder, labels = labelled
    crops = LabelledCrops(labels, 2, 8)
    copy = pickle.loads(pickle.dumps(crops))
    sample = {"key": "cat/b.png", "image": (folder / "cat" / "b.png").read_bytes()}
    assert torch.equal(copy(sample).images, SoftLabelDataset(folder, labels, 2, 8)[1].images)


def test_samples_that_are_none(labelled):
    folder, labels = labelled
    crops, data = LabelledCrops(labels, 2, 8), (folder / "cat" / "b.png").read_bytes()
    with pytest.raises(ArgumentError, match=r"key: expected the key of an image, got None in a sample with the fields image. Say with"):
        crops({"image": data})
    with pytest.raises(ArgumentError, match=r"image: expected an image, got a sample with the fields key, picture. Say with image="):
        crops({"key": "cat/b.png", "picture": data})
    with pytest.raises(ArgumentError, match="sample: expected a mapping with a key and an image, got tuple"):
        crops((data, 3))
    with pytest.raises(ArgumentError, match="image: expected bytes of a file, a path, a PIL image or a uint8 array in 'image', got Tensor"):
        crops({"key": "cat/b.png", "image": torch.zeros(3)})
    with pytest.raises(KeyError, match=r"got 'cat/b'. Nearest: 'cat/b.png'.* Pass match='stem', which fits all keys"):
        crops({"key": "cat/b", "image": data})
    for said in (b"10", -1, "cat", 3.5, None, "²"):
        with pytest.raises(MismatchError, match="target: expected one of the 10 classes of the labels, got"):
            LabelledCrops(labels, 2, 8, target="cls")({"key": "cat/b.png", "image": data, "cls": said})
    with pytest.raises(ArgumentError, match="target: expected a field 'cls', got a sample with the fields key, image"):
        LabelledCrops(labels, 2, 8, target="cls")({"key": "cat/b.png", "image": data})
    with pytest.raises(ArgumentError, match="crops_per_image: expected at most 9"):
        LabelledCrops(labels, 10)
    with pytest.raises(ArgumentError, match="transform: LabelledCrops has none"):
        crops.transform = None
    small = io.BytesIO()
    Image.new("RGB", (3, 3)).save(small, "PNG")
    with pytest.raises(MismatchError, match="expected .* pixels .* as labelled, got 3 x 3"):
        crops({"key": "cat/b.png", "image": small.getvalue()})


def test_other_images_of_the_same_name_are_noticed(tmp_path):
    data = {}
    for name, level in (("a", 10), ("b", 200)):
        file = io.BytesIO()
        Image.new("RGB", (20, 20), (level,) * 3).save(file, "PNG")
        data[name] = file.getvalue()
    with SoftLabelWriter(tmp_path / "a.slc", 10, "hard", image_checksums=True) as writer:
        places = {"image_size": (20, 20), "crops": [[0, 0, 9, 9]], "flips": [False]}
        writer.add("a", **places, indices=[[1]], values=[[1.0]], image_crc32=zlib.crc32(data["a"]))
    crops = LabelledCrops(tmp_path / "a.slc", 1, 8)
    with pytest.raises(MismatchError, match="image 'a': expected the file that was labelled"):
        crops({"key": "a", "image": data["b"]})
    assert LabelledCrops(tmp_path / "a.slc", 1, 8, check_images=False)({"key": "a", "image": data["b"]}).images.shape == (1, 3, 8, 8)
    assert crops({"key": "a", "image": data["a"]}).images.shape == (1, 3, 8, 8)


def test_batches_that_are_none(labelled):
    folder, labels = labelled
    crops, data = LabelledCrops(labels, 2, 8), (folder / "dog/palette.png").read_bytes()
    for batch, message in [
        ([{"key": "dog/palette.png", "image": data}], "expected a mapping of lists, got list"),
        ({"key": ["dog/palette.png"], "image": [data, data]}, "got lengths {'key': 1, 'image': 2}"),
        ({"key": ["dog/palette.png"], "image": [data], "number": 3}, "got lengths {'key': 1, 'image': 1, 'number': None}"),
    ]:
        with pytest.raises(ArgumentError, match=f"batch: .*{message}"):
            crops.batched(batch)


def test_images_under_other_keys_than_in_the_label_file(tmp_path):
    pixels = {f"{name}.png": np.full((20, 20, 3), 40 * number, np.uint8) for number, name in enumerate("abc")}
    with SoftLabelWriter(tmp_path / "a.slc", 10, "hard") as writer:
        for name in "abc":
            places = {"image_size": (20, 20), "crops": [[0, 0, 9, 9]], "flips": [False]}
            writer.add(f"train/{name}.png", **places, indices=[[1]], values=[[1.0]])

    def dataset(**options):
        return SoftLabelDataset(pixels, tmp_path / "a.slc", 1, 4, normalized=False, **options)

    found = dataset(key=lambda key: key.removeprefix("train/"))
    assert [int(found[number].images.max()) for number in range(3)] == [0, 40, 80]
    assert (found.source_keys, found[2].key) == (["a.png", "b.png", "c.png"], "train/c.png")
    some = dataset(keys=["train/c.png", "train/b.png"], key=lambda key: key.removeprefix("train/"))
    assert [int(some[number].images.max()) for number in range(2)] == [80, 40]
    with pytest.raises(MismatchError, match="key: expected another key for each image, got 'a.png' for 'train/a.png' and 'train/b.png'"):
        dataset(key=lambda key: "a.png")
    with pytest.raises(ArgumentError, match="key: expected a function that returns the key of an image, got None for 'train/a.png'"):
        dataset(key=lambda key: None)
    with pytest.raises(MismatchError, match="3 of 3 labelled images are not in"):
        dataset(key=lambda key: key.upper())
    with pytest.raises(ArgumentError, match="key: expected a function that returns the key of an image, got 'stem'"):
        dataset(key="stem")


def test_an_image_that_labelling_skipped_is_no_surprise_under_another_key(tmp_path, recwarn):
    images = ArraySource(np.zeros((2, 20, 20, 3), np.uint8), ["a.png", "b.png"])
    with SoftLabelWriter(tmp_path / "a.slc", 10, "hard") as writer:
        writer.add("train/a.png", image_size=(20, 20), crops=[[0, 0, 9, 9]], flips=[False], indices=[[1]], values=[[1.0]])
        writer.finish(skipped_keys=["train/b.png"])
    assert len(SoftLabelDataset(images, tmp_path / "a.slc", 1, 4, key=lambda key: key.removeprefix("train/"))) == 1
    assert not recwarn.list
