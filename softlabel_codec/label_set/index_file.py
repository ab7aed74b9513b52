"""The index of a label set: which shards it has, and how to know them again (spec/set-v1.md, section 2)."""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from softlabel_codec.checks.limits import MAX_SET_INDEX_BYTES, MAX_SHARDS
from softlabel_codec.container.metadata import Description
from softlabel_codec.errors import CorruptError, FormatError, LimitError, NewerVersionError, NotAContainerError

SUFFIX = ".slc.index.json"
FORMAT, MAJOR, MINOR = "softlabel set", 1, 0
_OF_THE_METADATA = ("num_classes", "codec", "crops", "metadata", "crop_sampler", "image_checksum", "padding")
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_MOST = 2**63


@dataclass(frozen=True)
class Shard:
    """What the index says of a shard.

    Attributes
    ----------
    file : str
        Its name in the folder of the index.
    bytes : int
        Length of the file.
    sha256 : str
        64 hex digits: SHA-256 of the whole file.
    fingerprint : str
        64 hex digits: SHA-256 of its trailer, as `SoftLabelReader.fingerprint`.
    images, crops : int
        How many it holds.
    first_key, last_key : str or None
        The smallest and the largest of its keys, in the order of their UTF-8 bytes; None if it holds no images.
    """

    file: str
    bytes: int
    sha256: str
    fingerprint: str
    images: int
    crops: int
    first_key: str | None
    last_key: str | None


@dataclass(frozen=True)
class SetIndex:
    """The index of a label set.

    Attributes
    ----------
    description : Description
        What the metadata sections of all shards say; without keys that this package does not know.
    shards : tuple of Shard
        At least one.
    crops_per_image : int or None
        Number of crops of every image; None if they have different numbers.
    """

    description: Description
    shards: tuple[Shard, ...]
    crops_per_image: int | None

    @property
    def num_images(self) -> int:
        """Number of images of all shards."""
        return sum(shard.images for shard in self.shards)

    @property
    def num_crops(self) -> int:
        """Number of crops of all shards."""
        return sum(shard.crops for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """64 hex digits that differ if anything in any shard differs."""
        return hashlib.sha256(b"".join(bytes.fromhex(shard.fingerprint) for shard in self.shards)).hexdigest()

    def pack(self) -> bytes:
        """Return the index file."""
        counts = {"num_images": self.num_images, "num_crops": self.num_crops}
        if self.crops_per_image is not None:
            counts["crops_per_image"] = self.crops_per_image
        values = {"format": FORMAT, "major": MAJOR, "minor": MINOR, **self.description.values(), **counts, "fingerprint": self.fingerprint}
        head = json.dumps(values, ensure_ascii=False, allow_nan=False, indent=1)
        shards = ",\n".join(f"  {json.dumps(asdict(shard), ensure_ascii=False)}" for shard in self.shards)
        return f'{head.removesuffix("}").rstrip()},\n "shards": [\n{shards}\n ]\n}}\n'.encode()

    @classmethod
    def unpack(cls, data: bytes) -> SetIndex:
        """Return the contents of an index file; FormatError if it is none, or is wrong."""
        values = _parse(data)
        if values.get("format") != FORMAT:
            raise NotAContainerError(f"format: expected {FORMAT!r}, got {reprlib.repr(values.get('format'))}: not the index of a label set")
        major = _whole(values, "major", 0)
        if major != MAJOR:
            raise NewerVersionError(f"expected version {MAJOR} of the index of a label set, got {major}. Update softlabel_codec")
        _whole(values, "minor", 0)
        shards = _shards(values)
        description = Description.from_values({name: values[name] for name in _OF_THE_METADATA if name in values})
        index = cls(description, shards, _crops_per_image(values, shards))
        found = {"num_images": index.num_images, "num_crops": index.num_crops, "fingerprint": index.fingerprint}
        for name, value in found.items():
            said = _take(values, name)
            if type(said) is not type(value) or said != value:
                raise CorruptError(f"{name}: expected {value}, as the shards add up to, got {reprlib.repr(said)}")
        return index


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_SET_INDEX_BYTES:
        raise LimitError(f"the index of a label set: expected at most {MAX_SET_INDEX_BYTES} bytes, got {len(data)}")
    try:
        values = json.loads(data.decode("utf-8"), object_pairs_hook=_without_repetition, parse_constant=_no_number)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise NotAContainerError(f"not the index of a label set, which is a JSON object: {error}") from None
    if not isinstance(values, dict):
        raise NotAContainerError(f"not the index of a label set: expected a JSON object, got {type(values).__name__}")
    return values


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise CorruptError("an object of the index of a label set holds a key twice")
    return values


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"expected a finite number, got {text}")


