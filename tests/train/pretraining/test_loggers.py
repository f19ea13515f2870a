import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from recorder import Recorder
from train_cases import CONFIG, StopAfter, small_store

from flowcpc.train.pretraining.execution import Execution
from flowcpc.train.pretraining.loggers import TENSORBOARD_FOLDER, named_numbers
from flowcpc.train.pretraining.loop import pretrain
from flowcpc.train.runs.metrics import read_metrics


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / TENSORBOARD_FOLDER))
    found.Reload()
    return {
        name: [(point.step, point.value) for point in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def kill(done: int, total: int, fields: object) -> None:
    if done == 5:
        raise KeyboardInterrupt


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
def test_tensorboard_shows_every_line_once(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    store, run, shown = (
        small_store(tmp_path, make_store),
        tmp_path / "run",
        Execution(tensorboard=True),
    )
    with pytest.raises(KeyboardInterrupt):  # the line of step 4 is behind the checkpoint of step 3
        pretrain(store, run, CONFIG, shown, listener=Recorder(on_progress=kill))
    assert [step for step, _ in points(run)["loss"]] == [2, 4]
    pretrain(store, run, CONFIG, shown, listener=Recorder(stop=StopAfter(2)))
    pretrain(store, run, CONFIG, shown)
    found, lines = points(run), read_metrics(run)
    assert [step for step, _ in found["loss"]] == [2, 4, 6, 7]
    expected: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in named_numbers(line).items():
            expected.setdefault(name, []).append((line["step"], pytest.approx(value, rel=1e-6)))
    assert found == expected


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_keeps_a_run_for_later(
    tmp_path: Path, make_store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    run = tmp_path / "run"
    assert pretrain(small_store(tmp_path, make_store), run, CONFIG, Execution(wandb=True)).finished
    (log,) = run.glob("wandb/offline-run-*/run-*.wandb")
    assert b"information_bound" in log.read_bytes()
