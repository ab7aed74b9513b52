"""Whether sources belong together, and what the metadata of the copy say (spec/container-v1.md, section 4.1)."""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from softlabel_codec.checks.limits import MAX_METADATA_BYTES
from softlabel_codec.codec import Codec
from softlabel_codec.container.msgpack_maps import Plain, pack_map
from softlabel_codec.container.scan import Beginning
from softlabel_codec.errors import ArgumentError, LimitError, MismatchError
from softlabel_codec.quantise.transcoding import check_transcoding, stored_alike
from softlabel_codec.storage.location import Location
from softlabel_codec.version import PACKAGE
from softlabel_codec.views import NAME as ALL_VIEWS

IMAGES, CROPS, TRANSCODED, MERGED = "images", "crops_per_image", "transcoded_from", "merged_from"
TEMPERATURE = "temperature"
CHOICE = "codec_choice"
"""Metadata that say how the codec was chosen: only true of labels and crops as they were labelled."""
OWN = (IMAGES, CROPS, TRANSCODED, MERGED)
"""Metadata that a copy says itself."""
OF_THE_TEACHER = ("teacher", "teacher_output", "precision", "preprocessing")
"""Metadata that may differ if the caller insists."""
NOTED = (*OF_THE_TEACHER, "package", "libraries", TRANSCODED)
"""Metadata that are listed of each source where they differ."""
_SHOWN_CHARACTERS = 300
_LAYOUT = ("num_classes", "codec", "crops", "sampler", "image_checksums", "padding")


@dataclass(frozen=True)
class Changes:
    """What a copy changes beside the choice of images.

    Attributes
    ----------
    codec : Codec or None
        The codec that labels are stored in.
    crops : int or None
        How many crops are kept of each image at most.
    metadata : mapping
        Metadata that are set.
    dropped : tuple of str
        Metadata that are left out.
    force : bool
        Whether labels of different teachers are put together.
    """

    codec: Codec | None
    crops: int | None
    metadata: Mapping[str, Any]
    dropped: tuple[str, ...]
    force: bool

    @property
    def settled(self) -> frozenset[str]:
        """Names of metadata that are the caller's business."""
        return frozenset((*self.metadata, *self.dropped))

    @classmethod
    def of(
        cls, codec: str | Codec | None, crops: int | None, metadata: Mapping[str, Any] | None, dropped: str | Sequence[str], force: bool
    ) -> Changes:
        """Return the changes that the arguments of `copy_labels` describe."""
        parsed = Codec.parse(codec) if isinstance(codec, str) else codec
        values, names = dict(metadata or {}), (dropped,) if isinstance(dropped, str) else tuple(dropped)
        try:
            pack_map(values, MAX_METADATA_BYTES)
        except (ArgumentError, LimitError) as error:
            raise ArgumentError(f"metadata: {error}") from None
        own = next((name for name in values if name in OWN), None)
        if own is not None:
            raise ArgumentError(f"metadata: {own!r} is what a copy says itself; it can be dropped, but not set")
        both = next((name for name in names if name in values), None)
        if both is not None:
            raise ArgumentError(f"metadata: {both!r} is both set and dropped")
        return cls(parsed, crops, values, names, force)


@dataclass(frozen=True)
class Head:
    """A source as far as it must fit others.

    Attributes
    ----------
    path : Path or Url
        The source, for messages.
    beginning : Beginning
        Header and metadata of its files.
    """

    path: Location
    beginning: Beginning

    @property
    def metadata(self) -> Plain:
        """The metadata of the writer's caller."""
        return self.beginning.description.metadata

    @property
    def version(self) -> Plain:
        """What the header says beside lengths and checksums."""
        header = self.beginning.header
        return {"minor version": header.minor, "compatible_features": header.compatible_features}


def check_belonging(heads: Sequence[Head], changes: Changes) -> None:
    """Raise an error unless labels of all sources can stand in one file.

    Raises
    ------
    MismatchError
        If they do not belong together.
    ArgumentError
        If they cannot be changed in the way that is asked for.
    """
    for head in heads:
        _check_changes(head, changes)
        _check_layout(heads[0], head, changes)
        _check_metadata(heads[0], head, changes)
    there = {name for head in heads for name in head.metadata}
    unknown = next((name for name in changes.dropped if name not in there), None)
    if unknown is not None:
        raise ArgumentError(f"drop_metadata: expected one of {', '.join(sorted(there)) or 'none, as there are none'}, got {unknown!r}")


def _check_changes(head: Head, changes: Changes) -> None:
    description = head.beginning.description
    try:
        if changes.codec is not None:
            check_transcoding(description.codec, changes.codec)
            changes.codec.check_classes(description.num_classes)
    except ArgumentError as error:
        raise ArgumentError(f"{head.path}: {error}") from None
    said = head.metadata.get("crop_sampler")
    sampler = description.sampler.describe() if description.sampler is not None else said if isinstance(said, dict) else {}
    if changes.crops is not None and sampler.get("name") == ALL_VIEWS:
        views = "the crops are all views of an image, row by row: the first of them are those at its upper edge"
        raise ArgumentError(f"{head.path}: crops: {views}. Choose images instead (sample), or label random crops")


