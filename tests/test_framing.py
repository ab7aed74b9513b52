"""The frame of a file, byte for byte: header, blocks, keys, index, trailer, and the zstd frames that they hold (container-v1.md)."""

import re
import struct
import threading
import zlib

import numpy as np
import pytest
import zstandard

from softlabel_codec import (
    CorruptError,
    LimitError,
    NewerVersionError,
    NotAContainerError,
    SoftLabelError,
    TruncatedError,
    UnknownFeatureError,
)
from softlabel_codec.container.framing import (
    MIN_BLOCK_BYTES,
    Header,
    Index,
    KeyPage,
    Trailer,
    block_content,
    block_contents,
    block_place,
    num_pages,
    pack_block,
    pack_copy,
    pack_key_pages,
    unpack_copy,
    unpack_order_page,
    with_crc32,
    without_crc32,
)
from softlabel_codec.container.zstd_frames import compress_columns, compressed_sizes, decompress, decompress_many, store_columns

MAGIC = b"\x89SLC\r\n\x1a\n"


def refused(error: type[SoftLabelError], message: str):
    """Expect an error that says this."""
    return pytest.raises(error, match="^" + re.escape(message))


def checked(data: bytes) -> bytes:
    """Return bytes followed by their CRC-32."""
    return data + struct.pack("<I", zlib.crc32(data))


def claiming(size: int, window_log: int = 17) -> bytes:
    """Return a zstd frame that says to hold `size` bytes, and holds an empty block (RFC 8878, section 3.1.1)."""
    return b"\x28\xb5\x2f\xfd" + struct.pack("<BBQ", 0b1100_0000, (window_log - 10) << 3, size) + b"\x01\x00\x00"


def stored(content: bytes) -> bytes:
    """Return a zstd frame of one stored block of at most 2^17 bytes."""
    return claiming(len(content))[:-3] + (len(content) << 3 | 1).to_bytes(3, "little") + content


# Header (section 3)


def header_bytes(magic=MAGIC, major=1, minor=0, incompatible=0, compatible=0, length=77, crc32=0xAABBCCDD) -> bytes:
    return checked(magic + struct.pack("<HHIIII", major, minor, incompatible, compatible, length, crc32))


def test_a_header():
    header = Header(77, 0xAABBCCDD)
    assert header.pack() == header_bytes()
    assert Header.unpack(header_bytes()) == header
    assert header.version == "1.0"


def test_a_header_of_a_later_minor_version():
    header = Header(77, 5, 1, 65535, 0, 2**32 - 1)
    assert header.pack() == header_bytes(minor=65535, compatible=2**32 - 1, crc32=5)
    assert Header.unpack(header.pack() + b"metadata") == header
    assert Header.unpack(header.pack()).version == "1.65535"


@pytest.mark.parametrize("length", [1, 2**24])
def test_metadata_may_be_so_long(length):
    assert Header.unpack(header_bytes(length=length)).metadata_length == length


WRONG_MAGIC = r"expected a softlabel container to begin with b'\x89SLC\r\n\x1a\n', got "


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"PK\x03\x04 and so on", NotAContainerError, WRONG_MAGIC + r"b'PK\x03\x04 and'"),
        (b"P", NotAContainerError, WRONG_MAGIC + "b'P'"),
        (b"", TruncatedError, "the file ends within its header: expected 32 bytes, got 0"),
        (MAGIC[:5], TruncatedError, "the file ends within its header: expected 32 bytes, got 5"),
        (header_bytes(major=2)[:9], TruncatedError, "the file ends within its header: expected 32 bytes, got 9"),
        (header_bytes(major=2)[:10], NewerVersionError, "format version 2: expected 1. Update softlabel_codec"),
        (header_bytes(major=65535), NewerVersionError, "format version 65535: expected 1. Update softlabel_codec"),
        (header_bytes(major=0), NewerVersionError, "format version 0: expected 1. Update softlabel_codec"),
        (header_bytes()[:31], TruncatedError, "the file ends within its header: expected 32 bytes, got 31"),
        (header_bytes(incompatible=8)[:28] + bytes(4), CorruptError, "checksum of the header differs"),
        (header_bytes(incompatible=9), UnknownFeatureError, "the file needs unknown feature bit 3. Update softlabel_codec"),
        (
            header_bytes(incompatible=1 << 31 | 0b110, length=0),
            UnknownFeatureError,
            "the file needs unknown feature bit 1, 2, 31. Update softlabel_codec",
        ),
        (header_bytes(length=0), LimitError, "metadata_length: expected 1 to 16777216, got 0"),
        (header_bytes(length=2**24 + 1), LimitError, "metadata_length: expected 1 to 16777216, got 16777217"),
    ],
)
def test_headers_are_checked_in_order(data, error, message):
    with refused(error, message):
        Header.unpack(data)


