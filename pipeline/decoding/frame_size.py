"""The size of frames before flow: one for all videos, or by each video's shorter side."""

import dataclasses
from typing import Any

from flowcpc.pipeline.tvl1.pyramid import MIN_SIDE

MAX_SIDE = 8192  # larger than any video, small enough that a mistyped size does not fill the memory
_BLOCK_BYTES = 256 << 20
_BYTES_PER_PIXEL = 1 + 2 * 4  # a frame and its flow, before encoding


@dataclasses.dataclass(frozen=True)
class FrameSize:
    """`height` x `width` px for every video, or `short_side` px and each video's aspect ratio.

    Raises ValueError for sides that are too small or too large, or for both ways at once.
    """

    height: int | None = None
    width: int | None = None
    short_side: int | None = None

    def __post_init__(self) -> None:
        given = {name: side for name, side in vars(self).items() if side is not None}
        if set(given) not in ({"height", "width"}, {"short_side"}):
            raise ValueError("give height and width, or short_side alone")
        if not all(MIN_SIDE <= side <= MAX_SIDE for side in given.values()):
            names, size = " and ".join(given), "x".join(map(str, given.values()))
            raise ValueError(f"{names} must be {MIN_SIDE} to {MAX_SIDE} px, got {size}")

    def resolve(self, source_height: int, source_width: int) -> tuple[int, int]:
        """Return (height, width) in px for a video of this size after rotation by its metadata.

        The longer side is rounded to the nearest even number, and half-way cases up: 256 px of 4:3
        video is 256x342. A square stays one. Raises ValueError where it would exceed MAX_SIDE.

        >>> FrameSize(short_side=256).resolve(240, 320), FrameSize(short_side=256).resolve(320, 240)
        ((256, 342), (342, 256))
        """
        if self.height is not None and self.width is not None:
            return self.height, self.width
        side = long_side = self.short_side or 0
        short, long = sorted((source_height, source_width))
        if long > short:
            long_side = max(side, 2 * ((side * long + short) // (2 * short)))
        if long_side > MAX_SIDE:
            problem = f"with a short side of {side} px, its long side would be {long_side} px"
            size = f"is {source_height}x{source_width} px"
            raise ValueError(f"{size}: {problem}; the maximum is {MAX_SIDE}")
        return (side, long_side) if source_height <= source_width else (long_side, side)

    def to_json(self) -> dict[str, Any]:
        """Return the size as a store's numerics contain it."""
        if self.short_side is None:
            return {"height": self.height, "width": self.width}
        return {"short_side": self.short_side, "long_side": "nearest even px"}


def frames_per_block(height: int, width: int, limit: int) -> int:
    """Return how many frames to process at a time, 2 to `limit`: with flow at most 256 MiB."""
    return min(limit, max(2, _BLOCK_BYTES // (height * width * _BYTES_PER_PIXEL)))
