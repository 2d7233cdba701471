"""Encoding protocol-buffer messages, as far as our files need it."""

import struct

_VARINT, _BYTES, _FIXED32 = 0, 2, 5  # the wire types
_UNSIGNED = (1 << 64) - 1


def field(number: int, value: int | float | str | bytes) -> bytes:
    """One field: an integer (int64), a float (float32), a text, or the bytes of a message."""
    if isinstance(value, int):
        return varint(number << 3 | _VARINT) + varint(value & _UNSIGNED)
    if isinstance(value, float):
        return varint(number << 3 | _FIXED32) + struct.pack("<f", value)
    content = value.encode("utf-8") if isinstance(value, str) else value
    return opening(number, len(content)) + content


def fixed32(number: int, value: int) -> bytes:
    """A field of 32 bits."""
    return varint(number << 3 | _FIXED32) + struct.pack("<I", value)


def opening(number: int, size: int) -> bytes:
    """The header of a field of `size` bytes, for a message that is written in pieces."""
    return varint(number << 3 | _BYTES) + varint(size)


def varint(value: int) -> bytes:
    """A number in groups of seven bits, the lowest first."""
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])
