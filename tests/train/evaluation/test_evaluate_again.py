"""Results are read if nothing that decides them has changed; else they are computed again."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evaluation_cases import evaluated, logits_of, predictions
from recorder import Recorder
from train_cases import CONFIG, EVALUATION, TEST_VIDEOS, StopAfter, small_store

from flowcpc.stores.base.listener import Listener
from flowcpc.stores.flow_store import open_store
from flowcpc.train.evaluation import evaluate, unit
from flowcpc.train.evaluation.classifiers import classifier
from flowcpc.train.evaluation.classifiers.finetuned import load_finetuned
from flowcpc.train.evaluation.config import SCHEDULES, EvaluationConfig
from flowcpc.train.evaluation.modes import MODES
from flowcpc.train.evaluation.results import read_results
from flowcpc.train.evaluation.scoring.scoreboard import summarise
from flowcpc.train.pretraining.loop import pretrain


@pytest.mark.parametrize("mode", ["linear", pytest.param("finetune", marks=pytest.mark.slow)])
def test_only_what_was_evaluated_alike_is_shown_beside(store: Path, run: Path, mode: str) -> None:
    """Rows of another mode with other settings, or on other videos, are no baselines of these."""
    evaluated(store, run, "scratch", evaluation=dataclasses.replace(EVALUATION, momentum=0.5))
    assert evaluated(store, run, mode).baselines.empty
    evaluated(store, run, "scratch")
    assert evaluated(store, run, mode).baselines["encoder"].unique().tolist() == ["scratch"]
    assert evaluated(store, run, mode, seeds=[1]).baselines.empty
    assert evaluated(store, run, mode, labels=[2]).baselines.empty
    open_store(store).relabel(open_store(store).commit_of("v00"), {"label": "Down"})
    assert evaluated(store, run, mode).baselines.empty


@pytest.mark.parametrize("mode", MODES)
def test_every_setting_that_a_mode_reads_is_one_that_its_results_are_known_by(
    store: Path, run: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()

    class Watched(EvaluationConfig):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    original = evaluate._compute

    def watch(one: unit.EvaluationUnit, listener: Listener) -> pd.DataFrame:
        watched = Watched(**dataclasses.asdict(one.evaluation))
        copy = dataclasses.replace(one, evaluation=watched)
        vars(copy)["folder"] = one.folder  # its basis reads all settings
        read.clear()
        return original(copy, listener)

    monkeypatch.setattr(evaluate, "_compute", watch)
    evaluated(store, run, mode)
    fields = {field.name for field in dataclasses.fields(EvaluationConfig)} - {"schedule"}
    assert read & fields == set(MODES[mode].settings)


def test_finished_results_are_read_and_not_computed(
    store: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluated(store, run)
    listener = Recorder()
    monkeypatch.setattr(evaluate, "_compute", None)
    again = evaluated(store, run, listener=listener)
    pd.testing.assert_frame_equal(again.table, first.table)
    assert listener.said == [
        f"read the finished results in {run / 'evaluate' / 'linear-all-fold1-seed0'}"
    ]


def test_seeds_of_several_schedules_are_one_row_where_the_schedules_do_not_differ(
    store: Path, run: Path
) -> None:
    """A vote of neighbours has the same settings in both schedules, so its results are shared."""
    first = evaluated(store, run, "knn", evaluation=SCHEDULES["paper"]).table
    listener = Recorder()
    found = evaluated(
        store, run, "knn", evaluation=SCHEDULES["cpu"], seeds=[0, 1], listener=listener
    )
    assert (
        f"read the finished results in {run / 'evaluate' / 'knn-all-fold1-seed0'}" in listener.said
    )
    assert set(first["schedule"]) == {"paper"}
    assert set(found.table["schedule"]) == {"cpu"}
    pd.testing.assert_frame_equal(found.table.query("seed == 0").assign(schedule="paper"), first)
    summary = summarise(found.table)
    assert summary["encoder"].is_unique
    assert (summary["weights"] * summary["seeds"] == 2).all()


def test_baselines_beside_are_called_by_the_schedule_that_is_asked_for(
    store: Path, run: Path
) -> None:
    of_cpu = dataclasses.replace(EVALUATION, schedule="cpu")
    evaluated(store, run, "random")
    beside = evaluated(store, run, "linear", evaluation=of_cpu).baselines
    assert set(beside["encoder"]) == {"random"}
    assert set(beside["schedule"]) == {"cpu"}


def test_results_that_somebody_rewrote_are_made_again_with_a_word(store: Path, run: Path) -> None:
    first = evaluated(store, run, "knn").table
    file = run / "evaluate" / "knn-all-fold1-seed0" / "results.parquet"
    pd.read_parquet(file).assign(top1=0.99).to_parquet(file)
    listener = Recorder()
    again = evaluated(store, run, "knn", listener=listener)
    pd.testing.assert_frame_equal(again.table, first)
    assert (
        f"the results in {file.parent} are damaged or were changed; they are made again"
        in listener.said
    )


@pytest.mark.parametrize("name", ["predictions.parquet", "weights.safetensors"])
@pytest.mark.parametrize("lost", [True, False])
def test_a_file_that_was_lost_or_damaged_is_made_again(
    store: Path, run: Path, name: str, lost: bool
) -> None:
    first = evaluated(store, run, "finetune").table
    file = run / "evaluate" / "finetune-all-fold1-seed0" / name
    if lost:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    listener = Recorder()
    pd.testing.assert_frame_equal(evaluated(store, run, "finetune", listener=listener).table, first)
    assert (
        f"the results in {file.parent} are damaged or were changed; they are made again"
        in listener.said
    )
    assert len(load_finetuned(file.parent).classes) == len(predictions(file.parent)[1][0])


def test_pretraining_on_leaves_what_used_no_weights(store: Path, run: Path) -> None:
    first = {mode: evaluated(store, run, mode).table for mode in ("scratch", "random")}
    pretrain(store, run, dataclasses.replace(CONFIG, steps=9))
    for mode, table in first.items():
        listener = Recorder()
        pd.testing.assert_frame_equal(evaluated(store, run, mode, listener=listener).table, table)
        assert [message.split(" in ")[0] for message in listener.said] == [
            "read the finished results"
        ]


def test_a_random_encoder_is_the_same_in_both_modes_that_train_on_it(
    store: Path, run: Path
) -> None:
    found = {}
    for mode in ("linear", "random"):
        evaluated(store, run, mode)
        rows, logits = predictions(run / "evaluate" / f"{mode}-all-fold1-seed0")
        found[mode] = logits[(rows["encoder"] == "random").to_numpy()]
    np.testing.assert_array_equal(found["linear"], found["random"])


def test_finished_results_stay_until_others_are_begun(store: Path, run: Path) -> None:
    """A call that is refused, or ends before it comes to a unit, costs no result."""
    other = dataclasses.replace(EVALUATION, neighbours=1)
    first = evaluated(store, run, "knn", seeds=[0, 1]).table
    evaluated(store, run, "knn", labels=[2], seeds=[1])
    (run / "evaluate" / "labels" / "2-fold1-seed1.parquet").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is damaged"):
        evaluated(store, run, "knn", labels=[None, 2], seeds=[0, 1], evaluation=other)
    pd.testing.assert_frame_equal(evaluated(store, run, "knn", seeds=[0, 1]).table, first)

    def kill(done: int, total: int, fields: dict[str, Any]) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(
            store, run, "knn", seeds=[0, 1], evaluation=other, listener=Recorder(on_progress=kill)
        )
    assert read_results(run).query("labels_per_class == 'all'")["seed"].unique().tolist() == [1]


@pytest.mark.parametrize("mode", [pytest.param("linear", marks=pytest.mark.slow), "probe"])
def test_another_checkpoint_seed_or_setting_is_evaluated_anew(
    store: Path, run: Path, mode: str
) -> None:
    evaluated(store, run, mode)
    first = logits_of(run, f"{mode}-all-fold1-seed0")
    evaluated(store, run, mode, seeds=[1])
    assert not np.array_equal(logits_of(run, f"{mode}-all-fold1-seed1"), first)
    pretrain(store, run, dataclasses.replace(CONFIG, steps=9))
    listener = Recorder()
    result = evaluated(store, run, mode, listener=listener)
    assert any(
        "have other weights, settings or videos; they are made again" in message
        for message in listener.said
    )
    assert (result.table["pretrain_steps"] == 9).all()
    rows, again = predictions(run / "evaluate" / f"{mode}-all-fold1-seed0")
    same = rows["encoder"].isin(["random", "motion statistics"]).to_numpy()
    np.testing.assert_array_equal(again[same], first[same])
    assert not np.array_equal(again[~same], first[~same])
    # A setting that another mode has changes nothing here.
    other = {"neighbours": 1} if mode == "linear" else {"linear_steps": 5}
    listener.said.clear()
    evaluated(
        store,
        run,
        mode,
        evaluation=dataclasses.replace(EVALUATION, **other),
        listener=listener,
    )
    assert [message.split(" in ")[0] for message in listener.said] == ["read the finished results"]


@pytest.mark.parametrize(
    ("mode", "stops"),
    [
        ("linear", (1,)),
        pytest.param("linear", (4, 3), marks=pytest.mark.slow),
        ("linear", (8,)),
        pytest.param("linear", (13,), marks=pytest.mark.slow),
        pytest.param("linear", (6, 1, 1, 9), marks=pytest.mark.slow),
        ("finetune", (3, 2)),
        pytest.param("finetune", (7,), marks=pytest.mark.slow),
        pytest.param("scratch", (1, 4), marks=pytest.mark.slow),
        ("probe", (2, 1, 3, 2)),
        ("retrieval", (1, 1)),
    ],
)
def test_an_interrupted_evaluation_equals_an_uninterrupted_one(
    store: Path, run: Path, tmp_path: Path, mode: str, stops: tuple[int, ...]
) -> None:
    name = f"{mode}-all-fold1-seed0"
    evaluated(store, run, mode)
    first = pd.read_parquet(run / "evaluate" / name / "predictions.parquet")
    (run / "evaluate").rename(tmp_path / "earlier")
    for stop in stops:
        stopped = evaluated(store, run, mode, listener=Recorder(StopAfter(stop)))
        assert not stopped.finished
        assert stopped.table.empty
    evaluated(store, run, mode)
    pd.testing.assert_frame_equal(
        pd.read_parquet(run / "evaluate" / name / "predictions.parquet"), first
    )


@pytest.mark.parametrize("mode", ["linear", pytest.param("finetune", marks=pytest.mark.slow)])
def test_a_killed_evaluation_goes_on_from_its_last_state(
    store: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    name = f"{mode}-all-fold1-seed0"
    evaluated(store, run, mode)
    first = logits_of(run, name)
    (run / "evaluate").rename(tmp_path / "earlier")
    monkeypatch.setattr(classifier, "_SAVE_EVERY", 2)
    seen = []

    def kill(done: int, total: int, fields: object) -> None:
        seen.append(done)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(store, run, mode, listener=Recorder(on_progress=kill))
    listener = Recorder()
    evaluated(store, run, mode, listener=listener)
    seen += [done for done, _, _ in listener.calls]
    assert seen[:7] == [1, 2, 3, 4, 5, 5, 6]
    np.testing.assert_array_equal(logits_of(run, name), first)


def test_another_store_s_videos_of_the_same_name_are_other_videos(
    store: Path, run: Path, tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    """A video's features are kept by the generation of its flow."""
    evaluated(store, run, "knn")
    first = logits_of(run, "knn-all-fold1-seed0")
    (tmp_path / "second").mkdir()
    other = small_store(tmp_path / "second", make_store, lengths=lambda n: 5 + n)
    assert unit.digest_of(open_store(other).videos()) != unit.digest_of(open_store(store).videos())
    evaluated(other, run, "knn", evaluation=dataclasses.replace(EVALUATION, neighbours=1))
    assert not np.array_equal(logits_of(run, "knn-all-fold1-seed0"), first)