# Blocks (section 5.1)

METADATA_CRC32 = 0xF1020304


def block_bytes(payload: bytes, number: int = 7, marker: bytes = b"SLBK", length: int | None = None) -> bytes:
    length = len(payload) if length is None else length
    crc32 = zlib.crc32(struct.pack("<III", METADATA_CRC32, number, length) + payload)
    return struct.pack("<4sIII", marker, number, length, crc32) + payload


def test_a_block():
    payload = stored(b"content")
    block = pack_block(payload, METADATA_CRC32, 7)
    assert block == block_bytes(payload)
    assert block_place(block[:16]) == (7, len(block)) == (7, 16 + len(payload))
    assert block_content(block, METADATA_CRC32, 7) == b"content"
    assert MIN_BLOCK_BYTES == 17


def test_blocks_are_numbered_with_4_bytes():
    number = 2**32 - 2
    block = block_bytes(stored(b"far"), number)
    assert pack_block(stored(b"far"), METADATA_CRC32, number) == block
    assert block_content(block, METADATA_CRC32, number) == b"far"
    assert block_contents([block], METADATA_CRC32, [number]) == [b"far"]


def test_several_blocks_at_once():
    contents = [b"one", b"", b"three" * 1000]
    numbers = [4, 0, 9]
    blocks = [block_bytes(stored(content), number) for content, number in zip(contents, numbers, strict=True)]
    assert block_contents(blocks, METADATA_CRC32, numbers) == contents
    assert block_contents([], METADATA_CRC32, []) == []
    with refused(CorruptError, "block 0: expected this number, got 4"):
        block_contents([blocks[0], blocks[0], blocks[2]], METADATA_CRC32, numbers)


@pytest.mark.parametrize("payload_length", [1, 2**30])
def test_payloads_may_be_so_long(payload_length):
    assert block_place(struct.pack("<4sIII", b"SLBK", 3, payload_length, 0)) == (3, 16 + payload_length)


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        ((b"SLBk", 5), CorruptError, "expected a block to begin with b'SLBK', got b'SLBk'"),
        ((b"SLBK", 0), LimitError, "payload_length: expected 1 to 1073741824, got 0"),
        ((b"SLBK", 2**30 + 1), LimitError, "payload_length: expected 1 to 1073741824, got 1073741825"),
    ],
)
def test_heads_of_blocks_that_are_refused(head, error, message):
    with refused(error, message):
        block_place(struct.pack("<4sIII", head[0], 0, head[1], 0))


@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        (b"", CorruptError, "block 7: expected at least 17 bytes, got 0"),
        (block_bytes(b"")[:15], CorruptError, "block 7: expected at least 17 bytes, got 15"),
        (block_bytes(b"", marker=b"SLBX"), CorruptError, "expected a block to begin with b'SLBK', got b'SLBX'"),
        (block_bytes(b""), LimitError, "payload_length: expected 1 to 1073741824, got 0"),
        (block_bytes(b"payload", length=2**30 + 1), LimitError, "payload_length: expected 1 to 1073741824, got 1073741825"),
        (block_bytes(b"payload", length=8), CorruptError, "block 7: expected a payload of 7 bytes, as the index says"),
        (block_bytes(b"payload", number=6), CorruptError, "block 7: expected this number, got 6"),
        (block_bytes(b"payload")[:-1] + b"D", CorruptError, "checksum of block 7 differs"),
        (block_bytes(b"x"), CorruptError, "expected a zstd frame"),
    ],
)
def test_blocks_that_are_refused(block, error, message):
    with refused(error, message):
        block_content(block, METADATA_CRC32, 7)
    with pytest.raises(error, match="a zstd frame does not decompress" if message == "expected a zstd frame" else re.escape(message)):
        block_contents([block], METADATA_CRC32, [7])


