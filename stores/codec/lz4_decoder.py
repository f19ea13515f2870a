"""LZ4 blocks, decoded two at a time: any block of the format, those of lz4_encoder.py fast.

A decoder spends its time waiting for the length that says where the next sequence begins, and after
mispredicted branches. So two blocks advance in one loop, each while the other waits; the second
byte of a length is read even if it is absent; 128 bytes are copied where 5 were wanted; and a
single branch, rarely taken, covers all rare cases.

Source: the LZ4 block format, as its project documents it.
"""

import numpy as np

from flowcpc.stores.base.compiled import inlined, kernel
from flowcpc.stores.codec.raw_bytes import copy_16, copy_32, load_byte, load_pair, select

SHORTEST_OFFSET, LONGEST_COPY = 32, 128  # of the matches that are copied without a branch
_EXTENDED, _LEAST_MATCH, _MORE = 15, 4, 255


@kernel
def decode_blocks(
    one, one_end, target, needed, length, two, two_end, other, also_needed, other_length
):
    """Decode block [one, one_end) to `target` and [two, two_end) to `other`.

    All are addresses; SLACK readable bytes follow a block, which may be empty, and SLACK writable
    bytes follow the `length` and `other_length` bytes of the targets. Return whether the blocks
    hold the first `needed` and `also_needed` of these bytes and do not leave their bounds.
    """
    op, stop, end = target, target + needed, target + length
    oq, stop_q, end_q = other, other + also_needed, other + other_length
    while (one < one_end) & (op < stop) & (two < two_end) & (oq < stop_q):
        one, op = _step(one, one_end, target, op, end)
        two, oq = _step(two, two_end, other, oq, end_q)
    while (one < one_end) & (op < stop):
        one, op = _step(one, one_end, target, op, end)
    while (two < two_end) & (oq < stop_q):
        two, oq = _step(two, two_end, other, oq, end_q)
    within = (one <= one_end) & (two <= two_end) & (op <= end) & (oq <= end_q)
    return within & (op >= stop) & (oq >= stop_q)


@inlined
def _step(ip, ip_end, begin, op, op_end):
    """Decode the sequence at `ip` to `op`; return the next of both, past `ip_end` if invalid."""
    token = load_byte(ip)
    ip += 1
    literals = token >> 4
    if literals == _EXTENDED:
        more = np.int64(_MORE)
        while more == _MORE and ip < ip_end:
            more = load_byte(ip)
            ip += 1
            literals += more
        if ip + literals > ip_end or op + literals > op_end:
            return ip_end + 1, op
        for k in range(0, literals, 32):
            copy_32(op + k, ip + k)
    else:
        copy_16(op, ip)
    ip += literals
    op += literals
    if ip >= ip_end:  # the last sequence has no match
        return ip, op
    offset = load_pair(ip)
    length = token & 15
    more = load_byte(ip + 2)
    extended = length == _EXTENDED
    ip += select(extended, 3, 2)
    length += select(extended, more + _LEAST_MATCH, _LEAST_MATCH)
    source = op - offset
    end = op + length
    rare = (offset < SHORTEST_OFFSET) | (length > LONGEST_COPY)
    if rare | (source < begin) | (end > op_end) | (ip > ip_end):
        return _copy_any(ip, ip_end, begin, op, op_end, offset, length, more)
    copy_32(op, source)
    copy_32(op + 32, source + 32)
    copy_32(op + 64, source + 64)
    copy_32(op + 96, source + 96)
    return ip, end


@kernel
def _copy_any(ip, ip_end, begin, op, op_end, offset, length, more):
    """Finish a sequence whose match is long, near or invalid; its first bytes gave `length`."""
    if length == _EXTENDED + _LEAST_MATCH + _MORE:
        while more == _MORE and ip < ip_end:
            more = load_byte(ip)
            ip += 1
            length += more
    end = op + length
    if offset == 0 or op - offset < begin or end > op_end or ip > ip_end:
        return ip_end + 1, op
    # A match may overlap itself: the repeated part doubles until it fills a whole vector.
    while offset < 32 and op < end:
        copy_32(op, op - offset)
        op += offset
        offset += offset
    for k in range(op, end, 32):
        copy_32(k, k - offset)
    return ip, end
