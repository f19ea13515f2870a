"""Options of `flowcpc evaluate`, and its answers to mistakes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from train_cases import CONFIG, EVALUATION_WORDS, small_store

from flowcpc.commands import evaluate, main
from flowcpc.train.evaluation.config import SCHEDULES
from flowcpc.train.evaluation.modes import MODES
from flowcpc.train.pretraining.loop import pretrain


def flowcpc(*words: object) -> Result:
    return CliRunner().invoke(main.main, [str(word) for word in words])


def test_the_command_offers_what_there_is() -> None:
    options = {option.name: option for option in evaluate.evaluate.params}
    assert list(options["mode"].type.choices) == list(MODES)
    assert list(options["schedule"].type.choices) == list(SCHEDULES)


@pytest.mark.parametrize("text", ["0", "-1", "five", "", "1.5", "5,some"])
def test_wrong_numbers_of_labels_are_named(text: str) -> None:
    result = flowcpc("evaluate", ".", "--labels-per-class", text)
    assert result.exit_code == 2
    assert f"{text.rpartition(',')[2]!r} must be all or a number from 1" in result.stderr
    assert evaluate._labels(None, None, "all, 018,5") == (None, 18, 5)


def test_options_reach_the_evaluation(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    store = small_store(tmp_path, make_store)
    pretrain(store, tmp_path / "run", CONFIG)
    settings = [word for setting in EVALUATION_WORDS for word in ("--set", setting)]
    lists = ["--labels-per-class", "all, 2", "--seeds", "3,5", "--folds", "1"]
    result = flowcpc(
        "evaluate", store, tmp_path / "run", "--mode", "knn", *lists, *settings, "--json"
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert {(row["labels_per_class"], row["seed"]) for row in rows} == {
        ("all", 3),
        ("all", 5),
        ("2", 3),
        ("2", 5),
    }
    out = [
        "--out",
        tmp_path / "out",
        "--preset",
        "tiny",
        "--schedule",
        "cpu",
        "--set",
        "width=2",
        "--set",
        "size=16x16",
    ]
    result = flowcpc("evaluate", store, "--mode", "random", *out, *settings, "--set", "num_flows=2")
    assert result.exit_code == 0, result.output
    assert "random is" in result.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seeds", "0,x"], "'0,x' is not a list of numbers"),
        (["--folds", ""], "'' is not a list of numbers"),
        (
            [
                "--mode",
                "scratch",
                "--out",
                "o",
                "--preset",
                "tiny",
                "--seeds",
                "0,9223372036854775808",
            ],
            "seed must be at least 0 and at most",
        ),
        (
            ["--mode", "scratch", "--out", "f", "--preset", "tiny"],
            "f is a file; give the path of a folder",
        ),
        (["--mode", "guess"], "'guess' is not one of"),
        (["--mode", "finetune"], "mode finetune evaluates a pretrained encoder; give its RUN"),
        (["--mode", "scratch"], "mode scratch without RUN needs"),
        (["--mode", "scratch", "--out", "o", "--preset", "tinny"], "did you mean 'tiny'"),
        (
            ["--mode", "scratch", "--out", "o", "--preset", "tiny", "--set", "witdh=3"],
            "did you mean 'width'",
        ),
    ],
)
def test_mistakes_are_sentences(
    tmp_path: Path,
    make_store: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").touch()
    result = flowcpc("evaluate", small_store(tmp_path, make_store), *words)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not (tmp_path / "o").exists()
