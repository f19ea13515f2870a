"""Extraction of one video: one committed entry of a store, or one failure record. Needs no Dask."""

import dataclasses
import functools
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
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
from flowcpc.pipeline.extraction import segmentation
from flowcpc.pipeline.extraction.cuts import cut_scores, find_cuts
from flowcpc.pipeline.extraction.stage_times import Stages
from flowcpc.pipeline.tvl1.batching import shared_solver
from flowcpc.pipeline.tvl1.constants import SOLVER_VERSION
from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.pipeline.tvl1.solver import check_backend, compute_flow, resolve_backend
from flowcpc.stores.base.errors import DamagedStoreError, OperationError, first_line
from flowcpc.stores.encoding import DEFAULT, encoding_by_name
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.stores.records.contract import SourceStamp

_MAX_FRAMES_CPU, _MAX_FRAMES_GPU = 32, 256  # in a block
STORED, FAILED = "stored", "failed"
KIND_MISSING = "missing"  # a listed video that does not exist
KIND_FILE = "file"  # the video is to blame: another try gives the same result
KIND_MACHINE = "machine"  # memory, time, a crash: the next run tries again
STRICT_FRAMES, STRICT_SHARE = 1, 0.01
MIN_MEMORY = 256 << 20  # half of it is the decoder itself


@dataclasses.dataclass(frozen=True)
class ExtractionSettings:
    """How videos become flow; sent to worker processes. Raises ValueError for impossible values."""

    videos: str  # folder that the videos' paths are relative to
    store: str
    height: int = 256  # of the frames from which flow is computed, px
    width: int = 342
    parameters: TVL1Parameters = TVL1Parameters()
    backend: str = "auto"  # flow solver; recorded per video, no part of the numerics
    encoding: str = DEFAULT.name
    array_format: str | None = None  # "zarr" (default of a new store) or "hdf5"; no numerics
    threads: int = 1  # of the solver and the decoder, in one process
    short_side: int | None = None  # of frames that keep their aspect ratio, px; replaces the size
    time_limit: float | None = None  # seconds per video; a long video takes long
    memory_limit: int = 4 << 30  # bytes that decoding a video may take
    strict: bool = False  # refuse more or fewer frames than the header says: STRICT_*
    with_frames: bool = False  # store the frames too; part of the numerics
    max_frames: int | None = None  # extract only so many, for an estimate

    def __post_init__(self) -> None:
        self.size  # noqa: B018  (raises ValueError for an impossible size)
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time limit must be above 0 seconds, got {self.time_limit:g}")
        if not MIN_MEMORY <= self.memory_limit <= sys.maxsize:
            limits = f"at least {MIN_MEMORY >> 20}M and at most {sys.maxsize >> 30}G"
            raise ValueError(f"memory limit must be {limits}, got {self.memory_limit >> 20}M")
        check_backend(self.backend, self.parameters)
        encoding_by_name(self.encoding)

    @classmethod
    def like(
        cls, numerics: Mapping[str, Any], videos: Path, store: Path, **options: Any
    ) -> "ExtractionSettings":
        """Return settings that extract `videos` into `store` with the `numerics` of some store.

        `options` are the other fields. Raises ValueError for numerics of another release.
        """
        sides = ("height", "width", "short_side")
        options |= {name: numerics[name] for name in sides if name in numerics}
        options |= {"encoding": numerics["encoding"]["name"], "with_frames": "frames" in numerics}
        try:
            parameters = TVL1Parameters(**numerics["tvl1"])
        except TypeError as error:
            problem = f"the flow was computed by another release of flowcpc ({error})"
            raise ValueError(f"{problem}; use that release") from error
        return cls(str(videos), str(store), parameters=parameters, **options)

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
    """Result of one video."""

    video_id: str
    status: str  # STORED or FAILED
    flows: int = 0
    reason: str = ""
    may_pass: bool = False  # another try may succeed: after a crash or no memory, not after a limit
    stages: dict[str, float] = dataclasses.field(default_factory=dict)  # seconds of each


class StoreWriteError(OperationError):
    """The store cannot be written (disk full, read-only), so the whole extraction stops."""

    @classmethod
    def of(cls, store: str | Path, error: BaseException) -> "StoreWriteError":
        """Return the error that tells the user why the disk of `store` refused."""
        reason = f"store {store} cannot be written ({_reason(error)})"
        return cls(f"{reason}; committed videos are safe: fix the cause and run again")


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
    try:
        with borrowed_decoder() as decoder:
            return _extract(settings, store, video, stamp, decoder, watch, on_pairs)
    except Preempted:
        raise
    except VideoError as error:
        kind, reason, may_pass = KIND_FILE if path.exists() else KIND_MISSING, str(error), False
    except (LimitError, DecoderError) as error:
        kind, reason, may_pass = KIND_MACHINE, str(error), isinstance(error, DecoderError)
    except (OSError, DamagedStoreError) as error:
        raise StoreWriteError.of(store.path, error) from error
    except Exception as error:  # whatever happens to one video, the others continue
        kind, reason, may_pass = KIND_MACHINE, f"{type(error).__name__}: {_reason(error)}", True
    seconds = round(watch.seconds, 3)
    try:
        record_failure(store, video, kind, reason, stamp, host=platform.node(), seconds=seconds)
    except OSError as error:
        raise StoreWriteError.of(store.path, error) from error
    return Outcome(video.video_id, FAILED, reason=reason, may_pass=may_pass)


