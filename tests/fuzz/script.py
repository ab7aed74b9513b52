"""Bytes read as a list of changes to the pieces of a sound file.

Checksums and lengths are worked out afterwards, so that a fuzzer need not guess them. A number that does not fit is taken modulo what
there is: every input means something, and one that is too short ends with zeros.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgpack
import zstandard
from dissect import TRAILER_FIELDS, Pieces, compressed

from fuzz.bases import BASES, pieces_of

Item = TypeVar("Item")
MAX_CHANGES = 16
MAX_CONTENT_BYTES = 2**18
"""To this length contents are grown: beyond it, a change is one to the frame."""
HEADER_FIELDS = ("minor", "compatible_features", "incompatible_features", "major", "metadata_length", "metadata_crc32")
HEAD_FIELDS = ("marker", "payload_length", "block_crc32", "number")
CODECS = tuple(dict.fromkeys(base.codec for base in BASES)) + ("dense:f32", "marginal_smoothing:k=65535", "hard:", "soft")
VALUES = (..., None, True, 0, 1, -1, 2**31, 2**31 + 1, 2**63, 0.5, float("nan"), "", "a", [], {}, [0.1, 0.9], b"\xff", *CODECS)
METADATA_KEYS = ("num_classes", "codec", "crops", "crop_sampler", "metadata", "writer", "other")
CROPS = ("pixels", "fractions:f32", "fractions:f16", "derived")


class Script:
    """Takes one number after the other from an input."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def ended(self) -> bool:
        return self._at >= len(self._data)

    def take(self, length: int) -> bytes:
        """Return the next bytes, as many as there are."""
        self._at += length
        return self._data[self._at - length : self._at]

    def number(self, width: int = 1) -> int:
        return int.from_bytes(self.take(width), "little")

    def choice(self, items: Sequence[Item]) -> Item:
        return items[self.number() % len(items)]

    def rest(self) -> bytes:
        return self.take(max(0, len(self._data) - self._at))


def edited(data: bytes, script: Script) -> bytes:
    """Return `data` with a place changed: bits flipped, bytes replaced, a number added, something put in, taken out or repeated."""
    kind, at = script.number() % 6, script.number(2) % (len(data) + 1)
    if kind == 0:
        return data[:at] + bytes([byte ^ script.number() for byte in data[at : at + 1]]) + data[at + 1 :]
    if kind == 1:
        new = script.take(script.number() % 16)
        return data[:at] + new + data[at + len(new) :]
    if kind == 2:
        width = script.choice((1, 2, 4, 8))
        there = data[at : at + width]
        total = int.from_bytes(there, "little") + script.number() - 128
        return data[:at] + (total % 256 ** len(there)).to_bytes(len(there), "little") + data[at + len(there) :]
    if kind == 3:
        return data[:at] + script.take(script.number() % 32) + data[at:]
    if kind == 4:
        return data[:at] + data[at + script.number() :]
    byte, count = script.take(1) or b"\0", script.number(2)
    return data[:at] + byte * min(count, MAX_CONTENT_BYTES - min(len(data), MAX_CONTENT_BYTES)) + data[at:]


def built(data: bytes, changes: Sequence[Callable[[Pieces, Script], None]]) -> bytes:
    """Return the file that an input stands for: a base file after the changes that it names."""
    script = Script(data)
    pieces = copy.deepcopy(pieces_of(script.number() % len(BASES)))
    for _ in range(MAX_CHANGES):
        if script.ended:
            break
        script.choice(changes)(pieces, script)
    return pieces.join()


def change_content(pieces: Pieces, script: Script) -> None:
    if pieces.payloads:
        block = script.number() % len(pieces.payloads)
        pieces.payloads[block] = _recompressed(pieces.payloads[block], script)


def change_payload(pieces: Pieces, script: Script) -> None:
    if pieces.payloads:
        block = script.number() % len(pieces.payloads)
        pieces.payloads[block] = edited(pieces.payloads[block], script)


def change_metadata(pieces: Pieces, script: Script) -> None:
    pieces.metadata = edited(pieces.metadata, script)


def set_metadata(pieces: Pieces, script: Script) -> None:
    key = script.choice(METADATA_KEYS)
    value = script.choice(CROPS) if key == "crops" else script.number(4) if key == "num_classes" else script.choice(VALUES)
    try:
        pieces.set_values(**{key: value})
    except (ValueError, TypeError):  # metadata that an earlier change made unreadable
        change_metadata(pieces, script)


