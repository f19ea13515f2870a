"""The commands that train: pretrain, presets."""

import contextlib
import json
from pathlib import Path

import click

from flowcpc.commands import console
from flowcpc.commands.console import Bar, command_line, hear_stops, say
from flowcpc.train.settings.config import MODALITIES


@click.command()
@click.argument("store", type=console.PATH)
@click.argument("run", type=console.OUT_FOLDER)
@click.option(
    "--preset",
    help="Named settings; `tiny` is for a CPU.  [default: the file's or the run's, or table1-flow]",
)
@click.option(
    "--config", type=console.PATH, help="A file of settings, YAML or a run's config.json."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting; may be repeated.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Iterations; a finished run goes on when they are more.",
)
@click.option(
    "--gamma",
    type=float,
    help="Let the learning rate fall by this factor at each boundary of the schedule.",
)
@click.option(
    "--modality",
    type=click.Choice(MODALITIES),
    help="Train on flow, or on the frames of a store that has them.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Processes that read batches; 0: a thread of this one.",
)
@click.option("--compile", "compile_model", is_flag=True, help="Compile the model (torch.compile).")
@click.option(
    "--cuda-graphs",
    is_flag=True,
    help="Compile it and replay its kernels as CUDA graphs; one GPU only.",
)
@click.option(
    "--tensorboard", is_flag=True, help="Write metrics for TensorBoard too, into RUN/tensorboard."
)
@click.option(
    "--wandb", is_flag=True, help="Write metrics for Weights & Biases too, into RUN/wandb; offline."
)
def pretrain(
    store: Path,
    run: Path,
    preset: str | None,
    config: Path | None,
    settings: tuple[str, ...],
    steps: int | None,
    gamma: float | None,
    modality: str | None,
    workers: int,
    compile_model: bool,
    cuda_graphs: bool,
    tensorboard: bool,
    wandb: bool,
) -> None:
    """Pretrain CPC on STORE; checkpoints, metrics and configuration go to the folder RUN.

    The same command again goes on where the run stopped. On several GPUs: torchrun --nproc-per-node N -m flowcpc
    pretrain ...
    """
    stop = hear_stops()
    from flowcpc.commands.settings import pretrain_config
    from flowcpc.train.pretraining import loop
    from flowcpc.train.pretraining.distributed import is_main_process
    from flowcpc.train.pretraining.execution import Execution
    from flowcpc.train.report import report
    from flowcpc.train.runs import model_card
    from flowcpc.train.runs.metrics import has_metrics

    if preset is None and config is None and (run / "config.json").is_file():
        config = run / "config.json"
        say(f"settings: those of {config}, and what is given besides")
    chosen = pretrain_config(
        preset, file=config, settings=settings, steps=steps, gamma=gamma, modality=modality
    )
    execution = Execution(
        workers=workers,
        compile=compile_model,
        cuda_graphs=cuda_graphs,
        tensorboard=tensorboard,
        wandb=wandb,
    )
    is_main = is_main_process()
    shown = Bar("pretrain") if is_main else contextlib.nullcontext(lambda done, total, fields: None)
    with shown as bar:
        result = loop.pretrain(
            store, run, chosen, execution, progress=bar, announce=say, should_stop=stop
        )
    if not result.finished:
        stop.leave(command_line(), quiet=not is_main)
    if is_main:
        say(f"wrote {run} and {model_card.write_model_card(run, store)}")
        if has_metrics(run):  # somebody may have removed them
            say(f"wrote {report.draw_curve(run)}")
        click.echo(result.to_text())


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def presets(name: str | None, as_json: bool) -> None:
    """List the paper's settings by NAME, beside what the paper reports; with NAME all of its settings, as --config reads them."""
    from flowcpc.commands.settings import to_yaml
    from flowcpc.train.settings.presets import PRESETS, describe, find_preset, presets_table

    if as_json:
        click.echo(
            json.dumps(describe(name) if name else [describe(one) for one in PRESETS], indent=2)
        )
    else:
        click.echo(to_yaml(find_preset(name).config) if name else presets_table(), nl=not name)


COMMANDS = (pretrain, presets)