def _check_layout(first: Head, other: Head, changes: Changes) -> None:
    names = [name for name in _LAYOUT if name != "codec" or changes.codec is None]
    wanted, found = ({name: getattr(head.beginning.description, name) for name in names} | head.version for head in (first, other))
    for name, value in wanted.items():
        if found[name] != value:
            advice = "Pass codec (--codec) to store all labels in one" if name == "codec" else ""
            raise _other(first, other, name, (value, found[name]), advice)
    own, theirs = ({**head.beginning.description.other, "writer": None} for head in (first, other))
    _check_values(first, other, own, theirs, "")


def _check_metadata(first: Head, other: Head, changes: Changes) -> None:
    own, theirs = first.metadata, other.metadata
    if TEMPERATURE in own and TEMPERATURE in theirs:
        _check_values(first, other, {TEMPERATURE: own[TEMPERATURE]}, {TEMPERATURE: theirs[TEMPERATURE]}, "")
    left_out = {*changes.settled, *OWN, *NOTED, CHOICE}
    advice = "Pass metadata to set it for all (--metadata NAME=VALUE), or drop_metadata (--drop-metadata NAME)"
    _check_values(first, other, _without(own, left_out), _without(theirs, left_out), advice)
    if not changes.force:
        advice = "Pass force=True (--force) if the labels belong together all the same"
        _check_values(first, other, _of_the_teacher(own, changes), _of_the_teacher(theirs, changes), advice)


def _of_the_teacher(values: Plain, changes: Changes) -> Plain:
    return {name: values[name] for name in OF_THE_TEACHER if name in values and name not in changes.settled}


def _without(values: Plain, names: Collection[str]) -> Plain:
    return {name: value for name, value in values.items() if name not in names}


def _check_values(first: Head, other: Head, wanted: Plain, found: Plain, advice: str) -> None:
    for name in {**wanted, **found}:
        values = wanted.get(name, "nothing"), found.get(name, "nothing")
        if values[0] != values[1]:
            raise _other(first, other, name, values, advice)


def _other(first: Head, other: Head, name: str, values: tuple[Any, ...], advice: str) -> MismatchError:
    wanted, found = (textwrap.shorten(str(value), _SHOWN_CHARACTERS, placeholder=" ...") for value in values)
    return MismatchError(f"{other.path}: {name}: expected {wanted}, as in {first.path}, got {found}" + (f". {advice}" if advice else ""))


def joint_beginning(heads: Sequence[Head], changes: Changes, images: Plain | None) -> Beginning:
    """Return header and metadata of a copy of all sources, which belong together.

    Parameters
    ----------
    heads : sequence of Head
        The sources.
    changes : Changes
        What is changed.
    images : dict or None
        What the copy says of its images, if they are not those of a single source.
    """
    first = heads[0].beginning
    description = replace(
        first.description,
        codec=changes.codec or first.description.codec,
        metadata=_joint_metadata([_said(head, changes) for head in heads], changes, images),
    )
    if description == first.description and all(head.beginning.data == first.data for head in heads):
        return first
    description = replace(description, other={**description.other, "writer": PACKAGE})
    packed = description.pack()
    header = replace(first.header, metadata_length=len(packed), metadata_crc32=zlib.crc32(packed))
    return Beginning(header, description, header.pack() + packed)


def in_another_codec(metadata: Plain, before: Codec) -> Plain:
    """Return the metadata of labels that had another codec before."""
    earlier = metadata.get(TRANSCODED)
    said = {**metadata, TRANSCODED: [*(earlier if isinstance(earlier, list) else []), str(before)]}
    said.pop(CHOICE, None)
    return said


def _said(head: Head, changes: Changes) -> Plain:
    """Return the metadata of a source, with what the changes make of its labels."""
    said, codec = dict(head.metadata), head.beginning.description.codec
    if changes.codec is not None and not stored_alike(codec, changes.codec):
        said = in_another_codec(said, codec)
    if changes.crops is not None and isinstance(said.get(CROPS), int):
        if said[CROPS] > changes.crops:
            said.pop(CHOICE, None)
        said[CROPS] = min(said[CROPS], changes.crops)
    return said


def _joint_metadata(said: Sequence[Plain], changes: Changes, images: Plain | None) -> Plain:
    result = dict(said[0])
    if images is not None and any(IMAGES in values for values in said):
        result[IMAGES] = images
    for name in (CROPS, CHOICE):
        if any(values.get(name) != said[0].get(name) for values in said):
            result.pop(name, None)
    if len(said) > 1 or changes.settled:
        result.pop(MERGED, None)
        merged = _merged(said, changes)
        result |= {MERGED: merged} if merged else {}
    return _without(result | dict(changes.metadata), changes.dropped)


def _merged(said: Sequence[Plain], changes: Changes) -> list[Plain]:
    """Return what the sources, and those that they were made of, say differently; nothing if they all say the same."""
    names = [name for name in NOTED if name not in changes.settled]
    found: list[Plain] = []
    for values in said:
        for entry in _entries(values.get(MERGED)):
            noted = {name: entry.get(name, values.get(name)) for name in names}
            if noted not in found:
                found.append(noted)
    different = [name for name in names if any(noted[name] != found[0][name] for noted in found)]
    return [{name: noted[name] for name in different} for noted in found] if different else []


def _entries(merged: Any) -> list[Plain]:
    return merged if isinstance(merged, list) and merged and all(isinstance(entry, dict) for entry in merged) else [{}]
