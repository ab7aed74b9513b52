"""Labels in batches, in files written by the formulas of SRe2L's `generate_soft_label.py`, and those of LPLD and LPQLD."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler

from softlabel_codec import ArgumentError, CorruptError, MismatchError, SoftLabelReader, writer
from softlabel_codec.formats import import_labels
from softlabel_codec.images.files import read_size
from softlabel_codec.torch import SoftLabelDataset

NUM_CLASSES, IPC, BATCH = 12, 6, 16
SIZES = [(40, 64), (50, 30)]


@pytest.fixture
def images(tmp_path):
    """72 images in 12 folders, and a file that is none of them; return their paths as ImageFolder orders them."""
    folder = tmp_path / "images"
    keys = [f"n{number:02d}/{name}.{'JPEG' if name else 'png'}" for number in range(NUM_CLASSES) for name in range(IPC)]
    for place, key in enumerate(keys):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZES[place % 2][::-1], (place, 0, 0)).save(path)
    (folder / "readme.txt").write_text("none of them")
    return folder, sorted(keys)


class Numbers(torch.utils.data.Dataset):
    """What SRe2L's data set returns of an image, but its pixels: number, coords and flip."""

    def __init__(self, folder, keys):
        self.sizes = [read_size(folder / key)[::-1] for key in keys]

    def __getitem__(self, number):
        width, height = self.sizes[number]
        h, w = (int(torch.randint(5, side + 1, ())) for side in (height, width))
        i, j = int(torch.randint(0, height - h + 1, ())), int(torch.randint(0, width - w + 1, ()))
        coords = torch.FloatTensor((i / height, j / width, h / height, w / width))
        return number, bool(torch.rand(1) < 0.5), coords

    def __len__(self):
        return len(self.sizes)


def peaked(numbers, partners=None, share=1.0):
    """Return logits that are highest for the class of each image's folder, or of its partner's if that has the larger share."""
    logits, numbers = torch.randn(len(numbers), NUM_CLASSES), torch.as_tensor(numbers)
    logits[torch.arange(len(numbers)), (numbers if share >= 0.5 else numbers[partners]) // IPC] += 6
    return logits


def cutmix(batch_size):
    lam = 0.1
    corners = [np.clip(np.random.randint(224) + shift, 0, 224) for shift in (-40, -40, 40, 40)]
    return torch.randperm(batch_size), lam, corners


def save_sre2l(folder, images, epochs=3, mix_type=None, half=True, seed=42, batch_size=BATCH, drop_last=False):
    """Write labels as SRe2L does, and return crops, flips and logits of each image by epoch."""
    root, keys = images
    data = Numbers(root, keys)
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(seed))
    loader = DataLoader(data, batch_size=batch_size, sampler=sampler, drop_last=drop_last)
    written, indices = {key: [] for key in keys}, {}
    for epoch in range(epochs):
        (folder / f"epoch_{epoch}").mkdir(parents=True)
        indices[str(epoch)] = []
        for number, (index, flip_status, coords_status) in enumerate(loader):
            mix_index, mix_lam, mix_bbox = None, None, None
            if mix_type == "mixup":
                mix_index, mix_lam = torch.randperm(len(index)), 0.1 + 0.8 * (number % 2)
            elif mix_type == "cutmix":
                mix_index, mix_lam, mix_bbox = cutmix(len(index))
            output = peaked(index, mix_index, 1.0 if mix_lam is None else mix_lam)
            output = output.half() if half else output
            torch.save(
                [coords_status, flip_status, mix_index, mix_lam, mix_bbox, output.cpu()],
                folder / f"epoch_{epoch}" / f"batch_{number}.tar",
            )
            indices[str(epoch)] += index.tolist()
            for row, image in enumerate(index.tolist()):
                written[keys[image]].append((coords_status[row].numpy(), bool(flip_status[row]), output[row].numpy(), (epoch, number)))
    return written, indices


def of_train_fkd(logits, temperature):
    """Return what SRe2L's `train_FKD.py` trains with."""
    return torch.nn.functional.softmax(torch.as_tensor(np.stack(logits)).float() / temperature, dim=1).numpy()


def check_crops(reader, written, counts=None):
    for key, rows in written.items():
        if not rows:
            assert key not in list(reader.keys)
            continue
        image = reader[key]
        height, width = image.image_size
        fractions = image.crops / np.array([height, width, height, width])
        np.testing.assert_allclose(fractions, np.stack([row[0] for row in rows]), rtol=0, atol=1e-3 if counts else 1e-6)
        np.testing.assert_array_equal(image.flips, [row[1] for row in rows])


