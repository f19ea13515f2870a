"""The front door of TV-L1: one function, several backends, the same flow."""

import functools
import os
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flowcpc.pipeline.tvl1.parameters import BACKENDS, TVL1Parameters
from flowcpc.pipeline.tvl1.pyramid import MIN_SIDE
from flowcpc.stores.base.errors import first_line

_NO_DEVICE = "no CUDA device was found (see `nvidia-smi`), or numba-cuda is missing (pip install 'flowcpc[gpu]')"
# Large enough for a pyramid of two levels, so that every kernel is compiled.
_SMALL_PAIR = np.zeros((2, 20, 20), np.uint8)


def check_backend(backend: str, parameters: TVL1Parameters) -> None:
    """Raise ValueError for an unknown backend, or one that cannot compute with these parameters on any machine."""
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    if backend == "opencv" and parameters.profile != "opencv-cpu":
        raise ValueError(
            f"backend='opencv' has no profile={parameters.profile!r}; use 'cpu' or 'cuda'"
        )


def resolve_backend(backend: str) -> str:
    """Return the backend that computes here: for "auto", "cuda" where a device works, else "cpu".

    A device works when it has computed the flow of a small pair, which is tried once. Raises ValueError for an unknown
    backend, or "cuda" where none works.
    """
    check_backend(backend, TVL1Parameters())
    if backend not in ("auto", "cuda"):
        return backend
    why_not = _why_not_cuda() if backend == "auto" or devices() else _NO_DEVICE
    if backend == "cuda" and why_not:
        raise ValueError(
            f"backend='cuda' does not work here: {why_not}; use backend='cpu' or 'auto'"
        )
    return "cpu" if why_not or (backend == "auto" and _simulated()) else "cuda"


@functools.cache
def _why_not_cuda() -> str:
    """Why CUDA does not compute here; empty where it does."""
    try:
        from flowcpc.pipeline.tvl1.cuda import (
            solve as cuda,  # numba's CUDA loads here, where a device is asked for
        )

        if not cuda.device_names():
            return _NO_DEVICE
        if not _simulated():
            cuda.compute_flow(_SMALL_PAIR, TVL1Parameters())
    except (
        Exception
    ) as error:  # drivers, compilers and devices fail in their own ways, and the processor is there
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


def _simulated() -> bool:
    from flowcpc.pipeline.tvl1.cuda import arithmetic as cuda_arithmetic

    return cuda_arithmetic.SIMULATED


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
        Threads that "cpu" shares the pairs among, each with some 200 bytes of memory per pixel; None means all cores that
        this process may use.
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
    if not isinstance(frames, np.ndarray):
        raise ValueError(
            f"frames are a {type(frames).__name__}; they must be a NumPy array, uint8 (T, H, W), gray"
        )
    if frames.dtype != np.uint8 or frames.ndim != 3:
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}; they must be uint8 (T, H, W), gray"
        )
    if len(frames) < 2:
        raise ValueError(f"{len(frames)} frame was given; flow needs at least 2")
    if min(frames.shape[1:]) < MIN_SIDE:
        raise ValueError(
            f"frames are {frames.shape[1]}x{frames.shape[2]}; both sides must be at least {MIN_SIDE} px"
        )
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads} must be at least 1, or None for all cores")
    check_backend(backend, parameters)
    frames = np.ascontiguousarray(frames)
    chosen = resolve_backend(backend)
    # Each backend's library loads here, where it is needed.
    if chosen == "cuda":
        from flowcpc.pipeline.tvl1.cuda import solve as cuda

        if not 0 <= device < len(cuda.device_names()):
            raise ValueError(
                f"device={device} is not there; this machine has {len(cuda.device_names())} CUDA device(s)"
            )
        return cuda.compute_flow(frames, parameters, device)
    if chosen == "opencv":
        from flowcpc.pipeline.tvl1 import opencv

        return opencv.compute_flow(frames, parameters)
    from flowcpc.pipeline.tvl1.cpu import solve as cpu

    return cpu.compute_flow(frames, parameters, threads or available_threads())


def prepare(backend: str, announce: Callable[[str], None] = lambda message: None) -> str:
    """Make a backend ready in this process and return its name: compile its kernels, or load them from where an earlier
    process left them ("cpu" keeps them on disk for all processes of a machine).

    `announce` is told when it takes more than a moment, before and after, and when a device is there but does not work.
    Raises ValueError as `compute_flow` does.
    """
    began = time.perf_counter()
    if backend in ("auto", "cuda") and devices():
        announce(f"compiling the flow solver for {devices()[0]} ...")
    chosen = resolve_backend(backend)
    if backend == "auto" and devices() and chosen == "cpu":
        announce(
            f"flow is computed on the processor, because CUDA does not work here: {_why_not_cuda() or 'simulated'}"
        )
    compiles = chosen == "cuda"
    if chosen == "cpu":
        from flowcpc.stores.base import compiled

        compiles = not compiled.is_complete(__name__)
        if compiles:
            announce("compiling the flow solver for this processor ...")
        compute_flow(_SMALL_PAIR, backend=chosen, threads=1)
        compiled.mark_complete(__name__)
    if compiles:
        announce(f"compiled it in {time.perf_counter() - began:.0f} s")
    return chosen


def devices() -> list[str]:
    """Return the names of the CUDA devices here; empty where there is none, or numba-cuda is missing."""
    try:
        from flowcpc.pipeline.tvl1.cuda import solve as cuda
    except Exception:  # as in _why_not_cuda, which says so
        return []
    return cuda.device_names()
