"""The commands that train: pretrain, presets."""

import json
from pathlib import Path
from typing import Any

import click

from flowcpc.commands import console
from flowcpc.commands.console import CommandListener, say
from flowcpc.train.settings.config import MODALITIES

_PRESET_HELP = (
    "Named settings; `tiny` is for a CPU.  [default: that of --config or RUN, or table1-flow]"
)
_CONFIG_HELP = "A file of settings: YAML, or a run's config.json."
_STEPS_HELP = "Iterations; more of them continue a finished run."
_GAMMA_HELP = "Multiply the learning rate by this at each boundary of the schedule."
_MODALITY_HELP = "Train on flow, or on the frames of a store that has them."
_CUDA_GRAPHS_HELP = "Compile it and replay CUDA graphs; one GPU only."
_TENSORBOARD_HELP = "Also write metrics for TensorBoard, to RUN/tensorboard."
_WANDB_HELP = "Also write metrics for Weights & Biases, offline, to RUN/wandb."


@click.command()
@click.argument("store", type=console.PATH)
@click.argument("run", type=console.OUT_FOLDER)
@click.option("--preset", help=_PRESET_HELP)
@click.option("--config", type=console.PATH, help=_CONFIG_HELP)
@console.settings_option("Change one setting; may be repeated.")
@click.option("--steps", type=console.POSITIVE, help=_STEPS_HELP)
@click.option("--gamma", type=float, help=_GAMMA_HELP)
@click.option("--modality", type=click.Choice(MODALITIES), help=_MODALITY_HELP)
@console.read_workers_option
@click.option("--compile", is_flag=True, help="Compile the model (torch.compile).")
@click.option("--cuda-graphs", is_flag=True, help=_CUDA_GRAPHS_HELP)
@click.option("--tensorboard", is_flag=True, help=_TENSORBOARD_HELP)
@click.option("--wandb", is_flag=True, help=_WANDB_HELP)
def pretrain(
    store: Path,
    run: Path,
    preset: str | None,
    config: Path | None,
    settings: tuple[str, ...],
    steps: int | None,
    gamma: float | None,
    modality: str | None,
    **execution: Any,
) -> None:
    """Pretrain CPC on STORE.

    Checkpoints, metrics and settings go to the folder RUN. Run the same command again to resume. On
    several GPUs: torchrun --nproc-per-node N -m flowcpc pretrain ...
    """
    listener = CommandListener("pretrain")
    from flowcpc.commands.settings import pretrain_config
    from flowcpc.train.pretraining import loop
    from flowcpc.train.pretraining.distributed import is_main_process
    from flowcpc.train.pretraining.execution import Execution
    from flowcpc.train.report import report
    from flowcpc.train.runs import model_card
    from flowcpc.train.runs.metrics import has_metrics

    if preset is None and config is None and (run / "config.json").is_file():
        config = run / "config.json"
        say(f"using settings from {config}; command-line options override them")
    chosen = pretrain_config(
        preset, file=config, settings=settings, steps=steps, gamma=gamma, modality=modality
    )
    listener.quiet = not is_main_process()
    with listener:
        result = loop.pretrain(store, run, chosen, Execution(**execution), listener=listener)
    listener.leave_unless(result.finished)
    if listener.quiet:
        return
    say(f"wrote {run} and {model_card.write_model_card(run, store)}")
    if has_metrics(run):
        say(f"wrote {report.draw_curve(run)}")
    click.echo(result.to_text())


@click.command()
@click.argument("name", required=False)
@console.json_option
def presets(name: str | None, as_json: bool) -> None:
    """List the paper's settings next to its results.

    With NAME, print these settings as YAML, which pretrain --config reads.
    """
    from flowcpc.commands.settings import to_yaml
    from flowcpc.train.settings.presets import PRESETS, describe, find_preset, presets_table

    if as_json:
        described = describe(name) if name else [describe(preset) for preset in PRESETS]
        click.echo(json.dumps(described, indent=2))
    else:
        click.echo(to_yaml(find_preset(name).config) if name else presets_table(), nl=not name)


COMMANDS = (pretrain, presets)
