"""Embed video files that belong to no data set: the one module that needs both stages."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from flowcpc.pipeline.cluster.places import choose_place
from flowcpc.pipeline.estimate import Estimate, estimate
from flowcpc.pipeline.loose_videos import find_videos, settings_like
from flowcpc.pipeline.run import run_extraction
from flowcpc.pipeline.tvl1.solver import available_threads
from flowcpc.stores.base.errors import OperationError, counted
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.base.locks import locked, locked_if_free
from flowcpc.stores.embeddings import export_embeddings
from flowcpc.stores.flow_store import create_store
from flowcpc.train.runs.checkpoint import check_numerics, require_checkpoint
from flowcpc.train.runs.embed import BATCH_SEGMENTS, embed_store

MANY_VIDEOS = 50  # from here on, time and disk space are estimated first, which takes seconds
_SCRATCH = ".flowcpc-embed-"
AnyPath = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class EmbeddedVideos:
    """What `embed_videos` did. Without rows there is no table."""

    path: Path  # of the table
    finished: bool  # false after a stop
    videos: int  # that were found
    failed: list[tuple[Path, str]]  # video files without embeddings, each with the reason
    rows: int = 0  # in the table, one per segment


def embed_videos(
    paths: Sequence[AnyPath],
    run: AnyPath,
    out: AnyPath = "embeddings.parquet",
    *,
    batch_size: int = BATCH_SEGMENTS,
    backend: str = "auto",
    workers: int | None = None,
    work_dir: AnyPath | None = None,
    listener: Listener = SILENT,
) -> EmbeddedVideos:
    """Embed video files with the encoder of `run`, write a Parquet table, return what was done.

    The flow lies in a temporary store until the end. Nothing but the table remains, also after a
    stop or an error. Raises FileNotFoundError or ValueError if a path, the run or `out` cannot be
    used, and OperationError if the flow needs more disk space than is free.

    paths: video files, or folders that are searched for them.
    run: folder of a pretraining.
    out: table to write (.parquet): one row per segment, as `export_embeddings` describes it.
    batch_size: segments per batch; decides the memory that is needed.
    backend: solver of the flow: "auto", "cuda", "cpu" or "opencv".
    workers: processes that compute flow; 0 is this one. By default one per core, or 0 for few
        videos.
    work_dir: folder for the temporary store. By default the one of `out`.
    listener: its stages are "flow", which counts bytes of video files, and "embed", which counts
        videos.
    """
    out = Path(out)
    if out.suffix.lower() != ".parquet":
        raise ValueError(f"{out} must end in .parquet; name it {out.stem}.parquet")
    checkpoint = require_checkpoint(run)
    folder, dataset = find_videos([Path(path) for path in paths])
    for remark in dataset.remarks:
        listener.announce(remark)
    files = {video.video_id: folder / video.path for video in dataset.videos}
    if out.resolve() in {file.resolve() for file in files.values()}:
        raise ValueError(f"{out} is one of the videos; give --out another name")
    cores = available_threads()
    if workers is None and len(files) < cores:
        workers = 0  # starting processes takes longer than a few videos
    place = choose_place({"workers": workers, "backend": backend}, cores)
    with _scratch_folder(Path(work_dir or out.parent), listener) as scratch:
        settings = settings_like(checkpoint.numerics, folder, scratch / "store", backend)
        store = create_store(settings.store, settings.numerics())
        check_numerics(checkpoint, store.numerics)
        listener.announce(f"{counted(len(files), 'video')}; temporary flow is in {scratch}")
        if len(files) >= MANY_VIDEOS:
            expected = estimate(settings, dataset.videos, place, listener)
            _check_space(expected, scratch, listener)
        listener.begin("flow")
        extraction = run_extraction(settings, dataset.videos, place, listener=listener)
        failed = [(files[video_id], reason) for video_id, reason in extraction.failed]
        if not extraction.finished or len(failed) == len(files):
            return EmbeddedVideos(out, extraction.finished, len(files), failed)
        listener.begin("embed")
        embedding = embed_store(settings.store, run, batch_size=batch_size, listener=listener)
        if not embedding.finished:
            return EmbeddedVideos(out, False, len(files), failed)
        rows = export_embeddings(store, run, out, failures=dict(extraction.failed))
        return EmbeddedVideos(out, True, len(files), failed, rows)


def _check_space(expected: Estimate, scratch: Path, listener: Listener) -> None:
    """Announce how much time and disk space many videos need; refuse a disk that is too full."""
    hours = sum(expected.seconds.values()) / 3600 / (expected.workers or 1)
    gigabytes, free = expected.bytes / 1e9, shutil.disk_usage(scratch).free
    needs = f"{hours:.2g} h for their flow, {gigabytes:.2g} GB of temporary disk space"
    listener.announce(f"about {counted(expected.pairs, 'pair')} of frames: {needs}")
    if expected.bytes > free:
        space = f"{free / 1e9:.3g} GB free, but the flow needs about {gigabytes:.3g} GB"
        advice = "give --work-dir on another disk, or fewer videos at a time"
        raise OperationError(f"{scratch.parent} has {space}; {advice}")


@contextlib.contextmanager
def _scratch_folder(folder: Path, listener: Listener) -> Iterator[Path]:
    """Yield a new folder in `folder`, and remove it at the end.

    Remove those of killed processes too: nobody holds their lock any more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with locked(folder):  # until the new folder is locked too
            for leftover in folder.glob(f"{_SCRATCH}*"):
                with locked_if_free(leftover) as is_free:
                    if is_free:
                        listener.announce(f"removing {leftover} of a command that was killed")
                        shutil.rmtree(leftover)
            path = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
            stack.enter_context(locked(path))
        try:
            yield path
        finally:
            with locked(folder):  # nobody looks for leftovers meanwhile
                shutil.rmtree(path)
