"""What a run writes down about itself: means over steps, one JSON line each."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stores.atomic import replace_file
from train.loss import InfoNCE

METRICS_FILE = "metrics.jsonl"


class Window:
    """Sums of the metrics over the steps since the last line.

    They stay on the device, so that the loop waits for it at a line and not at every step, and they are part of a checkpoint, so that a resumed run
    writes the lines of an uninterrupted one.
    """

    def __init__(self, num_predicted: int, device: torch.device) -> None:
        # loss, accuracy, accuracy of every horizon
        self._sums = torch.zeros(2 + num_predicted, dtype=torch.float64, device=device)
        self._steps = 0.0
        self._strides = 0.0
        self._data_time = 0.0
        self._step_time = 0.0

    def add(self, found: InfoNCE, stride: float, *, data_time: float, step_time: float) -> None:
        """Count one step: its mean stride in flows, the seconds it took and those of them spent waiting for data."""
        scalars = torch.stack([found.loss.detach(), found.accuracy])
        self._sums += torch.cat([scalars, found.pair_accuracy])
        self._steps += 1
        self._strides += stride
        self._data_time += data_time
        self._step_time += step_time

    def is_finite(self) -> bool:
        """Return whether every loss in the window was a finite number."""
        return bool(torch.isfinite(self._sums).all())

    def line(self, step: int, rate: float, classes: int) -> dict[str, Any]:
        """Return the means as a line of the log."""
        loss, accuracy, *horizons = (self._sums / self._steps).tolist()
        return {
            "step": step,
            "loss": loss,
            "accuracy": accuracy,
            "horizon_accuracy": horizons,
            "information_bound": math.log(classes) - loss,
            "learning_rate": rate,
            "stride": self._strides / self._steps,
            "data_time": self._data_time / self._steps,
            "step_time": self._step_time / self._steps,
        }

    def clear(self) -> None:
        """Begin the next window."""
        self.restore([0.0] * len(self.values()))

    def values(self) -> list[float]:
        """Return the sums for a checkpoint."""
        return [self._steps, self._strides, self._data_time, self._step_time, *self._sums.tolist()]

    def restore(self, values: list[float]) -> None:
        """Take the sums of a checkpoint."""
        self._steps, self._strides, self._data_time, self._step_time, *sums = values
        self._sums.copy_(torch.tensor(sums, dtype=torch.float64))


class MetricsLog:
    """`metrics.jsonl` of a run, one JSON object a line.

    Opening it drops the lines behind step `keep`: the run goes on from there and writes them again.
    """

    def __init__(self, run: Path, *, keep: int) -> None:
        self._path = run / METRICS_FILE
        self.lines = [line for line in read_metrics(run) if line["step"] <= keep]
        replace_file(self._path, "".join(json.dumps(line) + "\n" for line in self.lines).encode())

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        self.lines.append(dict(line))
        with open(self._path, "a") as file:
            file.write(json.dumps(line) + "\n")

    def last(self, key: str) -> dict[str, Any] | None:
        """Return the last line that has `key`, or None."""
        return next((line for line in reversed(self.lines) if key in line), None)


def read_metrics(run: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics, without a last one that was cut off by a kill; empty when there are none."""
    path = Path(run, METRICS_FILE)
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")[:-1]  # what follows the last line break is unfinished
    return [json.loads(line) for line in lines]
