import numpy as np
import pytest
from naive import mean_magnitude

from pipeline.segmentation import frame_statistics, segment_statistics


def test_frame_statistics_equal_the_loops() -> None:
    flow = np.random.default_rng(0).normal(size=(5, 2, 6, 7)).astype(np.float32)
    clipped = np.zeros(flow.shape, bool)
    clipped[2, 0, :3] = True
    rows = frame_statistics(flow, clipped)
    assert rows["mean_u"] == pytest.approx([flow[t, 0].mean() for t in range(5)], abs=1e-6)
    assert rows["mean_v"] == pytest.approx([flow[t, 1].mean() for t in range(5)], abs=1e-6)
    assert rows["magnitude"] == pytest.approx([mean_magnitude(flow[t]) for t in range(5)], abs=1e-6)
    assert rows["clip_rate"] == [0, 0, 0.25, 0, 0]


@pytest.mark.parametrize("flows", [1, 9, 10, 11, 25])
def test_segments_cover_every_flow_once(flows: int) -> None:
    frames = {name: list(map(float, range(flows))) for name in ("time_s", "mean_u", "mean_v", "magnitude", "clip_rate")}
    segments = segment_statistics(frames)
    covered = [t for start, stop in zip(segments["start"], segments["stop"], strict=True) for t in range(start, stop)]
    assert covered == list(range(flows))
    for start, stop, mean in zip(segments["start"], segments["stop"], segments["mean_u"], strict=True):
        assert mean == pytest.approx(np.mean(range(start, stop)), abs=1e-6)
    assert segments["start_s"] == [float(start) for start in segments["start"]]
    assert segments["stop_s"][-1] == (flows if flows > 1 else 0.0)
