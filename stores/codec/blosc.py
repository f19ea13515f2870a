"""Blosc frames: a chunk of codes as two LZ4 blocks, one for each half, which are decoded side by side.

A training step opens tens of thousands of small chunks. Inside a kernel that costs nothing but the decoding: no call, no allocation and no GIL
for each, and what is decoded is still in the processor's cache when it is cropped. A half of a chunk of one flow is one component, so what lies
below a crop is decoded in neither.

Source: the Blosc 1 chunk header, as its project documents it; the Blosc library reads these frames.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.base.compiled import kernel
from flowcpc.stores.codec.lz4_decoder import decode_blocks
from flowcpc.stores.codec.lz4_encoder import TABLE_BYTES, encode_block, most_bytes
from flowcpc.stores.codec.raw_bytes import (
    SLACK,
    address_of,
    load_byte,
    load_word,
    store_byte,
    store_word,
)

# What Zarr's and HDF5's metadata say; whoever reads does not depend on it.
COMPRESSOR: Literal["lz4"] = "lz4"
LEVEL = 5
CODEC = "blosc-lz4-halves"
_HEADER = 16  # version, LZ4's version, flags, bytes of an element; length, length of a block, length of the frame
_STARTS = 8  # where the two blocks are
_VERSION, _LZ4_VERSION = 2, 1
_COPIED, _NOT_SPLIT, _LZ4 = 0x02, 0x10, 1 << 5


def scratch_bytes(length: int) -> int:
    """Return how many bytes of room `decode_frame` needs for a chunk of `length` bytes."""
    return length + 2 * SLACK


def compress(chunk: NDArray[np.generic]) -> bytes:
    """Return a chunk as one Blosc frame, the same for the same chunk. Its last axis is x; it has an even number of bytes, at least two."""
    length, row = chunk.nbytes, chunk.shape[-1] * chunk.itemsize
    source = np.zeros(length + SLACK, np.uint8)
    source[:length] = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
    frame = np.empty(_HEADER + _STARTS + 2 * (4 + most_bytes(length // 2)) + SLACK, np.uint8)
    return frame[
        : _encode_frame(source, length, row, np.empty(TABLE_BYTES, np.uint8), frame)
    ].tobytes()


def decompress(frame: bytes, length: int) -> bytes | None:
    """Return the `length` bytes of a frame that `compress` made, or None where it is no such frame."""
    room = np.empty(scratch_bytes(length), np.uint8)
    source = np.frombuffer(frame + bytes(SLACK), np.uint8)
    half = length // 2
    if not decode_frame(source, 0, len(frame), room, half):
        return None
    return room[:half].tobytes() + room[half + SLACK : length + SLACK].tobytes()


@kernel
def _encode_frame(source, length, row, table, frame):
    """Write the first `length` bytes of `source` as a frame to `frame`; returns how many bytes it takes. All are uint8 arrays."""
    begin, half = address_of(frame), length // 2
    size = _HEADER + _STARTS
    for k in range(2):
        table[:] = 0
        block = begin + size + 4
        packed = encode_block(address_of(source) + k * half, half, row, address_of(table), block)
        if packed >= half:  # Blosc's sign that a block is as it was
            packed = half
            frame[size + 4 : size + 4 + half] = source[k * half : (k + 1) * half]
        store_word(begin + _HEADER + 4 * k, size)
        store_word(block - 4, packed)
        size += 4 + packed
    flags = _LZ4 | _NOT_SPLIT
    if size >= _HEADER + length:
        flags |= _COPIED
        size = _HEADER + length
        frame[_HEADER:size] = source[:length]
    store_byte(begin, _VERSION)
    store_byte(begin + 1, _LZ4_VERSION)
    store_byte(begin + 2, flags)
    store_byte(begin + 3, 1)
    store_word(begin + 4, length)
    store_word(begin + 8, half)
    store_word(begin + 12, size)
    return size


@kernel
def decode_frame(source, start, size, target, needed):
    """Decode the first `needed` bytes, at least, of either half of a chunk.

    Parameters
    ----------
    source : uint8
        Its bytes [start, start + size) are the frame, and SLACK more are behind it.
    target : uint8
        Its length is scratch_bytes of the chunk's; the second half comes SLACK bytes behind the first.

    Returns
    -------
    bool
        Whether it is a frame of such a chunk as `compress` makes one.
    """
    length = len(target) - 2 * SLACK
    half = length // 2
    frame = address_of(source) + start
    if size < _HEADER or load_byte(frame) != _VERSION or load_byte(frame + 3) != 1:
        return False
    if (
        load_word(frame + 4) != length
        or load_word(frame + 8) != half
        or load_word(frame + 12) != size
    ):
        return False
    flags = load_byte(frame + 2)
    if flags == _LZ4 | _NOT_SPLIT | _COPIED:
        if size != _HEADER + length:
            return False
        body = start + _HEADER
        target[:half] = source[body : body + half]
        target[half + SLACK : length + SLACK] = source[body + half : body + length]
        return True
    if flags != _LZ4 | _NOT_SPLIT or size < _HEADER + _STARTS + 8:
        return False
    one, one_end, one_needed = _block(source, start, size, 0, target[:half], needed)
    two, two_end, two_needed = _block(
        source, start, size, 1, target[half + SLACK : length + SLACK], needed
    )
    if one == 0 or two == 0:
        return False
    to = address_of(target)
    return decode_blocks(
        one, one_end, to, one_needed, half, two, two_end, to + half + SLACK, two_needed, half
    )


@kernel
def _block(source, start, size, number, target, needed):
    """Return a block's addresses, half open, and what is needed of it: nothing where it was not compressed, and copied here. (0, 0, 0) where it
    leaves the frame.
    """
    frame = address_of(source) + start
    at = load_word(frame + _HEADER + 4 * number)
    if at > size - 4:
        return 0, 0, 0
    packed = load_word(frame + at)
    at += 4
    if packed > size - at:
        return 0, 0, 0
    if packed == len(target):
        target[:] = source[start + at : start + at + packed]
        return frame + at, frame + at, 0
    return frame + at, frame + at + packed, needed
