"""Blosc frames of LZ4 blocks: made by the Blosc library, opened by a decoder of our own.

A training step opens tens of thousands of small chunks. Inside a kernel that costs nothing but the decoding: no call, no allocation and no GIL
for each, and what is decoded is still in the processor's cache when it is cropped.

Sources: the LZ4 block format and the Blosc 1 chunk header, as their projects document them.
"""

from typing import Literal

import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

from stores.compiled import kernel
from stores.raw_bytes import SLACK, copy_16, copy_32, copy_64, load_byte, load_pair, load_word, select

COMPRESSOR: Literal["lz4hc"] = "lz4hc"
LEVEL = 4
CODEC = f"blosc-{COMPRESSOR}-{LEVEL}"
_HEADER = 16
_VERSION = 2
_COPIED = 0x02  # a frame whose bytes did not shrink
_LZ4 = 1 << 5
# Blosc's own threads would compete with the extraction's processes for the same cores.
numcodecs.blosc.use_threads = False


def compress(data: NDArray[np.generic]) -> bytes:
    """Return a C-contiguous array as one Blosc frame: LZ4 (HC), no shuffle."""
    # typesize 1, whatever the dtype: without a shuffle Blosc would use it to cut the data into halves only.
    return bytes(
        numcodecs.blosc.compress(data, COMPRESSOR.encode(), LEVEL, numcodecs.blosc.NOSHUFFLE, data.nbytes, typesize=1)
    )


@kernel
def decode_frame(source, start, size, target, needed):
    """Decode at least the first `needed` bytes of the Blosc frame in bytes [start, start + size) of `source` to `target`.

    Returns whether there is such a frame and it is as long as `target`. Both are uint8 arrays with raw_bytes.SLACK bytes behind what is used.
    """
    length = len(target) - SLACK
    if size < _HEADER or load_byte(source, start) != _VERSION or load_word(source, start + 12) != size:
        return False
    flags = load_byte(source, start + 2)
    block = load_word(source, start + 8)
    if load_byte(source, start + 3) != 1 or load_word(source, start + 4) != length or block < 1:
        return False
    if flags & _COPIED:
        if size != _HEADER + length:
            return False
        target[:length] = source[start + _HEADER : start + size]
        return True
    if flags & ~0x10 != _LZ4:
        return False
    blocks = (length + block - 1) // block
    if _HEADER + 4 * blocks > size:
        return False
    for b in range((needed + block - 1) // block):
        begin = b * block
        end = min(begin + block, length)
        at = load_word(source, start + _HEADER + 4 * b)
        if at + 4 > size:
            return False
        packed = load_word(source, start + at)
        at += start + 4
        if at + packed > start + size:
            return False
        if packed == end - begin:
            target[begin:end] = source[at : at + packed]
        elif not decode_block(source, at, at + packed, target, begin, min(needed, end), end):
            return False
    return True


@kernel
def decode_block(source, ip, source_end, target, begin, needed, target_end):
    """Decode the LZ4 block in bytes [ip, source_end) of `source` to bytes [begin, target_end) of `target`, at least up to `needed`.

    Returns whether the block is one and does not leave these bounds. The time goes into branches that the processor guesses wrongly, once or
    twice in each of thousands of short sequences. So a length's second byte is read whether or not it is there, and 64 bytes are copied where 5
    were wanted.
    """
    op = begin
    while ip < source_end and op < needed:
        token = load_byte(source, ip)
        ip += 1
        literals = token >> 4
        if literals == 15:
            more = np.int64(255)
            while more == 255:
                if ip >= source_end:
                    return False
                more = load_byte(source, ip)
                ip += 1
                literals += more
            if ip + literals > source_end or op + literals > target_end:
                return False
            for k in range(0, literals, 32):
                copy_32(target, op + k, source, ip + k)
        else:
            if ip + literals > source_end or op + literals > target_end:
                return False
            copy_16(target, op, source, ip)
        ip += literals
        op += literals
        if ip >= source_end - 1:  # the last sequence has no match
            return ip == source_end and op == target_end
        offset = load_pair(source, ip)
        more = load_byte(source, ip + 2)
        length = token & 15
        has_more = length == 15
        ip += select(has_more, 3, 2)
        length += select(has_more, more + 4, 4)
        if length == 15 + 4 + 255:
            while more == 255:
                if ip >= source_end:
                    return False
                more = load_byte(source, ip)
                ip += 1
                length += more
        end = op + length
        if offset == 0 or op - offset < begin or end > target_end or ip > source_end:
            return False
        if offset >= 64:
            copy_64(target, op, target, op - offset)
            if length > 64:
                for k in range(op + 64, end, 64):
                    copy_64(target, k, target, k - offset)
        elif offset >= 16:
            for k in range(op, end, 16):
                copy_16(target, k, target, k - offset)
        else:
            # A match may reach into itself: what it repeats doubles until a whole vector of it is there.
            while offset < 16 and op < end:
                copy_16(target, op, target, op - offset)
                op += offset
                offset += offset
            for k in range(op, end, 16):
                copy_16(target, k, target, k - offset)
        op = end
    return op >= needed


def decompress(frame: bytes, size: int) -> bytes | None:
    """Return the `size` bytes of a Blosc frame that `compress` made, or None where it is no such frame."""
    target = np.empty(size + SLACK, np.uint8)
    source = np.frombuffer(frame + bytes(SLACK), np.uint8)
    return target[:size].tobytes() if decode_frame(source, 0, len(frame), target, size) else None
