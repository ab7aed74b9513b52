"""Images are found by key, also by keys that other programs shortened or extended, and their due crops are drawn without torch."""

import pickle
import posixpath
import re

import numpy as np
import pytest
from conftest import write_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from softlabel_codec import ArgumentError, MismatchError, SoftLabelReader
from softlabel_codec.container.matching import KeyFinder
from softlabel_codec.crops.choice import choose_crops

KEYS = ["n1/a.JPEG", "n1/b.c.png", "n1/shot 0.5", "n2/a.JPEG", "n2/d.jpg", "n2/d.png", "n2/Größe.jpeg", ".hidden"]


def reader_of(path, keys, counts=None):
    write_labels(path, keys=keys, counts=counts or [3] * len(keys))
    return SoftLabelReader(path)


@pytest.fixture
def reader(tmp_path):
    with reader_of(tmp_path / "labels.slc", KEYS) as reader:
        yield reader


@pytest.mark.parametrize("order", [1, -1], ids=["ascending", "descending"])
def test_many_keys_and_few(tmp_path, order):
    keys = sorted(f"class {number % 7}/{number}.jpg" for number in range(1300))[::order]
    asked = np.random.default_rng(0).integers(0, 1300, 400)
    with reader_of(tmp_path / "labels.slc", keys, [1] * 1300) as reader:
        assert reader.find([keys[5]]).tolist() == [5]
        for _ in range(2):
            found = reader.find([keys[number] for number in asked])
            assert found.dtype == np.int64
            np.testing.assert_array_equal(found, asked)
        assert reader.find([*keys[:3], "class 1/0.jpg"], missing=-7).tolist() == [0, 1, 2, -7]
        assert reader.find([]).tolist() == []
        assert reader.find(key for key in np.array(keys[:2])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("match", "asked", "number"),
    [
        ("exact", "n2/Größe.jpeg", 6),
        ("stem", "n1/a", 0),
        ("stem", "n1/a.JPEG", 0),
        ("stem", "n1/a.webp", 0),
        ("stem", "n1/b", 1),  # WebDataset
        ("stem", "n1/b.JPEG", 1),  # timm, which appends an ending to WebDataset's key
        ("stem", "n1/b.c", 1),
        ("stem", "n1/b.c.png", 1),
        ("stem", "n1/shot 0", 2),  # WebDataset
        ("stem", "n1/shot 0.5", 2),  # a number is no ending
        ("stem", "n1/shot 0.5.jpg", 2),
        ("stem", ".hidden", 7),
        ("basename", "/data/train/Größe.jpeg", 6),
        ("basename", "Größe", 6),
        ("basename", "x/b.c", 1),
        ("basename", "d.png", 5),
        ("basename", "shot 0.5.jpg", 2),
        (lambda key: key.casefold().partition(".")[0], "N1/A.jpg", 0),
        (posixpath.basename, "d.png", 5),
    ],
)
def test_keys_that_fit_by_a_rule(reader, match, asked, number):
    assert reader.find([asked, asked], match).tolist() == [number, number]


@pytest.mark.parametrize(
    ("match", "asked"),
    [
        ("exact", "n1/a"),
        ("stem", "a"),
        ("stem", "n1"),
        ("stem", ""),
        ("stem", "n1/b.x.png"),
        ("stem", "n1/a.JPEG.jpg"),
        ("basename", "n1"),
        ("basename", ""),
        ("exact", "n1/\udcff.jpg"),
        ("stem", "n1/\udcff.jpg"),
    ],
)
def test_keys_that_fit_nothing(reader, match, asked):
    found = reader.find([asked, KEYS[6]], match, missing=-1)
    assert found.tolist() == [-1, 6]
    with pytest.raises(KeyError) as caught:
        reader.find([KEYS[6], asked], match)
    assert f"expected keys of labelled images by match={match!r}, got {asked!r}. Nearest: " in caught.value.args[0]


@pytest.mark.parametrize(
    ("match", "asked", "both", "advice"),
    [
        ("stem", "n2/d", "'n2/d.jpg' and 'n2/d.png'", "Pass a function as match"),
        ("stem", "n2/d.png", "'n2/d.jpg' and 'n2/d.png'", "Pass match='exact', which fits all keys"),
        ("basename", "a.JPEG", "'n1/a.JPEG' and 'n2/a.JPEG'", "Pass a function as match"),
        ("basename", "n1/a.JPEG", "'n1/a.JPEG' and 'n2/a.JPEG'", "Pass match='exact'"),
        ("basename", "n1/a", "'n1/a.JPEG' and 'n2/a.JPEG'", "Pass match='stem'"),
        ("basename", "d", "'n2/d.jpg' and 'n2/d.png'", "Pass a function as match"),
        (posixpath.dirname, "n2/x", "'n2/a.JPEG' and 'n2/d.jpg'", "Pass a function as match"),
    ],
)
def test_two_images_that_a_key_fits_are_an_error_if_it_is_asked_for(reader, match, asked, both, advice):
    assert reader.find(["n1/b.c.png"], match if isinstance(match, str) else str.upper).tolist() == [1]
    for missing in (None, -1):
        with pytest.raises(MismatchError, match=f"key '{asked}': expected one image by match=.*, got {both}. {advice}"):
            reader.find([asked], match, missing)


