"""Images that are padded before they are cropped, and the sampler of all views, in files."""

import numpy as np
import pytest
from conftest import random_probs

from softlabel_codec import (
    AllViews,
    ArgumentError,
    CropSampler,
    LimitError,
    MismatchError,
    Padding,
    SoftLabelReader,
    SoftLabelWriter,
    recover,
)
from softlabel_codec.report import inspect, stats, verify

VIEWS, PADDING = AllViews(32, 32), Padding(4)
ALL = [((top, left, 32, 32), flip) for top in range(9) for left in range(9) for flip in (False, True)]


def write(path, images, crops="derived", sampler=VIEWS, padding=PADDING, codec="hard", **options):
    """Write a file of images: for each key, its size and number of crops."""
    rng = np.random.default_rng(0)
    with SoftLabelWriter(path, 7, codec, crops=crops, sampler=sampler, padding=padding, **options) as writer:
        for key, (size, count) in images.items():
            writer.add(key, image_size=size, probs=random_probs(rng, count, 7))


def test_all_views_of_an_image_are_numbered_row_by_row_and_each_comes_as_it_is_and_mirrored():
    assert VIEWS.num_crops(40, 40) == len(ALL) == 162
    crops, flips = VIEWS.sample("any", (40, 40), range(162))
    assert [(tuple(crop), flip) for crop, flip in zip(crops.tolist(), flips.tolist(), strict=True)] == ALL
    few, mirrored = VIEWS.sample_few(0, [161, 0, 33], 40, 40)
    assert list(zip(few, mirrored, strict=True)) == [ALL[161], ALL[0], ALL[33]]
    crops, flips = AllViews(3, 5, flips=False).sample("any", (4, 6), range(4))
    assert (crops[:, :2].tolist(), flips.any()) == ([[0, 0], [0, 1], [1, 0], [1, 1]], False)


