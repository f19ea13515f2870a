"""What the commands share at a terminal: streams, bars, errors in words, signals and exit codes.

Data go to stdout; messages and bars to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 done in part, 75 preempted and
worth requeueing, 130 stopped by Ctrl-C.
"""

import contextlib
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from flowcpc.stores.base.errors import OperationError, UnknownVideoError
from flowcpc.stores.base.listener import Fields, Listener
from flowcpc.stores.base.signals import STOPS
from flowcpc.stores.layout import find_store_above
from flowcpc.stores.records.run_files import WorkerState

if TYPE_CHECKING:
    import pandas as pd

FAILED = 1
USAGE = 2
DONE_IN_PART = 3
PREEMPTED = 75
INTERRUPTED = 130

_MOST_WORKERS = 8  # that have a line each under a bar
_PLAIN_INTERVAL_S = 10.0  # off a terminal, a line this often at most


class CommandGroup(click.Group):
    """A click group in which a user's mistake is one sentence and an exit code, never a traceback (FLOWCPC_TRACEBACK=1
    shows one).
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn errors that are meant for users into sentences."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly when the reader of a pipe has gone
        except (ValueError, FileNotFoundError, FileExistsError, UnknownVideoError) as error:
            self._fail(error, USAGE)
        except KeyboardInterrupt:
            say("interrupted; the same command goes on")
            sys.exit(INTERRUPTED)
        except (OperationError, OSError) as error:
            self._fail(error, FAILED)

    def _fail(self, error: BaseException, code: int) -> None:
        if os.environ.get("FLOWCPC_TRACEBACK") == "1":
            raise error
        text = error.args[0] if isinstance(error, UnknownVideoError) else error
        if isinstance(error, OSError) and error.strerror:
            path = (
                error.filename2 or error.filename
            )  # a file that was to take the place of another is called the second
            reason = error.strerror.lower()
            text = (
                f"{path} cannot be used: {reason}; mend that or give another path"
                if path
                else f"{reason}; mend that and run again"
            )
        say(f"Error: {text}")
        sys.exit(code)


class PathType(click.ParamType[Path]):
    """A path on the command line, which is not empty.

    Parameters
    ----------
    output : bool
        It is written to, so it may not be within a store: that could be its store.json.
    file, folder : bool
        It may not be a folder, or a file.
    """

    name = "path"

    def __init__(self, *, output: bool = False, file: bool = False, folder: bool = False) -> None:
        self._output = output
        self._file = file
        self._folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; a mistake is a usage error in a sentence."""
        path = Path(value)
        if not str(value):
            self.fail("an empty path names nothing; give the path of a file or folder", param, ctx)
        if self._output and (store := find_store_above(path)) is not None:
            self.fail(
                f"{path} lies in the store {store}, which holds its own files only; give a path outside of it",
                param,
                ctx,
            )
        if self._file and path.is_dir():
            self.fail(
                f"{path} is a folder; give the name of the file to write, as {path / 'NAME'}",
                param,
                ctx,
            )
        if self._folder and path.exists() and not path.is_dir():
            self.fail(f"{path} is a file; give the path of a folder, which may be new", param, ctx)
        return path


PATH = PathType()
OUT_FILE = PathType(output=True, file=True)
OUT_FOLDER = PathType(output=True, folder=True)


def command_line() -> str:
    """Return the command that is running, as it can be typed again."""
    return shlex.join(["flowcpc", *sys.argv[1:]])


