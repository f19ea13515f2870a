"""A part of the work reports to the listener of the whole."""

from recorder import Recorder

from flowcpc.stores.base.listener import PartOfListener


def test_a_part_forwards_everything_and_scales_progress() -> None:
    whole = Recorder(stop=lambda: True)
    part = PartOfListener(whole, 10, 20, 40, {"row": "a"})
    part.begin("embed")
    part.progress(1, 2, {"loss": 0.5})
    part.progress(0, 0, {})
    part.announce("hello")
    part.show_lines(["x"])
    assert whole.calls == [(15, 40, {"row": "a", "loss": 0.5}), (10, 40, {"row": "a"})]
    assert (whole.stages, whole.said, whole.lines) == (["embed"], ["hello"], [["x"]])
    assert part.should_stop()