@pytest.mark.parametrize(("size", "number"), [((40, 40), 162), ((40, 40), -1), ((31, 40), 0), ((40, 31), 0), ((31, 31), 0)])
def test_a_view_that_an_image_does_not_have(size, number):
    with pytest.raises(ArgumentError, match=rf"an image of {size[0]} x {size[1]} pixels .* has (162|0), got {number}"):
        VIEWS.sample("any", size, [number])
    with pytest.raises(ArgumentError, match=f"got {number}"):
        VIEWS.sample_few(0, [number], *size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3), "height: expected 1 to 65535 pixels, got 0"),
        ((3, 65536), "width: expected 1 to 65535 pixels, got 65536"),
        ((3, 3.0), "width: expected 1 to 65535 pixels, got 3.0"),
        ((3, 3, 1), "flips: expected True or False, got 1"),
    ],
)
def test_views_that_cannot_be(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        AllViews(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "padding: expected 0 to 1024 pixels, got -1"),
        ((1025,), "padding: expected 0 to 1024 pixels, got 1025"),
        ((True,), "padding: expected 0 to 1024 pixels, got True"),
        (((4, 4),), r"padding: expected 0 to 1024 pixels, got \(4, 4\)"),
        ((4, "wrap"), "padding mode: expected constant or edge or reflect or symmetric, got 'wrap'"),
        ((4, "edge", 3), "fill: expected none for padding of mode 'edge', got 3"),
        ((4, "constant", 256), "fill: expected one or three integers from 0 to 255, got 256"),
        ((4, "constant", (1, 2)), r"fill: expected one or three integers from 0 to 255, got \(1, 2\)"),
        ((4, "constant", (1, 2, 0.5)), "fill: expected one or three integers"),
        ((0, "edge"), "padding: expected 1 to 1024 pixels for mode 'edge'"),
    ],
)
def test_padding_that_cannot_be(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        Padding(*arguments)


def test_one_number_fills_all_colours():
    assert Padding(4, fill=128) == Padding(4, "constant", (128, 128, 128))
    assert Padding(np.int64(4)) == Padding(4)


def test_crops_of_all_views_take_no_bytes(tmp_path):
    images = {f"{number}.png": ((32, 32), 162) for number in range(3)}
    write(tmp_path / "a.slc", images, codec="dense")
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert (reader.sampler, reader.padding, reader.num_crops.tolist()) == (VIEWS, Padding(4), [162] * 3)
        for image in reader:
            assert image.image_size == (32, 32)
            assert [(tuple(crop), flip) for crop, flip in zip(image.crops.tolist(), image.flips.tolist(), strict=True)] == ALL
        assert reader.read(1, [5, 161]).crops.tolist() == [list(ALL[5][0]), list(ALL[161][0])]
    assert verify(tmp_path / "a.slc", deep=True).ok
    assert "crops" not in {part.name for part in inspect(tmp_path / "a.slc").budget}


def test_images_of_other_sizes_have_other_views(tmp_path):
    write(tmp_path / "a.slc", {"a": ((32, 32), 162), "b": ((24, 25), 4), "c": ((40, 40), 20)})
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert reader["b"].crops.tolist() == [[0, 0, 32, 32], [0, 0, 32, 32], [0, 1, 32, 32], [0, 1, 32, 32]]
        assert reader["c"].crops[19].tolist() == [0, 9, 32, 32]


@pytest.mark.parametrize(("size", "count"), [((32, 32), 163), ((23, 32), 1)])
def test_more_crops_than_views_are_refused(tmp_path, size, count):
    with pytest.raises(ArgumentError, match="image 'a': crops: expected at most (162|0), those that the sampler has of"):
        write(tmp_path / "a.slc", {"a": (size, count)})


@pytest.mark.parametrize("crops", ["pixels", "derived"])
def test_crops_may_lie_beyond_the_image_by_its_padding(tmp_path, crops):
    sampler = CropSampler(seed=3)
    rng, sizes = np.random.default_rng(0), {"a": (10, 20), "b": (1, 1), "c": (65535 - 200, 3)}
    derived = {"crops": "derived", "sampler": sampler} if crops == "derived" else {}
    with SoftLabelWriter(tmp_path / "a.slc", 7, "hard", padding=Padding(100, "symmetric"), **derived) as writer:
        for key, (height, width) in sizes.items():
            geometry, flips = sampler.sample(key, (height + 200, width + 200), range(30))
            writer.add(key, image_size=(height, width), crops=geometry, flips=flips, probs=random_probs(rng, 30, 7))
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        for key, (height, width) in sizes.items():
            geometry, flips = sampler.sample(key, (height + 200, width + 200), range(30))
            for image, some in ((reader[key], range(30)), (reader.read(key, [0, 29, 7]), [0, 29, 7])):
                np.testing.assert_array_equal(image.crops, geometry[some])
                np.testing.assert_array_equal(image.flips, flips[some])
                assert image.image_size == (height, width)
    assert recover(tmp_path / "a.slc", tmp_path / "b.slc").num_images == 3
    assert (tmp_path / "b.slc").read_bytes() == (tmp_path / "a.slc").read_bytes()


def test_crops_beyond_the_padding_are_refused(tmp_path):
    labels = {"flips": [False], "probs": [[0.5, 0.5]]}
    with SoftLabelWriter(tmp_path / "a.slc", 2, "hard", padding=Padding(2)) as writer:
        with pytest.raises(
            ArgumentError, match=r"inside an image of 5 x 6 pixels \(height x width\) and its padding of 2, got \[0, 1, 9, 10\]"
        ):
            writer.add("a", image_size=(5, 6), crops=[[0, 1, 9, 10]], **labels)
        with pytest.raises(LimitError, match="image_size: expected at most 65535 pixels with padding of 2, got 65532 x 6"):
            writer.add("a", image_size=(65532, 6), crops=[[0, 0, 9, 9]], **labels)
        writer.add("a", image_size=(5, 6), crops=[[0, 0, 9, 10]], **labels)
    with pytest.raises(ArgumentError, match="padding: expected crops='pixels' or 'derived', got crops='fractions:f32'"):
        SoftLabelWriter(tmp_path / "b.slc", 2, "hard", crops="fractions:f32", padding=Padding(2))
    with pytest.raises(ArgumentError, match="padding: expected a Padding, got 4"):
        SoftLabelWriter(tmp_path / "b.slc", 2, "hard", padding=4)


def test_a_file_of_another_padding_is_not_continued(tmp_path):
    options = {"crops": "derived", "sampler": VIEWS}
    with SoftLabelWriter(tmp_path / "b.slc", 7, "dense", padding=PADDING, **options) as writer:
        for number in range(3):
            writer.add(f"{number}", image_size=(32, 32), probs=random_probs(np.random.default_rng(0), 162, 7))
        writer.close()
    with pytest.raises(MismatchError, match="padding: expected 3 pixels on each side, edge, found 4 pixels on each side, constant"):
        SoftLabelWriter(tmp_path / "b.slc", 7, "dense", padding=Padding(3, "edge"), **options, resume=True)
    assert len(SoftLabelWriter(tmp_path / "b.slc", 7, "dense", padding=PADDING, **options, resume=True)) > 0


def test_reports_say_how_images_are_padded_and_which_views_there_are(tmp_path):
    write(tmp_path / "a.slc", {"a": ((32, 32), 162)}, padding=Padding(4, "reflect"))
    write(tmp_path / "b.slc", {"a": ((32, 32), 3)}, sampler=CropSampler(), padding=Padding(0))
    for report in (inspect(tmp_path / "a.slc"), stats(tmp_path / "a.slc")):
        assert report.sampler == {"name": "all_views/1", "height": 32, "width": 32, "flips": True}
        assert report.padding == {"pixels": 4, "mode": "reflect"}
    assert inspect(tmp_path / "b.slc").padding is None
