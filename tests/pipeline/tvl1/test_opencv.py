"""Our flow next to OpenCV's and to ground truth, on real frames.

benchmarks/flow/bench_tvl1.py measures the same on many more.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest
from tvl1_cases import endpoint_error, middlebury, within

from flowcpc.pipeline.decoding.frame_size import FrameSize
from flowcpc.pipeline.decoding.frames import FrameReader
from flowcpc.pipeline.tvl1.solver import compute_flow

MIDDLEBURY = ("Dimetrodon", "Grove2", "RubberWhale", "Venus")


@pytest.mark.parametrize(
    "name",
    [
        name if name == "RubberWhale" else pytest.param(name, marks=pytest.mark.slow)
        for name in MIDDLEBURY
    ],
)
def test_endpoint_error_is_opencvs(real_data: Path, name: str) -> None:
    frames, truth = middlebury(real_data, name)
    ours = compute_flow(frames, backend="cpu")[0]
    theirs = compute_flow(frames, backend="opencv")[0]
    assert endpoint_error(ours, truth) <= 1.02 * endpoint_error(theirs, truth)
    assert within(ours, theirs) >= 0.99


def test_flow_is_the_one_that_was_kept(real_data: Path) -> None:
    """Values that OpenCV 4.10 and 5.0 gave on another day."""
    frames, _ = middlebury(real_data, "RubberWhale")
    ours = compute_flow(frames, backend="cpu")[0]
    for version, share in (("5.0.0", 0.99), ("4.10.0", 0.98)):
        path = (
            real_data
            / "flow_gt"
            / "selfmade_tvl1"
            / f"RubberWhale_gray_DualTVL1_opencv{version}_defaults.flo"
        )
        assert within(ours, cv2.readOpticalFlow(str(path)).transpose(2, 0, 1)) >= share, version


@pytest.mark.parametrize(
    "name",
    [
        "v_HorseRace_g14_c01",
        pytest.param("v_PlayingPiano_g07_c01", marks=pytest.mark.slow),
        pytest.param("v_Surfing_g05_c01", marks=pytest.mark.slow),
    ],
)
def test_flow_of_a_real_clip_is_opencvs(real_data: Path, name: str) -> None:
    path = real_data / "ucf6" / "videos" / name.split("_")[1] / f"{name}.avi"
    frames = np.concatenate(list(FrameReader(path, FrameSize(128, 171)).blocks()))[20:23]
    ours, theirs = (compute_flow(frames, backend=backend) for backend in ("cpu", "opencv"))
    assert within(ours, theirs) >= 0.97
    assert np.median(np.abs(ours - theirs)) < 0.01
