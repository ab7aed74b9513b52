"""Sources of images: their keys, order, images, classes and errors. (What is done with them: `test_labels_from_sources.py`.)"""

import builtins
import gzip
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from written_sources import IMAGES, KEYS, TARGETS, WRITE, picture, table, write_folder, write_parquet, write_saved, write_shards, write_tar

from softlabel_codec import ArgumentError, ImageSource, MismatchError, StateError
from softlabel_codec.image_source import where_is
from softlabel_codec.images import ArraySource, open_images
from softlabel_codec.images.files import load_image
from softlabel_codec.images.sources.keys import KeyList, unique_keys
from softlabel_codec.images.sources.tables import ParquetFiles
from softlabel_codec.storage.patterns import files_of

ROWS = [f"{number:08d}" for number in range(12)]


class MapStyle:
    """A dataset of (image, class), as torchvision's are."""

    def __init__(self, transform=None):
        self.transform = transform
        self.targets = TARGETS

    def __len__(self):
        return len(KEYS)

    def __getitem__(self, number):
        return load_image(IMAGES[KEYS[number]]), TARGETS[number]


@pytest.mark.parametrize("kind", WRITE)
def test_all_kinds_hold_the_same_images_under_the_same_keys(kind, tmp_path):
    source = open_images(WRITE[kind](tmp_path))
    assert isinstance(source, ImageSource)
    assert list(source.keys()) == KEYS
    assert {key: source.read(key) for key in reversed(KEYS)} == IMAGES
    assert source.targets().tolist() == TARGETS
    assert source.targets().dtype == np.int64
    assert source.keys()[5:7] == KEYS[5:7]
    for missing in ("cat/1.png", "nothing", "cat"):
        with pytest.raises((KeyError, OSError)):
            source.read(missing)


@pytest.mark.parametrize("kind", WRITE)
def test_sources_survive_pickling_and_hold_no_open_files(kind, tmp_path):
    source = open_images(WRITE[kind](tmp_path))
    source.read(KEYS[0])
    copy = pickle.loads(pickle.dumps(source))
    assert list(copy.keys()) == KEYS
    assert copy.read(KEYS[7]) == IMAGES[KEYS[7]]


@pytest.mark.parametrize("kind", WRITE)
def test_an_image_is_named_by_the_file_that_it_lies_in(kind, tmp_path):
    source = open_images(WRITE[kind](tmp_path))
    names = {
        "folder": f"{tmp_path}/images/dog/05.png",
        "shards": f"{tmp_path}/shards/s-001.tar: dog/05.png",
        "parquet": f"{tmp_path}/a.parquet: row 5",
        "saved": f"{tmp_path}/saved/data-00000-of-00002.arrow: row 5",
        "npz": f"{tmp_path}/a.npz: dog/05.png",
    }
    assert where_is(source, KEYS[5]) == names[kind]


@pytest.mark.parametrize(
    "make",
    [
        lambda: dict(IMAGES),
        MapStyle,
        lambda: np.zeros((12, 8, 9, 3), np.uint8),
        lambda: ArraySource(list(IMAGES.values()), KEYS),
        lambda: [load_image(data) for data in IMAGES.values()],
    ],
)
def test_objects_are_sources(make):
    source = open_images(make())
    assert isinstance(source, ImageSource)
    keys = source.keys()
    assert len(keys) == 12
    copy = pickle.loads(pickle.dumps(source))
    for key in keys:
        image, again = (load_image(one.read(key)) for one in (source, copy))
        assert image.tobytes() == again.tobytes()


def test_an_object_with_the_three_methods_is_taken_as_it_is():
    class Mine:
        def keys(self):
            return ["a"]

        def read(self, key):
            return np.zeros((4, 4, 3), np.uint8)

        def targets(self):
            return None

    mine = Mine()
    assert open_images(mine) is mine
    assert where_is(mine, "a") == "a"


