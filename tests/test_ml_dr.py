"""Labels of Apple's ml-dr, in files written by the formulas of its `reinforce.py`, `dr/transforms.py` and `dr/utils.py`."""

import copy
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from softlabel_codec import ArgumentError, CorruptError, MismatchError, SoftLabelReader, writer
from softlabel_codec.formats import import_labels
from softlabel_codec.formats.plain_pickles import load_plain
from softlabel_codec.formats.torch_files import load_safely

NUM_CLASSES, TOPK, SAMPLES, IMAGES = 30, 5, 4, 90
CROPFLIP = {
    "uint8": {"enable": True},
    "random_resized_crop": {"enable": True, "size": 224},
    "random_horizontal_flip": {"enable": True, "p": 0.5},
    "to_tensor": {"enable": True},
    "normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
MIXING = {**CROPFLIP, "rand_augment": {"p": 1.0}, "mixup": {"alpha": 1.0, "p": 0.5}, "cutmix": {"enable": False}}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for number in range(IMAGES):
        path = folder / f"n{number // 3:02d}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + number % 3, 30)).save(path)
    return folder


def sparsify(p, k):
    ids = np.argpartition(p, -k)[-k:]
    return p[ids].tolist(), ids.tolist()


def densify(sp, num_classes, method="smooth"):
    """Return what ml-dr trains with: `dr/utils.py`."""
    values, ids = torch.tensor(sp[0]), sp[1]
    r = 1.0 - values.sum()
    if method == "zeros" or r < 0.0:
        p = torch.zeros(num_classes)
        p[ids] = torch.nn.functional.softmax(values, dim=0)
    else:
        p = torch.ones(num_classes) * r / (num_classes - len(values))
        p[ids] = values
    return p.numpy()


def save_ml_dr(folder, augmentations=CROPFLIP, compress=True, num_images=IMAGES, dataset="imagenet"):
    """Write labels as ml-dr does, and return the samples of each image."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    config = {
        "dataset": dataset,
        "num_classes": NUM_CLASSES,
        "teacher": {"timm_ensemble": True, "name": "a,b"},
        "gpu": None,
        "reinforce": {"num_samples": SAMPLES, "topk": TOPK, "compress": compress, "image_augmentation": augmentations},
    }
    torch.save(config, folder / "config.pth.tar")
    written = []
    for number in range(num_images):
        samples = []
        for _ in range(SAMPLES):
            h, w = (int(side) for side in rng.integers(4, 30, 2))
            i, j = int(rng.integers(0, 31 - h)), int(rng.integers(0, 31 - w))
            flip = bool(rng.random() < 0.5)
            params = [(i, j, h, w), flip]
            if not compress:
                params = {"uint8": ((), ()), "random_horizontal_flip": (flip, True), "to_tensor": ((), ()), "normalize": ((), ())}
                params["random_resized_crop"] = ((i, j, h, w), (0, 0, 3, 3))
            elif "rand_augment" in augmentations:
                params = [None, *params, [(3, 0.25), (9, -1.5)], None]
                if rng.random() < 0.5:  # CutMix leaves numbers of numpy
                    params = [7, [params[1], (0, 0, 3, 3)], [flip, True], [None, None], [0.5, *np.clip(np.array([1, 2, 3, 4]), 0, 9)]]
            prob = rng.dirichlet(np.full(NUM_CLASSES, 0.1) + 3 * (np.arange(NUM_CLASSES) == number // 3)).astype(np.float32)
            samples.append({"params": params, "prob": sparsify(prob, TOPK)})
        torch.save((number, samples), folder / f"{number}.pth.tar", pickle_protocol=4)
        written.append(samples)
    return written


@pytest.mark.parametrize("compress", [True, False])
def test_labels_and_crops_are_those_of_ml_dr(images, tmp_path, compress):
    written = save_ml_dr(tmp_path / "labels", compress=compress)
    report = import_labels(tmp_path / "labels", tmp_path / "a.slc", images=images)
    assert (report.format, report.codec, report.lost) == ("ml-dr", "marginal_smoothing:k=5,values=f32", [])
    assert (report.num_images, report.num_crops, report.uncertain_crops) == (IMAGES, IMAGES * SAMPLES, 0)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert list(reader.keys) == sorted((f"n{number // 3:02d}/{number}.png" for number in range(IMAGES)), key=lambda key: key)
        source = reader.metadata["source"]
        assert (source["teacher"], source["augmentations"]) == ("a,b", ["random_resized_crop", "random_horizontal_flip"])
        assert source["largest_class_is_the_folders"] > 0.5
        for samples, image in zip(written, reader, strict=True):
            for row, sample in enumerate(samples):
                params = sample["params"]
                box, flip = params if compress else (params["random_resized_crop"][0], params["random_horizontal_flip"][0])
                assert (tuple(image.crops[row]), bool(image.flips[row])) == (box, flip)
                np.testing.assert_allclose(image.labels.dense()[row], densify(sample["prob"], NUM_CLASSES), rtol=0, atol=1e-6)


def test_other_augmentations_are_for_looking(images, tmp_path):
    save_ml_dr(tmp_path / "labels", MIXING)
    for given in (None, images):
        report = import_labels(tmp_path / "labels", tmp_path / "a.slc", images=given, overwrite=True)
        assert "training: the images were not only cropped and mirrored: rand_augment, mixup." in report.lost[-1]
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert "largest_class_is_the_folders" not in reader.metadata["source"]
        assert reader[0].labels.indices.shape == (SAMPLES, TOPK)
        with pytest.raises(MismatchError, match="not only cropped and mirrored: rand_augment, mixup"):
            reader.draw([0], crops_per_image=1)


def test_without_images_crops_in_pixels_are_not_known(tmp_path):
    save_ml_dr(tmp_path / "labels", num_images=3)
    report = import_labels(tmp_path / "labels", tmp_path / "a.slc")
    assert report.lost[0] == "names of images: keys are their numbers in ml-dr's data set"
    assert "training: crops are in pixels of images whose sizes are not known: pass the folder of the images (--images)" in report.lost
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert list(reader.keys) == ["0", "1", "2"]


def test_negative_remainders_are_said_and_taken_as_none(tmp_path):
    save_ml_dr(tmp_path / "labels", num_images=2)
    values = [0.5, 0.25, 0.125, 0.0625, 0.0635]
    samples = [{"params": [(0, 0, 9, 9), True], "prob": (values, [3, 1, 4, 0, 5])}] * SAMPLES
    torch.save((1, samples), tmp_path / "labels" / "1.pth.tar", pickle_protocol=4)
    report = import_labels(tmp_path / "labels", tmp_path / "a.slc")
    assert any(note.startswith("4 crops: probabilities of kept classes sum to more than 1, so that what is left") for note in report.notes)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        dense = reader["1"].labels.dense()[0]
    np.testing.assert_allclose(dense[[3, 1, 4, 0, 5]], np.array(values) / sum(values), rtol=1e-6)
    assert dense[2] == 0
    assert densify((values, [3, 1, 4, 0, 5]), NUM_CLASSES)[[3, 5]].max() < 0.3  # what ml-dr trains with instead


def test_an_interrupted_import_continues(images, tmp_path):
    save_ml_dr(tmp_path / "labels")

    def stop(done, total):
        if done == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_labels(tmp_path / "labels", tmp_path / "a.slc", images=images, progress=stop)
    import_labels(tmp_path / "labels", tmp_path / "a.slc", images=images)
    import_labels(tmp_path / "labels", tmp_path / "b.slc", images=images)
    assert (tmp_path / "a.slc").read_bytes() == (tmp_path / "b.slc").read_bytes()


def test_processes_make_the_same_file(images, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "TARGET_BYTES_PER_BLOCK", 6144)  # as other processes have it
    save_ml_dr(tmp_path / "labels")
    for workers in (0, 1):
        import_labels(tmp_path / "labels", tmp_path / f"{workers}.slc", images=images, workers=workers)
    assert (tmp_path / "0.slc").read_bytes() == (tmp_path / "1.slc").read_bytes()


def refused(tmp_path, error, message, **options):
    with pytest.raises(error, match=message):
        import_labels(tmp_path / "labels", tmp_path / "out.slc", **{"format": "ml_dr", **options})


def test_what_does_not_fit(images, tmp_path):
    save_ml_dr(tmp_path / "labels")
    refused(tmp_path, MismatchError, "expected 20 classes, got 30", num_classes=20)
    (images / "n00" / "more.png").write_bytes((images / "n00" / "0.png").read_bytes())
    refused(tmp_path, MismatchError, "expected the 90 images that .* has files of, got 91", images=images)
    (tmp_path / "labels" / "4.pth.tar").unlink()
    refused(tmp_path, MismatchError, r"expected 0\.pth\.tar to 89\.pth\.tar, lacks 4\.pth\.tar")
    (tmp_path / "labels" / "config.pth.tar").unlink()
    refused(tmp_path, ArgumentError, r"expected config\.pth\.tar in it")


def test_other_data_sets_number_images_in_their_own_way(images, tmp_path):
    save_ml_dr(tmp_path / "labels", dataset="food101")
    refused(tmp_path, ArgumentError, "images of 'food101' have their numbers from torchvision's data set, not from a folder", images=images)


def test_images_in_another_order(images, tmp_path):
    save_ml_dr(tmp_path / "labels")
    for number in range(3, 63):
        if number % 3:
            (images / f"n{number // 3:02d}" / f"{number}.png").rename(images / "n29" / f"a{number}.png")
    refused(tmp_path, MismatchError, "expected the most probable class to be that of the image's folder for many crops, got", images=images)


def test_files_that_hold_something_else(tmp_path):
    folder = tmp_path / "labels"
    written = save_ml_dr(folder, num_images=2)
    path = folder / "1.pth.tar"
    data = path.read_bytes()

    def saved(samples, number=1):
        torch.save((number, samples), path, pickle_protocol=4)

    def changed(**parts):
        samples = copy.deepcopy(written[1])
        samples[2].update(parts)
        return samples

    path.write_bytes(data[:-100])
    refused(tmp_path, CorruptError, r"1\.pth\.tar: not a readable label file")
    place = data.index(b"prob") + 20
    path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
    refused(tmp_path, CorruptError, r"1\.pth\.tar: not a readable label file: BadZipFile: Bad CRC-32")
    saved(written[1], 7)
    refused(tmp_path, MismatchError, r"1\.pth\.tar: expected image 1, as its name says, got 7")
    saved(changed(prob=([0.5], [1])))
    refused(tmp_path, MismatchError, "sample 2: expected 5 classes, as in the first, got 1")
    saved([{**sample, "prob": ([0.5], [1])} for sample in written[1]])
    refused(tmp_path, MismatchError, "expected 5 classes of each crop, as in the first image, got 1")
    saved(changed(prob=([0.1] * 5, [0, 1, 2, 3, 99])))
    refused(tmp_path, MismatchError, "expected class indices from 0 to 29, got 0 to 99")
    saved(changed(prob=([0.1, 0.1, 0.1, 0.1, float("nan")], [0, 1, 2, 3, 4])))
    refused(tmp_path, MismatchError, "holds NaN or infinity")
    saved(changed(prob=([3.0, 0.1, 0.1, 0.1, 0.1], [0, 1, 2, 3, 4])))
    refused(tmp_path, MismatchError, "expected probabilities that sum to at most 1, got a sum of 3.4")
    saved(changed(prob=[0.1] * 5))
    refused(tmp_path, CorruptError, "sample 2: expected lists of probabilities and of classes")
    saved(changed(prob=(["a"] * 5, [1] * 5)))
    refused(tmp_path, CorruptError, "sample 2: expected as many probabilities, floats, as classes, integers")
    saved([])
    refused(tmp_path, CorruptError, "expected the number of an image and a list of samples, got tuple")
    torch.save({"reinforce": {"image_augmentation": {"blur": {}}}}, folder / "config.pth.tar")
    refused(tmp_path, MismatchError, "expected augmentations among .*, got blur")
    torch.save([1], folder / "config.pth.tar")
    refused(tmp_path, CorruptError, "expected what reinforce.py was told, with a part 'reinforce', got list")


@pytest.mark.parametrize("params", [[(0, 0, 90, 9), True], [(0, 0, 9), True], [(0, 0, 9, 9.5), True], [(0, 0, 9, 9), 7], [(0, 0, 9, 9)], 5])
def test_crops_that_are_none(images, tmp_path, params):
    written = save_ml_dr(tmp_path / "labels")
    written[8][3]["params"] = params
    torch.save((8, written[8]), tmp_path / "labels" / "8.pth.tar", pickle_protocol=4)
    refused(tmp_path, (CorruptError, MismatchError), r"8\.pth\.tar: .*(crop|parameters)", images=images)


def doubled(depth, value=0):
    """Return lists in lists, each of which holds the next one twice: a few bytes in a pickle, and 2^depth values."""
    for _ in range(depth):
        value = [value, value]
    return value


def test_lists_that_claim_to_be_endless_are_refused_at_once(images, tmp_path):
    written = save_ml_dr(tmp_path / "labels")
    path = tmp_path / "labels" / "8.pth.tar"

    def refuse(number, samples, message):
        torch.save((number, samples), path, pickle_protocol=4)
        refused(tmp_path, (CorruptError, MismatchError), message, images=images)

    prob = ([0.001] * 2000, list(range(2000)))
    refuse(8, [{"params": [[0, 0, 9, 9], True], "prob": prob} for _ in range(2000)], "claim more probabilities than the file holds")
    refuse(doubled(60), written[8], "expected image 8, as its name says, got list")
    for params in ([doubled(60), True], [[0, 0, 9, 9], doubled(60)], [[0, 0, 9, doubled(60)], True]):
        refuse(8, [*written[8][:3], {**written[8][3], "params": params}], "got .*list")
    torch.save(
        {"dataset": doubled(60), "num_classes": doubled(60), "reinforce": {"image_augmentation": CROPFLIP}},
        path.with_name("config.pth.tar"),
    )
    refused(tmp_path, ArgumentError, "images of 'list' have their numbers", images=images)


@pytest.mark.parametrize("crop", [5, {"a": 1}, [], [[0, 0, 9]]])
def test_pairs_of_parameters_that_are_none(images, tmp_path, crop):
    written = save_ml_dr(tmp_path / "labels", compress=False)
    written[8][3]["params"]["random_resized_crop"] = crop
    torch.save((8, written[8]), tmp_path / "labels" / "8.pth.tar", pickle_protocol=4)
    refused(tmp_path, CorruptError, r"8\.pth\.tar: .*crop", images=images)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("harmful", [Evil(), [1, Evil()], {"a": print}, 2**80, b"bytes", {1, 2}, "a" * 64, "é" * 50])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_only_plain_pickles_are_decoded(harmful, protocol, capsys):
    with pytest.raises(pickle.UnpicklingError, match="more than numbers, text, lists, tuples and dicts|it requires builtins.print"):
        load_plain(pickle.dumps(harmful, protocol=protocol))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("protocol", [4, 5])
def test_plain_pickles(protocol):
    shared = [1.5, "abc", None]
    plain = (7, [{"params": [(1, 300, 70_000, -5), True, False, shared, shared, (), {}, [], ("é",)], "prob": ([0.1] * 2000, [])}])
    data = pickle.dumps(plain, protocol=protocol)
    assert load_plain(data) == plain
    assert load_plain(pickle.dumps([np.int64(7), np.float32(0.5), np.int64(-9), np.float64(0.1), np.bool_(True)])) == [
        7,
        0.5,
        -9,
        0.1,
        True,
    ]
    for end in range(0, len(data), 7):
        with pytest.raises(pickle.UnpicklingError):
            load_plain(data[:end])


def test_a_memo_of_a_billion_takes_no_memory():
    with pytest.raises(pickle.UnpicklingError, match="more than numbers"):
        load_plain(b"\x80\x04Kar" + (2**30).to_bytes(4, "little") + b".")


@pytest.mark.parametrize(
    "state",
    [(3, "<", None, None, None, -1, -1, 63), (3, "O", None, None, None, -1, -1, 0), {"a": 1}, (None, {"_make": 1}), 5],
)
def test_no_state_is_set_but_that_of_plain_types(state):
    """BUILD on the type of a number, on numpy's function, and on a list."""
    state_code = pickle.dumps(state, protocol=4)[11:-1]
    kind = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02i8\x89\x88\x87R"
    for value in (kind, b"\x8c\x05numpy\x8c\x05dtype\x93", b"]", b"}", b"K\x01"):
        with pytest.raises(pickle.UnpicklingError):
            load_plain(b"\x80\x04" + value + state_code + b"b.")
    assert load_plain(pickle.dumps(np.int64(5), protocol=4)) == 5


@pytest.mark.parametrize(
    "use", [b"}h%cNs.", b"h%c)R.", b"h%cQ.", b"cnumpy\ndtype\nh%c\x85R.", b"ccollections\nOrderedDict\n]h%cN\x86a\x85R."]
)
def test_tuples_in_one_another_keep_no_reader_busy(use, tmp_path):
    """A tuple that holds the one before twice, 60 times; and 200,000 tuples in one another, whose hash ends a process."""
    twice = b")q\0" + b"".join(b"h%c" % number * 2 + b"\x86q%c" % (number + 1) for number in range(60))
    for value in (twice, b")" + b"\x85" * 200_000 + b"q\x3c"):
        code = value + b"0" + use % 60
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
            for name, data in {"data.pkl": b"\x80\x02" + code, "version": b"3\n", "byteorder": b"little"}.items():
                archive.writestr(f"x/{name}", data)
        with pytest.raises(CorruptError, match="not a label file that can be read without running code"):
            load_safely(tmp_path / "x.pt", "x.pt")


@pytest.mark.parametrize("use", [b"}h%cNs.", b"h%c)R.", b"\x8c\x05numpy\x8c\x05dtype\x93h%c\x85R.", b"h%c\x8c\x01x\x93."])
def test_tuples_in_one_another_keep_no_reader_of_plain_pickles_busy(use):
    twice = b")\x94" + b"".join(b"h%c" % number * 2 + b"\x86\x94" for number in range(60))
    for value in (twice, b")\x94" * 60 + b")" + b"\x85" * 200_000 + b"\x94"):
        with pytest.raises(pickle.UnpicklingError) as caught:
            load_plain(b"\x80\x04" + value + use % 60)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "name", ["builtins\nbytearray", "torch\nHalfTensor", "torch.storage\nUntypedStorage", "torch._tensor\n_rebuild_from_type_v2"]
)
def test_what_sets_memory_aside_is_not_called(name, tmp_path):
    """Torch's loader knows these: the first would fill 2 GB."""
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        code = b"\x80\x02c" + name.encode() + b"\nJ\xff\xff\xff\x7f\x85R."
        for member, data in {"data.pkl": code, "version": b"3\n", "byteorder": b"little"}.items():
            archive.writestr(f"x/{member}", data)
    with pytest.raises(CorruptError, match="it requires " + name.replace("\n", r"\.")):
        load_safely(tmp_path / "x.pt", "x.pt")
