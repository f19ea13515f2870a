"""The metrics of a run: means over steps, one line of JSON each."""

import contextlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Required, TypedDict

import numpy as np
import torch
from torch import Tensor

from flowcpc.stores.base.atomic import replace_file, sync
from flowcpc.train.model.loss import InfoNCE

METRICS_FILE = "metrics.jsonl"


class MetricsLine(TypedDict, total=False):
    """A line of metrics.jsonl: means over steps since the last line, or over held-out videos."""

    step: Required[int]
    loss: float
    accuracy: float
    horizon_accuracy: list[float]
    information_bound: float
    classes: int
    learning_rate: float
    stride: float
    effective_rank: float
    bytes_per_step: float
    data_time: float
    step_time: float
    samples_per_second: float
    held_out_loss: float
    held_out_accuracy: float
    held_out_horizon_accuracy: list[float]
    held_out_information_bound: float
    held_out_classes: int
    held_out_videos: int


class NceSums:
    """Sums over steps of loss, accuracy, and accuracy at each horizon, nearest first.

    `horizons` says how many segments ahead each of P predictions looks. The sums, `values`, are
    float64 and stay on the device, so that the loop waits for it once a line, not every step.
    """

    def __init__(self, horizons: Sequence[int], device: torch.device) -> None:
        rows = [[float(one == horizon) for one in horizons] for horizon in sorted(set(horizons))]
        self._weights = torch.tensor(rows, device=device)
        self._weights /= self._weights.sum(dim=1, keepdim=True)
        self.values = torch.zeros(2 + len(rows), dtype=torch.float64, device=device)

    def add(self, nce: InfoNCE) -> None:
        """Count one step."""
        scalars = torch.stack([nce.loss.detach(), nce.accuracy])
        self.values += torch.cat([scalars, self._weights @ nce.pair_accuracy])


class Window:
    """Sums of the metrics over the steps since the last line.

    A checkpoint holds all of them, so a resumed run writes the lines of an uninterrupted one.
    `horizons` are as for NceSums.
    """

    def __init__(self, horizons: Sequence[int], device: torch.device) -> None:
        self._nce = NceSums(horizons, device)
        self._host = np.zeros(5)  # steps, strides, bytes, seconds of waiting, seconds

    def add(self, nce: InfoNCE, *, stride: float, size: int) -> None:
        """Count one step: its mean stride in flows, and the bytes of its batch."""
        self._nce.add(nce)
        self._host += (1, stride, size, 0, 0)

    def add_time(self, data_time: float, step_time: float) -> None:
        """Count the seconds that the steps took, and those of them spent waiting for data."""
        self._host += (0, 0, 0, data_time, step_time)

    def is_finite(self) -> bool:
        """Return whether every loss in the window was a finite number."""
        return bool(torch.isfinite(self._nce.values).all())

    def clear(self) -> None:
        """Begin the next window."""
        self.restore([0.0] * len(self.values()))

    def values(self) -> list[float]:
        """Return the sums, for a line or a checkpoint."""
        return [*self._host.tolist(), *self._nce.values.tolist()]

    def restore(self, values: Sequence[float]) -> None:
        """Take the sums of a checkpoint."""
        host, nce = np.split(np.array(values, np.float64), [len(self._host)])
        self._host = host
        self._nce.values.copy_(torch.from_numpy(nce))


def line_of(
    sums: Sequence[float],
    *,
    step: int,
    rate: float,
    classes: int,
    batch_size: int,
    ranks: int,
    effective_rank: float,
) -> MetricsLine:
    """Return a line from the sums of a window, which are means over `ranks` processes."""
    means = [value / sums[0] for value in sums[1:]]
    stride, size, data_time, step_time, loss, accuracy, *horizons = means
    return {
        "step": step,
        "loss": loss,
        "accuracy": accuracy,
        "horizon_accuracy": horizons,
        "information_bound": math.log(classes) - loss,
        "classes": classes,
        "learning_rate": rate,
        "stride": stride,
        "effective_rank": effective_rank,
        "bytes_per_step": size * ranks,
        "data_time": data_time,
        "step_time": step_time,
        "samples_per_second": batch_size / step_time,
    }


def effective_rank(latents: Tensor) -> float:
    """Return over how many directions the latents (B, T, D) spread, 1 to min(B T - 1, D).

    It is exp of the entropy of the normalised eigenvalues of their covariance (after Roy and
    Vetterli 2007); 0 when all latents are equal.
    """
    vectors = latents.detach().float().flatten(0, 1)
    variances = torch.linalg.svdvals(vectors - vectors.mean(dim=0)).double().square()
    total = variances.sum()
    if not total > 0:
        return 0.0
    return math.exp(torch.special.entr(variances / total).sum().item())


class MetricsLog:
    """`metrics.jsonl` of a run, one JSON object per line.

    Opening it drops the lines after step `keep`, from which the run resumes and writes them again.
    Every process knows the lines; the one with `writes` writes the file.
    """

    def __init__(self, run: Path, *, keep: int, writes: bool = True) -> None:
        self._path, self._writes = run / METRICS_FILE, writes
        self.lines = [line for line in read_metrics(run) if line["step"] <= keep]
        if writes:
            text = "".join(json.dumps(line) + "\n" for line in self.lines)
            replace_file(self._path, text.encode())

    def append(self, line: MetricsLine) -> None:
        """Add a line."""
        self.lines.append(line)
        if self._writes:
            with open(self._path, "a") as file:
                file.write(json.dumps(line) + "\n")

    def sync(self) -> None:
        """Flush the lines to the disk, before a checkpoint that comes after them."""
        if self._writes:
            sync(self._path)

    def last(self, key: str) -> MetricsLine | None:
        """Return the last line that has `key`, or None."""
        return next((line for line in reversed(self.lines) if key in line), None)


def has_metrics(run: str | os.PathLike[str]) -> bool:
    """Return whether a run has a line of training."""
    return any("loss" in line for line in read_metrics(run))


def read_metrics(run: str | os.PathLike[str]) -> list[MetricsLine]:
    """Return the lines of a run's metrics, without one that a kill left unfinished."""
    path = Path(run, METRICS_FILE)
    complete = path.read_text(errors="replace").split("\n")[:-1] if path.is_file() else []
    lines: list[MetricsLine] = []
    with contextlib.suppress(ValueError):  # what follows a damaged line counts as missing
        for line in complete:
            lines.append(json.loads(line))
    return lines
