import lz4.block
import numpy as np
import pytest
from chunk_cases import as_array, repetitive
from hypothesis import given
from hypothesis import strategies as st

from flowcpc.stores.base.compiled import kernel
from flowcpc.stores.codec.lz4_decoder import SHORTEST_OFFSET
from flowcpc.stores.codec.lz4_encoder import TABLE_BYTES, encode_block, most_bytes
from flowcpc.stores.codec.raw_bytes import SLACK, address_of


@kernel
def _encode(source, length, row, table, target):
    return encode_block(address_of(source), length, row, address_of(table), address_of(target))


def encode(data: bytes, row: int) -> bytes:
    target = np.full(most_bytes(len(data)) + SLACK + 64, 99, np.uint8)
    size = _encode(
        as_array(data + bytes(SLACK)), len(data), row, np.zeros(TABLE_BYTES, np.uint8), target
    )
    assert (target[-64:] == 99).all()
    assert size <= most_bytes(len(data))
    return target[:size].tobytes()


def offsets(block: bytes) -> list[int]:
    """The distance of every match in a block."""
    found, at = [], 0

    def length(four_bits: int, at: int) -> tuple[int, int]:
        total, more = four_bits, 255 * (four_bits == 15)
        while more == 255:
            more = block[at]
            total, at = total + more, at + 1
        return total, at

    while True:
        token = block[at]
        literals, at = length(token >> 4, at + 1)
        at += literals
        if at == len(block):
            return found
        found.append(block[at] + 256 * block[at + 1])
        _, at = length(token & 15, at + 2)


@given(st.one_of(repetitive, st.binary(min_size=1, max_size=400)), st.integers(1, 400))
def test_another_decoder_reads_every_block(data: bytes, row: int) -> None:
    block = encode(data, row)
    assert lz4.block.decompress(block, uncompressed_size=len(data)) == data
    assert all(offset >= SHORTEST_OFFSET for offset in offsets(block))


def test_far_apart_repetitions() -> None:
    """Offsets have 16 bits: what is farther away is no match."""
    part = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8).tobytes()
    for gap in (60_000, 70_000):
        data = (
            part + np.random.default_rng(1).integers(0, 256, gap, dtype=np.uint8).tobytes() + part
        )
        block = encode(data, 342)
        assert lz4.block.decompress(block, uncompressed_size=len(data)) == data


@pytest.mark.parametrize("row", [1, 7, 31, 32, 33, 342])
def test_rows_that_repeat_shrink(row: int) -> None:
    data = np.tile(
        np.random.default_rng(2).integers(0, 256, row, dtype=np.uint8), 8000 // row
    ).tobytes()
    block = encode(data, row)
    assert lz4.block.decompress(block, uncompressed_size=len(data)) == data
    assert len(block) < 500 + row
