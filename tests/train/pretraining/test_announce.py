import math

import pytest
from recorder import Recorder

from flowcpc.train.pretraining.announce import announce_guessing


def line(loss: float, classes: int = 121) -> dict[str, object]:
    return {
        "step": 1000,
        "loss": loss,
        "classes": classes,
        "information_bound": math.log(classes) - loss,
        "effective_rank": 1.25,
    }


@pytest.mark.parametrize(("loss", "said"), [(4.76, True), (5.2, True), (4.0, False), (0.1, False)])
def test_a_run_that_only_guesses_says_so_and_why(loss: float, said: bool) -> None:
    listener = Recorder()
    announce_guessing(listener, [line(0.5), line(loss)])
    assert len(listener.said) == said
    if said:
        assert (
            f"the loss, {loss:.3f}, is still that of guessing, 4.796, after 1,000 steps"
            in listener.said[0]
        )
        assert "effective rank of the latents: 1.2;" in listener.said[0]


def test_a_call_without_lines_says_nothing() -> None:
    listener = Recorder()
    announce_guessing(listener, [])
    assert listener.said == []
