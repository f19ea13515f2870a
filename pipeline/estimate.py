"""Estimate of an extraction: frames from headers, time and size from a few frames of one video.

Writes nothing into the store.
"""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Sequence
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
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.decoding.decoder import DecoderError, borrowed_decoder
from flowcpc.pipeline.decoding.frames import VideoError
from flowcpc.pipeline.decoding.limits import LimitError, Watch
from flowcpc.pipeline.decoding.messages import Request
from flowcpc.pipeline.extraction.extract import ExtractionSettings, source_stamp
from flowcpc.pipeline.extraction.segmentation import find_segments, find_shots, frame_statistics
from flowcpc.pipeline.tvl1.solver import available_threads, compute_flow, prepare
from flowcpc.stores import layout
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.flow_store import create_store

_MOST_HEADERS = 200
_TIMED_FRAMES = 33
_HEADER_LIMIT_S = 30.0
_STAGES = ("decoding", "flow", "writing")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What an extraction has to do, and what it takes.

    Attributes
    ----------
    videos, stored, absent : int
        Videos to do; with flow already; listed without a file.
    headers : int
        Videos whose headers were read; the frames of the others follow from their size in bytes.
    unreadable : int
        Of these, those whose header cannot be read, or gives no number of frames.
    pairs : int
    bytes : int
        Expected size in the store, with the frames if these are stored too.
    seconds : dict of float
        By stage, on one thread of this machine.
    workers : int, optional
        Threads at the place; None if they are not known here.
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
        all_read = self.headers == self.videos
        headers = "all headers" if all_read else f"{self.headers} headers, the rest by size"
        if self.unreadable:
            headers += f"; {self.unreadable} of them could not be read"
        hours = {stage: seconds / 3600 for stage, seconds in self.seconds.items()}
        total = sum(hours.values())
        lines = [
            f"data set   {dataset}",
            f"videos     {self.videos} to do, {self.stored} stored already, {self.absent} absent",
            f"frames     {self.pairs + self.videos} ({headers}), {self.pairs} pairs",
            f"size       {self.bytes / 1e9:.3g} GB",
            *(f"{stage:<10} {value:.3g} h on one core" for stage, value in hours.items()),
            f"in all     {total:.3g} h on one core of this machine",
        ]
        if self.workers is not None and self.workers > 1:
            lines.append(f"here       {total / self.workers:.3g} h on {self.workers} cores")
        return "\n".join(lines)


def estimate(
    settings: ExtractionSettings,
    videos: Sequence[Video],
    place: Place,
    listener: Listener = SILENT,
) -> Estimate:
    """Return what it takes to extract those of `videos` that the store lacks.

    Raises ValueError when the store has other numerics.
    """
    stored: set[str] = set()
    if Path(settings.store, layout.STORE_FILE).exists():  # so that it is only compared
        store = create_store(settings.store, settings.numerics(), settings.array_format)
        stored = set(store.videos(["video_id"])["video_id"])
    sizes = {
        video.path: source_stamp(Path(settings.videos, video.path))["source_bytes"]
        for video in videos
        if video.video_id not in stored
    }
    files = sorted((size, path) for path, size in sizes.items() if size is not None)
    headers = min(len(files), _MOST_HEADERS)
    sample = [files[(2 * number + 1) * len(files) // (2 * headers)] for number in range(headers)]
    frames = {path: _read_start(settings, path, 0).header_frames for _, path in sample}
    readable_bytes = sum(size for size, path in sample if frames[path])
    pairs = 0
    if readable_bytes:
        expected = sum(frames.values()) * sum(size for size, _ in files) / readable_bytes
        pairs = max(0, round(expected) - len(files))
    seconds, flow_bytes = dict.fromkeys(_STAGES, 0.0), 0.0
    if pairs:
        prepare(settings.backend, listener.announce)
        per_pair, flow_bytes = _measure(settings, [path for _, path in files[len(files) // 2 :]])
        seconds = {stage: value * pairs for stage, value in per_pair.items()}
    return Estimate(
        videos=len(files),
        stored=sum(video.video_id in stored for video in videos),
        absent=len(sizes) - len(files),
        headers=headers,
        unreadable=sum(not count for count in frames.values()),
        pairs=pairs,
        bytes=round(flow_bytes * pairs),
        seconds=seconds,
        workers=_threads(place),
    )


@dataclasses.dataclass(frozen=True)
class _VideoStart:
    """The frames that a video's header gives, 0 if none, and its first frames.

    `frames` are gray, uint8 (n, H, W), `jpegs` the same in colour.
    """

    header_frames: int = 0
    frames: NDArray[np.uint8] | None = None
    jpegs: Sequence[bytes] = ()


def _read_start(settings: ExtractionSettings, path: str, frames: int) -> _VideoStart:
    """Return the header of a video and at most `frames` frames."""
    start = _VideoStart()
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
        source = decoder.open(request, Watch(_HEADER_LIMIT_S, lambda: False))
        start = _VideoStart(source.header_frames or 0)
        for block in source.blocks():
            start = dataclasses.replace(start, frames=block, jpegs=source.take_jpegs())
    return start


def _measure(settings: ExtractionSettings, paths: Sequence[str]) -> tuple[dict[str, float], float]:
    """Return seconds per pair of each stage, and bytes per flow, of the first usable video."""
    for path in paths:
        began = time.perf_counter()
        start = _read_start(settings, path, _TIMED_FRAMES)
        if start.frames is None or len(start.frames) < 2:
            continue
        decoded = time.perf_counter()
        flow = compute_flow(
            start.frames, parameters=settings.parameters, backend=settings.backend, threads=1
        )
        solved = time.perf_counter()
        _write(settings, flow[:1], start.jpegs[:2])  # loads what writing needs
        loaded = time.perf_counter()
        size = _write(settings, flow, start.jpegs)
        times = (decoded - began, solved - decoded, time.perf_counter() - loaded)
        seconds = {stage: value / len(flow) for stage, value in zip(_STAGES, times, strict=True)}
        return seconds, size / len(flow)
    return dict.fromkeys(_STAGES, 0.0), 0.0


def _write(settings: ExtractionSettings, flow: NDArray[np.float32], jpegs: Sequence[bytes]) -> int:
    """Commit flow and frames into a temporary store and return their size in bytes."""
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


def _threads(place: Place) -> int | None:
    if isinstance(place, LocalProcesses):
        return place.count
    if isinstance(place, SlurmJobs):
        return place.maximum * (place.cores or 1)
    return None if isinstance(place, LocalGpus | ExistingScheduler) else available_threads()