def change_summary(pieces: Pieces, script: Script) -> None:
    pieces.summary = edited(pieces.summary, script)


def set_summary(pieces: Pieces, script: Script) -> None:
    key = script.choice(("keys_sha256", "skipped_keys", "other"))
    try:
        values = {**msgpack.unpackb(pieces.summary), key: script.choice(VALUES)}
        pieces.summary = msgpack.packb({name: value for name, value in values.items() if value is not ...})
    except (ValueError, TypeError):
        change_summary(pieces, script)


def change_page(pieces: Pieces, script: Script) -> None:
    if pieces.pages:
        page = script.number() % len(pieces.pages)
        pieces.pages[page] = _recompressed(pieces.pages[page], script)


def change_page_frame(pieces: Pieces, script: Script) -> None:
    if pieces.pages:
        page = script.number() % len(pieces.pages)
        pieces.pages[page] = edited(pieces.pages[page], script)


def change_pages(pieces: Pieces, script: Script) -> None:
    """Take a page out, repeat it, or give the table another text."""
    kind = script.number() % 3
    if kind == 0 and pieces.pages:
        del pieces.pages[script.number() % len(pieces.pages)]
    elif kind == 1 and pieces.pages:
        pieces.pages.append(script.choice(pieces.pages))
    else:
        pieces.page_table = script.take(script.number() % 32)


def set_counts(pieces: Pieces, script: Script) -> None:
    column = script.choice((pieces.block_images, pieces.crops_minus_1))
    if column:
        column[script.number() % len(column)] = script.number(2)


def change_counts(pieces: Pieces, script: Script) -> None:
    column = script.choice((pieces.block_images, pieces.crops_minus_1))
    column[:] = column[:-1] if script.number() % 2 else [*column, script.number(2)]


def set_index(pieces: Pieces, script: Script) -> None:
    pieces.index = edited(pieces.index or b"", script)


def set_index_frame(pieces: Pieces, script: Script) -> None:
    pieces.index_frame = edited(pieces.index_frame or compressed(b""), script)


def set_trailer(pieces: Pieces, script: Script) -> None:
    name = script.choice((*TRAILER_FIELDS, "sha256", "flags"))
    if name == "sha256":
        pieces.trailer[name] = bytes(32)
    elif name == "flags":
        pieces.trailer[name] = pieces.flags = script.number() % 4
    else:
        pieces.trailer[name] = script.number(script.choice((1, 2, 4, 8)))


def set_header(pieces: Pieces, script: Script) -> None:
    name = script.choice(HEADER_FIELDS)
    pieces.header[name] = script.number(2 if name in ("minor", "major") else 4)


def set_head(pieces: Pieces, script: Script) -> None:
    name = script.choice(HEAD_FIELDS)
    value: int | bytes = script.take(4).ljust(4, b"\0") if name == "marker" else script.number(4)
    pieces.heads.setdefault(script.number() % 4, {})[name] = value


def move_blocks(pieces: Pieces, script: Script) -> None:
    """Swap, repeat or take out a block, with or without its entry in the index."""
    if not pieces.payloads:
        return
    kind, block = script.number() % 4, script.number() % len(pieces.payloads)
    if kind == 0:
        other = script.number() % len(pieces.payloads)
        pieces.payloads[block], pieces.payloads[other] = pieces.payloads[other], pieces.payloads[block]
    elif kind == 1:
        pieces.payloads.insert(block, pieces.payloads[block])
        pieces.block_images.append(script.number() % 4)
    elif kind == 2:
        del pieces.payloads[block]
        del pieces.block_images[block : block + 1]
    else:
        pieces.payloads.append(script.choice(pieces.payloads))


INDEX_CHANGES = (
    set_counts,
    change_counts,
    set_index,
    set_index_frame,
    set_trailer,
    change_page,
    change_page_frame,
    change_pages,
    change_summary,
    set_summary,
)
CHANGES = (
    change_content,
    change_content,
    change_payload,
    change_metadata,
    set_metadata,
    set_header,
    set_head,
    move_blocks,
    *INDEX_CHANGES,
)
"""A number in a kept input says which: new ones go to the end."""


def _recompressed(frame: bytes, script: Script) -> bytes:
    try:
        if not 0 <= zstandard.frame_content_size(frame) <= MAX_CONTENT_BYTES:
            return edited(frame, script)
        content = zstandard.decompress(frame)
    except zstandard.ZstdError:
        return edited(frame, script)
    return compressed(edited(content, script))
