"""The torch side: images, dataset, collate and loss."""

import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from conftest import random_probs, write_labels
from PIL import Image
from torch.utils.data import DataLoader

from softlabel_codec import ArgumentError, Codec, CorruptError, MismatchError, SoftLabelReader, SoftLabelWriter
from softlabel_codec.block.families import label_quantiser
from softlabel_codec.images.files import apply_crop, load_image, pixel_crops, read_size
from softlabel_codec.images.paths import list_images, path_of_key
from softlabel_codec.labels import concatenate_labels
from softlabel_codec.sampler import CropSampler
from softlabel_codec.torch import (
    DenseTargets,
    ImageTurn,
    SoftLabelDataset,
    SparseTargets,
    collate_crops,
    normalize,
    soft_cross_entropy,
    to_targets,
)


def label_folder(folder, path, codec="marginal_smoothing:k=3", num_crops=9, **metadata):
    """Write labels of all images of a folder, from no teacher at all."""
    rng = np.random.default_rng(0)
    with SoftLabelWriter(path, 10, codec, metadata) as writer:
        for key in list_images(folder):
            size = load_image(folder / key).size[::-1]
            crops, flips = CropSampler(seed=4).sample(key, size, range(num_crops))
            writer.add(key, image_size=size, crops=crops, flips=flips, probs=random_probs(rng, num_crops, 10))


@pytest.fixture
def labelled(image_folder, tmp_path):
    label_folder(image_folder, tmp_path / "labels.slc")
    return image_folder, tmp_path / "labels.slc"


def test_every_kind_of_image_becomes_rgb(image_folder):
    keys = list_images(image_folder)
    assert keys == ["cat/a.JPEG", "cat/b.png", "cat/grey.jpg", "dog/cmyk.jpg", "dog/deep/c.webp", "dog/palette.png"]
    for key in keys:
        image = load_image(image_folder / key)
        assert image.mode == "RGB"
    assert load_image(np.zeros((4, 5), np.uint8)).size == (5, 4)
    Image.fromarray(np.full((3, 3), 40000, np.uint16)).save(image_folder / "deep.png")
    assert load_image(image_folder / "deep.png").getpixel((0, 0)) == (156, 156, 156)


def test_exif_orientation_is_ignored_or_applied(tmp_path):
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    image.save(tmp_path / "a.png", exif=exif)
    assert load_image(tmp_path / "a.png").size == (4, 2)
    assert load_image(tmp_path / "a.png", "applied").size == (2, 4)


def test_unreadable_images(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    with pytest.raises(OSError, match=r"a\.jpg"):
        load_image(tmp_path / "a.jpg")
    Image.new("RGB", (64, 64)).save(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:-100])
    with pytest.raises(OSError, match="(?i)truncated"):
        load_image(tmp_path / "b.jpg")


@pytest.mark.parametrize("key", ["../a.jpg", "/etc/passwd", "a/../../b", "", "a\0b"])
def test_keys_that_lead_out_of_the_folder(tmp_path, key):
    with pytest.raises(MismatchError, match="not a path inside an image folder"):
        path_of_key(tmp_path, key)


def test_folders_without_images(tmp_path):
    with pytest.raises(ArgumentError, match="expected images .* found none"):
        list_images(tmp_path)
    with pytest.raises(ArgumentError, match="expected a folder of images, got nothing there"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match="got a file"):
        list_images(tmp_path / "file")


