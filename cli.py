"""The commands: parse, import lazily, call one function, print.

`flowcpc X`, `python cli.py X` and `python -m flowcpc X` are the same.
"""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

import console
from console import Bar, say, stop_on_signals

if TYPE_CHECKING:
    import pandas as pd

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
@click.option(
    "--encoding",
    type=click.Choice(["companded8", "uint8-bound20", "int16", "float16"]),
    default="companded8",
    show_default=True,
    help="How px become stored integers; part of a store's numerics.",
)
@click.option(
    "--format",
    "array_format",
    type=click.Choice(["zarr", "hdf5"]),
    help="Container of a new store's arrays.  [default: zarr, or the store's]",
)
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
        stop.leave(_command())
    if summary.failed:
        sys.exit(console.DONE_IN_PART)


@main.command()
@click.argument("store", type=_PATH)
@click.option("--rebuild-index", is_flag=True, help="Write the Parquet tables anew from the records first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def info(store: Path, rebuild_index: bool, as_json: bool) -> None:
    """Print what is in STORE: numerics, videos by class and split, failures, embeddings."""
    from stores.flow_store import open_store
    from stores.summary import summarise

    opened = open_store(store)
    if rebuild_index:
        counts = [f"{name} {len(table)}" for name, table in opened.consolidate().items()]
        say(f"rebuilt {store}/index, rows: {', '.join(counts)}")
    found = summarise(opened)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else found.to_text())


