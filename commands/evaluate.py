"""The commands that evaluate encoders and show results: evaluate, report, reproduce."""

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import click
from click import argument, option

from flowcpc.commands import console
from flowcpc.commands.console import CommandListener, flag, json_option, say, settings_option
from flowcpc.train.evaluation.config import SCHEDULES, EvaluationConfig, schedule_of
from flowcpc.train.evaluation.modes import MODES
from flowcpc.train.reproduction.paper_tables import TABLES
from flowcpc.train.settings.config import PretrainConfig

_MODE_HELP = "; ".join(f"{mode.name}: {mode.description}" for mode in MODES.values()) + "."
_LABEL_HELP = "Labelled training videos per class; a list such as all,18,5."
_FORM = "all|N[,...]"
_OUT_HELP = "Folder of the results, for a second data set or without RUN.  [default: RUN]"
_SCHEDULE_HELP = "Training steps and rates.  [default: decided by the preset of the encoder]"
_TABLE_HELP = "Table of the paper; findings: the comparisons behind its findings."
_SCALE_HELP = "paper: its settings; cpu: a small encoder and few steps in all rows."
_EVALUATION_SET_HELP = "Change a setting of every evaluation; may be repeated."
_SCHEDULE = click.Choice(list(SCHEDULES))
_numbers_option = functools.partial(option, callback=console.numbers)
_folds_option = _numbers_option("--folds", default="1", help="Splits of the data, such as 1,2,3.")
_missing_option = flag("--allow-missing", help="Evaluate even if some test videos have no flow.")


def _labels(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int | None, ...]:
    """Return the numbers of labels per class in a list such as all,18,5; None for all."""
    parts = console.words(ctx, param, value)
    for part in parts:
        if part != "all" and not (part.isdecimal() and int(part) > 0):
            problem = f"{part!r} must be all or a number from 1; write for example all,18,5"
            raise click.BadParameter(problem, ctx, param)
    return tuple(None if part == "all" else int(part) for part in parts)


@click.command()
@argument("store", type=console.PATH)
@argument("run", type=console.PATH, required=False)
@option("--mode", type=click.Choice(list(MODES)), default="linear", help=_MODE_HELP)
@option(
    "--labels-per-class", "labels", metavar=_FORM, callback=_labels, default="all", help=_LABEL_HELP
)
@_folds_option
@_numbers_option("--seeds", default="0", help="Seeds of all random draws, such as 0,1,2.")
@option("--out", type=console.OUT_FOLDER, help=_OUT_HELP)
@option("--preset", help="Encoder settings of scratch and random without RUN.")
@option("--schedule", type=_SCHEDULE, help=_SCHEDULE_HELP)
@settings_option("Change a setting of the evaluation; may be repeated.")
@_missing_option
@json_option
def evaluate(
    store: Path, run: Path | None, settings: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Evaluate the encoder of RUN on action recognition.

    Scores stand next to chance, untrained encoders, shuffled labels and motion statistics. Tables
    go to RUN/evaluate, or OUT/evaluate. --labels-per-class, --folds and --seeds are lists; every
    combination is evaluated. Run the same command again to resume, or to read finished results.
    """
    listener = CommandListener(f"evaluate {options['mode']}")
    from flowcpc.commands.settings import parse_settings
    from flowcpc.train.evaluation.evaluate import evaluate as run_evaluation
    from flowcpc.train.runs.checkpoint import require_checkpoint
    from flowcpc.train.settings.presets import find_preset

    preset, schedule = options.pop("preset"), options.pop("schedule")
    classes = (EvaluationConfig, PretrainConfig) if run is None else (EvaluationConfig,)
    changes, *of_encoder = parse_settings(settings, *classes)
    encoder, evaluation = None, None  # unless given: those of the run, and of the encoder's preset
    if preset is not None:
        encoder = dataclasses.replace(find_preset(preset).config, **dict(*of_encoder))
    if schedule is None and changes:
        start = encoder if run is None else require_checkpoint(run).config
        schedule = schedule_of(start.preset if start else "")
    if schedule is not None:
        evaluation = dataclasses.replace(SCHEDULES[schedule], **changes)
    options |= {"encoder": encoder, "evaluation": evaluation, "listener": listener}
    with listener:
        result = run_evaluation(store, run, **options)
    listener.leave_unless(result.finished)
    click.echo(console.as_json_text(result.table) if as_json else result.to_text())


@click.command()
@argument("runs", nargs=-1, required=True, type=console.PATH, metavar="RUN...")
@option("--out", type=console.OUT_FILE, default="report.html", help="The page to write.")
@option("--store", type=console.PATH, help="Show the embeddings and data of this store too.")
def report(runs: tuple[Path, ...], out: Path, store: Path | None) -> None:
    """Write one HTML page about RUNs.

    It shows settings, curves, results next to the paper's, classes, embeddings and the data.
    """
    listener = CommandListener("report")
    from flowcpc.train.report.report import write_report

    path = write_report(runs, out, store_path=store, listener=listener)
    listener.leave_unless(path is not None)
    say(f"wrote {path}")


@click.command()
@argument("store", type=console.PATH)
@argument("out", type=console.OUT_FOLDER)
@option("--table", type=click.Choice(list(TABLES)), required=True, help=_TABLE_HELP)
@option("--scale", type=_SCHEDULE, default="paper", help=_SCALE_HELP)
@_folds_option
@_numbers_option("--seeds", default="0", help="Pretrain and evaluate with each of these seeds.")
@option("--steps", type=console.POSITIVE, help="Pretraining steps.  [default: those of --scale]")
@settings_option("Change a setting of every pretraining; may be repeated.")
@settings_option(_EVALUATION_SET_HELP, "--evaluation-set", "evaluation")
@console.read_workers_option
@_missing_option
@flag("--dry-run", help="Print runs, evaluations and steps; run nothing.")
def reproduce(
    store: Path, out: Path, steps: int | None, allow_missing: bool, dry_run: bool, **options: Any
) -> None:
    """Reproduce a table of the paper on STORE.

    The paper's numbers stand next to ours. Runs and results go to the folder OUT. Run the same
    command again to resume. The exit code is 3 if a row failed; the table has its reason.
    """
    table = options["table"]
    listener = CommandListener("findings" if table == "findings" else f"table {table}")
    from flowcpc.commands.settings import parse_settings, with_settings
    from flowcpc.stores.flow_store import open_store
    from flowcpc.train.pretraining.execution import Execution
    from flowcpc.train.reproduction.plan import make_plan
    from flowcpc.train.reproduction.reproduce import reproduce as run_table

    (changes,) = parse_settings(options.pop("settings"), PretrainConfig)
    if steps is not None and changes.setdefault("steps", steps) != steps:
        raise ValueError(f"--steps {steps} contradicts --set steps={changes['steps']}; give one")
    evaluation = with_settings(SCHEDULES[options["scale"]], options.pop("evaluation"))
    execution = Execution(workers=options.pop("workers"))
    options["changes"] = changes
    if dry_run:
        return click.echo(make_plan(open_store(store), **options).to_text())
    options |= {"evaluation": evaluation, "allow_missing": allow_missing, "execution": execution}
    with listener:
        result = run_table(store, out, **options, listener=listener)
    listener.leave_unless(result.finished)
    click.echo(result.text, nl=False)
    say(f"wrote {result.path}, and its tables beside it as Parquet")
    if result.failed:
        sys.exit(console.DONE_IN_PART)


COMMANDS = (evaluate, report, reproduce)
