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
        ({"dropout": 1.0}, "dropout=1.0 is not within 0..1"),
        ({"dropout": float("nan")}, "dropout=nan is not within 0..1"),
        ({"batch_size": 0}, "batch_size=0 is too small; take 1 or more"),
        (
            {"batch_size": 1000000},
            r"batch_size=1e\+06 is too large to be meant; take 10000 or less",
        ),
        ({"linear_steps": 10**10}, r"linear_steps=1e\+10 is too large to be meant"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0 is no weight"),
        ({"linear_learning_rates": ((5, 1.0),)}, r"steps of linear_learning_rates must begin at 0"),
        ({"linear_learning_rates": ((0, 0.0),)}, "rates of linear_learning_rates must be above 0"),
        ({"strengths": (0.0,)}, "has to hold numbers above 0"),
    ],
)
def test_wrong_values_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SCHEDULES["cpu"], **changes)
