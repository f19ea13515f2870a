"""The commands: parse, import lazily, call one function, print.

`flowcpc X`, `python cli.py X` and `python -m flowcpc X` are the same.
"""

import json
import os
from pathlib import Path

import click

import cli_evaluate
import cli_extract
import cli_report
import cli_stores
import console
from console import Bar, command_line, parse_size, say, stop_on_signals


@click.group(
    cls=console.CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="flowcpc")
def main() -> None:
    """Optical-flow feature stores for video, and contrastive predictive coding (CPC) trained from them."""
    # OpenMP reads this when torch loads it, later. Its threads otherwise spin while they wait, and where anything else
    # uses the cores (a loader thread, another job) a step of a small model then takes many times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@main.command()
@click.argument("out", type=console.OUT_FOLDER)
@click.option("--groups", type=int, default=25, show_default=True, help="Groups of clips that share their looks.")
@click.option("--clips-per-group", type=int, default=4, show_default=True, help="Clips of each class in each group.")
@click.option("--frames", type=int, default=81, show_default=True, help="Frames of each clip.")
@click.option(
    "--size", metavar="HxW", callback=parse_size, default="96x128", show_default=True, help="Size of the clips."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides every pixel.")
def synth(out: Path, groups: int, clips_per_group: int, frames: int, size: tuple[int, int], seed: int) -> None:
    """Write a synthetic data set into OUT whose classes are motion alone, laid out and listed as UCF-101 is."""
    from pipeline.synthetic import write_dataset

    with stop_on_signals() as stop, Bar("synth") as bar:
        summary = write_dataset(
            out,
            groups=groups,
            clips_per_group=clips_per_group,
            frames=frames,
            size=size,
            seed=seed,
            progress=bar,
            should_stop=stop,
        )
    if not summary.finished:
        stop.leave(command_line())
    say(f"{out}: {summary.videos} clips of {len(summary.classes)} classes ({summary.written} written now)")
    say(f"next: flowcpc extract-flow {out}/videos STORE --dataset ucf101 --annotations {out}/annotations --size 48x64")


@main.command()
@click.argument("store", type=console.PATH)
@click.argument("run", type=console.OUT_FOLDER)
@click.option("--preset", default="table1-flow", show_default=True, help="Named settings; `tiny` is for a CPU.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change one setting of the preset; may be repeated."
)
@click.option("--steps", type=click.IntRange(min=1), help="Iterations; a finished run goes on when they are more.")
def pretrain(store: Path, run: Path, preset: str, settings: tuple[str, ...], steps: int | None) -> None:
    """Pretrain CPC on the flow in STORE; checkpoints, metrics and configuration go to the folder RUN.

    The same command again goes on where the run stopped.
    """
    from train import loop, report
    from train.settings import resolve

    chosen = resolve(preset, settings=settings, steps=steps)
    with stop_on_signals() as stop, Bar("pretrain") as bar:
        result = loop.pretrain(store, run, chosen, progress=bar, announce=say, should_stop=stop)
    if not result.finished:
        stop.leave(command_line())
    say(f"wrote {run} and {report.draw_curve(run)}")
    click.echo(result.to_text())


@main.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def presets(name: str | None, as_json: bool) -> None:
    """List the paper's settings by NAME, beside what the paper reports; with NAME all of its settings, as --config reads them."""
    from train.presets import PRESETS, describe, find_preset, presets_table
    from train.settings import to_yaml

    if as_json:
        click.echo(json.dumps(describe(name) if name else [describe(one) for one in PRESETS], indent=2))
    else:
        click.echo(to_yaml(find_preset(name).config) if name else presets_table(), nl=not name)


@main.command()
@click.argument("store", type=console.PATH)
@click.argument("run", type=console.PATH)
def embed(store: Path, run: Path) -> None:
    """Embed every video of STORE with the encoder of RUN; rows go to STORE/embeddings as Parquet."""
    from train.embed import embed_store

    with stop_on_signals() as stop, Bar("embed") as bar:
        result = embed_store(store, run, progress=bar, announce=say, should_stop=stop)
    if not result.finished:
        stop.leave(command_line())
    say(f"{result.rows} embeddings are in {result.path}")


for _command in (*cli_evaluate.COMMANDS, *cli_extract.COMMANDS, *cli_report.COMMANDS, *cli_stores.COMMANDS):
    main.add_command(_command)

if __name__ == "__main__":
    main()