@pytest.mark.parametrize("half", [True, False])
def test_labels_and_crops_are_those_of_sre2l(images, tmp_path, half):
    written, _ = save_sre2l(tmp_path / "labels", images, half=half)
    report = import_labels(tmp_path / "labels", tmp_path / "a.slc", images=images[0])
    assert (report.format, report.codec) == ("SRe2L", "dense:values=f16,content=logits" if half else "dense:content=logits")
    assert (report.num_images, report.num_crops, report.uncertain_crops, report.lost) == (72, 216, 0, [])
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert list(reader.keys) == images[1]
        source = reader.metadata["source"]
        assert {name: source[name] for name in ("epochs", "batches", "batch_size", "mix", "sampler_seed")} == {
            "epochs": 3,
            "batches": 15,
            "batch_size": 16,
            "mix": "none",
            "sampler_seed": 42,
        }
        assert source["largest_class_is_the_folders"] > 0.9
        check_crops(reader, written)
        for key, rows in written.items():
            np.testing.assert_array_equal(reader[key].labels.vectors, np.stack([row[2] for row in rows]))
    for temperature in (1.0, 20.0):
        with SoftLabelReader(tmp_path / "a.slc", temperature=temperature) as reader:
            for key in (images[1][0], images[1][-1]):
                expected = of_train_fkd([row[2] for row in written[key]], temperature)
                np.testing.assert_allclose(reader[key].labels.dense(), expected, rtol=0, atol=1e-6)
    dataset = SoftLabelDataset(images[0], tmp_path / "a.slc", 2, size=32)
    assert dataset[0].images.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("mix_type", ["cutmix", "mixup"])
def test_mixed_labels_are_for_looking(images, tmp_path, mix_type):
    written, _ = save_sre2l(tmp_path / "labels", images, mix_type=mix_type, batch_size=72)
    report = import_labels(tmp_path / "labels", tmp_path / "a.slc", images=images[0], codec="marginal_smoothing:k=5,values=f32")
    assert report.lost[0] == "which crops were mixed, in what shares and where"
    assert "training: each crop is mixed with another one of its batch" in report.lost[-1]
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert reader.metadata["source"]["mix"] == mix_type
        assert reader.metadata["source"]["largest_class_is_the_folders"] > 0.9
        assert reader[0].labels.topk(1)[0].shape == (3, 1)
        largest = of_train_fkd([row[2] for row in written[reader.keys[0]]], 1).max(axis=1)
        np.testing.assert_allclose(reader[0].labels.dense().max(axis=1), largest, rtol=1e-5)
        with pytest.raises(MismatchError, match=f"each crop is mixed with another one of its batch \\({mix_type}\\)"):
            reader.draw([0], crops_per_image=1)


def test_lpld_says_which_images_it_kept(images, tmp_path):
    """The last epoch ends in the middle, the last batch of each is dropped, and another seed does not matter."""
    written, indices = save_sre2l(tmp_path / "labels", images, epochs=2, seed=7, drop_last=True)
    for number in (2, 3):
        (tmp_path / "labels" / "epoch_1" / f"batch_{number}.tar").unlink()
    written = {key: [row for row in rows if row[3] not in ((1, 2), (1, 3))] for key, rows in written.items()}
    indices["1"] = indices["1"][: 2 * BATCH]
    (tmp_path / "labels" / "sampler_indices_epoch.json").write_text(json.dumps(indices))
    report = import_labels(tmp_path / "labels", tmp_path / "a.slc", images=images[0])
    without = sum(not rows for rows in written.values())
    assert (report.num_crops, report.num_images) == (6 * BATCH, 72 - without)
    assert report.lost == [f"{without} images of {images[0]} have no labels"]
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert "sampler_seed" not in reader.metadata["source"]
        check_crops(reader, written)
        for key, rows in written.items():
            if rows:
                np.testing.assert_array_equal(reader[key].labels.vectors, np.stack([row[2] for row in rows]))


