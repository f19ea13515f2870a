"""What an evaluation writes; test_evaluate_again tests what it remembers."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from evaluation_cases import TINY, evaluated, predictions
from recorder import Recorder
from torch import nn
from train_cases import CLASSES, CONFIG, TEST_VIDEOS, TRAIN_VIDEOS, small_store

from flowcpc.stores.flow_store import open_store
from flowcpc.stores.window_reader import WindowReader
from flowcpc.train.evaluation import predictions as predicting
from flowcpc.train.evaluation.classifiers import classifier
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.evaluation.results import read_results
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.pretraining.loop import pretrain
from flowcpc.train.runs.checkpoint import load_encoder
from flowcpc.train.settings.config import named_seed

TEST_IDS = [f"v{n:02d}" for n in range(TRAIN_VIDEOS, TRAIN_VIDEOS + TEST_VIDEOS)]

ENCODERS = {
    "linear": ["pretrained", "shuffled labels", "random"],
    "finetune": ["pretrained"],
    "scratch": ["scratch"],
    "random": ["random", "shuffled labels"],
    "probe": ["pretrained", "shuffled labels", "random"],
    "knn": ["pretrained", "shuffled labels", "random"],
    "retrieval": ["pretrained", "shuffled labels", "random"],
}


@pytest.mark.parametrize("mode", ENCODERS)
def test_every_mode_tests_every_video_once_beside_its_baselines(
    store: Path, run: Path, mode: str
) -> None:
    listener = Recorder()
    result = evaluated(store, run, mode, listener=listener)
    assert result.finished
    done = [done for done, _, _ in listener.calls]
    assert done == sorted(done)
    assert {total for _, total, _ in listener.calls} == {done[-1]}
    folder = run / "evaluate" / f"{mode}-all-fold1-seed0"
    protocols = {"uniform8"} if mode in ("probe", "knn", "retrieval") else {"random8", "uniform8"}
    table = result.table
    assert list(dict.fromkeys(table["encoder"])) == [*ENCODERS[mode], "motion statistics"]
    assert set(table["protocol"]) == protocols | {"whole video"}
    assert (table["videos"] == TEST_VIDEOS).all()
    assert (table["chance"] == 0.5).all()
    for column, value in {
        "run": "run",
        "mode": mode,
        "labels_per_class": "all",
        "fold": 1,
        "seed": 0,
    }.items():
        assert table[column].eq(value).all(), column
    assert table["pretrain_steps"].eq(0 if mode in ("scratch", "random") else CONFIG.steps).all()
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "results.parquet"), table)
    rows = pd.read_parquet(folder / "predictions.parquet")
    assert len(rows) == TEST_VIDEOS * len(table)
    for (encoder, protocol), part in rows.groupby(["encoder", "protocol"]):
        assert part["video_id"].tolist() == TEST_IDS
        (row,) = table[(table["encoder"] == encoder) & (table["protocol"] == protocol)].to_dict(
            "records"
        )
        assert row["r1" if mode == "retrieval" else "top1"] == pytest.approx(
            (part["predicted"] == part["label"]).mean()
        )
    if mode != "retrieval":
        best = predictions(folder)[1].argmax(axis=1)
        assert rows["predicted"].tolist() == [CLASSES[number] for number in best]
    kept = {
        "classes.parquet",
        "confusion.parquet",
        "evaluation.json",
        "predictions.parquet",
        "results.parquet",
    }
    kept |= {"weights.safetensors"} if mode in ("finetune", "scratch") else set()
    assert {path.name for path in folder.iterdir()} == kept
    text = result.to_text()
    assert "chance" in text
    assert "motion statistics" in text
    assert ("shuffled labels" in text) == (mode not in ("finetune", "scratch"))


@pytest.mark.parametrize("mode", ["linear", "probe", "knn", "finetune"])
@pytest.mark.parametrize("seed", range(2))
def test_it_tells_easy_classes_apart(
    tmp_path: Path, make_store: Callable[..., Path], mode: str, seed: int
) -> None:
    """A blob moves right or down: at most one of five test videos is wrong, even on random features
    of eight training videos. Labels of other videos would leave about half.
    """
    store = small_store(tmp_path, make_store, lengths=lambda n: 12 + n)
    pretrain(store, tmp_path / "run", dataclasses.replace(CONFIG, seed=seed, steps=1, width=8))
    settings = EvaluationConfig(
        linear_steps=100,
        linear_learning_rates=((0, 0.2),),
        finetune_steps=40,
        finetune_learning_rates=((0, 0.02),),
        batch_size=8,
        neighbours=3,
        dropout=0.2,
    )
    table = evaluated(store, tmp_path / "run", mode, settings).table
    assert table[table["encoder"] != "shuffled labels"]["top1"].min() >= 0.8


def test_the_scoreboard_shows_scratch_beside_finetune(store: Path, run: Path) -> None:
    evaluated(store, run, "scratch")
    evaluated(store, run, "linear")
    result = evaluated(store, run, "finetune")
    assert set(result.baselines["encoder"]) == {"scratch", "random"}
    text = result.to_text()
    for words in (
        "pretrained - scratch: ",
        "pretrained - random: ",
        "pretrained - motion statistics: ",
        "times chance",
    ):
        assert words in text, text


def test_combinations_are_units_of_their_own(store: Path, run: Path) -> None:
    result = evaluated(store, run, "knn", labels=[None, 2], seeds=[0, 1])
    assert sorted(path.name for path in (run / "evaluate").glob("knn-*")) == [
        f"knn-{labels}-fold1-seed{seed}" for labels in ("2", "all") for seed in (0, 1)
    ]
    assert len(read_results(run)) == len(result.table) == 4 * 4
    for seed in (0, 1):
        subset = pd.read_parquet(run / "evaluate" / "labels" / f"2-fold1-seed{seed}.parquet")
        assert subset.groupby("label")["group"].nunique().tolist() == [2, 2]
    text = result.to_text()
    assert "labels per class: 2; means over 1 fold x 2 seeds" in text
    assert "± seeds (n)" in text


def test_scratch_and_random_need_no_run(store: Path, tmp_path: Path) -> None:
    for mode in ("scratch", "random"):
        out = tmp_path / "out"
        result = evaluated(store, None, mode, out=out, encoder=TINY)
        assert result.path == out / "evaluate"
        assert result.table["run"].eq("").all()
        assert result.table["pretrain_steps"].eq(0).all()
        assert result.table["preset"].eq("tiny").all()
    assert set(read_results(out)["mode"]) == {"scratch", "random"}
    with pytest.raises(
        ValueError, match="mode linear evaluates a pretrained encoder; give its RUN"
    ):
        evaluated(store, None, "linear", out=out, encoder=TINY)
    with pytest.raises(ValueError, match=r"--preset.* and .*--out"):
        evaluated(store, None, "scratch", encoder=TINY)


def test_linear_leaves_the_encoder_as_it_is_and_finetune_changes_it(
    store: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[classifier.Classifier] = []
    original = classifier.predict_logits

    def spy(model: classifier.Classifier, *args: Any, **options: Any) -> Any:
        trained.append(model)
        found = original(model, *args, **options)
        assert not any(part.training for part in model.modules())
        return found

    monkeypatch.setattr("flowcpc.train.evaluation.predictions.predict_logits", spy)
    before = load_encoder(run).state_dict()
    evaluated(store, run, "linear")
    linear, untrained = (model.encoder for model in trained)
    assert all(torch.equal(value, before[name]) for name, value in linear.state_dict().items())
    torch.manual_seed(named_seed(0, "initial weights"))
    for name, value in Encoder(CONFIG).named_parameters():
        assert torch.equal(untrained.get_parameter(name), value), name
    # batch-norm statistics of the training videos, where a new encoder has means of 0
    assert all(
        part.running_mean.abs().sum() > 0
        for part in untrained.modules()
        if isinstance(part, nn.BatchNorm2d)
    )

    evaluated(store, run, "finetune")
    tuned = trained[-1].encoder.state_dict()
    floats = [name for name, value in tuned.items() if value.is_floating_point()]
    assert [name for name in floats if torch.equal(tuned[name], before[name])] == []


@pytest.mark.parametrize("mode", ["linear", "finetune", "scratch", "random"])
def test_no_test_video_is_opened_before_training_has_ended(
    store: Path, run: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics of an untrained encoder see all training videos, steps the labelled ones."""
    split = open_store(store).videos().set_index("video_id")["fold1"]
    opened: list[list[str]] = []
    opening, train, predict = (
        WindowReader.__init__,
        predicting.train_classifier,
        predicting.predict_logits,
    )

    def spy_reader(
        self: WindowReader, store: Any, video_ids: Any, *args: Any, **options: Any
    ) -> None:
        opened.append(list(video_ids))
        opening(self, store, video_ids, *args, **options)

    def spy_training(*args: Any, **options: Any) -> None:
        train(*args, **options)
        untrained = mode == "random" or (mode == "linear" and len(ended) == 1)
        assert [len(names) for names in opened] == ([TRAIN_VIDEOS] if untrained else []) + [4]
        assert {split[name] for names in opened for name in names} == {"train"}
        ended.append(len(opened))

    def spy_prediction(*args: Any, **options: Any) -> Any:
        found = predict(*args, **options)
        assert opened.pop() == TEST_IDS
        opened.clear()
        return found

    ended: list[int] = []
    monkeypatch.setattr(WindowReader, "__init__", spy_reader)
    monkeypatch.setattr(predicting, "train_classifier", spy_training)
    monkeypatch.setattr(predicting, "predict_logits", spy_prediction)
    evaluated(store, run, mode, labels=[2])
    assert len(ended) == (2 if mode == "linear" else 1)


def test_recall_is_shown_after_accuracies_of_the_same_unit(store: Path, run: Path) -> None:
    evaluated(store, run, "linear")
    evaluated(store, run, "scratch")
    text = evaluated(store, run, "retrieval").to_text()
    assert "r50" in text
    assert "scratch" not in text
    assert "nan" not in text
