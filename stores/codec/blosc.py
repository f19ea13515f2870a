"""Blosc frames: a chunk of codes as two LZ4 blocks, one per half, which are decoded side by side.

A training step opens tens of thousands of small chunks. A kernel decodes them without a call, an
allocation or the GIL for each, and crops them while they are still in the processor's cache. In a
chunk of one flow each half is one component, so the rows below a crop are decoded in neither.

Source: the Blosc 1 chunk header, as its project documents it. The Blosc library reads these frames.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.base.compiled import kernel
from flowcpc.stores.codec.lz4_decoder import decode_blocks
from flowcpc.stores.codec.lz4_encoder import TABLE_BYTES, encode_block, most_bytes
from flowcpc.stores.codec.raw_bytes import SLACK, address_of, load_byte, load_word, store_word

# Written into Zarr's and HDF5's metadata; readers do not depend on these values.
COMPRESSOR: Literal["lz4"] = "lz4"
LEVEL = 5
CODEC = "blosc-lz4-halves"
# Bytes: version, LZ4's version, flags, element size. Words: length of chunk, of block, of frame.
_HEADER = 16
_STARTS = 8  # where the two blocks are
_VERSION, _LZ4_VERSION = 2, 1
_COPIED, _NOT_SPLIT, _LZ4 = 0x02, 0x10, 1 << 5


def scratch_bytes(length: int) -> int:
    """Return the bytes that `decode_frame` needs as target for a chunk of `length` bytes."""
    return length + 2 * SLACK


def compress(chunk: NDArray[np.generic]) -> bytes:
    """Return a chunk as one Blosc frame; equal chunks give equal frames.

    The last axis of `chunk` is x. It has an even number of bytes, at least two.
    """
    length, row = chunk.nbytes, chunk.shape[-1] * chunk.itemsize
    source = np.zeros(length + SLACK, np.uint8)
    source[:length] = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
    frame = np.empty(_HEADER + _STARTS + 2 * (4 + most_bytes(length // 2)) + SLACK, np.uint8)
    size = _encode_frame(source, length, row, np.empty(TABLE_BYTES, np.uint8), frame)
    return frame[:size].tobytes()


def decompress(frame: bytes, length: int) -> bytes | None:
    """Return the `length` bytes of a frame that `compress` made; None for any other bytes."""
    target = np.empty(scratch_bytes(length), np.uint8)
    source = np.frombuffer(frame + bytes(SLACK), np.uint8)
    half = length // 2
    if not decode_frame(source, 0, len(frame), target, half):
        return None
    return target[:half].tobytes() + target[half + SLACK : length + SLACK].tobytes()


@kernel
def _encode_frame(source, length, row, table, frame):
    """Write the first `length` bytes of `source` to `frame`, both uint8; return its size."""
    begin, half = address_of(frame), length // 2
    size = _HEADER + _STARTS
    for k in range(2):
        table[:] = 0
        block = begin + size + 4
        packed = encode_block(address_of(source) + k * half, half, row, address_of(table), block)
        if packed >= half:  # Blosc's sign for a block that is not compressed is its full size
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
    store_word(begin, _VERSION | _LZ4_VERSION << 8 | flags << 16 | 1 << 24)
    store_word(begin + 4, length)
    store_word(begin + 8, half)
    store_word(begin + 12, size)
    return size


@kernel
def decode_frame(source, start, size, target, needed):
    """Decode at least the first `needed` bytes of each half of a chunk.

    Bytes [start, start + size) of `source` are the frame; SLACK more bytes follow. `target` has
    scratch_bytes(length of the chunk) bytes; its second half starts SLACK bytes behind the first.
    Both are uint8. Return whether the frame is one that `compress` makes of a chunk of that length.
    """
    length = len(target) - 2 * SLACK
    half = length // 2
    frame = address_of(source) + start
    if size < _HEADER or load_byte(frame) != _VERSION or load_byte(frame + 3) != 1:
        return False
    if (load_word(frame + 4), load_word(frame + 8), load_word(frame + 12)) != (length, half, size):
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
    first, second = target[:half], target[half + SLACK : length + SLACK]
    one, one_end, one_needed = _block(source, start, size, 0, first, needed)
    two, two_end, two_needed = _block(source, start, size, 1, second, needed)
    if one == 0 or two == 0:
        return False
    to = address_of(target)
    return decode_blocks(
        one, one_end, to, one_needed, half, two, two_end, to + half + SLACK, two_needed, half
    )


@kernel
def _block(source, start, size, number, target, needed):
    """Return the begin and end address of a block and how many of its bytes must be decoded.

    A block that is not compressed is copied to `target` at once, so none of it must be decoded.
    Return (0, 0, 0) for a block that leaves the frame.
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
