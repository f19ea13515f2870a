"""The kernel of reading: stored bytes in, cropped flow out."""

from flowcpc.stores.base.compiled import kernel
from flowcpc.stores.codec.blosc import decode_frame
from flowcpc.stores.codec.checksums import crc32c
from flowcpc.stores.codec.raw_bytes import SLACK, address_of, copy_1, copy_32


@kernel
def read_window(raw, where, first, flows, chunk, corner, size, scratch, out):
    """Decode the crop of some flows; return whether their chunks are as they were written.

    `raw`, uint8, has the bytes of the chunks and SLACK more; `where` the offsets in it, sizes and
    checks of these chunks, each int64 (n,), as a ChunkMap does. `first` is the first flow in them;
    `flows`, int64 (N,), are those to decode, ascending, with repetitions. `chunk` is (flows,
    height, width, bytes of a code). `corner` is (top, left) and `size` (h, w), px, within the flow.
    `scratch`, uint8, has scratch_bytes of a chunk. `out`, uint8, takes the crops (N, 2, h, w).
    """
    offsets, sizes, checks = where
    per_chunk, rows, columns, itemsize = chunk
    top, left = corner
    height, width = size
    # Each half of a chunk has as many planes as the chunk has flows. In the last of them, the rows
    # below the crop need not be decoded.
    plane = rows * columns * itemsize
    needed = (per_chunk - 1) * plane + (top + height) * columns * itemsize
    length = width * itemsize
    target = address_of(out)
    decoded = -1
    for flow in flows:
        c, within = divmod(flow - first, per_chunk)
        if c != decoded:
            if crc32c(raw, offsets[c], sizes[c]) != checks[c]:
                return False
            if not decode_frame(raw, offsets[c], sizes[c], scratch, needed):
                return False
            decoded = c
        for component in range(2):
            number = within * 2 + component
            source = address_of(scratch) + number * plane + (top * columns + left) * itemsize
            if number >= per_chunk:
                source += SLACK
            for _ in range(height):
                _copy_row(target, source, length)
                source += columns * itemsize
                target += length
    return True


@kernel
def _copy_row(target, source, length):
    """Copy `length` bytes and no more."""
    if length < 32:
        for i in range(length):
            copy_1(target + i, source + i)
        return
    for i in range(0, length - 32, 32):
        copy_32(target + i, source + i)
    copy_32(target + length - 32, source + length - 32)  # overlaps the one before
