"""Images in what WebDataset, Hugging Face datasets and torchvision themselves write and hold (`make test-others`)."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from written_sources import CLASSES, IMAGES, KEYS, TARGETS, write_folder

from softlabel_codec import ArgumentError, SoftLabelReader
from softlabel_codec.image_source import where_is
from softlabel_codec.images import open_images
from softlabel_codec.images.files import load_image
from softlabel_codec.teacher import EncodeConfig, encode
from softlabel_codec.torch import SoftLabelDataset

pytestmark = pytest.mark.others

ROWS = [f"{number:08d}" for number in range(12)]
NAMES = [key.rpartition("/")[2] for key in KEYS]


def same_labels(images, folder, teacher_file, out):
    """Return whether images and those of a folder get the same labels, in the same order of keys in both."""
    files = []
    for number, one in enumerate((images, str(folder))):
        encode(EncodeConfig(one, f"{out}-{number}.slc", teacher_file, "marginal_smoothing:k=3", 4))
        with SoftLabelReader(f"{out}-{number}.slc") as reader:
            files.append([(image.crops.tolist(), image.labels.dense().tolist()) for image in reader])
    return files[0] == files[1]


def test_shards_that_webdataset_wrote(tmp_path, teacher_file):
    from webdataset import ShardWriter

    with ShardWriter(f"{tmp_path}/s-%06d.tar", maxcount=5, verbose=0) as writer:
        for key, target in zip(KEYS, TARGETS, strict=True):
            stem, _, ending = key.rpartition(".")
            writer.write({"__key__": stem, ending: IMAGES[key], "cls": target, "json": {"class": CLASSES[target]}})
    pattern = f"{tmp_path}/s-{{000000..000002}}.tar"
    source = open_images(pattern)
    assert list(source.keys()) == KEYS
    assert source.targets().tolist() == TARGETS
    assert {key: source.read(key) for key in KEYS} == IMAGES
    assert same_labels(pattern, write_folder(tmp_path / "images"), teacher_file, tmp_path / "a")


@pytest.fixture
def dataset(tmp_path):
    """A dataset of Hugging Face's of the images in a folder, whose files it knows by their paths."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    folder = write_folder(tmp_path / "images")
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(CLASSES))})
    return Dataset.from_dict({"image": [str(folder / key) for key in KEYS], "label": TARGETS}, features=features)


def test_classes_of_a_dataset_of_hugging_face_are_its_column_of_labels(dataset, tmp_path):
    from datasets import ClassLabel, Value

    domains = dataset.add_column("domain", [1] * len(KEYS)).cast_column("domain", ClassLabel(names=["photo", "sketch"]))
    before = domains.select_columns(["domain", "image", "label"])
    numbers = dataset.cast_column("label", Value("int64"))
    for number, images in enumerate((before, numbers)):
        images.save_to_disk(tmp_path / f"{number}")
        assert open_images(images).targets().tolist() == open_images(tmp_path / f"{number}").targets().tolist() == TARGETS
    assert open_images(dataset.rename_column("label", "other")).targets() is None


def test_a_row_without_an_image_is_skipped(tmp_path, teacher_file):
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    rows = [None, *({"bytes": data, "path": None} for data in IMAGES.values())]
    dataset = Dataset.from_dict({"image": rows}, features=Features({"image": ImageFeature()}))
    report = encode(EncodeConfig(dataset, str(tmp_path / "a.slc"), teacher_file, "hard", 2, on_error="skip"))
    assert (report.num_images, report.skipped) == (12, {ROWS[0]: "Dataset: row 0: expected an image, got nothing"})
    with SoftLabelReader(report.path) as reader:
        assert reader.image_checksums


def test_a_dataset_of_hugging_face(dataset, tmp_path, teacher_file):
    from datasets import load_from_disk

    dataset.save_to_disk(tmp_path / "saved", num_shards=2)
    load_from_disk(tmp_path / "saved").to_parquet(tmp_path / "a.parquet")
    dataset.to_parquet(tmp_path / "paths.parquet")
    with pytest.raises(ArgumentError, match="row 0: expected the bytes of an image file, got only the path .*00.jpg'. Store the bytes too"):
        open_images(tmp_path / "paths.parquet")
    for images in (dataset, tmp_path / "saved", tmp_path / "a.parquet"):
        source = open_images(images)
        assert list(source.keys()) == NAMES
        assert source.targets().tolist() == TARGETS
        assert [source.read(name) for name in NAMES] == list(IMAGES.values())
        assert pickle.loads(pickle.dumps(source)).read(NAMES[3]) == IMAGES[KEYS[3]]
    named = tmp_path / "named"
    named.mkdir()
    for name, data in zip(NAMES, IMAGES.values(), strict=True):
        (named / name).write_bytes(data)
    assert same_labels(str(tmp_path / "saved"), named, teacher_file, tmp_path / "a")
    assert (tmp_path / "a-0.slc").read_bytes() == (tmp_path / "a-1.slc").read_bytes()


