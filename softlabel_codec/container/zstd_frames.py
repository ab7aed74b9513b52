"""The only module that imports zstandard: columns to one zstd frame and back."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Sequence

import zstandard

from softlabel_codec.errors import CorruptError, LimitError

# Columns of numbers are close to noise: a separate entropy table for each makes them smaller, matches do not. A long minimum match and
# tiny search tables keep the matcher from finding accidental matches, which cost more than the literals that they replace.
_NUMBERS = zstandard.ZstdCompressionParameters(
    window_log=17,
    hash_log=6,
    chain_log=6,
    search_log=1,
    min_match=7,
    target_length=32,
    strategy=zstandard.STRATEGY_BTULTRA2,
    write_content_size=True,
    write_checksum=False,
)
_TEXT = zstandard.ZstdCompressionParameters.from_level(19, write_content_size=True, write_checksum=False)
_TEXT_FAST = zstandard.ZstdCompressionParameters(
    window_log=15,
    hash_log=13,
    chain_log=13,
    search_log=1,
    min_match=4,
    target_length=16,
    strategy=zstandard.STRATEGY_LAZY2,
    write_content_size=True,
    write_checksum=False,
)
_MAX_WINDOW_BYTES = 2**27
_RAW_BLOCK_BYTES = 2**17
_RAW_FRAME_HEADER = struct.Struct("<BBQ")
_MAGIC = b"\x28\xb5\x2f\xfd"

_local = threading.local()


def compress_columns(columns: Iterable[bytes], *, text: bool = False, fast: bool = False) -> bytes:
    """Return one zstd frame that holds `columns` one after another, each in zstd blocks of its own.

    The frame states its content size. Readers do not depend on where its blocks end. `text` says that much of the content is
    text, which compresses by repetition; with `fast` it is compressed less, in a small part of the time.
    """
    parts = [column for column in columns if column]
    parameters = _NUMBERS if not text else _TEXT_FAST if fast else _TEXT
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=sum(map(len, parts)))
    out = []
    for part in parts:
        out.append(compressor.compress(part))
        out.append(compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    out.append(compressor.flush())
    return b"".join(out)


def store_columns(columns: Iterable[bytes]) -> bytes:
    """Return one zstd frame that holds `columns` one after another as they are, without compressing them (RFC 8878, section 3.1.1)."""
    content = b"".join(columns)
    starts = range(0, max(1, len(content)), _RAW_BLOCK_BYTES)
    out = [_MAGIC, _RAW_FRAME_HEADER.pack(0b1100_0000, 7 << 3, len(content))]  # 8 bytes of content size; a window of 2^17 bytes
    for start in starts:
        block = content[start : start + _RAW_BLOCK_BYTES]
        out += [(len(block) << 3 | (start == starts[-1])).to_bytes(3, "little"), block]
    return b"".join(out)


def compressed_sizes(columns: Iterable[bytes], *, text: bool = False) -> list[int]:
    """Return how many bytes of the frame that `compress_columns` makes belong to each column; the frame's own bytes come last."""
    columns = list(columns)
    compressor = zstandard.ZstdCompressor(compression_params=_TEXT if text else _NUMBERS).compressobj(size=sum(map(len, columns)))
    sizes = []
    for column in columns:
        size = 0
        if column:
            size = len(compressor.compress(column)) + len(compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
        sizes.append(size)
    return [*sizes, len(compressor.flush())]


def decompress(frame: bytes, max_bytes: int) -> bytes:
    """Return the content of a zstd frame.

    Raises
    ------
    LimitError
        If the frame states a content larger than `max_bytes`; raised before anything is allocated.
    CorruptError
        If `frame` is not one zstd frame with a content size, a window that is not too large, and nothing after it.
    """
    if not frame.startswith(_MAGIC):
        raise CorruptError("expected a zstd frame")
    try:
        parameters = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise CorruptError(f"expected a zstd frame: {error}") from None
    size = parameters.content_size
    if size == zstandard.CONTENTSIZE_UNKNOWN:
        raise CorruptError("the zstd frame does not state its content size")
    if size > max_bytes:
        raise LimitError(f"the zstd frame holds {size} bytes: expected at most {max_bytes}")
    if parameters.window_size > _MAX_WINDOW_BYTES:
        raise CorruptError(f"the zstd frame needs a window of {parameters.window_size} bytes: expected at most {_MAX_WINDOW_BYTES}")
    try:
        if size == 0:  # for which the call below checks nothing else
            return _decompress_empty(frame)
        return _decompressor().decompress(frame, size, False, False)  # at most `size` bytes, one frame, nothing after it
    except zstandard.ZstdError as error:
        raise CorruptError(f"the zstd frame does not decompress: {error}") from None


def decompress_many(frames: Sequence[bytes], max_bytes: Sequence[int]) -> list[bytes]:
    """Return `decompress` of several frames, with little overhead for each."""
    frame_parameters, inflate = zstandard.get_frame_parameters, _decompressor().decompress
    contents = []
    try:
        for frame, most in zip(frames, max_bytes, strict=True):
            parameters = frame_parameters(frame)
            size = parameters.content_size
            usual = 0 < size <= most and parameters.window_size <= _MAX_WINDOW_BYTES and frame[:4] == _MAGIC
            contents.append(inflate(frame, size, False, False) if usual else decompress(frame, most))
    except zstandard.ZstdError as error:
        raise CorruptError(f"a zstd frame does not decompress: {error}") from None
    return contents


def _decompress_empty(frame: bytes) -> bytes:
    stream = _decompressor().decompressobj()
    if stream.decompress(frame) or not stream.eof or stream.unused_data:
        raise CorruptError("expected one empty zstd frame")
    return b""


def _decompressor() -> zstandard.ZstdDecompressor:
    """Return this thread's decompressor: one must not be used by two threads at a time."""
    decompressor: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if decompressor is None:
        decompressor = _local.decompressor = zstandard.ZstdDecompressor()
    return decompressor
