"""The command that evaluates encoders."""

from pathlib import Path

import click

from flowcpc.commands import console
from flowcpc.commands.console import Bar, as_json_text, command_line, hear_stops, say

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
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
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
    stop = hear_stops()
    from flowcpc.train.evaluation.evaluate import evaluate as run_evaluation

    with Bar(f"evaluate {mode}") as bar:
        result = run_evaluation(
            store,
            run,
            mode=mode,
            labels=labels,
            folds=folds,
            seeds=seeds,
            out=out,
            preset=preset,
            schedule=schedule,
            settings=settings,
            allow_missing=allow_missing,
            progress=bar,
            announce=say,
            should_stop=stop,
        )
    if not result.finished:
        stop.leave(command_line())
    click.echo(as_json_text(result.table) if as_json else result.to_text())


COMMANDS = (evaluate,)
