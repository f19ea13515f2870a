import time

import pytest

from flowcpc.pipeline.decoding.limits import LimitError, Preempted, Watch


def test_without_limit_and_stop_nothing_is_raised() -> None:
    Watch(None, lambda: False).check()
    Watch(60.0, lambda: False).check()


def test_the_time_limit_names_itself_and_the_way_out() -> None:
    watch = Watch(0.001, lambda: False)
    time.sleep(0.002)
    with pytest.raises(
        LimitError, match=r"longer than the time limit of 0\.001 s; give more with --time-limit"
    ):
        watch.check()
    assert watch.seconds > 0.001


def test_a_stop_comes_before_a_limit() -> None:
    """A process that is shut down slowly must not blame the video."""
    watch = Watch(0.001, lambda: True)
    time.sleep(0.002)
    with pytest.raises(Preempted):
        watch.check()
