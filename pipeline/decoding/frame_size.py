"""The size that frames are brought to before flow: one for all videos, or every video's own by its shorter side."""

import dataclasses
from typing import Any

from flowcpc.pipeline.tvl1.pyramid import MIN_SIDE

MAX_SIDE = 8192  # larger than any video, small enough that a mistyped size does not end in memory
_BLOCK_BYTES = 256 << 20
_BYTES_PER_PIXEL = 1 + 2 * 4  # a frame and its flow, before encoding


@dataclasses.dataclass(frozen=True)
class FrameSize:
    """`height` x `width` px for every video, or `short_side` px for the shorter side and the longer one by the video's aspect ratio.

    Raises ValueError for sides that are too small or too large for flow, or for both ways at once.
    """

    height: int | None = None
    width: int | None = None
    short_side: int | None = None

    def __post_init__(self) -> None:
        if self.short_side is not None:
            if (self.height, self.width) != (None, None):
                raise ValueError(
                    "height and width, or short_side, say how large frames become; give one of the two"
                )
            if not MIN_SIDE <= self.short_side <= MAX_SIDE:
                raise ValueError(
                    f"short side {self.short_side} is not a size for flow; give {MIN_SIDE} to {MAX_SIDE} px"
                )
            return
        if self.height is None or self.width is None:
            raise ValueError(
                "a size is height and width, or short_side; give both sides or the shorter one"
            )
        if max(self.height, self.width) > MAX_SIDE:
            raise ValueError(
                f"size {self.height}x{self.width} is too large; both sides must be at most {MAX_SIDE} px"
            )
        if min(self.height, self.width) < MIN_SIDE:
            raise ValueError(
                f"size {self.height}x{self.width} is too small; both sides must be at least {MIN_SIDE} px"
            )

    def resolve(self, source_height: int, source_width: int) -> tuple[int, int]:
        """Return (height, width) in px for a video of that size, as it is shown: turned by its rotation metadata.

        The longer side is rounded to the nearest even number, upwards where two are as near, so that 256 px of 4:3 video is 256x342; a square stays
        one. Raises ValueError where the longer side would be larger than MAX_SIDE.

        >>> FrameSize(short_side=256).resolve(240, 320), FrameSize(short_side=256).resolve(320, 240)
        ((256, 342), (342, 256))
        """
        if self.short_side is None:
            assert self.height is not None
            assert self.width is not None
            return self.height, self.width
        short, long = sorted((source_height, source_width))
        side = self.short_side
        if long > short:
            side = max(side, 2 * ((self.short_side * long + short) // (2 * short)))
        if side > MAX_SIDE:
            raise ValueError(
                f"is {source_height}x{source_width} px: with a shorter side of {self.short_side} px the longer one would be {side} px, "
                f"and {MAX_SIDE} is the most"
            )
        return (self.short_side, side) if source_height <= source_width else (side, self.short_side)

    def to_json(self) -> dict[str, Any]:
        """Return the part of a store's numerics that says how large flow is."""
        if self.short_side is None:
            return {"height": self.height, "width": self.width}
        return {"short_side": self.short_side, "long_side": "nearest even px"}


def frames_per_block(height: int, width: int, most: int) -> int:
    """Return how many frames are worked on at a time: `most`, or fewer where they and their flow would take more than 256 MiB; at least 2."""
    return min(most, max(2, _BLOCK_BYTES // (height * width * _BYTES_PER_PIXEL)))
