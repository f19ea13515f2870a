"""What a report reads of each run: settings, metrics, results and predictions."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from flowcpc.stores.base.plurals import counted
from flowcpc.stores.embeddings import read_predictions
from flowcpc.train.evaluation.modes import MOTION, PRETRAINED, RANDOM, SCRATCH
from flowcpc.train.evaluation.results import EVALUATE, read_results, unit_name
from flowcpc.train.runs.checkpoint import load_checkpoint, where_a_run_is
from flowcpc.train.runs.metrics import read_metrics
from flowcpc.train.settings import paper
from flowcpc.train.settings.config import PretrainConfig
from flowcpc.train.settings.presets import Preset

# The order in which a report shows evaluations; the first of them gives the confusion matrix.
MODES = ("linear", "finetune", "scratch", "knn", "probe", "random", "retrieval")


@dataclass(frozen=True)
class Run:
    """A run, or a folder of evaluations that need no run.

    Attributes
    ----------
    name : str
        The end of its path that tells it from the other runs of the report.
    path : Path
    config : PretrainConfig or None
        None where there is no checkpoint, only results.
    step : int
        Finished iterations.
    numerics : dict
        Of the store that it was trained on.
    metrics : DataFrame
        The lines of metrics.jsonl, one column per key.
    results : DataFrame
        All results, as `read_results` returns them; empty where there are none.
    colour : int
        Its place among the runs of the report.
    """

    name: str
    path: Path
    config: PretrainConfig | None
    step: int
    numerics: dict[str, Any]
    metrics: pd.DataFrame
    results: pd.DataFrame
    colour: int = 0

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
        try:
            results = read_results(folder)
        except FileNotFoundError:
            results = pd.DataFrame()
        if checkpoint is None and results.empty:
            raise FileNotFoundError(
                f"{folder} holds neither a checkpoint nor results; {where_a_run_is(folder)}"
            )
        run = Run(
            name="/".join(parts[-depth:]),
            path=folder,
            config=checkpoint.config if checkpoint else None,
            step=checkpoint.step if checkpoint else 0,
            numerics=checkpoint.numerics if checkpoint else {},
            metrics=pd.DataFrame(read_metrics(folder)),
            results=results,
            colour=colour,
        )
        runs.append(run)
    return runs


def rank_of(order: Sequence[str], value: str) -> tuple[int, str]:
    """Return a key that sorts values as in `order`, then the others by name."""
    return (order.index(value) if value in order else len(order)), value


def foremost_predictions(run: Run) -> tuple[pd.DataFrame, str] | None:
    """Return (predictions, their origin in words) of the run's main evaluation; None without any.

    The main evaluation is that of the pretrained encoder on evenly spread segments, by a linear
    layer trained on all labels; where there is none, the nearest to it. All its seeds and folds
    are returned, with the columns video_id, label and predicted.
    """
    if run.results.empty:
        return None
    chosen = run.results[run.results["encoder"] != MOTION]
    units = chosen[["mode", "labels_per_class", "fold", "seed"]].itertuples(index=False)
    chosen = chosen.assign(folder=[f"{run.path / EVALUATE / unit_name(*unit)}" for unit in units])
    chosen = chosen[[Path(path, "predictions.parquet").is_file() for path in chosen["folder"]]]
    if chosen.empty:
        return None
    orders: dict[str, tuple[str, ...]] = {
        "encoder": (PRETRAINED, SCRATCH, RANDOM),
        "labels_per_class": ("all", "18", "5"),
        "mode": MODES,
        "protocol": tuple(sorted(set(chosen["protocol"]), reverse=True)),  # uniform before random
    }
    for column, order in orders.items():
        best = min(chosen[column], key=lambda value: rank_of(order, value))
        chosen = chosen[chosen[column] == best]
    first = chosen.iloc[0]
    tables = pd.concat(read_predictions(folder)[0] for folder in chosen["folder"].unique())
    same = (tables["encoder"] == first["encoder"]) & (tables["protocol"] == first["protocol"])
    labels = first["labels_per_class"]
    origin = (
        f"{first['encoder']} encoder, {first['mode']}, "
        f"{'all labels' if labels == 'all' else f'{labels} labels per class'}, "
        f"{first['protocol']}, {counted(chosen['fold'].nunique(), 'fold')} x "
        f"{counted(chosen['seed'].nunique(), 'seed')}"
    )
    return tables.loc[same, ["video_id", "label", "predicted"]].reset_index(drop=True), origin
