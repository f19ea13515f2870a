"""What an extraction would take: frames from headers, time and size from a few frames of one video. Writes nothing into the store."""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowcpc.pipeline.cluster.places import (
    ExistingScheduler,
    LocalGpus,
    LocalProcesses,
    Place,
    SlurmJobs,
)
from flowcpc.pipeline.datasets.sources import Video
from flowcpc.pipeline.decoding.decoder import DecoderError, borrowed_decoder
from flowcpc.pipeline.decoding.frames import VideoError
from flowcpc.pipeline.decoding.limits import LimitError, Watch
from flowcpc.pipeline.decoding.messages import Request
from flowcpc.pipeline.extraction.extract import ExtractionSettings, source_stamp
from flowcpc.pipeline.extraction.segmentation import find_segments, find_shots, frame_statistics
from flowcpc.pipeline.tvl1.solver import available_threads, compute_flow, prepare
from flowcpc.stores import layout
from flowcpc.stores.flow_store import create_store

_MOST_HEADERS = 200
_TIMED_FRAMES = 33
_PATIENCE_S = 30.0  # for one header


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What is to do, and what it takes.

    Attributes
    ----------
    videos, stored, absent : int
        To do; with flow already; listed without a file.
    unreadable : int
        Of these, those whose header could not be read, or names no number of frames.
    headers : int
        Videos whose headers were read; the frames of the others follow from their size in bytes.
    pairs : int
    bytes : int
        Expected size of their flow in the store, and of their frames where these are stored too.
    seconds : dict of float
        By stage, on one thread of this machine.
    workers : int or None
        Threads at the place that was asked for; None where they are not known here.
    """

    videos: int
    stored: int
    absent: int
    headers: int
    unreadable: int
    pairs: int
    bytes: int
    seconds: dict[str, float]
    workers: int | None

    def to_text(self, dataset: str) -> str:
        """Return the estimate as lines for a person."""
        read = (
            "all headers"
            if self.headers == self.videos
            else f"{self.headers} headers, the rest by size"
        )
        if self.unreadable:
            read += f"; {self.unreadable} of them could not be read"
        total = sum(self.seconds.values())
        lines = [
            f"data set   {dataset}",
            f"videos     {self.videos} to do, {self.stored} stored already, {self.absent} absent",
            f"frames     {self.pairs + self.videos} ({read}), {self.pairs} pairs",
            f"size       {self.bytes / 1e9:.3g} GB",
            *(
                f"{stage:<10} {seconds / 3600:.3g} h on one core"
                for stage, seconds in self.seconds.items()
            ),
            f"in all     {total / 3600:.3g} h on one core of this machine",
        ]
        if self.workers is not None and self.workers > 1:
            lines.append(f"here       {total / 3600 / self.workers:.3g} h on {self.workers} cores")
        return "\n".join(lines)


def estimate(
    settings: ExtractionSettings,
    videos: Sequence[Video],
    place: Place,
    announce: Callable[[str], None] = lambda message: None,
) -> Estimate:
    """Return what extracting `videos` would take, those that the store has left out.

    Raises ValueError when the store has other numerics.
    """
    stored: set[str] = set()
    if Path(settings.store, layout.STORE_FILE).exists():
        store = create_store(
            settings.store, settings.numerics(), settings.array_format
        )  # there already: only compared
        stored = set(store.videos(["video_id"])["video_id"])
    sizes = {
        video.path: source_stamp(Path(settings.videos, video.path))["source_bytes"]
        for video in videos
        if video.video_id not in stored
    }
    there = sorted((size, path) for path, size in sizes.items() if size is not None)
    headers = min(len(there), _MOST_HEADERS)
    sample = [there[(2 * number + 1) * len(there) // (2 * headers)] for number in range(headers)]
    counted = [
        (size, frames)
        for size, path in sample
        if (frames := _read_begin(settings, path, 0).header_frames)
    ]
    total = sum(size for size, _ in there)
    pairs = 0
    if counted:
        expected = sum(frames for _, frames in counted) * total / sum(size for size, _ in counted)
        pairs = max(0, round(expected) - len(there))
    seconds, each = {"decoding": 0.0, "flow": 0.0, "writing": 0.0}, 0.0
    if pairs:
        prepare(settings.backend, announce)
        per_pair, each = _timed(settings, there[len(there) // 2 :])
        seconds = {stage: value * pairs for stage, value in per_pair.items()}
    return Estimate(
        videos=len(there),
        stored=sum(video.video_id in stored for video in videos),
        absent=len(sizes) - len(there),
        headers=len(sample),
        unreadable=len(sample) - len(counted),
        pairs=pairs,
        bytes=round(each * pairs),
        seconds=seconds,
        workers=_workers(place),
    )


@dataclasses.dataclass(frozen=True)
class _Begin:
    """How many frames the header of a video names, 0 where it names none; the first of them, gray uint8 (n, H, W), and as JPEGs."""

    header_frames: int = 0
    frames: NDArray[np.uint8] | None = None
    jpegs: Sequence[bytes] = ()


def _read_begin(settings: ExtractionSettings, path: str, frames: int) -> _Begin:
    """Return the header of a video and at most `frames` frames."""
    watch = Watch(_PATIENCE_S, lambda: False)
    begin = _Begin()
    with contextlib.suppress(VideoError, DecoderError, LimitError), borrowed_decoder() as decoder:
        request = Request(
            Path(settings.videos, path),
            settings.size,
            block=max(1, frames),
            threads=1,
            memory_limit=settings.memory_limit,
            max_blocks=min(1, frames),
            with_jpegs=settings.with_frames,
        )
        source = decoder.open(request, watch)
        begin = _Begin(source.header_frames or 0)
        for block in source.blocks():
            begin = dataclasses.replace(begin, frames=block, jpegs=source.take_jpegs())
    return begin


def _timed(
    settings: ExtractionSettings, candidates: Sequence[tuple[int, str]]
) -> tuple[dict[str, float], float]:
    """Seconds per pair of each stage, and bytes per flow, of the first of `candidates` that can be used."""
    for _, path in candidates:
        began = time.perf_counter()
        begin = _read_begin(settings, path, _TIMED_FRAMES)
        frames = begin.frames
        if frames is None or len(frames) < 2:
            continue
        decoded = time.perf_counter()
        flow = compute_flow(
            frames, parameters=settings.parameters, backend=settings.backend, threads=1
        )
        solved = time.perf_counter()
        _write(settings, flow[:1], begin.jpegs[:2])  # loads what it needs
        loaded = time.perf_counter()
        size = _write(settings, flow, begin.jpegs)
        ended = time.perf_counter()
        pairs = len(flow)
        took = {"decoding": decoded - began, "flow": solved - decoded, "writing": ended - loaded}
        return {stage: seconds / pairs for stage, seconds in took.items()}, size / pairs
    return {"decoding": 0.0, "flow": 0.0, "writing": 0.0}, 0.0


def _write(settings: ExtractionSettings, flow: NDArray[np.float32], jpegs: Sequence[bytes]) -> int:
    """Commit `flow` and the frames that are to be stored into a store that is thrown away, and return its size in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        store = create_store(folder, settings.numerics(), settings.array_format)
        codes = store.encoding.encode(flow)
        columns = frame_statistics(flow, codes, store.encoding)
        columns["time_s"] = [float(number) for number in range(len(flow))]
        columns["cut"] = [False] * len(flow)
        shots = find_shots(columns, np.zeros(len(flow), bool))
        source = Video("v", "v", None, None, {}).to_record()
        with store.write_video("v", flow.shape[2:]) as writer:
            writer.append(codes)
            writer.append_frames(jpegs)
            segments = find_segments(columns, shots)
            record = writer.commit(source, {}, frames=columns, shots=shots, segments=segments)
        return int(record["video"]["bytes"])


def _workers(place: Place) -> int | None:
    if isinstance(place, LocalProcesses):
        return place.count
    if isinstance(place, SlurmJobs):
        return place.maximum * place.cores
    return None if isinstance(place, LocalGpus | ExistingScheduler) else available_threads()
