"""The commands that use a trained encoder: embed (a store, or video files by way of a temporary store) and export-encoder."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowcpc.commands import console
from flowcpc.commands.console import Bar, Stop, command_line, hear_stops, say
from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.base.locks import locked, locked_if_free
from flowcpc.stores.base.plurals import counted

if TYPE_CHECKING:
    from flowcpc.pipeline.cluster.places import Place
    from flowcpc.pipeline.datasets.listing import Video
    from flowcpc.pipeline.extraction.extract import ExtractionSettings

_SCRATCH = ".flowcpc-embed-"
_MANY_VIDEOS = 50  # from here on it is worth some seconds to say what they will take
_OF_FILES = {
    "out": "--out",
    "work_dir": "--work-dir",
    "workers": "--workers",
    "backend": "--backend",
}


@click.command()
@click.argument("paths", nargs=-1, required=True, type=console.PATH, metavar="STORE RUN | VIDEO...")
@click.option(
    "--splits",
    metavar="LIST",
    help="Only videos of these splits of RUN's fold, as train,test.  [default: all]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Segments at a time; decides memory.",
)
@click.option(
    "--weights",
    type=console.PATH,
    metavar="RUN",
    help="Embed video files, or folders of them, with the encoder of RUN.",
)
@click.option(
    "--out",
    type=console.OUT_FILE,
    help="Of video files: the Parquet file to write.  [default: embeddings.parquet]",
)
@click.option(
    "--work-dir",
    type=console.OUT_FOLDER,
    help="Of video files: where their flow lies meanwhile.  [default: beside --out]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Of video files: processes that compute flow; 0 works in this one.  [default: one per core]",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "cuda", "cpu", "opencv"]),
    help="Of video files: what computes flow.  [default: auto]",
)
def embed(
    paths: tuple[Path, ...],
    splits: str | None,
    batch_size: int,
    weights: Path | None,
    out: Path | None,
    work_dir: Path | None,
    workers: int | None,
    backend: str | None,
) -> None:  # fmt: skip
    """Turn videos into vectors: those of STORE with the encoder of RUN, or video files with that of --weights.

    Embeddings of STORE are kept in STORE/embeddings; the same command again makes what is missing. Those of video files
    go to the Parquet file --out, and nothing else is left behind; exit code 3 when some videos cannot be used; they are
    listed.
    """
    if weights is not None:
        if splits is not None:
            raise ValueError(
                "--splits chooses videos of a store, and video files have no splits; leave it out"
            )
        return _embed_files(
            paths,
            weights,
            out or Path("embeddings.parquet"),
            work_dir,
            workers,
            backend or "auto",
            batch_size,
        )
    given = {"out": out, "work_dir": work_dir, "workers": workers, "backend": backend}
    if alone := [option for name, option in _OF_FILES.items() if given[name] is not None]:
        raise ValueError(f"{alone[0]} is for video files; give --weights RUN too, or leave it out")
    if len(paths) != 2:
        raise ValueError(
            f"{counted(len(paths), 'path')} given; write flowcpc embed STORE RUN, or for video files flowcpc embed VIDEO... --weights RUN"
        )
    stop = hear_stops()
    store, run = paths
    from flowcpc.train.runs.embed import embed_store

    chosen = None if splits is None else [name.strip() for name in splits.split(",")]
    with Bar("embed") as bar:
        result = embed_store(
            store,
            run,
            splits=chosen,
            batch_size=batch_size,
            progress=bar,
            announce=say,
            should_stop=stop,
        )
    if not result.finished:
        stop.leave(command_line())
    say(
        f"embeddings of {counted(result.videos, 'video')} ({result.made} made now) are in {result.path}"
    )


def _embed_files(
    paths: tuple[Path, ...],
    run: Path,
    out: Path,
    work_dir: Path | None,
    workers: int | None,
    backend: str,
    batch_size: int,
) -> None:
    """Extract the flow of video files into a store that is gone afterwards, embed it, and write the vectors to `out`."""
    if out.suffix.lower() != ".parquet":
        raise ValueError(
            f"{out} does not end in .parquet, but that is what is written; name it {out.stem}.parquet"
        )
    stop = hear_stops()
    from flowcpc.pipeline.cluster.places import choose_place
    from flowcpc.pipeline.loose_videos import find_videos, settings_like
    from flowcpc.pipeline.run import run_extraction
    from flowcpc.pipeline.tvl1.solver import available_threads
    from flowcpc.stores.embeddings import export_embeddings
    from flowcpc.stores.flow_store import create_store
    from flowcpc.train.runs.checkpoint import check_numerics, require_checkpoint
    from flowcpc.train.runs.embed import embed_store

    checkpoint = require_checkpoint(run)
    folder, found = find_videos(paths)
    for remark in found.remarks:
        say(remark)
    files = {video.video_id: folder / video.path for video in found.videos}
    if out.resolve() in {file.resolve() for file in files.values()}:
        raise ValueError(f"{out} is one of the videos, and would be lost; give --out another name")
    cores = available_threads()
    if workers is None and len(found.videos) < cores:
        workers = 0  # starting processes takes longer than a few videos
    place = choose_place({"workers": workers, "backend": backend}, cores)
    with _scratch(work_dir or out.parent) as scratch:
        settings = settings_like(checkpoint.numerics, folder, scratch / "store", backend)
        store = create_store(settings.store, settings.numerics())
        check_numerics(checkpoint, store.numerics)
        say(f"{counted(len(found.videos), 'video')}; the flow lies in {scratch} until the end")
        if len(found.videos) >= _MANY_VIDEOS:
            _foresee(settings, found.videos, place, scratch)
        with Bar("flow") as bar:
            summary = run_extraction(
                settings, found.videos, place, progress=bar, announce=say, should_stop=stop
            )
        _leave_if(stop, finished=summary.finished)
        if len(summary.failed) < len(found.videos):
            with Bar("embed") as bar:
                result = embed_store(
                    settings.store,
                    run,
                    batch_size=batch_size,
                    progress=bar,
                    announce=say,
                    should_stop=stop,
                )
            _leave_if(stop, finished=result.finished)
            rows = export_embeddings(store, run, out, failures=dict(summary.failed))
            done = len(found.videos) - len(summary.failed)
            say(f"wrote {out}: {counted(rows, 'row')} of {counted(done, 'video')}")
    for video_id, reason in summary.failed:
        click.echo(f"{files[video_id]}\t{reason}")
    if summary.failed:
        say(f"{len(summary.failed)} of {counted(len(found.videos), 'video')} could not be embedded")
        sys.exit(
            console.FAILED if len(summary.failed) == len(found.videos) else console.DONE_IN_PART
        )


def _leave_if(stop: Stop, *, finished: bool) -> None:
    if not finished:
        say("the temporary flow is removed, so the command will begin anew")
        stop.leave(command_line())


def _foresee(
    settings: "ExtractionSettings", videos: "list[Video]", place: "Place", scratch: Path
) -> None:
    """Say what many videos will take. Raises OperationError where their flow has no room."""
    from flowcpc.pipeline.estimate import estimate

    expected = estimate(settings, videos, place, say)
    hours = sum(expected.seconds.values()) / 3600 / (expected.workers or 1)
    say(
        f"about {expected.pairs} pairs of frames, {hours:.2g} h for their flow, which takes {expected.bytes / 1e9:.2g} GB meanwhile"
    )
    free = shutil.disk_usage(scratch).free
    if expected.bytes > free:
        raise OperationError(
            f"{scratch.parent} has {free / 1e9:.3g} GB free and the flow needs about {expected.bytes / 1e9:.3g} GB; "
            "give --work-dir on another disk, or fewer videos at a time"
        )


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Give a new folder within `folder` that is gone afterwards. What commands that were killed left there goes now."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with locked(
            folder, wait=True
        ):  # nobody takes a folder that is just being made for one that was left
            for left in folder.glob(f"{_SCRATCH}*"):
                with locked_if_free(left) as is_free:
                    if is_free:
                        say(f"removing {left}, which a command that was killed left behind")
                        shutil.rmtree(left)
            path = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
            stack.callback(shutil.rmtree, path)
            stack.enter_context(locked(path))
        yield path


@click.command("export-encoder")
@click.argument("run", type=console.PATH)
@click.argument("out", type=console.OUT_FILE)
@click.option(
    "--to",
    "form",
    type=click.Choice(["torchscript", "onnx"]),
    required=True,
    help="What OUT is; onnx needs flowcpc[onnx].",
)
def export_encoder(run: Path, out: Path, form: str) -> None:  # fmt: skip
    """Write the encoder of RUN to the file OUT for programs without flowcpc, after comparing what it gives with the original."""
    from flowcpc.train.runs.export import export_encoder as export

    difference = export(run, out, form)
    say(f"wrote {out}; on random input it differs from the encoder by {difference:.1g} at most")


COMMANDS = (embed, export_encoder)