def test_parts_and_formats_of_a_dataset_of_hugging_face(dataset):
    source = open_images(dataset.select([7, 2, 9]).with_format("torch"))
    assert list(source.keys()) == [NAMES[7], NAMES[2], NAMES[9]]
    assert source.read(NAMES[2]) == IMAGES[KEYS[2]]
    assert source.targets().tolist() == [TARGETS[number] for number in (7, 2, 9)]
    with pytest.raises(ArgumentError, match="images: Dataset: expected transform=None, got function"):
        open_images(dataset.with_transform(lambda batch: batch))
    with pytest.raises(ArgumentError, match=r"expected one column of images, or its name, got none \(columns: label\)"):
        open_images(dataset.remove_columns("image"))


def test_a_dictionary_of_datasets_of_hugging_face(dataset, tmp_path):
    from datasets import DatasetDict

    both = DatasetDict({"train": dataset, "test": dataset})
    with pytest.raises(ArgumentError, match="images: expected one dataset, got DatasetDict of train, test. Pass one of them"):
        open_images(both)
    both.save_to_disk(tmp_path / "both")
    with pytest.raises(ArgumentError, match="both: holds several datasets: name one of .*both/test, .*both/train"):
        open_images(tmp_path / "both")
    assert list(open_images(tmp_path / "both" / "train").keys()) == NAMES


def test_images_of_hugging_face_without_paths_are_numbered(tmp_path):
    from datasets import Dataset

    dataset = Dataset.from_dict({"image": [load_image(data) for data in IMAGES.values()]})
    dataset.save_to_disk(tmp_path / "saved")
    for images in (dataset, tmp_path / "saved"):
        source = open_images(images)
        assert list(source.keys()) == ROWS
        assert source.targets() is None
        assert load_image(source.read(ROWS[3])).tobytes() == load_image(IMAGES[KEYS[3]]).tobytes()


def test_an_image_folder_of_torchvision(tmp_path, teacher_file):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    folder = write_folder(tmp_path / "images")
    source = open_images(ImageFolder(folder))
    assert list(source.keys()) == KEYS
    assert source.targets().tolist() == TARGETS
    assert source.read(KEYS[5]) == IMAGES[KEYS[5]]
    assert where_is(source, KEYS[5]) == str(folder / KEYS[5])
    assert isinstance(open_images(ImageFolder(folder, loader=load_image)).read(KEYS[5]), Image.Image)
    assert same_labels(ImageFolder(folder), folder, teacher_file, tmp_path / "a")
    assert (tmp_path / "a-0.slc").read_bytes() == (tmp_path / "a-1.slc").read_bytes()
    how = {"crops_per_image": 2, "size": 8, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    pair = [SoftLabelDataset(images, tmp_path / "a-1.slc", **how)[7].images for images in (ImageFolder(folder), folder)]
    assert torch.equal(*pair)
    with pytest.raises(ArgumentError, match="images: ImageFolder: expected transform=None, got RandomResizedCrop"):
        open_images(ImageFolder(folder, v2.RandomResizedCrop(8)))
    part = torch.utils.data.Subset(ImageFolder(folder), [7, 2])
    assert load_image(open_images(part).read(ROWS[1])).tobytes() == load_image(IMAGES[KEYS[2]]).tobytes()
    with pytest.raises(ArgumentError, match="images: ImageFolder: expected transform=None, got Resize"):
        open_images(torch.utils.data.ConcatDataset([part, ImageFolder(folder, v2.Resize(8))]))


def test_cifar_of_torchvision(tmp_path):
    from torchvision.datasets import CIFAR10

    class Small(CIFAR10):
        def __init__(self):  # without its files
            self.data = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
            self.targets, self.transform, self.target_transform, self.transforms = list(TARGETS), None, None, None

    source = open_images(Small())
    assert list(source.keys()) == ROWS
    assert source.targets().tolist() == TARGETS
    np.savez(tmp_path / "a.npz", images=Small().data)
    pixels = open_images(tmp_path / "a.npz")
    assert all((np.asarray(source.read(row)) == pixels.read(row)).all() for row in ROWS)
