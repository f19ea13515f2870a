"""Estimate of an extraction: frames from headers, time and size from a few frames of one video."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flowcpc.pipeline.cluster import places
from flowcpc.pipeline.cluster.places import Place
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.decoding.decoder import DecoderError, borrowed_decoder
from flowcpc.pipeline.decoding.frames import VideoError
from flowcpc.pipeline.decoding.limits import LimitError, Watch
from flowcpc.pipeline.decoding.messages import Request
from flowcpc.pipeline.extraction import extract
from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.tvl1.solver import available_threads, prepare
from flowcpc.stores import layout
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.flow_store import create_store

_MOST_HEADERS = 200
_TIMED_FRAMES = 33
_HEADER_LIMIT_S, _MEASURE_LIMIT_S = 30.0, 300.0
_STAGES = ("decoding", "flow", "writing")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What an extraction has to do, and what it takes."""

    videos: int  # to do
    stored: int
    absent: int  # listed without a file
    headers: int  # videos whose headers were read; frames of the others follow from their bytes
    unreadable: int  # of these, without a usable header or a number of frames
    pairs: int
    bytes: int  # in the store, with the frames if these are stored too
    seconds: dict[str, float]  # by stage, on one thread of this machine
    workers: int | None  # threads at the place; None if they are not known here

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
    settings: ExtractionSettings, videos: Sequence[Video], place: Place, listener: Listener = SILENT
) -> Estimate:
    """Return what it takes to extract those of `videos` that the store lacks; write nothing there.

    Raises ValueError when the store has other numerics.
    """
    stored: set[str] = set()
    if Path(settings.store, layout.STORE_FILE).exists():  # so that it is only compared
        store = create_store(settings.store, settings.numerics(), settings.array_format)
        stored = set(store.videos(["video_id"])["video_id"])
    sizes = {
        video.path: extract.source_stamp(Path(settings.videos, video.path))["source_bytes"]
        for video in videos
        if video.video_id not in stored
    }
    files = sorted((size, path) for path, size in sizes.items() if size is not None)
    headers = min(len(files), _MOST_HEADERS)
    sample = [files[(2 * number + 1) * len(files) // (2 * headers)] for number in range(headers)]
    frames = {path: _header_frames(settings, path) for _, path in sample}
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


def _header_frames(settings: ExtractionSettings, path: str) -> int:
    """Return the number of frames that the header of a video gives, 0 if none."""
    size, limit, frames = settings.size, settings.memory_limit, 0
    request = Request(Path(settings.videos, path), size, 1, 1, limit, max_blocks=0)
    with contextlib.suppress(VideoError, DecoderError, LimitError), borrowed_decoder() as decoder:
        source = decoder.open(request, Watch(_HEADER_LIMIT_S, lambda: False))
        frames = source.header_frames or 0
        list(source.blocks())  # there are none; now the decoder is free for the next video
    return frames


def _measure(settings: ExtractionSettings, paths: Sequence[str]) -> tuple[dict[str, float], float]:
    """Return seconds per pair of each stage, and bytes per flow, of the first usable video."""
    with tempfile.TemporaryDirectory() as folder:
        settings = dataclasses.replace(settings, store=folder, threads=1, strict=False)
        store = create_store(folder, settings.numerics(), settings.array_format)
        for path in paths:
            video = Video("v", path, None, None, {})
            for most in (2, _TIMED_FRAMES):  # the first time loads what the second needs
                start = dataclasses.replace(settings, max_frames=most, time_limit=_MEASURE_LIMIT_S)
                outcome = extract.extract_video(start, video)
            commit = store.commit_of("v")
            if outcome.status == extract.STORED and commit is not None:
                spent = {stage: value / outcome.flows for stage, value in outcome.stages.items()}
                times = (spent["decode"], spent["flow"], spent["encode"] + spent["write"])
                per_flow = commit["video"]["bytes"] / outcome.flows
                return dict(zip(_STAGES, times, strict=True)), per_flow
    return dict.fromkeys(_STAGES, 0.0), 0.0


def _threads(place: Place) -> int | None:
    if isinstance(place, places.LocalGpus | places.ExistingScheduler):
        return None
    if isinstance(place, places.SlurmJobs):
        from flowcpc.pipeline.cluster.dask_cluster import slurm_options  # loads Dask

        return place.maximum * int(slurm_options(place)["cores"])
    return place.count if isinstance(place, places.LocalProcesses) else available_threads()
