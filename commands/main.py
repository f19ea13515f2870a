"""The group of commands: `flowcpc X`, `python cli.py X` and `python -m flowcpc X` run it."""

import os
import signal

import click

from flowcpc.commands import console, embed, evaluate, extract, stores, train
from flowcpc.stores.base.signals import STOPS

_SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(cls=console.CommandGroup, context_settings=_SETTINGS)
@click.version_option(package_name="flowcpc")
def main() -> None:
    """Optical-flow feature stores for video, and CPC trained from them."""
    # OpenMP reads this when torch loads it. Otherwise its threads spin while they wait, and a step
    # of a small model takes many times as long when anything else uses the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


for _module in (extract, train, evaluate, embed, stores):
    for _command in _module.COMMANDS:
        main.add_command(_command)


def run() -> None:
    """Run the program; ignore signals once the command is done, so that its exit code stays."""
    try:
        main()
    finally:
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)
