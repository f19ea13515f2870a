"""The processor's solver against plain NumPy, and against itself in other batches and threads."""

import itertools

import naive_tvl1
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textures import blocks_of_noise, moving_texture, odd_frames
from tvl1_cases import SHORT, within

from flowcpc.pipeline.tvl1.constants import COUNTS_PER_SQUARE_PIXEL, REST, make_constants
from flowcpc.pipeline.tvl1.cpu import iterate, median, warp
from flowcpc.pipeline.tvl1.cpu import solve as cpu
from flowcpc.pipeline.tvl1.cpu.resize import build_levels, resize
from flowcpc.pipeline.tvl1.cpu.simd import LANES
from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.pipeline.tvl1.pyramid import make_pyramid

sizes = st.tuples(st.integers(16, 40), st.integers(16, 56))


def naive(frames: np.ndarray, parameters: TVL1Parameters) -> np.ndarray:
    changed = parameters.to_json()
    profile = changed.pop("profile")
    changed["inner"], changed["outer"] = (
        changed.pop("inner_iterations"),
        changed.pop("outer_iterations"),
    )
    return np.stack(
        [naive_tvl1.compute_flow(a, b, profile, **changed) for a, b in itertools.pairwise(frames)]
    )


@pytest.mark.parametrize("profile", ["opencv-cpu", "opencv-cuda"])
@pytest.mark.parametrize("size", [(48, 64), (61, 47), (16, 90)])
def test_flow_is_that_of_plain_numpy(profile: str, size: tuple[int, int]) -> None:
    """Except for warps that rounding ends an iteration earlier or later, as in OpenCV."""
    frames = moving_texture(3, *size, step=(1.3, -0.7), seed=3)
    parameters = TVL1Parameters(profile=profile)
    ours, theirs = cpu.compute_flow(frames, parameters, 1), naive(frames, parameters)
    assert within(ours, theirs) > 0.98
    assert np.median(np.abs(ours - theirs)) < 0.005


@pytest.mark.parametrize("profile", ["opencv-cpu", "opencv-cuda"])
@pytest.mark.parametrize(
    "changed", [{}, {"median": 3}, {"median": 5}, {"scale_step": 0.65}, {"tau": 0.2, "theta": 0.5}]
)
def test_a_short_solve_is_that_of_plain_numpy_everywhere(
    profile: str, changed: dict[str, float]
) -> None:
    """With a fixed number of iterations no rounding can move the end of a warp."""
    parameters = TVL1Parameters(profile=profile, epsilon=1e-3, **SHORT, **changed)
    for name, frames in odd_frames().items():
        difference = np.abs(cpu.compute_flow(frames, parameters, 1) - naive(frames, parameters))
        assert difference.max() < 0.02, name
        assert np.percentile(difference, 99) < 1e-3, name


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_batch_is_its_pairs_whatever_the_threads(threads: int) -> None:
    frames = np.concatenate(
        [moving_texture(4, 40, 56, step=(1.5, 0.5)), blocks_of_noise(5, 40, 56)]
    )
    batch = cpu.compute_flow(frames, TVL1Parameters(), threads)
    for t in range(len(batch)):
        alone = cpu.compute_flow(frames[t : t + 2], TVL1Parameters(), 1)[0]
        np.testing.assert_array_equal(batch[t], alone)


def test_blocks_of_frames_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = blocks_of_noise(6, 30, 44, frames=8)
    parameters = TVL1Parameters(**SHORT)
    whole = cpu.compute_flow(frames, parameters, 2)
    monkeypatch.setattr(cpu, "_BLOCK_BYTES", 1)
    np.testing.assert_array_equal(cpu.compute_flow(frames, parameters, 2), whole)


