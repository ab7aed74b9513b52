# ruff: noqa: N806 (names are those of the specification)
"""A second, independent, minimal reader of softlabel containers (`.slc`), version 1.

It was written from the pages in spec/ alone, without sight of the package, and shares no code with it. It reads files that are
already in memory, checks everything, and is meant to be obviously right, not fast. "C5.1" is section 5.1 of container-v1.md, "S" is
sparse-v1.md, "D" is dense-v1.md, "F" is field-v1.md, "R" is crop-sampler-v1.md, "L" is set-v1.md.
"""

import hashlib
import json
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import msgpack
import zstandard

MAGIC = b"\x89SLC\r\n\x1a\n"


# C14: errors


class FormatError(Exception):
    """Any reason to refuse a file."""


class NotAContainerError(FormatError): ...


class NewerVersionError(FormatError): ...


class UnknownFeatureError(FormatError): ...


class TruncatedError(FormatError): ...


class CorruptError(FormatError): ...


class LimitError(FormatError): ...


class MismatchError(Exception):
    """L4: a file that is not the shard of a set that it should be."""


def require(condition: bool, what: str, error: type[FormatError] = CorruptError) -> None:
    if not condition:
        raise error(what)


@dataclass
class Codec:
    """A parsed codec string (C11)."""

    name: str
    k: int | None = None
    t: float | None = None
    gain: float | None = None
    values: str | None = None
    step: float = 0.0
    tail: int | str | None = None
    content: str = "probs"
    cost: float = 0.0005


class Field(NamedTuple):
    """F2: of each listed class its level and seven slopes, and how far it is from the teacher, as codes of F5."""

    numbers: dict[int, list[int]]
    fitted: int
    unseen: int


@dataclass
class Image:
    key: str
    size: tuple[int, int]  # height, width
    crc32: int | None  # of the image's file, if the file has checksums
    tail: list[float] | None  # the weight of each of the C classes (where x = 0); only if the codec has tails
    crops: list[list] = field(default_factory=list)  # top, left, height, width
    flips: list[bool] = field(default_factory=list)
    indices: list[list[int]] = field(default_factory=list)  # sparse and fields only, as are the next two
    values: list[list[float]] = field(default_factory=list)
    remainder: list[float] = field(default_factory=list)
    vectors: list[list[float]] = field(default_factory=list)  # dense only
    of_places: Field | None = None  # fields only
    slopes: list[int] | None = None  # the slope of each of the C classes; only with tail=all, as is the next one
    main_class: int | None = None


@dataclass
class File:
    metadata: dict[str, Any]
    summary: dict[str, Any]
    images: list[Image]


# C1: conventions


class Fields:
    """Takes one field after the other from `data`, which they must fill exactly."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, length: int) -> bytes:
        require(length <= len(self.data) - self.at, "fields are longer than what holds them")
        self.at += length
        return self.data[self.at - length : self.at]

    def column(self, code: str, count: int) -> list[int]:
        """`count` numbers one after the other; `code` is that of `struct`: B is u8, b i8, H u16, h i16, I u32, Q u64."""
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code))))

    def number(self, code: str) -> int:
        return self.column(code, 1)[0]

    def planes(self, count: int, width: int) -> list[int]:
        runs = [self.take(count) for _ in range(width)]
        return [int.from_bytes(word, "little") for word in zip(*runs, strict=True)] if width else [0] * count

    def bits(self, count: int, width: int) -> list[int]:
        """A column of bits (C5.2)."""
        data = self.take((count * width + 7) // 8)
        spans = [(i * width // 8, ((i + 1) * width + 7) // 8, i * width % 8) for i in range(count)]
        unused = 8 * len(data) - count * width
        require(not data or data[-1] >> (8 - unused) == 0, "unused bits are set")
        return [int.from_bytes(data[first:end], "little") >> shift & (1 << width) - 1 for first, end, shift in spans]

    def varint(self) -> int:
        value = 0
        for shift in (0, 7, 14):
            byte = self.number("B")
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise CorruptError("varint of more than 3 bytes")

    def end(self) -> None:
        require(self.at == len(self.data), "bytes are left over")


def float_of_bits(bits: int, width: int) -> float:
    value = struct.unpack("<f" if width == 4 else "<e", bits.to_bytes(width, "little"))[0]
    require(math.isfinite(value), "a number is not finite")
    return value


def binary32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


def decompress(frame: bytes, limit: int) -> bytes:
    """One zstd frame, stated to be of at most `limit` bytes of content."""
    require(frame[:4] == b"\x28\xb5\x2f\xfd", "not a zstd frame")
    try:
        parameters = zstandard.get_frame_parameters(frame)
        require(parameters.content_size != zstandard.CONTENTSIZE_UNKNOWN, "zstd frame without content size")
        require(parameters.dict_id == 0, "zstd frame with a dictionary")
        require(parameters.content_size <= limit, "zstd content beyond its limit", LimitError)
        require(parameters.window_size <= 134217728, "zstd window is too large")
        decoder = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
        content = decoder.decompress(frame)
    except zstandard.ZstdError as error:
        raise CorruptError(str(error)) from error
    require(decoder.eof and not decoder.unused_data and len(content) == parameters.content_size, "not exactly one zstd frame")
    return content


def unpack_map(data: bytes) -> dict[str, Any]:
    """One msgpack map, of the permitted types only."""

    def pairs(items: list[tuple[Any, Any]]) -> dict[str, Any]:
        require(all(isinstance(key, str) for key, _ in items), "a msgpack key is not a str")
        require(len(dict(items)) == len(items), "a msgpack map holds a key twice")
        return dict(items)

    def check(value: Any, depth: int) -> None:
        if isinstance(value, (list, dict)):
            require(depth < 32, "msgpack is nested too deeply")
            for child in value.values() if isinstance(value, dict) else value:
                check(child, depth + 1)
        else:
            require(value is None or isinstance(value, (bool, int, float, str)), "msgpack type is not permitted")
            require(not isinstance(value, float) or math.isfinite(value), "msgpack float is not finite")

    try:
        value = msgpack.unpackb(data, object_pairs_hook=pairs)
    except msgpack.StackError as error:
        raise CorruptError("msgpack is nested too deeply") from error
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CorruptError(f"msgpack: {error}") from error
    check(value, 0)
    require(isinstance(value, dict), "msgpack is not a map")
    return value


# C3, C4, C11: header, metadata, codec string


def read_header(data: bytes) -> tuple[int, int, bool]:
    """`metadata_length`, `metadata_crc32`, and whether there is padding."""
    require(data[:8] == MAGIC[: len(data)], "no magic", NotAContainerError)
    require(len(data) >= 10, "header is incomplete", TruncatedError)
    (major,) = struct.unpack_from("<H", data, 8)
    require(major == 1, f"major version {major}", NewerVersionError)
    require(len(data) >= 32, "header is incomplete", TruncatedError)
    _minor, incompatible, _compatible, metadata_length, metadata_crc32, header_crc32 = struct.unpack_from("<HIIIII", data, 10)
    require(zlib.crc32(data[:28]) == header_crc32, "header_crc32 differs")
    require(incompatible in (0, 1), f"incompatible features {incompatible:#x}", UnknownFeatureError)
    require(1 <= metadata_length <= 16777216, "metadata_length", LimitError)
    return metadata_length, metadata_crc32, incompatible == 1


def read_metadata(data: bytes) -> tuple[dict[str, Any], int, int]:
    """The metadata, their CRC-32, and the offset of block 0."""
    length, crc32, padded = read_header(data)
    require(len(data) >= 32 + length, "metadata are incomplete", TruncatedError)
    require(zlib.crc32(data[32 : 32 + length]) == crc32, "metadata_crc32 differs")
    metadata = unpack_map(data[32 : 32 + length])
    require(padded == ("padding" in metadata), "padding in the header or in the metadata only")
    check_metadata(metadata)
    return metadata, crc32, 32 + length


def check_metadata(metadata: dict[str, Any]) -> None:
    """C4, also of the index of a set."""
    for name, kind in {"num_classes": int, "codec": str, "crops": str, "metadata": dict}.items():
        require(type(metadata.get(name)) is kind, f"metadata: {name} is absent or of a wrong type")
    if "image_checksum" in metadata:
        require(isinstance(metadata["image_checksum"], str), "metadata: image_checksum is of a wrong type")
        require(metadata["image_checksum"] == "crc32", "unknown image_checksum", UnknownFeatureError)
    require(2 <= metadata["num_classes"] <= 2147483648, "num_classes", LimitError)
    require(metadata["crops"] in ("pixels", "fractions:f32", "fractions:f16", "derived"), "unknown crops", UnknownFeatureError)
    parse_codec(metadata["codec"], metadata["num_classes"])
    if "padding" in metadata:
        check_padding(metadata["padding"])
        require(metadata["crops"] in ("pixels", "derived"), "padding with fractions")
    if metadata["crops"] == "derived":
        parse_sampler(metadata.get("crop_sampler"))


def check_padding(found: Any) -> None:
    """C4.2."""
    require(isinstance(found, dict) and isinstance(found.get("mode"), str), "padding is no map, or has no mode")
    require(found["mode"] in ("constant", "edge", "reflect", "symmetric"), "unknown mode of padding", UnknownFeatureError)
    require(type(found.get("pixels")) is int and 1 <= found["pixels"] <= 1024, "padding: pixels")
    if found["mode"] == "constant":
        fill = found.get("fill")
        require(isinstance(fill, list) and len(fill) == 3, "padding: fill")
        require(all(type(value) is int and 0 <= value <= 255 for value in fill), "padding: fill")


def padded_sizes(metadata: dict[str, Any], sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """C4.2: height and width of images as crops are cut out of them."""
    if "padding" not in metadata:
        return sizes
    P = metadata["padding"]["pixels"]
    require(all(1 <= side <= 65535 - 2 * P for size in sizes for side in size), "an image has no pixels, or too many with its padding")
    return [(H + 2 * P, W + 2 * P) for H, W in sizes]


def pad(image: list[list[Any]], padding: dict[str, Any]) -> list[list[Any]]:
    """C4.2: the padded image, row by row."""
    P, H, W = padding["pixels"], len(image), len(image[0])

    def s(i: int, n: int) -> int | None:
        if padding["mode"] == "constant":
            return i if 0 <= i < n else None
        if padding["mode"] == "edge":
            return min(max(i, 0), n - 1)
        period = 2 * n if padding["mode"] == "symmetric" else max(1, 2 * (n - 1))
        return min(i % period, (2 * n - 1 if padding["mode"] == "symmetric" else 2 * (n - 1)) - i % period)

    rows, columns = [s(y - P, H) for y in range(H + 2 * P)], [s(x - P, W) for x in range(W + 2 * P)]
    return [[padding["fill"] if row is None or column is None else image[row][column] for column in columns] for row in rows]


def decimal(text: str) -> float:
    """The number that a text of digits, point and exponent stands for; not a number if it stands for none."""
    try:
        return float(text) if set(text) <= set("0123456789.e+-") else math.nan
    except ValueError:
        return math.nan


def whole(text: str) -> int:
    """The number of at most five decimal digits that a text is; 0, which no option can be, if it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0


