import io
import os
import signal
import time
from collections.abc import Iterator

import click
import pytest
import rich.console
from click.testing import CliRunner

from flowcpc.commands import console
from flowcpc.stores.base.errors import DamagedStoreError, UnknownVideoError


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
    assert (found, out) == (code, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert (error.args[0] if len(error.args) == 1 else "/x: permission denied") in err


def test_errors_of_files_name_the_file_that_was_meant() -> None:
    moved = IsADirectoryError(21, "Is a directory", "/out/.1a.tmp", None, "/out")
    assert "/out: is a directory" in run(moved)[2]
    assert run(OSError(28, "No space left on device"))[2].startswith("Error: no space left")


def test_a_missing_library_of_the_extra_train_is_one_sentence() -> None:
    code, out, err = run(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    assert (code, out) == (console.FAILED, "")
    assert "torch is not installed" in err
    assert "pip install 'flowcpc[train]'" in err
    bug = run(ModuleNotFoundError("No module named 'tarch'", name="tarch"))
    assert "flowcpc[train]" not in bug[2]


@pytest.mark.parametrize("bug", [RuntimeError("bug"), KeyError("bug")])
def test_a_bug_shows_itself(bug: Exception) -> None:
    result = run(bug)
    assert result[0] == 1
    assert "Error: bug" not in result[2]


def test_tracebacks_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWCPC_TRACEBACK", "1")
    assert "Error:" not in run(ValueError("x"))[2]


@pytest.fixture
def context() -> Iterator[click.Context]:
    with click.Context(click.Command("fail")) as context:
        yield context


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, console.INTERRUPTED),
        (signal.SIGTERM, console.PREEMPTED),
        (signal.SIGUSR1, console.PREEMPTED),
    ],
)
def test_signals_ask_for_a_stop(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with click.Context(click.Command("fail")):
        listener = console.CommandListener("title")
        assert not listener.should_stop()
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 5
        while not listener.should_stop() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(SystemExit) as exit_:
            listener.leave_unless(False)
    assert exit_.value.code == code
    assert "run the same command to resume: flowcpc" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_a_quiet_process_stops_without_a_word(
    context: click.Context, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = console.CommandListener("title")
    listener.quiet = True
    with listener:
        listener.progress(1, 1, {})
        listener.announce("hello")
    with pytest.raises(SystemExit) as exit_:
        listener.leave_unless(False)
    assert exit_.value.code == console.PREEMPTED
    assert capsys.readouterr().err == ""


def test_a_second_interrupt_does_not_wait(context: click.Context) -> None:
    listener = console.CommandListener("title")
    os.kill(os.getpid(), signal.SIGINT)
    assert listener.should_stop()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_off_a_terminal_progress_is_plain_lines_on_stderr(
    context: click.Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_PLAIN_INTERVAL_S", 0.0)
    with console.CommandListener("extract") as listener:
        listener.progress(1, 4, {"pairs/s": 12.5})
        listener.progress(4, 4, {"pairs/s": 50.0, "videos": "4/4"})
        listener.begin("embed")
        monkeypatch.setattr(console, "_PLAIN_INTERVAL_S", 60.0)
        listener.progress(1, 4, {})  # not printed: it is followed by another before long
        listener.progress(4, 4, {"videos": "4/4"})
    out, err = capsys.readouterr()
    assert out == ""
    first, second, last = err.splitlines()
    assert first.startswith("extract: 25%, 0 s, ETA ")
    assert first.endswith("pairs/s 12.5")
    assert second.startswith("extract: 100%")
    assert second.endswith("pairs/s 50, videos 4/4")
    assert last.startswith("embed: 100%")
    assert "ETA 0 s, videos 4/4" in last


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


def test_on_a_terminal_a_few_lines_are_shown_under_the_bar(
    context: click.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    terminal = rich.console.Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(console, "Console", lambda stderr: terminal)
    with console.CommandListener("extract") as listener:
        listener.progress(1, 4, {"pairs/s": 1.0})
        listener.show_lines(["n1: video p", "n2: idle"])
        listener._live.refresh()
        assert "n1: video p" in screen.getvalue()
        assert "n2: idle" in screen.getvalue()
        screen.truncate(0)
        listener.show_lines(["a line"] * 20)
        listener._live.refresh()
        assert "a line" not in screen.getvalue()
