"""The commands that evaluate encoders and show results: evaluate, report, reproduce."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowcpc.commands import console
from flowcpc.commands.console import CommandListener, as_json_text, json_option, say

if TYPE_CHECKING:
    from flowcpc.train.evaluation.config import EvaluationConfig
    from flowcpc.train.settings.config import PretrainConfig

_MODES = {
    "linear": "a dense layer on the frozen encoder, beside one on an untrained encoder",
    "finetune": "encoder and dense layer together",
    "scratch": "the same from initial weights",
    "random": "a dense layer on an untrained encoder",
    "probe": "logistic regression on features that are made once (seconds)",
    "knn": "votes of the nearest training videos",
    "retrieval": "whether one of the 1, 5, 10, 20, 50 nearest training videos is of the class",
}


def _words(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(","))


@click.command()
@click.argument("store", type=console.PATH)
@click.argument("run", type=console.PATH, required=False)
@click.option(
    "--mode",
    type=click.Choice(list(_MODES)),
    default="linear",
    show_default=True,
    help="; ".join(f"{name}: {what}" for name, what in _MODES.items()) + ".",
)
@click.option(
    "--labels-per-class",
    "labels",
    metavar="all|N[,...]",
    callback=_words,
    default="all",
    show_default=True,
    help="How many training videos of a class have labels; several as all,18,5.",
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
    help="What decides all draws, as 0,1,2.",
)
@click.option(
    "--out",
    type=console.OUT_FOLDER,
    help="Folder of the results: of a second data set, or without RUN.  [default: RUN]",
)
@click.option("--preset", help="Settings of the encoder of scratch and random without RUN.")
@click.option(
    "--schedule",
    type=click.Choice(["paper", "cpu"]),
    help="Steps and rates: the paper's, or few; by the preset unless given.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting of the evaluation; may be repeated.",
)
@click.option(
    "--allow-missing", is_flag=True, help="Evaluate although some test videos have no flow."
)
@json_option
def evaluate(
    store: Path,
    run: Path | None,
    mode: str,
    labels: tuple[str, ...],
    folds: tuple[int, ...],
    seeds: tuple[int, ...],
    out: Path | None,
    preset: str | None,
    schedule: str | None,
    settings: tuple[str, ...],
    allow_missing: bool,
    as_json: bool,
) -> None:
    """Evaluate the encoder of RUN on action recognition, beside untrained encoders, motion statistics and chance.

    Tables go to RUN/evaluate, or OUT/evaluate. The same command again goes on where it stopped, and reads what is finished. --labels-per-class,
    --folds and --seeds are lists; every combination is evaluated.
    """
    listener = CommandListener(f"evaluate {mode}")
    from flowcpc.train.evaluation.evaluate import evaluate as run_evaluation

    encoder, evaluation = _configurations(run, preset, schedule, settings)
    with listener:
        result = run_evaluation(
            store,
            run,
            mode=mode,
            labels=labels,
            folds=folds,
            seeds=seeds,
            out=out,
            encoder=encoder,
            evaluation=evaluation,
            allow_missing=allow_missing,
            progress=listener.progress,
            announce=listener.announce,
            should_stop=listener.should_stop,
        )
    if not result.finished:
        listener.leave()
    click.echo(as_json_text(result.table) if as_json else result.to_text())


def _configurations(
    run: Path | None, preset: str | None, schedule: str | None, settings: tuple[str, ...]
) -> "tuple[PretrainConfig | None, EvaluationConfig]":
    """Return the settings of the encoder where there is no run, and those of the evaluation."""
    from flowcpc.commands.settings import parse_settings
    from flowcpc.train.evaluation.config import SCHEDULES, EvaluationConfig, schedule_of
    from flowcpc.train.runs.checkpoint import require_checkpoint
    from flowcpc.train.settings.config import PretrainConfig
    from flowcpc.train.settings.presets import find_preset

    classes = (EvaluationConfig, PretrainConfig) if run is None else (EvaluationConfig,)
    changes, *of_encoder = parse_settings(settings, *classes)
    encoder = None
    if preset is not None:
        encoder = dataclasses.replace(find_preset(preset).config, **dict(*of_encoder))
    if schedule is None and run is not None:
        schedule = schedule_of(require_checkpoint(run).config.preset)
    base = SCHEDULES[schedule or schedule_of(encoder.preset if encoder else "")]
    return encoder, dataclasses.replace(base, **changes)


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
    listener = CommandListener("findings" if table == "findings" else f"table {table}")
    from flowcpc.commands.settings import parse_settings, with_settings
    from flowcpc.stores.flow_store import open_store
    from flowcpc.train.evaluation.config import SCHEDULES
    from flowcpc.train.pretraining.execution import Execution
    from flowcpc.train.reproduction.plan import make_plan
    from flowcpc.train.reproduction.reproduce import reproduce as run_table
    from flowcpc.train.settings.config import PretrainConfig

    (changes,) = parse_settings(settings, PretrainConfig)
    if steps is not None and changes.setdefault("steps", steps) != steps:
        raise ValueError(
            f"--steps {steps} and --set steps={changes['steps']} contradict each other; give one"
        )
    chosen = with_settings(SCHEDULES[scale], evaluation)
    if dry_run:
        plan = make_plan(
            open_store(store), table, scale=scale, folds=folds, seeds=seeds, changes=changes
        )
        click.echo(plan.to_text())
        return
    with listener:
        result = run_table(
            store,
            out,
            table=table,
            scale=scale,
            folds=folds,
            seeds=seeds,
            changes=changes,
            evaluation=chosen,
            allow_missing=allow_missing,
            execution=Execution(workers=workers),
            progress=listener.progress,
            announce=listener.announce,
            should_stop=listener.should_stop,
        )
    if not result.finished:
        listener.leave()
    click.echo(result.text, nl=False)
    say(f"wrote {result.path}, and its tables beside it as Parquet")
    if result.failed:
        sys.exit(console.DONE_IN_PART)


COMMANDS = (evaluate, report, reproduce)
