import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from train_cases import CLASSES, CONFIG, TEST_VIDEOS, TRAIN_VIDEOS, StopAfter, small_store

from stores.embeddings import vectors_from_arrow
from stores.flow_store import open_store
from train import probe
from train.config import named_seed
from train.encoder import Encoder
from train.loop import pretrain
from train.probe import LinearResult, evaluate_linear


@pytest.fixture
def store(tmp_path: Path, make_store: Callable[..., Path]) -> Path:
    return small_store(tmp_path, make_store)


@pytest.fixture
def run(store: Path, tmp_path: Path) -> Path:
    pretrain(store, tmp_path / "run", CONFIG)
    return tmp_path / "run"


def predictions(result: LinearResult) -> tuple[pd.DataFrame, np.ndarray]:
    table = pq.read_table(result.path / "predictions.parquet")
    return table.drop_columns(["logits"]).to_pandas(), vectors_from_arrow(table["logits"])


def test_results_and_predictions(store: Path, run: Path) -> None:
    calls: list[tuple[int, int]] = []
    result = evaluate_linear(store, run, progress=lambda done, total, fields: calls.append((done, total)))
    assert result.finished
    assert calls == [(done, 12) for done in range(1, 13)]
    table = result.table
    assert table[["encoder", "protocol"]].to_numpy().tolist() == [
        ["pretrained", "random8"],
        ["pretrained", "uniform8"],
        ["random", "random8"],
        ["random", "uniform8"],
    ]
    assert (table["videos"] == TEST_VIDEOS).all()
    assert (table["chance"] == 0.5).all()
    assert table["fold"].eq(1).all()
    assert table["run"].eq("run").all()
    assert "chance" in result.to_text()
    pd.testing.assert_frame_equal(pd.read_parquet(run / "evaluate/linear-fold1-seed0/results.parquet"), table)

    rows, logits = predictions(result)
    assert logits.shape == (4 * TEST_VIDEOS, 2)
    test_ids = [f"v{n:02d}" for n in range(TRAIN_VIDEOS, TRAIN_VIDEOS + TEST_VIDEOS)]
    for (encoder, protocol), part in rows.groupby(["encoder", "protocol"]):
        assert part["video_id"].tolist() == test_ids  # every test video exactly once
        (row,) = table[(table["encoder"] == encoder) & (table["protocol"] == protocol)].to_dict("records")
        assert row["top1"] == pytest.approx((part["predicted"] == part["label"]).mean())
    assert rows["predicted"].tolist() == [CLASSES[best] for best in logits.argmax(axis=1)]
    assert sorted(path.name for path in result.path.iterdir()) == [
        "evaluation.json",
        "predictions.parquet",
        "results.parquet",
    ]


@pytest.mark.parametrize("seed", range(3))
def test_it_tells_easy_classes_apart(tmp_path: Path, make_store: Callable[..., Path], seed: int) -> None:
    """A blob moves right or down: at most one of five test videos is missed, even on random features of eight training
    videos. Labels that belong to other videos would leave about half.
    """
    store = small_store(tmp_path, make_store, lengths=lambda n: 12 + n)
    schedule = {"linear_steps": 100, "linear_batch_size": 8, "linear_learning_rates": ((0, 0.2),)}
    pretrain(store, tmp_path / "run", dataclasses.replace(CONFIG, seed=seed, steps=1, width=8, **schedule))
    assert evaluate_linear(store, tmp_path / "run").table["top1"].min() >= 0.8


