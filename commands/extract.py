"""The commands that extract flow and say how an extraction is doing; cli.py joins them to the others."""

import contextlib
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flowcpc.commands import console
from flowcpc.commands.console import (
    Bar,
    command_line,
    parse_bytes,
    parse_size,
    say,
    stop_on_signals,
)
from flowcpc.commands.stores import encoding_option, format_option, report_outdated
from flowcpc.stores.base.plurals import counted

if TYPE_CHECKING:
    from flowcpc.pipeline.extraction.ledger import ExtractionSummary

_NAMED = 10  # videos of one reason that are called by name
_MOST_NAMED = 50
_Command = TypeVar("_Command", bound=Callable[..., object])
# Where an extraction runs; pipeline/cluster/places.py says which go together.
_PLACE_OPTIONS = (
    click.option("--workers", type=click.IntRange(min=0), help="Processes; 0 works in this one.  [default: one per core]"),
    click.option(
        "--cluster",
        type=click.Choice(["local", "cuda", "slurm"]),
        help="Start workers as processes of this machine, one per GPU of it, or as SLURM jobs.  [default: local]",
    ),
    click.option("--scheduler", metavar="ADDRESS", help="Use the workers of the Dask scheduler at tcp://HOST:PORT."),
    click.option("--scheduler-file", type=console.PATH, metavar="FILE", help="The same, with the file that it wrote."),
    click.option("--wait", type=float, metavar="SECONDS", help="How long to wait for a worker to come.  [default: 120; SLURM: no limit]"),
    click.option("--shard", metavar="I/N", help="Only part I of N, for job arrays: without Dask, unless --workers is given."),
    click.option("--adapt", metavar="MIN:MAX", help="slurm: between MIN and MAX jobs, as many as there are videos left."),
    click.option("--queue", help="slurm: the partition."),
    click.option("--account", help="slurm: who pays."),
    click.option("--walltime", metavar="TIME", help="slurm: time limit of a job, as 01:00:00."),
    click.option("--memory", metavar="SIZE", help="slurm: memory of a job.  [default: 4GB]"),
    click.option("--cores", type=click.IntRange(min=1), help="slurm: cores of a job.  [default: 1]"),
    click.option("--directive", "directives", multiple=True, metavar="TEXT", help="slurm: a further #SBATCH line, as --gres=gpu:1; may be repeated."),
    click.option("--lifetime", metavar="TIME", help="slurm: a worker leaves after this time, as 55m, before its job is killed."),
    click.option("--lifetime-stagger", "stagger", metavar="TIME", help="slurm: spread of --lifetime, so that not all leave at once."),
    click.option("--interface", metavar="NAME", help="slurm: network interface of this machine that the nodes reach, as ib0."),
    click.option("--job-logs", "logs", metavar="FOLDER", help="slurm: where the jobs' output goes.  [default: slurm-logs]"),
)  # fmt: skip


def place_options(command: _Command) -> _Command:
    """Give a command the options that say where it runs."""
    for option in reversed(_PLACE_OPTIONS):
        command = option(command)
    return command


