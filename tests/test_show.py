"""`slcodec show`: what the page, the list and the picture of crops say is what the labels say."""

import base64
import configparser
import io
import json
import re
import zlib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium
from click.testing import CliRunner
from conftest import random_probs
from label_sets import write_set
from PIL import Image

import softlabel_codec
from softlabel_codec import ArgumentError, MismatchError, SoftLabelReader, SoftLabelWriter, StateError
from softlabel_codec.cli.main import main
from softlabel_codec.images.cutting import Cutter
from softlabel_codec.padding import Padding
from softlabel_codec.sampler import CropSampler
from softlabel_codec.show import look_at, save_crops, write_page
from softlabel_codec.show.class_names import read_class_names

KEYS = ["cat/a.png", "cat/b.png", "dog/a.png", "owl/a.png", "owl/b.png"]
SIZES = [(48, 64), (64, 48), (30, 30), (48, 64), (90, 40)]
CLASSES = ["cat", "dog", "owl"]
NUM_CROPS = 9
PREPARED = {"preprocessing": {"size": 32, "interpolation": "bicubic"}}


@pytest.fixture
def photos(tmp_path):
    """A folder of five images in three classes, which compress well, so that JPEG changes them little."""
    for number, (key, (height, width)) in enumerate(zip(KEYS, SIZES, strict=True)):
        across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
        path = tmp_path / "photos" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack([across, down, np.full_like(across, 50 * number)], axis=2).astype(np.uint8)).save(path)
    return tmp_path / "photos"


def write(photos, path, codec="marginal_smoothing:k=2", num_classes=3, seed=0, keys=KEYS, num_crops=NUM_CROPS, crops_seed=0, **options):
    """Write labels of the images, with the checksums of their files."""
    padding = options.get("padding", Padding())
    with SoftLabelWriter(path, num_classes, codec, PREPARED, image_checksums=True, **options) as writer:
        for number, key in enumerate(keys):
            size = SIZES[KEYS.index(key)]
            crops, flips = CropSampler(seed=crops_seed).sample(key, padding.around(size), range(num_crops))
            probs = random_probs(np.random.default_rng([seed, number]), num_crops, num_classes)
            content = {"vectors": probs} if "features" in codec else {"probs": probs}
            crc32 = zlib.crc32((photos / key).read_bytes())
            writer.add(key, crops=crops, flips=flips, image_size=size, image_crc32=crc32, **content)
    return path


@pytest.fixture
def labels(photos, tmp_path):
    return write(photos, tmp_path / "labels.slc")


def run(*arguments, code=0):
    """Run a command, check its exit code and return what it printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def data_of(page):
    """Return the data in a page."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def entropy(targets):
    return -(targets * np.log(np.where(targets > 0, targets, 1))).sum(axis=-1)


def assert_says(view, labelled, crop):
    """Check what is said of a crop against what the reader says of it."""
    assert view["crop"] == labelled.crops[crop].tolist()
    assert view["flipped"] == labelled.flips[crop]
    targets = labelled.labels.dense()[crop].astype(np.float64)
    classes = view["classes"]
    assert view["targets"] == pytest.approx(targets[classes], rel=1e-4, abs=1e-30)
    assert view["targets"] == sorted(view["targets"], reverse=True)
    assert view["targets"][0] == pytest.approx(targets.max(), rel=1e-4)
    assert view["entropy"] == pytest.approx(entropy(targets), rel=1e-3, abs=1e-6)
    if not hasattr(labelled.labels, "indices"):
        assert view["remainder"] is None
        assert (view["num_kept"], set(view["kept"])) == (len(targets), {True})
        return
    kept = set(labelled.labels.indices[crop].tolist()) - {-1}
    assert view["num_kept"] == len(kept)
    assert view["kept"] == [number in kept for number in classes]
    assert view["remainder"] == pytest.approx(labelled.labels.remainder[crop], rel=1e-4, abs=1e-30)


@pytest.mark.parametrize(
    "codec",
    ["hard", "smoothing", "marginal_smoothing:k=2", "marginal_renorm:k=3", "marginal_smoothing:t=0.1,tail=6"]
    + ["marginal_smoothing:t=0.1,step=1,tail=all,mean=log", "marginal_smoothing:gain=0.02,tail=6", "dense", "dense:values=log8", "field"],
)
def test_the_page_says_what_the_labels_say(photos, tmp_path, codec):
    labels = write(photos, tmp_path / "labels.slc", codec, num_classes=12)
    report = write_page(labels, photos, tmp_path / "page.html")
    data = data_of(tmp_path / "page.html")
    assert (report.num_images, report.shown_images, report.shown_crops) == (5, 5, 5 * NUM_CROPS)
    assert report.page_bytes == (tmp_path / "page.html").stat().st_size
    assert (data["crop_size"], data["num_classes"], data["padding"]) == (32, 12, 0)
    with SoftLabelReader(labels) as reader:
        assert [image["key"] for image in data["images"]] == list(reader.keys)
        for number, image in enumerate(data["images"]):
            labelled = reader[number]
            assert (image["number"], tuple(image["image_size"])) == (number, labelled.image_size)
            assert len(image["crops"]) == NUM_CROPS
            for crop, view in enumerate(image["crops"]):
                assert_says(view, labelled, crop)
            assert image["entropy"] == pytest.approx(entropy(labelled.labels.dense().astype(np.float64)).mean(), rel=1e-3, abs=1e-6)
            assert (image["tail"] is None) == ("tail" not in codec)
            assert (image["field"] is None) == (codec != "field")
            if "tail" in codec:
                assert_says_tail(image["tail"], labelled.labels.tails)


