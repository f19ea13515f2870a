"""The commands that use a trained encoder: embed and export-encoder."""

import sys
from pathlib import Path
from typing import Any

import click
from click import argument, option

from flowcpc.commands import console
from flowcpc.commands.console import CommandListener, list_videos, say
from flowcpc.pipeline.tvl1.parameters import BACKENDS
from flowcpc.stores.base.errors import counted

_SPLITS_HELP = "Embed only these splits of RUN's fold, such as train,test.  [default: all]"
_BATCH_HELP = "Segments per batch; reduce it if memory is short."
_WEIGHTS_HELP = "Embed video files, or folders of them, with the encoder of RUN."
_OUT_HELP = "With --weights: the Parquet file to write.  [default: embeddings.parquet]"
_WORK_DIR_HELP = "With --weights: folder for temporary flow.  [default: the folder of --out]"
_WORKERS_HELP = "With --weights: processes that compute flow; 0: this one.  [default: cores]"
_FORM = click.Choice(["torchscript", "onnx"])  # as train.runs.export, which loads torch


@click.command()
@argument("paths", nargs=-1, required=True, type=console.PATH, metavar="STORE RUN | VIDEO...")
@option("--splits", metavar="LIST", help=_SPLITS_HELP)
@option("--batch-size", type=console.POSITIVE, default=128, help=_BATCH_HELP)
@option("--weights", type=console.PATH, metavar="RUN", help=_WEIGHTS_HELP)
@option("--out", type=console.OUT_FILE, help=_OUT_HELP)
@option("--work-dir", type=console.OUT_FOLDER, help=_WORK_DIR_HELP)
@option("--workers", type=console.COUNT, help=_WORKERS_HELP)
@option("--backend", type=click.Choice(BACKENDS), help="With --weights: flow solver.")
def embed(
    paths: tuple[Path, ...], splits: str | None, weights: Path | None, batch_size: int, **more: Any
) -> None:
    """Compute embeddings of a store, or of video files.

    flowcpc embed STORE RUN writes embeddings of the videos of STORE, by the encoder of RUN, into
    STORE/embeddings. Run it again to resume, or to add videos.

    flowcpc embed VIDEO... --weights RUN needs no store: it writes embeddings of video files to the
    Parquet file --out. It lists videos that it cannot use and then exits with code 3.
    """
    given = {name: value for name, value in more.items() if value is not None}
    if weights is not None:
        if splits is not None:
            raise ValueError("--splits needs a store: video files have no splits; leave it out")
        return _embed_files(paths, weights, batch_size=batch_size, **given)
    for name in given:
        text = f"--{name.replace('_', '-')} is for video files"
        raise ValueError(f"{text}; give --weights RUN too, or leave it out")
    if len(paths) != 2:
        usage = "flowcpc embed STORE RUN, or flowcpc embed VIDEO... --weights RUN"
        raise ValueError(f"got {counted(len(paths), 'path')}; write {usage}")
    listener = CommandListener("embed")
    from flowcpc.train.runs.embed import embed_store

    parts = splits and [name.strip() for name in splits.split(",")]
    with listener:
        result = embed_store(*paths, splits=parts, batch_size=batch_size, listener=listener)
    listener.leave_unless(result.finished)
    videos = counted(result.videos, "video")
    say(f"embeddings of {videos} ({result.made} new) are in {result.path}")


def _embed_files(paths: tuple[Path, ...], run: Path, **options: Any) -> None:
    listener = CommandListener("embed")
    from flowcpc.video_embedding import embed_videos

    with listener:
        result = embed_videos(paths, run, **options, listener=listener)
    if not result.finished:
        say("the temporary flow was removed, so the command starts from the beginning")
    listener.leave_unless(result.finished)
    list_videos(result.failed)
    videos = counted(result.videos, "video")
    if result.rows:
        embedded = counted(result.videos - len(result.failed), "video")
        say(f"wrote {result.path}: {counted(result.rows, 'row')} of {embedded}")
    if result.failed:
        say(f"{len(result.failed)} of {videos} could not be embedded")
        sys.exit(console.DONE_IN_PART if result.rows else console.FAILED)


@click.command("export-encoder")
@argument("run", type=console.PATH)
@argument("out", type=console.OUT_FILE)
@option("--to", "form", type=_FORM, required=True, help="Format of OUT; onnx needs flowcpc[onnx].")
def export_encoder(run: Path, out: Path, form: str) -> None:
    """Export the encoder of RUN for programs without flowcpc.

    OUT is the file to write. The exported encoder is compared with the original on random input.
    """
    from flowcpc.train.runs.export import export_encoder as export

    difference = export(run, out, form)
    say(f"wrote {out}; on random input it differs from the encoder by {difference:.1g} at most")


COMMANDS = (embed, export_encoder)
