"""Whether a file is the shard that the index of a set says (spec/set-v1.md, section 4)."""

from __future__ import annotations

import logging
from dataclasses import replace

from softlabel_codec.container.files import Source
from softlabel_codec.container.metadata import difference
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.scan import Beginning
from softlabel_codec.container.sources import fingerprint_of, open_source
from softlabel_codec.errors import CorruptError, FormatError, MismatchError
from softlabel_codec.label_set.index_file import SetIndex
from softlabel_codec.storage.cache import SIZE, Cache
from softlabel_codec.storage.location import Location, Url, joined

logger = logging.getLogger(__name__)


class Belonging:
    """Opens shards of a set, and checks that they belong to it: against the index, and against the first that was opened.

    Parameters
    ----------
    path : Path or Url
        The index.
    index : SetIndex
        What it says.
    cache : Cache, optional
        Fetches and keeps shards that are behind URLs, if all of them together have room in it.
    """

    def __init__(self, path: Location, index: SetIndex, cache: Cache | None = None) -> None:
        self.path, self.index = path, index
        self._cache = _if_it_holds(cache, path, index)
        self._folder = path.absolute().parent
        self._first: list[tuple[str, Beginning]] = []

    def path_of(self, number: int) -> Location:
        """Return where a shard is."""
        return joined(self._folder, self.index.shards[number].file)

    def opened(self, number: int) -> OpenContainer:
        """Return a shard, open.

        Raises
        ------
        OSError
            If it is not there or cannot be read.
        MismatchError
            If it is another file than the index says, or has other metadata.
        CorruptError
            If the index says other numbers of images or crops.
        FormatError
            If the file is not sound.
        """
        try:
            shard = OpenContainer(self.path_of(number), self._cache, self.index.shards[number].fingerprint)
        except OSError as error:
            raise self._not_there(error, number) from None
        except FormatError:
            self._check_unsound(number)
            raise
        try:
            self._check_identity(shard.source, number)
            self._check_metadata(shard, number)
            self._check_counts(shard, number)
        except BaseException:
            shard.close()
            raise
        return shard

    def _where(self, number: int) -> str:
        return f"{self.path_of(number)}: shard {number} of the label set {self.path}"

    def _not_there(self, error: OSError, number: int) -> OSError:
        what = f"{error.strerror or error}: shard {number} of the label set {self.path}"
        if isinstance(error, FileNotFoundError):
            what += f". Make it again: run the command that made the set with --shard {number}"
        return type(error)(error.errno, what, str(self.path_of(number)))

    def _check_unsound(self, number: int) -> None:
        """Raise MismatchError if a file that is not sound is not the shard at all: it was cut off or replaced, not damaged."""
        source = open_source(self.path_of(number))
        try:
            self._check_identity(source, number)
        finally:
            source.close()

    def _check_identity(self, source: Source, number: int) -> None:
        said = self.index.shards[number]
        if source.length != said.bytes:
            got = f"expected {said.bytes} bytes, as the index says, got {source.length}"
            raise MismatchError(f"{self._where(number)}: {got}. It was cut off or replaced")
        if fingerprint_of(source) != said.fingerprint:
            raise MismatchError(f"{self._where(number)}: expected the fingerprint in the index, got another. It was replaced")

    def _check_metadata(self, shard: OpenContainer, number: int) -> None:
        if not self._first:
            found, said = (replace(description, other={}) for description in (shard.description, self.index.description))
            if found != said:
                differs = difference(found, said)
                raise MismatchError(f"{self._where(number)}: expected the metadata in the index, got others: {differs}")
            self._first.append((shard.path.name, shard.beginning))
        name, first = self._first[0]  # of another shard if another thread was faster
        if first.data != shard.beginning.data:
            raise MismatchError(f"{self._where(number)}: {difference_of_beginnings(shard.beginning, first, name)}")

    def _check_counts(self, shard: OpenContainer, number: int) -> None:
        said, each = self.index.shards[number], self.index.crops_per_image
        if (shard.num_images, shard.total_crops) != (said.images, said.crops):
            expected = f"expected {said.images} images with {said.crops} crops, as the index says"
            raise CorruptError(f"{self._where(number)}: {expected}, got {shard.num_images} with {shard.total_crops}")
        if each is not None and (shard.num_crops != each).any():
            raise CorruptError(f"{self._where(number)}: expected {each} crops of every image, as the index says, got other numbers")


def _if_it_holds(cache: Cache | None, path: Location, index: SetIndex) -> Cache | None:
    """Return the cache if a set fits into it; else shards would make room for each other again and again."""
    num_bytes = sum(shard.bytes for shard in index.shards)
    if cache is None or not isinstance(path, Url) or cache.holds(num_bytes):
        return cache
    advice = f"Set {SIZE} to more than that to keep them"
    logger.warning("%s: shards are not kept: they have %d bytes, the cache %d. %s", path, num_bytes, cache.most_bytes, advice)
    return None


def difference_of_beginnings(found: Beginning, wanted: Beginning, name: str) -> str:
    """Return how header and metadata of a file differ from those of another shard of its set, called `name`."""
    same_metadata = found.header.metadata_crc32 == wanted.header.metadata_crc32
    differs = "other bits or another version in the header" if same_metadata else difference(found.description, wanted.description)
    return f"expected the metadata of {name}, as in one label set: {differs}"
