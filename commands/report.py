"""The commands that show what came out: one page about runs, the paper's tables; cli.py joins them to the others."""

import sys
from pathlib import Path

import click

from flowcpc.commands import console
from flowcpc.commands.console import Bar, command_line, hear_stops, say


@click.command()
@click.argument("runs", nargs=-1, required=True, type=console.PATH, metavar="RUN...")
@click.option(
    "--out",
    type=console.OUT_FILE,
    default="report.html",
    show_default=True,
    help="The page to write.",
)
@click.option(
    "--store",
    type=console.PATH,
    help="Show its embeddings of the runs, their neighbours and its health too.",
)
def report(runs: tuple[Path, ...], out: Path, store: Path | None) -> None:
    """Write one HTML page about RUNs: settings, curves, results beside the paper's, classes, embeddings, the data's health."""
    from flowcpc.train.report.report import write_report

    say(f"wrote {write_report(runs, out, store_path=store, announce=say)}")


@click.command()
@click.argument("store", type=console.PATH)
@click.argument("out", type=console.OUT_FOLDER)
@click.option(
    "--table",
    type=click.Choice(["1", "2", "3", "4", "5", "findings"]),
    required=True,
    help="Which table of the paper; findings: the pairs of rows that its findings compare.",
)
@click.option(
    "--scale",
    type=click.Choice(["paper", "cpu"]),
    default="paper",
    show_default=True,
    help="paper: its settings; cpu: a small encoder and few steps, the same for all rows.",
)
@click.option(
    "--folds",
    callback=console.numbers,
    default="1",
    show_default=True,
    help="Splits of the data set, as 1,2,3.",
)
@click.option(
    "--seeds",
    callback=console.numbers,
    default="0",
    show_default=True,
    help="A run and its evaluations for each.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Iterations of every pretraining.  [default: the scale's]",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting of every pretraining.",
)
@click.option(
    "--evaluation-set",
    "evaluation",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting of every evaluation.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Processes that read batches of every pretraining; 0: a thread of this one.",
)
@click.option(
    "--allow-missing", is_flag=True, help="Evaluate although some test videos have no flow."
)
@click.option(
    "--dry-run", is_flag=True, help="Say which runs and evaluations there are, and how many steps."
)
def reproduce(
    store: Path,
    out: Path,
    table: str,
    scale: str,
    folds: tuple[int, ...],
    seeds: tuple[int, ...],
    steps: int | None,
    settings: tuple[str, ...],
    evaluation: tuple[str, ...],
    workers: int,
    allow_missing: bool,
    dry_run: bool,
) -> None:
    """Run all rows of a table of the paper, or of its findings, on STORE into the folder OUT, and print ours beside the paper's numbers.

    The same command again goes on where it stopped. Exit code 3 when a row failed; its reason is in the table.
    """
    stop = hear_stops()
    from flowcpc.stores.flow_store import open_store
    from flowcpc.train.evaluation.config import evaluation_config
    from flowcpc.train.pretraining.execution import Execution
    from flowcpc.train.reproduction.plan import make_plan
    from flowcpc.train.reproduction.reproduce import reproduce as run_table

    if steps and any(setting.partition("=")[0].strip() == "steps" for setting in settings):
        raise ValueError(
            f"--steps {steps} and --set steps=... both say how many steps there are; give one of them"
        )
    chosen = [*settings, *([f"steps={steps}"] if steps else [])]
    if dry_run:
        evaluation_config(scale, evaluation)
        plan = make_plan(
            open_store(store), table, scale=scale, folds=folds, seeds=seeds, settings=chosen
        )
        click.echo(plan.to_text())
        return
    with Bar("findings" if table == "findings" else f"table {table}") as bar:
        result = run_table(
            store,
            out,
            table=table,
            scale=scale,
            folds=folds,
            seeds=seeds,
            settings=chosen,
            evaluation_settings=evaluation,
            allow_missing=allow_missing,
            execution=Execution(workers=workers),
            progress=bar,
            announce=say,
            should_stop=stop,
        )
    if not result.finished:
        stop.leave(command_line())
    click.echo(result.text, nl=False)
    say(f"wrote {result.path}, and its tables beside it as Parquet")
    if result.failed:
        sys.exit(console.DONE_IN_PART)


COMMANDS = (report, reproduce)
