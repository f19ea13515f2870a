"""CRC32C, the checksum of Zarr's chunks and of every chunk in a commit record."""

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.base.compiled import kernel
from flowcpc.stores.codec.raw_bytes import address_of, crc32c_of_long, load_byte, load_long

_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected (RFC 3720, appendix B.4)
_ONES = 0xFFFFFFFF


def _make_tables() -> NDArray[np.int64]:
    """Return int64 (8, 256): row k is the register after byte value b and k bytes of zero."""
    register = np.arange(256, dtype=np.int64)
    for _ in range(8):
        register = (register >> 1) ^ np.where(register & 1, _POLYNOMIAL, 0)
    tables = [register]
    for _ in range(7):
        tables.append(register[tables[-1] & 0xFF] ^ (tables[-1] >> 8))
    return np.array(tables)


_TABLES = _make_tables()
_LANE = 512  # bytes of each of the three parts that are summed side by side


def _make_shifts(zeros: int) -> NDArray[np.int64]:
    """Return int64 (4, 256): [k, b] is register b << 8k after `zeros` (8, 16 ...) zero bytes."""
    registers = np.arange(256, dtype=np.int64) << (8 * np.arange(4)[:, None])
    for _ in range(zeros // 8):
        registers = np.bitwise_xor.reduce(
            [_TABLES[7 - k, (registers >> (8 * k)) & 0xFF] for k in range(4)]
        )
    return registers


_PAST_ONE, _PAST_TWO = _make_shifts(_LANE), _make_shifts(2 * _LANE)


@kernel
def long_by_table(register, value):
    """Return the register after the eight bytes of `value`; needs no CRC32C instruction."""
    value ^= register
    register = np.int64(0)
    for k in range(8):
        register ^= _TABLES[7 - k, (value >> (8 * k)) & 0xFF]
    return register


_after_long = crc32c_of_long or long_by_table


@kernel
def _shifted(register, shifts):
    low = shifts[0, register & 0xFF] ^ shifts[1, (register >> 8) & 0xFF]
    return low ^ shifts[2, (register >> 16) & 0xFF] ^ shifts[3, register >> 24]


@kernel
def crc32c(data, start, size):
    """Return the CRC32C, int64 in [0, 2^32), of bytes [start, start + size) of a uint8 array."""
    register = np.int64(_ONES)
    i = address_of(data) + start
    stop = i + size
    # Each instruction waits for the one before it, so three parts advance side by side. They can be
    # joined because a register is linear in its input.
    while i + 3 * _LANE <= stop:
        second, third = np.int64(0), np.int64(0)
        for k in range(i, i + _LANE, 8):
            register = _after_long(register, load_long(k))
            second = _after_long(second, load_long(k + _LANE))
            third = _after_long(third, load_long(k + 2 * _LANE))
        register = _shifted(register, _PAST_TWO) ^ _shifted(second, _PAST_ONE) ^ third
        i += 3 * _LANE
    while i + 8 <= stop:
        register = _after_long(register, load_long(i))
        i += 8
    while i < stop:
        register = _TABLES[0, (register ^ load_byte(i)) & 0xFF] ^ (register >> 8)
        i += 1
    return register ^ _ONES


def crc32c_of(data: bytes) -> int:
    """Return the CRC32C of `data`."""
    return int(crc32c(np.frombuffer(data, np.uint8), 0, len(data)))
