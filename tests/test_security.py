"""What a malicious file may try (SECURITY.md), and that it does not get far."""

import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import msgpack
import numpy as np
import pytest
from conftest import write_labels
from dissect import Pieces, compressed
from PIL import Image
from vectors import invalid, valid

from softlabel_codec import ArgumentError, Codec, CropSampler, FormatError, LimitError, MismatchError, SoftLabelReader, SoftLabelWriter
from softlabel_codec.checks.limits import MAX_TABLE_ENTRIES
from softlabel_codec.cli.main import main
from softlabel_codec.container.framing import Header
from softlabel_codec.container.pending import PendingImage
from softlabel_codec.quantise.log_vectors import ImageLogs
from softlabel_codec.report import inspect, stats, verify
from softlabel_codec.torch import SoftLabelDataset

ROOT = Path(__file__).parents[1]
SPARE_MEMORY = 512 * 2**20

UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from softlabel_codec import FormatError, SoftLabelReader, StateError, recover
from softlabel_codec.report import inspect, stats, verify

pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(sys.argv[1]),) * 2)
out = Path(sys.argv[2]) / "recovered.slc"
for path in sys.argv[3:]:
    def read_all(path):
        with SoftLabelReader(path) as reader:
            for number in range(len(reader)):
                reader.read(number)
                reader.read(number, [0])
            if len(reader):
                reader.read_batch(range(len(reader)))
    for use in (read_all, inspect, stats, lambda path: verify(path, deep=True), lambda path: recover(path, out, overwrite=True)):
        try:
            use(path)
        except (FormatError, StateError):
            pass
    print(path)