def test_a_rule_that_all_images_fit(reader):
    with pytest.raises(MismatchError, match="got 'n1/a.JPEG' and 'n1/b.c.png'"):
        reader.find(["x"] * 50, lambda key: "")


def test_the_error_of_an_unknown_key_says_what_is_near_and_what_would_fit(reader):
    nearest = "Nearest: 'n1/a.JPEG', '.*', '.*'"
    with pytest.raises(KeyError, match=f"got 'n1/a'. {nearest}. Pass match='stem', which fits all keys"):
        reader.find(["n1/a"])
    with pytest.raises(KeyError, match="got '/x/d.jpg' and 1 more that are unknown, of 3.*Pass match='basename', which fits all keys"):
        reader.find(["n2/d.png", "/x/d.jpg", "/x/n2/d.png"])
    with pytest.raises(KeyError, match="Nearest: 'n2/d.*Pass missing=-1 to get -1 for unknown keys"):
        reader.find(["n2/d.gif"])  # which stem fits twice


def test_the_nearest_of_very_many_keys(tmp_path):
    keys = [f"class {number % 7}/{number:06}.jpg" for number in range(7000)]
    with (
        reader_of(tmp_path / "labels.slc", keys, [1] * len(keys)) as reader,
        pytest.raises(KeyError, match="Nearest: 'class 3/004567.jpg', "),
    ):
        reader.find(["class 3/04567.jpg"])