@pytest.mark.parametrize("images", [3, b"image", None, object()])
def test_other_objects_are_refused(images):
    with pytest.raises(ArgumentError, match="images: expected a folder of images, .* or an object with keys, read and targets, got"):
        open_images(images)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere: does not exist: expected a folder of images"),
        ("nowhere.npz", "nowhere.npz: does not exist"),
        ("labels.slc", "labels.slc: expected a folder of images, .*, got another file"),
        ("pipe:cat a.tar", "pipe:cat a.tar: commands are not run"),
        ("a.tar.gz", r"a.tar.gz: members of a compressed tar file cannot be read by position. Unpack it to a plain .tar"),
        ("s-{000..002}.tar", r"s-000.tar does not exist, nor 2 more"),
        ("*.tar", r"\*.tar: expected files of this pattern, found none"),
        ("s3:bucket", "images: s3 failed with ModuleNotFoundError"),
        ("nowhere.py:images", "images: nowhere.py: file not found"),
        ("{0..9999999}.tar", "expected a range of at most 1000000 files"),
        ("{0..999}/{0..9999}.tar", "expected at most 1000000 files, got 10000000"),
        ("s-{0..10}.tar", r"s-0.tar does not exist, nor 10 more"),
        ("", r"images: expected a folder of images, .*, got an empty path"),
        (".:image", "column 'image': expected a dataset that 'datasets' saved, got another folder"),
    ],
)
def test_names_of_nothing(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.slc").write_bytes(b"")
    with pytest.raises(ArgumentError, match=message):
        open_images(name)


def test_patterns(tmp_path):
    names = [f"{letter}-{number:02d}.tar" for letter in "ab" for number in (8, 9, 10)]
    for name in names:
        (tmp_path / name).touch()
    assert files_of(f"{tmp_path}/{{a,b}}-{{08..10}}.tar") == [str(tmp_path / name) for name in names]
    assert files_of(f"{tmp_path}/b-{{10..08}}.tar") == [str(tmp_path / name) for name in reversed(names[3:])]
    assert files_of(f"{tmp_path}/a-*.tar") == [str(tmp_path / name) for name in names[:3]]
    odd = tmp_path / "[1] {a,b}"
    odd.mkdir()
    for number in (1, 2):
        (odd / f"{number}.tar").touch()
    assert files_of(f"{odd}/*.tar") == files_of(f"{odd}/{{1,2}}.tar") == [f"{odd}/1.tar", f"{odd}/2.tar"]
    (tmp_path / "a-9.tar").touch()
    assert files_of(f"{tmp_path}/a-{{9..10}}.tar") == [f"{tmp_path}/a-9.tar", f"{tmp_path}/a-10.tar"]
    (tmp_path / "{a,b}.tar").touch()
    assert files_of(f"{tmp_path}/{{a,b}}.tar") == [f"{tmp_path}/{{a,b}}.tar"]


def test_a_folder_of_shards_says_how_to_name_them(tmp_path):
    write_shards(tmp_path / "shards")
    with pytest.raises(ArgumentError, match=r"found none. To read .tar files, name them: '.*/shards/\*.tar'"):
        open_images(tmp_path / "shards").keys()


def test_a_function_makes_a_source_in_each_process(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def images():\n    return {'a': b'1', 'b': b'2'}\n\ndef number():\n    return 3\n")
    source = open_images(f"{path}:images")
    assert list(source.keys()) == ["a", "b"]
    assert pickle.loads(pickle.dumps(source)).read("b") == b"2"
    with pytest.raises(ArgumentError, match="has no function 'other'; it has images, number"):
        open_images(f"{path}:other")
    with pytest.raises(ArgumentError, match="images: expected a folder of images, .*, got int"):
        open_images(f"{path}:number")


def test_keys_are_found_among_many_and_repeated_ones_too():
    keys = [f"class{number % 7}/{number}" for number in range(5000)]
    found = KeyList(keys, "here")
    assert [found.number(key) for key in keys] == list(range(5000))
    assert list(found) == keys
    assert found[-1] == keys[-1]
    assert "class0/1" not in found
    assert 3 not in found
    assert found.repeated() is None
    with pytest.raises(KeyError, match="class0/1"):
        found.number("class0/1")
    with pytest.raises(IndexError):
        found[5000]
    with pytest.raises(MismatchError, match="here: expected each key once, got 'class0/7' for image 7 and for image 5000"):
        unique_keys([*keys, "class0/7"], "here")
    assert KeyList(["plumless", "buckeroo"], "here").repeated() is None  # two words of the same CRC-32
    assert KeyList(["plumless", "buckeroo"], "here").number("buckeroo") == 1


@pytest.mark.parametrize(
    ("keys", "message"), [([], "here: expected images, found none"), ([3], "expected a non-empty str, got 3"), (["\udcff"], "UTF-8")]
)
def test_keys_that_cannot_be(keys, message):
    with pytest.raises(ArgumentError, match=message):
        KeyList(keys, "here")


# Shards


def test_shards_are_named_in_many_ways(tmp_path):
    pattern = write_shards(tmp_path / "shards")
    for name in (pattern, f"{tmp_path}/shards/*.tar", Path(tmp_path / "shards" / "s-*.tar"), f"file://{tmp_path}/shards/s-*.tar"):
        assert list(open_images(name).keys()) == KEYS
    assert list(open_images(tmp_path / "shards" / "s-001.tar").keys()) == KEYS[4:8]


def test_shards_behind_a_url(tmp_path):
    import fsspec

    write_shards(tmp_path / "shards")
    memory = fsspec.filesystem("memory")
    for path in (tmp_path / "shards").iterdir():
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    for name in ("memory://bucket/s-{000..002}.tar", "memory://bucket/*.tar"):
        source = open_images(name)
        assert list(source.keys()) == KEYS
        assert {key: source.read(key) for key in KEYS} == IMAGES
        assert source.targets().tolist() == TARGETS
    assert where_is(source, KEYS[11]).endswith("s-002.tar: owl/11.png")
    memory.pipe("/bucket/s-002.tar", b"")
    with pytest.raises(OSError, match=r"s-002.tar: expected \d+ bytes at byte \d+, got 0: the file has changed"):
        source.read(KEYS[11])
    with pytest.raises(OSError, match="nowhere.tar"):
        open_images("memory://bucket/nowhere.tar")
    with pytest.raises(OSError, match="Protocol not known: odd"):
        open_images("odd://bucket/a.tar")


def test_names_of_members(tmp_path):
    data = picture(1)
    names = ["./a/x.png", "b/x.seg.PNG", "long/" + "x" * 200 + ".png", "../c.png", "d/./e.png"]
    write_tar(tmp_path / "a.tar", {**dict.fromkeys(names, data), "._x.png": b"", ".hidden/y.png": b"", "z.txt": b"", "z.cls": b"3"})
    source = open_images(tmp_path / "a.tar")
    keys = list(source.keys())
    assert keys == ["a/x.png", *names[1:]]
    assert all(source.read(key) == data for key in keys)
    assert source.targets() is None  # not all have a class


def test_keys_in_two_shards_name_both(tmp_path):
    for shard in ("a.tar", "b.tar"):
        write_tar(tmp_path / shard, {"0001.png": picture(1), f"{shard}.png": picture(2)})
    with pytest.raises(MismatchError, match=r"a\.tar and .*b\.tar: both hold an image '0001.png': expected each name once"):
        open_images(tmp_path / "*.tar")
    with pytest.raises(MismatchError, match=r"a\.tar: holds twice an image '0001.png'"):
        open_images(f"{tmp_path}/{{a,a}}.tar")


def test_damaged_shards(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a.png": b"1" * 600, "b.png": b"2" * 600, "c.png": b"3" * 600})
    whole = path.read_bytes()
    second = 512 + 1024
    cases = [
        (b"", "empty file"),
        (b"no tar file" * 100, "not a readable tar file"),
        (whole[: second + 100], "not a readable tar file"),
        (whole[: second + 700], "unexpected end of data"),
        (whole[:second], f"expected its next member or its end at byte {second}, got no end marker: it is cut off"),
        (whole[:second] + b"\1" * 512 + whole[second + 512 :], f"at byte {second}, got a damaged header"),
        (gzip.compress(whole), "unpack it to a plain .tar"),
    ]
    for data, message in cases:
        path.write_bytes(data)
        with pytest.raises(OSError, match=f"a.tar: not a readable tar file.*{message}|a.tar: {message}"):
            open_images(path)
    path.write_bytes(b"\0" * 10240)
    with pytest.raises(ArgumentError, match="a.tar: expected images, found none"):
        open_images(path)


def test_shards_with_links_or_classes_that_are_none(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        tar.addfile(link)
    with pytest.raises(ArgumentError, match=r"a\.tar: expected image files, got a link or a folder named 'b.png'"):
        open_images(tmp_path / "a.tar")
    for data in (b"cat", b"9" * 20):
        write_tar(tmp_path / "b.tar", {"a.png": picture(1), "a.cls": data})
        with pytest.raises(MismatchError, match=rf"b\.tar: a\.png: expected a class number in its \.cls member, got {data!r}"):
            open_images(tmp_path / "b.tar").targets()


# Tables


@pytest.mark.parametrize(
    "write", [lambda folder, rows: write_parquet(folder / "a.parquet", rows), lambda f, rows: write_saved(f / "d", rows)]
)
class TestTables:
    """Parquet files and saved datasets."""

    def test_rows_without_paths_are_numbered(self, write, tmp_path):
        source = open_images(write(tmp_path, table(paths=False)))
        assert list(source.keys()) == ROWS
        assert [source.read(key) for key in ROWS] == list(IMAGES.values())

    def test_a_column_of_bytes(self, write, tmp_path):
        import pyarrow

        source = open_images(write(tmp_path, pyarrow.table({"n": TARGETS, "data": list(IMAGES.values())})))
        assert [source.read(key) for key in ROWS] == list(IMAGES.values())
        assert source.targets() is None

    def test_columns_are_chosen(self, write, tmp_path):
        import pyarrow

        written = table(other=list(IMAGES.values())[::-1], text=KEYS)
        name = write(tmp_path, written)
        with pytest.raises(ArgumentError, match=r"expected one column that can hold images, got several: image, other. Say which, as in"):
            open_images(name)
        assert open_images(name, column="other").read(ROWS[0]) == IMAGES[KEYS[-1]]
        assert open_images(f"{name}:other").read(ROWS[0]) == IMAGES[KEYS[-1]]
        assert list(open_images(f"{name}:image").keys()) == KEYS
        for column, found in (("text", "string"), ("odd", "no such column")):
            with pytest.raises(ArgumentError, match=f"column '{column}': expected bytes or structs .*, got {found}; columns: image"):
                open_images(name, column=column)
        shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()
        with pytest.raises(ArgumentError, match=r"got none; columns: n \(int64\), text \(string\)"):
            open_images(write(tmp_path, pyarrow.table({"n": TARGETS, "text": KEYS})))

    def test_columns_that_datasets_marked_as_images_come_first(self, write, tmp_path):
        features = b'{"info": {"features": {"image": {"_type": "Image"}, "sound": {"_type": "Audio"}, "label": {"_type": "ClassLabel"}}}}'
        written = table(sound=[b"sound"] * 12).replace_schema_metadata({"huggingface": features})
        assert list(open_images(write(tmp_path, written)).keys()) == KEYS

    def test_a_column_without_images(self, write, tmp_path):
        import pyarrow

        with pytest.raises(ArgumentError, match=r"column 'data': expected images, got something else: .*row 0: not a readable image"):
            open_images(write(tmp_path, pyarrow.table({"data": [b"sound"] * 12})))

    def test_an_image_that_is_missing_or_broken_is_named_when_it_is_read(self, write, tmp_path):
        import pyarrow

        kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
        rows = [{"bytes": b"broken", "path": "a.png"}, {"bytes": picture(1), "path": "b.png"}, {"bytes": None, "path": "/etc/c.png"}, None]
        source = open_images(write(tmp_path, pyarrow.table({"image": pyarrow.array(rows, kind)})))
        assert list(source.keys()) == ROWS[:4]  # the last has no path
        assert source.read(ROWS[0]) == b"broken"
        with pytest.raises(OSError, match="row 2: expected the bytes of an image file, got only the path '/etc/c.png'"):
            source.read(ROWS[2])
        with pytest.raises(OSError, match="row 3: expected the bytes of an image file, got nothing"):
            source.read(ROWS[3])

    def test_absolute_paths_count_by_their_names(self, write, tmp_path):
        import pyarrow

        kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
        for number, (folders, keys) in enumerate(((["/x", "/y"], ["0.png", "1.png"]), (["a", "b"], ["a/0.png", "b/1.png"]))):
            rows = [{"bytes": picture(1), "path": f"{folder}/{place}.png"} for place, folder in enumerate(folders)]
            (tmp_path / str(number)).mkdir()
            name = write(tmp_path / str(number), pyarrow.table({"image": pyarrow.array(rows, kind)}))
            assert list(open_images(name).keys()) == keys

    def test_without_pyarrow(self, write, tmp_path, monkeypatch):
        name = write(tmp_path, None)
        real = builtins.__import__

        def missing(module, *arguments):
            if module == "pyarrow":
                raise ModuleNotFoundError("no pyarrow", name="pyarrow")
            return real(module, *arguments)

        monkeypatch.setattr(builtins, "__import__", missing)
        with pytest.raises(StateError, match=r"pyarrow is not installed: pip install 'softlabel_codec\[sources\]'"):
            open_images(name)


def test_several_parquet_files(tmp_path):
    import pyarrow

    whole = table()
    write_parquet(tmp_path / "t-0.parquet", whole.slice(0, 4))
    write_parquet(tmp_path / "t-1.parquet", whole.slice(4, 0))
    write_parquet(tmp_path / "t-2.parquet", whole.slice(4, 8), rows_per_group=3)
    source = open_images(f"{tmp_path}/t-{{0..2}}.parquet")
    assert list(source.keys()) == KEYS
    assert {key: source.read(key) for key in KEYS[::-1]} == IMAGES
    assert where_is(source, KEYS[11]) == f"{tmp_path}/t-2.parquet: row 7"
    assert source.targets().tolist() == TARGETS
    write_parquet(tmp_path / "t-2.parquet", whole.slice(4, 8).drop_columns("label"))
    assert open_images(f"{tmp_path}/t-{{0..2}}.parquet").targets() is None  # not all have a class
    write_parquet(tmp_path / "t-3.parquet", pyarrow.table({"image": [b"1"]}))
    with pytest.raises(MismatchError, match=r"t-3.parquet: column 'image': expected struct<.*, as in .*t-0.parquet, got binary"):
        open_images(f"{tmp_path}/*.parquet")


def test_threads_read_each_group_of_rows_once(tmp_path, monkeypatch):
    source, read = open_images(write_parquet(tmp_path / "a.parquet", rows_per_group=4)), []
    whole = ParquetFiles.column

    def column(table, group, *more):
        read.append(group.number)
        time.sleep(0.05)  # as large groups take
        return whole(table, group, *more)

    source = pickle.loads(pickle.dumps(source))  # which keeps no group
    monkeypatch.setattr(ParquetFiles, "column", column)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(source.read, KEYS)) == list(IMAGES.values())
    assert sorted(read) == [0, 1, 2]


def test_broken_tables(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no table at all")
    with pytest.raises(OSError, match=r"a\.parquet: not a readable Parquet file"):
        open_images(tmp_path / "a.parquet")
    name = Path(write_saved(tmp_path / "saved"))
    (name / "data-00000-of-00002.arrow").write_bytes(b"no table at all")
    with pytest.raises(OSError, match="data-00000-of-00002.arrow: not a readable Arrow file"):
        open_images(name)
    (name / "state.json").write_text("{}")
    with pytest.raises(OSError, match=r"state\.json: expected the names of data files"):
        open_images(name)
    with pytest.raises(ArgumentError, match=r"a\.parquet: expected images, found no rows"):
        open_images(write_parquet(tmp_path / "a.parquet", table().slice(0, 0)))


def test_a_saved_dictionary_of_datasets_says_which_there_are(tmp_path):
    for split in ("train", "test"):
        write_saved(tmp_path / "saved" / split)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ArgumentError, match=r"saved: holds several datasets: name one of .*saved/test, .*saved/train"):
        open_images(tmp_path / "saved")
    assert list(open_images(tmp_path / "saved" / "test").keys()) == KEYS


# Arrays


def test_pixels_in_an_npz_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 9, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=pixels)
    source = open_images(tmp_path / "a.npz")
    assert list(source.keys()) == ROWS[:5]
    assert (source.read(ROWS[3]) == pixels[3]).all()
    assert source.targets() is None
    np.savez(tmp_path / "grey.npz", images=pixels[..., 0], keys=np.array([b"a", b"b", b"c", b"d", b"e"]))
    source = open_images(tmp_path / "grey.npz")
    assert (source.read("d") == pixels[3, ..., 0]).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": np.zeros((2, 4, 4, 3), np.uint8)}, "expected an array 'images', got pixels"),
        ({"images": np.zeros((2, 4, 4, 3), np.float32)}, r"expected uint8 of shape .*, got float32 of shape \(2, 4, 4, 3\)"),
        ({"images": np.zeros((2, 3, 4, 4), np.uint8)}, r"got uint8 of shape \(2, 3, 4, 4\)"),
        ({"images": np.array([b"a", None])}, "Arrays of objects are not read, because they can run code"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, "expected images, found none"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "keys": np.array(["a"])}, "keys: expected 2, one for each image, got 1"),
        (
            {"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": np.ones(2)},
            r"class numbers of shape \(2,\), got float64",
        ),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "keys": np.array([b"\xff", b"a"])}, r"keys: expected text in UTF-8, got b'\\xff'"),
        (
            {"images": np.zeros((2, 4, 4, 3), np.uint8), "keys": np.array("ab")},
            r"keys: expected one for each image, got an array",
        ),
    ],
)
def test_npz_files_that_are_none(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ArgumentError, match=f"a.npz.*{message}"):
        open_images(tmp_path / "a.npz")


