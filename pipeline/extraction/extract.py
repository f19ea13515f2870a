"""Extraction of one video: one committed entry of a store, or one failure record. Needs no Dask."""

import dataclasses
import functools
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.decoding.decoder import DecodedVideo, Decoder, DecoderError, borrowed_decoder
from flowcpc.pipeline.decoding.frame_size import FrameSize
from flowcpc.pipeline.decoding.frames import FRAME_CODEC, RESIZE_RULE, VideoError
from flowcpc.pipeline.decoding.limits import LimitError, Preempted, Watch
from flowcpc.pipeline.decoding.messages import Request
from flowcpc.pipeline.extraction.cuts import cut_scores, find_cuts
from flowcpc.pipeline.extraction.segmentation import (
    find_gaps,
    find_segments,
    find_shots,
    frame_statistics,
)
from flowcpc.pipeline.extraction.stage_times import Stages
from flowcpc.pipeline.tvl1.batching import shared_solver
from flowcpc.pipeline.tvl1.constants import SOLVER_VERSION
from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.pipeline.tvl1.solver import check_backend, compute_flow, resolve_backend
from flowcpc.stores.base.errors import DamagedStoreError, OperationError, first_line
from flowcpc.stores.encoding import DEFAULT, encoding_by_name
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.stores.records.contract import SourceStamp

_MAX_FRAMES = {"cuda": 256}  # in a block, by backend; with the others:
_MAX_FRAMES_CPU = 32
STORED = "stored"
FAILED = "failed"
KIND_MISSING = "missing"  # a listed video that does not exist
KIND_FILE = "file"  # the video is to blame: another try gives the same result
KIND_MACHINE = "machine"  # memory, time, a crash: the next run tries again
STRICT_FRAMES = 1
STRICT_SHARE = 0.01
MIN_MEMORY = 256 << 20  # half of it is the decoder itself


@dataclasses.dataclass(frozen=True)
class ExtractionSettings:
    """How videos become flow; sent to worker processes.

    Attributes
    ----------
    videos : str
        Folder that the videos' paths are relative to.
    store : str
    height, width : int
        Size of the frames from which flow is computed, px; unused with `short_side`.
    parameters : TVL1Parameters
    backend : str
        Flow solver; recorded per video, no part of the numerics.
    encoding : str
        Name of the store's encoding.
    array_format : str, optional
        "zarr" (default of a new store) or "hdf5"; no part of the numerics.
    threads : int
        Threads of the solver and the decoder, in one process.
    short_side : int, optional
        Length of the shorter side of the frames, px; the longer one keeps the aspect ratio.
    time_limit : float, optional
        Seconds that a video may take; no limit by default, because a long video takes long.
    memory_limit : int
        Bytes that decoding a video may take.
    strict : bool
        Refuse a video whose number of decoded frames differs from its header by more than
        STRICT_FRAMES and STRICT_SHARE.
    with_frames : bool
        Store the frames too; part of the numerics.
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
    short_side: int | None = None
    time_limit: float | None = None
    memory_limit: int = 4 << 30
    strict: bool = False
    with_frames: bool = False

    def __post_init__(self) -> None:
        self.size  # noqa: B018  (raises ValueError for an impossible size)
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time limit must be above 0 seconds, got {self.time_limit:g}")
        if not MIN_MEMORY <= self.memory_limit <= sys.maxsize:
            limits = f"at least {MIN_MEMORY >> 20}M and at most {sys.maxsize >> 30}G"
            raise ValueError(f"memory limit must be {limits}, got {self.memory_limit >> 20}M")
        check_backend(self.backend, self.parameters)
        encoding_by_name(self.encoding)

    @property
    def size(self) -> FrameSize:
        """Size of the frames."""
        if self.short_side is None:
            return FrameSize(self.height, self.width)
        return FrameSize(short_side=self.short_side)

    def numerics(self) -> dict[str, Any]:
        """Return everything that decides a stored value, in the form of store.json."""
        return {
            **self.size.to_json(),
            "resize": RESIZE_RULE,
            "tvl1": self.parameters.to_json(),
            "solver_version": SOLVER_VERSION,
            "encoding": encoding_by_name(self.encoding).to_json(),
            **({"frames": FRAME_CODEC} if self.with_frames else {}),
        }


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of one video.

    Attributes
    ----------
    video_id : str
    status : str
        STORED or FAILED.
    flows : int
    reason : str
        Why it failed.
    may_pass : bool
        Whether another try may succeed: after a crash or a lack of memory, not after a limit.
    stages : dict of float
        Seconds of each stage.
    """

    video_id: str
    status: str
    flows: int = 0
    reason: str = ""
    may_pass: bool = False
    stages: dict[str, float] = dataclasses.field(default_factory=dict)