def assert_says_tail(view, tails):
    weights = tails.dense(12)[0]
    assert view["shares"] == pytest.approx(weights[view["classes"]], rel=1e-4)
    assert view["shares"][0] == pytest.approx(weights.max(), rel=1e-4)
    assert view["num_listed"] == (tails.classes >= 0).sum()
    assert view["floor"] == pytest.approx(tails.floor[0], rel=1e-4)


def test_only_classes_that_labels_tell_from_others_are_listed(photos, tmp_path):
    for codec in ("marginal_smoothing:k=2", "marginal_renorm:k=2"):
        view = look_at(write(photos, tmp_path / f"{codec[9:12]}.slc", codec, num_classes=12), KEYS[:1])
        assert {len(crop.classes) for crop in view.images[0].crops} == {2}
    tail = look_at(write(photos, tmp_path / "tail.slc", "marginal_smoothing:k=2,tail=3", num_classes=12), KEYS[:1]).images[0]
    assert {len(crop.classes) for crop in tail.crops} <= {3, 4, 5}
    assert {number for crop in tail.crops for number, kept in zip(crop.classes, crop.kept, strict=True) if not kept} <= set(
        tail.tail.classes
    )


def test_fields_of_which_no_class_stands_out(photos, tmp_path):
    with SoftLabelWriter(tmp_path / "labels.slc", 50, "field:cost=0.1") as writer:
        crops, flips = CropSampler(seed=1).sample("x", (48, 64), range(20))
        probs = np.random.default_rng(0).dirichlet(np.full(50, 0.1), 20)
        writer.add("x", image_size=(48, 64), crops=crops, flips=flips, probs=probs)
    view = look_at(tmp_path / "labels.slc", ["x"]).images[0]
    with SoftLabelReader(tmp_path / "labels.slc") as reader:
        assert [crop.classes for crop in view.crops] == reader["x"].labels.indices.tolist()  # it lists one class


def test_maps_of_fields_are_labels_at_these_places(photos, tmp_path):
    labels = write(photos, tmp_path / "labels.slc", "field", num_classes=12, num_crops=40)
    write_page(labels, photos, tmp_path / "page.html", ["cat/b.png"])
    field = data_of(tmp_path / "page.html")["images"][0]["field"]
    assert (field["rows"], field["columns"]) == (12, 9)  # it is 64 pixels high and 48 wide
    with SoftLabelReader(labels) as reader:
        for level, scale in enumerate(field["scales"]):
            for row, column in ((0, 0), (3, 8), (11, 4)):
                place = [(1 - scale) * row / 11, (1 - scale) * column / 8, scale, scale]
                targets = reader.labels_at(["cat/b.png"], [[place]]).labels.dense()[0]
                found = [field["targets"][level][rank][row][column] for rank in range(4)]
                assert found == pytest.approx(targets[field["classes"]], rel=1e-3, abs=1e-6)


def picture_of(image):
    data = base64.b64decode(image["picture"].removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture).astype(int)


def test_pictures_and_names(photos, labels, tmp_path):
    write_page(labels, photos, tmp_path / "page.html")
    data = data_of(tmp_path / "page.html")
    for image, key in zip(data["images"], KEYS, strict=True):
        pixels = np.asarray(Image.open(photos / key)).astype(int)
        assert image["padded_size"] == list(pixels.shape[:2])
        assert np.abs(picture_of(image) - pixels).mean() < 4
        assert data["names"][str(image["true_class"])] == key.partition("/")[0]
        assert image["of_true_class"] == pytest.approx(mean_target(labels, key, image["true_class"]), rel=1e-4)


def mean_target(labels, key, number):
    with SoftLabelReader(labels) as reader:
        return reader[key].labels.dense()[:, number].mean()


def test_large_pictures_are_made_smaller(tmp_path):
    Image.new("RGB", (2000, 1000)).save(tmp_path / "large.png")
    with SoftLabelWriter(tmp_path / "labels.slc", 2, "hard") as writer:
        writer.add("large.png", image_size=(1000, 2000), crops=[[10, 20, 900, 1900]], flips=[False], probs=[[0.3, 0.7]])
    write_page(tmp_path / "labels.slc", {"large.png": tmp_path / "large.png"}, tmp_path / "page.html")
    data = data_of(tmp_path / "page.html")
    (image,) = data["images"]
    assert picture_of(image).shape == (320, 640, 3)
    assert (image["padded_size"], image["crops"][0]["crop"], data["crop_size"]) == ([1000, 2000], [10, 20, 900, 1900], 224)


