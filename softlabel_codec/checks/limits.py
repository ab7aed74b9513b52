"""The limits of the format (spec/container-v1.md, section 13, and spec/set-v1.md)."""

from __future__ import annotations

MIN_CLASSES = 2
MAX_CLASSES = 2**31
MAX_KEPT_CLASSES = 65535
MAX_CROPS_PER_IMAGE = 65535
MAX_IMAGES_PER_BLOCK = 256
MAX_CROPS_PER_BLOCK = 65535
MAX_TABLE_ENTRIES = 2**22
MAX_DENSE_NUMBERS = 2**28
MAX_IMAGES = 2**32 - 1
MAX_IMAGE_SIDE = 65535
MAX_PADDING = 1024
MAX_KEY_BYTES = 4096
MAX_METADATA_BYTES = 2**24
MAX_SUMMARY_BYTES = 2**28
MAX_PAYLOAD_BYTES = 2**30
MAX_CONTENT_BYTES = 2**30
MAX_MSGPACK_DEPTH = 32
MAX_SET_INDEX_BYTES = 2**26
MAX_SHARDS = 100_000


def max_content_bytes(payload_bytes: int) -> int:
    """Return the most bytes that a block's payload of that length may decompress to."""
    most = 2**22 + 1024 * payload_bytes
    return most if most < MAX_CONTENT_BYTES else MAX_CONTENT_BYTES


def fits_block(crops: int, entries: int, widest: int) -> bool:
    """Return whether a block may hold this many crops with this many kept classes in all, if one crop keeps `widest`.

    This lets a reader hold the labels of a block as a table (crops, kept classes) that is not much larger than what is stored.
    """
    return crops <= MAX_CROPS_PER_BLOCK and crops * widest <= max(MAX_TABLE_ENTRIES, entries)


def tails_fit_block(images: int, longest: int) -> bool:
    """Return whether a block may hold this many images, if the longest tail lists `longest` classes: as a table (images, classes)."""
    return images * longest <= MAX_TABLE_ENTRIES