def test_npz_files_that_are_no_zip_files_or_repeat_keys(tmp_path):
    np.savez_compressed(tmp_path / "b.npz", images=np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), dtype=np.uint8))
    whole = (tmp_path / "b.npz").read_bytes()
    for data in (b"no zip file", b"", whole[:60] + bytes(byte ^ 255 for byte in whole[60:70]) + whole[70:]):
        (tmp_path / "a.npz").write_bytes(data)
        with pytest.raises(ArgumentError, match="a.npz: expected a file that np.savez wrote"):
            open_images(tmp_path / "a.npz")
    with pytest.raises(MismatchError, match="images: expected each key once, got 'a' for image 0 and for image 1"):
        ArraySource([b"1", b"2"], ["a", "a"])
    with pytest.raises(ArgumentError, match=r"images: expected uint8 .*, got object of shape \(2,\)"):
        ArraySource(["a.png", "b.png"])


# Objects


def test_a_mapping_of_paths_reads_files(tmp_path):
    write_folder(tmp_path)
    source = open_images({key: tmp_path / key for key in KEYS})
    assert source.read(KEYS[3]) == IMAGES[KEYS[3]]
    assert where_is(source, KEYS[3]) == str(tmp_path / KEYS[3])
    assert source.targets() is None
    with pytest.raises(KeyError):
        source.read("odd")