def test_the_encoder_stays_frozen(store: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders = []
    original = probe.average_features
    monkeypatch.setattr(probe, "average_features", lambda e, s: (encoders.append(e), original(e, s))[1])
    evaluate_linear(store, run)
    expected = probe.build_encoder(probe.require_checkpoint(run)).state_dict()
    assert len({id(encoder) for encoder in encoders}) == 2
    assert all((value == expected[name]).all() for name, value in encoders[0].state_dict().items())
    assert not any(encoder.training for encoder in encoders)
    untrained = encoders[-1]
    torch.manual_seed(named_seed(CONFIG.seed, "initial weights"))
    for name, value in Encoder(CONFIG).named_parameters():
        assert torch.equal(untrained.get_parameter(name), value), name
    # batch-norm statistics of the training videos, where a new encoder has means of 0
    assert all(part.running_mean.abs().sum() > 0 for part in untrained.modules() if isinstance(part, nn.BatchNorm2d))


def test_finished_results_are_read_and_not_computed(store: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate_linear(store, run)
    messages: list[str] = []
    monkeypatch.setattr(probe, "_evaluate_encoder", None)
    again = evaluate_linear(store, run, announce=messages.append)
    pd.testing.assert_frame_equal(again.table, first.table)
    assert messages == [f"read the finished results in {first.path}"]


def test_another_checkpoint_seed_or_label_is_evaluated_anew(store: Path, run: Path) -> None:
    first = predictions(evaluate_linear(store, run))[1]
    other = evaluate_linear(store, run, seed=1)
    assert other.path.name == "linear-fold1-seed1"
    assert not np.array_equal(predictions(other)[1], first)
    pretrain(store, run, dataclasses.replace(CONFIG, steps=9))
    result = evaluate_linear(store, run)
    assert (result.table["pretrain_steps"] == 9).all()
    # the untrained encoder is the same in both
    np.testing.assert_array_equal(predictions(result)[1][10:], first[10:])
    assert not np.array_equal(predictions(result)[1][:10], first[:10])


@pytest.mark.parametrize("stops", [(1,), (4, 3), (8,), (13,), (6, 1, 1, 9)])
def test_an_interrupted_evaluation_equals_an_uninterrupted_one(
    store: Path, run: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    first = predictions(evaluate_linear(store, run))[1]
    (run / "evaluate").rename(tmp_path / "earlier")
    for stop in stops:
        stopped = evaluate_linear(store, run, should_stop=StopAfter(stop))
        assert not stopped.finished
        assert stopped.table.empty
    np.testing.assert_array_equal(predictions(evaluate_linear(store, run))[1], first)


def test_a_killed_evaluation_goes_on_from_its_last_state(
    store: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = predictions(evaluate_linear(store, run))[1]
    (run / "evaluate").rename(tmp_path / "earlier")
    monkeypatch.setattr(probe, "_SAVE_EVERY", 2)
    seen = []

    def kill(done: int, total: int, fields: object) -> None:
        seen.append(done)
        if len(seen) == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_linear(store, run, progress=kill)
    result = evaluate_linear(store, run, progress=lambda done, total, fields: seen.append(done))
    assert seen == [*range(1, 12), 11, 12]
    np.testing.assert_array_equal(predictions(result)[1], first)


def test_missing_test_videos_are_refused_unless_allowed(store: Path, run: Path) -> None:
    names = {"video_id": "lost", "path": "lost.avi", "label": "Down", "group": None, "folds": {"fold1": "test"}}
    why = {"kind": "file", "reason": "broken", "attempts": 1, "time": 0.0, "source_bytes": 1, "source_mtime_ns": 1}
    open_store(store).record_failure(names | why)
    with pytest.raises(ValueError, match="1 test videos of fold 1 have no flow: lost"):
        evaluate_linear(store, run)
    messages: list[str] = []
    result = evaluate_linear(store, run, allow_missing=True, announce=messages.append)
    assert (result.table["missing"] == 1).all()
    assert any("test videos that are missing and left out: 1;" in message for message in messages)


def test_runs_that_cannot_be_evaluated(store: Path, run: Path, tmp_path: Path, make_store: Callable[..., Path]) -> None:
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of a run"):
        evaluate_linear(store, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="fold=3 was asked for"):
        evaluate_linear(store, run, fold=3)
    other = make_store(tmp_path / "other", {"a": np.zeros((3, 2, 20, 20), np.float32)})
    with pytest.raises(ValueError, match="the run was trained on other flow: height was 18 and is 20"):
        evaluate_linear(other, run)
