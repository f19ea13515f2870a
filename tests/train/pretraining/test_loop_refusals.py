"""What pretraining refuses, and what it says when it cannot go on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import change_numerics, commit_flow
from loop_cases import BF16_SIZE, train
from recorder import Recorder
from train_cases import CONFIG, StopAfter

from flowcpc.stores.encoding import DEFAULT
from flowcpc.stores.flow_store import create_store, open_store
from flowcpc.train.pretraining.loop import pretrain
from flowcpc.train.pretraining.training_run import DivergedError
from flowcpc.train.runs.checkpoint import hold_run, require_checkpoint
from flowcpc.train.runs.metrics import read_metrics


def test_bf16_trains_and_keeps_its_weights_and_scores_in_float32(
    store: Path, tmp_path: Path
) -> None:
    listener = Recorder()
    config = dataclasses.replace(CONFIG, precision="bf16", size=BF16_SIZE)
    pretrain(store, tmp_path / "bf16", config, listener=listener)
    train(store, tmp_path / "float32", size=BF16_SIZE)
    assert "in bf16" in listener.said[0]
    a, b = (require_checkpoint(tmp_path / name).tensors for name in ("bf16", "float32"))
    assert all(value.dtype == b[name].dtype for name, value in a.items())
    losses = [read_metrics(tmp_path / name)[0]["loss"] for name in ("bf16", "float32")]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_other_settings_are_refused_by_name(store: Path, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "run", CONFIG, listener=Recorder(stop=StopAfter(1)))
    with pytest.raises(
        ValueError, match=r"momentum was 0.9 and is now 0.5; seed was 0 and is now 3; use the same"
    ):
        train(store, tmp_path / "run", seed=3, momentum=0.5)


def test_flow_of_other_numerics_is_refused(store: Path, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "run", CONFIG, listener=Recorder(stop=StopAfter(1)))
    change_numerics(store, tvl1={"warps": 3})
    with pytest.raises(
        ValueError, match=r"trained on other flow: tvl1 was None and is \{'warps': 3\}"
    ):
        train(store, tmp_path / "run")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_divergence_stops_and_keeps_the_last_good_checkpoint(
    store: Path, tmp_path: Path, precision: str
) -> None:
    settings = {"learning_rates": ((0, 0.01), (3, 1e30)), "precision": precision, "size": BF16_SIZE}
    train(store, tmp_path / "run", steps=3, **settings)
    with pytest.raises(
        DivergedError,
        match=r"smaller learning_rates, or use the checkpoint of step 3 in ",
    ):
        train(store, tmp_path / "run", steps=7, **settings)
    found = require_checkpoint(tmp_path / "run")
    assert found.step == 3
    assert all(torch.isfinite(value).all() for value in found.tensors.values())


def test_divergence_before_the_first_checkpoint_promises_none(store: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"start a new run with smaller learning_rates$"):
        train(store, tmp_path / "run", checkpoint_every=100, learning_rates=((0, 1e30),))


def test_other_videos_are_refused(store: Path, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "run", CONFIG, listener=Recorder(stop=StopAfter(1)))
    commit_flow(
        open_store(store), "v99", np.ones((9, 2, 18, 20), np.float32), folds={"fold1": "train"}
    )
    open_store(store).consolidate()
    with pytest.raises(ValueError, match="began with other videos than the store has now"):
        train(store, tmp_path / "run")
    commit_flow(
        open_store(store), "v98", np.ones((9, 2, 18, 20), np.float32), folds={"fold1": "test"}
    )
    open_store(store).consolidate()
    with pytest.raises(ValueError, match="began with other videos"):
        train(store, tmp_path / "run")


def test_a_start_that_is_refused_changes_nothing(store: Path, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "run", CONFIG, listener=Recorder(stop=StopAfter(1)))
    before = (tmp_path / "run" / "config.json").read_bytes()
    with (
        hold_run(tmp_path / "run"),
        pytest.raises(ValueError, match="is being trained by another process"),
    ):
        train(store, tmp_path / "run", steps=99)
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_folders_of_something_else_are_left_alone(store: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with pytest.raises(FileExistsError, match="holds something else than a run"):
        train(store, tmp_path / "thesis")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is a file"):
        train(store, tmp_path / "file")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 9}, "batch_size must be at most 8, the number of training videos, got 9"),
        ({"size": (19, 16)}, "size=19x16 does not fit the flow"),
        ({"fold": 2}, "fold=2 was asked for, but the store has the folds 1"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run_exists(
    store: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        train(store, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_an_empty_store(tmp_path: Path) -> None:
    path = create_store(
        tmp_path / "empty", {"height": 8, "width": 8, "encoding": DEFAULT.to_json()}
    ).path
    with pytest.raises(ValueError, match="has no videos"):
        train(path, tmp_path / "run", split="all")
