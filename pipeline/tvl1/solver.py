"""The front door of TV-L1: one function, several backends, the same flow."""

import numpy as np
from numpy.typing import NDArray

from pipeline.tvl1.parameters import TVL1Parameters

BACKENDS = ("auto", "opencv")
MIN_SIDE = 16


def resolve_backend(backend: str) -> str:
    """Return the backend that "auto" stands for on this machine, or `backend` itself. Raises ValueError for an unknown
    one.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    return "opencv" if backend == "auto" else backend


def compute_flow(
    frames: NDArray[np.uint8], *, parameters: TVL1Parameters = TVL1Parameters(), backend: str = "auto"
) -> NDArray[np.float32]:
    """Return TV-L1 optical flow between consecutive frames, float32 (T-1, 2, H, W), px per frame, components (u, v) =
    (x, y).

    A point at (x, y) in frame t is at (x + u, y + v) in frame t+1. Identical frames give exactly zero.

    Parameters
    ----------
    frames : uint8 (T, H, W)
        Gray frames, T >= 2, both sides at least 16 px.
    parameters : TVL1Parameters
        Decide the result; part of a store's numerics.
    backend : str
        Decides where it is computed: "opencv", or "auto" for the best that this machine has.

    Raises
    ------
    ValueError
        Another dtype or shape, or an unknown backend.

    Source: Zach, Pock, Bischof 2007; Sanchez, Meinhardt-Llopis, Facciolo, IPOL 2013.
    """
    if frames.dtype != np.uint8 or frames.ndim != 3:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; they must be uint8 (T, H, W), gray")
    if len(frames) < 2:
        raise ValueError(f"{len(frames)} frame was given; flow needs at least 2")
    if min(frames.shape[1:]) < MIN_SIDE:
        raise ValueError(f"frames are {frames.shape[1]}x{frames.shape[2]}; both sides must be at least {MIN_SIDE} px")
    resolve_backend(backend)
    from pipeline.tvl1 import opencv  # cv2 loads here, where a backend needs it

    return opencv.compute_flow(np.ascontiguousarray(frames), parameters)
