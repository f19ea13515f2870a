import cv2
import numpy as np
import pytest
from conftest import moving_texture

from pipeline.tvl1.parameters import TVL1Parameters
from pipeline.tvl1.solver import compute_flow


@pytest.mark.parametrize("step", [(1.0, 0.0), (0.0, -1.5), (0.5, 0.75)])
def test_translation_is_recovered(step: tuple[float, float]) -> None:
    flow = compute_flow(moving_texture(3, 48, 64, step=step))
    assert flow.shape == (2, 2, 48, 64)
    assert flow.dtype == np.float32
    inner = flow[:, :, 8:-8, 8:-8]
    assert np.median(inner[:, 0]) == pytest.approx(step[0], abs=0.05)
    assert np.median(inner[:, 1]) == pytest.approx(step[1], abs=0.05)


def test_identical_frames_give_exactly_zero() -> None:
    frame = moving_texture(1, 32, 40, step=(0, 0))[0]
    assert (compute_flow(np.stack([frame, frame, frame])) == 0).all()


def test_flat_black_and_flickering_frames_are_finite() -> None:
    frames = np.zeros((4, 24, 32), np.uint8)
    frames[1::2] = 255
    assert np.isfinite(compute_flow(frames)).all()


def test_opencv_backend_is_opencv() -> None:
    frames = moving_texture(2, 40, 56, step=(1.2, -0.4))
    expected = cv2.optflow.DualTVL1OpticalFlow_create().calc(frames[0], frames[1], None)
    np.testing.assert_array_equal(compute_flow(frames, backend="opencv")[0], expected.transpose(2, 0, 1))


def test_parameters_reach_the_solver() -> None:
    frames = moving_texture(2, 40, 56, step=(1.2, -0.4))
    default = compute_flow(frames)
    for changed in (
        {"lambda_": 0.01},
        {"warps": 1},
        {"scales": 1},
        {"theta": 0.1},
        {"median": 1},
        {"outer_iterations": 1},
    ):
        assert not np.array_equal(compute_flow(frames, parameters=TVL1Parameters(**changed)), default), changed


def test_a_small_video_does_not_cut_the_pyramid_of_the_next() -> None:
    frames = moving_texture(2, 64, 80, step=(3.0, 0.0))
    alone = compute_flow(frames)
    compute_flow(moving_texture(2, 16, 16, step=(0.5, 0.0)))
    np.testing.assert_array_equal(compute_flow(frames), alone)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((2, 32, 32), np.float32), "must be uint8"),
        (np.zeros((2, 32, 32, 3), np.uint8), r"must be uint8 \(T, H, W\)"),
        (np.zeros((1, 32, 32), np.uint8), "at least 2"),
        (np.zeros((2, 15, 32), np.uint8), "at least 16 px"),
    ],
)
def test_wrong_frames_are_refused_in_words(frames: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compute_flow(frames)


def test_unknown_backend_names_the_choices() -> None:
    with pytest.raises(ValueError, match="backend='gpu' is unknown; choose one of auto, opencv"):
        compute_flow(np.zeros((2, 32, 32), np.uint8), backend="gpu")


@pytest.mark.parametrize(
    "wrong", [{"tau": 0}, {"lambda_": -1}, {"scale_step": 1.0}, {"scales": 0}, {"median": 4}, {"profile": "mine"}]
)
def test_parameters_are_validated(wrong: dict[str, float | str]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        TVL1Parameters(**wrong)
