import json
import math
from pathlib import Path

import pytest
import torch

from flowcpc.train.model.loss import InfoNCE
from flowcpc.train.runs.metrics import (
    METRICS_FILE,
    MetricsLog,
    NceSums,
    Window,
    effective_rank,
    line_of,
    read_metrics,
)

CPU = torch.device("cpu")


def found(loss: float, accuracy: float) -> InfoNCE:
    return InfoNCE(torch.tensor(loss), torch.tensor(accuracy), torch.tensor([accuracy, 0.0]))


def line(window: Window, **changes: object) -> dict[str, object]:
    told = {
        "step": 40,
        "rate": 0.1,
        "classes": 9,
        "batch_size": 6,
        "ranks": 1,
        "effective_rank": 3.5,
    }
    return line_of(window.values(), **told | changes)


def test_a_line_holds_means_since_the_line_before() -> None:
    window = Window([1, 2], CPU)
    window.add(found(9, 1), stride=0, size=1)
    window.add_time(1, 1)
    window.clear()
    window.add(found(1, 0.5), stride=4, size=100)
    window.add(found(2, 0.25), stride=6, size=200)
    window.add_time(0.5, 3)
    assert line(window, ranks=2) == {
        "step": 40,
        "loss": 1.5,
        "accuracy": 0.375,
        "horizon_accuracy": [0.375, 0],
        "information_bound": math.log(9) - 1.5,
        "classes": 9,
        "learning_rate": 0.1,
        "stride": 5,
        "effective_rank": 3.5,
        "bytes_per_step": 300,
        "data_time": 0.25,
        "step_time": 1.5,
        "samples_per_second": 4,
    }


def test_predictions_that_look_equally_far_ahead_are_averaged() -> None:
    sums = NceSums([1, 2, 3, 1, 2, 1], CPU)
    pairs = torch.tensor([0.0, 1, 5, 0.5, 2, 1])
    sums.add(InfoNCE(torch.tensor(2.0), torch.tensor(0.25), pairs))
    assert sums.values.tolist() == pytest.approx([2, 0.25, 0.5, 1.5, 5])


def test_sums_survive_a_checkpoint() -> None:
    window, other = (Window([1, 2], CPU) for _ in range(2))
    window.add(found(1 / 3, 0.1), stride=4.5, size=7)
    window.add_time(0.5, 1)
    other.restore(json.loads(json.dumps(window.values())))
    for one in (window, other):
        one.add(found(2 / 7, 0.3), stride=4, size=7)
        one.add_time(0, 1)
    assert line(window) == line(other)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_one_bad_step_is_remembered(loss: float) -> None:
    window = Window([1, 2], CPU)
    for value in (1, loss, 1):
        window.add(found(value, 0), stride=1, size=1)
    assert not window.is_finite()
    window.clear()
    assert window.is_finite()


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_the_effective_rank_counts_directions(directions: int) -> None:
    """Latents are a mean plus or minus unit vectors, each equally often.

    So their covariance has equal eigenvalues.
    """
    units = torch.eye(8)[:directions]
    latents = 5 + torch.cat([units, -units]).unsqueeze(1)
    assert effective_rank(latents) == pytest.approx(directions, rel=1e-4)
    assert effective_rank(latents.bfloat16()) == pytest.approx(directions, rel=0.05)


def test_the_effective_rank_of_a_collapse() -> None:
    assert effective_rank(torch.ones(4, 3, 8)) == 0
    latents = torch.outer(torch.arange(6.0), torch.tensor([1.0, -2.0])).unflatten(0, (2, 3))
    assert effective_rank(latents) == pytest.approx(1, abs=1e-5)


def test_a_log_of_another_process_reads_and_writes_nothing(tmp_path: Path) -> None:
    MetricsLog(tmp_path, keep=0).append({"step": 10, "loss": 1})
    other = MetricsLog(tmp_path, keep=10, writes=False)
    other.append({"step": 20, "loss": 2})
    other.sync()
    assert other.last("loss") == {"step": 20, "loss": 2}
    assert [one["step"] for one in read_metrics(tmp_path)] == [10]


def test_opening_a_log_drops_what_lies_ahead(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    log = MetricsLog(tmp_path, keep=0)
    for step in (10, 20, 30):
        log.append({"step": step, "loss": step / 10})
    log.append({"step": 30, "held_out_accuracy": 0.5})
    assert log.last("loss") == {"step": 30, "loss": 3}
    assert log.last("nothing") is None
    with open(tmp_path / METRICS_FILE, "a") as file:
        file.write('{"step": 40, "lo')  # killed here
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 30, 30]
    kept = MetricsLog(tmp_path, keep=20)
    kept.append({"step": 25, "loss": 1})
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 25]