def test_padded_images(photos, tmp_path):
    padding = Padding(6, "constant", (255, 0, 0))
    labels = write(photos, tmp_path / "labels.slc", padding=padding)
    write_page(labels, photos, tmp_path / "page.html", ["dog/a.png"])
    data = data_of(tmp_path / "page.html")
    (image,) = data["images"]
    assert (data["padding"], image["image_size"], image["padded_size"]) == (6, [30, 30], [42, 42])
    assert picture_of(image)[2, 20].tolist() == pytest.approx([255, 0, 0], abs=30)
    save_crops(labels, photos, tmp_path / "crops.png", ["dog/a.png"])
    with SoftLabelReader(labels) as reader:
        labelled = reader["dog/a.png"]
    cutter = Cutter(32, "bicubic", padding=padding)
    expected = cutter.cut(photos / "dog/a.png", lambda size: (labelled.crops, labelled.flips)).images
    assert (grid_cell(tmp_path / "crops.png", 0, 4) == np.asarray(expected[4])).all()


def grid_cell(path, row, column, size=32, gap=4):
    with Image.open(path) as grid:
        pixels = np.asarray(grid)
    top, left = row * (size + gap), column * (size + gap)
    return pixels[top : top + size, left : left + size]


def test_crops_as_a_picture(photos, tmp_path):
    labels = write(photos, tmp_path / "labels.slc", num_crops=13)
    text = run("show", labels, "dog/a.png", "cat/b.png", "--images", photos, "--image", tmp_path / "crops.png")
    assert "26 crops of 2 images" in text
    with Image.open(tmp_path / "crops.png") as grid:
        assert grid.size == (10 * 36 - 4, 4 * 36 - 4)
    with SoftLabelReader(labels) as reader:
        for key, rows in (("dog/a.png", 0), ("cat/b.png", 2)):
            labelled = reader[key]
            images = Cutter(32, "bicubic").cut(photos / key, lambda size, of=labelled: (of.crops, of.flips)).images
            for crop, expected in enumerate(images):
                found = grid_cell(tmp_path / "crops.png", rows + crop // 10, crop % 10)
                assert (found == np.asarray(expected)).all()
    assert (
        json.loads(run("show", labels, "dog/a.png", "--images", photos, "--image", tmp_path / "a.jpg", "--crops", 3, "--json"))["num_crops"]
        == 3
    )


def test_the_list_on_a_terminal(labels, tmp_path):
    text = run("show", labels, "owl/a.png", "dog/a.png", "--crops", 4)
    assert re.findall(r"^image +(.*)$", text, re.MULTILINE) == ["owl/a.png", "dog/a.png"]
    with SoftLabelReader(labels) as reader:
        labelled = reader["owl/a.png"]
    top, left, height, width = labelled.crops[3].tolist()
    (row,) = re.findall(rf"3 .* {height} x {width} at {top}, {left} .*", text.partition("image  ")[0] + text)[:1]
    classes, targets = labelled.labels.topk(2)
    said = [f"{CLASSES[number]} {target:.3f}" for number, target in zip(classes[3], targets[3], strict=True)]
    assert ", ".join(said) in row
    assert f"{labelled.labels.remainder[3]:.3f}" in row
    assert "4 crops" in text
    (tmp_path / "names.txt").write_text("Felis catus\nCanis familiaris\nStrix aluco\n")
    assert "Strix aluco" in run("show", labels, "owl/a.png", "--class-names", tmp_path / "names.txt")
    found = json.loads(run("show", labels, "owl/a.png", "--json"))
    assert [image["key"] for image in found["images"]] == ["owl/a.png"]
    for crop, view in enumerate(found["images"][0]["crops"]):
        assert_says(view, labelled, crop)


def test_a_sample_of_many(photos, labels, tmp_path):
    text = run("show", labels, "--images", photos, "--out", tmp_path / "page.html", "--sample", 3, "--crops", 2)
    assert "3 images of 5, 6 crops" in text
    assert [image["key"] for image in data_of(tmp_path / "page.html")["images"]] == [KEYS[0], KEYS[2], KEYS[4]]
    page = (tmp_path / "page.html").read_text()
    assert "3 of 5 images, evenly spread" in page
    assert f"All {5 * NUM_CROPS} crops of 5 images." in page
    write_page(labels, photos, tmp_path / "page.html", ["owl/b.png", "cat/a.png", "owl/b.png"])
    assert [image["key"] for image in data_of(tmp_path / "page.html")["images"]] == ["owl/b.png", "cat/a.png"]


def test_label_sets(tmp_path):
    folder = write_set(tmp_path / "set")
    images = {key: Image.new("RGB", (64, 48)) for key in ("a/1.jpg", "b/2.jpg")}
    write_page(folder, images, tmp_path / "page.html", list(images))
    data = data_of(tmp_path / "page.html")
    with SoftLabelReader(folder) as reader:
        for image in data["images"]:
            for crop, view in enumerate(image["crops"]):
                assert_says(view, reader[image["key"]], crop)
    assert "<dt>shards</dt><dd>4</dd>" in (tmp_path / "page.html").read_text()


def test_crops_as_fractions_and_keys_without_endings(photos, tmp_path):
    with SoftLabelWriter(tmp_path / "labels.slc", 3, "hard", crops="fractions:f32") as writer:
        for key in KEYS[:2]:
            writer.add(key.removesuffix(".png"), crops=np.float32([[0.25, 0.5, 0.5, 0.25]]), flips=[True], probs=[[0.2, 0.3, 0.5]])
    write_page(tmp_path / "labels.slc", photos, tmp_path / "page.html")
    images = data_of(tmp_path / "page.html")["images"]
    assert [image["crops"][0]["crop"] for image in images] == [[12, 32, 24, 16], [16, 24, 32, 12]]
    assert [image["image_size"] for image in images] == [[48, 64], [64, 48]]
    assert "0.500 x 0.250 at 0.250, 0.500" in run("show", tmp_path / "labels.slc", "cat/a")
    field = write(photos, tmp_path / "field.slc", "field", keys=KEYS[:2])
    with pytest.raises(MismatchError, match="no key in common"):
        write_page(tmp_path / "labels.slc", photos, tmp_path / "page.html", against=field)


def test_labels_in_object_storage(photos, labels, tmp_path, files):
    from flaky_storage import put

    url = put(files, labels)
    write_page(url, photos, tmp_path / "page.html", against=url)
    write_page(labels, photos, tmp_path / "local.html", against=labels)
    assert data_of(tmp_path / "page.html") == data_of(tmp_path / "local.html")
    assert run("show", url, KEYS[0]) == run("show", labels, KEYS[0])


def test_what_inspect_knows_is_on_the_page(photos, labels, tmp_path):
    write_page(labels, photos, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    found = json.loads(run("inspect", labels, "--json"))
    said = [
        found["fingerprint"],
        found["codec"],
        "bicubic",
        f"{found['bytes_per_crop']:.2f}",
        f"<b>{found['num_crops']}</b> crops, 9 of each",
    ]
    assert all(text in page for text in said)


def test_classes_that_a_source_states(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "images.npz", images=rng.integers(0, 255, (3, 8, 8, 3), dtype=np.uint8), labels=np.array([2, 0, 1]))
    with SoftLabelWriter(tmp_path / "labels.slc", 3, "dense") as writer:
        for key in ("00000000", "00000001", "00000002"):
            writer.add(key, image_size=(8, 8), crops=[[0, 0, 8, 8]], flips=[False], probs=[[0.2, 0.3, 0.5]])
    write_page(tmp_path / "labels.slc", tmp_path / "images.npz", tmp_path / "page.html")
    assert [(image["true_class"], image["of_true_class"]) for image in data_of(tmp_path / "page.html")["images"]] == [
        (2, 0.5),
        (0, 0.2),
        (1, 0.3),
    ]


def kl(p, q):
    with np.errstate(divide="ignore"):
        return np.where(p > 0, p * np.log(p / q), 0).sum(axis=1)


@pytest.mark.parametrize("codec", ["dense", "marginal_smoothing:k=2", "hard", "field"])
def test_two_sets(photos, tmp_path, codec):
    labels = write(photos, tmp_path / "a.slc", "dense", num_classes=6, num_crops=20)
    other = write(photos, tmp_path / "b.slc", codec, num_classes=6, num_crops=20, seed=1)
    text = run("show", labels, "--images", photos, "--out", tmp_path / "page.html", "--against", other, "--sample", 4)
    assert "4 images of 5" in text
    data = data_of(tmp_path / "page.html")
    apart = {}
    with SoftLabelReader(labels) as here, SoftLabelReader(other) as there:
        for key in KEYS:
            p, q = (reader[key].labels.dense().astype(np.float64) for reader in (here, there))
            apart[key] = np.abs(p - q).sum(axis=1).mean() / 2
            for image in data["images"]:
                for crop, view in enumerate(image["crops"] if image["key"] == key else []):
                    other_label, expected = view["other"], kl(p, q)[crop]
                    assert other_label["targets"] == pytest.approx(q[crop, view["classes"]], rel=1e-3, abs=1e-6)
                    assert {p[crop].argmax(), q[crop].argmax()} <= set(view["classes"])
                    assert other_label["kl"] == (None if np.isinf(expected) else pytest.approx(expected, rel=1e-3, abs=1e-5))
                    assert other_label["entropy"] == pytest.approx(entropy(q[crop]), rel=1e-3, abs=1e-6)
    for image in data["images"]:
        assert image["variation"] == pytest.approx(apart[image["key"]], rel=1e-3)
    assert set(sorted(apart, key=apart.get)[-2:]) <= {image["key"] for image in data["images"]}
    page = (tmp_path / "page.html").read_text()
    assert "the 2 whose labels differ most, of 5 compared" in page
    assert f'<th scope="row">total variation</th><td>{np.mean(list(apart.values())):.3f}</td>' in page
    assert ("infinite KL" in page) == (codec == "hard")
    assert "total variation" in run("show", labels, KEYS[0], "--against", other)


def test_a_field_knows_crops_that_lie_elsewhere(photos, tmp_path):
    labels = write(photos, tmp_path / "a.slc", "dense", num_crops=5, crops_seed=7)
    field = write(photos, tmp_path / "b.slc", "field", num_crops=20)
    found = look_at(labels, ["cat/a.png"], against=field).images[0]
    with SoftLabelReader(labels) as here, SoftLabelReader(field) as there:
        expected = there.labels_at(["cat/a.png"], here["cat/a.png"].crops[None]).labels.dense()
    for crop, targets in zip(found.crops, expected, strict=True):
        assert crop.other.targets == pytest.approx(targets[crop.classes], rel=1e-3, abs=1e-6)
    elsewhere = write(photos, tmp_path / "c.slc", num_crops=3)
    found = look_at(labels, ["cat/a.png"], against=elsewhere).images[0]
    assert (found.variation, {crop.other for crop in found.crops}) == (None, {None})
    write_page(labels, photos, tmp_path / "page.html", against=elsewhere)
    assert "no crop lies at the same place in both" in (tmp_path / "page.html").read_text()


def test_only_the_same_crops_are_compared(tmp_path):
    crops, flips, probs = np.tile([0, 0, 5, 5], (4, 1)), np.array([False, True, True, True]), np.tile([[0.2, 0.8]], (4, 1))
    for name, some, other_flips in (("a", 4, flips), ("b", 3, ~flips), ("c", 2, flips)):
        with SoftLabelWriter(tmp_path / f"{name}.slc", 2, "dense") as writer:
            own = np.where(np.arange(4) == 2, flips, other_flips)
            writer.add("x", image_size=(9, 9), crops=crops[:some], flips=own[:some], probs=probs[:some])
    for other, known in (("b", [False, False, True, False]), ("c", [True, True, False, False])):
        view = look_at(tmp_path / "a.slc", ["x"], against=tmp_path / f"{other}.slc").images[0]
        assert [crop.other is not None for crop in view.crops] == known


@pytest.mark.parametrize(
    ("codec", "what"),
    [
        ("marginal_smoothing:k=2", "spread evenly"),
        ("marginal_smoothing:k=2,tail=2", "spread along the tail"),
        ("marginal_renorm:k=2", "dropped"),
        ("dense", ""),
    ],
)
def test_what_becomes_of_remainders(photos, tmp_path, codec, what):
    labels = write(photos, tmp_path / "labels.slc", codec, num_classes=12)
    assert look_at(labels, KEYS[:1]).remainder == what
    assert (f"the rest is {what}" in run("show", labels, KEYS[0])) == bool(what)
    write_page(labels, photos, tmp_path / "page.html", KEYS[:1])
    assert data_of(tmp_path / "page.html")["remainder"] == what


def test_sets_with_some_common_images(photos, tmp_path):
    labels = write(photos, tmp_path / "a.slc")
    other = write(photos, tmp_path / "b.slc", keys=KEYS[2:], num_crops=4)
    write_page(labels, photos, tmp_path / "page.html", against=other)
    images = data_of(tmp_path / "page.html")["images"]
    assert [image["key"] for image in images] == KEYS[2:]
    assert [crop["other"] is not None for crop in images[0]["crops"]] == [True] * 4 + [False] * 5
    found = look_at(labels, KEYS[:1], against=other).images[0]
    assert found.variation is None


def test_nothing_on_the_page_comes_from_elsewhere_or_runs(photos, tmp_path):
    (photos / "dog/a.png").rename(photos / "dog/<b>&.png")
    key = "dog/<b>&.png"
    with SoftLabelWriter(tmp_path / "labels.slc", 3, "hard", {"note": "</dl><script>alert(1)</script>"}) as writer:
        writer.add(key, image_size=(30, 30), crops=[[0, 0, 30, 30]], flips=[False], probs=[[0.2, 0.3, 0.5]])
    (tmp_path / "names.json").write_text(json.dumps(["cat", "dog", "</script><img src=x onerror=alert(2)>"]))
    run("show", tmp_path / "labels.slc", "--images", photos, "--out", tmp_path / "page.html", "--class-names", tmp_path / "names.json")
    page = (tmp_path / "page.html").read_text()
    assert data_of(tmp_path / "page.html")["images"][0]["key"] == key
    assert list(data_of(tmp_path / "page.html")["names"].values()) == ["</script><img src=x onerror=alert(2)>"]
    assert page.count("<script") == 2
    assert "<img src=x" not in page
    assert set(re.findall(r"\w+://[^\s\"'<>]*", page)) <= {"http://www.w3.org/2000/svg"}  # the name of SVG
    assert "default-src 'none'" in page


def test_class_names_in_many_forms(tmp_path):
    def read(text, num_classes=2):
        (tmp_path / "names").write_text(text)
        found = read_class_names(tmp_path / "names", num_classes)
        return dict(found.names), dict(found.folders)

    names, folders = {0: "tench, Tinca tinca", 1: "great white shark"}, {"n01440764": 0, "n01484850": 1}
    assert read("tench, Tinca tinca\ngreat white shark\n") == (names, {})
    assert read("n01440764 tench, Tinca tinca\nn01484850 great white shark\n") == (names, folders)
    assert read("n01440764\ttench, Tinca tinca\r\nn01484850\tgreat white shark\r\n") == (names, folders)
    assert read('["tench, Tinca tinca", "great white shark"]') == (names, {})
    assert read('{"0": "tench, Tinca tinca", "1": "great white shark"}') == (names, {})
    assert read('{"0": ["n01440764", "tench, Tinca tinca"], "1": ["n01484850", "great white shark"]}') == (names, folders)
    assert read('{"7": "cat"}', 9) == ({7: "cat"}, {})
    assert read("crane\ncrane\n") == ({0: "crane", 1: "crane"}, {})


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (b"cat\n", MismatchError, "expected 3 class names, as many as the labels have classes, got 1"),
        (b"a\nb\nc\nd\n", MismatchError, "expected 3 class names.* got 4"),
        (b'["cat", "dog"]', MismatchError, "expected 3 class names.* got 2"),
        (b'{"3": "cat"}', MismatchError, "expected numbers of 3 classes, 0 to 2, got 3"),
        (b'{"x": "cat"}', ArgumentError, "expected one name to a line.* got 'x': 'cat'"),
        (b'{"0": ["cat"]}', ArgumentError, "expected one name to a line"),
        (b'["cat", 1, "dog"]', ArgumentError, "expected one name to a line.* got 1: 1"),
        (b'{"0": "cat", "0": "dog"}', ArgumentError, "named twice"),
        (b"n1\tcat\nn1\tdog\nn2\towl\n", ArgumentError, "named twice"),
        (b'{"0": "cat"', ArgumentError, "expected one name to a line"),
        (b"\xff\xfe\x00", ArgumentError, "UTF-8"),
        (b"", MismatchError, "got 0"),
    ],
)
def test_class_names_that_are_wrong(labels, tmp_path, text, error, message):
    (tmp_path / "names").write_bytes(text)
    with pytest.raises(error, match=message):
        look_at(labels, KEYS[:1], class_names=tmp_path / "names")
    run("show", labels, KEYS[0], "--class-names", tmp_path / "names", code=2 if error is ArgumentError else 1)


