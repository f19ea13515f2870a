"""Pixels per frame <-> stored codes: the encodings of a store, in one table, ENCODINGS.

The field's convention (`uint8-bound20`: clip to +-20 px, 255 even steps) has no code for zero and
clips fast motion. The default, `companded8`, has small even steps for small flow and geometrically
growing steps up to 64 px. docs/stores/store.md has the measured errors and sizes of all four.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.base.compiled import kernel
from flowcpc.stores.layout import ENCODING_NAMES

Codes = NDArray[Any]  # of an encoding's dtype
_BUCKET_BITS = 16  # the first bits of a float32, sign included; a bucket spans 0.8 %
_MAGNITUDES = 128  # of the levels of an 8-bit encoding, zero among them if it is a level


@dataclass(frozen=True)
class Encoding:
    """Codes <-> px per frame."""

    name: str
    parameters: Mapping[str, float]  # what `store.json` keeps next to the name
    dtype: np.dtype[Any]  # of the codes
    bound: float  # largest magnitude that is not clipped, px
    scale: float = 1.0  # px per code; for the encodings without levels
    missing: float = 0  # fill value of arrays: the code that no flow has, if there is one
    # The px of every code, float32 (256,), increasing, NaN if unused; None if px = code * scale.
    levels: NDArray[np.float32] | None = field(default=None, compare=False)

    @functools.cached_property
    def _search_tables(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return (limits, lowest): a value above limits[code] has a higher code than `code`.

        lowest[bucket] is the lowest code in a bucket of floats; no bucket holds two limits. Halfway
        between two levels the smaller magnitude is taken, and zero counts as positive.
        """
        assert self.levels is not None
        exact = self.levels[np.isfinite(self.levels)].astype(np.float64)
        limits = ((exact[1:] + exact[:-1]) / 2).astype(np.float32)
        limits = np.where(limits > 0, limits, np.nextafter(limits, np.float32(-np.inf)))
        edges = np.arange(1 << _BUCKET_BITS, dtype=np.uint32) << (32 - _BUCKET_BITS)
        # The lowest of the negative floats in a bucket has the largest magnitude.
        edges[len(edges) // 2 :] |= (1 << (32 - _BUCKET_BITS)) - 1
        values = np.nan_to_num(edges.view(np.float32), nan=0, posinf=np.inf, neginf=-np.inf)
        lowest = np.searchsorted(limits, values, side="left").astype(np.uint8)
        return np.append(limits, np.float32(np.inf)), lowest

    def encode(self, flow: NDArray[np.float32]) -> Codes:
        """Return the code of the nearest stored value for every value of `flow` (any shape, px).

        Values beyond +-`bound` are clipped. Raises ValueError if a value is not finite.
        """
        flow = np.ascontiguousarray(flow, np.float32)
        if self.levels is None:
            finite = bool(np.isfinite(flow).all())
            values = np.clip(flow, -self.bound, self.bound) / np.float32(self.scale)
            with np.errstate(invalid="ignore"):  # values that are not finite are refused below
                rounded = np.rint(values) if self.dtype.kind == "i" else values
                codes = rounded.astype(self.dtype)
        else:
            codes, flat = np.empty(flow.shape, np.uint8), flow.reshape(-1)
            tables = self._search_tables
            finite = _take_nearest(flat, flat.view(np.int32), *tables, codes.reshape(-1))
        if not finite:
            problem = f"flow of shape {flow.shape} has values that are not finite"
            raise ValueError(f"{problem}; a store holds finite flow only")
        return codes

    def decode(self, codes: Codes) -> NDArray[np.float32]:
        """Return px for every code, float32 of the same shape."""
        if self.levels is None:
            return codes.astype(np.float32) * np.float32(self.scale)
        flow = np.empty(codes.shape, np.float32)
        _look_up(np.ascontiguousarray(codes).reshape(-1), self.levels, flow.reshape(-1))
        return flow

    def to_json(self) -> dict[str, Any]:
        """Return the encoding as `store.json` keeps it; `encoding_from_json` is the inverse."""
        return {"name": self.name, **self.parameters}

    def attributes(self) -> dict[str, Any]:
        """Return array attributes that explain the codes to other programs, by CF if linear."""
        components = "components are u (x, to the right) and v (y, downwards)"
        common = {"units": "px per frame", "encoding": self.name}
        if self.name == _COMPANDED:
            assert self.levels is not None
            comment = f"value in px = levels_px[code]; {components}"
            return {**common, "comment": comment, "levels_px": self.levels[:255].tolist()}
        comment = f"value in px = scale_factor * code + add_offset; {components}"
        offset = 0.0 if self.levels is None else float(self.levels[0])
        factor = self.scale if self.levels is None else 2 * self.bound / 255
        return {**common, "comment": comment, "scale_factor": factor, "add_offset": offset}


def encoding_from_json(value: Mapping[str, Any]) -> Encoding:
    """Return the encoding that `store.json` names. Raises ValueError if it is unknown."""
    for encoding in ENCODINGS.values():
        if encoding.to_json() == dict(value):
            return encoding
    known = ", ".join(ENCODINGS)
    raise ValueError(
        f"encoding {dict(value)} is unknown to this release, which has {known}; update flowcpc"
    )


def encoding_by_name(name: str) -> Encoding:
    """Return one of ENCODINGS. Raises ValueError for another name."""
    if name not in ENCODINGS:
        raise ValueError(f"encoding={name!r} is unknown; choose one of {', '.join(ENCODINGS)}")
    return ENCODINGS[name]


@kernel
def _take_nearest(flow: Any, bits: Any, limits: Any, lowest: Any, codes: Any) -> bool:
    """Write the code of the nearest level for every value; return whether all are finite."""
    largest = 0
    for i in range(len(flow)):
        largest = max(largest, bits[i] & 0x7FFFFFFF)
        code = np.int32(lowest[(bits[i] >> (32 - _BUCKET_BITS)) & 0xFFFF])
        codes[i] = code + (flow[i] > limits[code])
    return largest < 0x7F800000  # the bits of infinity


@kernel
def _look_up(codes: Codes, levels: NDArray[np.float32], flow: NDArray[np.float32]) -> None:
    for i in range(len(codes)):
        flow[i] = levels[codes[i]]


def _companded(step: float, linear_limit: float, bound: float) -> NDArray[np.float32]:
    """Return levels, px: each `step` to `linear_limit`, then geometric to `bound`; zero once."""
    even = round(linear_limit / step)
    growing = _MAGNITUDES - 1 - even
    linear = np.arange(even + 1, dtype=np.float64) * step
    geometric = linear_limit * (bound / linear_limit) ** (np.arange(1, growing + 1) / growing)
    magnitudes = np.concatenate([linear, geometric]).astype(np.float32)
    return np.concatenate([-magnitudes[:0:-1], magnitudes, np.array([np.nan], np.float32)])


def _even(bound: float) -> NDArray[np.float32]:
    """Return 256 even levels from -`bound` to `bound`, px."""
    magnitudes = ((np.arange(_MAGNITUDES) + 0.5) * (2 * bound / 255)).astype(np.float32)
    return np.concatenate([-magnitudes[::-1], magnitudes])


_COMPANDED, _EVEN, _INT16, _FLOAT16 = ENCODING_NAMES
_STEPS = {"step": 0.125, "linear_limit": 8.0, "bound": 64.0}
_BYTE = np.dtype(np.uint8)
ENCODINGS = {
    encoding.name: encoding
    for encoding in (
        Encoding(_COMPANDED, _STEPS, _BYTE, 64.0, missing=255, levels=_companded(**_STEPS)),
        Encoding(_EVEN, {"bound": 20.0}, _BYTE, 20.0, levels=_even(20.0)),
        Encoding(_INT16, {"scale": 1 / 32}, np.dtype("<i2"), 32767 / 32, 1 / 32, missing=-32768),
        Encoding(_FLOAT16, {}, np.dtype("<f2"), 65504.0, missing=float("nan")),
    )
}
DEFAULT = ENCODINGS[_COMPANDED]
