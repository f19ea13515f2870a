"""LZ4 blocks of flow codes, made to be decoded fast.

Any LZ4 decoder reads them. What our own likes best is kept in mind: few sequences, so matches are searched with eight equal bytes, in the rows
above and by a hash table, and put off by a byte where the next one is longer; and none nearer than SHORTEST_OFFSET, because a match that reaches
into itself, or into what was written an instant ago, is waited for. A match is measured 64 bytes at a time. It takes less than half the time of the
LZ4 library's HC compressor and the blocks are a seventh larger (docs/store.md).

Source: the LZ4 block format, as its project documents it.
"""

import numpy as np

from flowcpc.stores.base.compiled import inlined, kernel
from flowcpc.stores.codec.lz4_decoder import SHORTEST_OFFSET
from flowcpc.stores.codec.raw_bytes import (
    copy_16,
    equal_bytes_of_64,
    load_long,
    load_word,
    store_byte,
    store_pair,
    store_word,
)

_HASH_BITS = 14
TABLE_BYTES = 8 << _HASH_BITS  # the two last places of each hash
_FACTOR = np.uint64(
    0x9E3779B185EBCA87
)  # 2^64 over the golden ratio: neighbouring values fall far apart
_SHIFT = np.uint64(64 - _HASH_BITS)
_SHORTEST, _FARTHEST = 5, 65535
_LAST_LITERALS, _NO_MATCH = (
    5,
    12,
)  # bytes at the end of a block that must be literals, or in which no match may begin
_PATIENCE = 6  # every 2^6 literals in a row the search takes longer steps


def most_bytes(length: int) -> int:
    """Return how many bytes a block of `length` bytes may take, and SLACK of its own besides."""
    return length + length // 255 + 16


@kernel
def encode_block(source, length, row, table, target):
    """Write the `length` bytes at `source` as an LZ4 block to `target`; returns how many bytes it takes.

    Parameters
    ----------
    source, target : int
        Addresses, with SLACK bytes behind: readable and always the same ones behind `source`, so that equal data give equal blocks.
    row : int
        Bytes of a row of the image: what is above is often the same.
    table : int
        Address of TABLE_BYTES bytes, all zero.
    """
    end = source + length
    last = end - _NO_MATCH
    above = row * ((SHORTEST_OFFSET + row - 1) // row)  # the nearest row that is not too near
    filled = anchor = ip = source
    op = target
    while ip < last:
        while filled <= ip - SHORTEST_OFFSET:
            place = _place(table, filled)
            store_word(place + 4, load_word(place))
            store_word(place, filled - source + 1)
            filled += 1
        length, offset = _longest(source, ip, end, above, row, table)
        if length < _SHORTEST:
            ip += 1 + ((ip - anchor) >> _PATIENCE)
            continue
        if length < 64 and ip + 1 < last:
            next_length, next_offset = _longest(source, ip + 1, end, above, row, table)
            if next_length > length + 1:
                ip += 1
                length, offset = next_length, next_offset
        op = _write_literals(op, anchor, ip - anchor, min(length - 4, 15))
        store_pair(op, offset)
        op = _write_more(op + 2, length - 4)
        ip += length
        anchor = ip
    return _write_literals(op, anchor, end - anchor, 0) - target


@inlined
def _place(table, address):
    """Return where the table keeps the last places of the eight bytes at `address`."""
    value = (np.uint64(load_long(address)) * _FACTOR) >> _SHIFT
    return table + (np.int64(value) << 3)


@inlined
def _longest(source, ip, end, above, row, table):
    """Return (length, offset) of the longest match for `ip` that was found."""
    longest, nearest = np.int64(0), np.int64(0)
    place = _place(table, ip)
    longest, nearest = _longer(source, ip, ip - source - load_word(place) + 1, longest, nearest)
    longest, nearest = _longer(source, ip, ip - source - load_word(place + 4) + 1, longest, nearest)
    longest, nearest = _longer(source, ip, above, longest, nearest)
    longest, nearest = _longer(source, ip, above - 1, longest, nearest)
    longest, nearest = _longer(source, ip, above + 1, longest, nearest)
    longest, nearest = _longer(source, ip, above + row, longest, nearest)
    limit = end - _LAST_LITERALS - ip
    while longest & 63 == 0 and 0 < longest < limit:
        equal = equal_bytes_of_64(ip + longest, ip + longest - nearest)
        longest += equal
        if equal == 0:
            break
    return min(longest, limit), nearest


@inlined
def _longer(source, ip, offset, longest, nearest):
    """Return (length, offset) of the match at `offset` if it is longer than the longest so far, else that one. A block has nothing before its
    beginning, where an empty place of the table points.
    """
    if longest < 64 and SHORTEST_OFFSET <= offset <= min(ip - source, _FARTHEST):
        equal = equal_bytes_of_64(ip, ip - offset)
        if equal > longest:
            return equal, offset
    return longest, nearest


@inlined
def _write_literals(op, source, count, match):
    """Write a sequence's token, for `match` (at most 15) beside it, and its literals; returns the address behind them."""
    store_byte(op, (min(count, 15) << 4) | match)
    op = _write_more(op + 1, count)
    for k in range(0, count, 16):
        copy_16(op + k, source + k)
    return op + count


@inlined
def _write_more(op, length):
    """Write what a token's four bits do not hold of a length; returns the address behind it."""
    if length >= 15:
        length -= 15
        while length >= 255:
            store_byte(op, 255)
            op += 1
            length -= 255
        store_byte(op, length)
        op += 1
    return op
