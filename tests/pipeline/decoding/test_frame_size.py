"""How large frames become."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcpc.pipeline.decoding.frame_size import MAX_SIDE, FrameSize, frames_per_block

sides = st.integers(16, 4000)


@given(sides, sides, sides, sides)
def test_one_size_is_every_video_s(
    height: int, width: int, source_height: int, source_width: int
) -> None:
    assert FrameSize(height, width).resolve(source_height, source_width) == (height, width)


@given(st.integers(16, 512), st.integers(16, 2000), st.integers(16, 2000))
def test_the_shorter_side_is_as_asked_and_the_longer_one_the_nearest_even(
    side: int, height: int, width: int
) -> None:
    try:
        found = FrameSize(short_side=side).resolve(height, width)
    except ValueError:
        assert side * max(height, width) / min(height, width) > MAX_SIDE - 1
        return
    assert min(found) == side
    assert FrameSize(short_side=side).resolve(width, height) == found[::-1]
    if height == width:
        assert found == (side, side)
        return
    assert (found[0] > found[1]) == (height > width) or found[0] == found[1]
    exact = side * max(height, width) / min(height, width)
    even = [n for n in range(int(exact) - 2, int(exact) + 4) if n % 2 == 0]
    assert max(found) == max(side, min(even, key=lambda n: (abs(n - exact), -n)))


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((240, 320), (256, 342)),
        ((320, 240), (342, 256)),
        ((1080, 1920), (256, 456)),
        ((120, 160), (256, 342)),
        ((240, 240), (256, 256)),
        ((241, 240), (258, 256)),
    ],
)
def test_usual_shapes_at_256(source: tuple[int, int], size: tuple[int, int]) -> None:
    assert FrameSize(short_side=256).resolve(*source) == size


def test_a_strip_is_no_video_for_flow() -> None:
    with pytest.raises(ValueError, match=r"is 20x1000 px: .* 12800 px; the maximum is 8192"):
        FrameSize(short_side=256).resolve(20, 1000)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give height and width, or short_side"),
        ({"height": 24}, "give height and width, or short_side"),
        ({"height": 24, "width": 32, "short_side": 24}, "short_side alone"),
        ({"height": 8, "width": 32}, "height and width must be 16 to 8192 px, got 8x32"),
        ({"height": 24, "width": 9000}, "must be 16 to 8192 px, got 24x9000"),
        ({"short_side": 8}, "short_side must be 16 to 8192 px, got 8"),
        ({"short_side": 9000}, "short_side must be 16 to 8192 px, got 9000"),
    ],
)
def test_sizes_that_cannot_be(arguments: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FrameSize(**arguments)


@given(sides, sides, st.integers(1, 300))
def test_blocks_stay_within_their_memory(height: int, width: int, most: int) -> None:
    count = frames_per_block(height, width, most)
    assert min(most, 2) <= count <= most
    assert count <= 2 or count * height * width * 9 <= 256 << 20
    assert count == most or (count + 1) * height * width * 9 > 256 << 20
