"""OpenCV's DualTVL1 as a backend: the reference with which the field's data sets were made."""

import cv2
import numpy as np
from numpy.typing import NDArray

from flowcpc.pipeline.tvl1.parameters import TVL1Parameters


def compute_flow(frames: NDArray[np.uint8], parameters: TVL1Parameters) -> NDArray[np.float32]:
    """Return flow of the profile "opencv-cpu", uint8 (T, H, W) -> float32 (T-1, 2, H, W) px."""
    create = cv2.optflow.DualTVL1OpticalFlow_create  # type: ignore[attr-defined]
    # OpenCV's object keeps a pyramid that a small frame cut short, so each call makes a new one.
    solver = create(
        tau=parameters.tau,
        lambda_=parameters.lambda_,
        theta=parameters.theta,
        nscales=parameters.scales,
        warps=parameters.warps,
        epsilon=parameters.epsilon,
        innnerIterations=parameters.inner_iterations,
        outerIterations=parameters.outer_iterations,
        scaleStep=parameters.scale_step,
        gamma=0.0,
        medianFiltering=parameters.median or 1,
        useInitialFlow=False,
    )
    flow = np.empty((len(frames) - 1, 2, *frames.shape[1:]), np.float32)
    for t in range(len(flow)):
        flow[t] = solver.calc(frames[t], frames[t + 1], None).transpose(2, 0, 1)
    return flow