"""


def use_under_a_limit(folder: Path, paths: list[Path]) -> None:
    """Do all that can be done to files in a process that may take only so much more memory; anything but a refusal is an error."""
    command = [sys.executable, "-c", UNDER_A_LIMIT, str(SPARE_MEMORY), str(folder), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:-1] == [str(path) for path in paths]


def test_invalid_files_take_no_memory_to_speak_of(tmp_path):
    use_under_a_limit(tmp_path, [folder / f"{name}.slc" for folder, cases in invalid.FOLDERS.items() for name in cases])


def test_legal_files_of_extreme_numbers_take_no_memory_to_speak_of(tmp_path):
    names = (
        "many-classes",
        "million-classes",
        "most-crops",
        "large-palette",
        "many-kept-classes",
        "largest-table-of-tails",
        "tail-all-of-most-classes",
        "longest-key",
    )
    use_under_a_limit(tmp_path, [valid.FOLDER / f"{name}.slc" for name in names])


def test_the_widest_table_of_kept_classes_takes_no_memory_to_speak_of(tmp_path):
    crops, kept = MAX_TABLE_ENTRIES // 5000, 5000
    indices = np.tile(np.arange(kept + 1), (crops, 1))
    values = np.zeros(indices.shape, np.float32)
    values[:, 0], values[0] = 1, np.where(np.arange(kept + 1) < kept, 1 / kept, 0)
    with SoftLabelWriter(tmp_path / "a.slc", 2**20, "marginal_smoothing:t=0.0001") as writer:
        places = {"crops": np.tile([0, 0, 1, 1], (crops, 1)), "flips": np.zeros(crops, bool)}
        writer.add("a", image_size=(1, 1), indices=indices, values=values, **places)
    assert (tmp_path / "a.slc").stat().st_size < 50_000
    use_under_a_limit(tmp_path, [tmp_path / "a.slc"])


@pytest.mark.parametrize(
    ("counts", "listed", "num_classes"),
    [([8] * 128, [4096] + [1] * 127, 5000), ([65535], [64], 70), ([64], [65535], 65536), ([1] * 8, [65535] + [1] * 7, 2**31)],
)
def test_the_largest_fields_take_no_memory_to_speak_of(tmp_path, counts, listed, num_classes):
    (tmp_path / "a.slc").write_bytes(invalid.field_block(counts, listed, num_classes))
    assert (tmp_path / "a.slc").stat().st_size < 50_000
    assert verify(tmp_path / "a.slc", deep=True).ok
    use_under_a_limit(tmp_path, [tmp_path / "a.slc"])


def test_a_block_gets_fewer_images_if_a_field_lists_many_classes(tmp_path):
    """66 images times 8 times 8000 classes are more than 2^22."""
    with SoftLabelWriter(tmp_path / "a.slc", 10000, "field:cost=1e-07") as writer:
        for number in range(66):
            listed = 8000 if number == 65 else 1
            probs = np.full((1, 10000), 0.1 / (10000 - listed))
            probs[:, :listed] = 0.9 / listed
            writer.add(f"{number}", image_size=(1, 1), crops=[[0, 0, 1, 1]], flips=[False], probs=probs)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert reader.container.trailer.num_blocks == 2
        assert reader.read(65).labels.counts.tolist() == [8000]
        np.testing.assert_allclose(reader.read_batch(range(66)).labels.dense().sum(axis=1), 1, atol=1e-4)


def test_dense_logarithms_of_a_few_bytes_take_no_memory_to_speak_of(tmp_path):
    num_crops, num_classes = 4000, 4000
    none = np.zeros((num_crops, 0), np.int8)
    columns = np.zeros(num_classes, np.int16), 0, none[:0].reshape(0, num_classes), none, np.zeros((num_crops, 1000), np.uint8)
    codes = (ImageLogs(*columns, np.zeros(num_crops, np.int64), np.zeros(0, np.int64), np.zeros((num_crops, 4), np.int8)),)
    with SoftLabelWriter(tmp_path / "a.slc", num_classes, "dense:values=log8", crops="derived", sampler=CropSampler()) as writer:
        writer.add_stored(PendingImage("a", (9, 9), num_crops, None, None, codes, 0, 0, 0, None))
    assert (tmp_path / "a.slc").stat().st_size < 10_000
    use_under_a_limit(tmp_path, [tmp_path / "a.slc"])


def test_a_block_gets_fewer_images_if_one_lists_many_classes_in_its_tail(tmp_path):
    num_classes = 64529
    probs = np.full((1, num_classes), 0.5 / (num_classes - 1))
    probs[:, 0] = 0.5
    with SoftLabelWriter(tmp_path / "a.slc", num_classes, "marginal_smoothing:k=1,tail=64528") as writer:
        for number in range(65):
            labels = np.eye(1, num_classes) if number < 64 else probs
            writer.add(f"{number}", image_size=(1, 1), crops=[[0, 0, 1, 1]], flips=[False], probs=labels)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert reader.container.trailer.num_blocks == 2
        assert reader.read_batch(range(65)).labels.dense()[-1].sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("content_size", [2**30 + 1, 2**40, 2**62])
def test_a_content_size_that_is_a_lie_is_not_believed(tmp_path, content_size):
    pieces = Pieces.of(valid.FOLDER / "smallest.slc")
    pieces.payloads = [b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", content_size) + compressed(b"x" * 100)[6:]]
    (tmp_path / "a.slc").write_bytes(pieces.join())
    with SoftLabelReader(tmp_path / "a.slc") as reader, pytest.raises(LimitError, match=f"holds {content_size} bytes"):
        reader[0]


@pytest.mark.parametrize("field", ["keys_offset", "summary_offset", "index_offset", "file_length", "num_images", "num_blocks", "num_crops"])
@pytest.mark.parametrize("value", [0, 1, 31, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**64 - 1])
def test_offsets_and_counts_that_lie_are_refused(tmp_path, field, value):
    pieces = Pieces.of(valid.FOLDER / "derived-crops-several-blocks.slc")
    pieces.trailer = {field: value}
    (tmp_path / "a.slc").write_bytes(pieces.join())
    with pytest.raises(FormatError):
        SoftLabelReader(tmp_path / "a.slc")


def test_containers_of_msgpack_that_claim_to_be_huge_are_refused(tmp_path):
    for claim in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        metadata = b"\x81\xa1a" + claim
        (tmp_path / "a.slc").write_bytes(Header(len(metadata), zlib.crc32(metadata)).pack() + metadata + bytes(200))
        with pytest.raises(FormatError, match="expected a msgpack map"):
            SoftLabelReader(tmp_path / "a.slc")


@pytest.mark.parametrize(
    "text",
    ["x" * 2**22, "marginal_smoothing:k=" + "9" * 2**22, "marginal_smoothing:" + "k=5," * 2**20, "marginal_smoothing:t=1e" + "9" * 200],
)
def test_codec_strings_that_are_meant_to_take_long_are_refused(text):
    with pytest.raises(ArgumentError) as refused:
        Codec.parse(text)
    assert len(str(refused.value)) < 2000


def test_long_texts_of_a_file_are_not_repeated_in_errors(tmp_path):
    for name in ("codec", "crops"):
        pieces = Pieces.of(valid.FOLDER / "smallest.slc")
        pieces.set_values(**{name: "x" * 10**6})
        (tmp_path / "a.slc").write_bytes(pieces.join())
        with pytest.raises(FormatError) as refused:
            SoftLabelReader(tmp_path / "a.slc")
        assert len(str(refused.value)) < 2000


ESCAPES = "\x1b[2J\x1b]0;title\x07\r\n\u202e\x9b31m"


def test_nothing_of_a_file_commands_the_terminal(tmp_path, capsys):
    path = tmp_path / "a.slc"
    keys = [f"{number}{ESCAPES}.jpg" for number in range(4)]
    write_labels(path, keys=keys, metadata={ESCAPES: {"name": ESCAPES}, "teacher": {"name": ESCAPES}})
    pieces = Pieces.of(path)
    pieces.set_values(writer=ESCAPES)
    pieces.summary = msgpack.packb(msgpack.unpackb(pieces.summary) | {"skipped_keys": [ESCAPES]})
    path.write_bytes(pieces.join())
    with SoftLabelReader(path) as reader:
        start = int(reader.container.index.starts[1])
    data = bytearray(path.read_bytes())
    data[start + 30] ^= 1
    (tmp_path / "damaged.slc").write_bytes(data)
    pieces.set_values(codec=ESCAPES)
    (tmp_path / "codec.slc").write_bytes(pieces.join())
    for arguments in (
        ["inspect", path],
        ["inspect", path, "--json"],
        ["stats", path],
        ["show", path, keys[0]],
        ["show", path, ESCAPES],
        ["verify", path, "--deep"],
        ["verify", tmp_path / "damaged.slc", "--deep"],
        ["recover", tmp_path / "damaged.slc", tmp_path / "kept.slc"],
        ["inspect", tmp_path / "codec.slc"],
    ):
        with pytest.raises(SystemExit):
            main([str(argument) for argument in arguments])
        printed = "".join(capsys.readouterr())
        assert printed
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", printed), arguments


def test_a_file_cannot_name_another_file(tmp_path):
    """No field of the format is a path: keys are looked up only below a folder that the caller names."""
    with SoftLabelWriter(tmp_path / "a.slc", 2, "hard") as writer:
        for key in ("../../etc/passwd", "/etc/passwd"):
            writer.add(key, image_size=(1, 1), crops=[[0, 0, 1, 1]], flips=[False], probs=np.float32([[1, 0]]))
    for use in (inspect, stats, verify):
        use(tmp_path / "a.slc")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(MismatchError, match="2 of 2 labelled images are not in"):
        SoftLabelDataset(tmp_path, tmp_path / "a.slc", 1)


def test_every_promise_of_the_page_has_its_test():
    page = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`tests/(\w+\.py)::(\w+)`", page)
    assert len(named) >= 10
    for file, test in named:
        assert re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), f"{file}::{test}"
    for vector in re.findall(r"`(\w+Error-[\w-]+)`", page):
        assert vector in {**invalid.REFUSED, **invalid.FOUND_BY_VERIFIERS}, vector