def test_images_that_are_not_the_labelled_ones(photos, labels, tmp_path):
    def show(code=1):
        return run("show", labels, "--images", photos, "--out", tmp_path / "page.html", code=code)

    show(code=0)
    (tmp_path / "page.html").unlink()
    image = photos / "dog/a.png"
    original = image.read_bytes()
    Image.new("RGB", (30, 30)).save(image)
    assert "image 'dog/a.png': expected the file that was labelled" in show()
    Image.new("RGB", (31, 30)).save(photos / "x.png")
    uncheckable = {key: np.asarray(Image.open(photos / key)) for key in KEYS[:2]} | {"dog/a.png": np.zeros((31, 30, 3), np.uint8)}
    with pytest.raises(MismatchError, match="expected 30 x 30 pixels .* got 31 x 30"):
        write_page(labels, uncheckable, tmp_path / "page.html", KEYS[:3])
    image.unlink()
    assert re.search("1 of 5 labelled images are not in .*Name images that are there, by KEY", show())
    image.write_bytes(original[:-9])
    assert "expected the file that was labelled" in show()
    assert not (tmp_path / "page.html").exists()


def test_keys_that_are_not_in_the_file(labels, photos, tmp_path):
    for more in ((), ("--images", photos, "--out", tmp_path / "page.html"), ("--images", photos, "--image", tmp_path / "a.png")):
        assert "'cat/c.png'" in run("show", labels, KEYS[0], "cat/c.png", *more, code=1)


