"""A listener that records what it hears and stops when a test says so."""

from collections.abc import Callable, Sequence

from flowcpc.stores.base.listener import Fields, Listener


class Recorder(Listener):
    """Records progress in `calls`, messages in `said`, lines in `lines` and stages in `stages`.

    `stop` answers `should_stop`; `on_progress` is called as `progress` is.
    """

    def __init__(
        self,
        stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[int, int, Fields], object] = lambda done, total, fields: None,
    ) -> None:
        self.calls: list[tuple[int, int, Fields]] = []
        self.said: list[str] = []
        self.lines: list[Sequence[str]] = []
        self.stages: list[str] = []
        self._stop = stop
        self._on_progress = on_progress

    def progress(self, done: int, total: int, fields: Fields) -> None:
        self.calls.append((done, total, dict(fields)))
        self._on_progress(done, total, fields)

    def begin(self, stage: str) -> None:
        self.stages.append(stage)

    def announce(self, message: str) -> None:
        self.said.append(message)

    def show_lines(self, lines: Sequence[str]) -> None:
        self.lines.append(lines)

    def should_stop(self) -> bool:
        return self._stop()
