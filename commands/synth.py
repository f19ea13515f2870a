"""The command that writes the synthetic data set."""

from pathlib import Path
from typing import Any

import click

from flowcpc.commands import console
from flowcpc.commands.console import CommandListener, parse_size, say
from flowcpc.stores.base.plurals import counted

_SIZE_HELP = "Height x width of the clips, in px."


@click.command()
@click.argument("out", type=console.OUT_FOLDER)
@click.option("--groups", default=25, help="Groups of clips that look alike.")
@click.option("--clips-per-group", default=4, help="Clips per class and group.")
@click.option("--frames", default=81, help="Frames per clip.")
@click.option("--size", metavar="HxW", callback=parse_size, default="96x128", help=_SIZE_HELP)
@click.option("--seed", default=0, help="Decides every pixel.")
def synth(out: Path, **parameters: Any) -> None:
    """Write synthetic videos whose class is their motion.

    Classes differ in nothing else. OUT has the layout and the lists of UCF-101. Run the same
    command again to resume.
    """
    from flowcpc.pipeline.synthetic.dataset import SyntheticParameters, write_dataset

    chosen = SyntheticParameters(**parameters)
    with CommandListener("synth") as listener:
        summary = write_dataset(out, chosen, listener=listener)
    listener.leave_unless(summary.finished)
    clips = counted(summary.videos, "clip")
    say(f"{out}: {clips} of {len(summary.classes)} classes ({summary.written} written now)")
    lists = f"--dataset ucf101 --annotations {out}/annotations"
    say(f"next: flowcpc extract-flow {out}/videos STORE {lists} --size 48x64")


COMMANDS = (synth,)
