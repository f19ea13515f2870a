"""What the commands share: streams, progress bars, error messages, signals and exit codes.

Data go to stdout; messages and bars go to stderr. Exit codes: 0 done, 1 failed, 2 usage error,
3 done in part, 75 preempted and worth requeueing, 130 stopped by Ctrl-C.
"""

import functools
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click
import rich.progress as bars
from rich.console import Console, RenderableType
from rich.text import Text

from flowcpc.extras import missing_extra
from flowcpc.stores.base.errors import OperationError, UnknownVideoError
from flowcpc.stores.base.listener import Fields, Listener
from flowcpc.stores.base.signals import STOPS
from flowcpc.stores.layout import find_store_above

if TYPE_CHECKING:
    import pandas as pd

FAILED, USAGE, DONE_IN_PART, PREEMPTED, INTERRUPTED = 1, 2, 3, 75, 130
_MOST_LINES = 8  # under a live bar
_PLAIN_INTERVAL_S = 10.0  # between two lines of progress when stderr is no terminal


class CommandGroup(click.Group):
    """A click group that prints a user's mistake as one sentence and exits, without a traceback.

    FLOWCPC_TRACEBACK=1 shows the traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; print errors that are meant for users as sentences."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly when the reader of a pipe is gone
        except (ValueError, FileNotFoundError, FileExistsError, UnknownVideoError) as error:
            self._fail(error, USAGE)
        except KeyboardInterrupt:
            say("interrupted; run the same command again to resume")
            sys.exit(INTERRUPTED)
        except (ModuleNotFoundError, OperationError, OSError) as error:
            self._fail(error, FAILED)

    def _fail(self, error: BaseException, code: int) -> None:
        text = missing_extra(error) if isinstance(error, ModuleNotFoundError) else str(error)
        if text is None or os.environ.get("FLOWCPC_TRACEBACK") == "1":
            raise error
        if isinstance(error, UnknownVideoError):  # a KeyError prints its message in quotes
            text = error.args[0]
        elif isinstance(error, OSError) and error.strerror:
            # Of two names, the second is the file that the first should replace.
            path, reason = error.filename2 or error.filename, error.strerror.lower()
            text = f"{reason}; fix this and run the command again"
            if path:
                text = f"cannot use {path}: {reason}; fix this or give another path"
        say(f"Error: {text}")
        sys.exit(code)


class PathType(click.ParamType[Path]):
    """A path on the command line; it must not be empty.

    One that is written to has the `kind` "file" or "folder": it must not be of the other kind, nor
    lie inside a store, where it could replace store.json.
    """

    name = "path"

    def __init__(self, kind: str = "") -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path, or fail with a usage error."""
        path = Path(value)
        problem = ""
        if not str(value):
            problem = "the path is empty; give the path of a file or folder"
        elif self._kind and (store := find_store_above(path)) is not None:
            problem = f"{path} lies in the store {store}; give a path outside of it"
        elif self._kind == "file" and path.is_dir():
            problem = f"{path} is a folder; give the name of a file, such as {path / 'NAME'}"
        elif self._kind == "folder" and path.exists() and not path.is_dir():
            problem = f"{path} is a file; give the path of a folder, which may be new"
        if problem:
            self.fail(problem, param, ctx)
        return path


PATH, OUT_FILE, OUT_FOLDER = PathType(), PathType("file"), PathType("folder")
COUNT, POSITIVE = click.IntRange(min=0), click.IntRange(min=1)
Size = tuple[int, int]
Command = TypeVar("Command", bound=Callable[..., object])

flag = functools.partial(click.option, is_flag=True)
json_option = flag("--json", "as_json", help="Print JSON for programs.")
_READERS_HELP = "Processes that read batches; 0: a thread of this process."
read_workers_option = click.option("--workers", type=COUNT, default=0, help=_READERS_HELP)


def settings_option(text: str, *names: str) -> Callable[[Command], Command]:
    """Return an option, --set unless named, whose values `commands.settings` parses."""
    names = names or ("--set", "settings")
    return click.option(*names, multiple=True, metavar="KEY=VALUE", help=text)


def parse_size(ctx: click.Context, param: click.Parameter, value: str | None) -> Size | None:
    """Return (height, width) in px of an option HxW, or None if it is not given."""
    if value is None:
        return None
    parts = value.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is not HxW, for example 256x342", ctx, param)
    return int(parts[0]), int(parts[1])


