"""`python cli.py COMMAND` runs flowcpc from a checkout."""

from flowcpc.commands.main import run

if __name__ == "__main__":
    run()
