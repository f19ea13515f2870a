import pytest

from flowcpc.train.evaluation.config import (
    EvaluationConfig,
    evaluation_config,
    is_evaluation_setting,
    schedule_of,
)


def test_the_defaults_are_the_paper_s() -> None:
    paper = evaluation_config("paper")
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
    assert evaluation_config("cpu").schedule == "cpu"


def test_settings_are_read_as_what_they_are() -> None:
    found = evaluation_config(
        "cpu", ["dropout = 0", "linear_learning_rates=0:1,7:0.5", "strengths=1,10", "neighbours=9"]
    )
    assert (found.dropout, found.neighbours) == (0.0, 9)
    assert found.linear_learning_rates == ((0, 1.0), (7, 0.5))
    assert found.strengths == (1.0, 10.0)
    assert is_evaluation_setting("dropout=1")
    assert not is_evaluation_setting("width=1")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("dropout", "'dropout' is not key=value; write for example dropout=0.5"),
        ("dropuot=0", "no setting 'dropuot' of an evaluation; did you mean 'dropout'"),
        ("schedule=cpu", "no setting 'schedule' of an evaluation"),
        ("dropout=1", "dropout=1.0 is not within 0..1"),
        ("dropout=nan", "dropout=nan is not within 0..1"),
        ("batch_size=0", "batch_size=0 is too small; take 1 or more"),
        ("batch_size=1000000", r"batch_size=1e\+06 is too large to be meant; take 10000 or less"),
        ("linear_steps=10000000000", r"linear_steps=1e\+10 is too large to be meant"),
        ("batch_size=2.5", "batch_size=2.5 cannot be read; write batch_size as a whole number"),
        ("weight_decay=-1", "weight_decay=-1.0 is no weight"),
        ("linear_learning_rates=5:1", r"linear_learning_rates begins at steps \[5\]"),
        ("linear_learning_rates=0:0", r"has the rates \[0.0\]; every one has to be above 0"),
        (
            "linear_learning_rates=0.1",
            "cannot be read; write linear_learning_rates as 0:0.01,3000:0.005",
        ),
        ("strengths=", "cannot be read; write strengths as 0.1,1"),
        ("strengths=0", "has to hold numbers above 0"),
    ],
)
def test_what_cannot_be_taken_is_said(setting: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluation_config("cpu", [setting])


def test_schedules_are_named() -> None:
    with pytest.raises(ValueError, match="there is no schedule 'gpu'; choose one of paper, cpu"):
        evaluation_config("gpu")