def test_blocks_with_other_metadata_are_refused():
    block = block_bytes(stored(b"content"))
    for read in (lambda: block_content(block, 0, 7), lambda: block_contents([block], 0, [7])):
        with refused(CorruptError, "checksum of block 7 differs"):
            read()


def test_how_much_a_block_may_hold():
    most = 2**22 + 1024 * len(claiming(0))
    for read in (lambda block: block_content(block, METADATA_CRC32, 7), lambda block: block_contents([block], METADATA_CRC32, [7])):
        with pytest.raises(CorruptError, match="does not decompress"):
            read(block_bytes(claiming(most)))
        with refused(LimitError, f"the zstd frame holds {most + 1} bytes: expected at most {most}"):
            read(block_bytes(claiming(most + 1)))


def test_a_payload_may_have_1073741824_bytes():
    assert pack_block(LongPayload(2**30), 0, 0)[:12] == b"SLBK\x00\x00\x00\x00\x00\x00\x00\x40"
    with refused(LimitError, "block 5: expected a payload of at most 1073741824 bytes, got 1073741825"):
        pack_block(LongPayload(2**30 + 1), 0, 5)


class LongPayload(bytes):
    """Bytes that only say that they are many."""

    def __new__(cls, length):
        payload = super().__new__(cls)
        payload.length = length
        return payload

    def __len__(self):
        return self.length


# Checksums in front


def test_checksums_stand_in_front():
    assert with_crc32(b"123456789") == bytes.fromhex("2639f4cb") + b"123456789"  # the check value of CRC-32
    assert without_crc32(bytes.fromhex("2639f4cb") + b"123456789", "rhyme") == b"123456789"
    assert without_crc32(with_crc32(b""), "rhyme") == b""


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\0\0\0\1", bytes.fromhex("2639f4cb") + b"12345678"])
def test_wrong_checksums_in_front(data):
    with refused(CorruptError, "checksum of the rhyme differs"):
        without_crc32(data, "rhyme")


# Index (section 8)


def test_an_index():
    index = Index(np.array([100, 2**32 - 1]), np.array([2, 1]), np.array([0, 65534, 7]))
    content = struct.pack("<II HH HHH", 100, 2**32 - 1, 2, 1, 0, 65534, 7)
    packed = index.pack()
    assert packed[:4] == struct.pack("<I", zlib.crc32(packed[4:]))
    assert zstandard.decompress(packed[4:]) == content
    for data in (packed, with_crc32(stored(content))):
        found = Index.unpack(data, 2, 3)
        assert found.block_length.tolist() == [100, 2**32 - 1]
        assert found.block_images.tolist() == [2, 1]
        assert found.crops_minus_1.tolist() == [0, 65534, 7]


def test_the_index_of_an_empty_file():
    nothing = np.zeros(0, np.int64)
    found = Index.unpack(Index(nothing, nothing, nothing).pack(), 0, 0)
    assert [len(found.block_length), len(found.block_images), len(found.crops_minus_1)] == [0, 0, 0]


def test_indexes_that_are_refused():
    with refused(CorruptError, "index: expected 16 bytes for 2 blocks and 2 images, got 15"):
        Index.unpack(with_crc32(stored(bytes(15))), 2, 2)
    with refused(LimitError, "the zstd frame holds 17 bytes: expected at most 16"):
        Index.unpack(with_crc32(stored(bytes(17))), 2, 2)
    with refused(CorruptError, "checksum of the index differs"):
        Index.unpack(bytes(4) + stored(bytes(16)), 2, 2)


# Trailer (section 10)