def parse_codec(string: str, num_classes: int) -> Codec:
    """C11. The order of options and defaults that are written out are not objected to."""
    name, colon, rest = string.partition(":")
    options = dict(option.partition("=")[::2] for option in rest.split(",")) if colon else {}
    marginal, dense, fields = name in ("marginal_smoothing", "marginal_renorm"), name == "dense", name == "field"
    known = (marginal or dense or fields or name in ("hard", "smoothing")) and len(options) == (rest.count(",") + 1 if colon else 0)
    values = {"hard": None, "field": None, "dense": "f32"}.get(name, "log8")
    codec = Codec(name, k=1 if name in ("hard", "smoothing") else None, values=values)
    if "values" in options:
        codec.values = options["values"]
        known &= name not in ("hard", "field") and codec.values in ("f32", "f16", "log8")
    if "k" in options:
        codec.k = whole(options["k"])
        known &= marginal and 1 <= codec.k <= min(num_classes, 65535)
    if "t" in options:
        codec.t = decimal(options["t"])
        known &= marginal and 2.0**-15 <= codec.t <= 1
    if "gain" in options:
        codec.gain = decimal(options["gain"])
        known &= name == "marginal_smoothing" and options.get("tail", "all") != "all" and 2.0**-15 <= codec.gain <= 1
    codec.step = 0.35 if fields else 1.0 if dense else 0.5 if "tail" in options else 0.2
    if "step" in options:
        codec.step = decimal(options["step"])
        known &= (codec.values == "log8" and 0.04 <= codec.step <= (2 if dense else 1)) or (fields and 0.1 <= codec.step <= 1)
    if "cost" in options:
        codec.cost = decimal(options["cost"])
        known &= fields and 1e-7 <= codec.cost <= 0.1
    if "tail" in options:
        codec.tail = "all" if options["tail"] == "all" else whole(options["tail"])
        listed = num_classes if codec.tail == "all" else codec.tail
        known &= name == "marginal_smoothing" and 1 <= listed <= min(num_classes, 65535)
    if "mean" in options:
        known &= options["mean"] == "arithmetic" or (codec.tail == "all" and options["mean"] == "log")
    if "content" in options:
        codec.content = options["content"]
        known &= dense and codec.content in (("probs", "logits") if codec.values == "log8" else ("probs", "logits", "features"))
    known &= options.keys() <= {"k", "t", "gain", "values", "step", "tail", "mean", "content", "cost"}
    known &= len(options.keys() & {"k", "t", "gain"}) == (1 if marginal else 0)
    require(known, f"unknown codec {string}", UnknownFeatureError)
    return codec


# C5: blocks


