"""The commands: parse, import lazily, call one function, print.

`flowcpc X`, `python cli.py X` and `python -m flowcpc X` are the same.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

import console
from cli_stores import COMMANDS, encoding_option, format_option
from console import Bar, as_json_text, command_line, say, stop_on_signals

if TYPE_CHECKING:
    pass

_PATH = click.Path(path_type=Path)


def _size(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    """Return (height, width) of HxW in px."""
    parts = value.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is not HxW; write height x width in px, for example 256x342", ctx, param)
    return int(parts[0]), int(parts[1])


@click.group(
    cls=console.CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="flowcpc")
def main() -> None:
    """Optical-flow feature stores for video, and contrastive predictive coding (CPC) trained from them."""
    # OpenMP reads this when torch loads it, later. Its threads otherwise spin while they wait, and where anything else
    # uses the cores (a loader thread, another job) a step of a small model then takes many times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@main.command("extract-flow")
@click.argument("videos", type=_PATH)
@click.argument("store", type=_PATH)
@click.option(
    "--dataset",
    type=click.Choice(["ucf101", "folder", "csv"]),
    default="folder",
    show_default=True,
    help="How VIDEOS is laid out.",
)
@click.option(
    "--annotations",
    type=_PATH,
    help="ucf101: the folder of the official lists; csv: the file (path, label, group, split).",
)
@click.option("--limit", type=click.IntRange(min=1), help="Take only N videos, balanced over the classes.")
@click.option(
    "--size",
    metavar="HxW",
    callback=_size,
    default="256x342",
    show_default=True,
    help="Height x width that frames are brought to before flow.",
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
def extract_flow(
    videos: Path,
    store: Path,
    dataset: str,
    annotations: Path | None,
    limit: int | None,
    size: tuple[int, int],
    backend: str,
    profile: str,
    encoding: str,
    array_format: str | None,
    workers: int | None,
    retry_failed: bool,
) -> None:
    """Compute the optical flow of the videos in the folder VIDEOS into STORE.

    The same command again does only what is missing. Exit code 3 when some videos have no flow; they are listed.
    """
    from pipeline.cluster import run_extraction
    from pipeline.extract import Settings
    from pipeline.sources import limit_videos, read_dataset
    from pipeline.tvl1.parameters import TVL1Parameters
    from pipeline.tvl1.solver import available_threads

    parameters = TVL1Parameters(profile=profile)
    settings = Settings(
        str(videos),
        str(store),
        *size,
        parameters=parameters,
        backend=backend,
        encoding=encoding,
        array_format=array_format,
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


@main.command()
@click.argument("out", type=_PATH)
@click.option("--groups", type=int, default=25, show_default=True, help="Groups of clips that share their looks.")
@click.option("--clips-per-group", type=int, default=4, show_default=True, help="Clips of each class in each group.")
@click.option("--frames", type=int, default=81, show_default=True, help="Frames of each clip.")
@click.option("--size", metavar="HxW", callback=_size, default="96x128", show_default=True, help="Size of the clips.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides every pixel.")
def synth(out: Path, groups: int, clips_per_group: int, frames: int, size: tuple[int, int], seed: int) -> None:
    """Write a synthetic data set into OUT whose classes are motion alone, laid out and listed as UCF-101 is."""
    from pipeline.synthetic import write_dataset

    with stop_on_signals() as stop, Bar("synth") as bar:
        summary = write_dataset(
            out,
            groups=groups,
            clips_per_group=clips_per_group,
            frames=frames,
            size=size,
            seed=seed,
            progress=bar,
            should_stop=stop,
        )
    if not summary.finished:
        stop.leave(command_line())
    say(f"{out}: {summary.videos} clips of {len(summary.classes)} classes ({summary.written} written now)")
    say(f"next: flowcpc extract-flow {out}/videos STORE --dataset ucf101 --annotations {out}/annotations --size 48x64")


@main.command()
@click.argument("store", type=_PATH)
@click.argument("run", type=_PATH)
@click.option("--preset", default="table1-flow", show_default=True, help="Named settings; `tiny` is for a CPU.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change one setting of the preset; may be repeated."
)
@click.option("--steps", type=click.IntRange(min=1), help="Iterations; a finished run goes on when they are more.")
def pretrain(store: Path, run: Path, preset: str, settings: tuple[str, ...], steps: int | None) -> None:
    """Pretrain CPC on the flow in STORE; checkpoints, metrics and configuration go to the folder RUN.

    The same command again goes on where the run stopped.
    """
    from train import config, loop, report

    chosen = config.with_settings(config.preset(preset), [*settings, *([f"steps={steps}"] if steps else [])])
    with stop_on_signals() as stop, Bar("pretrain") as bar:
        result = loop.pretrain(store, run, chosen, progress=bar, announce=say, should_stop=stop)
    if not result.finished:
        stop.leave(command_line())
    say(f"wrote {run} and {report.draw_curve(run)}")
    click.echo(result.to_text())


@main.command()
@click.argument("store", type=_PATH)
@click.argument("run", type=_PATH)
@click.option(
    "--mode",
    type=click.Choice(["linear"]),
    default="linear",
    show_default=True,
    help="linear: a dense layer on the frozen encoder.",
)
@click.option(
    "--fold", type=click.IntRange(min=1), default=1, show_default=True, help="Which train/test split of the data set."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the draws of the evaluation.")
@click.option("--allow-missing", is_flag=True, help="Evaluate although some test videos have no flow.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def evaluate(store: Path, run: Path, mode: str, fold: int, seed: int, allow_missing: bool, as_json: bool) -> None:
    """Evaluate the encoder of RUN on action recognition, beside an untrained encoder; tables go to RUN/evaluate."""
    from train import probe

    with stop_on_signals() as stop, Bar(f"evaluate {mode}") as bar:
        result = probe.evaluate_linear(
            store, run, fold=fold, seed=seed, allow_missing=allow_missing, progress=bar, announce=say, should_stop=stop
        )
    if not result.finished:
        stop.leave(command_line())
    click.echo(as_json_text(result.table) if as_json else result.to_text())


@main.command()
@click.argument("store", type=_PATH)
@click.argument("run", type=_PATH)
def embed(store: Path, run: Path) -> None:
    """Embed every video of STORE with the encoder of RUN; rows go to STORE/embeddings as Parquet."""
    from train.embed import embed_store

    with stop_on_signals() as stop, Bar("embed") as bar:
        result = embed_store(store, run, progress=bar, announce=say, should_stop=stop)
    if not result.finished:
        stop.leave(command_line())
    say(f"{result.rows} embeddings are in {result.path}")


for _command in COMMANDS:
    main.add_command(_command)

if __name__ == "__main__":
    main()
