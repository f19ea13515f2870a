"""One video -> one committed entry of a store, or one failure record. Knows nothing of Dask."""

import dataclasses
import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.cuts import cut_scores, find_cuts
from pipeline.frames import DECODER, RESIZE_RULE, FrameReader, VideoError
from pipeline.segmentation import find_gaps, find_segments, find_shots, frame_statistics
from pipeline.sources import Video
from pipeline.tvl1.constants import SOLVER_VERSION
from pipeline.tvl1.parameters import TVL1Parameters
from pipeline.tvl1.pyramid import MIN_SIDE
from pipeline.tvl1.solver import check_backend, compute_flow, resolve_backend
from stores.encoding import DEFAULT, encoding_by_name
from stores.errors import DamagedStoreError, OperationError
from stores.flow_store import FlowStore, open_store

MAX_SIDE = 8192  # larger than any video, small enough that a mistyped size does not end in memory
# Frames and flow of a block, before encoding.
_BLOCK_BYTES = 256 << 20
_MOST_FRAMES = 32
_MOST_FRAMES_CUDA = 256
STORED = "stored"
FAILED = "failed"
KIND_MISSING = "missing"  # a listed video that is not there
KIND_FILE = "file"  # the video is to blame: trying again gives the same
KIND_MACHINE = "machine"  # memory, a crash: the next run tries again


@dataclasses.dataclass(frozen=True)
class Settings:
    """How videos become flow; travels to worker processes.

    Attributes
    ----------
    videos : str
        Folder that the videos' paths are relative to.
    store : str
    height, width : int
        Size that frames are brought to before flow, px.
    parameters : TVL1Parameters
    backend : str
        Flow solver; recorded per video, no part of the numerics.
    encoding : str
        Name of the store's encoding.
    array_format : str, optional
        "zarr" (that of a new store unless given) or "hdf5"; no part of the numerics.
    threads : int
        Threads of the processor's solver in one process.
    """

    videos: str
    store: str
    height: int = 256
    width: int = 342
    parameters: TVL1Parameters = TVL1Parameters()
    backend: str = "auto"
    encoding: str = DEFAULT.name
    array_format: str | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if max(self.height, self.width) > MAX_SIDE:
            raise ValueError(f"size {self.height}x{self.width} is too large; both sides must be at most {MAX_SIDE} px")
        if min(self.height, self.width) < MIN_SIDE:
            raise ValueError(f"size {self.height}x{self.width} is too small; both sides must be at least {MIN_SIDE} px")
        check_backend(self.backend, self.parameters)
        encoding_by_name(self.encoding)

    def numerics(self) -> dict[str, Any]:
        """Return everything that decides a stored value, as store.json keeps it."""
        return {
            "height": self.height,
            "width": self.width,
            "resize": RESIZE_RULE,
            "tvl1": self.parameters.to_json(),
            "solver_version": SOLVER_VERSION,
            "encoding": encoding_by_name(self.encoding).to_json(),
        }


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one video: `status` is STORED or FAILED, `reason` says why it failed, `flows` and `seconds` what
    it took.
    """

    video_id: str
    status: str
    flows: int = 0
    seconds: float = 0.0
    reason: str = ""


class Preempted(Exception):
    """The video in hand was dropped because its process was asked to stop; nothing of it is in the store."""


class StoreWriteError(OperationError):
    """The store cannot be written (disk full, read-only): no video's fault, so the whole extraction stops."""


def source_stamp(path: Path) -> dict[str, int | None]:
    """Return size (bytes) and mtime (ns) of a source, by which a changed one is recognised; None for an absent one."""
    try:
        status = path.stat()
    except OSError:
        return {"source_bytes": None, "source_mtime_ns": None}
    return {"source_bytes": status.st_size, "source_mtime_ns": status.st_mtime_ns}