def read_payload(frame: bytes, number: int, metadata_crc32: int) -> bytes:
    """C5.1: what the frame of a block holds, still compressed."""
    require(len(frame) >= 16 and frame[:4] == b"SLBK", "no block marker")
    block_number, payload_length, block_crc32 = struct.unpack_from("<III", frame, 4)
    require(1 <= payload_length <= 1073741824, "payload_length", LimitError)
    require(payload_length == len(frame) - 16, "payload_length does not agree with the length of the block")
    require(block_number == number, "block_number")
    require(zlib.crc32(struct.pack("<III", metadata_crc32, number, payload_length) + frame[16:]) == block_crc32, "block_crc32 differs")
    return frame[16:]


def read_block(payload: bytes, metadata: dict[str, Any]) -> list[Image]:
    """C5.2."""
    codec, num_classes, mode = parse_codec(metadata["codec"], metadata["num_classes"]), metadata["num_classes"], metadata["crops"]
    fields = Fields(decompress(payload, min(1073741824, 4194304 + 1024 * len(payload))))
    num_images = fields.number("H")
    require(1 <= num_images <= 256, "num_images of a block")
    crop_fields = read_crop_fields(fields, mode)
    label_fields = read_label_fields(fields, codec)
    counts = [number + 1 for number in fields.column("H", num_images)]
    require(sum(counts) <= 65535, "too many crops in a block")
    heights, widths = fields.column("H", num_images), fields.column("H", num_images)
    sizes = list(zip(heights, widths, strict=True))
    crc32s = fields.column("I", num_images) if "image_checksum" in metadata else [None] * num_images
    flips = [] if mode == "derived" else [bit == 1 for bit in fields.bits(sum(counts), 1)]
    padded = padded_sizes(metadata, sizes)
    crops = read_crop_columns(fields, mode, crop_fields, padded, counts)
    changes: list[tuple] = [(None, None)] * num_images
    of_places: list[Field | None] = [None] * num_images
    if codec.name == "field":
        labels, tails, of_places = {}, [None] * num_images, read_fields(fields, label_fields["class_width"], num_classes, counts)
    else:
        labels, tails, changes = read_label_columns(fields, codec, label_fields, num_classes, counts)
    keys = read_block_keys(fields, num_images)
    fields.end()
    if mode == "derived":
        crops, flips = derive_crops(parse_sampler(metadata["crop_sampler"]), keys, padded, counts)
        require(crops_crc32(crops, flips) == crop_fields[0], "crops_crc32 differs")
    if codec.name == "field":
        size_of_crop = repeated([(1, 1)] * num_images if mode.startswith("fractions") else padded, counts)
        of_crops = zip(repeated(of_places, counts), crops, size_of_crop, strict=True)
        found = [field_label(*of_crop, codec, num_classes) for of_crop in of_crops]
        labels = {name: [label[place] for label in found] for place, name in enumerate(("indices", "values", "remainder"))}

    images, first = [], 0
    for key, size, count, crc32, tail, of_tail, of_image in zip(keys, sizes, counts, crc32s, tails, changes, of_places, strict=True):
        rows = slice(first, first + count)
        columns = {name: column[rows] for name, column in labels.items()}
        images.append(Image(key, size, crc32, tail, crops[rows], flips[rows], **columns, of_places=of_image))
        images[-1].slopes, images[-1].main_class = of_tail
        first += count
    return images


def read_crop_fields(fields: Fields, mode: str) -> list[int]:
    """C5.3."""
    if mode == "pixels":
        return fields.column("H", 4) + fields.column("B", 1)
    return fields.column("I", 1) if mode == "derived" else []


def read_crop_columns(fields: Fields, mode: str, crop_fields: list[int], sizes: list[tuple[int, int]], counts: list[int]) -> list[list]:
    """C5.3."""
    if mode == "derived":
        require(all(H >= 1 and W >= 1 for H, W in sizes), "an image has no pixels")
        return []
    if mode == "pixels":
        return read_pixel_crops(fields, crop_fields, repeated(sizes, counts))
    require(all((H == 0) == (W == 0) for H, W in sizes), "an image has a height or a width only")
    width = 4 if mode == "fractions:f32" else 2
    columns = [[float_of_bits(bits, width) for bits in fields.planes(sum(counts), width)] for _ in range(4)]
    return [list(crop) for crop in zip(*columns, strict=True)]


def repeated(of_images: list, counts: list[int]) -> list:
    """What belongs to images, for each of their crops."""
    return [item for item, count in zip(of_images, counts, strict=True) for _ in range(count)]


