"""The commands that make flow: synth, extract-flow, status."""

import dataclasses
import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import argument, option

from flowcpc.commands import console
from flowcpc.commands.console import CommandListener, command_line, flag, json_option, say
from flowcpc.commands.stores import encoding_option, format_option, report_outdated
from flowcpc.pipeline.cluster.places import CLUSTERS
from flowcpc.pipeline.datasets.sources import DATASETS
from flowcpc.pipeline.tvl1.parameters import BACKENDS, PROFILES, TVL1Parameters
from flowcpc.stores.base.errors import counted
from flowcpc.stores.base.listener import Listener

if TYPE_CHECKING:
    from flowcpc.pipeline.extraction.ledger import ExtractionSummary

_NAMED, _MOST_NAMED = 10, 50  # videos that are listed with the same reason, and in all
_DATASET, _BACKEND = click.Choice(DATASETS), click.Choice(BACKENDS)
_PROFILE, _CLUSTER = click.Choice(list(PROFILES)), click.Choice(CLUSTERS)
_ANNOTATIONS_HELP = (
    "ucf101, hmdb51: folder of the official lists; kinetics: the official CSV, or a folder of "
    "several; csv: the file (path, label, group, split)."
)
_CLIPS_HELP = "Height x width of the clips, in px."
_SIZE_HELP = "Height x width that frames are resized to before flow.  [default: 256x342]"
_SHORT_SIDE_HELP = "Resize the shorter side to PX and keep the aspect ratio, instead of --size."
_BACKEND_HELP = "Flow solver; auto: cuda if a device works, else cpu."
_PROFILE_HELP = "Border and interpolation rules of the flow; part of a store's numerics."
_CLUSTER_HELP = "Processes of this machine, one per GPU of it, or SLURM jobs.  [default: local]"
_WAIT_HELP = "Seconds to wait for the first worker.  [default: 120; SLURM: no limit]"
_DIRECTIVE_HELP = (
    "slurm: another #SBATCH line, as --gres=gpu:1; may be repeated. Other settings of jobs are in "
    "dask-jobqueue's configuration file."
)
_TIME_HELP = "Give up a video that takes longer.  [default: none]"
_MEMORY_HELP = "Memory that decoding a video may take, such as 500M or 4G."
_MAX_FAILURES_HELP = "Stop when more than N videos have failed."


@click.command("extract-flow")
@argument("videos", type=console.PATH)
@argument("store", type=console.PATH)
@option("--dataset", type=_DATASET, default="folder", help="Layout of VIDEOS.")
@option("--annotations", type=console.PATH, help=_ANNOTATIONS_HELP)
@option("--limit", type=console.POSITIVE, help="Take only N videos, balanced over the classes.")
@option("--size", metavar="HxW", callback=console.parse_size, help=_SIZE_HELP)
@option("--short-side", type=console.POSITIVE, metavar="PX", help=_SHORT_SIDE_HELP)
@option("--backend", type=_BACKEND, default="auto", help=_BACKEND_HELP)
@option("--profile", type=_PROFILE, default="opencv-cpu", help=_PROFILE_HELP)
@encoding_option
@format_option
@flag("--with-frames", help="Store frames as JPEGs too; fixed when a store is created.")
# Where it runs; pipeline/cluster/places.py says which options exclude each other.
@option("--workers", type=console.COUNT, help="Processes; 0: only this one.  [default: cores]")
@option("--cluster", type=_CLUSTER, help=_CLUSTER_HELP)
@option("--scheduler", metavar="ADDRESS", help="Dask scheduler to use: tcp://HOST:PORT.")
@option("--scheduler-file", type=console.PATH, help="File that a Dask scheduler wrote.")
@option("--wait", type=float, metavar="SECONDS", help=_WAIT_HELP)
@option("--shard", metavar="I/N", help="Part I of N, for job arrays; works without Dask.")
@option("--adapt", metavar="MIN:MAX", help="slurm: fewest and most jobs at a time.")
@option("--queue", help="slurm: partition.")
@option("--account", help="slurm: account to charge.")
@option("--walltime", metavar="TIME", help="slurm: time limit of a job, as 01:00:00.")
@option("--memory", metavar="SIZE", help="slurm: memory of a job.  [default: 4GB]")
@option("--cores", type=console.POSITIVE, help="slurm: cores of a job.  [default: 1]")
@option("--directive", "directives", multiple=True, help=_DIRECTIVE_HELP)
# What counts as a failure, and what follows from it.
@flag("--retry-failed", help="Retry videos that failed because of their file.")
@flag("--strict", help="Refuse videos with more or fewer frames than their header says.")
@option("--time-limit", type=float, metavar="SECONDS", help=_TIME_HELP)
@option(
    "--memory-limit", metavar="SIZE", callback=console.parse_bytes, default="4G", help=_MEMORY_HELP
)
@flag("--dry-run", help="Print videos, frames, size and hours; write nothing.")
@flag("--fail-fast", help="Stop at the first video that fails.")
@option("--max-failures", type=console.COUNT, metavar="N", help=_MAX_FAILURES_HELP)
def extract_flow(
    videos: Path, store: Path, dataset: str, limit: int | None, dry_run: bool, **options: Any
) -> None:
    """Compute the optical flow of videos into STORE.

    VIDEOS is the folder of the videos. Run the same command again to resume. Exit code 3: some
    videos have no flow, and are listed.
    """
    # Created before modules are loaded, so that a signal never ends in a traceback.
    listener = CommandListener("extract-flow") if not dry_run else None

    from flowcpc.pipeline.cluster.places import choose_place
    from flowcpc.pipeline.cluster.shards import parse_shard, videos_of_shard
    from flowcpc.pipeline.datasets.sources import limit_videos, read_dataset
    from flowcpc.pipeline.extraction.extract import ExtractionSettings
    from flowcpc.pipeline.run import run_extraction
    from flowcpc.pipeline.tvl1.solver import available_threads

    size, max_failures = options["size"], options["max_failures"]
    if options["fail_fast"] and max_failures is not None:
        raise ValueError("--fail-fast means --max-failures 0; give one of them")
    if size and options["short_side"]:
        raise ValueError("--size and --short-side both give the size of frames; give one of them")
    shard = None if options["shard"] is None else parse_shard(options["shard"])
    place = choose_place(options, available_threads())
    height, width = size or (ExtractionSettings.height, ExtractionSettings.width)
    names = {field.name for field in dataclasses.fields(ExtractionSettings)} & options.keys()
    fields = {name: options[name] for name in names}
    fields["parameters"] = TVL1Parameters(profile=options["profile"])
    settings = ExtractionSettings(str(videos), str(store), height, width, **fields)
    whole = read_dataset(videos, dataset, options["annotations"])
    say(*whole.remarks)
    chosen = whole.videos
    if limit is not None:  # of the videos that exist, if any does
        existing = [video for video in chosen if (videos / video.path).exists()]
        chosen = limit_videos(existing or chosen, limit)
    if listener is None:
        from flowcpc.pipeline.estimate import estimate

        part = chosen if shard is None else videos_of_shard(chosen, videos, shard)
        click.echo(estimate(settings, part, place, _Announcer()).to_text(f"{dataset} in {videos}"))
        return
    listener.leave_unless(not listener.should_stop())
    with listener:
        summary = run_extraction(
            settings,
            chosen,
            place,
            shard=shard,
            whole_dataset={video.video_id for video in whole.videos},
            retry_failed=options["retry_failed"],
            max_failures=0 if options["fail_fast"] else max_failures,
            listener=listener,
        )
    _report(summary, store)
    if summary.gave_up:
        failed = counted(summary.failed_now, "video")
        say(f"stopped because {failed} failed; run the same command to resume: {command_line()}")
        sys.exit(console.FAILED)
    listener.leave_unless(summary.finished)
    if summary.failed or summary.outdated:
        sys.exit(console.DONE_IN_PART)


