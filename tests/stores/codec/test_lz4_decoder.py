import lz4.block
import numpy as np
from chunk_cases import as_array, repetitive
from hypothesis import given
from hypothesis import strategies as st

from flowcpc.stores.base.compiled import kernel
from flowcpc.stores.codec.lz4_decoder import decode_blocks
from flowcpc.stores.codec.raw_bytes import SLACK, address_of


@kernel
def decode_two(one, two, sizes, target, other, lengths, needed):
    """decode_blocks on arrays."""
    a, b = address_of(one), address_of(two)
    return decode_blocks(
        a,
        a + sizes[0],
        address_of(target),
        needed[0],
        lengths[0],
        b,
        b + sizes[1],
        address_of(other),
        needed[1],
        lengths[1],
    )


def rooms(blocks: list[bytes], lengths: list[int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [as_array(block + bytes(SLACK)) for block in blocks], [
        np.full(n + SLACK, 7, np.uint8) for n in lengths
    ]


@given(
    repetitive,
    repetitive,
    st.sampled_from(["fast", "high_compression"]),
    st.tuples(*[st.integers(0, 40)] * 2),
)
def test_blocks_of_another_compressor(
    one: bytes, two: bytes, mode: str, left_out: tuple[int, int]
) -> None:
    data = [one, two]
    blocks = [lz4.block.compress(part, mode=mode, store_size=False) for part in data]
    lengths = [len(part) for part in data]
    sources, targets = rooms(blocks, lengths)
    needed = tuple(max(0, length - out) for length, out in zip(lengths, left_out, strict=True))
    assert decode_two(*sources, tuple(map(len, blocks)), *targets, tuple(lengths), needed)
    for target, part, count in zip(targets, data, needed, strict=True):
        assert target[:count].tobytes() == part[:count]


@given(repetitive)
def test_an_empty_block_is_left_out(data: bytes) -> None:
    block = lz4.block.compress(data, store_size=False)
    sources, targets = rooms([block, b""], [len(data), 0])
    assert decode_two(*sources, (len(block), 0), *targets, (len(data), 0), (len(data), 0))
    assert targets[0][: len(data)].tobytes() == data
    assert not decode_two(*sources, (len(block), 0), *targets, (len(data), 5), (len(data), 5))


@given(repetitive, st.binary(max_size=60), st.integers(0, 300))
def test_nothing_is_read_or_written_out_of_bounds(data: bytes, noise: bytes, length: int) -> None:
    block = lz4.block.compress(data, store_size=False)
    guard = 64
    sources, _ = rooms([block, noise], [])
    targets = [np.full(size + SLACK + guard, 99, np.uint8) for size in (len(data), length)]
    decode_two(
        *sources, (len(block), len(noise)), *targets, (len(data), length), (len(data), length)
    )
    assert targets[0][: len(data)].tobytes() == data or length
    for target in targets:
        assert (target[-guard:] == 99).all()