@main.command()
@click.argument("store", type=_PATH)
@click.option(
    "--repair", "videos", type=_PATH, metavar="VIDEOS", help="Extract what is damaged again from this folder."
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Threads that read, and processes that repair.  [default: cores]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def verify(store: Path, videos: Path | None, workers: int | None, as_json: bool) -> None:
    """Read every file of STORE, compare it with its checksum and name what is damaged, missing or left over.

    Exit code 1 when something is damaged or missing and was not repaired.
    """
    from stores.flow_store import open_store
    from stores.verify import verify as verify_store

    opened, count = open_store(store), workers or len(os.sched_getaffinity(0))
    if videos is not None and not videos.is_dir():
        raise FileNotFoundError(f"--repair {videos} is no folder; give the one that extract-flow was given")
    with stop_on_signals() as stop, Bar("verify") as bar:
        found = verify_store(opened, workers=count, progress=bar, should_stop=stop)
    click.echo(_as_json(found.table) if as_json else _findings_text(found.table), nl=as_json or len(found.table) > 0)
    if not found.finished:
        stop.leave(_command())
    say(
        f"{store}: {found.videos} videos, {found.bytes / 1e6:.3g} MB read, {len(found.harmful)} files damaged or missing"
    )
    if not found.harmful:
        return
    if videos is None:
        say(f"recompute them with: flowcpc verify {store} --repair VIDEOS")
        sys.exit(console.FAILED)
    from pipeline.repair import repair

    with stop_on_signals() as stop, Bar("repair") as bar:
        result = repair(opened, videos, found, workers=count, progress=bar, announce=say, should_stop=stop)
    if result.summary is not None and not result.summary.finished:
        stop.leave(_command())
    left = [*result.left, *(result.summary.failed if result.summary else [])]
    for video_id, reason in left:
        click.echo(f"{video_id}\t{reason}")
    remaining = verify_store(opened, workers=count).harmful
    for finding in remaining:
        say(f"still {finding.kind}: {finding.path}: {finding.what}")
    if left or remaining:
        sys.exit(console.FAILED)
    say(f"repaired: {store} is whole")


@main.command()
@click.argument("store", type=_PATH)
@click.argument("sql")
@click.option(
    "--as",
    "form",
    type=click.Choice(["table", "csv", "parquet"]),
    default="table",
    show_default=True,
    help="How the rows are written.",
)
@click.option("--out", type=_PATH, help="File to write instead of stdout.")
def query(store: Path, sql: str, form: str, out: Path | None) -> None:
    """Ask STORE in SQL: one SELECT over videos, shots, segments, frames, failures and embeddings."""
    from stores.flow_store import open_store
    from stores.query import query as ask
    from stores.query import render

    if form == "parquet" and out is None and sys.stdout.isatty():
        raise ValueError("--as parquet is not for a terminal; give --out FILE or a pipe")
    data, remark = render(ask(open_store(store), sql), form)
    if out is None:
        sys.stdout.buffer.write(data)
    else:
        from stores.atomic import replace_file

        replace_file(out, data)
        remark = remark or f"wrote {out}"
    if remark:
        say(remark)


@main.command()
@click.argument("store", type=_PATH)
@click.argument("videos", nargs=-1, metavar="[VIDEO]...")
@click.option("--out", type=_PATH, required=True, help="File to write: .png for a sheet, .gif or .webp for motion.")
def show(store: Path, videos: tuple[str, ...], out: Path) -> None:
    """Draw flow of VIDEOs (by default one of each class) in the colour wheel: a contact sheet, or an animation side by side."""
    from stores.animation import FORMATS, write_animation
    from stores.flow_store import open_store
    from stores.pictures import contact_sheet, one_of_each_class, write_png

    opened = open_store(store)
    chosen = videos or one_of_each_class(opened)
    if out.suffix.lower() in FORMATS:
        write_animation(out, opened, chosen, announce=say)
    else:
        write_png(out, contact_sheet(opened, chosen))
    say(f"wrote {out}")


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
        stop.leave(_command())
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
        stop.leave(_command())
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
        stop.leave(_command())
    click.echo(_as_json(result.table) if as_json else result.to_text())


@main.command()
@click.argument("store", type=_PATH)
@click.argument("run", type=_PATH)
def embed(store: Path, run: Path) -> None:
    """Embed every video of STORE with the encoder of RUN; rows go to STORE/embeddings as Parquet."""
    from train.embed import embed_store

    with stop_on_signals() as stop, Bar("embed") as bar:
        result = embed_store(store, run, progress=bar, announce=say, should_stop=stop)
    if not result.finished:
        stop.leave(_command())
    say(f"{result.rows} embeddings are in {result.path}")


_LAYOUT = click.Choice(["denseflow", "tsn", "memdpc"])


@main.command("import")
@click.argument("folder", type=_PATH)
@click.argument("store", type=_PATH)
@click.option("--layout", type=_LAYOUT, required=True, help="Whose names the JPEGs have.")
@click.option("--bound", type=float, default=20.0, show_default=True, help="What 8 bits stand for: +-BOUND px.")
@click.option("--fps", type=float, help="Frames per second of all videos, for times in seconds.")
@click.option(
    "--dataset",
    type=click.Choice(["folder", "ucf101"]),
    default="folder",
    show_default=True,
    help="folder: labels are the folders above; ucf101: labels and splits from its lists.",
)
@click.option("--annotations", type=_PATH, help="ucf101: the folder of the official lists.")
@click.option(
    "--encoding",
    type=click.Choice(["companded8", "uint8-bound20", "int16", "float16"]),
    default="companded8",
    show_default=True,
    help="How px become stored integers.",
)
@click.option(
    "--format", "array_format", type=click.Choice(["zarr", "hdf5"]), help="Container of a new store's arrays."
)
def import_command(
    folder: Path,
    store: Path,
    layout: str,
    bound: float,
    fps: float | None,
    dataset: str,
    annotations: Path | None,
    encoding: str,
    array_format: str | None,
) -> None:
    """Bring flow that is kept as JPEGs (FOLDER/[CLASS/]VIDEO/*.jpg) into STORE. The same command again does what is missing."""
    from pipeline.exchange import LAYOUTS
    from pipeline.import_flow import find_videos, import_flow, with_lists

    chosen = LAYOUTS[layout]
    videos = find_videos(chosen, folder)
    if dataset == "ucf101":
        videos = with_lists(videos, annotations)
    if fps is None:
        say("times count flows, not seconds, because --fps is not given")
    with stop_on_signals() as stop, Bar("import") as bar:
        summary = import_flow(
            folder,
            store,
            chosen,
            videos,
            bound=bound,
            fps=fps,
            encoding=encoding,
            array_format=array_format,
            progress=bar,
            should_stop=stop,
        )
    say(
        f"stored {summary.stored} videos in {store} ({summary.pairs} flows); {summary.stored_before} were there already"
    )
    for video_id, reason in summary.failed:
        click.echo(f"{video_id}\t{reason}")
    if not summary.finished:
        stop.leave(_command())
    if summary.failed:
        say(f"{len(summary.failed)} of {summary.videos} videos have no flow (see failures() of the store)")
        sys.exit(console.DONE_IN_PART)


@main.command("export")
@click.argument("store", type=_PATH)
@click.argument("out", type=_PATH)
@click.argument("videos", nargs=-1, metavar="[VIDEO]...")
@click.option("--layout", type=_LAYOUT, required=True, help="Whose names the JPEGs get.")
@click.option("--bound", type=float, default=20.0, show_default=True, help="Flow beyond +-BOUND px is clipped.")
def export_command(store: Path, out: Path, videos: tuple[str, ...], layout: str, bound: float) -> None:
    """Write flow of STORE as JPEGs (OUT/VIDEO/*.jpg), of all videos or some. The same command again does what is missing."""
    from pipeline.exchange import LAYOUTS
    from pipeline.export_flow import export_flow
    from stores.flow_store import open_store

    opened = open_store(store)
    chosen = videos or tuple(opened.videos()["video_id"])
    with stop_on_signals() as stop, Bar("export") as bar:
        written, finished = export_flow(
            opened, out, LAYOUTS[layout], chosen, bound=bound, progress=bar, should_stop=stop
        )
    if not finished:
        stop.leave(_command())
    say(f"{out}: {len(chosen)} videos ({written} written now)")


def _findings_text(table: "pd.DataFrame") -> str:
    return "\n".join("\t".join(map(str, row)) for row in table.fillna("").itertuples(index=False))


def _as_json(table: "pd.DataFrame") -> str:
    return json.dumps(table.to_dict("records"), indent=2, default=str)


def _command() -> str:
    return shlex.join(["flowcpc", *sys.argv[1:]])


if __name__ == "__main__":
    main()