def test_labels_that_cannot_be_shown(photos, labels, tmp_path):
    features = write(photos, tmp_path / "features.slc", "dense:content=features")
    with pytest.raises(StateError, match="expected labels of classes, got features"):
        look_at(features, KEYS[:1])
    assert "features" in run("show", features, "--images", photos, "--out", tmp_path / "page.html", code=1)
    assert "features" in run("show", labels, KEYS[0], "--against", features, code=1)
    empty = write(photos, tmp_path / "empty.slc", keys=[])
    assert "there are no images" in run("show", empty, "--images", photos, "--out", tmp_path / "page.html", code=1)
    four = write(photos, tmp_path / "four.slc", num_classes=4)
    assert "expected labels of 3 classes" in run("show", labels, KEYS[0], "--against", four, code=1)
    padded = write(photos, tmp_path / "padded.slc", padding=Padding(2))
    assert "expected padding of none" in run("show", labels, KEYS[0], "--against", padded, code=1)
    here, there = write(photos, tmp_path / "here.slc", keys=KEYS[:2]), write(photos, tmp_path / "there.slc", keys=KEYS[2:])
    assert "no key in common" in run("show", here, "--images", photos, "--out", tmp_path / "page.html", "--against", there, code=1)


def test_billions_of_classes_are_refused(photos, tmp_path):
    indices, values = np.tile(np.arange(3), (2, 1)), np.full((2, 3), 0.25, np.float32)
    with SoftLabelWriter(tmp_path / "labels.slc", 2**31, "marginal_smoothing:k=3") as writer:
        places = {"crops": np.tile([0, 0, 5, 5], (2, 1)), "flips": [False, True], "image_size": (48, 64)}
        writer.add(KEYS[0], indices=indices, values=values, **places)
    for more in ((KEYS[0],), ("--images", photos, "--out", tmp_path / "page.html")):
        assert "expected labels of at most 4194304 classes" in run("show", tmp_path / "labels.slc", *more, code=1)


