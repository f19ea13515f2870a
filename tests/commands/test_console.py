import io
import os
import signal
import subprocess
import sys
import time

import click
import pytest
import rich.console
from click.testing import CliRunner

from flowcpc.commands import console
from flowcpc.stores.base.errors import DamagedStoreError, UnknownVideoError
from flowcpc.stores.records.run_files import WorkerState


def run(error: BaseException) -> tuple[int, str, str]:
    @click.group(cls=console.CommandGroup)
    def group() -> None: ...

    @group.command()
    def fail() -> None:
        raise error

    result = CliRunner().invoke(group, ["fail"], standalone_mode=True)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("size 3 is too small"), console.USAGE),
        (FileNotFoundError("no such store"), console.USAGE),
        (UnknownVideoError("v_X is not in the store"), console.USAGE),
        (DamagedStoreError("chunk 3 is damaged"), console.FAILED),
        (PermissionError(13, "Permission denied", "/x"), console.FAILED),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr(error: BaseException, code: int) -> None:
    found, out, err = run(error)
    text = (
        error.args[0]
        if len(error.args) == 1
        else "/x cannot be used: permission denied; mend that or give another path"
    )
    assert (found, out, err) == (code, "", f"Error: {text}\n")


def test_errors_of_files_name_the_file_that_was_meant() -> None:
    moved = IsADirectoryError(21, "Is a directory", "/out/.1a.tmp", None, "/out")
    assert (
        run(moved)[2]
        == "Error: /out cannot be used: is a directory; mend that or give another path\n"
    )
    assert (
        run(OSError(28, "No space left on device"))[2]
        == "Error: no space left on device; mend that and run again\n"
    )


@pytest.mark.parametrize("bug", [RuntimeError("bug"), KeyError("bug")])
def test_a_bug_shows_itself(bug: Exception) -> None:
    result = run(bug)
    assert result[0] == 1
    assert "Error: bug" not in result[2]


def test_tracebacks_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWCPC_TRACEBACK", "1")
    assert "Error:" not in run(ValueError("x"))[2]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, console.INTERRUPTED),
        (signal.SIGTERM, console.PREEMPTED),
        (signal.SIGUSR1, console.PREEMPTED),
    ],
)
def test_signals_ask_for_a_stop(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with console.stop_on_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 5
        while not stop() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stop.exit_code == code
        with pytest.raises(SystemExit) as left:
            stop.leave("flowcpc extract-flow a b")
        assert left.value.code == code
    assert signal.getsignal(number) is before


def test_a_second_interrupt_does_not_wait() -> None:
    with console.stop_on_signals() as stop:
        stop.handle(signal.SIGINT, None)
        with pytest.raises(KeyboardInterrupt):
            stop.handle(signal.SIGINT, None)


def test_off_a_terminal_a_bar_is_plain_lines_on_stderr() -> None:
    code = (
        "import console\n"
        "console._PLAIN_INTERVAL_S = 0.0\n"
        "with console.Bar('extract') as bar:\n"
        "    bar(1, 4, {'pairs/s': 12.5})\n"
        "    bar(4, 4, {'pairs/s': 50.0, 'videos': '4/4'})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    first, last = done.stderr.splitlines()
    assert first.startswith("extract: 25%, 0 s, ETA ")
    assert first.endswith("pairs/s 12.5")
    assert last.startswith("extract: 100%")
    assert last.endswith("pairs/s 50, videos 4/4")
    code = "import console\nwith console.Bar('extract') as bar:\n    bar(4, 4, {'videos': '4/4'})\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ETA 0 s, videos 4/4" in done.stderr  # all was done before: nothing is left to guess


def test_an_interrupt_that_nobody_took_is_a_sentence_and_130() -> None:
    @click.group(cls=console.CommandGroup)
    def group() -> None:
        """Commands."""

    @group.command()
    def wait() -> None:
        """Wait."""
        raise KeyboardInterrupt

    result = CliRunner().invoke(group, ["wait"])
    assert result.exit_code == console.INTERRUPTED
    assert "interrupted" in result.stderr


def test_on_a_terminal_each_of_a_few_workers_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        console,
        "Console",
        lambda stderr: rich.console.Console(file=io.StringIO(), force_terminal=True, width=80),
    )
    now = time.time()
    workers = [WorkerState("n1", 8, ("p", "q"), now - 12, 3.0), WorkerState("n2", 9, (), now, 0.5)]
    with console.Bar("extract") as bar:
        bar(1, 4, {"pairs/s": 1.0})
        bar.show_workers(workers)
        bar._live.refresh()
        shown = bar._console.file.getvalue()
        assert "n1 8: p and 1 more, 12 s, 3 pairs/s" in shown
        assert "n2 9: idle, 0.5 pairs/s" in shown
        bar.show_workers(workers * 5)
        assert bar._live.lines == (), "the count on the bar is enough"
