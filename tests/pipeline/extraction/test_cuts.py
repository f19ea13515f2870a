import numpy as np
import pytest
from naive import cut_score
from textures import moving_texture

from flowcpc.pipeline.extraction.cuts import cut_scores, find_cuts
from flowcpc.pipeline.tvl1.solver import compute_flow


def cuts_of(frames: np.ndarray) -> list[int]:
    """Which flows of some gray frames span a cut, with the solver's flow."""
    return np.flatnonzero(find_cuts(cut_scores(frames, compute_flow(frames)))).tolist()


def shot(seed: int, count: int = 8, step: tuple[float, float] = (1.0, 0.5)) -> np.ndarray:
    return moving_texture(count, 48, 64, step=step, seed=seed)


def test_scores_are_the_loops() -> None:
    frames = np.concatenate([shot(0, 3), shot(1, 2)])
    flow = np.random.default_rng(0).normal(0, 4, (4, 2, 48, 64)).astype(np.float32)
    expected = [cut_score(frames[n], frames[n + 1], flow[n], 3) for n in range(4)]
    np.testing.assert_allclose(cut_scores(frames, flow), expected, rtol=1e-5)


def test_the_join_of_two_shots_is_a_cut() -> None:
    assert cuts_of(np.concatenate([shot(0), shot(1), shot(2)])) == [7, 15]


@pytest.mark.parametrize("step", [(0.0, 0.0), (1.0, 0.0), (-3.0, 2.0)])
def test_a_shot_has_no_cut(step: tuple[float, float]) -> None:
    assert cuts_of(shot(3, 12, step)) == []


def test_still_gray_and_black_frames_have_none() -> None:
    assert cuts_of(np.full((6, 48, 64), 90, np.uint8)) == []
    assert cuts_of(np.zeros((6, 48, 64), np.uint8)) == []


def test_a_change_of_exposure_is_none() -> None:
    frames = shot(4, 12, (0.2, 0.1)) // 2
    brighter = frames.copy()
    brighter[6:] += 60
    assert cuts_of(brighter) == []


def test_a_fade_is_none() -> None:
    frames = shot(5, 12)
    weights = np.linspace(1, 0, 12)[:, None, None]
    assert cuts_of((frames * weights).astype(np.uint8)) == []


def test_a_flash_is_none() -> None:
    frames = shot(6, 12)
    frames[6] = np.random.default_rng(0).integers(0, 256, frames[6].shape)
    assert cuts_of(frames) == []


def test_blocks_change_nothing() -> None:
    frames = np.concatenate([shot(0), shot(1)])
    flow = compute_flow(frames)
    parts = [cut_scores(frames[a : b + 1], flow[a:b]) for a, b in ((0, 3), (3, 8), (8, 15))]
    np.testing.assert_array_equal(np.concatenate(parts), cut_scores(frames, flow))


def test_one_flow_and_none() -> None:
    assert cuts_of(np.concatenate([shot(0, 1), shot(1, 1)])) == [0]
    assert find_cuts(np.zeros(0, np.float32)).tolist() == []