class _Announcer(Listener):
    """Prints messages and leaves signals as they are: a dry run has nothing to save."""

    def announce(self, message: str) -> None:
        say(message)


def _report(summary: "ExtractionSummary", store: Path) -> None:
    """Print what an extraction did; the videos without flow go to stdout."""
    videos = counted(summary.videos, "video")
    if summary.stored or not summary.finished:
        stored, pairs = counted(summary.stored, "video"), counted(summary.pairs, "pair")
        speed = f"{summary.pairs / summary.seconds:.3g} pairs/s"
        say(f"stored {stored} in {store} ({pairs}, {speed}) in {summary.seconds:.0f} s")
    elif not summary.videos:
        say("nothing to do: this part of the data set has no video")
    elif not summary.failed and not summary.outdated:
        say(f"nothing to do: the flow of all {videos} is in {store}")
    if summary.failed:
        say(f"{len(summary.failed)} of {videos} have no flow:")
        _list_failures(summary.failed, store)
    report_outdated(summary)


def _list_failures(failed: Sequence[tuple[str, str]], store: Path) -> None:
    """Print videos without flow and the reasons; of many with the same reason only the first."""
    named: Counter[str] = Counter()
    more: Counter[str] = Counter()
    for video_id, reason in failed:
        if named[reason] < _NAMED and named.total() < _MOST_NAMED:
            named[reason] += 1
            click.echo(f"{video_id}\t{reason}")
        else:
            more[reason] += 1
    say(*(f"and {count} more: {reason}" for reason, count in more.most_common(_NAMED)))
    if more:
        sql = "SELECT video_id, reason FROM failures WHERE kind <> 'pending'"
        say(f"all of them: {shlex.join(['flowcpc', 'query', str(store), sql, '--as', 'csv'])}")


@click.command()
@argument("store", type=console.PATH)
@json_option
def status(store: Path, as_json: bool) -> None:
    """Print the progress of an extraction into STORE.

    It shows videos, pairs/s, time per stage and failures and, during an extraction, what each
    worker is processing. It only reads STORE.
    """
    from flowcpc.stores.flow_store import open_store
    from flowcpc.stores.inspection.status import read_status

    result = read_status(open_store(store))
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.to_text())


@click.command()
@argument("out", type=console.OUT_FOLDER)
@option("--groups", default=25, help="Groups of clips that look alike.")
@option("--clips-per-group", default=4, help="Clips per class and group.")
@option("--frames", default=81, help="Frames per clip.")
@option("--size", metavar="HxW", callback=console.parse_size, default="96x128", help=_CLIPS_HELP)
@option("--seed", default=0, help="Decides every pixel.")
def synth(out: Path, **parameters: Any) -> None:
    """Write synthetic videos whose class is their motion.

    Classes differ in nothing else. OUT has the layout and the lists of UCF-101. Run the same
    command again to resume.
    """
    from flowcpc.pipeline.synthetic.dataset import SyntheticParameters, write_dataset

    chosen = SyntheticParameters(**parameters)
    with CommandListener("synth") as listener:
        summary = write_dataset(out, chosen, listener=listener)
    listener.leave_unless(summary.finished)
    clips = counted(summary.videos, "clip")
    say(f"{out}: {clips} of {len(summary.classes)} classes ({summary.written} written now)")
    lists = f"--dataset ucf101 --annotations {out}/annotations"
    say(f"next: flowcpc extract-flow {out}/videos STORE {lists} --size 48x64")


COMMANDS = (synth, extract_flow, status)
