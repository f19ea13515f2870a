"""The CUDA device of a benchmark: whether it works, and what it could do."""

import sys

import numpy as np

from benchmarks.timing import median_seconds
from flowcpc.pipeline.tvl1.solver import devices, prepare


def prepare_device() -> str:
    """Name of the device, with the kernels compiled; exits with a sentence where none works."""
    names = devices()
    if not names:
        sys.exit(
            "bench-gpu finds no CUDA device that works here; see `nvidia-smi` and `pip install "
            "flowcpc[gpu]`"
        )
    prepare("cuda", print)
    prepare("cpu", print)
    return names[0]


def ceilings() -> tuple[float, float]:
    """Measured bytes/s of a copy in the device's memory, and float32 operations/s.

    The operations are independent products and sums.
    """
    from numba import cuda

    @cuda.jit
    def copy(source, target):  # type: ignore[no-untyped-def]
        step = cuda.gridsize(1)
        for i in range(cuda.grid(1), source.size, step):
            target[i] = source[i]

    @cuda.jit
    def calculate(out, turns):  # type: ignore[no-untyped-def]
        i = cuda.grid(1)
        a = np.float32(i)
        b = np.float32(1) + a
        c = np.float32(2) + a
        d = np.float32(3) + a
        factor = np.float32(0.999)
        for _ in range(turns):
            a = a * factor + b
            b = b * factor + c
            c = c * factor + d
            d = d * factor + a
        out[i] = a + b + c + d

    values = 1 << 28
    source, target = (cuda.device_array(values, np.float32) for _ in range(2))
    blocks = 64 * cuda.get_current_device().MULTIPROCESSOR_COUNT
    out = cuda.device_array(blocks * 256, np.float32)
    turns = 1 << 14

    def copied() -> None:
        copy[blocks, 256](source, target)
        cuda.synchronize()

    def calculated() -> None:
        calculate[blocks, 256](out, np.int64(turns))
        cuda.synchronize()

    bandwidth = 8 * values / median_seconds(copied, 9)
    return bandwidth, 8 * turns * blocks * 256 / median_seconds(calculated, 5)
