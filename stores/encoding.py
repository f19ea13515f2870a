"""Pixels per frame <-> stored integers: a companded 8-bit code with an exact zero.

The field's convention (clip to +-20 px, 255 even steps) has no code for zero and clips fast motion. Here the steps are
fine and even where flow is small and grow geometrically above, so nothing below 64 px is clipped (spec store.md,
Companded 8 bit).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ZERO = 127
MISSING_CODE = 255  # never written; what a reader sees where a chunk is absent


@dataclass(frozen=True)
class Encoding:
    """A symmetric table of levels in px: `step` up to `linear_limit`, then growing geometrically to `bound`.

    Codes are uint8: 127 is exactly zero, 127 + k and 127 - k are plus and minus level k; 255 is never written.
    """

    name: str = "companded8"
    step: float = 0.125
    linear_limit: float = 8.0
    bound: float = 64.0

    dtype = np.dtype(np.uint8)

    @property
    def magnitudes(self) -> NDArray[np.float32]:
        """The 128 non-negative levels, float32 (128,), px."""
        even = round(self.linear_limit / self.step)
        growing = _ZERO - even
        linear = np.arange(even + 1, dtype=np.float64) * self.step
        geometric = self.linear_limit * (self.bound / self.linear_limit) ** (np.arange(1, growing + 1) / growing)
        return np.concatenate([linear, geometric]).astype(np.float32)

    @property
    def levels(self) -> NDArray[np.float32]:
        """The px of every code, float32 (256,); code 255 is NaN, so that a stray one cannot pass for flow."""
        positive = self.magnitudes
        return np.concatenate([-positive[:0:-1], positive, np.array([np.nan], np.float32)])

    def encode(self, flow: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the code of the nearest level for every value of `flow` (any shape, px); beyond +-`bound` the last
        level.

        Raises ValueError when a value is not finite.
        """
        if not np.isfinite(flow).all():
            raise ValueError(
                f"flow of shape {flow.shape} has values that are not finite; a store holds finite flow only"
            )
        magnitudes = self.magnitudes.astype(np.float64)
        middles = ((magnitudes[1:] + magnitudes[:-1]) / 2).astype(np.float32)
        level = np.searchsorted(middles, np.abs(flow), side="left")
        return np.where(flow < 0, _ZERO - level, _ZERO + level).astype(np.uint8)

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return px for every code, float32 of the same shape."""
        return self.levels[codes]

    def clipped(self, flow: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return where `flow` lies beyond +-`bound`, so that its code understates it."""
        return np.abs(flow) > self.bound

    def to_json(self) -> dict[str, Any]:
        """Return the encoding as `store.json` keeps it; `from_json` is the inverse."""
        return {"name": self.name, "step": self.step, "linear_limit": self.linear_limit, "bound": self.bound}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Encoding":
        """Return the encoding that `store.json` names. Raises ValueError for one that this release does not know."""
        if value.get("name") != Encoding.name:
            raise ValueError(
                f"encoding {value.get('name')!r} is unknown to this release, which reads {Encoding.name!r}; update flowcpc"
            )
        return Encoding(**value)

    def attributes(self) -> dict[str, Any]:
        """Return array attributes that explain the codes to programs without flowcpc."""
        return {
            "units": "px per frame",
            "encoding": self.name,
            "levels_px": [float(level) for level in self.levels[:255]],
            "comment": "value in px = levels_px[code]; components are u (x, to the right) and v (y, downwards)",
        }