def _shards(values: Mapping[str, Any]) -> tuple[Shard, ...]:
    found = _take(values, "shards")
    if not isinstance(found, list) or not found:
        raise CorruptError(f"shards: expected an array of at least one shard, got {reprlib.repr(found)}")
    if len(found) > MAX_SHARDS:
        raise LimitError(f"shards: expected at most {MAX_SHARDS}, got {len(found)}")
    shards = []
    for number, entry in enumerate(found):
        try:
            shards.append(_shard(entry))
        except CorruptError as error:
            raise CorruptError(f"shard {number}: {error}") from None
    seen: set[str] = set()
    for number, shard in enumerate(shards):
        if shard.file in seen:
            raise CorruptError(f"shard {number}: file: {shard.file!r} is that of another shard")
        seen.add(shard.file)
    return tuple(shards)


def _shard(entry: object) -> Shard:
    if not isinstance(entry, dict):
        raise CorruptError(f"expected an object, got {type(entry).__name__}")
    file = _take(entry, "file")
    if not isinstance(file, str) or file in ("", ".", "..") or any(char in file for char in "/\\\0"):
        raise CorruptError(f"file: expected the name of a file in the folder of the index, got {reprlib.repr(file)}")
    length, images, crops = (_whole(entry, name, 0) for name in ("bytes", "images", "crops"))
    if crops < images or bool(crops) != bool(images):
        raise CorruptError(f"crops: expected at least one for each of {images} images, got {crops}")
    sha256, fingerprint = (_take(entry, name) for name in ("sha256", "fingerprint"))
    if not all(isinstance(digest, str) and _HEX.match(digest) for digest in (sha256, fingerprint)):
        raise CorruptError(f"sha256 and fingerprint: expected 64 hexadecimal digits, got {reprlib.repr((sha256, fingerprint))}")
    first, last = (_take(entry, name) for name in ("first_key", "last_key"))
    ordered = isinstance(first, str) and isinstance(last, str) and _utf8(first) <= _utf8(last)
    if not (ordered if images else first is None and last is None):
        raise CorruptError(f"first_key and last_key: expected those of {images} images, in order, got {reprlib.repr((first, last))}")
    return Shard(file, length, sha256, fingerprint, images, crops, first, last)


def _utf8(key: str) -> bytes:
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise CorruptError(f"expected keys that UTF-8 can express, got {reprlib.repr(key)}") from None


def _crops_per_image(values: Mapping[str, Any], shards: tuple[Shard, ...]) -> int | None:
    if "crops_per_image" not in values:
        return None
    number = _whole(values, "crops_per_image", 1)
    for place, shard in enumerate(shards):
        if shard.crops != shard.images * number:
            raise CorruptError(f"shard {place}: crops: expected {number} for each of {shard.images} images, got {shard.crops}")
    return number


def _take(values: Mapping[str, Any], name: str) -> Any:
    if name not in values:
        raise CorruptError(f"{name!r} is missing")
    return values[name]


def _whole(values: Mapping[str, Any], name: str, least: int) -> int:
    value = _take(values, name)
    if type(value) is not int or not least <= value < _MOST:
        raise CorruptError(f"{name}: expected an integer from {least}, got {reprlib.repr(value)}")
    return value