def extract_video(
    settings: Settings,
    video: Video,
    on_pairs: Callable[[int], None] = lambda pairs: None,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Decode `video`, compute its flow and commit it; a video that cannot be used is recorded in failures.

    `on_pairs` is told how many more pairs are done, several times per video. Raises StoreWriteError when the store cannot be written, and
    Preempted once `should_stop` is true, which is asked as often.
    """
    began = time.perf_counter()
    cv2.setNumThreads(1)  # OpenCV ignores OMP_NUM_THREADS; workers share the cores already
    store = open_store(settings.store)
    path = Path(settings.videos, video.path)
    stamp = source_stamp(path)
    try:
        flows = _extract(settings, store, video, path, stamp, began, on_pairs, should_stop)
    except Preempted:
        raise
    except VideoError as error:
        kind = KIND_FILE if path.exists() else KIND_MISSING
        return _fail(store, video, kind, str(error), stamp, began)
    except (OSError, DamagedStoreError) as error:
        raise _unwritable(store, error) from error
    except Exception as error:  # whatever one video brings about, the others go on
        return _fail(store, video, KIND_MACHINE, f"{type(error).__name__}: {_first_line(error)}", stamp, began)
    return Outcome(video.video_id, STORED, flows, time.perf_counter() - began)


def record_failure(store: FlowStore, video: Video, kind: str, reason: str, stamp: dict[str, int | None]) -> None:
    """Write down that `video` has no flow and why, counting the attempts."""
    earlier = store.failure_of(video.video_id)
    attempts = 1 + (earlier["attempts"] if earlier else 0)
    store.record_failure(
        {**video.to_record(), "kind": kind, "reason": reason, "attempts": attempts, "time": time.time(), **stamp}
    )


def _fail(
    store: FlowStore, video: Video, kind: str, reason: str, stamp: dict[str, int | None], began: float
) -> Outcome:
    try:
        record_failure(store, video, kind, reason, stamp)
    except OSError as error:
        raise _unwritable(store, error) from error
    return Outcome(video.video_id, FAILED, seconds=time.perf_counter() - began, reason=reason)


def _unwritable(store: FlowStore, error: BaseException) -> StoreWriteError:
    return StoreWriteError(
        f"store {store.path} cannot be written ({_first_line(error)}); what was committed is safe: mend it and run again"
    )


def _extract(
    settings: Settings,
    store: FlowStore,
    video: Video,
    path: Path,
    stamp: dict[str, int | None],
    began: float,
    on_pairs: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> int:
    backend = resolve_backend(settings.backend)
    reader = FrameReader(path, settings.height, settings.width, block=_frames_per_block(settings, backend))
    encoding = store.encoding
    columns: dict[str, list[Any]] = {}
    scores: list[NDArray[np.float32]] = []
    with store.write_video(video.video_id) as writer:
        for frames in _overlapping(reader.blocks()):
            flow = compute_flow(frames, parameters=settings.parameters, backend=backend, threads=settings.threads)
            if not np.isfinite(flow).all():
                raise VideoError(f"its flow has values that are not finite near frame {reader.decoded_frames}")
            scores.append(cut_scores(frames, flow))
            codes = encoding.encode(flow)
            for name, values in frame_statistics(flow, encoding.decode(codes), encoding.bound).items():
                columns.setdefault(name, []).extend(values)
            writer.append(codes)
            on_pairs(len(flow))
            if should_stop():
                raise Preempted
        flows = reader.decoded_frames - 1
        if flows < 1:
            raise VideoError("has 1 frame; flow needs at least 2")
        columns["time_s"] = [round(float(value), 6) for value in reader.times[:-1]]
        cuts = find_cuts(np.concatenate(scores))
        columns["cut"] = cuts.tolist()
        shots = find_shots(columns, cuts | find_gaps(reader.times))
        described = {
            **stamp,
            "source_sha256": _sha256(path, stamp),
            "fps": reader.fps,
            "decoded_frames": reader.decoded_frames,
            "header_frames": reader.header_frames,
            "decoded_is_header": reader.header_frames in (None, reader.decoded_frames),
            "source_height": reader.source_height,
            "source_width": reader.source_width,
            "height": settings.height,
            "width": settings.width,
            "magnitude": round(float(np.mean(columns["magnitude"])), 6),
            "clip_rate": round(float(np.mean(columns["clip_rate"])), 9),
            "encoding_error": round(float(np.mean(columns["error"])), 6),
            "decoder": DECODER,
            "backend": backend,
            "versions": _versions(),
            "host": platform.node(),
            "committed": time.time(),
            "seconds": round(time.perf_counter() - began, 3),
        }
        segments = find_segments(columns, shots)
        writer.commit(video.to_record(), described, frames=columns, shots=shots, segments=segments)
    return flows


def _frames_per_block(settings: Settings, backend: str) -> int:
    """Frames decoded at a time: enough for a GPU's batches or a few threads, within _BLOCK_BYTES."""
    most = _MOST_FRAMES_CUDA if backend == "cuda" else _MOST_FRAMES
    frame_and_flow = settings.height * settings.width * (1 + 2 * 4)
    return max(2, min(most, _BLOCK_BYTES // frame_and_flow))


def _versions() -> str:
    names = ("flowcpc", "numpy", "numba")
    return ", ".join([*(f"{name} {metadata.version(name)}" for name in names), f"opencv {cv2.__version__}"])


def _overlapping(blocks: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Yield blocks of at least two frames in which each begins with the last frame of the one before, so that no pair
    is lost.
    """
    last: NDArray[np.uint8] | None = None
    for block in blocks:
        frames = block if last is None else np.concatenate([last, block])
        last = frames[-1:]
        if len(frames) > 1:
            yield frames


def _sha256(path: Path, stamp: dict[str, int | None]) -> str:
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise VideoError(f"cannot be read ({_first_line(error)})") from error
    if source_stamp(path) != stamp:
        raise VideoError("changed while it was read")
    return digest


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return text[0] if text else type(error).__name__
