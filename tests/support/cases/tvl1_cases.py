"""Parameters, ground truth and measures that several tests of TV-L1 share."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
# Few levels, warps and iterations, but each of every kind: for backends that are slow where they
# are tested.
SHORT = {"scales": 2, "warps": 2, "inner_iterations": 3, "outer_iterations": 2}


def middlebury(real_data: Path, name: str) -> tuple[Frames, NDArray[np.float32]]:
    """Frames (2, H, W) and true flow (2, H, W) px of a Middlebury pair; unknown flow is NaN."""
    folder = real_data / "flow_gt" / "middlebury" / name
    frames = np.stack(
        [cv2.imread(str(folder / f"frame{n}.png"), cv2.IMREAD_GRAYSCALE) for n in (10, 11)]
    )
    truth = cv2.readOpticalFlow(str(folder / "flow10.flo")).transpose(2, 0, 1)
    return frames, np.where(np.abs(truth) > 1e8, np.nan, truth)


def endpoint_error(flow: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Average endpoint error where the truth is known, px."""
    return float(np.nanmean(np.hypot(*(flow - truth))))


def within(flow: NDArray[np.float32], other: NDArray[np.float32], px: float = 0.1) -> float:
    """Share of pixels whose components both differ by less than `px`."""
    return float((np.abs(flow - other).max(axis=-3) < px).mean())
