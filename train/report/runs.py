"""What a report reads of each run: settings, metrics, results and predictions."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flowcpc.stores.base.errors import counted
from flowcpc.stores.embeddings import read_predictions
from flowcpc.train.evaluation.modes import MOTION, PRETRAINED, RANDOM, SCRATCH, labels_in_words
from flowcpc.train.evaluation.results import EVALUATE, read_results, unit_name
from flowcpc.train.runs.checkpoint import load_checkpoint, where_a_run_is
from flowcpc.train.runs.metrics import read_metrics
from flowcpc.train.settings import paper
from flowcpc.train.settings.config import PretrainConfig
from flowcpc.train.settings.presets import Preset

# The order in which a report shows evaluations; the first of them gives the confusion matrix.
MODES = ("linear", "finetune", "scratch", "knn", "probe", "random", "retrieval")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, or a folder of evaluations that need no run."""

    name: str  # the end of its path that tells it from the other runs of the report
    path: Path
    config: PretrainConfig | None  # None where there is no checkpoint, only results
    step: int  # finished iterations
    numerics: dict[str, Any]  # of the store that it was trained on
    metrics: pd.DataFrame  # the lines of metrics.jsonl, one column per key
    results: pd.DataFrame  # as `read_results` returns them; empty where there are none
    colour: int = 0  # its place among the runs of the report

    @property
    def paper(self) -> Preset | None:
        """The preset that it started from, where the paper reports numbers for it."""
        return paper.paper_of(self.config) if self.config else None

    @property
    def candidates(self) -> int:
        """Segments among which each prediction picked one; with several processes, of one."""
        return int(self.last("classes") or (self.config.classes if self.config else 1))

    def last(self, key: str) -> float | None:
        """Return the last value of a metric; None where it was never measured."""
        values = self.metrics[key].dropna().tolist() if key in self.metrics else []
        return float(values[-1]) if values else None


def read_runs(paths: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Return the runs in the folders `paths`, in this order.

    Raises FileNotFoundError when a folder holds neither a checkpoint nor results, ValueError when
    it is damaged or given twice.
    """
    folders = [Path(path) for path in paths]
    ends = [folder.resolve().parts for folder in folders]
    if len(set(ends)) < len(ends):
        raise ValueError("a run is named twice; name each folder once")
    runs = []
    for colour, (folder, parts) in enumerate(zip(folders, ends, strict=True)):
        depth = 1
        while sum(other[-depth:] == parts[-depth:] for other in ends) > 1:
            depth += 1
        checkpoint = load_checkpoint(folder)
        results = pd.DataFrame()
        with contextlib.suppress(FileNotFoundError):
            results = read_results(folder)
        if checkpoint is None and results.empty:
            raise FileNotFoundError(
                f"{folder} holds neither a checkpoint nor results; {where_a_run_is(folder)}"
            )
        name, metrics = "/".join(parts[-depth:]), pd.DataFrame(read_metrics(folder))
        run = Run(name, folder, None, 0, {}, metrics, results, colour)
        if checkpoint is not None:
            config, step, numerics = checkpoint.config, checkpoint.step, checkpoint.numerics
            run = dataclasses.replace(run, config=config, step=step, numerics=numerics)
        runs.append(run)
    return runs


def rank_of(order: Sequence[str], value: str) -> tuple[int, str]:
    """Return a key that sorts values as in `order`, then the others by name."""
    return (order.index(value) if value in order else len(order)), value


def foremost_predictions(run: Run) -> tuple[pd.DataFrame, str] | None:
    """Return (predictions, their origin in words) of the run's main evaluation; None without any.

    The main evaluation is that of the pretrained encoder on evenly spread segments, by a linear
    layer trained on all labels; where there is none, the nearest to it. The predictions have the
    columns video_id, label and predicted, for all seeds and folds.
    """
    if run.results.empty:
        return None
    chosen = run.results[run.results["encoder"] != MOTION]
    units = chosen[["mode", "labels_per_class", "fold", "seed"]].itertuples(index=False)
    chosen = chosen.assign(folder=[f"{run.path / EVALUATE / unit_name(*unit)}" for unit in units])
    chosen = chosen[[Path(path, "predictions.parquet").is_file() for path in chosen["folder"]]]
    if chosen.empty:
        return None
    orders: tuple[tuple[str, Sequence[str]], ...] = (
        ("encoder", (PRETRAINED, SCRATCH, RANDOM)),
        ("labels_per_class", ("all", "18", "5")),
        ("mode", MODES),
        ("protocol", sorted(set(chosen["protocol"]), reverse=True)),  # uniform before random
    )
    for column, order in orders:
        best = min(chosen[column], key=lambda value: rank_of(order, value))
        chosen = chosen[chosen[column] == best]
    first = chosen.iloc[0]
    tables = pd.concat(read_predictions(folder)[0] for folder in chosen["folder"].unique())
    same = (tables["encoder"] == first["encoder"]) & (tables["protocol"] == first["protocol"])
    folds, seeds = (counted(chosen[one].nunique(), one) for one in ("fold", "seed"))
    labels = labels_in_words(first["labels_per_class"])
    words = (f"{first['encoder']} encoder", first["mode"], labels, first["protocol"])
    origin = f"{', '.join(words)}, {folds} x {seeds}"
    return tables.loc[same, ["video_id", "label", "predicted"]].reset_index(drop=True), origin