def test_wrong_usage(photos, labels, tmp_path):
    page, grid = ("--out", tmp_path / "page.html"), ("--image", tmp_path / "crops.png")
    cases = [
        ((), "name images by KEY"),
        (grid, "name images by KEY"),
        (page, "Missing option '--images'"),
        ((KEYS[0], *grid), "Missing option '--images'"),
        ((KEYS[0], "--images", photos), "--images does not apply to a list of crops"),
        ((KEYS[0], "--sample", 3), "--sample does not apply to a list of crops"),
        ((KEYS[0], "--images", photos, *page, "--sample", 3), "--sample does not apply to --out with KEYs"),
        ((KEYS[0], "--images", photos, *page, *grid), "give one of them"),
        ((KEYS[0], "--images", photos, *grid, "--against", labels), "--against does not apply to --image"),
        ((KEYS[0], "--images", photos, "--image", tmp_path / "crops.txt"), "expected a file extension for pictures"),
        (("--images", tmp_path / "nowhere", *page), "does not exist"),
    ]
    for arguments, message in cases:
        assert message in run("show", labels, *arguments, code=2), arguments
    with pytest.raises(ArgumentError, match="keys: expected the keys of one or more images"):
        look_at(labels, [])
    with pytest.raises(ArgumentError, match="sample: expected an integer of at least 1"):
        write_page(labels, photos, tmp_path / "page.html", sample=0)