def parse_size(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """Return (height, width) of HxW in px; None where the option is not given and has no default."""
    if value is None:
        return None
    parts = value.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(
            f"{value!r} is not HxW; write height x width in px, for example 256x342", ctx, param
        )
    return int(parts[0]), int(parts[1])


def parse_bytes(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """Return bytes of a size such as 500M or 4G (powers of 1024)."""
    number, unit = value[:-1], value[-1:].upper()
    if unit not in ("M", "G") or not number.isdecimal():
        raise click.BadParameter(
            f"{value!r} is no size; write whole megabytes or gigabytes, for example 500M or 4G",
            ctx,
            param,
        )
    return int(number) << (20 if unit == "M" else 30)


def as_json_text(table: "pd.DataFrame") -> str:
    """Return the rows of `table` as JSON for programs."""
    return json.dumps(
        table.astype(object).where(table.notna(), None).to_dict("records"), indent=2, default=str
    )


def say(message: str) -> None:
    """Print a message for people, on stderr."""
    click.echo(message, err=True)


class Stop:
    """Becomes true when a signal asks the process to stop; `exit_code` is the one that the signal deserves."""

    def __init__(self) -> None:
        self.exit_code = 0

    def __call__(self) -> bool:
        return self.exit_code != 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; a second Ctrl-C ends the command, once what is in hand in this process was dropped."""
        if number == signal.SIGINT and self.exit_code:
            raise KeyboardInterrupt
        self.exit_code = INTERRUPTED if number == signal.SIGINT else PREEMPTED
        # A handler may interrupt a write to stderr, which must not be entered again through Python's buffers.
        os.write(2, b"stopping: saving what is done ...\n")

    def leave(self, command: str, *, quiet: bool = False) -> None:
        """Say how to go on, and exit; without a signal of its own, as one that was preempted with another process."""
        if not quiet:
            say(f"stopped before the end; go on with the same command: {command}")
        sys.exit(self.exit_code or PREEMPTED)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Yield a Stop that Ctrl-C, SIGTERM and SIGUSR1 set, instead of ending the process in the middle of something."""
    stop = Stop()
    earlier = {number: signal.signal(number, stop.handle) for number in STOPS}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def hear_stops() -> Stop:
    """Return what hears the signals that ask the present command to stop, from now to its end.

    To be called before modules are loaded, which takes seconds: a stop is answered in our own words whenever it comes.
    """
    stop: Stop = click.get_current_context().with_resource(stop_on_signals())
    return stop


def ignore_stops() -> None:
    """Let signals ask for nothing any more, in the moments in which Python ends."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


class _WithLines(Progress):
    """A live bar with lines of text under it."""

    lines: tuple[str, ...] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield what is shown."""
        yield from super().get_renderables()
        yield from (Text(line, no_wrap=True, overflow="ellipsis") for line in self.lines)


class Bar:
    """A progress display: `bar(done, total, fields)`. On a terminal a live bar, elsewhere a line now and then."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._console = Console(stderr=True)
        self._live: _WithLines | None = None
        self._task: Any = None
        self._began = self._printed = time.monotonic()
        self._last: tuple[int, int, Mapping[str, float | str]] | None = None
        self._unprinted = False
        self._first: int | None = (
            None  # what an earlier run had done says nothing about this one's speed
        )

    def __enter__(self) -> "Bar":
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
            )
            self._live = _WithLines(
                *columns,
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
                console=self._console,
            )
            self._live.start()
            self._task = self._live.add_task(self._title, total=None, values="")
        return self

    def __call__(self, done: int, total: int, fields: Mapping[str, float | str]) -> None:
        self._last, self._unprinted = (done, total, fields), True
        if self._first is None:
            self._first = done
        if self._live is not None:
            self._live.update(self._task, completed=done, total=total, values=_join(fields))
        elif time.monotonic() - self._printed >= _PLAIN_INTERVAL_S:
            self._print_line()

    def show_workers(self, workers: Sequence[WorkerState]) -> None:
        """Show a line for each worker under a live bar, where they are few."""
        if self._live is not None:
            self._live.lines = (
                tuple(map(_worker_line, workers)) if len(workers) <= _MOST_WORKERS else ()
            )

    def show_lines(self, lines: Sequence[str]) -> None:
        """Show lines under a live bar."""
        if self._live is not None:
            self._live.lines = tuple(lines)

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.lines = ()
            self._live.stop()
        elif self._unprinted:
            self._print_line()

    def _print_line(self) -> None:
        assert self._last is not None
        done, total, fields = self._last
        self._printed, self._unprinted = time.monotonic(), False
        elapsed = self._printed - self._began
        share = done / total if total else 1.0
        new = done - (self._first or 0)
        eta = (
            "0 s"
            if done >= total
            else f"{elapsed * (total - done) / new:.0f} s"
            if new > 0
            else "?"
        )
        say(f"{self._title}: {share:.0%}, {elapsed:.0f} s, ETA {eta}, {_join(fields)}")


class CommandListener(Listener):
    """Draws a progress bar, prints messages on stderr, and stops the work on a signal.

    A context manager: the bar is drawn inside of it. Signals are handled from its creation to the
    end of the command, so create it before modules are loaded, which takes seconds.
    """

    def __init__(self, title: str) -> None:
        self._stop = hear_stops()
        self._bar = Bar(title)

    def __enter__(self) -> "CommandListener":
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()

    def progress(self, done: int, total: int, fields: Fields) -> None:
        """Update the bar."""
        self._bar(done, total, fields)

    def announce(self, message: str) -> None:
        """Print a message on stderr."""
        say(message)

    def show_lines(self, lines: Sequence[str]) -> None:
        """Show lines under a live bar."""
        self._bar.show_lines(lines)

    def should_stop(self) -> bool:
        """Return whether a signal asked for a stop."""
        return self._stop()

    def leave(self) -> None:
        """Print how to resume the command that is running, and exit with the signal's code."""
        self._stop.leave(command_line())


def _worker_line(worker: WorkerState) -> str:
    more = f" and {len(worker.videos) - 1} more" if len(worker.videos) > 1 else ""
    does = (
        f"{worker.videos[0]}{more}, {max(0.0, time.time() - worker.since):.0f} s"
        if worker.videos
        else "idle"
    )
    return f"  {worker.host} {worker.pid}: {does}, {worker.pairs_per_second:.3g} pairs/s"


def _join(fields: Mapping[str, float | str]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in fields.items()
    )


def numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Return the numbers of an option that is a list, such as 0,1,2; a callback of click."""
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise click.BadParameter(
            f"{value!r} is no list of numbers; write for example 0,1,2", ctx, param
        )
    return tuple(map(int, parts))
