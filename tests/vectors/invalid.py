"""Invalid test vectors: files with exactly one defect each, all lengths and checksums right that are not the defect itself.

The name of a file begins with the error that a reader must report. Those in `invalid` are refused by everybody who reads all of the file;
those in `invalid-for-verifiers` by a verifier. Those in `unfinished` are what a killed writer leaves.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import tempfile
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgpack
import numpy as np
import zstandard
from dissect import Pieces, compressed

from softlabel_codec import AllViews, Codec, Padding, SoftLabelWriter, writer
from softlabel_codec.block.columns import Column, to_bits, to_planes
from softlabel_codec.block.layout import BlockImages, Layout
from softlabel_codec.checks import limits
from softlabel_codec.container.framing import BLOCK_HEAD, HEADER, TRAILER, Header
from softlabel_codec.container.summary import keys_sha256
from softlabel_codec.padding import NO_PADDING
from softlabel_codec.quantise.field import FieldCodes
from softlabel_codec.quantise.sparse import SparseCodes
from softlabel_codec.sampler import CropSampler
from softlabel_codec.views import sampler_of

REFUSED_FOLDER = Path(__file__).parents[2] / "spec" / "vectors" / "invalid"
VERIFIER_FOLDER = REFUSED_FOLDER.with_name("invalid-for-verifiers")
UNFINISHED_FOLDER = REFUSED_FOLDER.with_name("unfinished")
DAMAGED_FOLDER = REFUSED_FOLDER.with_name("damaged")

Make = Callable[[], bytes]
REFUSED: dict[str, Make] = {}
FOUND_BY_VERIFIERS: dict[str, Make] = {}
UNFINISHED: dict[str, tuple[Sequence[int], Make]] = {}
DAMAGED: dict[str, tuple[Sequence[int], Make]] = {}
FOLDERS = {REFUSED_FOLDER: REFUSED, VERIFIER_FOLDER: FOUND_BY_VERIFIERS}
RECOVERABLE = {UNFINISHED_FOLDER: UNFINISHED, DAMAGED_FOLDER: DAMAGED}
"""What a killed writer or a bad disk leaves: which blocks of the base `blocks` can be recovered, and how the file is made."""


def write_missing() -> None:
    """Write the vectors that are not there yet; what is there stays as it is."""
    for folder, cases in FOLDERS.items():
        folder.mkdir(exist_ok=True)
        for name, make in cases.items():
            if not (folder / f"{name}.slc").exists():
                (folder / f"{name}.slc").write_bytes(make())
    for folder, cases in RECOVERABLE.items():
        folder.mkdir(exist_ok=True)
        for name, (kept, make) in cases.items():
            path = folder / (f"{name}.slc.partial" if folder == UNFINISHED_FOLDER else f"{name}.slc")
            if not path.exists():
                path.write_bytes(make())
                path.with_name(f"{name}.json").write_text(json.dumps(recoverable(kept), indent=2) + "\n")


def recoverable(blocks: Sequence[int]) -> dict[str, Any]:
    """Return what a recoverer finds in these blocks of the base `blocks`."""
    whole = base("blocks")
    first = np.cumsum([0, *whole.block_images]).tolist()
    images = [image for block in blocks for image in range(first[block], first[block + 1])]
    keys = [key.decode() for key in Pieces.keys(whole)]
    crops = [whole.crops_minus_1[image] + 1 for image in images]
    return {"num_blocks": len(blocks), "keys": [keys[image] for image in images], "crops_of_images": crops}


# Sound files to spoil

SAMPLER = CropSampler(seed=7)
PADDING = Padding(4)
VIEWS = AllViews(28, 37)
"""An image of 20 x 30 pixels has four of these in its padding."""


def base(name: str) -> Pieces:
    """Return a sound file in pieces, to be changed."""
    return Pieces.split(_base(name))


@cache
def _base(name: str) -> bytes:
    codec, num_classes, crops, counts, keys, block_bytes = {
        "plain": ("marginal_smoothing:k=3", 10, "pixels", [2, 2, 3], "abc", 6144),
        "blocks": ("marginal_smoothing:k=3", 10, "pixels", [2, 2, 3], "abc", 1),
        "reverse": ("marginal_smoothing:k=3", 10, "pixels", [2, 2, 3], "cba", 6144),
        "counts": ("marginal_smoothing:t=0.1", 10, "pixels", [2, 2, 3], "abc", 6144),
        "f32": ("marginal_smoothing:k=3,values=f32", 10, "pixels", [2, 2, 3], "abc", 6144),
        "f16": ("marginal_smoothing:k=3,values=f16", 10, "pixels", [2, 2, 3], "abc", 6144),
        "all-classes": ("marginal_smoothing:k=4", 4, "pixels", [2, 2, 3], "abc", 6144),
        "palettes": ("marginal_smoothing:k=3", 1000, "pixels", [100], "a", 6144),
        "tail": ("marginal_smoothing:k=2,tail=3", 10, "pixels", [2, 2, 3], "abc", 6144),
        "tail-all": ("marginal_smoothing:k=2,tail=all,mean=log", 10, "pixels", [2, 2, 3], "abc", 6144),
        "derived": ("hard", 10, "derived", [2, 2, 3], "abc", 6144),
        "checksums": ("hard", 10, "pixels", [2, 2, 3], "abc", 6144),
        "fractions": ("hard", 10, "fractions:f32", [2, 2, 3], "abc", 6144),
        "dense": ("dense", 4, "pixels", [2, 2, 3], "abc", 6144),
        "field": ("field", 10, "pixels", [2, 2, 3], "abc", 6144),
        "logits": ("dense:values=f16,content=logits", 4, "pixels", [2, 2, 3], "abc", 6144),
        "log-vectors": ("dense:values=log8", 6, "pixels", [2, 2, 3], "abc", 6144),
        "padded": ("marginal_smoothing:k=3", 10, "pixels", [2, 2, 3], "abc", 6144),
        "views": ("hard", 10, "derived", [2, 2, 3], "abc", 6144),
    }[name]
    rng = np.random.default_rng(3)
    sampler = VIEWS if name == "views" else SAMPLER if crops == "derived" else None
    how = {"crops": crops, "sampler": sampler, "padding": PADDING if name in ("padded", "views") else NO_PADDING}
    with tempfile.TemporaryDirectory() as folder, patch.object(writer, "TARGET_BYTES_PER_BLOCK", block_bytes):
        path = Path(folder) / "a.slc"
        with SoftLabelWriter(path, num_classes, codec, **how, image_checksums=name == "checksums") as out:
            for key, count in zip(keys, counts, strict=True):
                geometry, flips = SAMPLER.sample(key, how["padding"].around((20, 30)), range(count))
                if crops == "fractions:f32":
                    geometry = (geometry / np.array([20, 30, 20, 30])).astype(np.float32)
                logits = rng.normal(0, 2, (count, num_classes)) + 12 * np.isin(
                    np.arange(num_classes), np.linspace(1, num_classes - 1, 5).astype(int)
                )
                powers = np.exp(logits)
                vectors = {"vectors": logits} if "logits" in codec else {"probs": powers / powers.sum(axis=1, keepdims=True)}
                place = {} if crops == "derived" else {"crops": geometry, "flips": flips}
                if name == "checksums":
                    place["image_crc32"] = count
                out.add(key, image_size=(20, 30), **place, **vectors)
        return path.read_bytes()


class Content:
    """The content of a block as columns, to be changed one at a time.

    Parameters
    ----------
    pieces : Pieces
        The file.
    block : int
        Which block of it.
    """

    def __init__(self, pieces: Pieces, block: int = 0) -> None:
        values = pieces.values()
        sampler = sampler_of(values["crop_sampler"]) if values["crops"] == "derived" else None
        padding = Padding.from_description(values["padding"]) if "padding" in values else NO_PADDING
        checksums = "image_checksum" in values
        self.layout = Layout(Codec.parse(values["codec"]), values["num_classes"], values["crops"], sampler, checksums, padding)
        self.images: BlockImages = self.layout.unpack_all(pieces.content(block))
        self._pieces, self._block = pieces, block
        self.columns: list[Column] = self.layout.pack(self.images)

    def field(self, name: str) -> int:
        return dict(zip(self.layout.fields.names, self.layout.fields.struct.unpack(self.columns[0].data), strict=True))[name]

    def set_field(self, name: str, value: int) -> Content:
        fields = self.layout.fields
        values = dict(zip(fields.names, fields.struct.unpack(self.columns[0].data), strict=True)) | {name: value}
        self.columns[0] = self.columns[0]._replace(data=fields.struct.pack(*values.values()))
        return self

    def places(self, name: str) -> list[int]:
        """Return where the columns of that name stand."""
        return [place for place, column in enumerate(self.columns) if column.name == name]

    def set_bytes(self, name: str, nth: int, first: int, data: bytes) -> Content:
        """Overwrite bytes of the nth column of that name, from a place on."""
        place = self.places(name)[nth]
        old = self.columns[place].data
        assert len(old) >= first + len(data)
        assert old[first : first + len(data)] != data
        self.columns[place] = self.columns[place]._replace(data=old[:first] + data + old[first + len(data) :])
        return self

    def set_column(self, name: str, nth: int, data: bytes) -> Content:
        """Replace the nth column of that name."""
        place = self.places(name)[nth]
        self.columns[place] = self.columns[place]._replace(data=data)
        return self

    def set_codes(self, **codes: object) -> Content:
        """Give the labels other codes, and pack them anew."""
        images = self.images
        changed = BlockImages(images.keys, images.sizes, images.num_crops, images.crops, images.flips, images.codes._replace(**codes))
        self.columns = self.layout.pack(changed)
        return self

    def set_image_column(self, nth: int, image: int, value: int) -> Content:
        """Set crops_minus_1 (0), image_height (1) or image_width (2) of an image."""
        at = 2 * (nth * len(self.images.keys) + image)
        return self.set_bytes("images", 0, at, struct.pack("<H", value))

    def join(self, more: bytes = b"") -> bytes:
        """Return the whole file with this content, and perhaps more bytes after it."""
        self._pieces.set_content(b"".join(column.data for column in self.columns) + more, self._block)
        return self._pieces.join()


def refused(error: str, name: str) -> Callable[[Make], Make]:
    """Note how a file with a defect is made that every reader refuses."""
    return _noting(REFUSED, f"{error}-{name}")


def found(error: str, name: str) -> Callable[[Make], Make]:
    """Note how a file with a defect is made that a verifier finds."""
    return _noting(FOUND_BY_VERIFIERS, f"{error}-{name}")


def _noting(cases: dict[str, Make], name: str) -> Callable[[Make], Make]:
    def note(make: Make) -> Make:
        assert name not in cases
        cases[name] = make
        return make

    return note


def case(error: str, name: str, make: Make) -> None:
    """Note a defect that takes one expression."""
    refused(error, name)(make)


def changed(name: str, **changes: object) -> bytes:
    """Return a base with attributes of its pieces replaced."""
    pieces = base(name)
    for attribute, value in changes.items():
        setattr(pieces, attribute, value)
    return pieces.join()


# Header

case("NotAContainerError", "another-format", lambda: b"PK\x03\x04" + _base("plain")[4:])
case("NotAContainerError", "magic-with-converted-line-ends", lambda: _base("plain").replace(b"\r\n", b"\n"))
case("NewerVersionError", "major-2", lambda: changed("plain", header={"major": 2}))
case("NewerVersionError", "major-2-and-a-short-header", lambda: Header(5, 0, major=2).pack()[:10])
case("CorruptError", "header-checksum", lambda: _base("plain")[:28] + bytes(4) + _base("plain")[32:])
case("UnknownFeatureError", "incompatible-feature", lambda: changed("plain", header={"incompatible_features": 1 << 5}))
case("LimitError", "no-metadata", lambda: Header(0, 0).pack() + _base("plain")[32:])
case("LimitError", "metadata-too-long", lambda: Header(2**24 + 1, 0).pack() + _base("plain")[32:])
case("TruncatedError", "empty", lambda: b"")
case("TruncatedError", "within-the-magic", lambda: _base("plain")[:5])
case("TruncatedError", "within-the-header", lambda: _base("plain")[:31])
case("TruncatedError", "within-the-metadata", lambda: _base("plain")[:60])

# Metadata

case("CorruptError", "metadata-checksum", lambda: changed("plain", header={"metadata_crc32": 1}))


def with_metadata(data: bytes, name: str = "plain") -> bytes:
    """Return a base with another metadata section."""
    return changed(name, metadata=data)


def with_values(name: str = "plain", **values: object) -> bytes:
    """Return a base with other values in its metadata section; `...` takes one out."""
    pieces = base(name)
    pieces.set_values(**values)
    return pieces.join()


def with_padding(name: str, padding: dict[str, object]) -> bytes:
    """Return a base with this padding in its metadata section, and the feature bit of padding."""
    pieces = base(name)
    pieces.set_values(padding=padding)
    pieces.header["incompatible_features"] = 1
    return pieces.join()


def nested(depth: int) -> list:
    """Return empty lists, each in the next, so many deep."""
    return [] if depth == 1 else [nested(depth - 1)]


def plain_metadata() -> bytes:
    return base("plain").metadata


case("CorruptError", "metadata-no-msgpack", lambda: with_metadata(b"\xc1"))
case("CorruptError", "metadata-followed-by-a-byte", lambda: with_metadata(plain_metadata() + b"\x00"))
case("CorruptError", "metadata-not-a-map", lambda: with_metadata(msgpack.packb([1, 2])))
case(
    "CorruptError",
    "metadata-key-twice",
    lambda: with_metadata(bytes([plain_metadata()[0] + 1]) + plain_metadata()[1:] + b"\xa5crops\xa6pixels"),
)
case("CorruptError", "metadata-key-no-str", lambda: with_metadata(bytes([plain_metadata()[0] + 1]) + plain_metadata()[1:] + b"\x01\x02"))
case("CorruptError", "metadata-binary-value", lambda: with_values(metadata={"a": b"x"}))
case("CorruptError", "metadata-float-not-finite", lambda: with_values(metadata={"a": math.inf}))
case("CorruptError", "metadata-extension-type", lambda: with_values(metadata={"a": msgpack.ExtType(5, b"x")}))
case(
    "CorruptError",
    "metadata-str-not-utf-8",
    lambda: with_metadata(bytes([plain_metadata()[0] + 1]) + plain_metadata()[1:] + b"\xa1a\xa1\xff"),
)
case("CorruptError", "metadata-nested-33-deep", lambda: with_values(more=nested(32)))
for _key in ("num_classes", "codec", "crops", "metadata"):
    case("CorruptError", f"without-{_key.replace('_', '-')}", lambda key=_key: with_values(**{key: ...}))
    case("CorruptError", f"{_key.replace('_', '-')}-of-another-type", lambda key=_key: with_values(**{key: True}))
case("LimitError", "one-class", lambda: with_values(num_classes=1))
case("LimitError", "too-many-classes", lambda: with_values(num_classes=2**31 + 1))
case("UnknownFeatureError", "codec-name", lambda: with_values(codec="soft"))
case("UnknownFeatureError", "codec-option", lambda: with_values(codec="marginal_smoothing:k=3,head=3"))
case("UnknownFeatureError", "codec-option-of-another-codec", lambda: with_values(codec="hard:k=3"))
case("UnknownFeatureError", "codec-option-twice", lambda: with_values(codec="marginal_smoothing:k=3,k=3"))
case("UnknownFeatureError", "codec-value-out-of-range", lambda: with_values(codec="marginal_smoothing:k=0"))
case("UnknownFeatureError", "codec-step-of-a-field-out-of-range", lambda: with_values("field", codec="field:step=0.09"))
case("UnknownFeatureError", "codec-cost-of-a-field-out-of-range", lambda: with_values("field", codec="field:cost=0.2"))
case("UnknownFeatureError", "codec-k-above-num-classes", lambda: with_values(codec="marginal_smoothing:k=11"))
case(
    "UnknownFeatureError",
    "codec-tail-all-of-65536-classes",
    lambda: with_values(codec="marginal_smoothing:k=3,tail=all", num_classes=65536),
)
case("UnknownFeatureError", "codec-mean-log-without-tail-all", lambda: with_values(codec="marginal_smoothing:k=3,tail=3,mean=log"))
case("UnknownFeatureError", "codec-values", lambda: with_values(codec="marginal_smoothing:k=3,values=f64"))
case("UnknownFeatureError", "codec-without-k-or-t", lambda: with_values(codec="marginal_smoothing"))
case("UnknownFeatureError", "codec-with-k-and-t", lambda: with_values(codec="marginal_smoothing:k=3,t=0.5"))
case("UnknownFeatureError", "codec-step-of-dense-above-2", lambda: with_values("log-vectors", codec="dense:values=log8,step=2.5"))
case("UnknownFeatureError", "codec-log8-of-features", lambda: with_values("log-vectors", codec="dense:values=log8,content=features"))
case("CorruptError", "image-checksum-of-another-type", lambda: with_values("checksums", image_checksum=True))
case("UnknownFeatureError", "image-checksum", lambda: with_values("checksums", image_checksum="xxh64"))
case("UnknownFeatureError", "crop-mode", lambda: with_values(crops="circles"))
case("CorruptError", "without-crop-sampler", lambda: with_values("derived", crop_sampler=...))
case("UnknownFeatureError", "crop-sampler-name", lambda: with_values("derived", crop_sampler={**SAMPLER.describe(), "name": "grid/1"}))
case("CorruptError", "crop-sampler-scale", lambda: with_values("derived", crop_sampler={**SAMPLER.describe(), "scale": [0.9, 0.1]}))
case("CorruptError", "all-views-of-height-0", lambda: with_values("views", crop_sampler={**VIEWS.describe(), "height": 0}))
case("CorruptError", "all-views-of-a-width-of-another-type", lambda: with_values("views", crop_sampler={**VIEWS.describe(), "width": 37.0}))
case("CorruptError", "all-views-flips-of-another-type", lambda: with_values("views", crop_sampler={**VIEWS.describe(), "flips": 1}))
case("CorruptError", "padding-without-its-feature-bit", lambda: changed("padded", header={}))
case("CorruptError", "feature-bit-of-padding-without-padding", lambda: changed("plain", header={"incompatible_features": 1}))
case("CorruptError", "padding-not-a-map", lambda: with_values("padded", padding=4))
case("CorruptError", "padding-with-fractions", lambda: with_padding("fractions", {"pixels": 4, "mode": "edge"}))
case("UnknownFeatureError", "padding-mode", lambda: with_padding("padded", {"pixels": 4, "mode": "wrap"}))
for _name, _padding in {
    "padding-without-mode": {"pixels": 4, "fill": [0, 0, 0]},
    "padding-mode-of-another-type": {"pixels": 4, "mode": 1},
    "padding-without-pixels": {"mode": "edge"},
    "padding-of-0-pixels": {"pixels": 0, "mode": "edge"},
    "padding-of-1025-pixels": {"pixels": 1025, "mode": "edge"},
    "padding-pixels-of-another-type": {"pixels": 4.0, "mode": "edge"},
    "padding-without-fill": {"pixels": 4, "mode": "constant"},
    "padding-fill-of-one-number": {"pixels": 4, "mode": "constant", "fill": 0},
    "padding-fill-of-two-numbers": {"pixels": 4, "mode": "constant", "fill": [0, 0]},
    "padding-fill-of-256": {"pixels": 4, "mode": "constant", "fill": [0, 256, 0]},
    "padding-fill-of-another-type": {"pixels": 4, "mode": "constant", "fill": [0, True, 0]},
}.items():
    case("CorruptError", _name, lambda padding=_padding: with_padding("padded", padding))

# Frames of blocks


def with_head(name: str = "plain", **head: object) -> bytes:
    """Return a base with another head of its first block."""
    return changed(name, heads={0: head})


def with_payload(payload: bytes) -> bytes:
    """Return a base with another payload of its only block."""
    return changed("plain", payloads=[payload])


def plain_content() -> bytes:
    return base("plain").content()


case("CorruptError", "block-marker", lambda: with_head(marker=b"SLBX"))
case("CorruptError", "block-checksum", lambda: with_head(block_crc32=1))
case("CorruptError", "block-of-another-number", lambda: with_head(number=1))
case("LimitError", "payload-length-0", lambda: with_head(payload_length=0))
case("LimitError", "payload-length-above-the-limit", lambda: with_head(payload_length=2**30 + 1))
case("CorruptError", "payload-length-is-not-that-of-the-index", lambda: with_head(payload_length=7))
case("CorruptError", "payload-is-no-zstd", lambda: with_payload(b"not a zstd frame at all"))
case("CorruptError", "payload-cut-off", lambda: with_payload(compressed(plain_content())[:-3]))
case("CorruptError", "payload-followed-by-a-byte", lambda: with_payload(compressed(plain_content()) + b"\x00"))
case("CorruptError", "payload-of-two-frames", lambda: with_payload(compressed(plain_content()) + compressed(b"more")))
case(
    "CorruptError",
    "payload-begins-with-a-skippable-frame",
    lambda: with_payload(b"\x50\x2a\x4d\x18\x01\0\0\0x" + compressed(plain_content())),
)
case("LimitError", "content-is-a-bomb", lambda: with_payload(compressed(bytes(2**24 + 2**22))))


@refused("CorruptError", "payload-without-content-size")
def _() -> bytes:
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    return with_payload(compressor.compress(plain_content()))


@refused("CorruptError", "payload-with-a-content-size-that-is-wrong")
def _() -> bytes:
    frame = bytearray(compressed(plain_content()))
    assert frame[4] == 0x20  # a single segment, whose content size is the next byte
    frame[5] += 1
    return with_payload(bytes(frame))


@refused("CorruptError", "payload-with-a-window-too-large")
def _() -> bytes:
    content = plain_content()
    header = b"\x28\xb5\x2f\xfd" + bytes([0xC0, (28 - 10) << 3]) + struct.pack("<Q", len(content))
    return with_payload(header + struct.pack("<I", len(content) << 3 | 1)[:3] + content)


@refused("CorruptError", "payload-with-a-dictionary")
def _() -> bytes:
    content = plain_content()
    header = b"\x28\xb5\x2f\xfd" + bytes([0x21, 7, len(content)])  # a single segment that names dictionary 7
    return with_payload(header + struct.pack("<I", len(content) << 3 | 1)[:3] + content)


@refused("CorruptError", "payload-checksum-of-zstd")
def _() -> bytes:
    frame = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(plain_content()))
    frame[-1] ^= 1
    return with_payload(bytes(frame))


@refused("CorruptError", "swapped-blocks")
def _() -> bytes:
    pieces = base("blocks")
    pieces.heads = {0: {"number": 1}, 1: {"number": 0}}
    pieces.payloads[0], pieces.payloads[1] = pieces.payloads[1], pieces.payloads[0]
    return pieces.join()


@refused("CorruptError", "block-of-another-file")
def _() -> bytes:
    pieces = base("plain")
    pieces.set_values(metadata={"another": "file"})
    length = len(pieces.payloads[0])
    other = base("plain").metadata
    crc32 = zlib.crc32(struct.pack("<III", zlib.crc32(other), 0, length) + pieces.payloads[0])
    pieces.heads = {0: {"block_crc32": crc32}}
    return pieces.join()


# Contents of blocks: images and crops


def with_content_cut(name: str, length: int) -> bytes:
    """Return a base whose only block ends early."""
    pieces = base(name)
    pieces.set_content(pieces.content()[:length])
    return pieces.join()


def with_plain_crops(first: Sequence[int], name: str = "plain") -> bytes:
    """Return a base whose crops are plain numbers: the first one these, the others whole images of 20 x 30 pixels."""
    content = Content(base(name))
    crops = np.array([first, *[(0, 0, 20, 30)] * 6])
    places = content.places("crops")
    data = b"".join(plane for column in crops.T for plane in to_planes(column, 2))
    content.columns = [column for place, column in enumerate(content.columns) if place not in places[1:]]
    content.columns[places[0]] = Column("crops", data)
    return content.set_field("crop_width", 8).join()


found("CorruptError", "content-longer-than-its-columns")(lambda: Content(base("plain")).join(b"\x00"))
case("CorruptError", "content-of-one-byte", lambda: with_payload(compressed(b"\x03")))
case("CorruptError", "content-shorter-than-its-checksums", lambda: with_content_cut("checksums", 31))
case("CorruptError", "block-without-images", lambda: Content(base("plain")).set_field("num_images", 0).join())
case(
    "CorruptError",
    "crop-of-height-0",
    lambda: Content(base("plain")).set_field("height_min", 0).set_column("crops", 0, bytes(7)).set_column("crops", 1, bytes(7)).join(),
)
case(
    "CorruptError",
    "crop-higher-than-its-image",
    lambda: Content(base("plain")).set_field("height_min", 21).set_field("height_max", 30).join(),
)
case("CorruptError", "height-max-below-height-min", lambda: Content(base("plain")).set_field("height_max", 0).join())
case("CorruptError", "no-crop-width-is-possible", lambda: Content(base("plain")).set_field("ratio_min", 65535).join())
case("CorruptError", "crop-beyond-the-right-side", lambda: Content(base("plain")).set_bytes("crops", -1, 0, b"\xff").join())
case("CorruptError", "crop-words-of-7-bytes", lambda: Content(base("plain")).set_field("crop_width", 7).join())
case("CorruptError", "crop-words-of-9-bytes", lambda: Content(base("plain")).set_field("crop_width", 9).join())
case("CorruptError", "crop-of-plain-numbers-beyond-the-right-side", lambda: with_plain_crops((0, 1, 1, 30)))
case("CorruptError", "crop-of-plain-numbers-of-height-0", lambda: with_plain_crops((0, 0, 0, 1)))
case("CorruptError", "crop-of-plain-numbers-beyond-the-padding", lambda: with_plain_crops((0, 1, 28, 38), "padded"))
case("CorruptError", "crop-beyond-the-padding", lambda: Content(base("padded")).set_bytes("crops", -1, 0, b"\xff").join())
case("CorruptError", "padded-image-without-pixels", lambda: Content(base("padded")).set_image_column(2, 1, 0).join())
case("CorruptError", "padded-image-too-large", lambda: Content(base("padded")).set_image_column(2, 1, 65528).join())
case("CorruptError", "all-views-of-an-image-without-pixels", lambda: Content(base("views")).set_image_column(1, 1, 0).join())
case("CorruptError", "more-crops-than-views", lambda: with_values("views", crop_sampler=AllViews(28, 38).describe()))
case("CorruptError", "crops-larger-than-the-padded-image", lambda: with_values("views", crop_sampler=AllViews(29, 37).describe()))
case("CorruptError", "derived-crops-checksum", lambda: Content(base("derived")).set_field("crops_crc32", 1).join())
case("CorruptError", "derived-crops-of-another-sampler", lambda: with_values("derived", crop_sampler=CropSampler(seed=8).describe()))
case("CorruptError", "derived-crops-of-an-image-without-pixels", lambda: Content(base("derived")).set_image_column(1, 1, 0).join())
case(
    "CorruptError",
    "fraction-not-finite",
    lambda: Content(base("fractions")).set_bytes("crops", 2, 0, b"\x80").set_bytes("crops", 3, 0, b"\x7f").join(),
)
case("CorruptError", "image-with-a-height-only", lambda: Content(base("fractions")).set_image_column(2, 0, 0).join())
found("CorruptError", "unused-flip-bit")(
    lambda: Content(base("plain")).set_bytes("flips", 0, 0, bytes([Content(base("plain")).columns[2].data[0] | 128])).join()
)


def hard_block(counts: list[int]) -> bytes:
    """Return a file of one block of `hard` labels with so many crops of each image."""
    return derived_block(counts, SparseCodes(np.ones((sum(counts), 1), np.int64), None, None))


def field_block(counts: list[int], listed: list[int], num_classes: int) -> bytes:
    """Return a file of one block of fields with so many crops, and so many listed classes, of each image."""
    classes = np.where(np.arange(max(listed)) < np.array(listed)[:, None], np.arange(max(listed)), -1)
    images = np.zeros(len(counts), np.int64)
    slopes = np.zeros((len(counts), 7, max(listed)), np.int64)
    codes = FieldCodes(classes, np.ones_like(classes), slopes, images, images, np.empty((0, 4)), images[:0])
    return derived_block(counts, codes, codec="field", num_classes=num_classes)


def derived_block(counts: list[int], codes: SparseCodes | FieldCodes, **values: Any) -> bytes:
    """Return a file of one block with so many derived crops of each image, and other values in its metadata."""
    pieces = base("derived")
    pieces.set_values(**values)
    known = pieces.values()
    layout = Layout(Codec.parse(known["codec"]), known["num_classes"], "derived", SAMPLER)
    keys = [f"{number:05d}" for number in range(len(counts))]
    sampled = [SAMPLER.sample(key, (2, 2), range(count)) for key, count in zip(keys, counts, strict=True)]
    crops, flips = (np.concatenate(parts) for parts in zip(*sampled, strict=True))
    images = BlockImages(keys, np.full((len(counts), 2), 2), np.array(counts), crops, flips, codes)
    pieces.set_content(b"".join(column.data for column in layout.pack(images)))
    pieces.block_images, pieces.crops_minus_1 = [len(counts)], [count - 1 for count in counts]
    encoded = [key.encode() for key in keys]
    lengths = np.array([len(key) for key in encoded], "<u2").tobytes()
    pieces.pages = [compressed(lengths + b"".join(encoded))]
    pieces.summary = msgpack.packb({"keys_sha256": sha256_of(encoded)})
    return pieces.join()


def sha256_of(keys: list[bytes]) -> str:
    """Return `keys_sha256` of keys."""
    return keys_sha256(keys)


@refused("CorruptError", "fewer-images-than-the-index-says")
def _() -> bytes:
    pieces = Pieces.split(hard_block([2, 2]))
    keys = [b"00000", b"00001", b"00002"]
    pieces.block_images, pieces.crops_minus_1 = [3], [1, 1, 0]
    pieces.pages, pieces.summary = [compressed(key_page(keys))], msgpack.packb({"keys_sha256": sha256_of(keys)})
    return pieces.join()


@found("CorruptError", "crops-of-images-are-not-those-of-the-index")
def _() -> bytes:
    return Content(base("plain")).set_image_column(0, 0, 2).set_image_column(0, 1, 0).join()


case("CorruptError", "65536-crops-in-a-block", lambda: hard_block([32768] * 2))

# Contents of blocks: labels

for _name, _base_name, _value in (
    ("palettes", "plain", 2),
    ("index_width", "plain", 5),
    ("count_width", "counts", 3),
    ("remainder_width", "plain", 3),
    ("tail_width", "tail", 5),
    ("class_width", "field", 5),
    ("palettes", "tail", 3),
):
    case(
        "CorruptError",
        f"{_name.replace('_', '-')}-{_value}",
        lambda name=_name, of=_base_name, value=_value: Content(base(of)).set_field(name, value).join(),
    )
case("CorruptError", "class-not-below-num-classes", lambda: Content(base("plain")).set_bytes("indices", 0, 4, b"\x0a").join())
case("CorruptError", "count-above-num-classes", lambda: Content(base("counts")).set_bytes("counts", 0, 0, b"\x0a").join())
case(
    "CorruptError",
    "rank-not-below-num-classes",
    lambda: Content(base("tail")).set_field("palettes", 2).set_bytes("indices", 0, 0, b"\x0a").join(),
)
case("CorruptError", "rank-beyond-the-palette", lambda: Content(base("palettes")).set_bytes("indices", 0, 0, b"\xc8").join())


@refused("CorruptError", "class-of-a-palette-not-below-num-classes")
def _() -> bytes:
    content = Content(base("palettes"))
    size = content.columns[content.places("palettes")[0]].data[0]
    return content.set_column("palettes", 2, to_bits(np.arange(1000, 1000 + size), 10)).join()


@refused("CorruptError", "more-crops-times-classes-than-allowed")
def _() -> bytes:
    counts = [60000] + [1] * 280
    pieces = Pieces.split(_base("counts"))
    pieces.set_values(num_classes=60000, codec="marginal_smoothing:t=0.00004,values=f16")
    layout = Layout(Codec.parse("marginal_smoothing:t=0.00004,values=f16"), 60000)
    indices = np.where(np.arange(60000) < np.array(counts)[:, None], np.arange(60000), -1)
    one = int(np.float16(1).view(np.uint16))
    values = np.full(indices.shape, one - int(np.float16(1 / 60000).view(np.uint16)))
    crops, flips = np.tile([0, 0, 1, 1], (len(counts), 1)), np.zeros(len(counts), bool)
    images = BlockImages(["a"], np.array([[1, 1]]), np.array([len(counts)]), crops, flips, SparseCodes(indices, values, None))
    pieces.set_content(b"".join(column.data for column in layout.pack(images)))
    pieces.block_images, pieces.crops_minus_1 = [1], [len(counts) - 1]
    pieces.pages = [compressed(b"\x01\x00a")]
    pieces.summary = msgpack.packb({"keys_sha256": sha256_of([b"a"])})
    return pieces.join()


@refused("CorruptError", "content-of-billions-of-entries")
def _() -> bytes:
    pieces = Pieces.split(hard_block([65535]))
    pieces.set_values(codec="marginal_smoothing:k=65535", num_classes=65536)
    content = pieces.content()
    fields = struct.pack("<HIBBhB", 1, int.from_bytes(content[2:6], "little"), 0, 2, 0, 0)
    pieces.set_content(fields + content[8:])  # as long as the labels of `hard`
    return pieces.join()


@refused("CorruptError", "index-width-0-with-10-entries")
def _() -> bytes:
    pieces = base("plain")
    pieces.set_values(codec="marginal_smoothing:k=10", num_classes=11)
    images = Content(base("plain")).images
    layout = Layout(Codec.parse("marginal_smoothing:k=10"), 11)
    rows = len(images.flips)
    codes = SparseCodes(np.tile(np.arange(10), (rows, 1)), np.zeros((rows, 10), np.int64), np.full(rows, 255))
    columns = layout.pack(BlockImages(images.keys, images.sizes, images.num_crops, images.crops, images.flips, codes))
    fields = dict(zip(layout.fields.names, layout.fields.struct.unpack(columns[0].data), strict=True))
    fields |= {"palettes": 1, "index_width": 0}
    keys = columns.pop()
    columns = [column for column in columns if column.name not in ("indices", "palettes")]
    columns[0] = columns[0]._replace(data=layout.fields.struct.pack(*fields.values()))
    palettes = b"".join(to_planes(np.full(3, 11), 2)) + to_bits(np.tile(np.arange(11), 3), 4)
    pieces.set_content(b"".join(column.data for column in columns) + palettes + keys.data)
    return pieces.join()


case("CorruptError", "all-classes-kept-and-a-remainder", lambda: Content(base("all-classes")).set_codes(remainders=np.full(7, 200)).join())
case("CorruptError", "value-not-finite", lambda: Content(base("f32")).set_codes(values=with_first_value(0x7FC00000)).join())
case("CorruptError", "value-negative", lambda: Content(base("f32")).set_codes(values=with_last_value(0x80000001)).join())
case("CorruptError", "value-above-the-one-before-it", lambda: Content(base("f32")).set_codes(values=with_last_value(0x3F7FFFFF)).join())
case(
    "CorruptError",
    "top-value-0",
    lambda: Content(base("f32")).set_codes(values=np.full_like(Content(base("f32")).images.codes.values, 0x3F800000)).join(),
)


def with_first_value(bits: int) -> np.ndarray:
    """Return the value codes of the f32 base, with other bits of the top value of the first crop."""
    values = Content(base("f32")).images.codes.values.copy()
    values[0, 0] = (0x3F800000 - bits) % 2**32
    return values


def with_last_value(bits: int) -> np.ndarray:
    """Return the value codes of the f32 base, with other bits of the last value of the first crop."""
    values = Content(base("f32")).images.codes.values.copy()
    values[0, -1] = (0x3F800000 - bits) % 2**32
    return values


case(
    "CorruptError",
    "log8-code-above-255",
    lambda: Content(base("plain")).set_column("values", 0, b"\xff\x01" * 7).join(),
)
case("CorruptError", "log8-remainder-above-255", lambda: Content(base("plain")).set_field("remainder_base", 300).join())
case("CorruptError", "log8-remainder-below-its-range", lambda: Content(base("plain")).set_field("remainder_base", -400).join())
case("CorruptError", "tail-with-a-class-not-below-num-classes", lambda: tail_file([[3, 10]], [[1, 1]]))
case("CorruptError", "tail-with-a-level-of-255", lambda: tail_file([[3, 5]], [[1, 255]]))
case("CorruptError", "tail-of-too-many-classes", lambda: tail_file([[3, 4, 5, 6]], [[1, 1, 1, 1]]))
case("CorruptError", "tail-with-a-class-twice", lambda: tail_file([[3, 3]], [[1, 1]]))


@refused("CorruptError", "more-images-times-listed-classes-than-allowed")
def _() -> bytes:
    probs = np.full((1, 64529), 0.5 / 64528)
    probs[:, 0] = 0.5
    crops = {"image_size": (1, 1), "crops": [[0, 0, 1, 1]], "flips": [False]}
    with tempfile.TemporaryDirectory() as folder, patch.object(limits, "MAX_TABLE_ENTRIES", 2**30):
        path = Path(folder) / "a.slc"
        with SoftLabelWriter(path, 64529, "marginal_smoothing:k=1,tail=64528") as out:
            for number in range(65):
                out.add(f"{number}", probs=np.eye(1, 64529) if number < 64 else probs, **crops)
        return path.read_bytes()


@refused("CorruptError", "tail-with-a-main-class-not-below-num-classes")
def _() -> bytes:
    return Content(base("tail-all")).set_bytes("tails", 0, 1, b"\x0a").join()


@refused("CorruptError", "more-images-times-all-classes-than-allowed")
def _() -> bytes:
    crops = {"image_size": (1, 1), "crops": [[0, 0, 1, 1]], "flips": [False]}
    large = patch.object(writer, "TARGET_BYTES_PER_BLOCK", 2**30), patch.object(limits, "MAX_TABLE_ENTRIES", 2**30)
    with tempfile.TemporaryDirectory() as folder, large[0], large[1]:
        path = Path(folder) / "a.slc"
        with SoftLabelWriter(path, 65535, "marginal_smoothing:k=1,tail=all") as out:
            for number in range(65):
                out.add(f"{number}", probs=np.eye(1, 65535), **crops)
        return path.read_bytes()


def tail_file(classes: list[list[int]], levels: list[list[int]]) -> bytes:
    """Return a file of one image with this tail, without palettes."""
    pieces = base("tail")
    content = Content(pieces)
    assert content.field("palettes") == 0
    images = len(content.images.keys)
    tails = content.places("tails")
    sizes = [len(classes[0])] + [0] * (images - 1)
    steps = np.diff(classes[0], prepend=0)
    data = b"".join(to_planes(np.array(sizes), 2)) + b"\x05" * images + bytes(levels[0]) + bytes(steps.tolist())
    columns = [column for place, column in enumerate(content.columns) if place not in tails]
    keys = columns.pop()
    content.columns = [*columns, Column("tails", data), keys]
    return content.set_field("tail_width", 1).join()


def without_classes() -> bytes:
    """Return a file of fields none of which lists a class."""
    content = Content(base("field"))
    kept = [column for column in content.columns if column.name not in ("classes", "levels", "masks", "slopes")]
    content.columns = [Column("counts", bytes(len(column.data))) if column.name == "counts" else column for column in kept]
    return content.join()


def field_file(classes: list[int], masks: Sequence[int] = (), slopes: bytes = b"") -> bytes:
    """Return a file of three images, of which the first lists these classes and the others one; masks are 0 unless they are given."""
    content = Content(base("field"))
    listed = [*classes, 1, 1]
    columns = {
        "counts": b"".join(to_planes(np.array([len(classes), 1, 1]), 2)),
        "fit": bytes(6),
        "classes": bytes([*np.diff(classes, prepend=0).tolist(), 1, 1]),
        "levels": b"\x05" * len(listed),
        "masks": bytes([*masks, *[0] * (len(listed) - len(masks))]),
        "slopes": slopes,
    }
    first = content.places("counts")[0]
    others = [column for column in content.columns if column.name not in columns]
    content.columns = [*others[:first], *(Column(name, data) for name, data in columns.items()), others[-1]]
    assert len(others) == first + 1
    return content.set_field("class_width", 1).join()


case("CorruptError", "field-with-a-class-not-below-num-classes", lambda: field_file([3, 10]))
case("CorruptError", "field-with-a-class-twice", lambda: field_file([3, 3]))
case("CorruptError", "field-without-a-class", lambda: field_file([]))
case("CorruptError", "field-of-all-classes", lambda: field_file(list(range(10))))
case("CorruptError", "fields-without-any-class", without_classes)
case("CorruptError", "field-with-bit-7-of-a-mask", lambda: field_file([3, 5], [0, 128], b"\x01"))
case("CorruptError", "field-with-a-slope-of-0", lambda: field_file([3, 5], [1, 2], b"\x01\x00"))
case("CorruptError", "field-shorter-than-its-slopes", lambda: field_file([3, 5], [127, 127], b""))
case("CorruptError", "more-images-times-classes-of-a-field-than-allowed", lambda: field_block([1] * 9, [65535] + [1] * 8, 70000))
case("CorruptError", "more-crops-times-classes-of-a-field-than-allowed", lambda: field_block([65535], [65], 70))
case("CorruptError", "dense-number-not-finite", lambda: Content(base("logits")).set_bytes("values", 1, 0, b"\x7e").join())
case("CorruptError", "value-minus-0", lambda: Content(base("f32")).set_codes(values=with_last_value(0x80000000)).join())
case("CorruptError", "values-add-up-to-more-than-1", lambda: Content(base("f32")).set_codes(values=with_first_value(0x7149F2CA)).join())
case("CorruptError", "dense-probability-negative", lambda: Content(base("dense")).set_bytes("values", 3, 0, b"\xbf").join())


@refused("CorruptError", "dense-probabilities-that-add-up-to-2")
def _() -> bytes:
    content = Content(base("dense"))
    bits = (content.images.codes.view(np.float32) * np.float32(2)).view(np.uint32)
    images = content.images
    changed_images = BlockImages(images.keys, images.sizes, images.num_crops, images.crops, images.flips, bits)
    content.columns = content.layout.pack(changed_images)
    return content.join()


for _field, _width in (("profile_width", 0), ("profile_width", 3), ("count_width", 5), ("exception_width", 0), ("exception_width", 3)):
    case(
        "CorruptError",
        f"dense-{_field.replace('_', '-')}-{_width}",
        lambda field=_field, width=_width: Content(base("log-vectors")).set_field(field, width).join(),
    )
case("CorruptError", "dense-shift-9", lambda: Content(base("log-vectors")).set_bytes("profiles", 1, 2, b"\x09").join())


@refused("CorruptError", "dense-exceptions-of-another-crop")
def _() -> bytes:
    content = Content(base("log-vectors"))
    counts = list(content.columns[content.places("values")[1]].data)
    more, fewer = counts.index(max(counts)), counts.index(min(counts))
    counts[more], counts[fewer] = counts[more] - 1, counts[fewer] + 1
    return content.set_column("values", 1, bytes(counts)).join()


@found("CorruptError", "dense-unused-digit")
def _() -> bytes:
    content = Content(base("log-vectors"))
    last = content.columns[content.places("values")[0]].data[1]
    return content.set_bytes("values", 0, 1, bytes([last | 0x40])).join()


@found("CorruptError", "class-twice-in-a-crop")
def _() -> bytes:
    content = Content(base("plain"))
    first = content.columns[content.places("indices")[0]].data[0]
    return content.set_bytes("indices", 0, 1, bytes([first])).join()


@found("CorruptError", "class-twice-in-a-palette")
def _() -> bytes:
    content = Content(base("palettes"))
    low = content.places("palettes")[0]
    size = content.columns[low].data[0]
    classes = np.arange(size)
    classes[-1] = classes[0]
    return content.set_column("palettes", 2, to_bits(classes, 10)).join()


@found("CorruptError", "unused-bit-of-the-palettes")
def _() -> bytes:
    content = Content(base("palettes"))
    bits = content.columns[content.places("palettes")[2]].data
    size = content.columns[content.places("palettes")[0]].data[0]
    assert size * 10 % 8
    return content.set_bytes("palettes", 2, len(bits) - 1, bytes([bits[-1] | 128])).join()


# Keys in blocks


def with_block_keys(data: bytes) -> bytes:
    """Return a base with other bytes for the keys in its block."""
    return Content(base("plain")).set_column("keys", 0, data).join()


FIRST_KEYS = b"\x00\x00\x01a\x00\x00\x01b"
assert b"".join([FIRST_KEYS, b"\x00\x00\x01c"]) == Content(base("plain")).columns[-1].data
found("CorruptError", "block-key-shares-more-than-there-is")(lambda: with_block_keys(FIRST_KEYS + b"\x01\x01\x01c"))
found("CorruptError", "block-key-varint-of-4-bytes")(lambda: with_block_keys(FIRST_KEYS + b"\x80\x80\x80\x00\x00\x01c"))
found("CorruptError", "block-key-empty")(lambda: with_block_keys(FIRST_KEYS + b"\x00\x00\x00"))
found("CorruptError", "block-key-of-4097-bytes")(lambda: with_block_keys(FIRST_KEYS + b"\x00\x00\x81\x20" + b"c" * 4097))
found("CorruptError", "block-key-not-utf-8")(lambda: with_block_keys(FIRST_KEYS + b"\x00\x00\x01\xff"))
found("CorruptError", "block-key-cut-off")(lambda: with_block_keys(FIRST_KEYS + b"\x00\x00\x02c"))
found("CorruptError", "block-key-is-not-that-of-the-keys-part")(lambda: with_block_keys(FIRST_KEYS + b"\x00\x00\x01d"))

# Keys


def key_page(keys: list[bytes]) -> bytes:
    """Return the content of a page of keys."""
    return np.array([len(key) for key in keys], "<u2").tobytes() + b"".join(keys)


def with_key_page(content: bytes) -> bytes:
    """Return a base with another content of its only page of keys."""
    return changed("plain", pages=[compressed(content)])


def page_table(name: str, length: int = 0, crc32: int = 0) -> bytes:
    """Return the page table of a base, with this added to the first entry."""
    first, *rest = ((len(page), zlib.crc32(page)) for page in base(name).pages)
    rows = [(first[0] + length, first[1] ^ crc32), *rest]
    return b"".join(struct.pack("<II", *row) for row in rows)


@refused("CorruptError", "page-table-checksum")
def _() -> bytes:
    data = bytearray(base("plain").join())
    (keys_offset,) = struct.unpack_from("<Q", data, len(data) - TRAILER.size)
    data[keys_offset] ^= 1
    pieces = Pieces.split(_base("plain"))
    end = len(data) - TRAILER.size
    fields = list(TRAILER.unpack(data[end:]))
    assert len(pieces.pages) == 1
    fields[9] = hashlib.sha256(data[:end]).digest()
    start = TRAILER.pack(*fields)[:-12]
    return bytes(data[:end]) + start + struct.pack("<I", zlib.crc32(start)) + bytes(data[-8:])


case("CorruptError", "page-checksum", lambda: changed("plain", page_table=page_table("plain", crc32=1)))
case("CorruptError", "page-longer-than-its-part", lambda: changed("plain", page_table=page_table("plain", length=50)))
case(
    "CorruptError",
    "pages-shorter-than-their-part",
    lambda: changed("plain", page_table=page_table("plain"), pages=[*base("plain").pages, b"more"]),
)
case("CorruptError", "page-is-no-zstd", lambda: changed("plain", pages=[b"not a zstd frame"]))
case("LimitError", "page-of-keys-too-large", lambda: with_key_page(bytes(512 * 4098 + 1)))
case("CorruptError", "key-lengths-do-not-add-up", lambda: with_key_page(key_page([b"a", b"b", b"c"]) + b"d"))
case("CorruptError", "page-of-keys-shorter-than-its-lengths", lambda: with_key_page(b"\x01\x00\x01"))
case("CorruptError", "key-empty", lambda: with_key_page(key_page([b"", b"b", b"c"])))
case("CorruptError", "key-of-4097-bytes", lambda: with_key_page(key_page([b"a", b"b", b"c" * 4097])))
case("CorruptError", "key-not-utf-8", lambda: with_key_page(key_page([b"a", b"b", b"\xff"])))
case("CorruptError", "order-beyond-the-images", lambda: with_order([2, 1, 3]))
case("CorruptError", "page-of-order-too-short", lambda: with_order([2, 1]))
case("LimitError", "page-of-order-too-large", lambda: with_order([2, 1, 0, 0]))
found("CorruptError", "order-wrong")(lambda: with_order([1, 2, 0]))
found("CorruptError", "order-names-an-image-twice")(lambda: with_order([2, 2, 0]))
found("CorruptError", "keys-do-not-ascend-as-the-flag-says")(lambda: changed("reverse", flags=1, pages=base("reverse").pages[:1]))


def with_order(numbers: list[int]) -> bytes:
    """Return a base with another page of order."""
    return changed("reverse", pages=[base("reverse").pages[0], compressed(np.array(numbers, "<u4").tobytes())])


@found("CorruptError", "key-twice")
def _() -> bytes:
    pieces = Pieces.split(Content(base("plain")).set_column("keys", 0, FIRST_KEYS + b"\x01\x00\x00").join())
    keys = [b"a", b"b", b"b"]
    pieces.pages, pieces.summary = [compressed(key_page(keys))], msgpack.packb({"keys_sha256": sha256_of(keys)})
    return pieces.join()


# Summary, index, trailer


def with_summary(**values: object) -> bytes:
    """Return a base with other values in its summary; `...` takes one out."""
    now = msgpack.unpackb(base("plain").summary) | values
    return changed("plain", summary=msgpack.packb({name: value for name, value in now.items() if value is not ...}))


@refused("CorruptError", "summary-checksum")
def _() -> bytes:
    return reseal_part("summary_offset")


@refused("CorruptError", "index-checksum")
def _() -> bytes:
    return reseal_part("index_offset")


def reseal_part(offset_name: str) -> bytes:
    """Return a base with another checksum at the beginning of a part, and a trailer that knows of it."""
    data = bytearray(_base("plain"))
    end = len(data) - TRAILER.size
    fields = list(TRAILER.unpack(data[end:]))
    data[fields[{"summary_offset": 1, "index_offset": 2}[offset_name]]] ^= 1
    fields[9] = hashlib.sha256(data[:end]).digest()
    start = TRAILER.pack(*fields)[:-12]
    return bytes(data[:end]) + start + struct.pack("<I", zlib.crc32(start)) + bytes(data[-8:])


case("CorruptError", "summary-not-a-map", lambda: changed("plain", summary=msgpack.packb([1])))
case("CorruptError", "summary-without-keys-sha256", lambda: with_summary(keys_sha256=...))
case("CorruptError", "summary-keys-sha256-no-hex-digits", lambda: with_summary(keys_sha256="A" * 64))
case("CorruptError", "summary-skipped-keys-no-array", lambda: with_summary(skipped_keys="a.jpg"))
case("CorruptError", "summary-skipped-keys-no-str", lambda: with_summary(skipped_keys=[5]))
case("CorruptError", "summary-nested-33-deep", lambda: with_summary(more=nested(32)))
found("CorruptError", "keys-sha256")(lambda: with_summary(keys_sha256="0" * 64))


def plain_index() -> bytes:
    pieces = base("plain")
    return pieces._index([BLOCK_HEAD.size + len(pieces.payloads[0])])


def index_of(length: int = 0, images: list[int] | None = None, crops: list[int] | None = None) -> bytes:
    """Return the content of the index of the plain base, changed."""
    pieces = base("plain")
    pieces.block_images = images or pieces.block_images
    pieces.crops_minus_1 = crops or pieces.crops_minus_1
    return pieces._index([BLOCK_HEAD.size + len(pieces.payloads[0]) + length])


case("LimitError", "index-too-long", lambda: changed("plain", index=plain_index() + b"\x00"))
case("CorruptError", "index-too-short", lambda: changed("plain", index=plain_index()[:-1]))
case("CorruptError", "index-is-no-zstd", lambda: changed("plain", index_frame=b"not a zstd frame"))
case("CorruptError", "block-lengths-do-not-add-up", lambda: changed("plain", index=index_of(length=1)))
case("CorruptError", "images-do-not-add-up", lambda: changed("plain", index=index_of(images=[2])))
case("CorruptError", "crops-do-not-add-up", lambda: changed("plain", index=index_of(crops=[1, 1, 3])))


@refused("CorruptError", "index-with-a-block-without-images")
def _() -> bytes:
    return changed("blocks", block_images=[2, 0, 1])


@refused("CorruptError", "index-with-a-block-of-257-images")
def _() -> bytes:
    pieces = Pieces.split(hard_block([1] * 200))
    pieces.payloads = pieces.payloads * 2
    pieces.block_images, pieces.crops_minus_1 = [257, 143], [0] * 400
    keys = [f"{number:05d}".encode() for number in range(400)]
    pieces.pages, pieces.summary = [compressed(key_page(keys))], msgpack.packb({"keys_sha256": sha256_of(keys)})
    return pieces.join()


case("TruncatedError", "no-trailer", lambda: _base("plain")[: -TRAILER.size])
case("TruncatedError", "within-the-trailer", lambda: _base("plain")[:-1])
case("TruncatedError", "followed-by-a-byte", lambda: _base("plain") + b"\x00")
case("TruncatedError", "bytes-missing-before-the-trailer", lambda: _base("plain")[: -TRAILER.size - 9] + _base("plain")[-TRAILER.size :])
case("TruncatedError", "trailer-magic", lambda: changed("plain", trailer={"magic": b"\x89SLC\r\n\x1a\x0b"}))
case("CorruptError", "trailer-checksum", lambda: changed("plain", trailer={"trailer_crc32": 1}))
case("CorruptError", "bytes-added-before-the-trailer", lambda: _base("plain")[: -TRAILER.size] + bytes(9) + _base("plain")[-TRAILER.size :])
case("CorruptError", "file-length-too-small", lambda: changed("plain", trailer={"file_length": 300}))
case("TruncatedError", "file-length-too-large", lambda: changed("plain", trailer={"file_length": 2**40}))
case("CorruptError", "keys-before-the-blocks", lambda: changed("plain", trailer={"keys_offset": 20}))
case("CorruptError", "summary-before-the-keys", lambda: changed("plain", trailer={"summary_offset": HEADER.size}))
case("CorruptError", "index-beyond-the-file", lambda: changed("plain", trailer={"index_offset": 2**63}))
case("UnknownFeatureError", "trailer-flag", lambda: changed("plain", flags=3))
case("LimitError", "too-many-images", lambda: changed("plain", trailer={"num_images": 2**32}))
case("CorruptError", "more-blocks-than-images", lambda: changed("plain", trailer={"num_blocks": 4}))
case("CorruptError", "more-blocks-than-fit", lambda: changed("plain", trailer={"num_blocks": 2**31, "num_images": 2**31}))
case("CorruptError", "more-images-than-blocks-can-hold", lambda: changed("plain", trailer={"num_images": 257}))
case("CorruptError", "num-crops", lambda: changed("plain", trailer={"num_crops": 8}))
case("CorruptError", "copy-before-the-index", lambda: changed("plain", trailer={"copy_offset": HEADER.size}))
found("CorruptError", "copy-of-other-metadata")(lambda: changed("plain", copy_frame=compressed(base("f32").join()[:100])))
found("CorruptError", "copy-is-no-zstd")(lambda: changed("plain", copy_frame=b"not a zstd frame"))
found("LimitError", "copy-too-large")(lambda: changed("plain", copy_frame=compressed(bytes(2**24 + 25))))
found("CorruptError", "sha256")(lambda: changed("plain", trailer={"sha256": bytes(32)}))

# What a killed writer leaves


def blocks_end(blocks: int) -> int:
    """Return where so many blocks of the base `blocks` end."""
    pieces = base("blocks")
    return HEADER.size + len(pieces.metadata) + sum(BLOCK_HEAD.size + len(payload) for payload in pieces.payloads[:blocks])


def twice() -> bytes:
    """Return the blocks of the base `blocks`, of which the last has the key of the one before."""
    pieces = base("blocks")
    content = Content(pieces, 2)
    data = content.set_column("keys", 0, b"\x01\x00\x00").join()
    return data[: blocks_end(2) + BLOCK_HEAD.size + len(pieces.payloads[2])]


def flipped(data: bytes, place: int) -> bytes:
    """Return bytes of which one bit is another."""
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


UNFINISHED["key-twice"] = (0, 1), twice
UNFINISHED["no-block"] = (), lambda: _base("blocks")[: blocks_end(0)]
UNFINISHED["within-block-2"] = (0, 1), lambda: _base("blocks")[: blocks_end(2) + 30]
UNFINISHED["after-block-1"] = (0, 1), lambda: _base("blocks")[: blocks_end(2)]
UNFINISHED["garbage-after-block-1"] = (0, 1), lambda: _base("blocks")[: blocks_end(2)] + bytes(range(200))
UNFINISHED["damaged-block-2"] = (0, 1), lambda: flipped(_base("blocks")[: blocks_end(3)], blocks_end(2) + 20)
UNFINISHED["damaged-block-0"] = (1, 2), lambda: flipped(_base("blocks")[: blocks_end(3)], blocks_end(0) + 20)
UNFINISHED["damaged-length-of-block-1"] = (0, 2), lambda: flipped(_base("blocks")[: blocks_end(3)], blocks_end(1) + 9)
DAMAGED["CorruptError-header"] = (0, 1, 2), lambda: flipped(_base("blocks"), 30)
DAMAGED["NotAContainerError-magic"] = (0, 1, 2), lambda: flipped(_base("blocks"), 0)
DAMAGED["CorruptError-metadata"] = (0, 1, 2), lambda: flipped(_base("blocks"), 50)
DAMAGED["CorruptError-block-1"] = (0, 2), lambda: flipped(_base("blocks"), blocks_end(1) + 17)
DAMAGED["CorruptError-metadata-and-block-0"] = (1, 2), lambda: flipped(flipped(_base("blocks"), 50), blocks_end(0) + 5)
DAMAGED["CorruptError-trailer"] = (0, 1, 2), lambda: flipped(_base("blocks"), len(_base("blocks")) - 50)
DAMAGED["TruncatedError-no-end"] = (0, 1), lambda: _base("blocks")[: blocks_end(3) - 1]
