"""`python -m flowcpc COMMAND` runs a command."""

from flowcpc.commands.main import run

if __name__ == "__main__":
    run()