def save_lpqld(folder, images, topk=4, batches=6, mix_type=None, rand_augment=False, batch_size=BATCH):
    """Write labels as LPQLD does, and return crops, flips, logits and classes of each image."""
    root, keys = images
    data, rng = Numbers(root, keys), np.random.default_rng(0)
    folder.mkdir()
    written, indices = {key: [] for key in keys}, {}
    for number in range(batches):
        index = rng.permutation(len(keys))[:batch_size]
        rows = [data[int(image)] for image in index]
        coords_status, flip_status = torch.stack([row[2] for row in rows]).half(), torch.tensor([row[1] for row in rows])
        mix_index, mix_lam, mix_bbox = cutmix(batch_size) if mix_type else (None, None, None)
        if mix_type:
            mix_index, mix_bbox = mix_index.to(torch.uint8), [torch.tensor(bbox, dtype=torch.uint8) for bbox in mix_bbox]
        topk_labels = torch.topk(peaked(index), topk, dim=1)
        output, classes = topk_labels.values.half(), topk_labels.indices.short()
        rand_params = [[[torch.randint(0, 9, (batch_size,)), torch.rand(batch_size).half()]]] if rand_augment else []
        torch.save(
            [coords_status, flip_status, *rand_params, mix_index, mix_lam, mix_bbox, output, classes], folder / f"batch_{number}.tar"
        )
        indices[str(number)] = index.tolist()
        for row, image in enumerate(index.tolist()):
            written[keys[image]].append((coords_status[row].numpy(), bool(flip_status[row]), output[row], classes[row]))
    (folder / "sampler_indices_batch.json").write_text(json.dumps(indices))
    return written


def of_train_lpqld(output, classes, temperature):
    """Return what LPQLD's `train_FKD_LPQLD.py` trains with for `label_quantization` MR."""
    part = torch.nn.functional.softmax(output.float() / temperature, dim=1)
    return torch.zeros(len(part), NUM_CLASSES).scatter_(1, classes.long(), part).numpy()


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_labels_are_those_of_lpqld(images, tmp_path, temperature):
    written = save_lpqld(tmp_path / "labels", images)
    report = import_labels(tmp_path / "labels", tmp_path / "a.slc", images=images[0], num_classes=NUM_CLASSES, temperature=temperature)
    assert report.codec == "marginal_renorm:k=4,values=f32"
    assert "the size of the logits: only differences among the 4 of a crop count, and are kept" in report.lost
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert reader.temperature == temperature
        check_crops(reader, written, counts=True)
        for key, rows in written.items():
            if rows:
                expected = of_train_lpqld(torch.stack([row[2] for row in rows]), torch.stack([row[3] for row in rows]), temperature)
                np.testing.assert_allclose(reader[key].labels.dense(), expected, rtol=0, atol=2e-6)


def test_lpqld_with_rand_augment_is_for_looking(images, tmp_path):
    save_lpqld(tmp_path / "labels", images, rand_augment=True, mix_type="cutmix")
    report = import_labels(tmp_path / "labels", tmp_path / "a.slc", images=images[0], num_classes=NUM_CLASSES)
    assert "parameters of RandAugment" in report.lost
    assert "(cutmix), and its label is that of the mixture; RandAugment changed the images" in report.lost[-1]


def test_numbers_of_mixed_crops_that_wrapped_are_said(images, tmp_path):
    folder = tmp_path / "labels"
    save_lpqld(folder, images, mix_type="cutmix", batches=1)
    found = torch.load(folder / "batch_0.tar", weights_only=True)
    large = [part.repeat(17, *[1] * (part.ndim - 1)) if number in (0, 1, 2, 5, 6) else part for number, part in enumerate(found)]
    torch.save(large, folder / "batch_0.tar")
    listed = json.loads((folder / "sampler_indices_batch.json").read_text())
    (folder / "sampler_indices_batch.json").write_text(json.dumps({"0": listed["0"] * 17}))
    report = import_labels(folder, tmp_path / "a.slc", images=images[0], num_classes=NUM_CLASSES)
    assert report.lost[0].endswith("Their numbers, uint8, wrapped above 255: not even the files say it")


def test_what_was_erased_of_imagenet_21k(images, tmp_path):
    save_sre2l(tmp_path / "labels", images, epochs=1)
    for path in (tmp_path / "labels" / "epoch_0").iterdir():
        coords, flips, *rest = torch.load(path, weights_only=True)
        torch.save([coords, torch.rand(len(flips), 7), *rest], path)
    report = import_labels(tmp_path / "labels", tmp_path / "a.slc", images=images[0])
    assert "parameters of what was erased" in report.lost
    assert "training: a part of each crop was erased. " in report.lost[-1]


def test_an_interrupted_import_continues(images, tmp_path):
    save_sre2l(tmp_path / "labels", images)

    def stop(done, total):
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_labels(tmp_path / "labels", tmp_path / "a.slc", images=images[0], progress=stop)
    import_labels(tmp_path / "labels", tmp_path / "a.slc", images=images[0])
    import_labels(tmp_path / "labels", tmp_path / "b.slc", images=images[0])
    assert (tmp_path / "a.slc").read_bytes() == (tmp_path / "b.slc").read_bytes()