def record_failure(
    store: FlowStore, video: Video, kind: str, reason: str, stamp: SourceStamp, **attempt: Any
) -> None:
    """Record why `video` has no flow; `attempt` is the host and seconds of the last attempt."""
    earlier = store.failure_of(video.video_id)
    attempts = 1 + (earlier["attempts"] if earlier else 0)
    record: Any = {**video.to_record(), **stamp, "kind": kind, "reason": reason}
    record |= {"attempts": attempts, "time": time.time(), "host": None, "seconds": None}
    store.record_failure(record | attempt)


def _extract(
    settings: ExtractionSettings,
    store: FlowStore,
    video: Video,
    stamp: SourceStamp,
    decoder: Decoder,
    watch: Watch,
    on_pairs: Callable[[int], None],
) -> Outcome:
    """Decode `video`, compute its flow and commit it, or raise what prevents that."""
    encoding, stages = store.encoding, Stages()
    backend = resolve_backend(settings.backend)
    path = Path(settings.videos, video.path)
    block = settings.max_frames or (_MAX_FRAMES_GPU if backend == "cuda" else _MAX_FRAMES_CPU)
    limits = (settings.threads, settings.memory_limit, 1 if settings.max_frames else None)
    request = Request(path, settings.size, block, *limits, with_jpegs=settings.with_frames)
    with stages.timed("decode"):
        source = decoder.open(request, watch)
    solve = shared_solver(settings.parameters).compute
    if backend != "cuda":
        options: Any = {"parameters": settings.parameters, "threads": settings.threads}
        solve = functools.partial(compute_flow, backend=backend, **options)
    columns: dict[str, list[Any]] = {}
    scores: list[NDArray[np.float32]] = []
    with store.write_video(video.video_id, (source.height, source.width)) as writer:
        for frames in stages.waiting("decode", source.overlapping_blocks()):
            with stages.timed("flow"):
                flow = solve(frames)
            with stages.timed("encode"):
                if not np.isfinite(flow).all():
                    raise VideoError(f"its flow is not finite near frame {source.decoded_frames}")
                scores.append(cut_scores(frames, flow))
                codes = encoding.encode(flow)
                for name, values in segmentation.frame_statistics(flow, codes, encoding).items():
                    columns.setdefault(name, []).extend(values)
            with stages.timed("write"):
                writer.append(codes)
                writer.append_frames(source.take_jpegs())
            on_pairs(len(flow))
            watch.check()
        _check_frames(source, settings.strict)
        if source_stamp(path) != stamp:
            raise VideoError("changed while it was read")
        flows = source.decoded_frames - 1
        with stages.timed("encode"):
            columns["time_s"] = [round(float(value), 6) for value in source.times[:-1]]
            cuts = find_cuts(np.concatenate(scores))
            columns["cut"] = cuts.tolist()
            shots = segmentation.find_shots(columns, cuts | segmentation.find_gaps(source.times))
            segments = segmentation.find_segments(columns, shots)
        described = {
            **stamp,
            **source.columns(),
            "magnitude": round(float(np.mean(columns["magnitude"])), 6),
            "clip_rate": round(float(np.mean(columns["clip_rate"])), 9),
            "encoding_error": round(float(np.mean(columns["error"])), 6),
            "backend": backend,
            "versions": _versions(),
            **stages.columns(flows, watch.seconds, source.peak_bytes),
        }
        record = video.to_record()
        with stages.timed("write"):
            writer.commit(record, described, frames=columns, shots=shots, segments=segments)
    return Outcome(video.video_id, STORED, flows, stages=stages.seconds)


def _check_frames(source: DecodedVideo, strict: bool) -> None:
    """Raise VideoError for a video without flow, or one that `strict` refuses."""
    decoded, header = source.decoded_frames, source.header_frames
    if decoded < 2:
        raise VideoError("has 1 frame; flow needs at least 2")
    difference = 0 if header is None else abs(decoded - header)
    if strict and difference > max(STRICT_FRAMES, STRICT_SHARE * (header or 0)):
        raise VideoError(
            f"decodes to {decoded} frames and its header says {header}; --strict allows a "
            f"difference of {STRICT_FRAMES} frame or {STRICT_SHARE:.0%}; to store it marked, "
            "leave --strict out and give --retry-failed"
        )


def _versions() -> str:
    versions = [f"{name} {metadata.version(name)}" for name in ("flowcpc", "numpy", "numba")]
    return ", ".join([*versions, f"opencv {cv2.__version__}"])


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return first_line(error)
