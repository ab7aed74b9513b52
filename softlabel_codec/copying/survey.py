"""A first look at all sources: whether they belong together, and which of their images are copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.wording import counted
from softlabel_codec.container.files import located
from softlabel_codec.container.keys import Keys
from softlabel_codec.container.msgpack_maps import Plain
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.scan import Beginning
from softlabel_codec.container.summary import KeysDigest
from softlabel_codec.copying.belonging import IMAGES, Changes, Head, check_belonging, joint_beginning
from softlabel_codec.copying.selection import Selection
from softlabel_codec.copying.sources import Source, SourceFile
from softlabel_codec.errors import CorruptError, MismatchError, StateError
from softlabel_codec.label_set.distinct import Ends, repeated_key
from softlabel_codec.label_set.making import check_same_metadata


@dataclass(frozen=True)
class SurveyedFile:
    """A file of a source, and what is copied of it.

    Attributes
    ----------
    file : SourceFile
        The file.
    fingerprint : str
        What it was when it was looked at.
    wanted : bool (num_images,) or None
        Which images are copied; None: all.
    num_wanted : int
        How many these are.
    ends : (bytes, bytes) or None
        The smallest and the largest of its keys; None if it holds no images.
    """

    file: SourceFile
    fingerprint: str
    wanted: NDArray[np.bool_] | None
    num_wanted: int
    ends: Ends

    def open(self) -> OpenContainer:
        """Open the file again; StateError if it is not the same any more."""
        container = self.file.open()
        if container.fingerprint != self.fingerprint:
            container.close()
            raise StateError(f"{self.file.path}: the file was replaced while it was being copied")
        return container

    def wanted_keys(self, keys: Keys) -> Iterator[bytes]:
        """Yield the keys of the images that are copied."""
        return keys.raw() if self.wanted is None else compress(keys.raw(), self.wanted.tolist())


@dataclass(frozen=True)
class Survey:
    """What is copied.

    Attributes
    ----------
    beginning : Beginning
        Header and metadata of the copy.
    files : list of SurveyedFile
        The files that it is made of, in order.
    skipped_keys : list of str
        Images that could not be labelled, and would be in the copy.
    bytes_per_image : float
        Bytes of the blocks of all sources for each of their images.
    """

    beginning: Beginning
    files: list[SurveyedFile]
    skipped_keys: list[str]
    bytes_per_image: float

    @property
    def num_images(self) -> int:
        """Number of images that are copied."""
        return sum(file.num_wanted for file in self.files)


def survey(sources: Sequence[Source], selection: Selection, changes: Changes) -> Survey:
    """Look at all sources.

    Raises
    ------
    MismatchError
        If they do not belong together, a key is in two of them, or keys that are asked for are in none.
    ArgumentError
        If they cannot be changed in the way that is asked for.
    FormatError, OSError
        If a file cannot be opened.
    """
    heads = []
    for source in sources:
        with source.files[0].open() as container:
            heads.append(Head(source.path, container.beginning))
    check_belonging(heads, changes)
    look = _Look(selection, digests=any(IMAGES in head.metadata for head in heads) and (len(sources) > 1 or not selection.is_all))
    for source in sources:
        look.at(source)
    look.check_found()
    _check_distinct(look.files)
    skipped = dict.fromkeys(key for key in look.skipped if selection.is_all or selection.wants(key.encode()))
    beginning = joint_beginning(heads, changes, look.images)
    return Survey(beginning, look.files, _not_copied(list(skipped), look.files), look.block_bytes / max(1, look.num_images))


class _Look:
    """What is seen of the files so far."""

    def __init__(self, selection: Selection, *, digests: bool) -> None:
        self.files: list[SurveyedFile] = []
        self.skipped: list[str] = []
        self.num_images = self.block_bytes = 0
        self._selection = selection
        self._digest = KeysDigest() if digests else None
        self._missing = set(selection.keys or ())

    def at(self, source: Source) -> None:
        """Look at the files of a source."""
        with source.files[0].open() as first:
            self._add(source.files[0], first)
            for file in source.files[1:]:
                with file.open() as container:
                    check_same_metadata(first, container)
                    self._add(file, container)

    def _add(self, file: SourceFile, container: OpenContainer) -> None:
        wanted = self._choose(container)
        num_images = container.trailer.num_images
        first, last = container.keys.ends()
        ends = None if first is None or last is None else (first.encode(), last.encode())
        num_wanted = num_images if wanted is None else int(np.count_nonzero(wanted))
        self.files.append(SurveyedFile(file, container.fingerprint, wanted, num_wanted, ends))
        self.skipped += container.summary.get("skipped_keys", [])
        self.num_images += num_images
        self.block_bytes += container.trailer.keys_offset - container.beginning.blocks_offset

    def _choose(self, container: OpenContainer) -> NDArray[np.bool_] | None:
        """Return which images of a file are copied, None for all, and note their keys."""
        if self._selection.is_all:
            if self._digest is not None:
                for text in container.keys.texts():
                    self._digest.update_framed(text.with_lengths())
            return None
        parts = []
        for text in container.keys.texts():
            some = text.keys()
            self._missing.difference_update(some)
            try:
                parts.append(self._selection.of_keys(some))
            except CorruptError as error:
                raise located(error, container.source) from None
            if self._digest is not None:
                self._digest.update(list(compress(some, parts[-1].tolist())))
        return np.concatenate(parts) if parts else None

    @property
    def images(self) -> Plain | None:
        """What the metadata of the copy say of its images; None if they say nothing, or these are those of the only source."""
        num_wanted = sum(file.num_wanted for file in self.files)
        return None if self._digest is None else {"count": num_wanted, "keys_sha256": self._digest.hexdigest()}

    def check_found(self) -> None:
        """Raise MismatchError if keys that were asked for are in no source, or no image is copied."""
        if self._missing and self._selection.keys is not None:
            first = min(self._missing).decode(errors="replace")
            of_all = f"{len(self._missing)} of {counted(len(self._selection.keys), 'key')}"
            what = "could not be labelled" if first in self.skipped else "is in no source"
            raise MismatchError(f"keys: expected keys of labelled images, got {of_all} that are none. {first!r} {what}")
        if not self._selection.is_all and not any(file.num_wanted for file in self.files):
            raise MismatchError(f"expected a selection of {counted(self.num_images, 'image')}, got one that no image fits")


def _check_distinct(files: Sequence[SurveyedFile]) -> None:
    """Raise MismatchError if a key is copied from two files. Only files whose ranges of keys overlap are read."""

    def keys_of(place: int) -> Iterator[bytes]:
        with files[place].open() as container:
            yield from files[place].wanted_keys(container.keys)

    found = repeated_key([file.ends if file.num_wanted else None for file in files], keys_of)
    if found is not None:
        both = f"{files[found.one].file.path} and {files[found.other].file.path}"
        raise MismatchError(f"key {found.key.decode(errors='replace')!r}: expected it once, got it in {both}")


def _not_copied(keys: list[str], files: Sequence[SurveyedFile]) -> list[str]:
    """Return those of some keys that no file has among its images."""
    left = dict.fromkeys(keys)
    for file in files:
        within = [key for key in left if file.ends and file.ends[0] <= key.encode() <= file.ends[1]]
        if within:
            with file.open() as container:
                for key in within:
                    if key in container.keys:
                        del left[key]
    return list(left)
