"""Files that harm a decoder or make it open others, and a watch over who opens what."""

import contextlib
import ctypes
import os
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

_IN_ACCESS, _IN_OPEN = 0x1, 0x20
_LIBC = ctypes.CDLL(None, use_errno=True)

# A decoder that does not see that a file is a pipe, and so hangs where it opens one.
BLIND = (
    "import pathlib, runpy; pathlib.Path.is_file = lambda path: True;"
    "runpy.run_module('flowcpc.pipeline.decoding.decoder_process', run_name='__main__')"
)


def _chunk(tag: bytes, data: bytes) -> bytes:
    return tag + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def write_avi(
    path: Path, pictures: Sequence[bytes], fourcc: bytes, size: tuple[int, int], *, claimed: int
) -> Path:
    """Write encoded pictures of `size` (height, width) as an AVI without an index.

    Its header claims `claimed` frames.
    """
    height, width = size
    avih = struct.pack("<14I", 40000, 0, 0, 0, claimed, 0, 1, 0, width, height, 0, 0, 0, 0)
    strh = (
        b"vids"
        + fourcc
        + struct.pack(
            "<I2H8I4H", 0, 0, 0, 0, 1, 25, 0, claimed, 0, 2**32 - 1, 0, 0, 0, width, height
        )
    )
    strf = struct.pack("<I2i2H4s5I", 40, width, height, 1, 24, fourcc, 0, 0, 0, 0, 0)
    header = _chunk(b"avih", avih) + _chunk(
        b"LIST", b"strl" + _chunk(b"strh", strh) + _chunk(b"strf", strf)
    )
    movie = b"".join(_chunk(b"00dc", picture) for picture in pictures)
    body = b"AVI " + _chunk(b"LIST", b"hdrl" + header) + _chunk(b"LIST", b"movi" + movie)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_chunk(b"RIFF", body))
    return path


def write_huge(path: Path, side: int = 8000) -> Path:
    """Write a video of some 200 KB whose every frame needs half a gigabyte to decode."""
    picture = cv2.imencode(".png", np.zeros((side, side), np.uint8))[1].tobytes()
    return write_avi(path, [picture] * 3, b"MPNG", (side, side), claimed=3)


def write_miscounted(path: Path, frames: Iterable[np.ndarray], *, claimed: int) -> Path:
    """Write gray frames whose header claims another number of them."""
    pictures = [(frame.shape, cv2.imencode(".jpg", frame)[1].tobytes()) for frame in frames]
    return write_avi(
        path, [picture for _, picture in pictures], b"MJPG", pictures[0][0], claimed=claimed
    )


def playlists(secret: Path) -> dict[str, bytes]:
    """Return files, name -> content, each of which asks FFmpeg to read `secret`."""
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n".encode()
    concat = f"ffconcat version 1.0\nfile '{secret}'\n".encode()
    sdp = (
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        b"m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="p">'
        '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
        f'<BaseURL>file://{secret}</BaseURL><SegmentBase indexRange="0-9"/>'
        "</Representation></AdaptationSet></Period></MPD>"
    ).encode()
    asx = f'<asx version="3.0"><entry><ref href="{secret}"/></entry></asx>'.encode()
    return {
        "hls.m3u8": hls,
        "hls.mp4": hls,
        "hls.avi": hls,
        "concat.ffconcat": concat,
        "concat.avi": concat,
        "session.sdp": sdp,
        "session.mp4": sdp,
        "dash.mpd": dash,
        "dash.mp4": dash,
        "list.asx": asx,
        "list.wmv": asx,
        "name.txt": str(secret).encode(),
    }


def write_external_mov(path: Path, secret: Path) -> Path:
    """Write a MOV whose data reference points to the frames of another MOV, `secret`.

    It has the same index as `secret`.
    """
    data = secret.read_bytes()
    alias = bytearray(10 + 1 + 27 + 12 + 1 + 63 + 16 + 2 + 2 + 16)
    name = secret.name.encode()
    alias[10], alias[50] = 1, len(name)
    alias[11:12], alias[51 : 51 + len(name)] = b"/", name
    alias[130:132], alias[132:134] = struct.pack(">h", 1), struct.pack(">h", 1)
    where = str(secret).encode()
    alias += (
        struct.pack(">hh", 2, len(where))
        + where
        + b"\0" * (len(where) % 2)
        + struct.pack(">hh", -1, 0)
    )
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + bytes(alias)
    path.write_bytes(_rewritten(data, struct.pack(">II", 0, 1) + entry))
    return path


def _rewritten(data: bytes, references: bytes) -> bytes:
    """Return the atoms of a MOV with other data references and without its frames."""
    out, at = b"", 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        inner = data[at + 8 : at + size]
        if kind == b"dref":
            inner = references
        elif kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
            inner = _rewritten(inner, references)
        if kind != b"mdat":
            out += struct.pack(">I4s", 8 + len(inner), kind) + inner
        at += size
    return out


class Opened:
    """Tells whether any process has opened or read one file since this was made."""

    def __init__(self, path: Path) -> None:
        self._events = _LIBC.inotify_init1(os.O_NONBLOCK)
        assert _LIBC.inotify_add_watch(self._events, os.fsencode(path), _IN_OPEN | _IN_ACCESS) > 0

    def __bool__(self) -> bool:
        try:
            return bool(os.read(self._events, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._events)


def decoder_of(video: Path, patience: float = 60.0) -> int:
    """Return the id of the decoding process that has `video` open, waiting for one."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                if b"flowcpc.pipeline.decoding.decoder_process" in (
                    folder / "cmdline"
                ).read_bytes() and any(
                    os.path.samefile(link, video)
                    for link in (folder / "fd").iterdir()
                    if link.exists()
                ):
                    return int(folder.name)
    raise AssertionError(f"no decoder opened {video} within {patience:g} s")


def has_ended(pid: int, patience: float = 60.0) -> bool:
    """Return whether a process is gone, waiting for that."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False
