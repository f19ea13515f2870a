"""The group of commands and the program that runs it.

`flowcpc X`, `python cli.py X` and `python -m flowcpc X` are the same.
"""

import os

import click

from flowcpc.commands import console, embed, evaluate, extract, report, stores, synth, train


@click.group(
    cls=console.CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="flowcpc")
def main() -> None:
    """Optical-flow feature stores for video, and contrastive predictive coding (CPC) trained from them."""
    # OpenMP reads this when torch loads it, later. Its threads otherwise spin while they wait, and where anything else
    # uses the cores (a loader thread, another job) a step of a small model then takes many times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


for _command in (
    *synth.COMMANDS,
    *extract.COMMANDS,
    *train.COMMANDS,
    *evaluate.COMMANDS,
    *embed.COMMANDS,
    *report.COMMANDS,
    *stores.COMMANDS,
):
    main.add_command(_command)


def run() -> None:
    """Be the program `flowcpc`, to its last moment: what a command has said stands, and a signal changes it no more."""
    try:
        main()
    finally:
        console.ignore_stops()
