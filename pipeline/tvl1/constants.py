"""The numbers of one solve, derived once and rounded once, so that every backend computes with the same bits."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.pipeline.tvl1.pyramid import Pyramid

# Raised with every change of the flow's bits (tests/pipeline/tvl1/test_same_bits.py), so that a store never holds two kinds.
SOLVER_VERSION = 1
# A pixel at rest has u = REST. Near it float32 has steps of 2^-33, so the tails of a motion end at rest; around 0 they would fade through ever
# smaller numbers, whose squares a processor handles in microcode, three times slower.
REST = np.float32(2.0**-10)
# Squared updates are summed as whole numbers of 2^-24 px^2: exact, so the sum does not depend on its order.
COUNTS_PER_SQUARE_PIXEL = 2.0**24
# A single pixel's part in that sum is cut off here, at 127.99 px^2: it then jumped by 11 px, and no warp ends.
LARGEST_COUNT = 2147483520.0
# Pixels around a frame to which warped coordinates are brought: far enough that all taps of a pixel there lie outside.
BORDER = 4
# |gradient|^2 up to which a pixel has no data term; OpenCV's value.
SMALLEST_GRADIENT = 1.19e-7


@dataclasses.dataclass(frozen=True)
class Constants:
    """Constants in the units of the iterations: flow in theta/tau px, in which the dual step needs no factor.

    Attributes
    ----------
    tau : float32
        Factor of div p.
    bound : float32
        Largest step along the gradient, lambda theta in these units.
    to_pixels : float32
        theta / tau.
    counts : float32
        Counts per squared unit of an update.
    smallest_gradient : float32
    cubic : float32
        Keys' parameter.
    enlarge : float32
        Factor of the flow from a level to the finer one.
    limits : int64 (levels,)
        Summed counts at which a warp of a level ends.
    """

    tau: np.float32
    bound: np.float32
    to_pixels: np.float32
    counts: np.float32
    smallest_gradient: np.float32
    cubic: np.float32
    enlarge: np.float32
    limits: NDArray[np.int64]


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