def test_a_file_without_images(tmp_path):
    with reader_of(tmp_path / "labels.slc", []) as reader:
        assert reader.find(["a"], "stem", missing=-1).tolist() == [-1]
        with pytest.raises(KeyError, match="Nearest: none"):
            reader.find(["a"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("n1/a.JPEG",), "keys: expected a sequence of keys, got 'n1/a.JPEG'"),
        ((7,), "keys: expected a sequence of keys, got 7"),
        ((["a", b"n1/a.JPEG"],), "keys: expected a sequence of str, got b'n1/a.JPEG' in it"),
        (([0],), "keys: expected a sequence of str, got 0 in it"),
        ((["a"], "stems"), "match: expected exact, stem, basename or a function, got 'stems'"),
        ((["a"], None), "match: expected exact, stem, basename or a function, got None"),
        ((["a"], len), "match: expected a function that returns a str, got 1 for 'a'"),
        ((["a"], "exact", 0), "missing: expected a negative integer"),
        ((["a"], "exact", "none"), "missing: expected a negative integer"),
        ((["a"], "exact", -(2**64)), "missing: expected a negative integer"),
    ],
)
def test_wrong_arguments_of_find(reader, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        reader.find(*arguments)


def test_stored_keys_are_read_once_for_each_function(reader):
    calls = []

    def lower(key):
        calls.append(key)
        return key.lower()

    for number in range(3):
        assert reader.find(["N1/A.jpeg"], lower).tolist() == [0]
        assert len(calls) == len(KEYS) + 1 + number
    assert reader.find(["N2"], lambda key: key[:2].upper() if key == "n2/d.jpg" else key).tolist() == [4]


def test_a_pickle_holds_no_index(tmp_path):
    keys = [f"{number}.jpg" for number in range(2000)]
    with reader_of(tmp_path / "labels.slc", keys, [1] * len(keys)) as reader:
        assert reader.find(["7"], "stem").tolist() == [7]
        data = pickle.dumps(reader)
    assert len(data) < 1000
    with pickle.loads(data) as copy:
        assert copy.find(["7"], "stem").tolist() == [7]


LETTERS = st.text("ab.1/", min_size=1, max_size=5)


def file_name(key: str) -> str:
    return re.sub(".*/", "", key)


def stem_of(key: str) -> str:
    return re.sub(r"(?<=[^/])\.[a-zA-Z][a-zA-Z0-9]*$", "", key)


def stems_of(key: str) -> set[str]:
    return {stem_of(key), re.sub(r"(^|/)([^/][^./]*)\.[^/]*$", r"\1\2", stem_of(key))}


def fitting(stored: list[str], asked: str, match: str) -> list[int]:
    def of_stems(change) -> list[int]:
        mine = {change(asked), stem_of(change(asked))}
        return [number for number, key in enumerate(stored) if mine & stems_of(change(key))]

    if match == "exact":
        return [number for number, key in enumerate(stored) if key == asked]
    if match == "stem":
        return of_stems(str)
    same = [number for number, key in enumerate(stored) if file_name(key) == file_name(asked)]
    return same or of_stems(file_name)


class ListOfKeys(list):
    """Keys as `KeyFinder` asks them."""

    def find(self, key):
        return self.index(key) if key in self else None

    def around(self, key, count):
        return self[:count]

    def spread(self, count):
        return self[:count]


@given(
    st.lists(LETTERS, unique=True, max_size=12),
    st.lists(LETTERS, min_size=1, max_size=6),
    st.sampled_from(["exact", "stem", "basename"]),
)
@settings(max_examples=1000)
def test_finding_equals_comparing_each_with_each(stored, asked, match):
    finder = KeyFinder(ListOfKeys(stored), "labels.slc")
    wanted = [fitting(stored, key, match) for key in asked]
    if any(len(numbers) > 1 for numbers in wanted):
        first = next(place for place, numbers in enumerate(wanted) if len(numbers) > 1)
        both = " and ".join(repr(stored[number]) for number in wanted[first][:2])
        with pytest.raises(MismatchError, match=re.escape(f"key {asked[first]!r}: expected one image by match={match!r}, got {both}.")):
            finder.find(asked, match, -1)
        return
    assert finder.find(asked, match, -1).tolist() == [numbers[0] if numbers else -1 for numbers in wanted]


def test_drawn_crops_are_those_of_the_turn(tmp_path):
    with reader_of(tmp_path / "labels.slc", KEYS, [9, 20, 4, 5, 6, 7, 8, 9]) as reader:
        rows = reader.find(["n2/d.png", "n1/b", "n2/d.png"], lambda key: "n1/b" if key == "n1/b.c.png" else key)
        batch = reader.draw(rows, crops_per_image=3, seed=5, epoch=2)
        wanted = reader.read_batch(rows, choose_crops(5, 2, rows, reader.num_crops[rows], 3))
        assert batch.images.tolist() == [5, 1, 5]
        np.testing.assert_array_equal(batch.crops, wanted.crops)
        np.testing.assert_array_equal(batch.flips, wanted.flips)
        np.testing.assert_array_equal(batch.labels.dense(), wanted.labels.dense())
        np.testing.assert_array_equal(batch.image_sizes, wanted.image_sizes)
        turns = reader.draw(rows, 3, 5, epoch=np.uint8([0, 2, 1]))
        for place, turn in enumerate([0, 2, 1]):
            alone = reader.draw(rows[place : place + 1], 3, 5, epoch=turn)
            np.testing.assert_array_equal(turns.crops[3 * place : 3 * place + 3], alone.crops)
        assert len(reader.draw(range(8)).flips) == 32
        few = {tuple(crop) for turn in range(5) for crop in reader.draw([1], 2, epoch=turn, stored_crops=4).crops.tolist()}
        assert few == {tuple(crop) for crop in reader.read(1, range(4)).crops.tolist()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": [0, -1]}, r"rows: expected numbers of images, got -1 at place 1. Leave out what find\(missing=...\) marked"),
        ({"rows": ["n1/a.JPEG"]}, r"rows: expected numbers of images, integers of shape \(B,\), at least one, got <U9"),
        ({"rows": 3}, r"rows: .* got int64 of shape \(\)"),
        ({"rows": []}, "rows: .* at least one, got float64"),
        ({"rows": [0.0]}, "rows: .* got float64"),
        ({"crops_per_image": 4}, "crops_per_image: expected at most 3, the crops stored of an image in .*, got 4"),
        ({"crops_per_image": 0}, "crops_per_image: expected an integer of at least 1, got 0"),
        ({"stored_crops": 4}, "stored_crops: expected at most 3, the crops stored of an image in .*, got 4"),
        ({"crops_per_image": 2, "stored_crops": 1}, "crops_per_image: expected at most 1, .*, got 2"),
        ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
        ({"epoch": -1}, "epoch: expected integers from 0 to 2.40, got -1"),
        ({"epoch": 2**62}, "epoch: expected integers from 0 to 2.40"),
        ({"epoch": [0, 1, 2]}, r"epoch: expected an integer, or integers of shape \(2,\), got int64 of shape \(3,\)"),
        ({"epoch": 1.5}, "epoch: expected an integer, .*, got 1.5"),
        ({"epoch": True}, "epoch: expected an integer, .*, got True"),
    ],
)
def test_wrong_arguments_of_draw(reader, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        reader.draw(**{"rows": [0, 1], "crops_per_image": 2, **arguments})
    with pytest.raises(IndexError, match="image number"):
        reader.draw([0, 8], 2)
