"""The front door of TV-L1: one function, several backends, the same flow."""

import os
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.tvl1.parameters import TVL1Parameters
from pipeline.tvl1.pyramid import MIN_SIDE

BACKENDS = ("auto", "cuda", "cpu", "opencv")


def resolve_backend(backend: str) -> str:
    """Return the backend that computes here: for "auto", "cuda" where a device works, else "cpu".

    Raises ValueError for an unknown backend, or "cuda" without a device.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    if backend not in ("auto", "cuda"):
        return backend
    from pipeline.tvl1 import cuda, cuda_arithmetic  # numba's CUDA loads here, where a device is asked for

    if cuda.device_names() and (backend == "cuda" or not cuda_arithmetic.SIMULATED):
        return "cuda"
    if backend == "cuda":
        raise ValueError(
            "backend='cuda' finds no CUDA device that works here; see `nvidia-smi` and install flowcpc[gpu], or use 'cpu'"
        )
    return "cpu"


def available_threads() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def compute_flow(
    frames: NDArray[np.uint8],
    *,
    parameters: TVL1Parameters = TVL1Parameters(),
    backend: str = "auto",
    threads: int | None = None,
    device: int = 0,
) -> NDArray[np.float32]:
    """Return TV-L1 optical flow between consecutive frames, float32 (T-1, 2, H, W), px per frame, components (u, v) =
    (x, y).

    A point at (x, y) in frame t is at (x + u, y + v) in frame t+1. Identical frames give exactly zero. The flow of a pair depends on its
    two frames and the parameters alone.

    Parameters
    ----------
    frames : uint8 (T, H, W)
        Gray frames, T >= 2, both sides at least 16 px.
    parameters : TVL1Parameters
        Decide the result; part of a store's numerics.
    backend : str
        Decides where it is computed: "cuda" (a GPU, all pairs at a time), "cpu" (compiled for this processor), "opencv"
        (OpenCV's DualTVL1, the reference), or "auto": cuda where a device works, else cpu.
    threads : int or None
        Threads that "cpu" shares the pairs among; None means all cores that this process may use.
    device : int
        Index of the GPU that "cuda" uses.

    Raises
    ------
    ValueError
        Another dtype or shape, an unknown backend or one that cannot compute this here, or a number out of range.
    MemoryError
        Not even one pair fits the GPU.

    Source: Zach, Pock, Bischof 2007; Sanchez, Meinhardt-Llopis, Facciolo, IPOL 2013.
    """
    if frames.dtype != np.uint8 or frames.ndim != 3:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; they must be uint8 (T, H, W), gray")
    if len(frames) < 2:
        raise ValueError(f"{len(frames)} frame was given; flow needs at least 2")
    if min(frames.shape[1:]) < MIN_SIDE:
        raise ValueError(f"frames are {frames.shape[1]}x{frames.shape[2]}; both sides must be at least {MIN_SIDE} px")
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads} must be at least 1")
    frames = np.ascontiguousarray(frames)
    chosen = resolve_backend(backend)
    # Each backend's library loads here, where it is needed.
    if chosen == "cuda":
        from pipeline.tvl1 import cuda

        if not 0 <= device < len(cuda.device_names()):
            raise ValueError(
                f"device={device} is not there; this machine has {len(cuda.device_names())} CUDA device(s)"
            )
        return cuda.compute_flow(frames, parameters, device)
    if chosen == "opencv":
        from pipeline.tvl1 import opencv

        return opencv.compute_flow(frames, parameters)
    from pipeline.tvl1 import cpu

    return cpu.compute_flow(frames, parameters, threads or available_threads())


def prepare(backend: str, announce: Callable[[str], None] = lambda message: None) -> str:
    """Make a backend ready in this process and return its name: compile its kernels, or load them from where an earlier
    process left them. Other processes of this machine then load them too.

    `announce` is told when it takes more than a moment, before and after. Raises ValueError as `compute_flow` does.
    """
    chosen = resolve_backend(backend)
    compiles = chosen == "cuda"
    if chosen == "cpu":
        from pipeline.tvl1 import compiled, cpu  # noqa: F401  (the kernels count once they are defined)

        compiles = not compiled.kept_on_disk()
    if compiles:
        announce(f"compiling the flow solver for this machine ({chosen}) ...")
    began = time.perf_counter()
    compute_flow(np.zeros((2, MIN_SIDE, MIN_SIDE), np.uint8), backend=chosen, threads=1)
    if compiles:
        announce(f"compiled it in {time.perf_counter() - began:.0f} s")
    return chosen
