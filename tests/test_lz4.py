import lz4.block
import numcodecs.blosc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stores.lz4 import compress, decode_block, decode_frame, decompress
from stores.raw_bytes import SLACK

# Few different bytes, repeated: matches of every length and distance.
repetitive = st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 60)), min_size=1, max_size=30).map(
    lambda parts: b"".join(part * count for part, count in parts)
)


@given(repetitive)
def test_what_is_compressed_comes_back(data: bytes) -> None:
    frame = compress(np.frombuffer(data, np.uint8))
    assert decompress(frame, len(data)) == data
    assert numcodecs.blosc.decompress(frame) == data


@given(hnp.arrays(np.uint8, st.integers(1, 3000)))
def test_noise_comes_back(data: np.ndarray) -> None:
    assert decompress(compress(data), data.nbytes) == data.tobytes()


@given(repetitive, st.sampled_from(["fast", "high_compression"]), st.integers(0, 40))
def test_blocks_of_another_compressor_are_decoded(data: bytes, mode: str, left_out: int) -> None:
    block = lz4.block.compress(data, mode=mode, store_size=False)
    source = np.frombuffer(block + bytes(SLACK), np.uint8)
    target = np.full(len(data) + SLACK, 7, np.uint8)
    needed = max(0, len(data) - left_out)
    assert decode_block(source, 0, len(block), target, 0, needed, len(data))
    assert target[:needed].tobytes() == data[:needed]


def test_frames_of_several_blocks() -> None:
    data = np.tile(np.arange(1000, dtype=np.uint16).view(np.uint8), 300)
    frame = numcodecs.blosc.compress(data, b"lz4", 1, numcodecs.blosc.NOSHUFFLE, 1 << 16, typesize=1)
    for needed in (0, 1, 65536, 65537, data.nbytes):
        source = np.frombuffer(frame + bytes(SLACK), np.uint8)
        target = np.zeros(data.nbytes + SLACK, np.uint8)
        assert decode_frame(source, 0, len(frame), target, needed)
        assert target[:needed].tobytes() == data[:needed].tobytes()


@given(repetitive, st.data())
def test_no_damage_is_read_or_written_out_of_bounds(data: bytes, draw: st.DataObject) -> None:
    frame = bytearray(compress(np.frombuffer(data, np.uint8)))
    for _ in range(draw.draw(st.integers(1, 4))):
        frame[draw.draw(st.integers(0, len(frame) - 1))] = draw.draw(st.integers(0, 255))
    guard = 64
    source = np.frombuffer(bytes(frame) + bytes(SLACK), np.uint8)
    target = np.full(len(data) + SLACK + guard, 99, np.uint8)
    decode_frame(source, 0, len(frame), target[: len(data) + SLACK], len(data))
    assert (target[-guard:] == 99).all()


@pytest.mark.parametrize("size", [0, 1, 15, 16, 19, 20, 40])
def test_frames_that_were_cut_off_are_refused(size: int) -> None:
    frame = compress(np.zeros(5000, np.uint8))
    assert decompress(frame[:size], 5000) is None
    assert decompress(frame, 4999) is None