def test_processes_make_the_same_file(images, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "TARGET_BYTES_PER_BLOCK", 6144)  # as other processes have it
    save_sre2l(tmp_path / "labels", images)
    for workers in (0, 1):
        import_labels(tmp_path / "labels", tmp_path / f"{workers}.slc", images=images[0], workers=workers)
    assert (tmp_path / "0.slc").read_bytes() == (tmp_path / "1.slc").read_bytes()


def refused(tmp_path, images, error, message, **options):
    with pytest.raises(error, match=message):
        import_labels(tmp_path / "labels", tmp_path / "out.slc", images=images[0], **options)


def test_images_in_another_order(images, tmp_path):
    save_sre2l(tmp_path / "labels", images, batch_size=72, seed=1)
    refused(tmp_path, images, MismatchError, r"most probable class to be that of the image's folder for many crops, got that for .*--seed")
    report = import_labels(tmp_path / "labels", tmp_path / "a.slc", images=images[0], seed=1)
    assert report.num_crops == 216


def test_what_is_missing(images, tmp_path):
    save_sre2l(tmp_path / "labels", images)
    with pytest.raises(ArgumentError, match="sre2l files do not name their images: pass the folder of these"):
        import_labels(tmp_path / "labels", tmp_path / "out.slc")
    refused(tmp_path, images, MismatchError, "expected logits of 10 classes, got 12", num_classes=10)
    (images[0] / "n00" / "0.png").rename(images[0] / "spare.png")
    for number in range(8):
        (images[0] / "n03" / f"more{number}.png").write_bytes((images[0] / "spare.png").read_bytes())
    refused(tmp_path, images, MismatchError, "are not whole pixels of an image of 50 x 30")
    (tmp_path / "labels" / "epoch_1" / "batch_2.tar").unlink()
    refused(tmp_path, images, MismatchError, r"epoch_1: expected 5 batches of 16 for 79 images of .*, got 4; batch_2\.tar is not there")
    (tmp_path / "labels" / "epoch_1").rename(tmp_path / "elsewhere")
    refused(tmp_path, images, MismatchError, r"epoch_1: expected 5 batches of 16 .*, got 0; batch_0\.tar is not there")


def test_stray_numbers_take_no_time(images, tmp_path):
    save_sre2l(tmp_path / "labels", images, epochs=1)
    (tmp_path / "labels" / "epoch_0").rename(tmp_path / "labels" / "epoch_999999999")
    refused(tmp_path, images, MismatchError, r"epoch_0: expected 5 batches of 16 .*, got 0; batch_0\.tar is not there", format="sre2l")
    save_lpqld(tmp_path / "flat", images, batches=1)
    (tmp_path / "flat" / "sampler_indices_batch.json").write_text('{"999999999": [1, 2]}')
    with pytest.raises(MismatchError, match="batch_0"):
        import_labels(tmp_path / "flat", tmp_path / "a.slc", images=images[0], num_classes=NUM_CLASSES)
    refused(tmp_path, images, ArgumentError, r"seed: expected 0 to 2\^64 - 1", seed=2**64, format="sre2l")


def test_batches_without_folders_need_their_list(images, tmp_path):
    save_lpqld(tmp_path / "labels", images)
    listed = tmp_path / "labels" / "sampler_indices_batch.json"
    data = listed.read_text()
    refused(tmp_path, images, ArgumentError, "num_classes: files with the largest logits do not say it")
    refused(tmp_path, images, MismatchError, "class indices from 0 to 9, got 0 to 11", num_classes=10)
    refused(tmp_path, images, MismatchError, "int16, which wrapped above 32767", num_classes=40_000)
    listed.write_text(data.replace("[", "[99, ", 1))
    refused(tmp_path, images, MismatchError, "expected the images that were labelled, got 72, but .* names image 99", num_classes=12)
    listed.write_text('{"0": [1, "2"]}')
    refused(tmp_path, images, CorruptError, "expected JSON with lists of image numbers", num_classes=12)
    listed.write_text(json.dumps({str(number): [0] * 16 for number in range(8)}))
    refused(tmp_path, images, MismatchError, r"expected 8 batches of 16 for what sampler_indices_batch\.json lists, got 6", num_classes=12)
    listed.unlink()
    refused(
        tmp_path, images, MismatchError, r"batches without folders of epochs are LPQLD's, whose sampler_indices_batch\.json", num_classes=12
    )


