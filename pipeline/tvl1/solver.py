"""The entry point of TV-L1: one function, several backends, the same flow."""

import functools
import os
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flowcpc.pipeline.tvl1.parameters import BACKENDS, TVL1Parameters
from flowcpc.pipeline.tvl1.pyramid import MIN_SIDE
from flowcpc.stores.base.errors import first_line
from flowcpc.stores.base.listener import SILENT

_NO_DEVICE = (
    "no CUDA device was found (see `nvidia-smi`), "
    "or numba-cuda is missing (pip install 'flowcpc[gpu]')"
)
_SIMULATOR = "simulator"  # Numba's, as `devices` names it; only "cuda" chooses it
# Large enough for a pyramid of two levels, so that every kernel is compiled.
_SMALL_PAIR = np.zeros((2, 20, 20), np.uint8)


def check_backend(backend: str, parameters: TVL1Parameters) -> None:
    """Raise ValueError for an unknown backend, or one that cannot compute with `parameters`."""
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    profile = parameters.profile
    if backend == "opencv" and profile != "opencv-cpu":
        raise ValueError(f"backend='opencv' has no profile={profile!r}; use 'cpu' or 'cuda'")


def resolve_backend(backend: str) -> str:
    """Return the backend that computes here: for "auto", "cuda" if a device works, else "cpu".

    A device works if it has computed the flow of a small pair, which is tried once. Raises
    ValueError for an unknown backend, or for "cuda" if none works.
    """
    check_backend(backend, TVL1Parameters())
    if backend not in ("auto", "cuda"):
        return backend
    problem = _cuda_problem()
    if backend == "cuda" and problem:
        rule = f"backend='cuda' does not work here: {problem}"
        raise ValueError(f"{rule}; use backend='cpu' or 'auto'")
    return "cpu" if problem or (backend == "auto" and _SIMULATOR in devices()) else "cuda"


@functools.cache
def _cuda_problem() -> str:
    """Return why CUDA does not compute here; empty if it does."""
    if not devices():
        return _NO_DEVICE
    from flowcpc.pipeline.tvl1.cuda import solve as cuda

    try:
        if _SIMULATOR not in devices():
            cuda.compute_flow(_SMALL_PAIR, TVL1Parameters())
    except Exception as error:  # drivers, compilers and devices fail in their own ways
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


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
    """Return TV-L1 flow between consecutive frames, float32 (T-1, 2, H, W), px, (u, v) = (x, y).

    A point at (x, y) in frame t is at (x + u, y + v) in frame t+1. Identical frames give exactly
    zero. The flow of a pair depends only on its two frames and the parameters.

    frames: gray, uint8 (T, H, W), T >= 2, both sides at least 16 px.
    backend: "cuda" (a GPU, all pairs at a time), "cpu" (compiled for this processor), "opencv"
        (OpenCV's DualTVL1, the reference), or "auto": cuda if a device works, else cpu.
    threads: among which "cpu" shares the pairs, each with some 200 bytes of memory per pixel; None
        means all cores that this process may use.
    device: index of the GPU that "cuda" uses.

    Raises ValueError for another dtype or shape, a number out of range, or a backend that is
    unknown or cannot compute this here; MemoryError if not even one pair fits the GPU.

    Source: Zach, Pock, Bischof 2007; Sanchez, Meinhardt-Llopis, Facciolo, IPOL 2013.
    """
    is_array = isinstance(frames, np.ndarray)
    if not is_array or frames.dtype != np.uint8 or frames.ndim != 3:
        got = f"{frames.dtype} {frames.shape}" if is_array else f"a {type(frames).__name__}"
        raise ValueError(f"frames must be a NumPy array, uint8 (T, H, W), gray, got {got}")
    count, height, width = frames.shape
    if count < 2:
        raise ValueError(f"flow needs at least 2 frames, got {count}")
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"frames must be at least {MIN_SIDE}x{MIN_SIDE} px, got {height}x{width}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads} must be at least 1, or None for all cores")
    check_backend(backend, parameters)
    frames, backend = np.ascontiguousarray(frames), resolve_backend(backend)
    # Each backend's library loads here, where it is needed.
    if backend == "cuda":
        from flowcpc.pipeline.tvl1.cuda import solve as cuda

        number = len(devices())
        if not 0 <= device < number:
            raise ValueError(f"device={device} does not exist; this machine has {number} device(s)")
        return cuda.compute_flow(frames, parameters, device)
    if backend == "opencv":
        from flowcpc.pipeline.tvl1 import opencv

        return opencv.compute_flow(frames, parameters)
    from flowcpc.pipeline.tvl1.cpu import solve as cpu

    return cpu.compute_flow(frames, parameters, threads or available_threads())


def prepare(backend: str, announce: Callable[[str], None] = SILENT.announce) -> str:
    """Compile a backend's kernels in this process, or load them, and return the backend's name.

    Those of "cpu" stay on disk for all processes of a machine. `announce` is called before and
    after compilation, and when a device exists but does not work. Raises as `compute_flow`.
    """
    began = time.perf_counter()
    if backend in ("auto", "cuda") and devices():
        announce(f"compiling the flow solver for {devices()[0]} ...")
    chosen = resolve_backend(backend)
    if backend == "auto" and devices() and chosen == "cpu":
        problem = _cuda_problem() or "simulated"
        announce(f"computing flow on the CPU, because CUDA does not work here: {problem}")
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
    """Return the names of the CUDA devices here; empty without any, or without numba-cuda."""
    try:
        from flowcpc.pipeline.tvl1.cuda import solve as cuda
    except Exception:  # a broken installation of numba-cuda raises anything
        return []
    return cuda.device_names()