def of_other_names(make_store: Callable[..., Path]) -> Callable[..., Path]:
    """Make stores whose videos have names of their own."""

    def make(path: Path, videos: dict[str, Any], **tables: Any) -> Path:
        with_frames = {"with_frames": tables.pop("with_frames")}
        named = {
            key: {f"w{name}": value for name, value in table.items()}
            for key, table in tables.items()
        }
        return make_store(
            path, {f"w{name}": flow for name, flow in videos.items()}, **named, **with_frames
        )

    return make


@pytest.mark.parametrize("mode", ["knn", pytest.param("linear", marks=pytest.mark.slow)])
def test_another_data_set_replaces_no_results(
    store: Path, run: Path, tmp_path: Path, make_store: Callable[..., Path], mode: str
) -> None:
    first = evaluated(store, run, mode).table
    files = {path: path.read_bytes() for path in (run / "evaluate").rglob("*.parquet")}
    (tmp_path / "second").mkdir()
    other = small_store(tmp_path / "second", of_other_names(make_store))
    with pytest.raises(
        ValueError,
        match=rf"{mode}-all-fold1-seed0 has finished results on {TEST_VIDEOS} test videos, and 0 "
        rf"of them are among the {TEST_VIDEOS} test videos of .*store.flow; give --out another",
    ):
        evaluated(other, run, mode)
    assert files == {path: path.read_bytes() for path in (run / "evaluate").rglob("*.parquet")}
    out = tmp_path / "out"
    result = evaluated(other, run, mode, out=out, labels=[None, 2])
    assert result.path == out / "evaluate"
    assert result.table["run"].eq("run").all()
    assert (out / "evaluate" / "labels" / "2-fold1-seed0.parquet").is_file()
    assert files == {path: path.read_bytes() for path in (run / "evaluate").rglob("*.parquet")}
    pd.testing.assert_frame_equal(evaluated(store, run, mode).table, first)
    assert read_results([run, out]).groupby("path", sort=False).size().tolist() == [
        len(first),
        len(result.table),
    ]