class Level:
    """State and coefficients of one level with random values, and plain views of them."""

    def __init__(self, height: int, width: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.height, self.width = height, width
        self.stride = int(iterate.line_stride(width))
        self.constants = make_constants(
            TVL1Parameters(), make_pyramid(height, width, TVL1Parameters())
        )
        self.state = self.new_state()
        view = self.view(self.state)
        view[:, :2] = REST + rng.normal(0, 1, (height, 2, width))
        view[:, 2:] = rng.uniform(-0.3, 0.3, (height, 4, width))
        # As from the start: no p across the right or the lower border.
        view[:, [2, 4], -1] = 0
        view[-1, [3, 5]] = 0
        self.coefficients = np.zeros((height, iterate.COEFFICIENT_LINES, self.stride), np.float32)
        inner = self.coefficients[:, :, :width]
        inner[:, :2] = rng.normal(0, 20, (height, 2, width))
        inner[:, :2, : width // 4] = 0  # no gradient, no data term
        inner[:, 2] = rng.normal(0, 30, (height, width))
        square = (inner[:, :2] ** 2).sum(axis=1)
        inner[:, 3] = np.where(square > 0, -1 / np.maximum(square, 1e-9), 0)
        self.weights = np.zeros(self.stride, np.float32)
        self.weights[:width] = self.constants.counts

    def new_state(self) -> np.ndarray:
        return np.zeros((self.height + 2) * iterate.STATE_LINES * self.stride + LANES, np.float32)

    def view(self, state: np.ndarray) -> np.ndarray:
        """(height, 6, width) of a state."""
        row = iterate.STATE_LINES * self.stride
        return state[row : row + self.height * row].reshape(self.height, 6, self.stride)[
            :, :, : self.width
        ]

    def step(self, state: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray]:
        """The state after a pass, and the squared update of each of its iterations in counts."""
        target, updates = self.new_state(), np.zeros(iterate.LONGEST_PASS, np.int64)
        c = self.constants
        arrays = self.coefficients.ravel(), state, target
        size, step = (self.height, self.width), (c.tau, c.bound)
        iterate._pass(*arrays, size, step, self.weights, iterations, updates)
        return target, updates[:iterations]


@given(size=sizes, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_an_iteration_is_the_formulas(size: tuple[int, int], seed: int) -> None:
    level = Level(*size, seed)
    after, updates = level.step(level.state, 1)
    u, p = np.split(level.view(level.state).transpose(1, 0, 2).astype(float), [2])
    gradient, rho, inverse = (
        part[0] if len(part) == 1 else part
        for part in np.split(
            level.coefficients.transpose(1, 0, 2)[..., : size[1]].astype(float), [2, 3]
        )
    )
    k = np.clip(
        (rho + (gradient * u).sum(axis=0)) * inverse, -level.constants.bound, level.constants.bound
    )
    expected_u = u + k * gradient + 0.25 * naive_tvl1.divergence(p.reshape(2, 2, *size))
    forward = np.zeros((2, 2, *size))
    forward[:, 0, :, :-1] = np.diff(expected_u, axis=2)
    forward[:, 1, :-1] = np.diff(expected_u, axis=1)
    expected_p = (p.reshape(2, 2, *size) + forward) / (1 + np.hypot(forward[:, 0], forward[:, 1]))[
        :, None
    ]
    ours = level.view(after).transpose(1, 0, 2)
    np.testing.assert_allclose(ours[:2], expected_u, atol=1e-4)
    np.testing.assert_allclose(ours[2:], expected_p.reshape(4, *size), atol=1e-4)
    squares = ((expected_u - u) ** 2).sum() / (0.25 / 0.3) ** 2
    assert updates[0] / COUNTS_PER_SQUARE_PIXEL == pytest.approx(squares, rel=1e-3)


@given(
    size=sizes,
    seed=st.integers(0, 99),
    cuts=st.lists(st.integers(1, iterate.LONGEST_PASS), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=25)
def test_iterations_in_flight_are_iterations_one_by_one(
    size: tuple[int, int], seed: int, cuts: list[int]
) -> None:
    level = Level(*size, seed)
    single, counts = level.state, []
    for _ in range(sum(cuts)):
        single, update = level.step(single, 1)
        counts.extend(update)
    state, passed = level.state, []
    for iterations in cuts:
        state, updates = level.step(state, iterations)
        passed.extend(updates)
    np.testing.assert_array_equal(level.view(state), level.view(single))
    assert passed == counts


@given(seed=st.integers(0, 99), share=st.floats(1e-6, 0.9), inner=st.integers(1, 12))
@settings(deadline=None, max_examples=25)
def test_a_warp_ends_with_the_first_small_update(seed: int, share: float, inner: int) -> None:
    """Replays included: as many iterations as one by one, and the state after exactly those."""
    level = Level(20, 37, seed)
    states, counts = [level.state], []
    for _ in range(2 * inner):
        after, update = level.step(states[-1], 1)
        states.append(after)
        counts.extend(update)
    limit = int(counts[0] * share)
    expected = next((k + 1 for k, update in enumerate(counts) if update <= limit), 2 * inner)
    c = level.constants
    scratch = np.zeros(int(median.scratch_size(20, 37)), np.float32)
    arrays = level.coefficients.ravel(), level.state.copy(), level.new_state()
    numbers = (c.tau, c.bound, np.int64(limit), inner, 2, 1)
    result, _, done, _ = iterate.relax(*arrays, (20, 37), numbers, level.weights, scratch)
    assert done == expected
    np.testing.assert_array_equal(level.view(result), level.view(states[expected]))


@given(size=sizes, side=st.sampled_from([1, 3, 5]), seed=st.integers(0, 99), ties=st.booleans())
@settings(deadline=None, max_examples=40)
def test_the_median_is_that_of_a_sort(
    size: tuple[int, int], side: int, seed: int, ties: bool
) -> None:
    level = Level(*size, seed)
    if ties:
        level.view(level.state)[:] = np.round(level.view(level.state))
    before = level.view(level.state).copy()
    scratch = np.zeros(int(median.scratch_size(*size)), np.float32)
    row = iterate.STATE_LINES * level.stride
    median.median_filter(level.state, size, level.stride, row, side, scratch)
    after = level.view(level.state)
    for component in range(2):
        np.testing.assert_array_equal(
            after[:, component], naive_tvl1.median(before[:, component], side)
        )
    np.testing.assert_array_equal(after[:, 2:], before[:, 2:])


@given(
    size=sizes,
    seed=st.integers(0, 99),
    repeat=st.booleans(),
    reach=st.sampled_from([0.5, 5.0, 300.0]),
)
@settings(deadline=None, max_examples=30)
def test_the_warp_is_the_sum_of_sixteen_taps(
    size: tuple[int, int], seed: int, repeat: bool, reach: float
) -> None:
    height, width = size
    rng = np.random.default_rng(seed)
    level = Level(*size, seed)
    parameters = TVL1Parameters(profile="opencv-cuda" if repeat else "opencv-cpu")
    c = make_constants(parameters, make_pyramid(*size, parameters))
    first, second = (
        np.concatenate([rng.uniform(0, 255, height * width), np.zeros(LANES)]).astype(np.float32)
        for _ in range(2)
    )
    units = rng.normal(0, reach, (2, height, width)).astype(np.float32)
    level.view(level.state)[:, :2] = units.transpose(1, 0, 2) + REST
    interleaved = np.zeros(
        (height + 2 * warp.BORDER) * (width + 2 * warp.BORDER) * warp.CHANNELS, np.float32
    )
    warp.interleave(second[:-LANES], size, repeat, interleaved)
    out = np.zeros_like(level.coefficients).ravel()
    scratch = np.zeros(12 * level.stride, np.float32), np.zeros(level.stride, np.int32)
    numbers = (c.cubic, c.to_pixels, c.smallest_gradient)
    warp.warp(first, interleaved, level.state, size, numbers, scratch, out)
    gradient_x, gradient_y, rho, inverse = out.reshape(height, 4, level.stride)[
        :, :, :width
    ].transpose(1, 0, 2)
    image = second[:-LANES].reshape(size)
    flow = (level.view(level.state)[:, :2].transpose(1, 0, 2).astype(float) - REST) * c.to_pixels
    rows, columns = np.mgrid[:height, :width]
    sampled = [
        naive_tvl1.sample(part, columns + flow[0], rows + flow[1], repeat)
        for part in (image, *naive_tvl1.gradient(image))
    ]
    np.testing.assert_allclose(gradient_x, sampled[1] * c.to_pixels, atol=0.02)
    np.testing.assert_allclose(gradient_y, sampled[2] * c.to_pixels, atol=0.02)
    expected = (
        sampled[0] - sampled[1] * flow[0] - sampled[2] * flow[1] - first[:-LANES].reshape(size)
    )
    shifted = rho + (gradient_x + gradient_y) * REST
    np.testing.assert_allclose(shifted, expected, atol=0.02 * (1 + np.abs(flow).max()))
    square = gradient_x.astype(float) ** 2 + gradient_y.astype(float) ** 2
    np.testing.assert_allclose(inverse[square > 1e-3], -1 / square[square > 1e-3], rtol=1e-4)
    assert (inverse[square == 0] == 0).all()


@given(
    size=sizes,
    seed=st.integers(0, 99),
    profile=st.sampled_from(["opencv-cpu", "opencv-cuda"]),
    step=st.sampled_from([0.8, 0.5, 0.93]),
)
@settings(deadline=None, max_examples=30)
def test_pyramids_are_resized_step_by_step(
    size: tuple[int, int], seed: int, profile: str, step: float
) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, size).astype(np.uint8)
    pyramid = make_pyramid(*size, TVL1Parameters(profile=profile, scale_step=step))
    out = np.zeros(int(pyramid.offsets[-1]), np.float32)
    build_levels(
        frame, pyramid.sizes, pyramid.offsets, pyramid.down_index, pyramid.down_fraction, out
    )
    image = frame.astype(np.float32)
    for level in range(len(pyramid.sizes)):
        height, width = (int(side) for side in pyramid.sizes[level])
        assert min(height, width) >= 16
        if level:
            image = naive_tvl1.resize(
                image, (height, width), 1 / step, 1 / step, profile == "opencv-cuda"
            )
        ours = out[pyramid.offsets[level] : pyramid.offsets[level + 1]].reshape(height, width)
        np.testing.assert_allclose(ours, image, atol=1e-3)
        if level:
            finer = np.zeros(pyramid.sizes[level - 1], np.float32)
            tables = pyramid.up_index[level - 1], pyramid.up_fraction[level - 1]
            resize(ours, finer, *tables, np.float32(1 / step), np.float32(0))
            ratios = height / finer.shape[0], width / finer.shape[1]
            expected = (
                naive_tvl1.resize(ours, finer.shape, *ratios, profile == "opencv-cuda") / step
            )
            np.testing.assert_allclose(finer, expected, atol=2e-3)


def test_a_pyramid_that_a_small_frame_cut_is_not_kept() -> None:
    frames = moving_texture(2, 64, 80, step=(3.0, 0.0))
    alone = cpu.compute_flow(frames, TVL1Parameters(), 1)
    cpu.compute_flow(moving_texture(2, 16, 16, step=(0.5, 0.0)), TVL1Parameters(), 1)
    np.testing.assert_array_equal(cpu.compute_flow(frames, TVL1Parameters(), 1), alone)


def test_sizes_of_levels_round_halves_to_even() -> None:
    sizes = make_pyramid(240, 320, TVL1Parameters()).sizes.tolist()
    assert sizes == [[240, 320], [192, 256], [154, 205], [123, 164], [98, 131]]
    assert make_pyramid(20, 200, TVL1Parameters()).sizes.tolist() == [[20, 200], [16, 160]]
    assert len(make_pyramid(19, 200, TVL1Parameters()).sizes) == 1