SHA256 = bytes(range(32))
FIELDS = {
    "keys_offset": 200,
    "summary_offset": 300,
    "index_offset": 350,
    "copy_offset": 380,
    "file_length": 500,
    "num_images": 5,
    "num_blocks": 3,
    "num_crops": 99,
    "flags": 1,
}
BLOCKS_OFFSET = 100


def trailer_bytes(**changed: int) -> bytes:
    return checked(struct.pack("<8QI", *{**FIELDS, **changed}.values()) + SHA256) + MAGIC


def read_trailer(data: bytes | None = None, *, actual_length: int | None = None, **changed: int) -> Trailer:
    length = actual_length or {**FIELDS, **changed}["file_length"]
    return Trailer.unpack(trailer_bytes(**changed) if data is None else data, length, BLOCKS_OFFSET)


def test_a_trailer():
    trailer = Trailer(**FIELDS, sha256=SHA256)
    assert trailer.pack() == trailer_bytes()
    assert len(trailer.pack()) == 112
    assert trailer.trailer_offset == 388
    assert read_trailer() == trailer
    assert read_trailer(b"what stands before it" + trailer_bytes()) == trailer
    assert read_trailer(flags=0).flags == 0


def test_parts_may_be_empty():
    empty = dict.fromkeys(("keys_offset", "summary_offset", "index_offset", "copy_offset"), 100)
    empty |= {"file_length": 212, "num_images": 0, "num_blocks": 0}
    assert read_trailer(**empty).trailer_offset == 100


@pytest.mark.parametrize(
    "fields",
    [
        {"num_blocks": 5, "num_images": 7},  # 85 of 100 bytes
        {"num_blocks": 5, "num_images": 5},
        {"num_blocks": 1, "num_images": 256},
        {"num_blocks": 2, "num_images": 512},
        {"keys_offset": 117, "num_blocks": 1, "num_images": 1},
    ],
)
def test_so_many_images_and_blocks_may_be_in_a_file(fields):
    read_trailer(**fields)


UNFINISHED = "the file does not end with a trailer: it is cut off, or was never finished"
DISORDER = "the parts of the file do not fit into its 500 bytes"


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", TruncatedError, UNFINISHED),
        (trailer_bytes()[1:], TruncatedError, UNFINISHED),
        (trailer_bytes()[:-1] + b"\r", TruncatedError, UNFINISHED),
        (trailer_bytes(file_length=501)[:100] + bytes(4) + MAGIC, CorruptError, "checksum of the trailer differs"),
        (bytes(1) + trailer_bytes()[1:], CorruptError, "checksum of the trailer differs"),
        (trailer_bytes(file_length=501, flags=2), TruncatedError, "expected a file of 501 bytes, got 500"),
        (trailer_bytes(file_length=499), CorruptError, DISORDER),
        (trailer_bytes(keys_offset=99, flags=2), CorruptError, DISORDER),
        (trailer_bytes(keys_offset=301), CorruptError, DISORDER),
        (trailer_bytes(summary_offset=351), CorruptError, DISORDER),
        (trailer_bytes(index_offset=397), CorruptError, DISORDER),
        (trailer_bytes(index_offset=2**64 - 1), CorruptError, DISORDER),
        (trailer_bytes(flags=2, num_images=2**32), UnknownFeatureError, "unknown trailer flags 0x2. Update softlabel_codec"),
        (trailer_bytes(flags=0x80000001), UnknownFeatureError, "unknown trailer flags 0x80000001. Update softlabel_codec"),
        (trailer_bytes(num_images=2**32), LimitError, "num_images: expected at most 4294967295, got 4294967296"),
        (trailer_bytes(num_images=2**32 - 1), CorruptError, "4294967295 images in 3 blocks do not fit into 100 bytes"),
        (trailer_bytes(num_images=2), CorruptError, "2 images in 3 blocks do not fit into 100 bytes"),
        (trailer_bytes(num_images=769), CorruptError, "769 images in 3 blocks do not fit into 100 bytes"),
        (trailer_bytes(num_images=1, num_blocks=0), CorruptError, "1 images in 0 blocks do not fit into 100 bytes"),
        (trailer_bytes(num_images=8, num_blocks=8), CorruptError, "8 images in 8 blocks do not fit into 100 bytes"),
        (trailer_bytes(keys_offset=112, num_images=1, num_blocks=1), CorruptError, "1 images in 1 blocks do not fit into 12 bytes"),
    ],
)
def test_trailers_are_checked_in_order(data, error, message):
    with refused(error, message):
        read_trailer(data, actual_length=500)


