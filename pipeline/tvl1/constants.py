"""The constants of one solve, rounded once, so that every backend computes the same bits."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.pipeline.tvl1.pyramid import Pyramid

# Raised with every change of the flow's bits (tests/pipeline/tvl1/test_same_bits.py), so that no
# store mixes two kinds.
SOLVER_VERSION = 1
# A pixel at rest has u = REST. Near it float32 has steps of 2^-33, so the tails of a motion end at
# rest; around 0 they would fade through denormal numbers, which are three times slower.
REST = np.float32(2.0**-10)
# Squared updates are summed as integers in 2^-24 px^2: exact, so that the order does not matter.
COUNTS_PER_SQUARE_PIXEL = 2.0**24
# A pixel's share of that sum is capped here, at 127.99 px^2: after a jump by 11 px no warp ends.
LARGEST_COUNT = 2147483520.0
BORDER = 4  # px outside a frame where warped coordinates are clipped: all taps lie outside it
SMALLEST_GRADIENT = 1.19e-7  # pixels with at most this |gradient|^2 have no data term, as in OpenCV


@dataclasses.dataclass(frozen=True)
class Constants:
    """Constants in the units of the iterations: flow in theta/tau px."""

    tau: np.float32  # factor of div p
    bound: np.float32  # largest step along the gradient: lambda theta in these units
    to_pixels: np.float32  # theta / tau
    counts: np.float32  # counts per squared unit of an update
    smallest_gradient: np.float32
    cubic: np.float32  # Keys' parameter
    enlarge: np.float32  # factor of the flow from a level to the finer one
    limits: NDArray[np.int64]  # (levels,): summed counts at which a warp ends


def make_constants(parameters: TVL1Parameters, pyramid: Pyramid) -> Constants:
    """Derive the constants in float64 and round each once."""
    units = parameters.tau / parameters.theta
    limits = parameters.epsilon**2 * pyramid.sizes.prod(axis=1) * COUNTS_PER_SQUARE_PIXEL
    return Constants(
        tau=np.float32(parameters.tau),
        bound=np.float32(parameters.lambda_ * parameters.theta * units**2),
        to_pixels=np.float32(1 / units),
        counts=np.float32(COUNTS_PER_SQUARE_PIXEL / units**2),
        smallest_gradient=np.float32(SMALLEST_GRADIENT / units**2),
        cubic=np.float32(parameters.rules.cubic),
        enlarge=np.float32(1 / parameters.scale_step),
        limits=np.minimum(np.floor(limits), 2.0**62).astype(np.int64),
    )