class StoreWriteError(OperationError):
    """The store cannot be written (disk full, read-only), so the whole extraction stops."""


def source_stamp(path: Path) -> SourceStamp:
    """Return size (bytes) and mtime (ns) of a source, which tell a changed one; None if absent."""
    try:
        status = path.stat()
    except OSError:
        return {"source_bytes": None, "source_mtime_ns": None}
    return {"source_bytes": status.st_size, "source_mtime_ns": status.st_mtime_ns}


def extract_video(
    settings: ExtractionSettings,
    video: Video,
    on_pairs: Callable[[int], None] = lambda pairs: None,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Decode `video`, compute its flow and commit it; record a video that cannot be used as failed.

    `on_pairs` receives the number of newly computed pairs, several times per video. Raises
    StoreWriteError when the store cannot be written, and Preempted, with nothing recorded, soon
    after `should_stop` returns true.
    """
    watch = Watch(settings.time_limit, should_stop)
    cv2.setNumThreads(1)  # OpenCV ignores OMP_NUM_THREADS; workers share the cores already
    store = open_store(settings.store)
    path = Path(settings.videos, video.path)
    stamp = source_stamp(path)
    may_pass = False
    try:
        with borrowed_decoder() as decoder:
            return _Extraction(settings, store, video, path, stamp, decoder, watch).run(on_pairs)
    except Preempted:
        raise
    except VideoError as error:
        kind, reason = KIND_FILE if path.exists() else KIND_MISSING, str(error)
    except LimitError as error:
        kind, reason = KIND_MACHINE, str(error)
    except DecoderError as error:
        kind, reason, may_pass = KIND_MACHINE, str(error), True
    except (OSError, DamagedStoreError) as error:
        raise _unwritable(store, error) from error
    except Exception as error:  # whatever happens to one video, the others continue
        kind, reason, may_pass = KIND_MACHINE, f"{type(error).__name__}: {_reason(error)}", True
    seconds = round(watch.seconds, 3)
    try:
        record_failure(store, video, kind, reason, stamp, host=platform.node(), seconds=seconds)
    except OSError as error:
        raise _unwritable(store, error) from error
    return Outcome(video.video_id, FAILED, reason=reason, may_pass=may_pass)


def record_failure(
    store: FlowStore,
    video: Video,
    kind: str,
    reason: str,
    stamp: SourceStamp,
    *,
    host: str | None = None,
    seconds: float | None = None,
) -> None:
    """Record that `video` has no flow, why, and the number of attempts.

    `host` made the last one, which took `seconds`.
    """
    earlier = store.failure_of(video.video_id)
    attempts = 1 + (earlier["attempts"] if earlier else 0)
    store.record_failure(
        {
            **video.to_record(),
            **stamp,
            "kind": kind,
            "reason": reason,
            "attempts": attempts,
            "time": time.time(),
            "host": host,
            "seconds": seconds,
        }
    )


def _unwritable(store: FlowStore, error: BaseException) -> StoreWriteError:
    reason = f"store {store.path} cannot be written ({_reason(error)})"
    return StoreWriteError(f"{reason}; committed videos are safe: fix the cause and run again")


@dataclasses.dataclass(frozen=True)
class _Extraction:
    """One video on its way into the store."""

    settings: ExtractionSettings
    store: FlowStore
    video: Video
    path: Path
    stamp: SourceStamp
    decoder: Decoder
    watch: Watch

    def run(self, on_pairs: Callable[[int], None]) -> Outcome:
        settings, encoding, stages = self.settings, self.store.encoding, Stages()
        backend = resolve_backend(settings.backend)
        request = Request(
            self.path,
            settings.size,
            block=_MAX_FRAMES.get(backend, _MAX_FRAMES_CPU),
            threads=settings.threads,
            memory_limit=settings.memory_limit,
            with_jpegs=settings.with_frames,
        )
        with stages.timed("decode"):
            source = self.decoder.open(request, self.watch)
        solve = _solver(settings, backend)
        columns: dict[str, list[Any]] = {}
        scores: list[NDArray[np.float32]] = []
        with self.store.write_video(self.video.video_id, (source.height, source.width)) as writer:
            for frames in stages.waiting("decode", source.overlapping_blocks()):
                with stages.timed("flow"):
                    flow = solve(frames)
                with stages.timed("encode"):
                    if not np.isfinite(flow).all():
                        raise VideoError(
                            f"its flow is not finite near frame {source.decoded_frames}"
                        )
                    scores.append(cut_scores(frames, flow))
                    codes = encoding.encode(flow)
                    for name, values in frame_statistics(flow, codes, encoding).items():
                        columns.setdefault(name, []).extend(values)
                with stages.timed("write"):
                    writer.append(codes)
                    writer.append_frames(source.take_jpegs())
                on_pairs(len(flow))
                self.watch.check()
            self._check(source)
            flows = source.decoded_frames - 1
            with stages.timed("encode"):
                columns["time_s"] = [round(float(value), 6) for value in source.times[:-1]]
                cuts = find_cuts(np.concatenate(scores))
                columns["cut"] = cuts.tolist()
                shots = find_shots(columns, cuts | find_gaps(source.times))
                segments = find_segments(columns, shots)
            described = {
                **self.stamp,
                **source.columns(),
                "magnitude": round(float(np.mean(columns["magnitude"])), 6),
                "clip_rate": round(float(np.mean(columns["clip_rate"])), 9),
                "encoding_error": round(float(np.mean(columns["error"])), 6),
                "backend": backend,
                "versions": _versions(),
                **stages.columns(flows, self.watch.seconds, source.peak_bytes),
            }
            record = self.video.to_record()
            with stages.timed("write"):
                writer.commit(record, described, frames=columns, shots=shots, segments=segments)
        return Outcome(self.video.video_id, STORED, flows, stages=stages.seconds)

    def _check(self, source: DecodedVideo) -> None:
        """Raise VideoError unless the whole video was read and did not change meanwhile."""
        decoded, header = source.decoded_frames, source.header_frames
        if decoded < 2:
            raise VideoError("has 1 frame; flow needs at least 2")
        if source_stamp(self.path) != self.stamp:
            raise VideoError("changed while it was read")
        difference = 0 if header is None else abs(decoded - header)
        if self.settings.strict and difference > max(STRICT_FRAMES, STRICT_SHARE * (header or 0)):
            raise VideoError(
                f"decodes to {decoded} frames and its header says {header}; --strict allows a "
                f"difference of {STRICT_FRAMES} frame or {STRICT_SHARE:.0%}; to store it marked, "
                "leave --strict out and give --retry-failed"
            )


def _solver(
    settings: ExtractionSettings, backend: str
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    if backend == "cuda":
        return shared_solver(settings.parameters).compute
    return functools.partial(
        compute_flow, parameters=settings.parameters, backend=backend, threads=settings.threads
    )


def _versions() -> str:
    versions = [f"{name} {metadata.version(name)}" for name in ("flowcpc", "numpy", "numba")]
    return ", ".join([*versions, f"opencv {cv2.__version__}"])


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return first_line(error)
