"""The command that writes the synthetic data set."""

from pathlib import Path

import click

from flowcpc.commands import console
from flowcpc.commands.console import CommandListener, parse_size, say
from flowcpc.stores.base.plurals import counted


@click.command()
@click.argument("out", type=console.OUT_FOLDER)
@click.option(
    "--groups",
    type=int,
    default=25,
    show_default=True,
    help="Groups of clips that share their looks.",
)
@click.option(
    "--clips-per-group",
    type=int,
    default=4,
    show_default=True,
    help="Clips of each class in each group.",
)
@click.option("--frames", type=int, default=81, show_default=True, help="Frames of each clip.")
@click.option(
    "--size",
    metavar="HxW",
    callback=parse_size,
    default="96x128",
    show_default=True,
    help="Size of the clips.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides every pixel.")
def synth(
    out: Path, groups: int, clips_per_group: int, frames: int, size: tuple[int, int], seed: int
) -> None:
    """Write a synthetic data set into OUT whose classes are motion alone, laid out and listed as UCF-101 is."""
    from flowcpc.pipeline.synthetic.dataset import write_dataset

    with CommandListener("synth") as listener:
        summary = write_dataset(
            out,
            groups=groups,
            clips_per_group=clips_per_group,
            frames=frames,
            size=size,
            seed=seed,
            listener=listener,
        )
    if not summary.finished:
        listener.leave()
    say(
        f"{out}: {counted(summary.videos, 'clip')} of {len(summary.classes)} classes ({summary.written} written now)"
    )
    say(
        f"next: flowcpc extract-flow {out}/videos STORE --dataset ucf101 --annotations {out}/annotations --size 48x64"
    )


COMMANDS = (synth,)