def test_files_that_hold_something_else(images, tmp_path):
    save_sre2l(tmp_path / "labels", images, epochs=1)
    path = tmp_path / "labels" / "epoch_0" / "batch_2.tar"
    good = torch.load(path, weights_only=True)
    data = path.read_bytes()

    def replaced(number, part):
        torch.save([part if place == number else old for place, old in enumerate(good)], path)

    path.write_bytes(data[:-300])
    refused(tmp_path, images, CorruptError, r"batch_2\.tar: not a readable label file")
    place = data.index(good[5].numpy().tobytes())
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    refused(tmp_path, images, CorruptError, r"batch_2\.tar: not a readable label file: BadZipFile: the checksum")
    torch.save(good[:3], path)
    refused(tmp_path, images, CorruptError, "expected a list of coords, flips, mix index, lambda, box and logits, got list")
    replaced(0, good[0].double())
    refused(tmp_path, images, CorruptError, "expected coords as float16 or float32")
    replaced(1, torch.zeros(16))
    refused(tmp_path, images, CorruptError, "expected flips as bool")
    replaced(5, good[5][:, :11])
    refused(tmp_path, images, MismatchError, "expected width 12, as in the first batch, got width 11")
    replaced(5, good[5].float())
    refused(tmp_path, images, MismatchError, "expected logit_type float16, as in the first batch, got logit_type float32")
    torch.save([*good[:2], torch.arange(16), 0.5, None, good[5]], path)
    refused(tmp_path, images, MismatchError, "expected mix none, as in the first batch, got mix mixup")
    torch.save([*good[:2], torch.arange(1, 17), 0.5, None, good[5]], path)
    refused(tmp_path, images, CorruptError, "expected the mix index as 16 numbers of crops")
    torch.save([*good[:2], torch.arange(16), "a", None, good[5]], path)
    refused(tmp_path, images, CorruptError, "expected lambda as a number from 0 to 1, got a")
    replaced(5, torch.full((16, 12), torch.nan).half())
    refused(tmp_path, images, MismatchError, "holds NaN or infinity")
    replaced(5, torch.zeros(16, 1).half().expand(16, 12))
    refused(tmp_path, images, CorruptError, "claims more numbers than the file holds")
    replaced(0, good[0] * 0.77)
    refused(tmp_path, images, MismatchError, "are not whole pixels")
    torch.save([part[:9] if isinstance(part, torch.Tensor) else part for part in good], path)
    refused(tmp_path, images, MismatchError, "expected 16 crops, as there are images for it, got 9")

    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    replaced(3, Evil())
    refused(tmp_path, images, CorruptError, "without running code: it requires")
    path.write_bytes(pickle.dumps(Evil()))
    refused(tmp_path, images, CorruptError, "not a .*label file")


def test_parts_that_claim_to_be_endless_are_refused_at_once(images, tmp_path):
    save_sre2l(tmp_path / "labels", images, epochs=1)
    path = tmp_path / "labels" / "epoch_0" / "batch_2.tar"
    good, endless = torch.load(path, weights_only=True), 0
    for _ in range(26):  # 2^26 numbers, and a gigabyte of text
        endless = [endless, endless]
    torch.save([endless, *good[1:]], path)
    refused(tmp_path, images, CorruptError, "expected an array of coords: got list")
    torch.save([*good[:2], torch.arange(16), endless, None, good[5]], path)
    refused(tmp_path, images, CorruptError, "expected lambda as a number from 0 to 1, got list")


@pytest.mark.parametrize("old", [False, True])
def test_long_names_of_types_take_no_time(images, tmp_path, old):
    save_sre2l(tmp_path / "labels", images, epochs=1)
    path, long = tmp_path / "labels" / "epoch_0" / "batch_2.tar", b"a" * 2**20
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=not old)
    if old:
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})) + b"\x80\x02c" + long + b"\nb\n.")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02c" + long + b"\nb\n.")
    refused(tmp_path, images, CorruptError, r"batch_2\.tar: not a label file that can be read without running code")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_batches_are_closed_with_the_import(images, tmp_path):
    save_sre2l(tmp_path / "labels", images)
    import_labels(tmp_path / "labels", tmp_path / "a.slc", images=images[0])
    assert str(tmp_path / "labels") not in Path("/proc/self/maps").read_text()


def test_damaged_batches_can_be_left_out(images, tmp_path):
    save_sre2l(tmp_path / "labels", images, epochs=1)
    (tmp_path / "labels" / "epoch_0" / "batch_1.tar").write_bytes(b"nothing")
    report = import_labels(tmp_path / "labels", tmp_path / "a.slc", images=images[0], on_error="skip")
    assert (len(report.skipped), report.num_images) == (16, 56)
