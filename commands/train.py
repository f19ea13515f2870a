"""The commands that train: pretrain, presets."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
from click import argument, option

from flowcpc.commands import console
from flowcpc.commands.console import CommandListener, flag, say
from flowcpc.train.settings.config import MODALITIES

_PRESET_HELP = "Named settings; `tiny` is for a CPU.  [default: of --config, RUN, or table1-flow]"
_GAMMA_HELP = "Multiply the learning rate by this at each boundary of the schedule."
_MODALITY_HELP = "Train on flow, or on the frames of a store that has them."


@click.command()
@argument("store", type=console.PATH)
@argument("run", type=console.OUT_FOLDER)
@option("--preset", help=_PRESET_HELP)
@option("--config", type=console.PATH, help="A file of settings: YAML, or a run's config.json.")
@console.settings_option("Change one setting; may be repeated.")
@option("--steps", type=console.POSITIVE, help="Iterations; more of them continue a finished run.")
@option("--gamma", type=float, help=_GAMMA_HELP)
@option("--modality", type=click.Choice(MODALITIES), help=_MODALITY_HELP)
@console.read_workers_option
@flag("--compile", help="Compile the model (torch.compile).")
@flag("--cuda-graphs", help="Compile it and replay CUDA graphs; one GPU only.")
@flag("--tensorboard", help="Also write metrics for TensorBoard, to RUN/tensorboard.")
@flag("--wandb", help="Also write metrics for Weights & Biases, offline, to RUN/wandb.")
def pretrain(
    store: Path, run: Path, preset: str | None, config: Path | None, **options: Any
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
    names = {field.name for field in dataclasses.fields(Execution)}
    execution = Execution(**{name: options.pop(name) for name in names})
    chosen = pretrain_config(preset, file=config, **options)
    listener.quiet = not is_main_process()
    with listener:
        result = loop.pretrain(store, run, chosen, execution, listener=listener)
    listener.leave_unless(result.finished)
    if listener.quiet:
        return
    say(f"wrote {run} and {model_card.write_model_card(run, store)}")
    if has_metrics(run):
        say(f"wrote {report.draw_curve(run)}")
    click.echo(result.to_text())


@click.command()
@argument("name", required=False)
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
