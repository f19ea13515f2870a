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

    profile: border and interpolation rules of OpenCV's codes, "opencv-cpu" or "opencv-cuda".
    tau: dual step; larger converges faster up to 0.25.
    lambda_: weight of the data term, for intensities in 0..255; smaller gives smoother flow.
    theta: coupling of the data term and the smoothness term.
    scales, scale_step: levels of the pyramid; the size of each relative to the one below.
    warps: linearisations per level.
    epsilon: a warp ends when the mean squared update of the flow is at most epsilon squared, px.
    inner_iterations, outer_iterations: their product bounds the iterations of a warp.
    median: side of the median filter of the flow before every outer iteration, 1 (none), 3 or 5.
        None becomes the profile's: 5 for "opencv-cpu", 1 for "opencv-cuda".
    """

    profile: str = "opencv-cpu"
    tau: float = 0.25
    lambda_: float = 0.15
    theta: float = 0.3
    scales: int = 5
    scale_step: float = 0.8
    warps: int = 5
    epsilon: float = 0.01
    inner_iterations: int = 30
    outer_iterations: int = 10
    median: int | None = None

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
