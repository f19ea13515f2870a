"""A part of the work reports to the listener of the whole."""

from collections.abc import Sequence

from flowcpc.stores.base.listener import Fields, Listener, PartOfListener


class _Recorder(Listener):
    def __init__(self) -> None:
        self.said: list[object] = []

    def progress(self, done: int, total: int, fields: Fields) -> None:
        self.said.append((done, total, dict(fields)))

    def begin(self, stage: str) -> None:
        self.said.append(stage)

    def announce(self, message: str) -> None:
        self.said.append(message)

    def show_lines(self, lines: Sequence[str]) -> None:
        self.said.append(lines)

    def should_stop(self) -> bool:
        return True


def test_a_part_forwards_everything_and_scales_progress() -> None:
    whole = _Recorder()
    part = PartOfListener(whole, 10, 20, 40, {"row": "a"})
    part.begin("embed")
    part.progress(1, 2, {"loss": 0.5})
    part.progress(0, 0, {})
    part.announce("hello")
    part.show_lines(["x"])
    reports = [(15, 40, {"row": "a", "loss": 0.5}), (10, 40, {"row": "a"})]
    assert whole.said == ["embed", *reports, "hello", ["x"]]
    assert part.should_stop()