# Keys (section 6)


def pages_of(section: bytes) -> list[bytes]:
    """Return the contents of the pages of a keys section, as the specification lays them out."""
    (crc32,) = struct.unpack_from("<I", section)
    lengths, crcs, at = [], [], 4
    while 4 + 8 * len(lengths) + sum(lengths) < len(section):
        length, page_crc32 = struct.unpack_from("<II", section, at)
        lengths.append(length)
        crcs.append(page_crc32)
        at += 8
    assert crc32 == zlib.crc32(section[4:at])
    pages = []
    for length, page_crc32 in zip(lengths, crcs, strict=True):
        assert zlib.crc32(section[at : at + length]) == page_crc32
        pages.append(zstandard.decompress(section[at : at + length]))
        at += length
    assert at == len(section)
    return pages


def key_page(keys: list[bytes]) -> bytes:
    return struct.pack(f"<{len(keys)}H", *map(len, keys)) + b"".join(keys)


def test_pages_of_keys_in_ascending_order():
    assert pages_of(pack_key_pages([b"a", b"bcd", b"e" * 4096], None)) == [key_page([b"a", b"bcd", b"e" * 4096])]
    assert pack_key_pages([], None) == with_crc32(b"")


@pytest.mark.parametrize(("num_images", "lengths"), [(1, [1]), (512, [512]), (513, [512, 1]), (1025, [512, 512, 1])])
def test_512_keys_are_a_page(num_images, lengths):
    keys = [b"%d" % number for number in range(num_images)]
    pages = pages_of(pack_key_pages(keys, None))
    assert pages == [key_page(keys[start : start + length]) for start, length in zip((0, 512, 1024), lengths, strict=False)]
    assert num_pages(num_images, True) == (len(lengths), 0)


@pytest.mark.parametrize(("num_images", "lengths"), [(4096, [4096]), (4097, [4096, 1])])
def test_4096_numbers_are_an_order_page(num_images, lengths):
    order = np.arange(num_images)[::-1]
    pages = pages_of(pack_key_pages([b""] * num_images, order))
    key_pages, order_pages = num_pages(num_images, False)
    assert (key_pages, order_pages) == (-(-num_images // 512), len(lengths))
    assert [len(page) for page in pages[key_pages:]] == [4 * length for length in lengths]
    assert b"".join(pages[key_pages:]) == order.astype("<u4").tobytes()


def test_a_file_without_images_has_no_pages():
    assert num_pages(0, True) == num_pages(0, False) == (0, 0)
    assert num_pages(1, False) == (1, 1)


def test_pages_of_keys_are_compressed_by_repetition():
    rng = np.random.default_rng(0)
    words = [rng.integers(97, 123, 12).astype("u1").tobytes() for _ in range(40)]
    keys = [b"%s/%s%d" % (words[first], words[second], number) for number, (first, second) in enumerate(rng.integers(0, 40, (512, 2)))]
    assert len(pack_key_pages(keys, None)) < len(b"".join(keys)) / 4


def read_page(content: bytes, num_keys: int) -> KeyPage:
    frame = stored(content)
    return KeyPage.unpack(frame, zlib.crc32(frame), num_keys)


def test_a_page_of_keys():
    keys = [b"first", b"2", "dritter größer".encode(), b"x" * 4096]
    page = read_page(key_page(keys), 4)
    assert len(page) == 4
    assert [page[place] for place in range(4)] == keys
    assert list(page) == keys


def test_the_longest_page_of_keys():
    keys = [b"k" * 4096] * 2
    assert read_page(key_page(keys), 2)[1] == keys[1]
    with refused(LimitError, "the zstd frame holds 8197 bytes: expected at most 8196"):
        read_page(key_page(keys) + b"k", 2)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"\x01\x00\x00", CorruptError, "a page of keys is too short"),
        (b"", CorruptError, "a page of keys is too short"),
        (b"\x01\x00\x01\x00", CorruptError, "the lengths of keys do not add up to their page"),
        (key_page([b"a", b"bc"])[:-1], CorruptError, "the lengths of keys do not add up to their page"),
        (key_page([b"a", b"bc"]) + b"!", CorruptError, "the lengths of keys do not add up to their page"),
        (key_page([b"a", b""]), CorruptError, "keys of 0 to 1 bytes: expected 1 to 4096"),
        (key_page([b"a", b"k" * 4097]), CorruptError, "keys of 1 to 4097 bytes: expected 1 to 4096"),
    ],
)
def test_pages_of_keys_that_are_refused(content, error, message):
    with refused(error, message):
        read_page(content, 2)


