"""Videos decoded by a process that may die: what a file does to FFmpeg costs that video and nothing else.

One process for each video in hand serves video after video, decoding ahead of the solver by a few blocks; frames come through a pipe. It is killed
and started anew after a crash, a hang, too much memory or a video that was given up. It is started, never forked: the worker has threads.
"""

import atexit
import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowcpc.pipeline.decoding.decoder_process import LENGTHS
from flowcpc.pipeline.decoding.frame_size import FrameSize
from flowcpc.pipeline.decoding.frames import DECODER, VideoError
from flowcpc.pipeline.decoding.limits import LimitError, Watch

COMMAND = (sys.executable, "-P", "-m", "flowcpc.pipeline.decoding.decoder_process")
_SILENCE_S = 600.0  # a decoder that gives nothing for so long hangs: a slow disk gives something, and frames take milliseconds
_SLICE_S = 0.1
_DEATH_S = 5.0
_LAST_WORDS = 200


class DecoderError(RuntimeError):
    """The decoding process died over a video; the message says how."""


class Decoder:
    """One decoding process; serves one video at a time. Raises DecoderError when it cannot be started."""

    def __init__(self) -> None:
        # It finds the modules where this process found them, however that was started. `-P` keeps the current folder out: it may be a data set's.
        path = os.pathsep.join(folder for folder in sys.path if folder)
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",
        }
        try:
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=environment,
                start_new_session=True,  # a terminal's Ctrl-C is for the command
            )
        except OSError as error:
            raise DecoderError(f"its decoder cannot be started ({error.strerror})") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._requests, self._answers, self._words = (
            self._process.stdin,
            self._process.stdout,
            self._process.stderr,
        )
        os.set_blocking(self._words.fileno(), False)
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._answers, selectors.EVENT_READ)
        self._served = False
        self.idle = True

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def usable(self) -> bool:
        """Return whether the process waits for the next video."""
        return self.idle and self._process.poll() is None

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # one that waits for a dead disk dies when that answers
            self._process.wait(_DEATH_S)
        self._ready.close()
        for pipe in (self._requests, self._answers, self._words):
            pipe.close()

    def open(
        self,
        path: Path,
        size: FrameSize,
        *,
        block: int,
        threads: int,
        memory_limit: int,
        watch: Watch,
        most_blocks: int | None = None,
        with_jpegs: bool = False,
    ) -> "DecodedVideo":
        """Begin to decode `path` to gray frames of `size`, `block` at a time at most, in at most `memory_limit` bytes; all of it, or no more than
        `most_blocks`; with the frames as JPEGs too where they are asked for.

        Raises VideoError where the file is to blame, LimitError where it takes too much or hangs, DecoderError where the process died, and
        whatever `watch` raises.
        """
        self.idle = False
        request = {
            "path": os.path.abspath(path),
            "size": dataclasses.asdict(size),
            "block": block,
            "most_blocks": most_blocks,
            "with_jpegs": with_jpegs,
            "threads": threads,
            "memory_limit": memory_limit,
        }
        while self._served and self._words.read(1 << 16):  # what it said about earlier videos
            pass
        self._served = True
        with contextlib.suppress(BrokenPipeError):  # reading says why
            self._requests.write(json.dumps(request).encode() + b"\n")
        return DecodedVideo(self, memory_limit, watch)

    def receive(self, watch: Watch, decoded: int) -> tuple[str, Any, int]:
        """Return the next message of the process: its kind, what it says, and how many bytes of frames follow."""
        lengths = bytearray(LENGTHS.size)
        self.fill(memoryview(lengths), watch, decoded)
        text_length, frames_length = LENGTHS.unpack(lengths)
        text = bytearray(text_length)
        self.fill(memoryview(text), watch, decoded)
        ((kind, value),) = json.loads(text).items()
        return kind, value, frames_length

    def fill(self, room: memoryview, watch: Watch, decoded: int) -> None:
        """Fill `room` with what the process sends. Raises as `open`."""
        filled, silent = 0, 0.0
        while filled < len(room):
            if not self._ready.select(_SLICE_S):
                watch.check()
                # Slices are counted, not the clock: a machine that slept, or a process that was stopped, is no decoder that hangs.
                silent += _SLICE_S
                if silent >= _SILENCE_S:
                    raise LimitError(
                        f"its decoder gave nothing for {_SILENCE_S:g} s after {decoded} frames: the file, or the disk under it, hangs"
                    )
                continue
            count = self._answers.readinto(room[filled:])  # type: ignore[attr-defined]
            if not count:
                watch.check()  # a machine that is shut down ends all processes at once
                raise DecoderError(f"{self._cause_of_death()} after {decoded} frames")
            filled, silent = filled + count, 0.0

    def _cause_of_death(self) -> str:
        self._process.kill()  # it has closed its pipe and may linger over it
        code = self._process.wait()
        words = (self._words.read(1 << 16) or b"").decode(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(words) if line.strip()), "")
        said = f" ({last[:_LAST_WORDS]})" if last else ""
        if code >= 0:
            return f"its decoder ended with exit code {code}{said}"
        hint = ", as happens where a machine runs out of memory" if code == -signal.SIGKILL else ""
        return f"its decoder was killed by {signal.Signals(-code).name}{said}{hint}"


