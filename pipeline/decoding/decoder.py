"""Decode videos in a process of their own, so that a file that harms FFmpeg costs one video only.

A process serves one video after another and decodes a few blocks ahead of the solver; frames come
through a pipe. It is killed and replaced after a crash, a hang, too much memory or an abandoned
video. It is started, never forked, because the worker has threads.
"""

import atexit
import contextlib
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowcpc.pipeline.decoding import messages
from flowcpc.pipeline.decoding.frames import DECODER, VideoError
from flowcpc.pipeline.decoding.limits import LimitError, Watch
from flowcpc.pipeline.decoding.messages import LENGTHS, Done, Failed, Frames, Message, Opened

COMMAND = (sys.executable, "-P", "-m", "flowcpc.pipeline.decoding.decoder_process")
# Longer silence is a hang: even a slow disk delivers something, and frames take milliseconds.
_MAX_SILENCE_S = 600.0
_POLL_S = 0.1
_DEATH_S = 5.0
_MAX_REASON = 200


class DecoderError(RuntimeError):
    """The decoding process died over a video; the message says how."""


class Decoder:
    """One decoding process; serves one video at a time. Raises DecoderError if it cannot start."""

    def __init__(self) -> None:
        # It imports from the same folders as this process, but `-P` excludes the current folder,
        # which may hold a data set.
        folders = os.pathsep.join(folder for folder in sys.path if folder)
        threads = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        environment = {**os.environ, "PYTHONPATH": folders, **threads}
        # In a session of its own, because a terminal's Ctrl-C is for the command.
        options: dict[str, Any] = {"bufsize": 0, "env": environment, "start_new_session": True}
        options |= dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        try:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(COMMAND, **options)
        except OSError as error:
            raise DecoderError(f"its decoder cannot be started ({error.strerror})") from error
        pipes: Any = (self.process.stdin, self.process.stdout, self.process.stderr)
        self._requests, self._answers, self._stderr = pipes
        os.set_blocking(self._stderr.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._answers, selectors.EVENT_READ)
        self._used = False
        self.idle = True

    def usable(self) -> bool:
        """Return whether the process is alive and waits for the next video."""
        return self.idle and self.process.poll() is None

    def kill(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        # A process that waits for a dead disk only dies when the disk answers.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_DEATH_S)
        self._selector.close()
        for pipe in (self._requests, self._answers, self._stderr):
            pipe.close()

    def open(self, request: messages.Request, watch: Watch) -> "DecodedVideo":
        """Start to decode a video.

        Raises VideoError for an unusable file, LimitError for a video that needs too much or hangs,
        DecoderError if the process dies, and whatever `watch` raises.
        """
        self.idle = False
        while self._used and self._stderr.read(1 << 16):  # drop the output of earlier videos
            pass
        self._used = True
        with contextlib.suppress(BrokenPipeError):  # reading tells the reason
            self._requests.write(request.to_line())
        return DecodedVideo(self, request.memory_limit, watch)

    def fill(self, buffer: memoryview, watch: Watch, decoded: int) -> None:
        """Fill `buffer` with what the process sends, after `decoded` frames. Raises as `open`."""
        filled, silent = 0, 0.0
        while filled < len(buffer):
            if not self._selector.select(_POLL_S):
                watch.check()
                # Counted in polls, not by the clock: a suspended machine is not a hanging decoder.
                silent += _POLL_S
                if silent >= _MAX_SILENCE_S:
                    what = f"gave nothing for {_MAX_SILENCE_S:g} s after {decoded} frames"
                    raise LimitError(f"its decoder {what}: the file, or its disk, hangs")
                continue
            count = self._answers.readinto(buffer[filled:])
            if not count:
                watch.check()  # a machine that shuts down ends all processes at once
                raise DecoderError(f"{self._cause_of_death()} after {decoded} frames")
            filled, silent = filled + count, 0.0

    def _cause_of_death(self) -> str:
        self.process.kill()  # it has closed its pipe, but may still be running
        code = self.process.wait()
        output = (self._stderr.read(1 << 16) or b"").decode(errors="replace")
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        reason = f" ({lines[-1][:_MAX_REASON]})" if lines else ""
        if code >= 0:
            return f"its decoder ended with exit code {code}{reason}"
        hint = ", as happens when a machine runs out of memory" if code == -signal.SIGKILL else ""
        return f"its decoder was killed by {signal.Signals(-code).name}{reason}{hint}"


class DecodedVideo:
    """One video while it is decoded, with the fields of `Opened` and, after the last block, `Done`.

    `times` are float64 seconds of every frame.
    """

    def __init__(self, decoder: Decoder, memory_limit: int, watch: Watch) -> None:
        self._decoder, self._memory_limit, self._watch = decoder, memory_limit, watch
        self._jpegs: list[bytes] = []
        self.decoded_frames = 0
        opened = self._receive()[0]
        if not isinstance(opened, Opened):
            raise DecoderError("its decoder sent frames before their size")
        self.header_frames, self.fps, self.source_height, self.source_width, *size = opened
        self.height, self.width = size

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 (n, H, W), n >= 1, in order. Raises as `Decoder.open`."""
        message, length = self._receive()
        while isinstance(message, Frames):
            count = message.number
            if length != count * self.height * self.width + sum(message.jpegs):
                size = f"{self.height}x{self.width}"
                raise DecoderError(f"its decoder sent {length} bytes for {count} frames of {size}")
            frames = np.empty((count, self.height, self.width), np.uint8)
            self._decoder.fill(frames.data.cast("B"), self._watch, self.decoded_frames)
            self._jpegs += [bytes(self._read(size)) for size in message.jpegs]
            self.decoded_frames += count
            yield frames
            message, length = self._receive()
        if not isinstance(message, Done):
            raise DecoderError("its decoder began another video before the end of this one")
        self.decoded_frames, times, self.sha256, self.peak_bytes = message
        self.times = np.array(times, np.float64)
        self._decoder.idle = True

    def take_jpegs(self) -> list[bytes]:
        """Return the frames since the last call as JPEGs in colour, if they were requested."""
        taken, self._jpegs = self._jpegs, []
        return taken

    def overlapping_blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield blocks of two or more frames; each begins with the last frame of the one before."""
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

    def _read(self, size: int) -> bytearray:
        buffer = bytearray(size)
        self._decoder.fill(memoryview(buffer), self._watch, self.decoded_frames)
        return buffer

    def _receive(self) -> tuple[Message, int]:
        """Return the next message, and the number of image bytes that follow."""
        text_length, images_length = LENGTHS.unpack(self._read(LENGTHS.size))
        try:
            message = messages.parse(self._read(text_length))
        except ValueError as error:
            raise DecoderError(f"its decoder {error}") from error
        if not isinstance(message, Failed):
            return message, images_length
        self._decoder.idle = True  # a failure is the last message about a video
        if message.kind == "refused":
            raise VideoError(message.reason)
        after = f"after {self.decoded_frames} frames"
        if message.kind == "starved":
            problem = f"needs more memory to decode than the limit of {self._memory_limit >> 20}M"
            raise LimitError(f"{problem} {after}; give more with --memory-limit, or leave it out")
        raise DecoderError(f"its decoder failed {after}: {message.reason}")


_idle: list[Decoder] = []


@contextlib.contextmanager
def borrowed_decoder() -> Iterator[Decoder]:
    """Lend an idle decoder of this process, or a new one. It is killed unless it ends up idle."""
    decoder = _take_decoder()
    try:
        yield decoder
    finally:
        if decoder.usable():
            _idle.append(decoder)
        else:
            decoder.kill()


def _take_decoder() -> Decoder:
    while _idle:
        with contextlib.suppress(IndexError):  # another thread was quicker
            decoder = _idle.pop()
            if decoder.usable():
                return decoder
            decoder.kill()
    return Decoder()


@atexit.register
def end_idle_decoders() -> None:
    """End the idle decoders; they would end by themselves, soon after this process."""
    while _idle:
        _idle.pop().kill()
