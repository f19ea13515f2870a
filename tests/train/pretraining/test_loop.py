import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from loop_cases import assert_same_run, train
from recorder import Recorder
from train_cases import CONFIG, StopAfter

from flowcpc.stores.flow_store import open_store
from flowcpc.train.data.batches import SegmentReader, SequenceReader
from flowcpc.train.data.splits import videos_of
from flowcpc.train.model.cpc import ModelOne, build_model
from flowcpc.train.model.loss import info_nce
from flowcpc.train.pretraining import training_run
from flowcpc.train.pretraining.loop import pretrain
from flowcpc.train.pretraining.training_run import PretrainResult
from flowcpc.train.runs.checkpoint import require_checkpoint
from flowcpc.train.runs.metrics import read_metrics
from flowcpc.train.runs.tensors import load_strictly
from flowcpc.train.settings.config import PretrainConfig, named_seed


def test_a_run_writes_what_it_promises(store: Path, tmp_path: Path) -> None:
    listener = Recorder()
    result = pretrain(store, tmp_path / "run", CONFIG, listener=listener)
    messages = listener.said
    assert (result.finished, result.step, result.steps, result.classes) == (True, 7, 7, 13)
    assert result.chance == 1 / 13
    assert "out of 13" in result.to_text()
    assert [call[:2] for call in listener.calls] == [(done, 7) for done in range(1, 8)]
    assert any(
        "13 classes (3 other videos x 4 segments + 1), chance level 7.69%" in line
        for line in messages
    )
    assert any("of fewer than 8 flows" in line for line in messages)
    assert messages[-2].startswith(("compute: the processor waited", "data: the processor waited"))
    assert "is still that of guessing, 2.565, after 7 steps" in messages[-1]

    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [2, 4, 6, 7, 7]
    for line in lines[:4]:
        assert line["information_bound"] == pytest.approx(math.log(13) - line["loss"])
        assert len(line["horizon_accuracy"]) == 1
        assert line["classes"] == 13
        assert 0 <= line["data_time"] <= line["step_time"]
        assert line["samples_per_second"] == pytest.approx(4 / line["step_time"])
        assert (
            line["bytes_per_step"] == 4 * 4 * 2 * 2 * 16 * 16
        )  # videos, segments, flows, components, size
        assert 0 < line["effective_rank"] <= 15
    assert [line["learning_rate"] for line in lines[:4]] == [0.02, 0.02, 0.01, 0.01]
    assert lines[4]["held_out_videos"] == 4  # of 5, in batches of 4
    assert lines[4]["held_out_information_bound"] == pytest.approx(
        math.log(13) - lines[4]["held_out_loss"]
    )
    assert result.held_out_accuracy == lines[4]["held_out_accuracy"]
    assert (
        PretrainConfig.from_json(json.loads((tmp_path / "run" / "config.json").read_text()))
        == CONFIG
    )