def test_links_are_followed_but_not_for_ever(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert list_images(tmp_path) == ["a/x.png", "b/x.png"]


def test_a_crop_is_cut_then_scaled_then_mirrored():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    same = apply_crop(image, (2, 5, 8, 8), False, 8)
    np.testing.assert_array_equal(np.asarray(same), pixels[2:10, 5:13])
    np.testing.assert_array_equal(np.asarray(apply_crop(image, (2, 5, 8, 8), True, 8)), pixels[2:10, 5:13][:, ::-1])
    for name, resample in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        wanted = Image.fromarray(pixels[2:16, 5:25]).resize((9, 9), resample)
        np.testing.assert_array_equal(np.asarray(apply_crop(image, (2, 5, 14, 20), False, 9, name)), np.asarray(wanted))
    with pytest.raises(ArgumentError, match="interpolation: expected one of bilinear, .* got 'cubic'"):
        apply_crop(image, (0, 0, 5, 5), False, 5, "cubic")


def test_fractions_become_pixels():
    fractions = np.array([[16 / 480, 5 / 500, 427 / 480, 374 / 500], [0.999, 0.5, 0.5, 1e-9]], np.float32)
    assert pixel_crops(fractions, (480, 500)).tolist() == [[16, 5, 427, 374], [479, 250, 1, 1]]


def test_batches_of_a_data_loader(labelled):
    folder, labels = labelled
    dataset = SoftLabelDataset(folder, labels, crops_per_image=4, size=12, seed=3)
    loader = DataLoader(dataset, batch_size=4, collate_fn=collate_crops)
    images, targets = next(iter(loader))
    assert (images.shape, images.dtype, len(targets), targets.num_classes) == ((16, 3, 12, 12), torch.float32, 16, 10)
    with SoftLabelReader(labels) as reader:
        sample = dataset.labels_of([ImageTurn(2, 0)])[0]
        every = reader[2].crops.tolist()
        numbers = [every.index(crop) for crop in sample.crops.tolist()]
        image = load_image(folder / reader.keys[2])
        for place, number in enumerate(numbers):
            pixels = apply_crop(image, every[number], bool(reader[2].flips[number]), 12)
            wanted = normalize(torch.from_numpy(np.array(pixels)).permute(2, 0, 1), dataset.mean, dataset.std)
            torch.testing.assert_close(images[8 + place], wanted)
        np.testing.assert_array_equal(targets.dense()[8:12].numpy(), reader.read(2, numbers).labels.dense())


def batches(folder, labels, epochs, **options):
    """Return all batches of some epochs, in order of images."""
    dataset = SoftLabelDataset(folder, labels, crops_per_image=2, size=8, seed=1)
    loader = DataLoader(dataset, batch_size=2, collate_fn=collate_crops, **options)
    found = []
    for epoch in epochs:
        dataset.set_epoch(epoch)
        found += [(images.clone(), labels.dense()) for images, labels in loader]
    return found


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_crops_depend_on_seed_epoch_and_image_only(labelled, context):
    wanted = batches(*labelled, epochs=[0, 1])
    found = batches(*labelled, epochs=[0, 1], num_workers=2, multiprocessing_context=context, persistent_workers=True)
    for mine, theirs in zip(wanted, found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    alone = batches(*labelled, epochs=[1])
    torch.testing.assert_close(alone, wanted[len(alone) :], rtol=0, atol=0)
    assert not torch.equal(wanted[0][0], alone[0][0])


def test_the_dataset_pickles_small(labelled):
    dataset = SoftLabelDataset(*labelled, size=8)
    dataset.set_epoch(5)
    data = pickle.dumps(dataset)
    assert len(data) < 2000
    copy = pickle.loads(data)
    assert (copy.epoch, len(copy)) == (5, 6)
    torch.testing.assert_close(copy[3].images, dataset[3].images)


def test_preprocessing_comes_from_the_file_unless_told_otherwise(image_folder, tmp_path):
    preprocessing = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "size": 99, "exif_orientation": "ignored"}
    label_folder(image_folder, tmp_path / "a.slc", preprocessing=preprocessing)
    with pytest.warns(UserWarning, match="are normalised with mean"):
        dataset = SoftLabelDataset(image_folder, tmp_path / "a.slc", size=8)
    assert (dataset.mean, dataset.std, dataset.interpolation) == ((0.5,) * 3, (0.25,) * 3, "bicubic")
    other = SoftLabelDataset(image_folder, tmp_path / "a.slc", size=8, mean=(0.1, 0.2, 0.3), interpolation="nearest", normalized=False)
    assert (other.mean, other.interpolation, other[0].images.dtype) == ((0.1, 0.2, 0.3), "nearest", torch.uint8)
    changed = SoftLabelDataset(image_folder, tmp_path / "a.slc", size=8, after_crop=lambda image: torch.tensor(image.size))
    assert changed[0].images.tolist() == [[8, 8]] * 4


@pytest.mark.parametrize("codec", ["marginal_smoothing:k=3", "marginal_smoothing:t=0.1,tail=4", "dense"])
def test_crops_of_one_image_may_lie_apart_so_that_neighbours_can_be_mixed(image_folder, tmp_path, codec):
    label_folder(image_folder, tmp_path / "a.slc", codec)
    samples = SoftLabelDataset(image_folder, tmp_path / "a.slc", crops_per_image=4, size=8).__getitems__([0, 3, 5])
    images, targets = collate_crops(samples)
    apart, targets_apart = partial(collate_crops, order="crop")(samples)
    rows = [image * 4 + crop for crop in range(4) for image in range(3)]
    torch.testing.assert_close(apart, images[rows], rtol=0, atol=0)
    torch.testing.assert_close(targets_apart.dense(), targets.dense()[rows], rtol=0, atol=0)
    image_of_row = torch.tensor([row // 4 for row in rows])
    assert (image_of_row.roll(1) != image_of_row).all()  # what torchvision's MixUp and CutMix mix with
    with pytest.raises(ArgumentError, match="order: expected image or crop, got 'crops'"):
        collate_crops(samples, order="crops")


def test_reduced_decoding_gives_nearly_the_same_pixels(tmp_path):
    rows, columns = np.mgrid[:600, :800]
    waves = np.stack([127 + 100 * np.sin(rows / 31), 127 + 100 * np.cos(columns / 41), (rows + columns) / 6], axis=2)
    (tmp_path / "images").mkdir()
    Image.fromarray(waves.astype(np.uint8)).save(tmp_path / "images" / "a.jpg", quality=95)
    crops = [[0, 0, 600, 800], [37, 101, 301, 290], [100, 100, 64, 64], [5, 6, 140, 150]]
    labels = {"indices": [[1]] * 4, "values": [[1.0]] * 4}
    with SoftLabelWriter(tmp_path / "a.slc", 10, "hard") as writer:
        writer.add("a.jpg", image_size=(600, 800), crops=crops, flips=[True, False, False, True], **labels)
    options = {"normalized": False, "size": 32}
    exact = SoftLabelDataset(tmp_path / "images", tmp_path / "a.slc", 4, **options)[0].images.float()
    reduced = SoftLabelDataset(tmp_path / "images", tmp_path / "a.slc", 4, reduced_decoding=True, **options)[0].images.float()
    assert 0 < (exact - reduced).abs().mean() < 2
    other = {**options, "size": 40}  # a crop of 64 pixels is not twice as large
    pair = [SoftLabelDataset(tmp_path / "images", tmp_path / "a.slc", 4, reduced_decoding=r, **other)[0].images for r in (False, True)]
    assert torch.equal(*pair)


def test_images_in_a_mapping(labelled):
    folder, labels = labelled
    in_memory = {key: np.asarray(load_image(folder / key)) for key in list_images(folder)}
    torch.testing.assert_close(SoftLabelDataset(in_memory, labels, size=8)[4].images, SoftLabelDataset(folder, labels, size=8)[4].images)
    del in_memory["dog/cmyk.jpg"]
    with pytest.raises(MismatchError, match="1 of 6 labelled images are not in the dict of images: 'dog/cmyk.jpg'"):
        SoftLabelDataset(in_memory, labels)


def test_images_in_a_mapping_are_turned_as_the_labelled_files_were(tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    with SoftLabelWriter(tmp_path / "a.slc", 10, "hard", {"preprocessing": {"exif_orientation": "applied"}}) as writer:
        writer.add("a.png", image_size=(20, 20), crops=[[0, 0, 9, 9]] * 4, flips=[False] * 4, probs=np.eye(10)[:4])
    wanted = SoftLabelDataset({"a.png": tmp_path / "a.png"}, tmp_path / "a.slc", size=8)[0].images
    with Image.open(tmp_path / "a.png") as opened:
        torch.testing.assert_close(SoftLabelDataset({"a.png": opened}, tmp_path / "a.slc", size=8)[0].images, wanted)
    assert not torch.equal(SoftLabelDataset({"a.png": np.asarray(image)}, tmp_path / "a.slc", size=8)[0].images, wanted)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((20, 20), np.float32), r"image: expected uint8 of shape \(H, W, 3\) or \(H, W\), got float32 of shape \(20, 20\)"),
        (np.zeros((3, 20, 20), np.uint8), r"got uint8 of shape \(3, 20, 20\)"),
        (torch.zeros(3, 20, 20), "expected a path, bytes of an image file, a PIL image or a uint8 array, got Tensor"),
    ],
)
def test_things_that_are_no_images(image, message):
    with pytest.raises(ArgumentError, match=message):
        load_image(image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": (0.5, 0.5)}, r"mean: expected three numbers, got \(0.5, 0.5\)"),
        ({"std": (0, 0, 0)}, "std: expected positive numbers"),
        ({"size": (32, 32)}, r"size: expected an integer of at least 1, got \(32, 32\)"),
        ({"seed": -1}, "seed: expected an integer of at least 0"),
        ({"policy": "mean"}, "remainder policy: expected one of uniform, renorm, bucket, neighbours, got 'mean'"),
        ({"policy": ""}, "remainder policy: expected one of"),
    ],
)
def test_wrong_arguments_of_a_dataset(labelled, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        SoftLabelDataset(*labelled, **arguments)


def test_only_some_of_the_stored_crops(labelled):
    dataset = SoftLabelDataset(*labelled, 2, stored_crops=4, size=8)
    with SoftLabelReader(labelled[1]) as reader:
        stored = [{tuple(crop) for crop in image.crops[:4].tolist()} for image in reader]
    for _ in range(2):  # all four are used before any is used again
        drawn = [dataset.labels_of([ImageTurn(image, turn)])[0] for image in range(len(dataset)) for turn in range(2)]
        for image, crops in enumerate(stored):
            assert {tuple(crop) for found in drawn[2 * image : 2 * image + 2] for crop in found.crops.tolist()} == crops
    with pytest.raises(ArgumentError, match="stored_crops: expected at most 9, the crops stored of an image in .*, got 10"):
        SoftLabelDataset(*labelled, 2, stored_crops=10)
    with pytest.raises(ArgumentError, match="crops_per_image: expected at most 4, .*, got 5"):
        SoftLabelDataset(*labelled, 5, stored_crops=4)


def test_an_image_as_crops_are_cut_out_of_it(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    for policy in ("ignored", "applied"):
        size = load_image(tmp_path / "a.png", policy).size[::-1]
        assert read_size(tmp_path / "a.png", exif_orientation=policy) == size
        write_labels(tmp_path / "a.slc", counts=[3], keys=["a.png"], size=size, overwrite=True)
        dataset = SoftLabelDataset(tmp_path, tmp_path / "a.slc", 1, exif_orientation=policy)
        assert dataset.whole_image(0).size == size[::-1]
        assert (dataset.source.where("a.png"), dataset.source_keys) == (str(tmp_path / "a.png"), ["a.png"])
        assert len(dataset[0].images) == 1
    with pytest.raises(ArgumentError, match="exif_orientation: expected ignored or applied, got 'odd'"):
        SoftLabelDataset(tmp_path, tmp_path / "a.slc", 1, exif_orientation="odd")


def test_arrays_as_mean_and_deviation(labelled):
    assert SoftLabelDataset(*labelled, mean=np.float32([0.5, 0.25, 0]), std=np.ones(3)).mean == (0.5, 0.25, 0.0)


def test_targets_move_between_devices_and_keep_their_types():
    for targets in (sparse_targets(np.random.default_rng(0), "marginal_smoothing:k=2,tail=5"), DenseTargets(torch.ones(2, 3))):
        for device in ("cpu", torch.device("cpu")):
            assert targets.to(device).dense().dtype == torch.float32
        with pytest.raises(ArgumentError, match="device: expected a device such as 'cuda:0', got torch.float16"):
            targets.to(torch.float16)


def test_keys_without_endings_are_found(image_folder, tmp_path):
    keys = [key.rpartition(".")[0] for key in list_images(image_folder)]
    sizes = [load_image(image_folder / key).size[::-1] for key in list_images(image_folder)]
    with SoftLabelWriter(tmp_path / "a.slc", 10, "hard") as writer:
        for key, size in zip(keys, sizes, strict=True):
            writer.add(key, image_size=size, crops=[[0, 0, 9, 9]] * 4, flips=[False] * 4, probs=np.eye(10)[:4])
    assert SoftLabelDataset(image_folder, tmp_path / "a.slc", size=8)[5].images.shape == (4, 3, 8, 8)


def test_labels_of_other_images(labelled):
    folder, labels = labelled
    with pytest.raises(MismatchError, match="expected labels of 1000 classes, got 10"):
        SoftLabelDataset(folder, labels, num_classes=1000)
    with pytest.raises(ArgumentError, match="crops_per_image: expected at most 9, the crops stored of an image in .*, got 10"):
        SoftLabelDataset(folder, labels, crops_per_image=10)
    with pytest.raises(ArgumentError, match="crops_per_image: expected an integer of at least 1, got 0"):
        SoftLabelDataset(folder, labels, crops_per_image=0)
    with pytest.raises(ArgumentError, match="epoch: expected an integer of at least 0, got -1"):
        SoftLabelDataset(folder, labels).set_epoch(-1)
    with pytest.raises(ArgumentError, match="interpolation"):
        SoftLabelDataset(folder, labels, interpolation="cubic")
    Image.new("RGB", (31, 32)).save(folder / "cat" / "b.png")
    dataset = SoftLabelDataset(folder, labels, size=8)
    with pytest.raises(MismatchError, match=r"image 'cat/b.png': expected 40 x 50 pixels .* got 32 x 31: .* another copy"):
        dataset[1]
    Image.new("RGB", (31, 32)).save(folder / "cat" / "new.png")
    with pytest.warns(UserWarning, match="1 image in .* has no labels .* and is left out, 'cat/new.png' first"):
        SoftLabelDataset(folder, labels)
    (folder / "cat" / "a.JPEG").unlink()
    (folder / "dog" / "cmyk.jpg").unlink()
    with pytest.raises(MismatchError, match="2 of 6 labelled images are not in .*images: 'cat/a.JPEG', 'dog/cmyk.jpg'"):
        SoftLabelDataset(folder, labels)


def test_missing_images_are_left_out_if_asked(labelled):
    folder, labels = labelled
    whole = SoftLabelDataset(folder, labels, size=8)
    wanted = {key: (whole[number].images, whole[number].images) for number, key in enumerate(whole.keys)}
    (folder / "cat" / "a.JPEG").unlink()
    (folder / "dog" / "cmyk.jpg").unlink()
    with pytest.warns(
        UserWarning, match="2 of 6 labelled images are not in .*images and are left out: 'cat/a.JPEG', 'dog/cmyk.jpg'"
    ) as seen:
        dataset = SoftLabelDataset(folder, labels, size=8, on_missing="skip")
    assert seen[0].filename == __file__
    assert (len(dataset), dataset.num_missing) == (4, 2)
    assert list(dataset.keys) == ["cat/b.png", "cat/grey.jpg", "dog/deep/c.webp", "dog/palette.png"]
    assert (dataset.keys[-1], dataset.keys[1:3]) == ("dog/palette.png", ["cat/grey.jpg", "dog/deep/c.webp"])
    assert dataset.numbers.tolist() == [1, 2, 4, 5]
    loader = DataLoader(dataset, batch_size=3, collate_fn=collate_crops, num_workers=1, persistent_workers=True)
    for turn in range(2):  # an image draws what it draws in the whole set
        pixels = torch.cat([images for images, _ in loader])
        torch.testing.assert_close(pixels, torch.cat([wanted[key][turn] for key in dataset.keys]), rtol=0, atol=0)
    with pytest.raises(MismatchError, match="2 of 6 labelled images are not in .*: 'cat/a.JPEG', .* Leave them out with on_missing='skip'"):
        SoftLabelDataset(folder, labels, size=8)
    with pytest.raises(MismatchError, match="6 of 6 labelled images are not in the dict of images: .* None is left"):
        SoftLabelDataset({}, labels, on_missing="skip")
    with pytest.raises(ArgumentError, match="on_missing: expected raise or skip, got 'ignore'"):
        SoftLabelDataset(folder, labels, on_missing="ignore")


def test_only_the_images_of_some_keys(labelled):
    folder, labels = labelled
    whole = SoftLabelDataset(folder, labels, size=8)
    chosen = ["dog/palette.png", "cat/b.png", "dog/cmyk.jpg"]
    dataset = SoftLabelDataset(folder, labels, size=8, keys=iter(chosen))  # the other images are not mentioned
    assert (list(dataset.keys), dataset.numbers.tolist(), len(dataset)) == (chosen, [5, 1, 3], 3)
    for place, number in enumerate([5, 1, 3]):
        torch.testing.assert_close(dataset[place].images, whole[number].images, rtol=0, atol=0)
    copy = pickle.loads(pickle.dumps(dataset))
    assert list(copy.keys) == chosen
    torch.testing.assert_close(copy[-1].images, dataset[2].images, rtol=0, atol=0)
    with pytest.raises(IndexError):
        dataset[3]
    (folder / "cat" / "b.png").unlink()
    with pytest.warns(UserWarning, match="1 of 3 labelled images are not in"):
        assert list(SoftLabelDataset(folder, labels, keys=chosen, on_missing="skip").keys) == ["dog/palette.png", "dog/cmyk.jpg"]
    assert len(SoftLabelDataset(folder, labels, keys=chosen[:1])) == 1  # that another one is missing does not matter


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        (["cat/b.png", "dog/b.png"], MismatchError, "keys: expected keys of labelled images, got 'dog/b.png'"),
        ([], MismatchError, "keys: expected keys of labelled images, got none"),
        ("dog", MismatchError, "got 'dog'"),
        ([3], MismatchError, "got 3"),
        (["cat/b.png", "cat/b.png"], ArgumentError, "keys: expected each key once"),
    ],
)
def test_wrong_keys(labelled, keys, error, message):
    with pytest.raises(error, match=message):
        SoftLabelDataset(*labelled, keys=keys)


