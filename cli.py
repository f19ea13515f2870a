"""The commands: parse, import lazily, call one function, print.

`flowcpc X`, `python cli.py X` and `python -m flowcpc X` are the same.
"""

import os
from pathlib import Path

import click

import cli_embed
import cli_evaluate
import cli_extract
import cli_report
import cli_stores
import cli_train
import console
from console import Bar, command_line, parse_size, say, stop_on_signals
from stores.words import counted


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
    say(f"{out}: {counted(summary.videos, 'clip')} of {len(summary.classes)} classes ({summary.written} written now)")
    say(f"next: flowcpc extract-flow {out}/videos STORE --dataset ucf101 --annotations {out}/annotations --size 48x64")


for _command in (
    *cli_extract.COMMANDS,
    *cli_train.COMMANDS,
    *cli_evaluate.COMMANDS,
    *cli_embed.COMMANDS,
    *cli_report.COMMANDS,
    *cli_stores.COMMANDS,
):
    main.add_command(_command)


def run() -> None:
    """Be the program `flowcpc`, to its last moment: what a command has said stands, and a signal changes it no more."""
    try:
        main()
    finally:
        console.ignore_stops()


if __name__ == "__main__":
    run()
