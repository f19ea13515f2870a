"""Parameters of TV-L1. They are part of a store's numerics: they decide every stored value."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Profile:
    """Border and interpolation rules, in which OpenCV's CPU and CUDA codes differ."""

    pixel_offset: float  # where resizing samples a pixel: 0.5 its centre, 0 its corner
    cubic: float  # Keys' parameter of the bicubic warp
    repeats_border: bool  # outside a warped frame: its border again, or 0
    median: int  # default side of the median filter


BACKENDS = ("auto", "cuda", "cpu", "opencv")
PROFILES = {
    "opencv-cpu": Profile(pixel_offset=0.5, cubic=-0.75, repeats_border=False, median=5),
    "opencv-cuda": Profile(pixel_offset=0.0, cubic=-0.5, repeats_border=True, median=1),
}
# Beyond these, intermediate values leave the range of float32; below the smallest epsilon, updates
# are smaller than what is counted of them (constants.py: COUNTS_PER_SQUARE_PIXEL).
_RANGES = {"tau": (1e-3, 1e3), "lambda_": (1e-6, 1e3), "theta": (1e-3, 1e3)}
_RANGES |= {"epsilon": (1e-3, 1e3), "scale_step": (0.05, 0.99)}
_COUNTS = ("scales", "warps", "inner_iterations", "outer_iterations")
_MAX_COUNT = 10000


@dataclasses.dataclass(frozen=True)
class TVL1Parameters:
    """Parameters of TV-L1 optical flow. The defaults are OpenCV's, as in the field's data sets.

    Raises ValueError for a value outside its range.
    """

    profile: str = "opencv-cpu"  # border and interpolation rules of OpenCV's codes
    tau: float = 0.25  # dual step; larger converges faster up to 0.25
    lambda_: float = 0.15  # weight of the data term, for intensities in 0..255; smaller is smoother
    theta: float = 0.3  # coupling of the data term and the smoothness term
    scales: int = 5  # levels of the pyramid
    scale_step: float = 0.8  # size of each level relative to the one below
    warps: int = 5  # linearisations per level
    epsilon: float = 0.01  # a warp ends when the mean squared update is at most its square, px^2
    inner_iterations: int = 30  # between median filters
    outer_iterations: int = 10  # times inner_iterations: the most iterations of a warp
    median: int | None = None  # side of the filter: 1 (none), 3 or 5; None becomes the profile's

    def __post_init__(self) -> None:
        values, rules = vars(self), {}
        rules["profile"] = self.profile in PROFILES, f"must be one of {', '.join(PROFILES)}"
        for name, (low, high) in _RANGES.items():
            good = isinstance(values[name], int | float) and low <= values[name] <= high
            rules[name] = good, f"must be a number from {low:g} to {high:g}"
        for name in _COUNTS:
            good = isinstance(values[name], int) and 1 <= values[name] <= _MAX_COUNT
            rules[name] = good, f"must be a whole number from 1 to {_MAX_COUNT}"
        rules["median"] = self.median in (None, 1, 3, 5), "must be 1, 3 or 5"
        for name, (good, rule) in rules.items():
            if not good:
                raise ValueError(f"{name}={values[name]!r} {rule}")
        if self.median is None:
            object.__setattr__(self, "median", self.rules.median)

    @property
    def rules(self) -> Profile:
        """The profile's border and interpolation rules."""
        return PROFILES[self.profile]

    def to_json(self) -> dict[str, Any]:
        """Return the parameters as a store's numerics contain them."""
        return dataclasses.asdict(self)
