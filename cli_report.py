"""The commands that show what came out: one page about runs, the paper's tables; cli.py joins them to the others."""

from pathlib import Path

import click

import console
from console import say


@click.command()
@click.argument("runs", nargs=-1, required=True, type=console.PATH, metavar="RUN...")
@click.option("--out", type=console.OUT_FILE, default="report.html", show_default=True, help="The page to write.")
@click.option(
    "--store", type=console.PATH, help="Show its embeddings of the runs, their neighbours and its health too."
)
def report(runs: tuple[Path, ...], out: Path, store: Path | None) -> None:
    """Write one HTML page about RUNs: settings, curves, results beside the paper's, classes, embeddings, the data's health."""
    from train.report import write_report

    say(f"wrote {write_report(runs, out, store_path=store, announce=say)}")


COMMANDS = (report,)
