import json
import math
from pathlib import Path

import pytest
import torch

from train.loss import InfoNCE
from train.metrics import METRICS_FILE, MetricsLog, Window, read_metrics


def found(loss: float, accuracy: float) -> InfoNCE:
    return InfoNCE(torch.tensor(loss), torch.tensor(accuracy), torch.tensor([accuracy, 0.0]), 9)


def test_a_line_holds_means_since_the_line_before() -> None:
    window = Window(2, torch.device("cpu"))
    window.add(found(9, 1), 0, data_time=1, step_time=1)
    window.clear()
    window.add(found(1, 0.5), 4, data_time=0.5, step_time=1)
    window.add(found(2, 0.25), 6, data_time=0.0, step_time=2)
    line = window.line(40, 0.1, 9)
    assert (line["step"], line["loss"], line["accuracy"], line["horizon_accuracy"]) == (40, 1.5, 0.375, [0.375, 0])
    assert line["information_bound"] == pytest.approx(math.log(9) - 1.5)
    assert (line["stride"], line["data_time"], line["step_time"], line["learning_rate"]) == (5, 0.25, 1.5, 0.1)


def test_sums_survive_a_checkpoint() -> None:
    window, other = Window(2, torch.device("cpu")), Window(2, torch.device("cpu"))
    window.add(found(1 / 3, 0.1), 4.5, data_time=0.5, step_time=1)
    other.restore(json.loads(json.dumps(window.values())))
    for one in (window, other):
        one.add(found(2 / 7, 0.3), 4, data_time=0, step_time=1)
    assert window.line(2, 1, 9) == other.line(2, 1, 9)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_one_bad_step_is_remembered(loss: float) -> None:
    window = Window(2, torch.device("cpu"))
    for value in (1, loss, 1):
        window.add(found(value, 0), 1, data_time=0, step_time=0)
    assert not window.is_finite()
    window.clear()
    assert window.is_finite()


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
