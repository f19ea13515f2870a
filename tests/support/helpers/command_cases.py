"""Run a command in this process and look at its answer."""

from click.testing import CliRunner, Result

from flowcpc.commands import console, main

SMALL = ["--size", "24x32", "--workers", "0"]


def flowcpc(*words: object) -> Result:
    return CliRunner().invoke(main.main, [str(word) for word in words])


def refused(result: Result, *words: str, code: int = console.USAGE) -> None:
    """The command ended with `code` and one clear sentence on stderr.

    It printed no traceback, and nothing on stdout.
    """
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    sentence = result.stderr.strip().splitlines()[-1]
    assert sentence.startswith("Error: ")
    for word in words:
        assert word in sentence
