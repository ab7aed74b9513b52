"""Checks everything in a label set: its index, every shard, and whether they belong together (spec/set-v1.md, section 4)."""

from __future__ import annotations

from dataclasses import replace

from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.errors import CorruptError, FormatError, MismatchError
from softlabel_codec.label_set.index_file import Shard
from softlabel_codec.label_set.making import check_distinct_keys
from softlabel_codec.label_set.open_set import OpenSet
from softlabel_codec.report.checking import Checked, Findings, Progress, check_container
from softlabel_codec.storage.location import Location, joined


def check_set(index: Location, deep: bool, findings: Findings, progress: Progress) -> Checked:
    """Check a set as `check_container` does a file, each shard whatever is wrong with the others.

    `progress` is called with the number of images in blocks that are checked, and in all.

    Raises
    ------
    FormatError
        If the index is not sound.
    """
    labels = OpenSet(index)
    shards, first_images = labels.index.shards, labels.shards.first_images
    num_blocks, bad = 0, []
    opened: list[Shard] = []
    for number, said in enumerate(shards):
        before = len(findings.problems)
        try:
            shard = labels.shards[number]
        except (FormatError, MismatchError, OSError) as error:
            findings.note(error)
        else:
            opened.append(_check_shard(shard, said, deep, findings, _of_images(progress, shard, first_images[number], labels.num_images)))
            num_blocks += shard.trailer.num_blocks
        if len(findings.problems) > before:
            bad.append(said.file)
    labels.close()
    try:
        check_distinct_keys([joined(index.parent, shard.file) for shard in opened], opened)
    except MismatchError as error:
        findings.note(CorruptError(str(error)))
    except FormatError:
        pass  # already found
    checksums, num_images = labels.description.image_checksums, sum(shard.images for shard in opened)
    return Checked(num_blocks, num_images, checksums, len(opened) == len(shards), len(shards), bad)


def _of_images(progress: Progress, shard: OpenContainer, first_image: int, num_images: int) -> Progress:
    """Return a function that takes progress in blocks of a shard, and reports it in images of the set."""
    return lambda done, total: progress(first_image + int(shard.index.first_images[done]), num_images)


def _check_shard(shard: OpenContainer, said: Shard, deep: bool, findings: Findings, progress: Progress) -> Shard:
    """Check a shard, and return what the index says of it with the smallest and the largest key that it has, as far as they can be read."""
    sha256 = check_container(shard, findings, deep, progress)
    if sha256 not in (None, said.sha256):
        findings.note(CorruptError(f"{shard.path}: sha256: expected {said.sha256}, as the index of the set says, got {sha256}"))
    try:
        first, last = shard.keys.ends()
    except FormatError:
        return said  # already found
    if (first, last) != (said.first_key, said.last_key):
        expected = f"expected {said.first_key!r} and {said.last_key!r}, as the index of the set says"
        findings.note(CorruptError(f"{shard.path}: first_key and last_key: {expected}, got {first!r} and {last!r}"))
    return replace(said, first_key=first, last_key=last)
