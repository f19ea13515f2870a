"""The commands that extract flow and say how an extraction is doing; cli.py joins them to the others."""

import json
import sys
from pathlib import Path

import click

import console
from cli_stores import encoding_option, format_option
from console import Bar, command_line, parse_bytes, parse_size, say, stop_on_signals

_PATH = click.Path(path_type=Path)


@click.command("extract-flow")
@click.argument("videos", type=_PATH)
@click.argument("store", type=_PATH)
@click.option(
    "--dataset",
    type=click.Choice(["ucf101", "hmdb51", "kinetics", "folder", "csv"]),
    default="folder",
    show_default=True,
    help="How VIDEOS is laid out.",
)
@click.option(
    "--annotations",
    type=_PATH,
    help="ucf101, hmdb51: the folder of the official lists; kinetics: the official CSV, or a folder of several; "
    "csv: the file (path, label, group, split).",
)
@click.option("--limit", type=click.IntRange(min=1), help="Take only N videos, balanced over the classes.")
@click.option(
    "--size",
    metavar="HxW",
    callback=parse_size,
    help="Height x width that frames are brought to before flow.  [default: 256x342]",
)
@click.option(
    "--short-side",
    type=click.IntRange(min=1),
    metavar="PX",
    help="Bring the shorter side of every video to so many px and keep its aspect ratio, instead of --size.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "cuda", "cpu", "opencv"]),
    default="auto",
    show_default=True,
    help="Where flow is computed; auto: cuda if a device works, else cpu.",
)
@click.option(
    "--profile",
    type=click.Choice(["opencv-cpu", "opencv-cuda"]),
    default="opencv-cpu",
    show_default=True,
    help="Whose border and interpolation rules flow follows; part of a store's numerics.",
)
@encoding_option
@format_option
@click.option("--workers", type=click.IntRange(min=0), help="Processes; 0 works in this one.  [default: one per core]")
@click.option("--retry-failed", is_flag=True, help="Try again the videos that failed because of their file.")
@click.option(
    "--strict", is_flag=True, help="Refuse a video that decodes to another number of frames than its header says."
)
@click.option("--time-limit", type=float, metavar="SECONDS", help="Give a video up that takes longer.  [default: none]")
@click.option(
    "--memory-limit",
    metavar="SIZE",
    callback=parse_bytes,
    default="4G",
    show_default=True,
    help="Memory that decoding a video may take, as 500M or 4G.",
)
def extract_flow(
    videos: Path,
    store: Path,
    dataset: str,
    annotations: Path | None,
    limit: int | None,
    size: tuple[int, int] | None,
    short_side: int | None,
    backend: str,
    profile: str,
    encoding: str,
    array_format: str | None,
    workers: int | None,
    retry_failed: bool,
    strict: bool,
    time_limit: float | None,
    memory_limit: int,
) -> None:
    """Compute the optical flow of the videos in the folder VIDEOS into STORE.

    The same command again does only what is missing. Exit code 3 when some videos have no flow; they are listed.
    """
    from pipeline.cluster import run_extraction
    from pipeline.extract import Settings
    from pipeline.sources import limit_videos, read_dataset
    from pipeline.tvl1.parameters import TVL1Parameters
    from pipeline.tvl1.solver import available_threads

    if size and short_side:
        raise ValueError("--size and --short-side both say how large frames become; give one of them")
    height, width = size or (Settings.height, Settings.width)
    settings = Settings(
        str(videos),
        str(store),
        height,
        width,
        short_side=short_side,
        parameters=TVL1Parameters(profile=profile),
        backend=backend,
        encoding=encoding,
        array_format=array_format,
        time_limit=time_limit,
        memory_limit=memory_limit,
        strict=strict,
    )
    found = read_dataset(videos, dataset, annotations)
    for remark in found.remarks:
        say(remark)
    chosen = found.videos if limit is None else limit_videos(found.videos, limit)
    with stop_on_signals() as stop, Bar("extract-flow") as bar:
        summary = run_extraction(
            settings,
            chosen,
            workers=available_threads() if workers is None else workers,
            whole_dataset={video.video_id for video in found.videos},
            retry_failed=retry_failed,
            progress=bar,
            announce=say,
            should_stop=stop,
        )
    if summary.stored or not summary.finished:
        rate = summary.pairs / summary.seconds
        say(
            f"stored {summary.stored} videos in {store} ({summary.pairs} pairs, {rate:.3g} pairs/s) in {summary.seconds:.0f} s"
        )
    elif not summary.failed:
        say(f"nothing to do: the flow of all {summary.videos} videos is in {store}")
    if summary.failed:
        say(f"{len(summary.failed)} of {summary.videos} videos have no flow (see failures() of the store):")
        for video_id, reason in summary.failed:
            click.echo(f"{video_id}\t{reason}")
    if not summary.finished:
        stop.leave(command_line())
    if summary.failed:
        sys.exit(console.DONE_IN_PART)


@click.command()
@click.argument("store", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def status(store: Path, as_json: bool) -> None:
    """Print how the extraction into STORE is doing, or went: videos, pairs/s, what each stage and host took, failures.

    Reads the records of STORE only, so that it can be asked in another shell while the extraction runs.
    """
    from stores.flow_store import open_store
    from stores.status import read_status

    found = read_status(open_store(store))
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else found.to_text())


COMMANDS = (extract_flow, status)
