"""What happens in a run as one JSON object per line, for programs."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from flowcpc.stores.base.errors import OperationError

# note(event, values): "start", "worker", "video", "stop" and what belongs to it.
Note = Callable[..., None]


def no_log(event: str, **values: Any) -> None:
    """A Note that goes nowhere."""


class EventLog:
    """Appends events to a file, each line whole and written at once; several runs may follow each other in one file.

    A context manager. Raises OperationError when the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115  (closed by __exit__)
        except OSError as error:
            raise self._error(error) from error

    def __enter__(self) -> "EventLog":
        return self

    def __call__(self, event: str, **values: Any) -> None:
        line = json.dumps(
            {"event": event, "time": round(time.time(), 3), **values}, ensure_ascii=False
        )
        try:
            self._file.write(line.encode() + b"\n")
        except OSError as error:
            raise self._error(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._file.close()

    def _error(self, error: OSError) -> OperationError:
        return OperationError(
            f"--log-json {self._path} cannot be written ({error.strerror or error}); give another file"
        )