def test_only_images_that_are_used_need_enough_crops(image_folder, tmp_path):
    sizes = {"cat/a.JPEG": 3, "cat/b.png": 5, "cat/grey.jpg": 9}
    with SoftLabelWriter(tmp_path / "a.slc", 10, "hard") as writer:
        for key, count in sizes.items():
            probs = np.eye(10)[:count]
            writer.add(key, image_size=(40, 50), crops=[[0, 0, 9, 9]] * count, flips=[False] * count, probs=probs)
    SoftLabelDataset(image_folder, tmp_path / "a.slc", 5, keys=["cat/b.png", "cat/grey.jpg"])
    with pytest.raises(ArgumentError, match="crops_per_image: expected at most 3"):
        SoftLabelDataset(image_folder, tmp_path / "a.slc", 5, keys=["cat/a.JPEG"])


def test_errors_survive_the_way_out_of_a_worker(labelled, tmp_path):
    folder, labels = labelled
    data = bytearray(labels.read_bytes())
    with SoftLabelReader(labels) as reader:
        data[reader.container.beginning.blocks_offset + 100] ^= 1
    labels.write_bytes(data)
    loader = DataLoader(SoftLabelDataset(folder, labels, size=8), num_workers=1, collate_fn=collate_crops)
    with pytest.raises(CorruptError, match="block 0 at byte"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_labels_are_skipped_if_asked(tmp_path, workers):
    path = tmp_path / "a.slc"
    written = write_labels(path, counts=[12, 16] * 4)
    images = {key: np.zeros((48, 64, 3), np.uint8) for key in written}
    with SoftLabelReader(path) as reader:
        start, (first, last) = int(reader.container.index.starts[1]), reader.container.index.first_images[1:3].tolist()
    data = bytearray(path.read_bytes())
    data[start + 50] ^= 4
    path.write_bytes(data)
    dataset = SoftLabelDataset(images, path, crops_per_image=2, size=4, on_corrupt="skip")
    loader = DataLoader(dataset, batch_size=4, collate_fn=collate_crops, num_workers=workers)
    lost = last - first
    assert 0 < lost < 4
    assert dataset.num_damaged == 0
    assert sum(len(pixels) for pixels, _ in loader) == 2 * (8 - lost)
    assert sum(len(targets) for _, targets in loader) == 2 * (8 - lost)
    assert dataset.num_damaged == lost
    with pytest.raises(CorruptError, match="block 1 at byte"):
        dataset[first]
    with pytest.raises(CorruptError, match="block 1 at byte"):
        next(iter(DataLoader(SoftLabelDataset(images, path, 2, 4), batch_size=8)))


def sparse_targets(rng, codec, rows=40, num_classes=30):
    parsed = Codec.parse(codec)
    quantiser = label_quantiser(parsed, num_classes)
    return to_targets(quantiser.dequantise(quantiser.quantise({"probs": random_probs(rng, rows, num_classes)}, rows), parsed.policy))


DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
STRATEGIES = [
    "hard",
    "smoothing",
    "marginal_smoothing:k=5",
    "marginal_renorm:k=5",
    "marginal_smoothing:t=0.02",
    "marginal_smoothing:k=30",
    "marginal_smoothing:k=2,tail=5",
    "marginal_smoothing:t=0.05,tail=30",
    "marginal_smoothing:k=30,tail=4",
    "marginal_smoothing:t=0.05,tail=all,mean=log",
    "marginal_smoothing:k=30,tail=all",
    "dense",
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("codec", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_equals_the_dense_one_in_value_and_gradient(codec, dtype, device):
    targets = sparse_targets(np.random.default_rng(0), codec).to(device)
    torch.manual_seed(0)
    logits = (3 * torch.randn(40, 30, dtype=dtype)).to(device).requires_grad_()
    for reduction in ("mean", "sum"):
        mine = soft_cross_entropy(logits, targets, reduction)
        slope = torch.autograd.grad(mine, logits)[0]
        wide = logits.detach().double().requires_grad_()
        rows = -(targets.dense().double() * torch.log_softmax(wide, dim=1)).sum(dim=1)
        wanted = getattr(rows, reduction)()
        torch.testing.assert_close(mine.double(), wanted, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(slope.double(), torch.autograd.grad(wanted, wide)[0], rtol=1e-6, atol=1e-6)
    assert soft_cross_entropy(logits, targets, "none").shape == (40,)


def test_the_gradient_is_that_of_the_loss():
    targets = sparse_targets(np.random.default_rng(1), "marginal_smoothing:t=0.05", rows=4, num_classes=7)
    double = SparseTargets(targets.indices, targets.values.double(), targets.remainder.double(), 7)
    torch.manual_seed(0)
    logits = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: soft_cross_entropy(z, double, "none"), logits)


def test_the_loss_makes_no_dense_target():
    targets = SparseTargets(torch.tensor([[3]], dtype=torch.int32), torch.tensor([[0.5]]), torch.tensor([0.5]), num_classes=50_000_000)
    logits = torch.zeros(1, 50_000_000)
    assert soft_cross_entropy(logits, targets).item() == pytest.approx(np.log(50_000_000), rel=1e-4)


def test_tails_of_several_images_stay_with_their_crops():
    rng = np.random.default_rng(6)
    quantiser = label_quantiser(Codec.parse("marginal_smoothing:t=0.1,tail=8"), 30)
    parts = [quantiser.dequantise(quantiser.quantise({"probs": random_probs(rng, 5, 30)}, 5), "tail") for _ in range(4)]
    targets = to_targets(concatenate_labels(parts))
    torch.testing.assert_close(targets.dense(), torch.cat([torch.from_numpy(part.dense()) for part in parts]))
    torch.testing.assert_close(targets.with_policy("uniform").dense().sum(dim=1), torch.ones(20))
    assert targets.to("cpu").tail_classes.shape[0] == 4


def test_reduced_precision_logits():
    targets = sparse_targets(np.random.default_rng(2), "marginal_smoothing:k=5")
    torch.manual_seed(0)
    logits = torch.randn(40, 30).bfloat16().requires_grad_()
    loss = soft_cross_entropy(logits, targets)
    loss.backward()
    assert (loss.dtype, logits.grad.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(loss, -(targets.dense() * torch.log_softmax(logits.float(), dim=1)).sum(dim=1).mean())


def test_shapes_that_do_not_fit():
    targets = sparse_targets(np.random.default_rng(3), "hard")
    with pytest.raises(MismatchError, match=r"logits: expected shape \(40, 30\): .* got \(40, 31\)"):
        soft_cross_entropy(torch.zeros(40, 31), targets)
    with pytest.raises(MismatchError, match=r"got \(39, 30\)"):
        soft_cross_entropy(torch.zeros(39, 30), targets)
    with pytest.raises(ArgumentError, match="reduction: expected mean, sum or none, got 'max'"):
        soft_cross_entropy(torch.zeros(40, 30), targets, "max")


def test_targets_move_and_change_policy():
    targets = sparse_targets(np.random.default_rng(4), "marginal_smoothing:k=5")
    moved = targets.to("cpu", non_blocking=True)
    torch.testing.assert_close(moved.dense(), targets.dense())
    torch.testing.assert_close(targets.with_policy("renorm").dense().sum(dim=1), torch.ones(40))
    dense = DenseTargets(targets.dense()).to("cpu")
    assert (len(dense), dense.num_classes) == (40, 30)
    torch.testing.assert_close(dense.dense(), targets.dense())


def test_labels_read_with_another_policy(labelled):
    folder, labels = labelled
    one = SoftLabelDataset(folder, labels, size=8, policy="renorm")
    torch.testing.assert_close(to_targets(one[0].labels).dense().sum(dim=1), torch.ones(4))
    assert one[0].labels.policy == "renorm"
    write_labels(labels.with_name("other.slc"), "dense", num_classes=10, counts=[4], keys=["cat/a.JPEG"], size=(40, 50))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = SoftLabelDataset(folder, labels.with_name("other.slc"), size=8)
    assert isinstance(collate_crops([dense[0]])[1], DenseTargets)
