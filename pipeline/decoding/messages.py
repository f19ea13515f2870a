"""What a decoder process and its owner send each other.

The owner sends a `Request` per video, a line of JSON. The process answers with messages: two
lengths, JSON that names the message and its fields, and after `Frames` the bytes of the images.
"""

import dataclasses
import json
import os
import struct
from pathlib import Path
from typing import NamedTuple

from flowcpc.pipeline.decoding.frame_size import FrameSize

LENGTHS = struct.Struct("<II")  # bytes of the JSON and of the images


@dataclasses.dataclass(frozen=True)
class Request:
    """Decode `path` to gray frames of `size`, `block` at a time, on so many `threads`."""

    path: Path
    size: FrameSize
    block: int
    threads: int
    memory_limit: int  # bytes of the process
    max_blocks: int | None = None  # None: the whole video
    with_jpegs: bool = False  # send each frame as a JPEG in colour too

    def to_line(self) -> bytes:
        """Return the request as a line of JSON, with an absolute path."""
        fields = {**dataclasses.asdict(self), "path": os.path.abspath(self.path)}
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Request":
        """Return the request that `to_line` wrote."""
        fields = json.loads(line)
        return cls(Path(fields.pop("path")), FrameSize(**fields.pop("size")), **fields)


class Opened(NamedTuple):
    """What is known with the first frame; `height` and `width` of the frames to come, px."""

    header_frames: int | None
    fps: float | None
    source_height: int
    source_width: int
    height: int
    width: int


class Frames(NamedTuple):
    """`number` gray frames follow, then JPEGs of these sizes in bytes."""

    number: int
    jpegs: list[int]


class Done(NamedTuple):
    """The video is decoded; `times` in seconds, `sha256` of the file if all of it was read."""

    decoded_frames: int
    times: list[float]
    sha256: str
    peak_bytes: int


class Failed(NamedTuple):
    """The video failed: "refused" (the file), "starved" (no memory) or "broken" (anything else)."""

    kind: str
    reason: str = ""


Message = Opened | Frames | Done | Failed
_MESSAGES = {kind.__name__: kind for kind in (Opened, Frames, Done, Failed)}


def pack(message: Message, images: bytes = b"") -> tuple[bytes, bytes]:
    """Return the bytes of a message, and those of its images."""
    text = json.dumps({type(message).__name__: message._asdict()}).encode()
    return LENGTHS.pack(len(text), len(images)) + text, images


def parse(text: bytearray) -> Message:
    """Return the message in its JSON. Raises ValueError for anything else."""
    try:
        ((name, fields),) = json.loads(text).items()
        return _MESSAGES[name](**fields)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"sent {bytes(text[:80])!r}, which is not a message") from error
