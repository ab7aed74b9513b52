"""The zip archives that `torch.save` writes: members that are not compressed, each with a checksum. Anything else is refused."""

from __future__ import annotations

import struct
import zlib

from softlabel_codec.errors import CorruptError

_END, _DIRECTORY, _LOCAL = struct.Struct("<4s4H2IH"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")
_ENCRYPTED, _MASKED = 1, 1 << 13
MAGIC = b"PK\x03\x04"


def members_of(data: bytes) -> dict[str, bytes]:
    """Return the members of an archive by name, without the folder that all of them are in.

    Raises
    ------
    CorruptError
        If it is not such an archive, or a checksum differs.
    """
    try:
        return _members(data)
    except (struct.error, UnicodeDecodeError):
        raise CorruptError("the archive is cut off or damaged") from None


def _members(data: bytes) -> dict[str, bytes]:
    magic, disk, _, _, count, _, place, comment = _END.unpack(data[-_END.size :])
    if magic != b"PK\x05\x06" or comment or disk:
        raise CorruptError("the archive is cut off or damaged: it does not end as one")
    found: dict[str, bytes] = {}
    directory, total = place, 0
    for _ in range(count):
        magic, _, _, flags, method, _, _, crc32, stored, size, *lengths, _, _, _, start = _DIRECTORY.unpack_from(data, place)
        if magic != b"PK\x01\x02":
            raise CorruptError("the archive is cut off or damaged: expected the name of a member in it")
        name_end = place + _DIRECTORY.size + lengths[0]
        name = data[place + _DIRECTORY.size : name_end]
        place = name_end + lengths[1] + lengths[2]
        if method:
            raise CorruptError("it is compressed, but torch.save does not compress")
        if flags & (_ENCRYPTED | _MASKED) or stored != size:
            raise CorruptError("the archive is encrypted or damaged")
        total += size
        if total > len(data):
            raise CorruptError("the members of the archive overlap")
        magic, *_, name_length, extra_length = _LOCAL.unpack_from(data, start)
        begin = start + _LOCAL.size + name_length + extra_length
        if magic != MAGIC or begin + size > directory or data[start + _LOCAL.size : begin - extra_length] != name:
            raise CorruptError(f"the archive is damaged: {name!r} is not where it should be")
        member = data[begin : begin + size]
        if zlib.crc32(member) != crc32:
            raise CorruptError(f"the checksum of {name!r} differs")
        short = name.decode().partition("/")[2]
        if short in found:
            raise CorruptError(f"the archive has two members {short!r}")
        found[short] = member
    return found