def parse_bytes(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """Return the bytes of a size such as 500M or 4G (powers of 1024)."""
    number, unit = value[:-1], value[-1:].upper()
    if unit not in ("M", "G") or not number.isdecimal():
        raise click.BadParameter(f"{value!r} is not a size such as 500M or 4G", ctx, param)
    return int(number) << (20 if unit == "M" else 30)


def numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Return the whole numbers of a comma-separated option such as 0,1,2."""
    parts = words(ctx, param, value)
    if not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 0,1,2", ctx, param)
    return tuple(map(int, parts))


def words(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated option."""
    return tuple(part.strip() for part in value.split(","))


def as_json_text(table: "pd.DataFrame") -> str:
    """Return the rows of `table` as a JSON list."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return json.dumps(rows, indent=2, default=str)


def say(*messages: str) -> None:
    """Print each message on a line of stderr."""
    for message in messages:
        click.echo(message, err=True)


def list_videos(reasons: Iterable[tuple[object, str]], *, err: bool = False) -> None:
    """Print a line for each (video, reason), separated by a tab, on stdout or stderr."""
    for video, reason in reasons:
        click.echo(f"{video}\t{reason}", err=err)


def command_line() -> str:
    """Return the running command as the user can type it again."""
    return shlex.join(["flowcpc", *sys.argv[1:]])


class CommandListener(Listener):
    """Draws a progress bar, prints messages on stderr, and stops the work on a signal.

    A context manager: the bar is drawn inside of it. On a terminal it is live; elsewhere a line is
    printed every few seconds. Ctrl-C, SIGTERM and SIGUSR1 are handled from its creation to the end
    of the command, so create it before modules are loaded, which takes seconds.

    If `quiet` is set, it draws and prints nothing: another process of the same run does.
    """

    def __init__(self, title: str) -> None:
        self.quiet = False
        self._exit_code = 0
        self._console = Console(stderr=True)
        self._live: _LiveBar | None = None
        self._shown = False
        self.begin(title)
        for number in STOPS:
            earlier = signal.signal(number, self._on_signal)
            restore = functools.partial(signal.signal, number, earlier)
            click.get_current_context().call_on_close(restore)

    def __enter__(self) -> "CommandListener":
        self._shown = not self.quiet
        if self._shown and self._console.is_terminal:
            columns = (bars.TextColumn("{task.description}"), bars.BarColumn())
            share, elapsed = bars.TaskProgressColumn(), bars.TimeElapsedColumn()
            eta = (bars.TextColumn("ETA"), bars.TimeRemainingColumn())
            values = bars.TextColumn("{task.fields[values]}")
            self._live = _LiveBar(*columns, share, elapsed, *eta, values, console=self._console)
            self._live.start()
            self._live.add_task(self._title, total=None, values="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.lines = ()
            self._live.stop()
            self._live = None
        elif self._unprinted:
            self._print_line()
        self._shown = False

    def begin(self, stage: str) -> None:
        """Replace the bar by one for the next stage of the work."""
        shown = self._shown
        if shown:
            self.__exit__()
        self._title = stage
        self._began = self._printed_at = time.monotonic()
        self._unprinted: tuple[int, int, Fields] | None = None
        self._done_before: int | None = None  # by an earlier run, so it does not count for the ETA
        if shown:
            self.__enter__()

    def progress(self, done: int, total: int, fields: Fields) -> None:
        """Update the bar."""
        if self._done_before is None:
            self._done_before = done
        if self._live is not None:
            task = self._live.task_ids[0]
            self._live.update(task, completed=done, total=total, values=_join(fields))
        elif self._shown:
            self._unprinted = (done, total, fields)
            if time.monotonic() - self._printed_at >= _PLAIN_INTERVAL_S:
                self._print_line()

    def announce(self, message: str) -> None:
        """Print a message on stderr."""
        if not self.quiet:
            say(message)

    def show_lines(self, lines: Sequence[str]) -> None:
        """Show lines under a live bar, if they are few."""
        if self._live is not None:
            self._live.lines = lines if len(lines) <= _MOST_LINES else ()

    def should_stop(self) -> bool:
        """Return whether a signal asked for a stop."""
        return self._exit_code != 0

    def leave_unless(self, finished: bool) -> None:
        """Unless the work has `finished`, print how to resume it, and exit with the signal's code.

        Without a signal, another process of the run got one, and the code is PREEMPTED.
        """
        if finished:
            return
        self.announce(f"stopped early; run the same command to resume: {command_line()}")
        sys.exit(self._exit_code or PREEMPTED)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; a second Ctrl-C does not wait for the work to stop."""
        if number == signal.SIGINT and self._exit_code:
            raise KeyboardInterrupt
        self._exit_code = INTERRUPTED if number == signal.SIGINT else PREEMPTED
        # A handler may interrupt a write to stderr, and Python's buffers must not be re-entered.
        os.write(2, b"stopping: saving what is done ...\n")

    def _print_line(self) -> None:
        assert self._unprinted is not None
        done, total, fields = self._unprinted
        self._unprinted, self._printed_at = None, time.monotonic()
        elapsed, new = self._printed_at - self._began, done - (self._done_before or 0)
        eta = "?"
        if done >= total or new > 0:
            eta = f"{elapsed * max(total - done, 0) / max(new, 1):.0f} s"
        share = done / total if total else 1.0
        say(f"{self._title}: {share:.0%}, {elapsed:.0f} s, ETA {eta}, {_join(fields)}")


class _LiveBar(bars.Progress):
    """A live bar with lines of text under it."""

    lines: Sequence[str] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar and its lines."""
        yield from super().get_renderables()
        yield from (Text(line, no_wrap=True, overflow="ellipsis") for line in self.lines)


def _join(fields: Fields) -> str:
    texts = {name: f"{x:.4g}" if isinstance(x, float) else x for name, x in fields.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items())
