"""The command that writes the synthetic data set."""

from pathlib import Path

import click

from flowcpc.commands import console
from flowcpc.commands.console import CommandListener, parse_size, say
from flowcpc.stores.base.plurals import counted


@click.command()
@click.argument("out", type=console.OUT_FOLDER)
@click.option("--groups", default=25, show_default=True, help="Groups of clips that look alike.")
@click.option("--clips-per-group", default=4, show_default=True, help="Clips per class and group.")
@click.option("--frames", default=81, show_default=True, help="Frames per clip.")
@click.option(
    "--size",
    metavar="HxW",
    callback=parse_size,
    default="96x128",
    show_default=True,
    help="Height x width of the clips, in px.",
)
@click.option("--seed", default=0, show_default=True, help="Decides every pixel.")
def synth(
    out: Path, groups: int, clips_per_group: int, frames: int, size: tuple[int, int], seed: int
) -> None:
    """Write synthetic videos whose class is their motion.

    Classes differ in nothing else. OUT has the layout and the lists of UCF-101. Run the same
    command again to resume.
    """
    from flowcpc.pipeline.synthetic.dataset import SyntheticParameters, write_dataset

    parameters = SyntheticParameters(groups, clips_per_group, frames, size, seed=seed)
    with CommandListener("synth") as listener:
        summary = write_dataset(out, parameters, listener=listener)
    if not summary.finished:
        listener.leave()
    clips = counted(summary.videos, "clip")
    say(f"{out}: {clips} of {len(summary.classes)} classes ({summary.written} written now)")
    lists = f"--dataset ucf101 --annotations {out}/annotations"
    say(f"next: flowcpc extract-flow {out}/videos STORE {lists} --size 48x64")


COMMANDS = (synth,)
