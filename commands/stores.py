"""The commands that look after a store and exchange flow with other programs; cli.py joins them to the others."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowcpc.commands import console
from flowcpc.commands.console import Bar, as_json_text, command_line, say, stop_on_signals
from flowcpc.stores.base.plurals import counted

if TYPE_CHECKING:
    from flowcpc.pipeline.extraction.ledger import ExtractionSummary
    from flowcpc.stores.inspection.verify import Verification

encoding_option = click.option(
    "--encoding",
    type=click.Choice(["companded8", "uint8-bound20", "int16", "float16"]),
    default="companded8",
    show_default=True,
    help="How px become stored integers; part of a store's numerics.",
)
format_option = click.option(
    "--format",
    "array_format",
    type=click.Choice(["zarr", "hdf5"]),
    help="Container of a new store's arrays.  [default: zarr, or the store's]",
)
_MOST_PENDING = 10  # that verify names one by one
_SIDE_BY_SIDE = 4  # videos of an animation where none is named


@click.command()
@click.argument("store", type=console.PATH)
@click.option(
    "--rebuild-index", is_flag=True, help="Write the Parquet tables anew from the records first."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def info(store: Path, rebuild_index: bool, as_json: bool) -> None:
    """Print what is in STORE: numerics, videos by class and split, failures, embeddings."""
    from flowcpc.stores.flow_store import open_store
    from flowcpc.stores.inspection.summary import summarise

    opened = open_store(store)
    if rebuild_index:
        counts = [f"{name} {rows}" for name, rows in opened.consolidate().items()]
        say(f"rebuilt {store}/index, rows: {', '.join(counts)}")
    found = summarise(opened)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else found.to_text())


@click.command()
@click.argument("store", type=console.PATH)
@click.option(
    "--repair",
    "videos",
    type=console.PATH,
    metavar="VIDEOS",
    help="Extract what is damaged again from this folder.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Threads that read, and processes that repair.  [default: cores]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def verify(store: Path, videos: Path | None, workers: int | None, as_json: bool) -> None:
    """Read every file of STORE, compare it with its checksum and name what is damaged, missing or left over.

    Exit code 1 when something is damaged or missing and was not repaired.
    """
    from flowcpc.stores.flow_store import open_store
    from flowcpc.stores.inspection.verify import advise
    from flowcpc.stores.inspection.verify import verify as verify_store

    opened, count = open_store(store), workers or len(os.sched_getaffinity(0))
    if videos is not None and not videos.is_dir():
        raise FileNotFoundError(
            f"--repair {videos} is no folder; give the one that extract-flow was given"
        )
    with stop_on_signals() as stop, Bar("verify") as bar:
        found = verify_store(opened, workers=count, progress=bar, should_stop=stop)
    click.echo(
        as_json_text(found.table) if as_json else _findings_text(found),
        nl=as_json or len(found.table) > 0,
    )
    if not found.finished:
        stop.leave(command_line())
    say(
        f"{store}: {counted(found.videos, 'video')}, {found.bytes / 1e6:.3g} MB read, "
        f"{counted(len(found.harmful), 'file')} damaged or missing"
    )
    if not found.harmful:
        return
    if videos is None:
        for sentence in advise(opened, found.harmful):
            say(sentence)
        sys.exit(console.FAILED)
    from flowcpc.pipeline.repair import repair

    with stop_on_signals() as stop, Bar("repair") as bar:
        result = repair(
            opened, videos, found, workers=count, progress=bar, announce=say, should_stop=stop
        )
    if result.summary is not None and not result.summary.finished:
        stop.leave(command_line())
    left = [*result.left, *(result.summary.failed if result.summary else [])]
    for video_id, reason in left:
        (say if as_json else click.echo)(f"{video_id}\t{reason}")
    after = verify_store(opened, workers=count)
    for finding in after.harmful:
        say(f"still {finding.kind}: {finding.path}: {finding.what}")
    if left or after.harmful:
        for sentence in advise(
            opened, [finding for finding in after.harmful if finding.video_id is None]
        ):
            say(sentence)
        sys.exit(console.FAILED)
    pending = (
        f", but {counted(after.pending, 'video')} of its data set not extracted yet"
        if after.pending
        else ""
    )
    say(f"repaired: {store} is whole{pending}")


@click.command()
@click.argument("store", type=console.PATH)
@click.argument("sql")
@click.option(
    "--as",
    "form",
    type=click.Choice(["table", "csv", "parquet"]),
    help="How the rows are written.  [default: what --out ends in, or table]",
)
@click.option("--out", type=console.OUT_FILE, help="File to write instead of stdout.")
def query(store: Path, sql: str, form: str | None, out: Path | None) -> None:
    """Ask STORE in SQL: one SELECT over videos, shots, segments, frames, failures and embeddings."""
    from flowcpc.stores.flow_store import open_store
    from flowcpc.stores.inspection.query import query as ask
    from flowcpc.stores.inspection.query import remark_on_embeddings, render

    named = {".csv": "csv", ".parquet": "parquet"}.get(out.suffix.lower() if out else "")
    if named and form not in (None, named):
        raise ValueError(
            f"--out {out} ends in the name of another form than --as {form}; leave --as out, or give another name"
        )
    form = form or named or "table"
    if form == "parquet" and out is None and sys.stdout.isatty():
        raise ValueError("--as parquet is not for a terminal; give --out FILE or a pipe")
    opened = open_store(store)
    data, remark = render(ask(opened, sql), form)
    if out is None:
        sys.stdout.buffer.write(data)
    else:
        from flowcpc.stores.base.atomic import replace_file

        replace_file(out, data)
        remark = remark or f"wrote {out}"
    for sentence in (remark, opened.remark_on_damage(), remark_on_embeddings(opened, sql)):
        if sentence:
            say(sentence)


@click.command()
@click.argument("store", type=console.PATH)
@click.argument("videos", nargs=-1, metavar="[VIDEO]...")
@click.option(
    "--out",
    type=console.OUT_FILE,
    required=True,
    help="File to write: .png for a sheet, .gif or .webp for motion.",
)
def show(store: Path, videos: tuple[str, ...], out: Path) -> None:
    """Draw flow of VIDEOs (by default one of each class) in the colour wheel: a contact sheet, or an animation side by side."""
    from flowcpc.stores.flow_store import open_store
    from flowcpc.stores.inspection.animation import FORMATS, write_animation
    from flowcpc.stores.inspection.pictures import contact_sheet, one_of_each_class, write_png

    if out.suffix.lower() not in (".png", *FORMATS):
        raise ValueError(
            f"{out} does not end in what can be written: .png (a sheet), {' or '.join(FORMATS)} (motion); name it so"
        )
    opened = open_store(store)
    chosen = videos or one_of_each_class(opened)
    if out.suffix.lower() in FORMATS:
        write_animation(out, opened, chosen if videos else chosen[:_SIDE_BY_SIDE], announce=say)
    else:
        write_png(out, contact_sheet(opened, chosen))
    say(f"wrote {out}")


_LAYOUT = click.Choice(["denseflow", "tsn", "memdpc"])


@click.command("import")
@click.argument("folder", type=console.PATH)
@click.argument("store", type=console.PATH)
@click.option("--layout", type=_LAYOUT, required=True, help="Whose names the JPEGs have.")
@click.option(
    "--bound",
    type=float,
    default=20.0,
    show_default=True,
    help="What 8 bits stand for: +-BOUND px.",
)
@click.option("--fps", type=float, help="Frames per second of all videos, for times in seconds.")
@click.option(
    "--dataset",
    type=click.Choice(["folder", "ucf101", "hmdb51", "kinetics"]),
    default="folder",
    show_default=True,
    help="folder: labels are the folders above; the others: labels and splits from their official lists.",
)
@click.option(
    "--annotations",
    type=console.PATH,
    help="ucf101, hmdb51: the folder of the official lists; kinetics: the CSV.",
)
@click.option(
    "--short-side",
    type=click.IntRange(min=1),
    metavar="PX",
    help="Take videos of several sizes whose shorter side is so many px.  [default: all have the first one's size]",
)
@encoding_option
@format_option
def import_command(
    folder: Path,
    store: Path,
    layout: str,
    bound: float,
    fps: float | None,
    dataset: str,
    annotations: Path | None,
    short_side: int | None,
    encoding: str,
    array_format: str | None,
) -> None:
    """Bring flow that is kept as JPEGs (FOLDER/[CLASS/]VIDEO/*.jpg) into STORE. The same command again does what is missing."""
    from flowcpc.pipeline.exchange.import_flow import find_videos, import_flow
    from flowcpc.pipeline.exchange.layouts import LAYOUTS

    chosen = LAYOUTS[layout]
    found = find_videos(chosen, folder, dataset, annotations)
    for remark in found.remarks:
        say(remark)
    if fps is None:
        say("times count flows, not seconds, because --fps is not given")
    with stop_on_signals() as stop, Bar("import") as bar:
        summary = import_flow(
            folder,
            store,
            chosen,
            found.videos,
            bound=bound,
            fps=fps,
            short_side=short_side,
            encoding=encoding,
            array_format=array_format,
            progress=bar,
            announce=say,
            should_stop=stop,
        )
    say(
        f"stored {counted(summary.stored, 'video')} in {store} ({counted(summary.pairs, 'flow')}); "
        f"{summary.stored_before} were there already"
    )
    for video_id, reason in summary.failed:
        click.echo(f"{video_id}\t{reason}")
    report_outdated(summary)
    if not summary.finished:
        stop.leave(command_line())
    if summary.failed:
        say(
            f"{len(summary.failed)} of {counted(summary.videos, 'video')} have no flow (see failures() of the store)"
        )
    if summary.failed or summary.outdated:
        sys.exit(console.DONE_IN_PART)


@click.command("export")
@click.argument("store", type=console.PATH)
@click.argument("out", type=console.OUT_FOLDER)
@click.argument("videos", nargs=-1, metavar="[VIDEO]...")
@click.option("--layout", type=_LAYOUT, required=True, help="Whose names the JPEGs get.")
@click.option(
    "--bound",
    type=float,
    default=20.0,
    show_default=True,
    help="Flow beyond +-BOUND px is clipped.",
)
def export_command(
    store: Path, out: Path, videos: tuple[str, ...], layout: str, bound: float
) -> None:
    """Write flow of STORE as JPEGs (OUT/VIDEO/*.jpg), of all videos or some. The same command again does what is missing."""
    from flowcpc.pipeline.exchange.export_flow import export_flow
    from flowcpc.pipeline.exchange.layouts import LAYOUTS
    from flowcpc.stores.flow_store import open_store

    with stop_on_signals() as stop, Bar("export") as bar:
        summary = export_flow(
            open_store(store),
            out,
            LAYOUTS[layout],
            videos,
            bound=bound,
            progress=bar,
            should_stop=stop,
        )
    for video_id, reason in summary.failed:
        click.echo(f"{video_id}\t{reason}")
    if not summary.finished:
        stop.leave(command_line())
    say(
        f"{out}: {counted(summary.videos - len(summary.failed), 'video')} ({summary.written} written now)"
    )
    if summary.failed:
        say(
            f"damaged and not exported: {len(summary.failed)} of {counted(summary.videos, 'video')}"
        )
        sys.exit(console.DONE_IN_PART)


def report_outdated(summary: "ExtractionSummary") -> None:
    """Name the videos whose flow is older than what is there now, which cannot be used."""
    if summary.outdated:
        videos = counted(len(summary.outdated), "video")
        say(
            f"{videos} changed and cannot be used any more; the flow that the store had before was kept:"
        )
        for video_id, reason in summary.outdated:
            click.echo(f"{video_id}\t{reason}")


def _findings_text(found: "Verification") -> str:
    """Return a line per finding; one alone for many videos that are only not extracted yet."""
    table = found.table.fillna("")
    lines = ["\t".join(map(str, row)) for row in table.itertuples(index=False)]
    if found.pending <= _MOST_PENDING:
        return "\n".join(lines)
    kept = [line for line, kind in zip(lines, table["kind"], strict=True) if kind != "pending"]
    return "\n".join(
        [*kept, f"pending\t\t\t{found.pending} videos of the data set are not extracted yet"]
    )


COMMANDS = (info, verify, query, show, import_command, export_command)
