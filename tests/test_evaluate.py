"""An evaluation as a whole: what it writes, that it resumes, what it refuses."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from train_cases import CLASSES, CONFIG, EVALUATION, TEST_VIDEOS, TRAIN_VIDEOS, StopAfter, small_store

from stores.embeddings import vectors_from_arrow
from stores.errors import OperationError
from stores.flow_store import open_store
from train import classifier, evaluate, evaluation_task
from train.checkpoint import load_encoder
from train.config import named_seed
from train.encoder import Encoder
from train.evaluation_config import EvaluationConfig
from train.loop import pretrain
from train.modes import MODES
from train.results import read_results
from train.scoreboard import Evaluation

TEST_IDS = [f"v{n:02d}" for n in range(TRAIN_VIDEOS, TRAIN_VIDEOS + TEST_VIDEOS)]
TINY = ["num_flows=2", "size=16x16", "width=2"]


@pytest.fixture
def store(tmp_path: Path, make_store: Callable[..., Path]) -> Path:
    return small_store(tmp_path, make_store)


@pytest.fixture
def run(store: Path, tmp_path: Path) -> Path:
    pretrain(store, tmp_path / "run", CONFIG)
    return tmp_path / "run"


def evaluated(store: Path, run: Path | None, mode: str = "linear", **options: Any) -> Evaluation:
    return evaluate.evaluate(store, run, mode=mode, settings=options.pop("settings", EVALUATION), **options)


def predictions(folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
    table = pq.read_table(folder / "predictions.parquet")
    return table.drop_columns(["logits"]).to_pandas(), vectors_from_arrow(table["logits"])


def logits_of(run: Path, name: str = "linear-all-fold1-seed0") -> np.ndarray:
    return predictions(run / "evaluate" / name)[1]


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
def test_every_mode_tests_every_video_once_beside_its_baselines(store: Path, run: Path, mode: str) -> None:
    calls: list[tuple[int, int]] = []
    result = evaluated(store, run, mode, progress=lambda done, total, fields: calls.append((done, total)))
    assert result.finished
    assert calls[-1][0] == calls[-1][1] == calls[0][1]
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    folder = run / "evaluate" / f"{mode}-all-fold1-seed0"
    protocols = {"uniform8"} if mode in ("probe", "knn", "retrieval") else {"random8", "uniform8"}
    table = result.table
    assert list(dict.fromkeys(table["encoder"])) == [*ENCODERS[mode], "motion statistics"]
    assert set(table["protocol"]) == protocols | {"whole video"}
    assert (table["videos"] == TEST_VIDEOS).all()
    assert (table["chance"] == 0.5).all()
    for column, value in {"run": "run", "mode": mode, "labels_per_class": "all", "fold": 1, "seed": 0}.items():
        assert table[column].eq(value).all(), column
    assert table["pretrain_steps"].eq(0 if mode in ("scratch", "random") else CONFIG.steps).all()
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "results.parquet"), table)
    rows = pd.read_parquet(folder / "predictions.parquet")
    assert len(rows) == TEST_VIDEOS * len(table)
    for (encoder, protocol), part in rows.groupby(["encoder", "protocol"]):
        assert part["video_id"].tolist() == TEST_IDS
        (row,) = table[(table["encoder"] == encoder) & (table["protocol"] == protocol)].to_dict("records")
        assert row["r1" if mode == "retrieval" else "top1"] == pytest.approx(
            (part["predicted"] == part["label"]).mean()
        )
    if mode != "retrieval":
        best = predictions(folder)[1].argmax(axis=1)
        assert rows["predicted"].tolist() == [CLASSES[number] for number in best]
    assert sorted(path.name for path in folder.iterdir()) == [
        "classes.parquet",
        "confusion.parquet",
        "evaluation.json",
        "predictions.parquet",
        "results.parquet",
    ]
    text = result.to_text()
    assert "chance" in text
    assert "motion statistics" in text
    assert ("shuffled labels" in text) == (mode not in ("finetune", "scratch"))


@pytest.mark.parametrize("mode", ["linear", "probe", "knn", "finetune"])
@pytest.mark.parametrize("seed", range(2))
def test_it_tells_easy_classes_apart(tmp_path: Path, make_store: Callable[..., Path], mode: str, seed: int) -> None:
    """A blob moves right or down: at most one of five test videos is missed, even on random features of eight training
    videos. Labels that belong to other videos would leave about half.
    """
    store = small_store(tmp_path, make_store, lengths=lambda n: 12 + n)
    pretrain(store, tmp_path / "run", dataclasses.replace(CONFIG, seed=seed, steps=1, width=8))
    settings = ["linear_steps=100", "batch_size=8", "linear_learning_rates=0:0.2", "neighbours=3"]
    settings += ["finetune_steps=40", "finetune_learning_rates=0:0.02", "dropout=0.2"]
    table = evaluated(store, tmp_path / "run", mode, settings=settings).table
    assert table[table["encoder"] != "shuffled labels"]["top1"].min() >= 0.8


def test_the_scoreboard_shows_scratch_beside_finetune(store: Path, run: Path) -> None:
    evaluated(store, run, "scratch")
    evaluated(store, run, "linear")
    result = evaluated(store, run, "finetune")
    assert set(result.beside["encoder"]) == {"scratch", "random"}
    text = result.to_text()
    for words in (
        "pretrained - scratch: ",
        "pretrained - random: ",
        "pretrained - motion statistics: ",
        "times chance",
    ):
        assert words in text, text


@pytest.mark.parametrize("mode", ["linear", "finetune"])
def test_only_what_was_evaluated_alike_is_shown_beside(store: Path, run: Path, mode: str) -> None:
    """Rows of another mode with other settings, or on other videos, are no baselines of these."""
    evaluated(store, run, "scratch", settings=[*EVALUATION, "momentum=0.5"])
    assert evaluated(store, run, mode).beside.empty
    evaluated(store, run, "scratch")
    assert evaluated(store, run, mode).beside["encoder"].unique().tolist() == ["scratch"]
    assert evaluated(store, run, mode, seeds=[1]).beside.empty
    assert evaluated(store, run, mode, labels=["2"]).beside.empty
    open_store(store).relabel(open_store(store).commit_of("v00"), {"label": "Down"})
    assert evaluated(store, run, mode).beside.empty


@pytest.mark.parametrize("mode", ENCODERS)
def test_every_setting_that_a_mode_reads_is_one_that_its_results_are_known_by(
    store: Path, run: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()

    class Watched(EvaluationConfig):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    original = evaluate._run

    def watch(plan: Any, *args: Any) -> Any:
        watched = Watched(**dataclasses.asdict(plan.task.evaluation))
        read.clear()
        return original(plan._replace(task=dataclasses.replace(plan.task, evaluation=watched)), *args)

    monkeypatch.setattr(evaluate, "_run", watch)
    evaluated(store, run, mode)
    fields = {field.name for field in dataclasses.fields(EvaluationConfig)} - {"schedule"}
    assert read & fields == set(MODES[mode].settings)


def test_combinations_are_units_of_their_own(store: Path, run: Path) -> None:
    result = evaluated(store, run, "knn", labels=["all", "2"], seeds=[0, 1])
    assert sorted(path.name for path in (run / "evaluate").glob("knn-*")) == [
        f"knn-{labels}-fold1-seed{seed}" for labels in ("2", "all") for seed in (0, 1)
    ]
    assert len(read_results(run)) == len(result.table) == 4 * 4
    for seed in (0, 1):
        subset = pd.read_parquet(run / "evaluate" / "labels" / f"2-fold1-seed{seed}.parquet")
        assert subset.groupby("label")["group"].nunique().tolist() == [2, 2]
    text = result.to_text()
    assert "labels per class: 2; mean ± standard deviation over 2 folds and seeds" in text
    assert " ± " in text


def test_scratch_and_random_need_no_run(store: Path, tmp_path: Path) -> None:
    for mode in ("scratch", "random"):
        out = tmp_path / "out"
        result = evaluated(store, None, mode, out=out, preset="tiny", settings=[*EVALUATION, *TINY])
        assert result.path == out / "evaluate"
        assert result.table["run"].eq("").all()
        assert result.table["pretrain_steps"].eq(0).all()
        assert result.table["preset"].eq("tiny").all()
    assert set(read_results(out)["mode"]) == {"scratch", "random"}
    with pytest.raises(ValueError, match="--mode linear evaluates a pretrained encoder; give its RUN"):
        evaluated(store, None, "linear", out=out, preset="tiny")
    with pytest.raises(ValueError, match="give --out and --preset"):
        evaluated(store, None, "scratch", preset="tiny")


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

    monkeypatch.setattr("train.modes.predict_logits", spy)
    before = load_encoder(run).state_dict()
    evaluated(store, run, "linear")
    linear, untrained = (model.encoder for model in trained)
    assert all(torch.equal(value, before[name]) for name, value in linear.state_dict().items())
    torch.manual_seed(named_seed(0, "initial weights"))
    for name, value in Encoder(CONFIG).named_parameters():
        assert torch.equal(untrained.get_parameter(name), value), name
    # batch-norm statistics of the training videos, where a new encoder has means of 0
    assert all(part.running_mean.abs().sum() > 0 for part in untrained.modules() if isinstance(part, nn.BatchNorm2d))

    evaluated(store, run, "finetune")
    tuned = trained[-1].encoder.state_dict()
    floats = [name for name, value in tuned.items() if value.is_floating_point()]
    assert [name for name in floats if torch.equal(tuned[name], before[name])] == []


def test_finished_results_are_read_and_not_computed(store: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluated(store, run)
    messages: list[str] = []
    monkeypatch.setattr(evaluate, "_run", None)
    again = evaluated(store, run, announce=messages.append)
    pd.testing.assert_frame_equal(again.table, first.table)
    assert messages == [f"read the finished results in {run / 'evaluate' / 'linear-all-fold1-seed0'}"]


def test_pretraining_on_leaves_what_used_no_weights(store: Path, run: Path) -> None:
    first = {mode: evaluated(store, run, mode).table for mode in ("scratch", "random")}
    pretrain(store, run, dataclasses.replace(CONFIG, steps=9))
    for mode, table in first.items():
        messages: list[str] = []
        pd.testing.assert_frame_equal(evaluated(store, run, mode, announce=messages.append).table, table)
        assert [message.split(" in ")[0] for message in messages] == ["read the finished results"]


def test_a_random_encoder_is_the_same_in_both_modes_that_train_on_it(store: Path, run: Path) -> None:
    found = {}
    for mode in ("linear", "random"):
        evaluated(store, run, mode)
        rows, logits = predictions(run / "evaluate" / f"{mode}-all-fold1-seed0")
        found[mode] = logits[(rows["encoder"] == "random").to_numpy()]
    np.testing.assert_array_equal(found["linear"], found["random"])


def test_finished_results_stay_until_others_are_begun(store: Path, run: Path) -> None:
    """A call that is refused, or ends before it comes to a unit, costs no result."""
    other = [*EVALUATION, "neighbours=1"]
    first = evaluated(store, run, "knn", seeds=[0, 1]).table
    evaluated(store, run, "knn", labels=["2"], seeds=[1])
    (run / "evaluate" / "labels" / "2-fold1-seed1.parquet").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is damaged"):
        evaluated(store, run, "knn", labels=["all", "2"], seeds=[0, 1], settings=other)
    pd.testing.assert_frame_equal(evaluated(store, run, "knn", seeds=[0, 1]).table, first)

    def kill(done: int, total: int, fields: dict[str, Any]) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(store, run, "knn", seeds=[0, 1], settings=other, progress=kill)
    assert read_results(run).query("labels_per_class == 'all'")["seed"].unique().tolist() == [1]


@pytest.mark.parametrize("mode", ["linear", "probe"])
def test_another_checkpoint_seed_or_setting_is_evaluated_anew(store: Path, run: Path, mode: str) -> None:
    evaluated(store, run, mode)
    first = logits_of(run, f"{mode}-all-fold1-seed0")
    evaluated(store, run, mode, seeds=[1])
    assert not np.array_equal(logits_of(run, f"{mode}-all-fold1-seed1"), first)
    pretrain(store, run, dataclasses.replace(CONFIG, steps=9))
    messages: list[str] = []
    result = evaluated(store, run, mode, announce=messages.append)
    assert any("were of other weights, settings or videos, and are made again" in message for message in messages)
    assert (result.table["pretrain_steps"] == 9).all()
    rows, again = predictions(run / "evaluate" / f"{mode}-all-fold1-seed0")
    same = rows["encoder"].isin(["random", "motion statistics"]).to_numpy()
    np.testing.assert_array_equal(again[same], first[same])
    assert not np.array_equal(again[~same], first[~same])
    # A setting that another mode has changes nothing here.
    other = "neighbours=1" if mode == "linear" else "linear_steps=5"
    messages.clear()
    evaluated(store, run, mode, settings=[*EVALUATION, other], announce=messages.append)
    assert [message.split(" in ")[0] for message in messages] == ["read the finished results"]


@pytest.mark.parametrize(
    ("mode", "stops"),
    [
        ("linear", (1,)),
        ("linear", (4, 3)),
        ("linear", (8,)),
        ("linear", (13,)),
        ("linear", (6, 1, 1, 9)),
        ("finetune", (3, 2)),
        ("finetune", (7,)),
        ("scratch", (1, 4)),
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
        stopped = evaluated(store, run, mode, should_stop=StopAfter(stop))
        assert not stopped.finished
        assert stopped.table.empty
    evaluated(store, run, mode)
    pd.testing.assert_frame_equal(pd.read_parquet(run / "evaluate" / name / "predictions.parquet"), first)


@pytest.mark.parametrize("mode", ["linear", "finetune"])
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
        evaluated(store, run, mode, progress=kill)
    evaluated(store, run, mode, progress=lambda done, total, fields: seen.append(done))
    assert seen[:7] == [1, 2, 3, 4, 5, 5, 6]
    np.testing.assert_array_equal(logits_of(run, name), first)


def test_a_training_that_diverges_is_a_sentence(store: Path, run: Path) -> None:
    settings = [*EVALUATION, "finetune_learning_rates=0:1e30"]
    with pytest.raises(OperationError, match="the training has diverged; take a lower learning rate"):
        evaluated(store, run, "finetune", settings=settings)
    assert not (run / "evaluate" / "finetune-all-fold1-seed0" / "results.parquet").exists()


def lose(store: Path, split: str) -> None:
    names = {"video_id": "lost", "path": "lost.avi", "label": "Down", "group": None, "folds": {"fold1": split}}
    why = {"kind": "file", "reason": "broken", "attempts": 1, "time": 0.0, "source_bytes": 1, "source_mtime_ns": 1}
    open_store(store).record_failure(names | why)


def test_missing_test_videos_are_refused_unless_allowed(store: Path, run: Path) -> None:
    lose(store, "test")
    with pytest.raises(ValueError, match="1 test videos of fold 1 have no flow: lost"):
        evaluated(store, run)
    messages: list[str] = []
    result = evaluated(store, run, allow_missing=True, announce=messages.append)
    assert (result.table["missing"] == 1).all()
    assert any("missing and left out: 1;" in message for message in messages)


def test_missing_training_videos_are_named(store: Path, run: Path) -> None:
    lose(store, "train")
    messages: list[str] = []
    assert evaluated(store, run, "knn", announce=messages.append).table["missing"].eq(0).all()
    assert messages[0] == "1 training videos of fold 1 have no flow and teach nothing: lost"


def test_a_run_that_saw_the_test_videos_is_marked(store: Path, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "all", dataclasses.replace(CONFIG, split="all", steps=1))
    messages: list[str] = []
    result = evaluated(store, tmp_path / "all", "knn", announce=messages.append)
    assert result.table["transductive"].all()
    assert any("its results are transductive" in message for message in messages)


def test_what_cannot_be_evaluated(store: Path, run: Path, tmp_path: Path, make_store: Callable[..., Path]) -> None:
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of a run"):
        evaluated(store, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="fold=3 was asked for"):
        evaluated(store, run, folds=[1, 3])
    assert not (run / "evaluate").exists()  # refused before anything was trained
    with pytest.raises(ValueError, match="labels per class: 'some' is neither `all` nor a number"):
        evaluated(store, run, labels=["some"])
    with pytest.raises(
        ValueError, match="there is no setting 'linear_step' of an evaluation; did you mean 'linear_steps'"
    ):
        evaluated(store, run, settings=["linear_step=3"])
    with pytest.raises(ValueError, match="lists of which each needs one value or more"):
        evaluated(store, run, seeds=[])
    with pytest.raises(ValueError, match="leave out --out and --preset, or leave out RUN"):
        evaluated(store, run, preset="tiny")
    other = make_store(tmp_path / "other", {"a": np.zeros((3, 2, 20, 20), np.float32)})
    with pytest.raises(ValueError, match="the run was trained on other flow: height was 18 and is 20"):
        evaluated(other, run)


def test_another_store_s_videos_of_the_same_name_are_other_videos(
    store: Path, run: Path, tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    """A video's features are kept by the generation of its flow."""
    evaluated(store, run, "knn")
    first = logits_of(run, "knn-all-fold1-seed0")
    (tmp_path / "second").mkdir()
    other = small_store(tmp_path / "second", make_store, lengths=lambda n: 5 + n)
    assert evaluation_task.digest_of(open_store(other).videos()) != evaluation_task.digest_of(
        open_store(store).videos()
    )
    evaluated(other, run, "knn", settings=[*EVALUATION, "neighbours=1"])
    assert not np.array_equal(logits_of(run, "knn-all-fold1-seed0"), first)
