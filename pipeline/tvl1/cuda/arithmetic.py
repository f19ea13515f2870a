"""Arithmetic that rounds as the processor does, on a CUDA device or in Numba's simulator.

A device's compiler may fuse a product and a sum into one rounding, but not products by `multiply`.
Sums, divisions and square roots are correctly rounded by themselves.
"""

import math
import operator
import types
from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import config, cuda

SIMULATED = bool(config.ENABLE_CUDASIM)

if SIMULATED:
    _multiply, _square_root = operator.mul, np.sqrt
else:
    from numba.cuda import libdevice

    _multiply, _square_root = libdevice.fmul_rn, libdevice.fsqrt_rn


@cuda.jit(device=True)
def multiply(a, b):
    """Return a * b, float32."""
    return _multiply(a, b)


@cuda.jit(device=True)
def square_root(a):
    """Return the square root, float32."""
    return _square_root(a)


@cuda.jit(device=True)
def minimum(a, b):
    """Return a where a < b, else b."""
    return a if a < b else b


@cuda.jit(device=True)
def maximum(a, b):
    """Return a where a > b, else b."""
    return a if a > b else b


@cuda.jit(device=True)
def floor(a):
    """Return the largest whole number that is not above a, float32."""
    return np.float32(math.floor(a))


def on_device(functions: Iterable[Any], **replaced: Any) -> dict[str, Any]:
    """Compile processor kernels, which see each other and `replaced`, for the device; by name."""
    compiled: dict[str, Any] = dict(replaced)
    for function in functions:
        python = function.py_func
        copy = types.FunctionType(python.__code__, compiled, python.__name__)
        compiled[python.__name__] = cuda.jit(device=True)(copy)
    return compiled
