import numcodecs.blosc
import numpy as np
import pytest
from chunk_cases import as_array, repetitive
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowcpc.stores.codec.blosc import compress, decode_frame, decompress, scratch_bytes
from flowcpc.stores.codec.raw_bytes import SLACK

halves = repetitive.filter(lambda data: len(data) > 1).map(lambda data: data[: len(data) // 2 * 2])
images = hnp.arrays(np.uint8, st.tuples(st.just(2), st.integers(1, 30), st.integers(1, 90)))


@given(halves, st.integers(1, 100))
def test_what_is_compressed_comes_back(data: bytes, row: int) -> None:
    chunk = as_array(data)
    if len(data) % row == 0:
        chunk = chunk.reshape(-1, row)
    frame = compress(chunk)
    assert decompress(frame, len(data)) == data
    assert numcodecs.blosc.decompress(frame) == data
    assert compress(chunk) == frame


@given(images)
def test_noise_comes_back(chunk: np.ndarray) -> None:
    frame = compress(chunk)
    assert decompress(frame, chunk.nbytes) == chunk.tobytes() == numcodecs.blosc.decompress(frame)
    assert len(frame) <= chunk.nbytes + 16


@pytest.mark.parametrize("compressible", [(0,), (1,), (0, 1)])
def test_a_half_that_does_not_shrink_is_kept_beside_one_that_does(
    compressible: tuple[int, ...],
) -> None:
    chunk = np.random.default_rng(0).integers(0, 256, (2, 40, 50), dtype=np.uint8)
    for half in compressible:
        chunk[half] = 3
    frame = compress(chunk)
    assert len(frame) < chunk.nbytes * (1 - len(compressible) / 2) + 150
    assert decompress(frame, chunk.nbytes) == chunk.tobytes() == numcodecs.blosc.decompress(frame)


@pytest.mark.parametrize("dtype", ["<i2", "<f2"])
def test_codes_of_two_bytes(dtype: str) -> None:
    chunk = np.cumsum(np.random.default_rng(1).normal(0, 1, (2, 30, 40)), axis=2).astype(dtype)
    assert decompress(compress(chunk), chunk.nbytes) == chunk.tobytes()


def test_equal_data_give_equal_frames_whatever_lay_in_memory() -> None:
    chunk = np.tile(np.arange(64, dtype=np.uint8), (2, 20, 3))
    first = compress(chunk)
    np.full(1 << 20, 64, np.uint8)  # freed at once, so that the next room may be this
    assert compress(np.array(chunk[:, ::-1][:, ::-1])) == first


@given(images, st.floats(0, 1))
def test_as_much_as_is_needed_of_either_half(chunk: np.ndarray, part: float) -> None:
    half = chunk.nbytes // 2
    needed = int(part * half)
    frame = compress(chunk % 3)  # which has matches
    room = np.full(scratch_bytes(chunk.nbytes), 7, np.uint8)
    assert decode_frame(as_array(frame + bytes(SLACK)), 0, len(frame), room, needed)
    data = (chunk % 3).tobytes()
    assert room[:needed].tobytes() == data[:needed]
    assert room[half + SLACK : half + SLACK + needed].tobytes() == data[half : half + needed]


@given(halves, st.data())
def test_no_damage_is_read_or_written_out_of_bounds(data: bytes, draw: st.DataObject) -> None:
    frame = bytearray(compress(as_array(data)))
    for _ in range(draw.draw(st.integers(1, 4))):
        frame[draw.draw(st.integers(0, len(frame) - 1))] = draw.draw(st.integers(0, 255))
    guard = 64
    target = np.full(scratch_bytes(len(data)) + guard, 99, np.uint8)
    source = as_array(bytes(frame) + bytes(SLACK))
    decode_frame(source, 0, len(frame), target[:-guard], len(data) // 2)
    assert (target[-guard:] == 99).all()


@pytest.mark.parametrize("size", [0, 1, 15, 16, 19, 20, 31, 40])
def test_frames_that_were_cut_off_are_refused(size: int) -> None:
    frame = compress(np.zeros(5000, np.uint8))
    assert decompress(frame[:size], 5000) is None
    assert decompress(frame, 4998) is None


def test_frames_of_another_shape_are_refused() -> None:
    data = np.tile(np.arange(1000, dtype=np.uint16).view(np.uint8), 30)
    for block in (data.nbytes, 1 << 12):
        frame = numcodecs.blosc.compress(
            data, b"lz4", 5, numcodecs.blosc.NOSHUFFLE, block, typesize=1
        )
        assert decompress(frame, data.nbytes) is None
