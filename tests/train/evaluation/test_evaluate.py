"""What an evaluation writes and refuses; test_evaluate_again tests what it remembers."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_cases import evaluated, predictions
from recorder import Recorder
from torch import nn
from train_cases import (
    CLASSES,
    CONFIG,
    EVALUATION,
    TEST_VIDEOS,
    TRAIN_VIDEOS,
    StopAfter,
    small_store,
)

from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.flow_store import open_store
from flowcpc.stores.window_reader import WindowReader
from flowcpc.train.evaluation import predictions as predicting
from flowcpc.train.evaluation.classifiers import classifier
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.evaluation.results import read_results
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.pretraining.loop import pretrain
from flowcpc.train.runs.checkpoint import load_encoder, require_checkpoint
from flowcpc.train.settings.config import named_seed
from flowcpc.train.settings.presets import find_preset

TEST_IDS = [f"v{n:02d}" for n in range(TRAIN_VIDEOS, TRAIN_VIDEOS + TEST_VIDEOS)]
TINY = dataclasses.replace(find_preset("tiny").config, num_flows=2, size=(16, 16), width=2)


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
    assert "labels per class: 2; mean ± standard deviation over 1 fold x 2 seeds" in text
    assert " ± " in text


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


def test_a_training_that_diverges_is_a_sentence(store: Path, run: Path) -> None:
    settings = dataclasses.replace(EVALUATION, finetune_learning_rates=((0, 1e30),))
    with pytest.raises(OperationError, match="the training diverged; use a lower learning rate"):
        evaluated(store, run, "finetune", settings)
    assert not (run / "evaluate" / "finetune-all-fold1-seed0" / "results.parquet").exists()


def lose(store: Path, split: str) -> None:
    names = {
        "video_id": "lost",
        "path": "lost.avi",
        "label": "Down",
        "group": None,
        "folds": {"fold1": split},
    }
    why = {
        "kind": "file",
        "reason": "broken",
        "attempts": 1,
        "time": 0.0,
        "source_bytes": 1,
        "source_mtime_ns": 1,
    }
    open_store(store).record_failure(names | why)


def test_missing_test_videos_are_refused_unless_allowed(store: Path, run: Path) -> None:
    lose(store, "test")
    with pytest.raises(ValueError, match="1 test videos of fold 1 have no flow: lost"):
        evaluated(store, run)
    listener = Recorder()
    result = evaluated(store, run, allow_missing=True, listener=listener)
    assert (result.table["missing"] == 1).all()
    assert any("1 test videos are missing" in message for message in listener.said)


def test_missing_training_videos_are_named(store: Path, run: Path) -> None:
    lose(store, "train")
    listener = Recorder()
    assert evaluated(store, run, "knn", listener=listener).table["missing"].eq(0).all()
    assert listener.said[0] == "1 training videos of fold 1 have no flow and are not used: lost"


def test_a_run_that_saw_the_test_videos_is_marked(store: Path, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "all", dataclasses.replace(CONFIG, split="all", steps=1))
    listener = Recorder()
    result = evaluated(store, tmp_path / "all", "knn", listener=listener)
    assert result.table["transductive"].all()
    assert any("its results are transductive" in message for message in listener.said)


def test_a_run_whose_pretraining_goes_on_is_evaluated_with_a_word(
    store: Path, tmp_path: Path
) -> None:
    pretrain(store, tmp_path / "run", CONFIG, listener=Recorder(stop=StopAfter(4)))
    step = require_checkpoint(tmp_path / "run").step
    assert 0 < step < CONFIG.steps
    listener = Recorder()
    evaluated(store, tmp_path / "run", "knn", listener=listener)
    assert (
        f"run is at step {step} of {CONFIG.steps}: its pretraining is not finished" in listener.said
    )
    listener.said.clear()
    evaluated(store, tmp_path / "run", "random", listener=listener)  # none of its weights are used
    assert not any("is at step" in message for message in listener.said)


def test_more_neighbours_than_there_are_is_said(store: Path, run: Path) -> None:
    listener = Recorder()
    evaluated(
        store,
        run,
        "knn",
        evaluation=dataclasses.replace(EVALUATION, neighbours=1000),
        listener=listener,
    )
    assert (
        f"knn-all-fold1-seed0: neighbours=1000, so all {TRAIN_VIDEOS} training videos vote"
        in listener.said
    )
    listener.said.clear()
    evaluated(
        store,
        run,
        "knn",
        evaluation=dataclasses.replace(EVALUATION, neighbours=TRAIN_VIDEOS),
        listener=listener,
    )
    assert not any("vote" in message for message in listener.said)


def test_frames_that_are_absent_are_what_is_said(store: Path, tmp_path: Path) -> None:
    """Not that the size does not fit the flow, which a larger extraction would not cure."""
    with pytest.raises(ValueError, match=r"modality=image needs frames, and .* holds flow alone"):
        evaluated(
            store, None, "random", out=tmp_path / "out", encoder=find_preset("table1-image").config
        )


def test_what_cannot_be_evaluated(
    store: Path, run: Path, tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of a run"):
        evaluated(store, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="fold=3 was asked for"):
        evaluated(store, run, folds=[1, 3])
    assert not (run / "evaluate").exists()  # refused before anything was trained
    with pytest.raises(ValueError, match="labels per class must be at least 1, or all, got 0"):
        evaluated(store, run, labels=[0])
    with pytest.raises(ValueError, match=r"seed must be at least 0 and at most .*, got -1"):
        evaluated(store, run, seeds=[-1])
    with pytest.raises(ValueError, match=r"mode must be one of linear, .*, got 'guess'"):
        evaluated(store, run, "guess")
    with pytest.raises(ValueError, match="labels, folds and seeds must have at least one value"):
        evaluated(store, run, seeds=[])
    with pytest.raises(ValueError, match=r"omit encoder .*, or omit the run"):
        evaluated(store, run, encoder=TINY)
    other = make_store(tmp_path / "other", {"a": np.zeros((3, 2, 20, 20), np.float32)})
    with pytest.raises(
        ValueError, match="the run was trained on other flow: height was 18 and is 20"
    ):
        evaluated(other, run)


def test_recall_is_shown_after_accuracies_of_the_same_unit(store: Path, run: Path) -> None:
    evaluated(store, run, "linear")
    evaluated(store, run, "scratch")
    text = evaluated(store, run, "retrieval").to_text()
    assert "r50" in text
    assert "scratch" not in text
    assert "nan" not in text
