"""The process that decodes, `python -m flowcpc.pipeline.decoding.decoder_process`: started, spoken to and killed by `decoder.py` alone.

It takes one request per line of JSON on its standard input, one video at a time, and answers on what was its standard output with messages: two
lengths (uint32), then JSON, then the bytes of frames: gray ones and, where they are asked for, the JPEGs of the same behind them. It loads OpenCV
and nothing else of weight, and ends when its input ends, whatever it is doing, so that it never outlives the process that it decodes for.
"""

import hashlib
import itertools
import json
import os
import queue
import resource
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import cv2

from flowcpc.pipeline.decoding.frame_size import FrameSize
from flowcpc.pipeline.decoding.frames import FrameReader, VideoError
from flowcpc.pipeline.decoding.memory import data_bytes, forget_peak, peak_bytes

OPENED = (
    "header_frames",
    "fps",
    "source_height",
    "source_width",
    "height",
    "width",
)  # known with the first frame
LENGTHS = struct.Struct("<II")  # of the JSON and of the frames behind it, bytes
_AHEAD = 2  # blocks that wait for the solver, beside the one in the pipe and the one that is being decoded
_FILE_BYTES = 1 << 20  # nothing here writes a file, so a decoder that does is astray
_BYTES_PER_PIXEL = (
    16  # the largest piece that FFmpeg or OpenCV asks for at once, per pixel of a frame
)

Message = tuple[dict[str, Any], bytes]


def main() -> None:
    """Serve requests until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(
            number, signal.SIG_IGN
        )  # the process that is decoded for decides what they mean
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not get between the messages
    os.set_blocking(2, False)  # nor wait for somebody to read it
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    messages: queue.Queue[Message] = queue.Queue(maxsize=_AHEAD)
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    threading.Thread(target=_talk, args=(answers, messages), daemon=True).start()
    while True:
        _serve(requests.get(), messages)


def _listen(requests: "queue.SimpleQueue[dict[str, Any]]") -> None:
    for line in sys.stdin.buffer:
        requests.put(json.loads(line))
    os._exit(0)


def _talk(answers: int, messages: "queue.Queue[Message]") -> None:
    try:
        with open(answers, "wb") as pipe:
            while True:
                header, frames = messages.get()
                text = json.dumps(header).encode()
                pipe.write(LENGTHS.pack(len(text), len(frames)) + text)
                pipe.write(frames)
                pipe.flush()
    finally:  # nobody listens any more
        os._exit(1)


def _serve(request: dict[str, Any], messages: "queue.Queue[Message]") -> None:
    """Decode one video and put what it gives into `messages`; the last one is done, refused, starved or broken."""
    forget_peak()
    limit = request["memory_limit"]
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(
        resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard)
    )
    cv2.setNumThreads(request["threads"])
    path = Path(request["path"])
    reader = None
    try:
        size, threads = FrameSize(**request["size"]), request["threads"]
        reader = FrameReader(path, size, threads=threads, with_jpegs=request["with_jpegs"])
        reader.begin()
        opened = {name: getattr(reader, name) for name in OPENED}
        messages.put(({"opened": opened}, b""))
        whole = request["most_blocks"] is None
        for block in itertools.islice(reader.blocks(request["block"]), request["most_blocks"]):
            jpegs = reader.take_jpegs()
            frames = {"count": len(block), "jpegs": [len(jpeg) for jpeg in jpegs]}
            messages.put(({"frames": frames}, b"".join([block.tobytes(), *jpegs])))
        if whole and _starved(reader, limit):
            raise MemoryError
        done = {
            "decoded_frames": reader.decoded_frames,
            "times": reader.times.tolist(),
            "sha256": _sha256(path) if whole else "",
            "peak_bytes": peak_bytes(),
        }
        messages.put(({"done": done}, b""))
    except VideoError as error:
        starved = reader is not None and _starved(reader, limit)
        messages.put(({"starved": True} if starved else {"refused": str(error)}, b""))
    except MemoryError:
        messages.put(({"starved": True}, b""))
    except Exception as error:  # OpenCV throws what it likes
        starved = isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        messages.put(({"starved": True} if starved else {"broken": text}, b""))


def _starved(reader: FrameReader, limit: int) -> bool:
    """Whether a video may have ended early because FFmpeg got no memory, which it does not tell from the end of the file."""
    close = data_bytes() + _BYTES_PER_PIXEL * reader.header_pixels > limit
    return close and reader.decoded_frames != reader.header_frames


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise VideoError(f"cannot be read ({error.strerror})") from error


if __name__ == "__main__":
    main()