class Folder(MapStyle):
    """What torchvision's ImageFolder looks like."""

    def __init__(self, root):
        super().__init__()
        self.root = root
        self.samples = [(f"{root}/{key}", target) for key, target in zip(KEYS, TARGETS, strict=True)]


def test_map_style_datasets(tmp_path):
    source = open_images(MapStyle())
    assert list(source.keys()) == ROWS
    assert source.targets().tolist() == TARGETS
    assert where_is(source, ROWS[2]) == "MapStyle: item 2"
    assert isinstance(source.read(ROWS[2]), Image.Image)
    source = open_images(Folder(str(tmp_path)))
    assert list(source.keys()) == KEYS
    assert where_is(source, KEYS[2]) == f"{tmp_path}/{KEYS[2]}"
    assert isinstance(source.read(KEYS[2]), Image.Image)  # as its own loader reads it
    elsewhere = Folder(str(tmp_path))
    elsewhere.root = "/elsewhere"
    assert list(open_images(elsewhere).keys()) == ROWS


@pytest.mark.parametrize("name", ["image", "img", "pixel_values", "jpg", "png"])
def test_items_that_are_dictionaries(name):
    pixels = np.zeros((4, 5, 3), np.uint8)
    assert open_images([{"label": 3, name: pixels}]).read(ROWS[0]) is pixels
    assert open_images([{name: {"bytes": b"file", "path": None}}]).read(ROWS[0]) == b"file"
    with pytest.raises(ArgumentError, match="list: item 0: expected an image called image, .*, got label, picture"):
        open_images([{"label": 3, "picture": pixels}]).read(ROWS[0])


def test_datasets_that_change_their_images_are_refused():
    class Part:
        def __init__(self, dataset):
            self.dataset = dataset

        def __len__(self):
            return 2

        def __getitem__(self, number):
            return self.dataset[number]

    with pytest.raises(ArgumentError, match="images: MapStyle: expected transform=None, got function: images are cut here"):
        open_images(Part(MapStyle(transform=lambda image: image)))
    assert len(open_images(Part(MapStyle())).keys()) == 2
    odd = MapStyle()
    odd.transforms = lambda image, target: (image, target)
    with pytest.raises(ArgumentError, match="expected transform=None, got function"):
        open_images(odd)
    with pytest.raises(ArgumentError, match="list: expected images, found none"):
        open_images([])