def test_files_beside_the_modules_are_installed():
    setup = configparser.ConfigParser(interpolation=None)
    root = Path(softlabel_codec.__file__).parent
    setup.read(root.parent / "setup.cfg")
    patterns = re.split(r"[\s,]+", setup["options.package_data"]["softlabel_codec"].strip())
    beside = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert [name for name in beside if not any(fnmatch(name, pattern) for pattern in patterns)] == []
    assert "show/page.js" in beside


@pytest.fixture(scope="module")
def page():
    """A page in headless Chromium."""
    with chromium() as page:
        yield page


def opened(page, path, **options):
    page.complaints.clear()
    page.open(path, **options)


def crop_shown(page, card=1):
    """Return the number of the crop that a card shows."""
    return int(page.text(f".card:nth-of-type({card}) figcaption b").removeprefix("Crop "))


def shown(page, card=1):
    """Return the number of the crop that a card shows, and names and targets of its classes."""
    rows = f".card:nth-of-type({card}) .label > .classes"
    names, values = (page.value(f"[...document.querySelectorAll('{rows} {what}')].map(e => e.textContent)") for what in (".name", ".value"))
    return crop_shown(page, card), dict(zip(names, map(float, values), strict=True))


def must_show(data, image, crop):
    """Return what a card must show of a crop: names and targets of its classes, and the remainder."""
    view = data["images"][image]["crops"][crop]
    found = {data["names"][str(number)]: target for number, target in zip(view["classes"], view["targets"], strict=True)}
    return pytest.approx({**found, "1 class not kept, spread evenly": view["remainder"]}, abs=6e-4)