@click.command("extract-flow")
@click.argument("videos", type=console.PATH)
@click.argument("store", type=console.PATH)
@click.option(
    "--dataset",
    type=click.Choice(["ucf101", "hmdb51", "kinetics", "folder", "csv"]),
    default="folder",
    show_default=True,
    help="How VIDEOS is laid out.",
)
@click.option(
    "--annotations",
    type=console.PATH,
    help="ucf101, hmdb51: the folder of the official lists; kinetics: the official CSV, or a folder of several; "
    "csv: the file (path, label, group, split).",
)
@click.option(
    "--limit", type=click.IntRange(min=1), help="Take only N videos, balanced over the classes."
)
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
@click.option(
    "--with-frames",
    is_flag=True,
    help="Store the frames too, as JPEGs in colour; part of a store's numerics.",
)
@place_options
@click.option(
    "--retry-failed", is_flag=True, help="Try again the videos that failed because of their file."
)
@click.option(
    "--strict",
    is_flag=True,
    help="Refuse a video that decodes to another number of frames than its header says.",
)
@click.option(
    "--time-limit",
    type=float,
    metavar="SECONDS",
    help="Give a video up that takes longer.  [default: none]",
)
@click.option(
    "--memory-limit",
    metavar="SIZE",
    callback=parse_bytes,
    default="4G",
    show_default=True,
    help="Memory that decoding a video may take, as 500M or 4G.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print videos, frames, expected size and hours, and write nothing.",
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first video that fails.")
@click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    metavar="N",
    help="Stop when more than N videos have failed.",
)
@click.option(
    "--log-json",
    type=console.OUT_FILE,
    metavar="FILE",
    help="Append one JSON event per video to FILE, for programs.",
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
    with_frames: bool,
    retry_failed: bool,
    strict: bool,
    time_limit: float | None,
    memory_limit: int,
    dry_run: bool,
    fail_fast: bool,
    max_failures: int | None,
    log_json: Path | None,
    **place_options: Any,
) -> None:
    """Compute the optical flow of the videos in the folder VIDEOS into STORE.

    The same command again does only what is missing. Exit code 3 when some videos have no flow; they are listed.
    """
    # Before modules are loaded, so that no moment of it ends in a traceback. A dry run has nothing to save.
    stop = (
        console.Stop() if dry_run else click.get_current_context().with_resource(stop_on_signals())
    )

    from flowcpc.pipeline.cluster.event_log import EventLog, no_log
    from flowcpc.pipeline.cluster.places import choose_place
    from flowcpc.pipeline.cluster.shards import parse_shard, videos_of_shard
    from flowcpc.pipeline.datasets.sources import limit_videos, read_dataset
    from flowcpc.pipeline.extraction.extract import ExtractionSettings
    from flowcpc.pipeline.run import run_extraction
    from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
    from flowcpc.pipeline.tvl1.solver import available_threads

    if fail_fast and max_failures is not None:
        raise ValueError("--fail-fast is --max-failures 0; give one of them")
    if size and short_side:
        raise ValueError(
            "--size and --short-side both say how large frames become; give one of them"
        )
    shard = None if place_options["shard"] is None else parse_shard(place_options["shard"])
    place = choose_place({**place_options, "backend": backend}, available_threads())
    height, width = size or (ExtractionSettings.height, ExtractionSettings.width)
    settings = ExtractionSettings(
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
        with_frames=with_frames,
    )
    found = read_dataset(videos, dataset, annotations)
    for remark in found.remarks:
        say(remark)
    chosen = found.videos
    if limit is not None:  # a part of what is there, where not all is
        chosen = limit_videos(
            [video for video in chosen if (videos / video.path).exists()] or chosen, limit
        )
    if dry_run:
        from flowcpc.pipeline.estimate import estimate

        part = chosen if shard is None else videos_of_shard(chosen, videos, shard)
        click.echo(estimate(settings, part, place, say).to_text(f"{dataset} in {videos}"))
        return
    log = contextlib.nullcontext(no_log) if log_json is None else EventLog(log_json)
    if stop():
        stop.leave(command_line())
    with log as note, Bar("extract-flow") as bar:
        summary = run_extraction(
            settings,
            chosen,
            place,
            shard=shard,
            whole_dataset={video.video_id for video in found.videos},
            retry_failed=retry_failed,
            max_failures=0 if fail_fast else max_failures,
            progress=bar,
            announce=say,
            note=note,
            show_workers=bar.show_workers,
            should_stop=stop,
        )
    _report(summary, store)
    if summary.gave_up:
        say(
            f"stopped because {counted(summary.failed_now, 'video')} failed; run the same command to resume: {command_line()}"
        )
        sys.exit(console.FAILED)
    if not summary.finished:
        stop.leave(command_line())
    if summary.failed or summary.outdated:
        sys.exit(console.DONE_IN_PART)


def _report(summary: "ExtractionSummary", store: Path) -> None:
    """Say what an extraction did; the videos without flow go to stdout."""
    if summary.stored or not summary.finished:
        rate = summary.pairs / summary.seconds
        say(
            f"stored {counted(summary.stored, 'video')} in {store} "
            f"({counted(summary.pairs, 'pair')}, {rate:.3g} pairs/s) in {summary.seconds:.0f} s"
        )
    elif not summary.videos:
        say("nothing to do: this part of the data set has no video")
    elif not summary.failed and not summary.outdated:
        say(f"nothing to do: the flow of all {counted(summary.videos, 'video')} is in {store}")
    if summary.failed:
        say(f"{len(summary.failed)} of {counted(summary.videos, 'video')} have no flow:")
        _list_failures(summary.failed, store)
    report_outdated(summary)


def _list_failures(failed: Sequence[tuple[str, str]], store: Path) -> None:
    """Print videos without flow and why; where many share a reason, the first of them by name and how many more."""
    named: Counter[str] = Counter()
    more: Counter[str] = Counter()
    for video_id, reason in failed:
        if named[reason] < _NAMED and named.total() < _MOST_NAMED:
            named[reason] += 1
            click.echo(f"{video_id}\t{reason}")
        else:
            more[reason] += 1
    for reason, count in more.most_common(_NAMED):
        say(f"and {count} more: {reason}")
    if more:
        sql = "SELECT video_id, reason FROM failures WHERE kind <> 'pending'"
        say(f"all of them: {shlex.join(['flowcpc', 'query', str(store), sql, '--as', 'csv'])}")


@click.command()
@click.argument("store", type=console.PATH)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def status(store: Path, as_json: bool) -> None:
    """Print how the extraction into STORE is doing, or went: videos, pairs/s, what each stage and host took, failures.

    While runs are at work, in another shell, also what each of their workers has in hand. It reads STORE alone.
    """
    from flowcpc.stores.flow_store import open_store
    from flowcpc.stores.inspection.status import read_status

    found = read_status(open_store(store))
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else found.to_text())


COMMANDS = (extract_flow, status)
