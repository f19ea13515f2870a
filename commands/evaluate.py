"""The commands that evaluate encoders and show results: evaluate, report, reproduce."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from flowcpc.commands import console
from flowcpc.commands.console import CommandListener, as_json_text, json_option, say
from flowcpc.train.evaluation.config import SCHEDULES, EvaluationConfig, schedule_of
from flowcpc.train.evaluation.modes import MODES
from flowcpc.train.settings.config import PretrainConfig

_folds_option = click.option(
    "--folds",
    callback=console.numbers,
    default="1",
    show_default=True,
    help="Splits of the data set, such as 1,2,3.",
)
_allow_missing_option = click.option(
    "--allow-missing", is_flag=True, help="Evaluate even if some test videos have no flow."
)


def _seeds_option(text: str) -> Any:
    return click.option(
        "--seeds", callback=console.numbers, default="0", show_default=True, help=text
    )


def _labels(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int | None, ...]:
    """Return the numbers of labels per class in a list such as all,18,5; None for all."""
    parts = console.words(ctx, param, value)
    for part in parts:
        if part != "all" and not (part.isdecimal() and int(part) > 0):
            raise click.BadParameter(
                f"{part!r} must be all or a number from 1; write for example all,18,5", ctx, param
            )
    return tuple(None if part == "all" else int(part) for part in parts)


@click.command()
@click.argument("store", type=console.PATH)
@click.argument("run", type=console.PATH, required=False)
@click.option(
    "--mode",
    type=click.Choice(list(MODES)),
    default="linear",
    show_default=True,
    help="; ".join(f"{mode.name}: {mode.description}" for mode in MODES.values()) + ".",
)
@click.option(
    "--labels-per-class",
    "labels",
    metavar="all|N[,...]",
    callback=_labels,
    default="all",
    show_default=True,
    help="Labelled training videos per class; a list such as all,18,5.",
)
@_folds_option
@_seeds_option("Seeds of all random draws, such as 0,1,2.")
@click.option(
    "--out",
    type=console.OUT_FOLDER,
    help="Folder of the results, for a second data set or without RUN.  [default: RUN]",
)
@click.option("--preset", help="Encoder settings of scratch and random without RUN.")
@click.option(
    "--schedule",
    type=click.Choice(list(SCHEDULES)),
    help="Training steps and rates.  [default: decided by the preset of the encoder]",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the evaluation; may be repeated.",
)
@_allow_missing_option
@json_option
def evaluate(
    store: Path,
    run: Path | None,
    mode: str,
    preset: str | None,
    schedule: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Evaluate the encoder of RUN on action recognition.

    Scores stand next to chance, untrained encoders, shuffled labels and motion statistics. Tables
    go to RUN/evaluate, or OUT/evaluate. --labels-per-class, --folds and --seeds are lists; every
    combination is evaluated. Run the same command again to resume, or to read finished results.
    """
    listener = CommandListener(f"evaluate {mode}")
    from flowcpc.train.evaluation.evaluate import evaluate as run_evaluation

    encoder, evaluation = _configurations(run, preset, schedule, settings)
    with listener:
        result = run_evaluation(
            store,
            run,
            mode=mode,
            encoder=encoder,
            evaluation=evaluation,
            **options,
            listener=listener,
        )
    if not result.finished:
        listener.leave()
    click.echo(as_json_text(result.table) if as_json else result.to_text())


def _configurations(
    run: Path | None, preset: str | None, schedule: str | None, settings: tuple[str, ...]
) -> tuple[PretrainConfig | None, EvaluationConfig]:
    """Return the settings of the encoder where there is no run, and those of the evaluation."""
    from flowcpc.commands.settings import parse_settings
    from flowcpc.train.runs.checkpoint import require_checkpoint
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
@click.option("--store", type=console.PATH, help="Show the embeddings and data of this store too.")
def report(runs: tuple[Path, ...], out: Path, store: Path | None) -> None:
    """Write one HTML page about RUNs.

    It shows settings, curves, results next to the paper's, classes, embeddings and the data.
    """
    listener = CommandListener("report")
    from flowcpc.train.report.report import write_report

    path = write_report(runs, out, store_path=store, listener=listener)
    if path is None:
        listener.leave()
    say(f"wrote {path}")


@click.command()
@click.argument("store", type=console.PATH)
@click.argument("out", type=console.OUT_FOLDER)
@click.option(
    "--table",
    type=click.Choice(["1", "2", "3", "4", "5", "findings"]),
    required=True,
    help="Table of the paper; findings: the comparisons behind its findings.",
)
@click.option(
    "--scale",
    type=click.Choice(list(SCHEDULES)),
    default="paper",
    show_default=True,
    help="paper: its settings; cpu: a small encoder and few steps in all rows.",
)
@_folds_option
@_seeds_option("Pretrain and evaluate with each of these seeds.")
@click.option(
    "--steps", type=click.IntRange(min=1), help="Pretraining steps.  [default: those of --scale]"
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of every pretraining; may be repeated.",
)
@click.option(
    "--evaluation-set",
    "evaluation",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of every evaluation; may be repeated.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Processes that read batches; 0: a thread of this process.",
)
@_allow_missing_option
@click.option("--dry-run", is_flag=True, help="Print runs, evaluations and steps; run nothing.")
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
    """Reproduce a table of the paper on STORE.

    The paper's numbers stand next to ours. Runs and results go to the folder OUT. Run the same
    command again to resume. The exit code is 3 if a row failed; the table has its reason.
    """
    listener = CommandListener("findings" if table == "findings" else f"table {table}")
    from flowcpc.commands.settings import parse_settings, with_settings
    from flowcpc.stores.flow_store import open_store
    from flowcpc.train.pretraining.execution import Execution
    from flowcpc.train.reproduction.plan import make_plan
    from flowcpc.train.reproduction.reproduce import reproduce as run_table

    (changes,) = parse_settings(settings, PretrainConfig)
    if steps is not None and changes.setdefault("steps", steps) != steps:
        raise ValueError(f"--steps {steps} contradicts --set steps={changes['steps']}; give one")
    chosen = with_settings(SCHEDULES[scale], evaluation)
    if dry_run:
        plan = make_plan(
            open_store(store), table, scale=scale, folds=folds, seeds=seeds, changes=changes
        )
        return click.echo(plan.to_text())
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
            listener=listener,
        )
    if not result.finished:
        listener.leave()
    click.echo(result.text, nl=False)
    say(f"wrote {result.path}, and its tables beside it as Parquet")
    if result.failed:
        sys.exit(console.DONE_IN_PART)


COMMANDS = (evaluate, report, reproduce)