@pytest.mark.chromium
def test_choosing_crops_in_a_browser(photos, labels, tmp_path, page):
    write_page(labels, photos, tmp_path / "page.html")
    data = data_of(tmp_path / "page.html")
    opened(page, tmp_path / "page.html")
    assert page.value("document.querySelectorAll('.card').length") == 5
    first, rows = shown(page)
    assert rows == must_show(data, 0, first)

    # over the picture: the crop in which the point lies nearest to the middle; leaving it brings the chosen one back
    top, left, height, width = data["images"][0]["crops"][4]["crop"]
    middle = page.point(".picture", (left + width / 2) / 64, (top + height / 2) / 48)
    page.hover(*middle)
    number, rows = shown(page)
    assert (number, rows) == (4, must_show(data, 0, 4))
    page.hover(1, 1)
    assert crop_shown(page) == first
    page.click(*middle)
    page.hover(1, 1)
    number, rows = shown(page)
    assert (number, rows) == (4, must_show(data, 0, 4))

    # keys go through all crops, and from image to image
    page.press("Home")
    seen = {crop_shown(page)}
    for _ in range(NUM_CROPS - 1):
        page.press("ArrowRight")
        number, rows = shown(page)
        assert rows == must_show(data, 0, number)
        seen.add(number)
    assert seen == set(range(NUM_CROPS))
    page.press("ArrowRight")
    assert crop_shown(page) == number
    page.press("ArrowDown")
    page.press("End")
    number, rows = shown(page, card=2)
    assert rows == must_show(data, 1, number)
    assert f"crop {number}: " in page.value("document.activeElement.getAttribute('aria-valuetext')")
    page.click(*page.point(".card:nth-of-type(2) .strip", 0.01))
    assert crop_shown(page, card=2) != number
    assert page.complaints == []


@pytest.mark.chromium
def test_a_crop_in_a_browser_is_the_students(photos, tmp_path, page):
    labels = write(photos, tmp_path / "labels.slc", padding=Padding(6))
    write_page(labels, photos, tmp_path / "page.html", ["dog/a.png"])
    opened(page, tmp_path / "page.html")
    page.click(*page.point(".strip"))
    page.press("Home")
    with SoftLabelReader(labels) as reader:
        labelled = reader["dog/a.png"]
    images = Cutter(32, "bicubic", padding=Padding(6)).cut(photos / "dog/a.png", lambda size: (labelled.crops, labelled.flips)).images
    pixels = "[...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 32, 32).data]"
    seen = set()
    for _ in range(NUM_CROPS):
        number, _ = shown(page)
        found = np.array(page.value(pixels)).reshape(32, 32, 4)[:, :, :3]
        assert np.abs(found - np.asarray(images[number]).astype(int)).mean() < 8  # a JPEG, scaled by the browser
        seen.add(bool(labelled.flips[number]))
        page.press("ArrowRight")
    assert seen == {True, False}
    assert page.complaints == []


@pytest.mark.chromium
def test_filters_and_orders_in_a_browser(photos, tmp_path, page):
    labels = write(photos, tmp_path / "a.slc", "dense")
    write_page(labels, photos, tmp_path / "page.html", against=write(photos, tmp_path / "b.slc", seed=1))
    data = data_of(tmp_path / "page.html")
    opened(page, tmp_path / "page.html")
    visible = "[...document.querySelectorAll('.card')].filter(card => !card.hidden).map(card => card.querySelector('h2').textContent)"
    by = {
        "distance": lambda image: -image["variation"],
        "file": lambda image: image["number"],
        "unsure": lambda image: -image["entropy"],
        "sure": lambda image: image["entropy"],
        "disagreement": lambda image: image["of_true_class"],
    }
    assert page.value("[...document.getElementById('sort').options].map(option => option.value)") == list(by)
    for order, key in by.items():
        page.value(f"document.getElementById('sort').value = '{order}'; document.getElementById('sort').dispatchEvent(new Event('change'))")
        assert page.value(visible) == [image["key"] for image in sorted(data["images"], key=key)]
    page.press("/")
    page.type("B.PNG")
    page.value("document.getElementById('sort').value = 'file'; document.getElementById('sort').dispatchEvent(new Event('change'))")
    assert page.value(visible) == ["cat/b.png", "owl/b.png"]
    assert page.text("#count") == "2 of 5 images"
    page.value("document.getElementById('filter').value = ''")
    page.type("dog")
    on_top = [{data["names"][str(crop["classes"][0])] for crop in image["crops"]} for image in data["images"]]
    expected = [image["key"] for image, names in zip(data["images"], on_top, strict=True) if "dog" in {*names, image["key"][:3]}]
    assert page.value(visible) == expected
    assert page.complaints == []


@pytest.mark.chromium
@pytest.mark.parametrize("codec", ["field", "marginal_smoothing:t=0.1,tail=6"])
def test_phones_and_dark_rooms(photos, tmp_path, page, codec):
    labels = write(photos, tmp_path / "labels.slc", codec, num_classes=12)
    names = [f"a class whose name is longer than any phone is wide, the {number}th" for number in range(12)]
    (tmp_path / "names.json").write_text(json.dumps(names))
    write_page(labels, photos, tmp_path / "page.html", class_names=tmp_path / "names.json", against=labels)
    opened(page, tmp_path / "page.html", width=360, height=740, dark=True, phone=True)
    assert page.value("document.documentElement.scrollWidth") <= 360
    dark = page.value("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", dark)[:3])) < 80
    before = crop_shown(page)
    page.tap(*page.point(".strip", 0.98))
    assert crop_shown(page) != before
    maps = page.value("document.querySelectorAll('.card:first-of-type .maps canvas').length")
    assert maps == (12 if codec == "field" else 0)
    assert page.complaints == []