def read_order(numbers: list[int], count: int, num_images: int) -> list[int]:
    frame = stored(np.array(numbers, "<u4").tobytes())
    return unpack_order_page(frame, zlib.crc32(frame), count, num_images).tolist()


def test_an_order_page():
    assert read_order([3, 0, 2**32 - 2], 3, 2**32 - 1) == [3, 0, 2**32 - 2]


def test_order_pages_that_are_refused():
    for numbers in ([0, 2], [0]):
        with refused(CorruptError, "a page of image numbers is wrong"):
            read_order(numbers, 2, 2)
    for length in (7, 5, 0):
        frame = stored(bytes(length))
        with refused(CorruptError, "a page of image numbers is wrong"):
            unpack_order_page(frame, zlib.crc32(frame), 2, 2)
    with refused(LimitError, "the zstd frame holds 12 bytes: expected at most 8"):
        read_order([0, 1, 0], 2, 2)


def test_checksums_of_pages():
    frame = stored(key_page([b"a"]))
    for unpack in (lambda: KeyPage.unpack(frame, 5, 1), lambda: unpack_order_page(frame, 5, 1, 1)):
        with refused(CorruptError, "checksum of a page of keys differs"):
            unpack()


# The copy of header and metadata (section 9)


def test_a_copy():
    beginning = Header(3, 7).pack() + b"abc"
    copy = pack_copy(beginning)
    assert decompress(copy, 27) == beginning[8:]
    assert unpack_copy(copy) == beginning


def test_copies_are_compressed_by_repetition():
    words = b"".join(b"preprocessing %d, teacher %d; " % (number % 7, number % 11) for number in range(1000))
    assert len(pack_copy(Header(len(words), 7).pack() + words)) < len(words) / 30


def test_a_copy_has_room_for_the_longest_metadata():
    longest = Header(2**24, 7).pack() + bytes(2**24)
    assert unpack_copy(compress_columns([longest[8:]])) == longest
    with refused(LimitError, "the zstd frame holds 16777241 bytes: expected at most 16777240"):
        unpack_copy(compress_columns([longest[8:] + b"1"]))


# zstd frames (section 1)

COLUMNS = [b"a" * 5000, b"", bytes(range(256)) * 4, b"z"]


@pytest.mark.parametrize("how", [{}, {"text": True}, {"text": True, "fast": True}])
def test_columns_become_one_frame(how):
    frame = compress_columns(iter(COLUMNS), **how)
    parameters = zstandard.get_frame_parameters(frame)
    assert (parameters.content_size, parameters.dict_id, parameters.has_checksum) == (6025, 0, False)
    assert zstandard.decompress(frame) == decompress(frame, 6025) == b"".join(COLUMNS)


@pytest.mark.parametrize("text", [False, True])
def test_the_bytes_of_each_column(text):
    frame = compress_columns(iter(COLUMNS), text=text)
    sizes = compressed_sizes(iter(COLUMNS), text=text)
    assert len(sizes) == len(COLUMNS) + 1
    assert sum(sizes) == len(frame)
    assert sizes[1] == 0
    assert min(sizes[0], *sizes[2:]) > 0