def read_pixel_crops(fields: Fields, crop_fields: list[int], size_of_crop: list[tuple[int, int]]) -> list[list[int]]:
    """C5.3, `pixels`."""
    height_min, height_max, ratio_min, ratio_max, crop_width = crop_fields
    require(crop_width <= 6 or crop_width == 8, "crop_width")
    if crop_width == 8:
        return read_plain_crops(fields, size_of_crop)
    A = height_max - height_min + 1
    require(A >= 1, "height_max is below height_min")
    crops = []
    for (H, W), word in zip(size_of_crop, fields.planes(len(size_of_crop), crop_width), strict=True):
        quotient, a = divmod(word, A)
        height = height_min + a
        require(1 <= height <= H, "crop height")
        width_low = max(1, height * ratio_min // 256)
        width_top = W if ratio_max == 65535 else min(W, (height * ratio_max + 255) // 256)
        B = width_top - width_low + 1
        require(B >= 1, "no crop width is possible")
        quotient, b = divmod(quotient, B)
        width = width_low + b
        left, top = divmod(quotient, H - height + 1)
        require(left <= W - width, "crop left")
        crops.append([top, left, height, width])
    return crops


def read_plain_crops(fields: Fields, size_of_crop: list[tuple[int, int]]) -> list[list[int]]:
    """C5.3, `pixels` without words."""
    columns = [fields.planes(len(size_of_crop), 2) for _ in range(4)]
    crops = [list(crop) for crop in zip(*columns, strict=True)]
    for (H, W), (top, left, height, width) in zip(size_of_crop, crops, strict=True):
        require(1 <= height <= H - top and 1 <= width <= W - left, "a crop is not inside its image")
    return crops


def read_block_keys(fields: Fields, num_images: int) -> list[str]:
    """C5.4."""
    keys, previous = [], b""
    for _ in range(num_images):
        prefix, suffix, middle = fields.varint(), fields.varint(), fields.varint()
        require(prefix + suffix <= len(previous), "prefix and suffix exceed the previous key")
        previous = previous[:prefix] + fields.take(middle) + previous[len(previous) - suffix :]
        keys.append(decode_key(previous))
    return keys


def decode_key(key: bytes) -> str:
    require(1 <= len(key) <= 4096, "length of a key")
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise CorruptError("a key is not UTF-8") from error


# Derived crops: crop-sampler-v1.md


class Sampler(NamedTuple):
    """R1."""

    seed: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    log_ratio: tuple[float, float]
    flip_probability: float


class AllViews(NamedTuple):
    """R6."""

    height: int
    width: int
    flips: bool


def is_float(value: Any) -> bool:
    return type(value) in (float, int)


def parse_sampler(found: Any) -> Sampler | AllViews:
    """C4, R1, R6."""

    def floats(name: str) -> tuple[float, float]:
        pair = found.get(name)
        require(isinstance(pair, list) and len(pair) == 2 and all(is_float(x) for x in pair), f"crop_sampler: {name} is not two floats")
        return float(pair[0]), float(pair[1])

    require(isinstance(found, dict) and isinstance(found.get("name"), str), "no crop_sampler, or it has no name")
    if found["name"] == "all_views/1":
        views = AllViews(found.get("height"), found.get("width"), found.get("flips"))
        require(all(type(side) is int and 1 <= side <= 65535 for side in views[:2]), "crop_sampler: height or width")
        require(isinstance(views.flips, bool), "crop_sampler: flips")
        return views
    require(found["name"] == "random_resized_crop/1", f"unknown crop_sampler {found['name']}", UnknownFeatureError)
    require(type(found.get("seed")) is int and is_float(found.get("flip_probability")), "crop_sampler: seed or flip_probability")
    sampler = Sampler(found["seed"], floats("scale"), floats("ratio"), floats("log_ratio"), found["flip_probability"])
    require(0 <= sampler.seed < 2**64, "crop_sampler: seed")
    require(0 < sampler.scale[0] <= sampler.scale[1] <= 1, "crop_sampler: scale")
    require(1 / 2048 <= sampler.ratio[0] <= sampler.ratio[1] <= 2048, "crop_sampler: ratio")
    logs = zip(sampler.ratio, sampler.log_ratio, strict=True)
    require(all(abs(math.log(ratio) - log) <= 1e-12 for ratio, log in logs), "crop_sampler: log_ratio")
    require(0 <= sampler.flip_probability <= 1, "crop_sampler: flip_probability")
    return sampler


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """R2: Philox4x32-10."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        hi0, lo0 = divmod(0xD2511F53 * c0, 2**32)
        hi1, lo1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def E(logarithm: float) -> float:  # noqa: N802
    """R4."""
    y = logarithm / 8
    p = 1 / math.factorial(13)
    for n in range(12, -1, -1):
        p = p * y + 1 / math.factorial(n)
    for _ in range(3):
        p = p * p
    return p


def sample(sampler: Sampler, key: str, size: tuple[int, int], m: int) -> tuple[list[int], bool]:
    """R3: crop m of an image, and whether it is flipped."""
    (s0, s1), (l0, l1), (H, W) = sampler.scale, sampler.log_ratio, size
    stream = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")

    def words(a: int) -> tuple[int, int, int, int]:
        return philox((a, m, stream, 0), (sampler.seed % 2**32, sampler.seed // 2**32))

    flip = words(0)[3] % 2**16 < round(sampler.flip_probability * 2**16)
    for a in range(10):
        x0, x1, x2, x3 = words(a)
        area = (H * W) * (s0 + (s1 - s0) * (x0 * 2.0**-32))
        ratio = E(l0 + (l1 - l0) * (x1 * 2.0**-32))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 1 <= width <= W and 1 <= height <= H:
            return [x2 * (H - height + 1) // 2**32, x3 * (W - width + 1) // 2**32, height, width], flip
    height, width = largest_allowed(size, *sampler.ratio)
    return [(H - height) // 2, (W - width) // 2, height, width], flip


def largest_allowed(size: tuple[int, int], r0: float, r1: float) -> tuple[int, int]:
    """R3: height and width of the crop that is taken if no attempt is accepted."""
    H, W = size
    shape = W / H
    if shape < r0:
        return max(1, round(W / r0)), W
    if shape > r1:
        return H, max(1, round(H * r1))
    return H, W


def view(views: AllViews, size: tuple[int, int], m: int) -> tuple[list[int], bool]:
    """R6: crop m of an image, and whether it is flipped."""
    F, (H, W), (h, w, _flips) = 2 if views.flips else 1, size, views
    require(h <= H and w <= W and m < F * (H - h + 1) * (W - w + 1), "an image has more crops than views")
    place = m // F
    return [place // (W - w + 1), place % (W - w + 1), h, w], m % F == 1


def derive_crops(
    sampler: Sampler | AllViews, keys: list[str], sizes: list[tuple[int, int]], counts: list[int]
) -> tuple[list[list[int]], list[bool]]:
    """C5.3, `derived`: the crops and flips of a block."""
    images = zip(keys, sizes, counts, strict=True)
    if isinstance(sampler, AllViews):
        sampled = [view(sampler, size, m) for _, size, count in images for m in range(count)]
    else:
        sampled = [sample(sampler, key, size, m) for key, size, count in images for m in range(count)]
    return [crop for crop, _ in sampled], [flip for _, flip in sampled]


def crops_crc32(crops: list[list[int]], flips: list[bool]) -> int:
    bits = sum(flip << i for i, flip in enumerate(flips))
    packed = [struct.pack("<4H", *crop) for crop in crops] + [bits.to_bytes((len(flips) + 7) // 8, "little")]
    return zlib.crc32(b"".join(packed))


# The label columns: sparse-v1.md, dense-v1.md and field-v1.md


def read_label_fields(fields: Fields, codec: Codec) -> dict[str, int]:
    """S2, D1, F1."""
    if codec.name == "dense":
        names = ("profile_width", "count_width", "exception_width") if codec.values == "log8" else ()
        found = {name: fields.number("B") for name in names}
        require(not names or (found["profile_width"] in (1, 2) and found["exception_width"] in (1, 2)), "a width")
        require(not names or found["count_width"] <= 4, "count_width")
        return found
    if codec.name == "field":
        class_width = fields.number("B")
        require(class_width <= 4, "class_width")
        return {"class_width": class_width}
    found = {"palettes": fields.number("B"), "index_width": fields.number("B")}
    require(found["palettes"] <= (1 if codec.tail in (None, "all") else 2), "palettes")
    require(found["index_width"] <= 4, "index_width")
    if codec.k is None:
        found["count_width"] = fields.number("B")
        require(found["count_width"] <= 2, "count_width")
    if codec.values == "log8":
        found["remainder_base"] = fields.number("h")
        found["remainder_width"] = fields.number("B")
        require(found["remainder_width"] <= 2, "remainder_width")
    if codec.tail not in (None, "all"):
        found["tail_width"] = fields.number("B")
        require(found["tail_width"] <= 4, "tail_width")
    return found


def read_label_columns(
    fields: Fields, codec: Codec, found: dict[str, int], num_classes: int, crops_of_images: list[int]
) -> tuple[dict[str, list], list, list]:
    """S3, D2: what is said of each crop, by name; of each image its tail; and slopes and main class. They are None if it has none."""
    num_crops, tails, changes = sum(crops_of_images), [None for _ in crops_of_images], [(None, None) for _ in crops_of_images]
    if codec.name == "dense" and codec.values == "log8":
        logs = read_logs(fields, codec.step, found, num_classes, crops_of_images)
        return {"vectors": [[binary32(number) for number in (softmax(z) if codec.content == "probs" else z)] for z in logs]}, tails, changes
    if codec.name == "dense":
        width = 4 if codec.values == "f32" else 2
        numbers = [float_of_bits(bits, width) for bits in fields.planes(num_crops * num_classes, width)]
        require(codec.content != "probs" or min(numbers) >= 0, "a probability is negative")
        vectors = split(numbers, [num_classes] * num_crops)
        slack = 2.0**-8 + num_classes * 2.0**-25
        require(codec.content != "probs" or all(abs(math.fsum(p) - 1) <= slack for p in vectors), "probabilities do not add up to 1")
        return {"vectors": vectors}, tails, changes

    counts = [codec.k] * num_crops if codec.k is not None else [n + 1 for n in fields.planes(num_crops, found["count_width"])]
    require(max(counts) <= min(num_classes, 65535), "too many classes are kept")
    require(num_crops * max(counts) <= max(4194304, sum(counts)), "too many crops for the most classes kept")
    require(found["index_width"] > 0 or max(counts) <= 9, "index_width is 0 where classes cannot be distinct")
    remainders = fields.planes(num_crops, found["remainder_width"]) if codec.values == "log8" else []
    codes = split(fields.planes(sum(counts), found["index_width"]), counts)
    differences = read_differences(fields, codec, counts)
    palettes = read_palettes(fields, num_classes, len(crops_of_images)) if found["palettes"] == 1 else None
    if codec.tail == "all":
        tails, changes = read_full_tails(fields, len(tails), num_classes)
    elif codec.tail is not None:
        listed = read_tails(fields, found["tail_width"], len(tails), codec.tail, num_classes)
        tails = [tail_weights(levels, floor, num_classes) for levels, floor in listed]
        if found["palettes"] == 2:
            palettes = [palette_of_tail(levels, num_classes) for levels, _ in listed]

    palette_of_crop = repeated(palettes, crops_of_images) if palettes else [None] * num_crops
    indices = [decode_indices(*crop, num_classes) for crop in zip(codes, palette_of_crop, strict=True)]
    if codec.values is None:  # S5.1
        values, remainder = [[1.0] for _ in counts], [0.0 for _ in counts]
    elif codec.values == "log8":
        based = [found["remainder_base"] + number for number in remainders]
        decoded = [decode_log8(*crop, codec.step, num_classes) for crop in zip(differences, based, strict=True)]
        values, remainder = [crop[0] for crop in decoded], [crop[1] for crop in decoded]
    else:
        values = [decode_bits(crop, 4 if codec.values == "f32" else 2) for crop in differences]
        remainder = [0.0 if len(crop) == num_classes else binary32(max(0.0, 1.0 - math.fsum(crop))) for crop in values]
    return {"indices": indices, "values": values, "remainder": remainder}, tails, changes


def read_logs(fields: Fields, step: float, found: dict[str, int], num_classes: int, crops_of_images: list[int]) -> list[list[float]]:
    """D4: the logarithms of each crop."""
    num_images, num_crops, C = len(crops_of_images), sum(crops_of_images), num_classes
    require(num_crops * C <= 268435456, "too many numbers in a block")
    ranks, shifts = fields.column("B", num_images), fields.column("B", num_images)
    require(max(shifts) <= 8, "a profile is too fine")
    levels = [signed(level, found["profile_width"]) for level in fields.planes(num_images * C, found["profile_width"])]
    components = [[fields.column("b", C) for _ in range(rank)] for rank in ranks]
    coefficients = [[fields.column("b", rank) for _ in range(count)] for rank, count in zip(ranks, crops_of_images, strict=True)]
    digits = [fields.bits(C, 2) for _ in range(num_crops)]
    counts = fields.planes(num_crops, found["count_width"])
    require(max(counts) <= C, "a crop has more exceptions than classes")
    exceptions = iter(fields.planes(sum(counts), found["exception_width"]))
    refinements = iter([fields.column("b", min(C, 4)) for _ in range(num_crops)])
    require(counts == [crop.count(3) for crop in digits], "a crop has more or fewer exceptions than its digits say")
    crops, each_crop = [], iter(digits)
    for profile, shift, of_image, of_crops in zip(split(levels, [C] * num_images), shifts, components, coefficients, strict=True):
        for amounts in of_crops:
            crop = [difference(digit, exceptions) for digit in next(each_crop)]
            common = [sum(a * component[c] for a, component in zip(amounts, of_image, strict=True)) for c in range(C)]
            v = [d + P / 2**shift + sum_c / 256 for d, P, sum_c in zip(crop, profile, common, strict=True)]
            largest = sorted(range(C), key=lambda c: (-v[c], c))[:4]
            for c, r in zip(largest, next(refinements), strict=True):
                v[c] += r / 8
            crops.append([step * v_c for v_c in v])
    return crops


def signed(number: int, width: int) -> int:
    return number - 256**width if number >= 256**width // 2 else number


def difference(digit: int, exceptions: Iterator[int]) -> int:
    u = digit if digit < 3 else next(exceptions) + 3
    return (u + 1) // 2 if u % 2 else -(u // 2)


def softmax(z: list[float]) -> list[float]:
    largest = max(z)
    powers = [math.exp(z_c - largest) for z_c in z]
    total = math.fsum(powers)
    return [power / total for power in powers]


def split(column: list, counts: list[int]) -> list[list]:
    rows, first = [], 0
    for count in counts:
        rows.append(column[first : first + count])
        first += count
    return rows


def read_differences(fields: Fields, codec: Codec, counts: list[int]) -> list[list[int]]:
    """S3: the stored values of each crop."""
    if codec.values is None:
        return [[] for _ in counts]
    width = {"f32": 4, "f16": 2, "log8": 1}[codec.values]
    stored = [count - 1 for count in counts] if codec.values == "log8" else counts
    return split(fields.planes(sum(stored), width), stored)


def read_palettes(fields: Fields, num_classes: int, num_images: int) -> list[list[int]]:
    """S4: the palette of each image."""
    sizes = fields.planes(num_images, 2)
    palettes = split(fields.bits(sum(sizes), (num_classes - 1).bit_length()), sizes)
    for palette in palettes:
        require(all(c < num_classes for c in palette), "a class of a palette is not below C")
        require(len(set(palette)) == len(palette), "a palette holds a class twice")
    return palettes


def palette_of_tail(levels: dict[int, int], num_classes: int) -> list[int]:
    """S4: the palette that follows from a tail."""
    listed = sorted(levels, key=lambda c: (levels[c], c))
    return [*listed, *(c for c in range(num_classes) if c not in levels)][:65535]


def decode_indices(codes: list[int], palette: list[int] | None, num_classes: int) -> list[int]:
    """S4: the classes of a crop."""
    classes = codes if palette is None else [palette[rank] for rank in decode_ranks(codes, len(palette))]
    require(max(classes) < num_classes, "a class is not below C")
    require(len(set(classes)) == len(classes), "a class stands twice in a crop")
    return classes


def decode_ranks(codes: list[int], palette_size: int) -> list[int]:
    ranks: list[int] = []
    for code in codes:
        r = code
        for s in sorted(ranks[:8]):
            if s <= r:
                r = r + 1
        require(r < palette_size, "a rank is beyond the palette")
        ranks.append(r)
    return ranks


def decode_bits(differences: list[int], width: int) -> list[float]:
    """S5.2: `f32` and `f16`."""
    bits, values = {4: 0x3F800000, 2: 0x3C00}[width], []
    for difference in differences:
        bits = (bits - difference) % 256**width
        values.append(float_of_bits(bits, width))
    require(values[0] > 0 and values == sorted(values, reverse=True), "values do not descend")
    require(all(math.copysign(1, value) > 0 for value in values), "a value is negative, or -0")
    require(math.fsum(values) <= 1 + 2.0**-8, "values add up to more than 1")
    return values


def decode_log8(differences: list[int], remainder: int, step: float, num_classes: int) -> tuple[list[float], float]:
    """S5.3: the values and the remainder of a crop."""
    q = [0]
    for difference in differences:
        q.append(q[-1] + difference)
    q_r = remainder + q[-1]
    require(q[-1] <= 255, "a value code is above 255")
    require(-math.floor(23 / step) <= q_r <= 255, "a remainder code is out of range")
    require(len(q) < num_classes or q_r == 255, "all classes are kept and something remains")
    e = [1.0] + [weight(code or 0.25, step) for code in q[1:]] + [weight(q_r, step)]
    Z = math.fsum(e)
    *values, remaining = [binary32(e_k / Z) for e_k in e]
    return values, remaining


def weight(code: float, step: float) -> float:
    return 0.0 if code == 255 else math.exp(-code * step)


def read_tails(fields: Fields, tail_width: int, num_images: int, most: int, num_classes: int) -> list[tuple[dict[int, int], int]]:
    """S6: the levels of the listed classes of each image, and its floor."""
    sizes = fields.planes(num_images, 2)
    require(num_images * max(sizes) <= 4194304, "too many images for the longest tail")
    floors = fields.column("B", num_images)
    levels = split(fields.column("B", sum(sizes)), sizes)
    differences = split(fields.planes(sum(sizes), tail_width), sizes)
    tails = []
    for floor, of_classes, steps in zip(floors, levels, differences, strict=True):
        classes = list(accumulate(steps))
        require(len(classes) <= most, "a tail lists too many classes")
        require(all(c < num_classes for c in classes), "a class of a tail is not below C")
        require(len(set(classes)) == len(classes), "a class stands twice in a tail")
        require(255 not in of_classes, "a level is 255")
        tails.append((dict(zip(classes, of_classes, strict=True)), floor))
    return tails


def read_full_tails(fields: Fields, num_images: int, num_classes: int) -> tuple[list[list[float]], list[tuple[list[int], int]]]:
    """S6.2: the weights of each image where x = 0; the slopes and the main class."""
    require(num_images * num_classes <= 4194304, "too many images for tails of all classes")
    main_classes = fields.planes(num_images, 2)
    require(max(main_classes) < num_classes, "a main class is not below C")
    codes = split(fields.column("B", num_images * num_classes), [num_classes] * num_images)
    slopes = [[code % 8 - 4 for code in of_classes] for of_classes in codes]
    levels = [[code // 8 for code in of_classes] for of_classes in codes]
    tails = []
    for pair in zip(levels, slopes, strict=True):
        e = [math.exp(-0.5 * (level - slope * -1.5)) for level, slope in zip(*pair, strict=True)]
        total = math.fsum(e)
        tails.append([e_c / total for e_c in e])
    return tails, list(zip(slopes, main_classes, strict=True))


def tail_weights(levels: dict[int, int], floor: int, num_classes: int) -> list[float]:
    """S6: tail_c for all C classes."""
    e = [weight(floor, 0.5)] * num_classes
    for c, level in levels.items():
        e[c] = weight(level, 0.5)
    total = math.fsum(e)
    return [e_c / total if total else 0.0 for e_c in e]


def read_fields(fields: Fields, class_width: int, num_classes: int, crops_of_images: list[int]) -> list[Field | None]:
    """F2: the field of each image."""
    n = len(crops_of_images)
    counts = fields.planes(n, 2)
    require(max(8 * n, sum(crops_of_images)) * max(counts) <= 4194304, "too many images or crops for the longest field")
    require(all(1 <= count < num_classes for count in counts), "no class is listed, or all are")
    fitted, unseen = fields.column("B", n), fields.column("B", n)
    of_images = split(fields.planes(sum(counts), class_width), counts)
    levels, masks = split(fields.column("B", sum(counts)), counts), split(fields.column("B", sum(counts)), counts)
    require(all(mask < 128 for of_image in masks for mask in of_image), "bit 7 of a mask")
    slopes = fields.column("b", sum(mask.bit_count() for of_image in masks for mask in of_image))
    require(0 not in slopes, "a stored slope is 0")
    stored = iter(slopes)
    found: list[Field | None] = []
    for image in range(n):
        classes = list(accumulate(of_images[image]))
        require(all(c < num_classes for c in classes), "a class of a field is not below C")
        require(len(set(classes)) == len(classes), "a class stands twice in a field")
        numbers = {
            c: [level, *(next(stored) if mask >> k & 1 else 0 for k in range(7))]
            for c, level, mask in zip(classes, levels[image], masks[image], strict=True)
        }
        found.append(Field(numbers, fitted[image], unseen[image]))
    return found


def features(crop: list, size: tuple[int, int]) -> list[float]:
    """F3: f_1 to f_7 of a crop of an image of that size, with its padding; (1, 1) if the crop is a fraction of it."""
    (top, left, height, width), (H, W) = crop, size
    t, b, l, r = (min(max(edge, 0.0), 1.0) for edge in (top / H, (top + height) / H, left / W, (left + width) / W))  # noqa: E741
    S = ((r - l) + (b - t) - 1.25) / 0.35
    X, Y = (l + r - 1) / 0.25, (t + b - 1) / 0.25
    D = ((r - l) - (b - t)) / 0.2
    F = [S, X, Y, D, 0.75 * (S * S - 1), 0.75 * (X * X - 1), 0.75 * (Y * Y - 1)]
    return [round(F_k * 2**20) / 2**20 for F_k in F]


def field_label(of_image: Field, crop: list, size: tuple[int, int], codec: Codec, num_classes: int) -> tuple[list[int], list[float], float]:
    """F4: the listed classes, in the order of conformance, their values, and the remainder."""
    f = features(crop, size)
    logits = {c: codec.step * (v + sum(s_k * f_k for s_k, f_k in zip(s, f, strict=True))) for c, (v, *s) in of_image.numbers.items()}
    m = max(0.0, *logits.values())
    powers = {c: math.exp(z - m) for c, z in logits.items()}
    rest = (num_classes - len(powers)) * math.exp(-m)
    Z = math.fsum(powers.values()) + rest
    classes = list(powers)
    first = max(range(len(classes)), key=lambda place: (logits[classes[place]], -place))
    classes[0], classes[first] = classes[first], classes[0]
    return classes, [binary32(powers[c] / Z) for c in classes], binary32(rest / Z)


def policy_of(codec: Codec) -> str:
    """S7: how the labels of a sparse codec are to be read."""
    return "tail" if codec.tail is not None else "renorm" if codec.name == "marginal_renorm" else "uniform"


def target(image: Image, crop: int, num_classes: int, policy: str) -> Callable[[int], float]:
    """S7: the function from a class to its target."""
    kept = dict(zip(image.indices[crop], image.values[crop], strict=True))
    remainder, tail = image.remainder[crop], image.tail
    if policy == "renorm":
        total = math.fsum(kept.values())
        return lambda c: kept.get(c, 0.0) / total
    if policy == "tail":
        if image.slopes is not None:  # exp(-0.5 (level - slope (3 x - 1.5))) is exp(1.5 slope x) times what it is where x = 0
            x = kept.get(image.main_class, 0.0)
            tail = [weight * math.exp(1.5 * slope * x) for weight, slope in zip(tail, image.slopes, strict=True)]
        Z = math.fsum(tail_c for c, tail_c in enumerate(tail) if c not in kept)
        if Z > 0:
            return lambda c: kept[c] if c in kept else remainder * tail[c] / Z
    return lambda c: kept[c] if c in kept else remainder / (num_classes - len(kept))


def dense_targets(vector: list[float], codec: Codec) -> list[float]:
    """D3: the targets of all classes."""
    return vector if codec.content == "probs" else softmax(vector)


# C6 to C10: keys, summary, index, copy, trailer


class Trailer(NamedTuple):
    """C10."""

    keys_offset: int
    summary_offset: int
    index_offset: int
    copy_offset: int
    file_length: int
    num_images: int
    num_blocks: int
    num_crops: int
    flags: int
    sha256: bytes


def read_trailer(data: bytes, blocks_offset: int) -> Trailer:
    require(data[-8:] == MAGIC and len(data) >= blocks_offset + 112, "file is unfinished or truncated", TruncatedError)
    *fields, trailer_crc32, _magic = struct.unpack("<8QI32sI8s", data[-112:])
    require(zlib.crc32(data[-112:-12]) == trailer_crc32, "trailer_crc32 differs")
    trailer = Trailer(*fields)
    require(trailer.file_length <= len(data), "file is shorter than file_length", TruncatedError)
    require(trailer.file_length == len(data), "file is longer than file_length")
    offsets = [blocks_offset, trailer.keys_offset, trailer.summary_offset, trailer.index_offset, trailer.copy_offset, len(data) - 112]
    require(offsets == sorted(offsets), "parts are not in order")
    require(trailer.flags & ~1 == 0, "unknown flags", UnknownFeatureError)
    require(trailer.num_images <= 4294967295, "num_images", LimitError)
    require(trailer.num_blocks <= trailer.num_images <= 256 * trailer.num_blocks, "num_blocks contradicts num_images")
    require(17 * trailer.num_blocks <= trailer.keys_offset - blocks_offset, "the blocks do not fit into their part")
    return trailer


def read_keys(part: bytes, trailer: Trailer) -> list[str]:
    """C6."""
    N = trailer.num_images
    P, Q = -(-N // 512), 0 if trailer.flags & 1 else -(-N // 4096)
    fields = Fields(part)
    table_crc32 = fields.number("I")
    table = fields.take(8 * (P + Q))
    require(zlib.crc32(table) == table_crc32, "table_crc32 differs")
    limits = [(2 + 4096) * (min(N, 512 * p + 512) - 512 * p) for p in range(P)] + [
        4 * (min(N, 4096 * q + 4096) - 4096 * q) for q in range(Q)
    ]
    pages = []
    for (length, crc32), limit in zip(struct.iter_unpack("<II", table), limits, strict=True):
        page = fields.take(length)
        require(zlib.crc32(page) == crc32, "CRC-32 of a page differs")
        pages.append(Fields(decompress(page, limit)))
    fields.end()
    keys, order = [], []
    for p in range(P):
        lengths = pages[p].column("H", min(N, 512 * p + 512) - 512 * p)
        keys += [pages[p].take(length) for length in lengths]
    for q in range(Q):
        order += pages[P + q].column("I", min(N, 4096 * q + 4096) - 4096 * q)
    for page in pages:
        page.end()
    require(len(set(keys)) == N, "a key stands twice")
    ascending = sorted(range(N), key=lambda i: keys[i])
    require(ascending == (list(range(N)) if trailer.flags & 1 else order), "order of the keys")
    return [decode_key(key) for key in keys]


def read_summary(part: bytes, keys: list[str]) -> dict[str, Any]:
    """C7."""
    fields = Fields(part)
    summary_crc32 = fields.number("I")
    require(len(part) - 4 <= 268435456, "length of the summary", LimitError)
    require(zlib.crc32(part[4:]) == summary_crc32, "summary_crc32 differs")
    summary = unpack_map(part[4:])
    sha256 = hashlib.sha256(b"".join(struct.pack("<I", len(key.encode())) + key.encode() for key in keys))
    require(summary.get("keys_sha256") == sha256.hexdigest(), "keys_sha256 differs")
    skipped = summary.get("skipped_keys", [])
    require(isinstance(skipped, list) and all(isinstance(key, str) for key in skipped), "skipped_keys")
    return summary


def read_index(part: bytes, trailer: Trailer, blocks_length: int) -> tuple[list[int], list[int], list[int]]:
    """C8: `block_length`, `block_images` and the number of crops of each image."""
    index_crc32 = Fields(part).number("I")
    require(zlib.crc32(part[4:]) == index_crc32, "index_crc32 differs")
    fields = Fields(decompress(part[4:], 6 * trailer.num_blocks + 2 * trailer.num_images))
    block_length, block_images = fields.column("I", trailer.num_blocks), fields.column("H", trailer.num_blocks)
    counts = [number + 1 for number in fields.column("H", trailer.num_images)]
    fields.end()
    require(sum(block_length) == blocks_length, "the block lengths do not add up")
    require(sum(block_images) == trailer.num_images, "the images do not add up")
    require(sum(counts) == trailer.num_crops, "the crops do not add up")
    return block_length, block_images, counts


def read_copy(part: bytes) -> bytes:
    """C9: header and metadata."""
    return MAGIC + decompress(part, 24 + 16777216)


# Whole files


def read(data: bytes) -> File:
    """A finished file, everything checked."""
    metadata, metadata_crc32, blocks_offset = read_metadata(data)
    trailer = read_trailer(data, blocks_offset)
    block_length, block_images, counts = read_index(
        data[trailer.index_offset : trailer.copy_offset], trailer, trailer.keys_offset - blocks_offset
    )
    keys = read_keys(data[trailer.keys_offset : trailer.summary_offset], trailer)
    summary = read_summary(data[trailer.summary_offset : trailer.index_offset], keys)
    images: list[Image] = []
    at = blocks_offset
    for number in range(trailer.num_blocks):
        payload = read_payload(data[at : at + block_length[number]], number, metadata_crc32)
        block = read_block(payload, metadata)
        require(len(block) == block_images[number], "number of images of a block differs from the index")
        images += block
        at += block_length[number]
    require([len(image.crops) for image in images] == counts, "numbers of crops differ from the index")
    require([image.key for image in images] == keys, "keys of the blocks differ from the keys part")
    require(read_copy(data[trailer.copy_offset : -112]) == data[:blocks_offset], "the copy is not one of header and metadata")
    require(hashlib.sha256(data[:-112]).digest() == trailer.sha256, "sha256 differs")
    return File(metadata, summary, images)


def recover(data: bytes) -> list[Image]:
    """C10.1: the images of all whole blocks of a file, whatever is wrong with it."""
    metadata, metadata_crc32, at = any_metadata(data)
    images: list[Image] = []
    lowest = 0
    while (at := data.find(b"SLBK", at)) >= 0 and len(data) - at >= 16:
        number, payload_length = struct.unpack_from("<II", data, at + 4)
        try:
            payload = read_payload(data[at : at + 16 + payload_length], number, metadata_crc32)
            block = read_block(payload, metadata)
            require(number >= lowest, "number of a block")
            require(len({image.key for image in images + block}) == len(images) + len(block), "a key stands twice")
        except FormatError:
            at += 1
            continue
        images += block
        at, lowest = at + 16 + payload_length, number + 1
    return images


def any_metadata(data: bytes) -> tuple[dict[str, Any], int, int]:
    """C10.1: as `read_metadata`, from the copy if need be."""
    try:
        return read_metadata(data)
    except FormatError as error:
        try:
            trailer = read_trailer(data, 32)
            return read_metadata(read_copy(data[trailer.copy_offset : -112]))
        except FormatError:
            raise error from None


# L: label sets


def read_set(data: bytes, open_shard: Callable[[str], bytes]) -> File:
    """A label set, from its index and a function that returns the bytes of a file in the same folder; everything checked.

    The summary has the skipped keys of all shards.
    """
    index = parse_index(data)
    shards = [open_shard(shard["file"]) for shard in index["shards"]]
    metadata: dict[str, Any] = {}
    images: list[Image] = []
    skipped: list[str] = []
    for said, file in zip(index["shards"], shards, strict=True):
        require(len(file) == said["bytes"], "length of a shard", MismatchError)
        require(hashlib.sha256(file[-112:]).hexdigest() == said["fingerprint"], "fingerprint of a shard", MismatchError)
        found = read(file)
        metadata = metadata or found.metadata
        header_and_metadata = file[: read_metadata(file)[2]]
        require(shards[0].startswith(header_and_metadata), "header or metadata of a shard", MismatchError)
        for name in DESCRIBED + ("crop_sampler",) * (index["crops"] == "derived"):
            require(index.get(name) == found.metadata.get(name), f"{name} of a shard", MismatchError)
        require(hashlib.sha256(file).hexdigest() == said["sha256"], "sha256 of a shard")
        counts = [len(image.crops) for image in found.images]
        require((len(counts), sum(counts)) == (said["images"], said["crops"]), "numbers of images or crops of a shard")
        require(set(counts) <= {index.get("crops_per_image", count) for count in counts}, "crops_per_image of an image")
        keys = sorted(image.key.encode() for image in found.images)
        ends = [None if key is None else key.encode() for key in (said["first_key"], said["last_key"])]
        require(ends == ([keys[0], keys[-1]] if keys else [None, None]), "first_key or last_key of a shard")
        images += found.images
        skipped += found.summary.get("skipped_keys", [])
    require(len({image.key for image in images}) == len(images), "a key stands in two shards")
    return File(metadata, {"skipped_keys": skipped} if skipped else {}, images)


DESCRIBED = ("num_classes", "codec", "crops", "image_checksum", "padding", "metadata")


def parse_index(data: bytes) -> dict[str, Any]:
    """L2."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        require(len(dict(items)) == len(items), "an object of the index holds a key twice")
        return dict(items)

    def no_number(text: str) -> None:
        raise NotAContainerError(f"{text} is no number of JSON")

    require(len(data) <= 67108864, "length of the index", LimitError)
    try:
        index = json.loads(data.decode(), object_pairs_hook=pairs, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise NotAContainerError(f"the index is no JSON: {error}") from error
    require(isinstance(index, dict) and index.get("format") == "softlabel set", "not the index of a label set", NotAContainerError)
    require(type(index.get("major")) is int, "major")
    require(index["major"] == 1, "major version", NewerVersionError)
    require(type(index.get("minor")) is int, "minor")
    check_metadata(index)
    shards = index.get("shards")
    require(isinstance(shards, list) and len(shards) >= 1, "shards")
    require(len(shards) <= 100000, "number of shards", LimitError)
    for shard in shards:
        require(isinstance(shard, dict), "a shard is no object")
        check_shard(shard, index.get("crops_per_image"))
    require(len({shard["file"] for shard in shards}) == len(shards), "two shards have the same file")
    for name, of_shard in {"num_images": "images", "num_crops": "crops"}.items():
        require(type(index.get(name)) is int and index[name] == sum(shard[of_shard] for shard in shards), name)
    if "crops_per_image" in index:
        require(type(index["crops_per_image"]) is int and index["crops_per_image"] >= 1, "crops_per_image")
    fingerprints = b"".join(bytes.fromhex(shard["fingerprint"]) for shard in shards)
    require(index.get("fingerprint") == hashlib.sha256(fingerprints).hexdigest(), "fingerprint")
    return index


def check_shard(shard: dict[str, Any], crops_per_image: Any) -> None:
    """L2, the second table."""
    file = shard.get("file")
    require(isinstance(file, str) and file not in ("", ".", "..") and not set(file) & set("/\\\0"), "file of a shard")
    for name in ("bytes", "images", "crops"):
        require(type(shard.get(name)) is int and shard[name] >= 0, f"{name} of a shard")
    for name in ("sha256", "fingerprint"):
        require(isinstance(shard.get(name), str) and re.fullmatch("[0-9a-f]{64}", shard[name]) is not None, f"{name} of a shard")
    images, crops = shard["images"], shard["crops"]
    require(crops >= images and (crops == 0 or images > 0), "crops of a shard")
    require(crops_per_image is None or crops == images * crops_per_image, "crops of a shard against crops_per_image")
    require("first_key" in shard and "last_key" in shard, "keys of a shard are missing")
    first, last = shard["first_key"], shard["last_key"]
    if images == 0:
        require(first is None and last is None, "keys of a shard without images")
        return
    require(isinstance(first, str) and isinstance(last, str), "keys of a shard")
    try:
        require(first.encode() <= last.encode(), "keys of a shard are not in order")
    except UnicodeEncodeError as error:
        raise CorruptError("a key that UTF-8 cannot express") from error
