"""LZ4 blocks of flow codes, made to be decoded fast.

Any LZ4 decoder reads them. Our own is fastest with few sequences, so the search hashes eight bytes,
looks into the rows above too, and moves a match by a byte if the next one is longer. It takes no
match nearer than SHORTEST_OFFSET: a decoder waits for one that overlaps itself, or bytes that were
written an instant ago. Matches are measured 64 bytes at a time. Encoding takes less than half the
time of the LZ4 library's HC compressor; the blocks are a seventh larger (docs/stores/store.md).

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
TABLE_BYTES = 8 << _HASH_BITS  # the two last positions of each hash
# 2^64 over the golden ratio: neighbouring values fall far apart.
_FACTOR = np.uint64(0x9E3779B185EBCA87)
_SHIFT = np.uint64(64 - _HASH_BITS)
_SHORTEST, _FARTHEST = 5, 65535
_LAST_LITERALS = 5  # bytes at the end of a block that must be literals
_NO_MATCH = 12  # bytes at the end of a block in which no match may begin
_PATIENCE = 6  # the search takes longer steps after every 2^6 literals in a row


def most_bytes(length: int) -> int:
    """Return the largest size of a block of `length` bytes, without the SLACK behind it."""
    return length + length // 255 + 16


@kernel
def encode_block(source, length, row, table, target):
    """Write the `length` bytes at `source` as an LZ4 block to `target` and return its size.

    Both are addresses with SLACK bytes behind; those behind `source` must always have the same
    values, so that equal data give equal blocks. `row` is the bytes of an image row: the bytes
    above are often the same. `table` is the address of TABLE_BYTES zero bytes.
    """
    end = source + length
    last = end - _NO_MATCH
    above = row * ((SHORTEST_OFFSET + row - 1) // row)  # the nearest row that is not too near
    filled = anchor = ip = source
    op = target
    while ip < last:
        while filled <= ip - SHORTEST_OFFSET:
            slot = _slot(table, filled)
            store_word(slot + 4, load_word(slot))
            store_word(slot, filled - source + 1)
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
def _slot(table, address):
    """Return where the table keeps the last two positions of the eight bytes at `address`."""
    value = (np.uint64(load_long(address)) * _FACTOR) >> _SHIFT
    return table + (np.int64(value) << 3)


@inlined
def _longest(source, ip, end, above, row, table):
    """Return (length, offset) of the longest match found for `ip`."""
    longest, nearest = np.int64(0), np.int64(0)
    slot, distance = _slot(table, ip), ip - source + 1
    longest, nearest = _longer(source, ip, distance - load_word(slot), longest, nearest)
    longest, nearest = _longer(source, ip, distance - load_word(slot + 4), longest, nearest)
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
    """Return (length, offset) of the match at `offset` if it is longer than the longest so far."""
    # An empty slot of the table points before the beginning of the block.
    if longest < 64 and SHORTEST_OFFSET <= offset <= min(ip - source, _FARTHEST):
        equal = equal_bytes_of_64(ip, ip - offset)
        if equal > longest:
            return equal, offset
    return longest, nearest


@inlined
def _write_literals(op, source, count, match):
    """Write a token (with `match`, at most 15) and its literals; return the address behind them."""
    store_byte(op, (min(count, 15) << 4) | match)
    op = _write_more(op + 1, count)
    for k in range(0, count, 16):
        copy_16(op + k, source + k)
    return op + count


@inlined
def _write_more(op, length):
    """Write what a token's four bits do not hold of `length`; return the address behind it."""
    if length >= 15:
        length -= 15
        while length >= 255:
            store_byte(op, 255)
            op += 1
            length -= 255
        store_byte(op, length)
        op += 1
    return op
