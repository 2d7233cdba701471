"""CRC-32C: published values, and equality with the definition, bit by bit, at every kind of length."""

import numpy as np
import pytest

from gpt2.checkpoint.crc32c import crc32c, masked


def by_definition(data: bytes) -> int:
    state = 0xFFFFFFFF
    for octet in data:
        state ^= octet
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def test_published_values() -> None:
    # RFC 3720, section B.4, and the usual check value
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


def test_the_mask_is_a_rotation_and_a_sum() -> None:
    assert masked(0) == 0xA282EAD8
    assert masked(0xFFFFFFFF) == 0xA282EAD7


@pytest.mark.parametrize("count", [1, 4095, 4096, 4097, 5000, 8191, 8193, 65_541])
def test_lanes_equal_the_definition(count: int) -> None:
    data = np.random.default_rng(count).integers(0, 256, count, dtype=np.uint8)
    assert crc32c(data) == by_definition(data.tobytes())


def test_pieces_equal_the_whole_across_blocks() -> None:
    data = np.random.default_rng(0).integers(0, 256, (9 << 20) + 3, dtype=np.uint8)
    crc = 0
    for piece in np.split(data, [5, 100_000, 5_000_001]):
        crc = crc32c(piece, crc)
    assert crc == crc32c(data)
