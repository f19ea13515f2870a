"""The decoder process, `python -m flowcpc.pipeline.decoding.decoder_process`.

`decoder.py` starts it, talks to it and kills it; `messages.py` describes what they send. It reads
requests from standard input and answers on the original standard output. It loads little besides
OpenCV, and ends with its input whatever it is doing, so that it never outlives its owner.
"""

import itertools
import os
import queue
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import TypeAlias

import cv2

from flowcpc.pipeline.decoding.frames import FrameReader, VideoError
from flowcpc.pipeline.decoding.memory import data_bytes, forget_peak, peak_bytes
from flowcpc.pipeline.decoding.messages import Done, Failed, Frames, Opened, Request, pack
from flowcpc.stores.base.atomic import sha256_of_file

_AHEAD = 2  # blocks that wait for the solver, besides one in the pipe and one being decoded
_MAX_FILE_BYTES = 1 << 20  # a decoder writes no files; this stops one that an exploit controls
# The largest piece of memory that FFmpeg or OpenCV asks for at once, per pixel of a frame.
_BYTES_PER_PIXEL = 16

Requests: TypeAlias = "queue.SimpleQueue[Request]"
Messages: TypeAlias = "queue.Queue[tuple[bytes, bytes]]"


def main() -> None:
    """Serve requests until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # they are for the owner
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))
    answers = os.dup(1)
    os.dup2(2, 1)  # the output of a library must not get between the messages
    os.set_blocking(2, False)  # nor wait for a reader
    requests: Requests = queue.SimpleQueue()
    messages: Messages = queue.Queue(maxsize=_AHEAD)
    threading.Thread(target=_receive, args=(requests,), daemon=True).start()
    threading.Thread(target=_send, args=(answers, messages), daemon=True).start()
    while True:
        _serve(requests.get(), messages)


def _receive(requests: Requests) -> None:
    for line in sys.stdin.buffer:
        requests.put(Request.from_line(line))
    os._exit(0)


def _send(answers: int, messages: Messages) -> None:
    try:
        with open(answers, "wb") as pipe:
            while True:
                pipe.writelines(messages.get())
                pipe.flush()
    finally:  # the owner is gone
        os._exit(1)


def _serve(request: Request, messages: Messages) -> None:
    """Decode one video and put its messages into the queue; the last one is Done or Failed."""
    forget_peak()
    limit, threads, with_jpegs = request.memory_limit, request.threads, request.with_jpegs
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    cv2.setNumThreads(threads)
    reader = None
    try:
        reader = FrameReader(request.path, request.size, threads=threads, with_jpegs=with_jpegs)
        reader.begin()
        messages.put(pack(Opened(*(getattr(reader, name) for name in Opened._fields))))
        for block in itertools.islice(reader.blocks(request.block), request.max_blocks):
            jpegs = reader.take_jpegs()
            frames = Frames(len(block), [len(jpeg) for jpeg in jpegs])
            messages.put(pack(frames, b"".join([block.tobytes(), *jpegs])))
        whole = request.max_blocks is None
        if whole and _is_starved(reader, limit):
            raise MemoryError
        sha256 = _sha256(request.path) if whole else ""
        times = reader.times.tolist()
        messages.put(pack(Done(len(times), times, sha256, peak_bytes())))
    except VideoError as error:
        starved = reader is not None and _is_starved(reader, limit)
        messages.put(pack(Failed("starved") if starved else Failed("refused", str(error))))
    except MemoryError:
        messages.put(pack(Failed("starved")))
    except Exception as error:  # OpenCV raises anything
        starved = isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        messages.put(pack(Failed("starved") if starved else Failed("broken", reason)))


def _is_starved(reader: FrameReader, limit: int) -> bool:
    """Return whether FFmpeg may have got no memory, which it reports as the end of the file."""
    close = data_bytes() + _BYTES_PER_PIXEL * reader.header_pixels > limit
    return close and reader.decoded_frames != reader.header_frames


def _sha256(path: Path) -> str:
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise VideoError(f"cannot be read ({error.strerror})") from error


if __name__ == "__main__":
    main()
