"""The commands that inspect and repair a store, and that exchange flow with other programs."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import argument, option

from flowcpc.commands import console
from flowcpc.commands.console import CommandListener, flag, json_option, list_videos, say
from flowcpc.pipeline.datasets.sources import DATASETS
from flowcpc.stores.base.errors import counted
from flowcpc.stores.layout import ARRAY_FORMATS, ENCODING_NAMES

if TYPE_CHECKING:
    from flowcpc.pipeline.extraction.ledger import ExtractionSummary
    from flowcpc.stores.inspection.verify import Verification

_ENCODING, _FORMAT = click.Choice(ENCODING_NAMES), click.Choice(list(ARRAY_FORMATS))
_PX_HELP = "How px are stored as integers. Fixed when the store is created."
_FORMAT_HELP = "Container of the arrays. Fixed when the store is created.  [default: zarr]"
_REPAIR_HELP = "Extract damaged videos again from this folder."
_WORKERS_HELP = "Threads that read and processes that repair.  [default: number of cores]"
_FORM_HELP = "Format of the rows.  [default: by the suffix of --out, or table]"
_DATASET_HELP = "Source of labels and splits: the folders, or the official lists of a data set."
_ANNOTATIONS_HELP = "ucf101, hmdb51: folder of the official lists; kinetics: the CSV."
_SHORT_SIDE_HELP = "Accept sizes whose shorter side is PX.  [default: the first video's size only]"
_FORM = click.Choice(["table", "csv", "parquet"])  # as inspection.query, which loads DuckDB
_DATASET = click.Choice([name for name in DATASETS if name != "csv"])
_LAYOUT = click.Choice(["denseflow", "tsn", "memdpc"])  # as exchange.layouts, which loads OpenCV
_MOST_PENDING = 10  # that verify lists one by one
_SIDE_BY_SIDE = 4  # videos of an animation if none is given

encoding_option = option("--encoding", default=ENCODING_NAMES[0], type=_ENCODING, help=_PX_HELP)
format_option = option("--format", "array_format", type=_FORMAT, help=_FORMAT_HELP)


@click.command()
@argument("store", type=console.PATH)
@flag("--rebuild-index", help="First rebuild the tables from the records.")
@json_option
def info(store: Path, rebuild_index: bool, as_json: bool) -> None:
    """Print a summary of STORE.

    It shows the numerics, videos by class and split, failures and embeddings.
    """
    from flowcpc.stores.flow_store import open_store
    from flowcpc.stores.inspection.summary import summarise

    opened = open_store(store)
    if rebuild_index:
        counts = [f"{name} {rows}" for name, rows in opened.consolidate().items()]
        say(f"rebuilt {store}/index, rows: {', '.join(counts)}")
    summary = summarise(opened)
    click.echo(json.dumps(summary.to_json(), indent=2) if as_json else summary.to_text())


@click.command()
@argument("store", type=console.PATH)
@option("--repair", "videos", type=console.PATH, metavar="VIDEOS", help=_REPAIR_HELP)
@option("--workers", type=console.POSITIVE, help=_WORKERS_HELP)
@json_option
def verify(store: Path, videos: Path | None, workers: int | None, as_json: bool) -> None:
    """Check every file of STORE against its checksum.

    List files that are damaged, missing or left over. The exit code is 1 if a file is damaged or
    missing and was not repaired.
    """
    listener = CommandListener("verify")
    from flowcpc.stores.flow_store import open_store
    from flowcpc.stores.inspection.verify import advise
    from flowcpc.stores.inspection.verify import verify as verify_store

    opened, count = open_store(store), workers or len(os.sched_getaffinity(0))
    if videos is not None and not videos.is_dir():
        raise FileNotFoundError(f"--repair {videos} is not a folder; give VIDEOS of extract-flow")
    with listener:
        report = verify_store(opened, workers=count, listener=listener)
    if as_json or len(report.table):
        click.echo(console.as_json_text(report.table) if as_json else _problems_text(report))
    listener.leave_unless(report.finished)
    read = f"{counted(report.videos, 'video')}, {report.bytes / 1e6:.3g} MB read"
    say(f"{store}: {read}, {counted(len(report.harmful), 'file')} damaged or missing")
    if not report.harmful:
        return
    if videos is None:
        say(*advise(opened, report.harmful))
        sys.exit(console.FAILED)
    from flowcpc.pipeline.repair import repair

    listener.begin("repair")
    with listener:
        result = repair(opened, videos, report, workers=count, listener=listener)
    listener.leave_unless(result.summary is None or result.summary.finished)
    failed = [*result.skipped, *(result.summary.failed if result.summary else [])]
    list_videos(failed, err=as_json)
    after = verify_store(opened, workers=count, listener=listener)
    listener.leave_unless(after.finished)
    say(*(f"still {problem.kind}: {problem.path}: {problem.what}" for problem in after.harmful))
    if failed or after.harmful:
        say(*advise(opened, [file for file in after.harmful if file.video_id is None]))
        sys.exit(console.FAILED)
    say(f"repaired: {store} has no damage")
    if after.pending:
        say(f"{counted(after.pending, 'video')} of its data set not extracted yet")


@click.command()
@argument("store", type=console.PATH)
@argument("sql")
@option("--as", "form", type=_FORM, help=_FORM_HELP)
@option("--out", type=console.OUT_FILE, help="File to write instead of stdout.")
def query(store: Path, sql: str, form: str | None, out: Path | None) -> None:
    """Query the tables of STORE with SQL.

    SQL is one SELECT over videos, shots, segments, frames, failures and embeddings, for example:

    flowcpc query STORE "SELECT label, avg(magnitude) FROM videos GROUP BY label"
    """
    from flowcpc.stores.flow_store import open_store
    from flowcpc.stores.inspection.query import query as run_query
    from flowcpc.stores.inspection.query import remark_on_embeddings, render

    suffix = {".csv": "csv", ".parquet": "parquet"}.get(out.suffix.lower() if out else "")
    if suffix and form not in (None, suffix):
        raise ValueError(f"--out {out} and --as {form} name different formats; leave --as out")
    form = form or suffix or "table"
    if form == "parquet" and out is None and sys.stdout.isatty():
        raise ValueError("--as parquet is not for a terminal; give --out FILE, or use a pipe")
    opened = open_store(store)
    data, remark = render(run_query(opened, sql), form)
    if out is None:
        sys.stdout.buffer.write(data)
    else:
        from flowcpc.stores.base.atomic import replace_file

        replace_file(out, data)
        remark = remark or f"wrote {out}"
    remarks = (remark, opened.remark_on_damage(), remark_on_embeddings(opened, sql))
    say(*filter(None, remarks))


@click.command()
@argument("store", type=console.PATH)
@argument("videos", nargs=-1, metavar="[VIDEO]...")
@option("--out", type=console.OUT_FILE, required=True, help="File to write.")
def show(store: Path, videos: tuple[str, ...], out: Path) -> None:
    """Draw the flow of VIDEOs with the colour wheel.

    Without VIDEOs, draw one of each class. The suffix of --out decides: .png is a contact sheet;
    .gif and .webp are an animation of the videos side by side.
    """
    from flowcpc.stores.flow_store import open_store
    from flowcpc.stores.inspection.animation import FORMATS, write_animation
    from flowcpc.stores.inspection.pictures import contact_sheet, one_of_each_class, write_png

    if out.suffix.lower() not in (".png", *FORMATS):
        raise ValueError(f"{out} must end in .png (a sheet) or {' or '.join(FORMATS)} (motion)")
    opened = open_store(store)
    chosen = videos or one_of_each_class(opened)
    if out.suffix.lower() in FORMATS:
        say(*write_animation(out, opened, chosen if videos else chosen[:_SIDE_BY_SIDE]))
    else:
        write_png(out, contact_sheet(opened, chosen))
    say(f"wrote {out}")


@click.command("import")
@argument("folder", type=console.PATH)
@argument("store", type=console.PATH)
@option("--layout", type=_LAYOUT, required=True, help="Program that wrote the JPEGs.")
@option("--bound", default=20.0, help="The 8 bits span -BOUND..BOUND px.")
@option("--fps", type=float, help="Frames per second of all videos, for times in seconds.")
@option("--dataset", type=_DATASET, default="folder", help=_DATASET_HELP)
@option("--annotations", type=console.PATH, help=_ANNOTATIONS_HELP)
@option("--short-side", type=console.POSITIVE, metavar="PX", help=_SHORT_SIDE_HELP)
@encoding_option
@format_option
def import_command(
    folder: Path, store: Path, layout: str, dataset: str, annotations: Path | None, **options: Any
) -> None:
    """Import flow that other programs wrote as JPEGs.

    FOLDER holds [CLASS/]VIDEO/*.jpg. Run the same command again to resume.
    """
    listener = CommandListener("import")
    from flowcpc.pipeline.exchange.import_flow import ImportSettings, find_videos, import_flow
    from flowcpc.pipeline.exchange.layouts import LAYOUTS

    settings = ImportSettings(folder, LAYOUTS[layout], **options)
    videos = find_videos(settings.layout, folder, dataset, annotations)
    say(*videos.remarks)
    if settings.fps is None:
        say("without --fps, times count flows instead of seconds")
    with listener:
        summary = import_flow(settings, store, videos.videos, listener=listener)
    stored = f"{counted(summary.stored, 'video')} in {store} ({counted(summary.pairs, 'flow')})"
    say(f"stored {stored}; {summary.stored_before} stored already")
    list_videos(summary.failed)
    report_outdated(summary)
    listener.leave_unless(summary.finished)
    if summary.failed:
        failed = f"{len(summary.failed)} of {counted(summary.videos, 'video')}"
        say(f"could not import {failed}: mend their folders and run the same command again")
    if summary.failed or summary.outdated:
        sys.exit(console.DONE_IN_PART)


@click.command("export")
@argument("store", type=console.PATH)
@argument("out", type=console.OUT_FOLDER)
@argument("videos", nargs=-1, metavar="[VIDEO]...")
@option("--layout", type=_LAYOUT, required=True, help="Program that will read the JPEGs.")
@option("--bound", default=20.0, help="Clip flow to -BOUND..BOUND px.")
def export_command(
    store: Path, out: Path, videos: tuple[str, ...], layout: str, bound: float
) -> None:
    """Export the flow of STORE as JPEGs for other programs.

    The files are OUT/VIDEO/*.jpg. Without VIDEOs, export all of them. Run the same command again to
    resume.
    """
    listener = CommandListener("export")
    from flowcpc.pipeline.exchange.export_flow import export_flow
    from flowcpc.pipeline.exchange.layouts import LAYOUTS
    from flowcpc.stores.flow_store import open_store

    opened, written = open_store(store), LAYOUTS[layout]
    with listener:
        summary = export_flow(opened, out, written, videos, bound=bound, listener=listener)
    list_videos(summary.failed)
    listener.leave_unless(summary.finished)
    exported = counted(summary.videos - len(summary.failed), "video")
    say(f"{out}: {exported} ({summary.written} written now)")
    if summary.failed:
        damaged = f"{len(summary.failed)} of {counted(summary.videos, 'video')}"
        say(f"could not export {damaged}: find the damage with flowcpc verify {store}")
        sys.exit(console.DONE_IN_PART)


def report_outdated(summary: "ExtractionSummary") -> None:
    """List videos whose file changed and is unusable now, while the store keeps older flow."""
    if summary.outdated:
        videos = counted(len(summary.outdated), "video")
        say(f"{videos} changed and cannot be used any more; the store keeps their earlier flow:")
        list_videos(summary.outdated)


def _problems_text(report: "Verification") -> str:
    """Return a line per problem, but a single one for many videos that are not extracted yet."""
    table, more = report.table.fillna(""), []
    if report.pending > _MOST_PENDING:
        table = table[table["kind"] != "pending"]
        more = [f"pending\t\t\t{report.pending} videos of the data set are not extracted yet"]
    return "\n".join(["\t".join(map(str, row)) for row in table.itertuples(index=False)] + more)


COMMANDS = (info, verify, query, show, import_command, export_command)