class DecodedVideo:
    """One video as its frames come: `header_frames`, `fps`, `source_height`, `source_width`, and `height` and `width` of the frames at once; after
    the blocks are used up `decoded_frames`, `times` (float64 seconds of every frame), `sha256` of the file (unless it is read in part) and
    `peak_bytes` of the process.
    """

    def __init__(self, decoder: Decoder, memory_limit: int, watch: Watch) -> None:
        self._decoder = decoder
        self._memory_limit = memory_limit
        self._watch = watch
        self.decoded_frames = 0
        self._jpegs: list[bytes] = []
        opened = self._receive("opened")[0]
        self.header_frames: int | None = opened["header_frames"]
        self.fps: float | None = opened["fps"]
        self.source_height, self.source_width = (
            int(opened["source_height"]),
            int(opened["source_width"]),
        )
        self.height, self.width = int(opened["height"]), int(opened["width"])

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 (n, H, W), n >= 1, in order; raises as `Decoder.open`."""
        while True:
            value, length = self._receive("frames", "done")
            if not length:
                break
            try:
                count, sizes = int(value["count"]), [int(size) for size in value["jpegs"]]
            except (TypeError, KeyError, ValueError):
                raise DecoderError("its decoder sent frames and did not say how many") from None
            if length != count * self.height * self.width + sum(sizes):
                raise DecoderError(
                    f"its decoder sent {length} bytes for {count} frames of {self.height}x{self.width}"
                )
            frames = np.empty((count, self.height, self.width), np.uint8)
            self._decoder.fill(frames.data.cast("B"), self._watch, self.decoded_frames)
            for size in sizes:
                jpeg = bytearray(size)
                self._decoder.fill(memoryview(jpeg), self._watch, self.decoded_frames)
                self._jpegs.append(bytes(jpeg))
            self.decoded_frames += count
            yield frames
        self.decoded_frames = int(value["decoded_frames"])
        self.times = np.array(value["times"], np.float64)
        self.sha256 = str(value["sha256"])
        self.peak_bytes = int(value["peak_bytes"])
        self._decoder.idle = True

    def take_jpegs(self) -> list[bytes]:
        """Return the frames that came since the last call as JPEGs in colour, where they were asked for, and forget them."""
        taken, self._jpegs = self._jpegs, []
        return taken

    def overlapping_blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield blocks of at least two frames in which each begins with the last frame of the one before, so that no pair is lost."""
        last: NDArray[np.uint8] | None = None
        for block in self.blocks():
            frames = block if last is None else np.concatenate([last, block])
            last = frames[-1:]
            if len(frames) > 1:
                yield frames

    def columns(self) -> dict[str, Any]:
        """Return what was decoded, as columns of the videos table."""
        return {
            "source_sha256": self.sha256,
            "fps": self.fps,
            "decoded_frames": self.decoded_frames,
            "header_frames": self.header_frames,
            "decoded_is_header": self.header_frames in (None, self.decoded_frames),
            "source_height": self.source_height,
            "source_width": self.source_width,
            "decoder": DECODER,
        }

    def _receive(self, *expected: str) -> tuple[Any, int]:
        kind, value, length = self._decoder.receive(self._watch, self.decoded_frames)
        if kind in expected:
            return value, length
        self._decoder.idle = True  # every other message is the last about its video
        if kind == "refused":
            raise VideoError(value)
        if kind == "starved":
            raise LimitError(
                f"needs more memory to decode than the limit of {self._memory_limit >> 20}M after {self.decoded_frames} frames; "
                "give more with --memory-limit, or leave the video out"
            )
        raise DecoderError(f"its decoder failed after {self.decoded_frames} frames: {value}")


_idle: list[Decoder] = []


@contextlib.contextmanager
def borrowed_decoder() -> Iterator[Decoder]:
    """Lend a decoder of this process, started now where none is idle. It is killed unless it is idle at the end."""
    decoder = _take()
    try:
        yield decoder
    finally:
        if decoder.usable():
            _idle.append(decoder)
        else:
            decoder.kill()


def _take() -> Decoder:
    while _idle:
        with contextlib.suppress(IndexError):  # another thread was quicker
            decoder = _idle.pop()
            if decoder.usable():
                return decoder
            decoder.kill()
    return Decoder()


@atexit.register
def end_idle_decoders() -> None:
    """End the decoders that wait for a video; they would end by themselves, a moment after this process."""
    while _idle:
        _idle.pop().kill()
