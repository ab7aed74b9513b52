"""The metadata section, which describes the labels of a file (spec/container-v1.md, section 4)."""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from softlabel_codec.block.crops import CROP_MODES, DERIVED
from softlabel_codec.block.layout import Layout
from softlabel_codec.checks.limits import MAX_CLASSES, MAX_METADATA_BYTES, MIN_CLASSES
from softlabel_codec.codec import Codec
from softlabel_codec.container.framing import PADDING_FEATURE
from softlabel_codec.container.msgpack_maps import Plain, pack_map, unpack_map
from softlabel_codec.errors import ArgumentError, CorruptError, LimitError, UnknownFeatureError
from softlabel_codec.padding import NO_PADDING, Padding
from softlabel_codec.views import Sampler, sampler_of

CHECKSUM = "crc32"
"""Kind of the checksums of images, if there are any."""


@dataclass(frozen=True)
class Description:
    """Everything that is needed to decode the blocks of a file, and the metadata of the caller.

    Attributes
    ----------
    num_classes : int
        C.
    codec : Codec
        How labels are made, stored and read.
    crops : str
        How crop coordinates are stored: `pixels`, `derived`, `fractions:f32` or `fractions:f16`.
    metadata : dict
        What the writer's caller passed.
    other : dict
        Further keys of the metadata section, including `writer`.
    sampler : CropSampler, AllViews or None
        Sampler of derived crops.
    image_checksums : bool
        Whether blocks hold the CRC-32 of each image's file.
    padding : Padding
        How images are enlarged before they are cropped.
    """

    num_classes: int
    codec: Codec
    crops: str
    metadata: Plain
    other: Plain = field(default_factory=dict)
    sampler: Sampler | None = None
    image_checksums: bool = False
    padding: Padding = NO_PADDING

    def __post_init__(self) -> None:
        if isinstance(self.num_classes, bool) or not hasattr(self.num_classes, "__index__"):
            raise ArgumentError(f"num_classes: expected an integer, got {self.num_classes!r}")
        object.__setattr__(self, "num_classes", operator.index(self.num_classes))
        if not MIN_CLASSES <= self.num_classes <= MAX_CLASSES:
            raise LimitError(f"num_classes: expected {MIN_CLASSES} to {MAX_CLASSES}, got {self.num_classes}")
        self.codec.check_classes(self.num_classes)
        if (self.sampler is not None) != (self.crops == DERIVED):
            raise ArgumentError(f"crops={self.crops!r}: expected a sampler with crops={DERIVED!r}, and only then")
        if self.crops not in CROP_MODES:
            raise ArgumentError(f"crops: expected one of {', '.join(CROP_MODES)}, got {reprlib.repr(self.crops)}")
        if not isinstance(self.padding, Padding):
            raise ArgumentError(f"padding: expected a Padding, got {self.padding!r}")
        if self.padding and self.crops.startswith("fractions"):
            raise ArgumentError(f"padding: expected crops='pixels' or {DERIVED!r}, got crops={self.crops!r}")

    @property
    def layout(self) -> Layout:
        """How the blocks are laid out."""
        return Layout(self.codec, self.num_classes, self.crops, self.sampler, self.image_checksums, self.padding)

    @property
    def incompatible_features(self) -> int:
        """Bits of the header that keep readers away that do not know what the file needs."""
        return PADDING_FEATURE if self.padding else 0

    @property
    def written_by(self) -> str:
        """Program that wrote the file, or `unknown`."""
        return str(self.other.get("writer", "unknown"))

    def values(self) -> Plain:
        """Return the keys of the metadata section that this package knows."""
        own: Plain = {"num_classes": self.num_classes, "codec": str(self.codec), "crops": self.crops, "metadata": self.metadata}
        if self.sampler is not None:
            own["crop_sampler"] = self.sampler.describe()
        if self.image_checksums:
            own["image_checksum"] = CHECKSUM
        if self.padding:
            own["padding"] = self.padding.describe()
        return own

    def pack(self) -> bytes:
        """Return the metadata section."""
        return pack_map({**self.values(), **self.other}, MAX_METADATA_BYTES)

    @classmethod
    def unpack(cls, data: bytes, incompatible_features: int = 0) -> Description:
        """Return the contents of a metadata section, in a file with these feature bits, or raise a FormatError."""
        values = unpack_map(data)
        if bool(incompatible_features & PADDING_FEATURE) != ("padding" in values):
            raise CorruptError("padding: the header and the metadata section do not agree on whether there is any")
        return cls.from_values(values)

    @classmethod
    def from_values(cls, given: Mapping[str, Any]) -> Description:
        """Return what the keys of a metadata section say, or raise a FormatError; unknown keys are kept in `other`."""
        values = dict(given)
        num_classes, codec, crops, metadata = (_take(values, name) for name in ("num_classes", "codec", "crops", "metadata"))
        _check_type("num_classes", num_classes, int)
        _check_type("codec", codec, str)
        _check_type("crops", crops, str)
        _check_type("metadata", metadata, dict)
        checksum = values.pop("image_checksum", "")
        _check_type("image_checksum", checksum, str)
        if checksum not in ("", CHECKSUM):
            raise UnknownFeatureError(f"image_checksum: expected {CHECKSUM!r}, got {reprlib.repr(checksum)}. Update softlabel_codec")
        padding = _padding(values, crops)
        try:
            sampler = sampler_of(_take(values, "crop_sampler")) if crops == DERIVED else None
            return cls(num_classes, Codec.parse(codec), crops, dict(metadata), values, sampler, bool(checksum), padding)
        except ArgumentError as error:
            raise UnknownFeatureError(str(error)) from None


def difference(found: Description, wanted: Description) -> str:
    """Return the first difference between two descriptions as text: `name: expected ..., found ...`."""
    for name in ("num_classes", "codec", "crops", "metadata", "sampler", "image_checksums", "padding", "other"):
        old, new = getattr(found, name), getattr(wanted, name)
        if old != new:
            return _map_difference(name, old, new) if isinstance(old, dict) else f"{name}: expected {new}, found {old}"
    return "metadata: the same values in another order"


def _map_difference(name: str, found: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> str:
    key = next(key for key in {**found, **wanted} if found.get(key) != wanted.get(key))
    old, new = found.get(key), wanted.get(key)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and all(isinstance(one, dict) for one in old + new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        return _map_difference(f"{name}[{key!r}]", old, new)
    return f"{name}[{key!r}]: expected {new!r}, found {old!r}"


def _padding(values: Plain, crops: str) -> Padding:
    """Take the padding out of the values of a metadata section."""
    if "padding" not in values:
        return NO_PADDING
    padding = Padding.from_description(values.pop("padding"))
    if crops.startswith("fractions"):
        raise CorruptError(f"padding: expected crops in pixels or derived, got {crops}")
    return padding


def _check_type(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CorruptError(f"{name}: expected {kind.__name__}, got {type(value).__name__}")


def _take(values: Plain, name: str) -> Any:
    if name not in values:
        raise CorruptError(f"the metadata section has no {name!r}")
    return values.pop(name)
