"""Listener: what long work reports to its caller, and how the caller asks it to stop."""

from collections.abc import Mapping, Sequence

Fields = Mapping[str, float | str]


class Listener:
    """Receives the progress and messages of long work. This one is silent and never stops."""

    def progress(self, done: int, total: int, fields: Fields) -> None:
        """Receive how many of `total` steps are done; `fields` are shown as they are."""

    def begin(self, stage: str) -> None:
        """Receive the name of a stage that begins; progress is counted from 0 again."""

    def announce(self, message: str) -> None:
        """Receive a message for the user."""

    def show_lines(self, lines: Sequence[str]) -> None:
        """Receive lines to show under the progress bar; they replace earlier ones."""

    def should_stop(self) -> bool:
        """Return whether the work should save what it has and return early."""
        return False


SILENT = Listener()


class PartOfListener(Listener):
    """Reports the progress of one part of the work as progress of the whole.

    The part goes from step `start` to `stop` of `total`; `fields` are shown with its own. Messages
    and requests to stop are forwarded.
    """

    def __init__(
        self, whole: Listener, start: int, stop: int, total: int, fields: Fields | None = None
    ) -> None:
        self._whole = whole
        self._start, self._stop, self._total = start, stop, total
        self._fields = fields or {}

    def progress(self, done: int, total: int, fields: Fields) -> None:
        done = self._start + (self._stop - self._start) * done // max(total, 1)
        self._whole.progress(done, self._total, {**self._fields, **fields})

    def begin(self, stage: str) -> None:
        """Forward the name of a stage."""
        self._whole.begin(stage)

    def announce(self, message: str) -> None:
        self._whole.announce(message)

    def show_lines(self, lines: Sequence[str]) -> None:
        self._whole.show_lines(lines)

    def should_stop(self) -> bool:
        return self._whole.should_stop()