def test_columns_are_numbers_unless_they_are_said_to_be_text():
    refrain = np.random.default_rng(0).bytes(5000)
    assert compress_columns([refrain, refrain]) == compress_columns([refrain, refrain], text=False)
    assert compressed_sizes([refrain, refrain]) == compressed_sizes([refrain, refrain], text=False)


def test_columns_of_numbers_are_compressed_each_by_itself():
    """Two columns with few values of their own: together they would need an entropy table of all values."""
    low, high = (np.random.default_rng(0).choice(values, 20000).astype("u1").tobytes() for values in ([1, 2], [3, 4]))
    assert len(compress_columns([low, high])) < 0.95 * len(compress_columns([low + high]))


def test_text_is_compressed_by_repetition():
    refrain = np.random.default_rng(0).bytes(5000)
    assert len(compress_columns([refrain, refrain], text=True)) < 5100
    words = b" ".join(refrain[at : at + 9] for at in np.random.default_rng(1).zipf(1.5, 20000) % 4990)
    as_hard_as = zstandard.ZstdCompressor(level=19).compress(words)
    assert len(compress_columns([words], text=True)) <= len(as_hard_as) + 9 < 0.95 * len(zstandard.compress(words))
    assert compressed_sizes([refrain, refrain], text=True)[1] < 100


def test_fast_text_is_compressed_by_repetition_too_but_less():
    refrain = np.random.default_rng(0).bytes(5000)
    assert len(compress_columns([refrain, refrain], text=True, fast=True)) < 5100
    keys = b" ".join(b"n%08d/image-%d.JPEG" % (number // 9, number * 7919 % 10007) for number in range(2000))
    assert len(compress_columns([keys], text=True)) < len(compress_columns([keys], text=True, fast=True)) < 0.2 * len(keys)


@pytest.mark.parametrize(
    ("how", "most"), [({}, 2**17), ({"text": True}, 2**23), ({"text": True, "fast": True}, 2**15)], ids=["numbers", "text", "fast text"]
)
def test_no_frame_needs_a_large_window(how, most):
    noise = np.random.default_rng(0).bytes(2**20)
    assert zstandard.get_frame_parameters(compress_columns([noise], **how)).window_size <= most


def test_stored_columns():
    assert store_columns([b"abc", b"", b"d"]) == stored(b"abcd")
    assert store_columns([]) == stored(b"") == claiming(0)
    assert store_columns(iter([b"once"])) == stored(b"once")


@pytest.mark.parametrize(("length", "blocks"), [(2**17, [2**17]), (2**17 + 1, [2**17, 1]), (2**18, [2**17, 2**17])])
def test_stored_columns_are_cut_into_blocks(length, blocks):
    content = np.random.default_rng(0).bytes(length)
    frame = store_columns([content[:100], content[100:]])
    assert zstandard.decompress(frame) == decompress(frame, length) == content
    at = 14
    for number, size in enumerate(blocks):
        last = number == len(blocks) - 1
        assert frame[at : at + 3] == (size << 3 | last).to_bytes(3, "little")
        at += 3 + size
    assert at == len(frame)
    assert zstandard.get_frame_parameters(frame).window_size == 2**17


SKIPPABLE, EMPTY_SKIPPABLE = b"\x50\x2a\x4d\x18\x01\x00\x00\x00x", b"\x50\x2a\x4d\x18\x00\x00\x00\x00"
WITHOUT_SIZE = bytes.fromhex("28b52ffd0058190000") + b"abc"


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (WITHOUT_SIZE, CorruptError, "the zstd frame does not state its content size"),
        (stored(b"abcdef"), LimitError, "the zstd frame holds 6 bytes: expected at most 5"),
        (claiming(0) + b"x", CorruptError, "expected one empty zstd frame"),
        (claiming(0) * 2, CorruptError, "expected one empty zstd frame"),
        (claiming(0)[:-1], CorruptError, "expected one empty zstd frame"),
        (claiming(3, 28), CorruptError, "the zstd frame needs a window of 268435456 bytes: expected at most 134217728"),
        (EMPTY_SKIPPABLE, CorruptError, "expected a zstd frame"),
    ],
)
def test_frames_that_are_refused(frame, error, message):
    with refused(error, message):
        decompress(frame, 5)
    with refused(error, message):
        decompress_many([stored(b"good"), frame], [5, 5])


