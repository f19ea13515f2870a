import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from recorder import Recorder
from train_cases import StopAfter, small_store

from flowcpc.commands import console, main
from flowcpc.train.evaluation.classifiers import motion_statistics
from flowcpc.train.evaluation.config import SCHEDULES
from flowcpc.train.pretraining import loop
from flowcpc.train.pretraining.execution import Execution
from flowcpc.train.pretraining.training_run import DivergedError, PretrainResult
from flowcpc.train.reproduction import reproduce
from flowcpc.train.runs.checkpoint import require_checkpoint
from flowcpc.train.runs.metrics import read_metrics
from flowcpc.train.settings.config import PretrainConfig

SMALL = ["--scale", "cpu", "--steps", "4", "--set", "width=2", "--evaluation-set", "linear_steps=3"]
FAST = {
    "scale": "cpu",
    "changes": {"steps": 4, "width": 2},
    "evaluation": dataclasses.replace(SCHEDULES["cpu"], linear_steps=3, finetune_steps=3),
}


@pytest.fixture(autouse=True)
def small_forest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The motion statistics beside every row take most of the time of such small tables."""
    monkeypatch.setattr(motion_statistics, "TREES", 5)


def run(store: Path, out: Path, table: int, *words: str) -> Result:
    return CliRunner().invoke(
        main.main, ["reproduce", str(store), str(out), "--table", str(table), *SMALL, *words]
    )


def table_of(out: Path, number: int) -> pd.DataFrame:
    return pd.read_parquet(out / f"table{number}-cpu.parquet")


@pytest.mark.slow
def test_a_table_from_the_first_command_to_the_last_number(store: Path, tmp_path: Path) -> None:
    result = run(store, tmp_path / "out", 3, "--seeds", "0,1")
    assert result.exit_code == 0, result.output
    assert result.stdout == (tmp_path / "out" / "table3-cpu.md").read_text()
    found = table_of(tmp_path / "out", 3)
    assert found["preset"].tolist() == [
        f"table3-{name}"
        for name in ("model1-lstm", "model1-conv3d", "model2-lstm", "model2-conv3d")
    ]
    assert found["paper"].round(3).tolist() == [0.328, 0.554, 0.436, 0.452]
    assert found["units"].tolist() == [2] * 4
    assert found[["ours", "random", "motion", "chance", "std"]].notna().all(axis=None)
    assert set(found["reason"]) == {""}
    for row in found.to_dict("records"):
        folders = [tmp_path / "out" / f"{row['run']}-fold1-seed{seed}" for seed in (0, 1)]
        results = pd.concat(
            [
                pd.read_parquet(file)
                for one in folders
                for file in one.glob("evaluate/linear-*/results.parquet")
            ]
        )
        own = results[(results["encoder"] == "pretrained") & (results["protocol"] == "uniform8")][
            "top1"
        ]
        assert row["ours"] == pytest.approx(own.mean())
        assert row["std"] == pytest.approx(own.std())
    text = result.stdout
    assert "| table3-model1-conv3d | 55.4 |" in text
    assert "steps 4 instead of 60,000" in text
    assert "store.flow, 2 classes, 8 training and 5 test videos in fold 1" in text
    assert "table3-model1-conv3d has the settings of table1-flow here and shares its run" in text


@pytest.mark.slow
def test_killed_it_goes_on_with_the_same_command(store: Path, tmp_path: Path) -> None:
    words = ["reproduce", str(store), str(tmp_path / "parts"), "--table", "3", *SMALL]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(
        [sys.executable, "-m", "flowcpc", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    written = tmp_path / "parts" / "table3-cpu.parquet"
    while not written.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 1 <= table_of(tmp_path / "parts", 3)["ours"].notna().sum() < 4
    first = (
        (tmp_path / "parts" / "table3-model1-lstm-fold1-seed0" / "checkpoint.json")
        .stat()
        .st_mtime_ns
    )

    result = run(store, tmp_path / "parts", 3)
    assert result.exit_code == 0, result.output
    assert (
        tmp_path / "parts" / "table3-model1-lstm-fold1-seed0" / "checkpoint.json"
    ).stat().st_mtime_ns == first
    assert "read the finished results" in result.stderr
    assert run(store, tmp_path / "whole", 3).exit_code == 0
    parts, whole = (
        table_of(tmp_path / name, 3).drop(columns="motion") for name in ("parts", "whole")
    )
    pd.testing.assert_frame_equal(parts, whole)  # the killed process had a forest of another size


@pytest.mark.parametrize("stops", [3, 9])
def test_stopped_it_goes_on_too(store: Path, tmp_path: Path, stops: int) -> None:
    part = reproduce.reproduce(
        store, tmp_path / "parts", table=4, listener=Recorder(stop=StopAfter(stops)), **FAST
    )
    assert not part.finished
    parts = reproduce.reproduce(store, tmp_path / "parts", table=4, **FAST)
    whole = reproduce.reproduce(store, tmp_path / "whole", table=4, **FAST)
    assert parts.finished
    assert whole.finished
    pd.testing.assert_frame_equal(parts.table, whole.table)


@pytest.mark.slow
def test_a_row_that_diverges_keeps_its_reason_and_the_others_go_on(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain = loop.pretrain

    def diverging(
        store: Path, run: Path, config: PretrainConfig, **others: object
    ) -> PretrainResult:
        if config.context == "masked-conv3d":
            raise DivergedError("the loss is not a finite number any more at step 3")
        return pretrain(store, run, config, **others)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "pretrain", diverging)
        result = run(store, tmp_path / "out", 3)
    assert result.exit_code == console.DONE_IN_PART, result.output
    assert (
        "- table3-model2-conv3d: fold 1, seed 0: the loss is not a finite number any more at step 3"
        in result.stdout
    )
    found = table_of(tmp_path / "out", 3).set_index("preset")
    assert found["ours"].isna().to_dict() == {
        name: name == "table3-model2-conv3d" for name in found.index
    }
    assert "step 3" in found.loc["table3-model2-conv3d", "reason"]
    again = run(store, tmp_path / "out", 3)
    assert again.exit_code == 0, again.output
    assert table_of(tmp_path / "out", 3)["ours"].notna().all()


def test_a_table_on_images_says_what_it_lacks_and_does_the_rest(
    store: Path, tmp_path: Path
) -> None:
    result = run(store, tmp_path / "out", 1)
    assert result.exit_code == console.DONE_IN_PART
    assert "has no frames, which a run on images needs" in result.stdout
    found = table_of(tmp_path / "out", 1).set_index(["preset", "measure"])
    assert (
        found.loc[("table1-flow", "linear"), "ours"] == found.loc[("table1-flow", "linear"), "ours"]
    )
    trained = [
        line
        for line in read_metrics(tmp_path / "out" / "table1-flow-fold1-seed0")
        if "loss" in line
    ]
    assert found.loc[("table1-flow", "unsupervised"), "in_training"] == pytest.approx(
        trained[-1]["accuracy"]
    )
    assert found.loc[("table1-flow", "unsupervised"), "paper"] == pytest.approx(0.817)
    assert found.loc["table1-image", "ours"].isna().all()


@pytest.mark.slow
def test_images_stand_beside_flow_where_the_store_has_frames(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    with_frames = small_store(tmp_path, make_store, with_frames=True)
    small = {**FAST, "changes": {**FAST["changes"], "batch_size": 4}}  # a batch of held-out videos
    result = reproduce.reproduce(with_frames, tmp_path / "out", table=1, **small)
    assert (result.finished, result.failed) == (True, ())
    assert result.table["preset"].tolist() == ["table1-image"] * 2 + ["table1-flow"] * 2
    assert result.table["ours"].notna().all()
    images = require_checkpoint(tmp_path / "out" / "table1-image-fold1-seed0").config
    assert (images.modality, images.channels) == ("image", 3 * images.num_flows)


def test_what_cannot_be_measured_has_its_reason(store: Path, tmp_path: Path) -> None:
    """Five test videos do not fill a batch of eight."""
    result = reproduce.reproduce(store, tmp_path / "out", table=4, **FAST)
    assert result.finished
    reasons = dict(result.failed)
    assert "batch_size" in reasons["table4-easy"]
    found = result.table.set_index(["preset", "measure"])
    assert found.loc[("table4-easy", "linear"), "ours"] >= 0
    assert 0 <= found.loc[("table4-easy", "unsupervised"), "in_training"] <= 1
    assert found.loc["table4-easy", "ours"].isna().tolist() == [True, False]


@pytest.mark.slow
def test_metrics_that_are_gone_are_a_reason_too(store: Path, tmp_path: Path) -> None:
    small = {**FAST, "changes": {**FAST["changes"], "batch_size": 4}}
    whole = reproduce.reproduce(store, tmp_path / "out", table=4, **small)
    assert whole.failed == ()
    (tmp_path / "out" / "table4-easy-fold1-seed0" / "metrics.jsonl").unlink()
    again = reproduce.reproduce(store, tmp_path / "out", table=4, **small)
    assert [name for name, _ in again.failed] == ["table4-easy"]
    assert "lacks the metrics of its last step" in again.failed[0][1]


def test_a_whole_table_is_not_replaced_by_the_beginning_of_the_next_one(
    store: Path, tmp_path: Path
) -> None:
    small = {**FAST, "changes": {**FAST["changes"], "batch_size": 4}}
    whole = reproduce.reproduce(store, tmp_path / "out", table=4, **small)
    files = [tmp_path / "out" / f"table4-cpu{suffix}" for suffix in (".md", ".parquet")]
    before = [file.read_bytes() for file in files]
    shutil.rmtree(tmp_path / "out" / "table4-difficult-fold1-seed0" / "evaluate")
    part = reproduce.reproduce(
        store, tmp_path / "out", table=4, listener=Recorder(stop=StopAfter(1)), **small
    )
    assert (whole.finished, part.finished) == (True, False)
    assert [file.read_bytes() for file in files] == before


def test_workers_reach_every_pretraining(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[object] = []

    def stopped(*words: object, execution: Execution, **others: object) -> PretrainResult:
        found.append(execution)
        raise DivergedError("it is not to be")

    monkeypatch.setattr(loop, "pretrain", stopped)
    assert run(store, tmp_path / "out", 3, "--workers", "2").exit_code == console.DONE_IN_PART
    assert found == [Execution(workers=2)] * 4


@pytest.mark.slow
def test_labels_that_are_not_to_be_had_cost_their_column_alone(store: Path, tmp_path: Path) -> None:
    """Four training videos of a class cannot be eighteen; the column of all labels is measured."""
    result = reproduce.reproduce(store, tmp_path / "out", table=5, **FAST)
    assert result.finished
    found = result.table.set_index(["preset", "measure", "labels_per_class"])
    for preset in ("table5-random", "table5-tcam", "table5-conv3d"):
        for measure in ("linear", "finetune"):
            assert 0 <= found.loc[(preset, measure, "all"), "ours"] <= 1
    assert (
        tmp_path / "out" / "table5-random-fold1-seed0" / "evaluate" / "scratch-all-fold1-seed0"
    ).is_dir()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--evaluation-set", "linear_stepz=3"], "linear_steps"),
        (["--folds", "2"], "fold=2"),
        (["--set", "widht=3"], "did you mean 'width'"),
        (["--seeds", "a"], "is not a list of numbers"),
        (["--evaluation-set", "linear_stepz=3", "--dry-run"], "linear_steps"),
        (["--set", "steps=3"], "--set steps=3"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    store: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    result = run(store, tmp_path / "out", 3, *words)
    assert result.exit_code == console.USAGE
    assert sentence in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder_for_runs(store: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    result = run(store, tmp_path / "out", 3)
    assert (result.exit_code, (tmp_path / "out").read_text()) == (console.USAGE, "mine")
    assert "is a file; give the path of a folder" in result.stderr


def test_a_dry_run_trains_nothing(store: Path, tmp_path: Path) -> None:
    result = run(store, tmp_path / "out", 3, "--dry-run")
    assert result.exit_code == 0
    assert "4 runs, 16 steps of pretraining in all" in result.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_findings_from_frames_to_a_verdict_each(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    with_frames = small_store(tmp_path, make_store, with_frames=True)
    small = ["--set", "batch_size=4", "--evaluation-set", "finetune_steps=2"]
    result = CliRunner().invoke(
        main.main,
        [
            "reproduce",
            str(with_frames),
            str(tmp_path / "out"),
            "--table",
            "findings",
            *SMALL,
            *small,
        ],
    )
    assert result.exit_code == 0, result.output
    found = pd.read_parquet(tmp_path / "out" / "findings-cpu.parquet")
    assert found["units"].tolist() == [1] * 5
    assert found["holds"].notna().all()
    cells = pd.read_parquet(tmp_path / "out" / "findings-cpu-cells.parquet").set_index(
        ["preset", "measure"]
    )
    flow, image = (cells.loc[(f"table1-{name}", "linear"), "ours"] for name in ("flow", "image"))
    assert found.loc[1, "difference"] == pytest.approx(100 * (flow - image))
    assert found.loc[0, "lower"] == pytest.approx(cells.loc[("table1-flow", "linear"), "random"])
    easy, hard = (
        cells.loc[(f"table4-{name}", "unsupervised"), "ours"] for name in ("easy", "difficult")
    )
    assert found.loc[3, "difference"] == pytest.approx(100 * (easy - hard))
    tuned, scratch = (
        cells.loc[(f"table5-{name}", "finetune"), "ours"] for name in ("conv3d", "random")
    )
    assert found.loc[4, "difference"] == pytest.approx(100 * (tuned - scratch))
    assert result.stdout == (tmp_path / "out" / "findings-cpu.md").read_text()
    assert "| finetuning with 5 labels per class beats scratch | " in result.stdout
