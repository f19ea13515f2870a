"""Parameters of TV-L1: part of a store's numerics, because they decide every stored value."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Profile:
    """Border and interpolation rules, in which OpenCV's CPU and CUDA codes differ.

    Attributes
    ----------
    pixel_offset : float
        Where in a pixel an image is sampled when it is resized: 0.5 its centre, 0 its corner.
    cubic : float
        Keys' parameter of the bicubic warp.
    repeats_border : bool
        What lies outside a frame that is warped: its border again, or nothing (0).
    median : int
        Default side of the median filter.
    """

    pixel_offset: float
    cubic: float
    repeats_border: bool
    median: int


BACKENDS = ("auto", "cuda", "cpu", "opencv")
PROFILES = {
    "opencv-cpu": Profile(pixel_offset=0.5, cubic=-0.75, repeats_border=False, median=5),
    "opencv-cuda": Profile(pixel_offset=0.0, cubic=-0.5, repeats_border=True, median=1),
}


# Beyond these float32 has no room for the intermediate values; under the least epsilon, updates are smaller than what is counted of them
# (constants.py: COUNTS_PER_SQUARE_PIXEL).
_RANGES = (
    ("tau", 1e-3, 1e3),
    ("lambda_", 1e-6, 1e3),
    ("theta", 1e-3, 1e3),
    ("epsilon", 1e-3, 1e3),
    ("scale_step", 0.05, 0.99),
)
_MOST = 10000


@dataclasses.dataclass(frozen=True)
class TVL1Parameters:
    """Parameters of TV-L1 optical flow; the defaults are OpenCV's, which the field's data sets were made with.

    Raises ValueError for a value outside its range.

    Attributes
    ----------
    profile : str
        Whose border and interpolation rules hold: "opencv-cpu" or "opencv-cuda", those of OpenCV's two codes.
    tau : float
        Dual step; larger converges faster up to 0.25.
    lambda_ : float
        Attachment to the data, for intensities on 0..255; smaller gives smoother flow.
    theta : float
        Coupling between the data term and the smooth term.
    scales, scale_step : int, float
        Levels of the pyramid, and the size of each relative to the one below.
    warps : int
        Re-linearisations per level.
    epsilon : float
        A warp ends when the mean squared update of the flow is at most epsilon squared, px.
    inner_iterations, outer_iterations : int
        Their product bounds the iterations of a warp.
    median : int
        Side of the median filter of the flow before every outer iteration: 1 (none), 3 or 5. None, the default, becomes the
        profile's: 5 for "opencv-cpu", 1 for "opencv-cuda".
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
        if self.profile not in PROFILES:
            raise ValueError(
                f"profile={self.profile!r} is unknown; choose one of {', '.join(PROFILES)}"
            )
        for name, least, most in _RANGES:
            value = getattr(self, name)
            good = isinstance(value, int | float) and least <= value <= most
            _require(good, name, value, f"must be a number from {least:g} to {most:g}")
        for name in ("scales", "warps", "inner_iterations", "outer_iterations"):
            value = getattr(self, name)
            good = isinstance(value, int) and 1 <= value <= _MOST
            _require(good, name, value, f"must be a whole number from 1 to {_MOST}")
        if self.median is None:
            object.__setattr__(self, "median", self.rules.median)
        _require(self.median in (1, 3, 5), "median", self.median, "must be 1, 3 or 5")

    @property
    def rules(self) -> Profile:
        """The profile's border and interpolation rules."""
        return PROFILES[self.profile]

    def to_json(self) -> dict[str, Any]:
        """Return the parameters as a store's numerics keep them."""
        return dataclasses.asdict(self)


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value!r} {rule}")
