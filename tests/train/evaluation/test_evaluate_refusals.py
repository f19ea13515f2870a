"""What an evaluation refuses, and what it says beside its results."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import TINY, evaluated
from recorder import Recorder
from train_cases import CONFIG, EVALUATION, TRAIN_VIDEOS, StopAfter

from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.flow_store import open_store
from flowcpc.train.pretraining.loop import pretrain
from flowcpc.train.runs.checkpoint import require_checkpoint
from flowcpc.train.settings.presets import find_preset


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
