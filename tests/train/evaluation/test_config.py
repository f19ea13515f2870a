import dataclasses

import pytest

from flowcpc.train.evaluation.config import SCHEDULES, EvaluationConfig, schedule_of


def test_the_defaults_are_the_paper_s() -> None:
    paper = SCHEDULES["paper"]
    assert paper == EvaluationConfig()
    assert (paper.linear_steps, paper.linear_learning_rates) == (
        20_000,
        ((0, 0.005), (10_000, 0.001)),
    )
    assert (paper.finetune_steps, paper.finetune_learning_rates) == (
        30_000,
        ((0, 0.01), (15_000, 0.005)),
    )
    assert (paper.segments, paper.batch_size, paper.dropout) == (8, 16, 0.8)
    assert (paper.momentum, paper.weight_decay) == (0.9, 1e-4)
    assert [schedule_of(name) for name in ("table1-flow", "tiny")] == ["paper", "cpu"]
    assert SCHEDULES["cpu"].schedule == "cpu"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"dropout": float("nan")}, "dropout must be at least 0 and below 1, got nan"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 20000}, "batch_size must be at most 10000, got 20000"),
        ({"linear_steps": 10**10}, "linear_steps must be at most 1000000000, got 10000000000"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, got -1.0"),
        ({"linear_learning_rates": ((5, 1.0),)}, "steps of linear_learning_rates must begin at 0"),
        ({"linear_learning_rates": ((0, 0.0),)}, "rates of linear_learning_rates must be above 0"),
        ({"weight_decay": float("inf")}, "weight_decay must be at most .*, got inf"),
        ({"strengths": (0.0,)}, "strengths must be numbers above 0"),
    ],
)
def test_wrong_values_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SCHEDULES["cpu"], **changes)