@pytest.mark.parametrize(
    "frame", [stored(b"abc") + b"x", stored(b"abc")[:-1], claiming(3), stored(b"abc") * 2, stored(b"abc") + EMPTY_SKIPPABLE]
)
def test_frames_that_do_not_decompress(frame):
    with pytest.raises(CorruptError, match=r"^the zstd frame does not decompress: \w"):
        decompress(frame, 9)
    with pytest.raises(CorruptError, match=r"^a zstd frame does not decompress: \w"):
        decompress_many([frame], [9])


@pytest.mark.parametrize("frame", [b"not zstd", b"", b"x", SKIPPABLE])
def test_what_is_no_frame(frame):
    with refused(CorruptError, "expected a zstd frame"):
        decompress(frame, 9)
    with pytest.raises(CorruptError, match=r"^(expected a zstd frame|a zstd frame does not decompress: .*)$"):
        decompress_many([frame], [9])


def test_a_frame_that_ends_in_its_head():
    with pytest.raises(CorruptError, match=r"^expected a zstd frame: \w"):
        decompress(claiming(0)[:5], 9)


def test_frames_with_a_dictionary_do_not_decompress():
    frame = b"\x28\xb5\x2f\xfd" + struct.pack("<BBBQ", 0b1100_0001, 7 << 3, 5, 3) + b"\x19\x00\x00abc"
    assert zstandard.get_frame_parameters(frame).dict_id == 5
    with pytest.raises(CorruptError, match=r"^the zstd frame does not decompress: \w"):
        decompress(frame, 9)


RESERVED_BLOCK_TYPE = b"\x07\x00\x00"


@pytest.mark.parametrize("block", [RESERVED_BLOCK_TYPE, stored(b"abc")[-6:]])
def test_a_broken_empty_frame_does_not_decompress(block):
    broken = claiming(0)[:-3] + block
    for read in (lambda: decompress(broken, 0), lambda: decompress_many([broken], [0])):
        with pytest.raises(CorruptError, match=r"^the zstd frame does not decompress: \w"):
            read()


def test_frames_up_to_the_limit():
    assert decompress(stored(b"abcde"), 5) == b"abcde"
    assert decompress(stored(b"x"), 1) == b"x"
    assert decompress(claiming(0), 0) == b""
    assert decompress_many([stored(b"abcde"), claiming(0), stored(b"x")], [5, 0, 1]) == [b"abcde", b"", b"x"]
    with refused(LimitError, "the zstd frame holds 2 bytes: expected at most 1"):
        decompress_many([stored(b"a"), stored(b"bc")], [9, 1])


def test_a_window_of_128_mebibytes_is_the_largest():
    frame = claiming(1, 27)[:-3] + b"\x09\x00\x00x"
    assert decompress(frame, 1) == b"x"
    assert decompress_many([frame], [1]) == [b"x"]


def test_a_thread_makes_its_decompressor_once(monkeypatch):
    made = []
    make = zstandard.ZstdDecompressor
    monkeypatch.setattr(
        zstandard, "ZstdDecompressor", lambda *args, **options: made.append(threading.get_ident()) or make(*args, **options)
    )
    reading = [threading.Thread(target=lambda: [decompress(stored(b"abc"), 9) for _ in range(3)]) for _ in range(2)]
    for thread in reading:
        thread.start()
    for thread in reading:
        thread.join()
    assert len(made) == 2


def test_threads_decompress_at_the_same_time():
    content = np.random.default_rng(0).bytes(3 * 10**5)
    frames = [compress_columns([content[start:]]) for start in range(8)]
    found = {}

    def work(number):
        found[number] = [decompress(frames[number], 10**6) for _ in range(5)]

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [content[number:]] * 5 for number in range(8)}