@pytest.mark.parametrize("stops", [(1,), (3, 2), (7,)])
def test_an_interrupted_run_equals_an_uninterrupted_one(
    store: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    train(store, tmp_path / "whole")
    done = 0
    for stop in stops:
        result = pretrain(
            store, tmp_path / "parts", CONFIG, listener=Recorder(stop=StopAfter(stop))
        )
        done += stop
        assert (result.finished, result.step) == (False, done)
    listener = Recorder()
    assert pretrain(store, tmp_path / "parts", CONFIG, listener=listener).finished
    assert f"resumed from step {done}" in listener.said
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_randomness_inside_the_model_goes_on_too(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithDropout(ModelOne):
        def forward(self, segments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            predictions, latents = super().forward(segments)
            return torch.nn.functional.dropout(predictions, 0.5, self.training), latents

    monkeypatch.setattr(training_run, "build_model", WithDropout)
    train(store, tmp_path / "whole")
    assert not pretrain(
        store, tmp_path / "parts", CONFIG, listener=Recorder(stop=StopAfter(3))
    ).finished
    torch.rand(100)  # whatever else draws from torch's generator
    train(store, tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_held_out_videos_are_measured_in_eval_mode(store: Path, tmp_path: Path) -> None:
    train(store, tmp_path / "run")
    model = build_model(CONFIG).eval()
    load_strictly(model, require_checkpoint(tmp_path / "run").part("model"))
    opened = open_store(store)
    ids = videos_of(opened, 1, "test")["video_id"].tolist()
    segments = SegmentReader(opened, ids, CONFIG, torch.device("cpu"))
    batch = SequenceReader(segments, CONFIG, named_seed(CONFIG.seed, "held out")).read(0)
    with torch.no_grad():
        expected = info_nce(*model(segments.to_device(batch)), model.positions)
    line = read_metrics(tmp_path / "run")[-1]
    assert line["held_out_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    assert line["held_out_accuracy"] == pytest.approx(expected.accuracy.item())


def test_measuring_on_the_way_changes_nothing_that_is_learned(store: Path, tmp_path: Path) -> None:
    train(store, tmp_path / "seldom")
    train(store, tmp_path / "often", validate_every=2)
    a, b = (require_checkpoint(tmp_path / name).tensors for name in ("seldom", "often"))
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    lines = [line for line in read_metrics(tmp_path / "often") if "held_out_loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 7]
    assert len({line["held_out_loss"] for line in lines}) == 4
    assert lines[-1] == read_metrics(tmp_path / "seldom")[-1]


@pytest.mark.parametrize("stops", [(3,), (5, 2), (1, 3, 3)], ids=str)
def test_stopped_while_measuring_on_the_way(
    store: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    """The loop asks once per step and once per batch of held-out videos.

    So 3 and 5 + 2 are within measurements.
    """
    train(store, tmp_path / "whole", validate_every=2)
    config = dataclasses.replace(CONFIG, validate_every=2)
    for stop in stops:
        result = pretrain(
            store, tmp_path / "parts", config, listener=Recorder(stop=StopAfter(stop))
        )
        assert not result.finished
        assert require_checkpoint(tmp_path / "parts").step == result.step
    assert train(store, tmp_path / "parts", validate_every=2).finished
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_two_processes_do_not_train_one_run(store: Path, tmp_path: Path) -> None:
    def again(done: int, total: int, fields: object) -> None:
        if done == 1:
            with pytest.raises(ValueError, match="is being trained by another process"):
                train(store, tmp_path / "run")

    assert pretrain(store, tmp_path / "run", CONFIG, listener=Recorder(on_progress=again)).finished
    assert train(store, tmp_path / "run").finished


def test_a_killed_run_goes_on_from_its_last_checkpoint(store: Path, tmp_path: Path) -> None:
    train(store, tmp_path / "whole")

    def kill(done: int, total: int, fields: object) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(store, tmp_path / "parts", CONFIG, listener=Recorder(on_progress=kill))
    assert require_checkpoint(tmp_path / "parts").step == 3
    assert train(store, tmp_path / "parts").finished
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_killed_before_the_first_checkpoint(store: Path, tmp_path: Path) -> None:
    def kill(done: int, total: int, fields: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(store, tmp_path / "run", CONFIG, listener=Recorder(on_progress=kill))
    # Nothing was learned yet, so other settings (a mended mistake) may take the folder over.
    assert train(store, tmp_path / "run", seed=1).finished
    assert train(store, tmp_path / "calm", seed=1).finished
    assert_same_run(tmp_path / "run", tmp_path / "calm")


def test_a_finished_run_is_left_alone_and_can_grow(store: Path, tmp_path: Path) -> None:
    first = train(store, tmp_path / "run")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("weights*")}
    assert train(store, tmp_path / "run") == first
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("weights*")}
    grown = train(store, tmp_path / "run", steps=9)
    assert (grown.finished, grown.step) == (True, 9)
    train(store, tmp_path / "long", steps=9)
    a, b = (require_checkpoint(tmp_path / name).tensors for name in ("run", "long"))
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    with pytest.raises(ValueError, match="made with steps=9; steps may only grow, got 7"):
        train(store, tmp_path / "run")


def test_a_run_stopped_while_it_is_tested_on_held_out_videos(store: Path, tmp_path: Path) -> None:
    result = pretrain(store, tmp_path / "run", CONFIG, listener=Recorder(stop=StopAfter(8)))
    assert (result.finished, result.step, result.held_out_accuracy) == (False, 7, None)
    result = train(store, tmp_path / "run")
    assert result.finished
    assert result.held_out_accuracy is not None


def test_a_damaged_video_is_left_out_and_that_is_said(store: Path, tmp_path: Path) -> None:
    next(iter((store / "commits").rglob("*.json"))).write_bytes(b"")
    open_store(store).consolidate()
    listener = Recorder(stop=StopAfter(1))
    pretrain(store, tmp_path / "run", CONFIG, listener=listener)
    assert any("the records of 1 video are damaged" in message for message in listener.said)


def test_a_moved_store_goes_on(store: Path, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "run", CONFIG, listener=Recorder(stop=StopAfter(1)))
    shutil.move(store, tmp_path / "elsewhere")
    assert train(tmp_path / "elsewhere", tmp_path / "run").finished


def test_held_out_accuracy_says_out_of_how_many() -> None:
    result = PretrainResult(True, 7, 7, 1.0, 0.5, 25, 1 / 25, 0.25, 121)
    assert (
        "picked out of 25: 50.0% on training videos, 25.0% (out of 121) on held-out videos"
        in result.to_text()
    )


@pytest.mark.parametrize("changes", [{"batch_size": 6}, {"split": "all"}])
def test_without_held_out_videos_there_is_no_accuracy_on_them(
    store: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    result = train(store, tmp_path / "run", steps=1, **changes)
    assert result.finished
    assert result.held_out_accuracy is None
    assert "not measured" in result.to_text()
    assert len(read_metrics(tmp_path / "run")) == 1
    assert train(store, tmp_path / "run", steps=1, **changes) == result


@pytest.mark.parametrize(
    "changes",
    [
        {"selection": "spaced"},
        {"selection": "consecutive", "spacing": 0},
        {"selection": "overlap", "spacing": 1},
        {"spacing": 1},
        {"difficult_negatives": True},
        {"momentum": 0.0},
        {"weight_decay": 0.1},
        {"seed": 1},
        {"num_flows": 1},
        {"num_segments": 5},
        {"num_observed": 3, "num_segments": 5},
        {"size": (17, 16)},
        {"width": 3},
        {"batch_size": 3},
        {"split": "all"},
        {"learning_rates": ((0, 0.01),)},
    ],
)
def test_every_setting_has_an_effect(
    store: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    train(store, tmp_path / "a", steps=2)
    train(store, tmp_path / "b", steps=2, **changes)
    a, b = (require_checkpoint(tmp_path / name).part("model") for name in "ab")
    name = "encoder.stem.0.weight"
    assert a[name].shape != b[name].shape or not torch.equal(a[name], b[name])


def test_it_learns(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    """Every video has its own motion.

    So its later segments differ clearly from those of other videos.
    """
    rng = np.random.default_rng(2)
    videos = {}
    for n in range(8):
        pattern = rng.normal(0, 2, (2, 16, 16)).astype(np.float32)
        videos[f"v{n}"] = np.repeat(pattern[None], 12, axis=0) + rng.normal(
            0, 0.1, (12, 2, 16, 16)
        ).astype(np.float32)
    store = make_store(tmp_path, videos, folds={name: {"fold1": "train"} for name in videos})
    result = train(
        store, tmp_path / "run", steps=60, width=4, log_every=20, learning_rates=((0, 0.005),)
    )
    assert result.accuracy > 0.7 > 5 * result.chance
    assert result.loss < 0.6 * math.log(result.classes)
