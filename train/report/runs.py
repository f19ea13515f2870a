"""What a report needs of each run: its settings, its metrics, its results and its predictions."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd

from flowcpc.stores.base.plurals import counted
from flowcpc.stores.embeddings import read_predictions
from flowcpc.train.evaluation.modes import MOTION, PRETRAINED, RANDOM, SCRATCH
from flowcpc.train.evaluation.results import EVALUATE, read_results, unit_name
from flowcpc.train.runs.checkpoint import load_checkpoint, where_a_run_is
from flowcpc.train.runs.metrics import read_metrics
from flowcpc.train.settings.config import PretrainConfig

# The order in which evaluations are shown, and which of them a confusion matrix is made of.
MODES = ("linear", "finetune", "scratch", "knn", "probe", "random", "retrieval")


@dataclass(frozen=True)
class Run:
    """A run, or a folder of evaluations that need none.

    Attributes
    ----------
    name : str
        The folder's name, with as many folders above it as tell it from the others.
    path : Path
    config : PretrainConfig or None
        None where there is no checkpoint: then only results are here.
    step : int
        Iterations done.
    numerics : dict
        Of the store that it was trained on.
    metrics : list of dict
        Lines of metrics.jsonl.
    results : DataFrame
        Rows of all evaluations, as flowcpc.train.evaluation.results.read_results gives them; empty when there are none.
    """

    name: str
    path: Path
    config: PretrainConfig | None
    step: int
    numerics: dict[str, Any]
    metrics: list[dict[str, Any]]
    results: pd.DataFrame

    def line(self, key: str) -> dict[str, Any] | None:
        """Return the last line of the metrics in which `key` has a value."""
        return next((line for line in reversed(self.metrics) if line.get(key) is not None), None)


def read_runs(paths: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Return the runs in the folders `paths`, in this order.

    Raises FileNotFoundError when one holds neither a checkpoint nor results, ValueError when one is damaged or named twice.
    """
    folders = [Path(path) for path in paths]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is named twice; name each folder once")
    return [_read_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def foremost_predictions(run: Run) -> tuple[pd.DataFrame, str] | None:
    """Return (predictions, where from) of the run's foremost evaluation, all seeds and folds of it; None where there is none.

    That is the pretrained encoder's on evenly spread segments, by a linear layer trained on all labels, or what comes nearest to it. Columns are
    video_id, label and predicted.
    """
    if run.results.empty:
        return None
    wanted = run.results[run.results["encoder"] != MOTION]
    units = zip(
        wanted["mode"], wanted["labels_per_class"], wanted["fold"], wanted["seed"], strict=True
    )
    wanted = wanted.assign(folder=[str(run.path / EVALUATE / unit_name(*unit)) for unit in units])
    wanted = wanted[[Path(folder, "predictions.parquet").is_file() for folder in wanted["folder"]]]
    if wanted.empty:
        return None
    orders: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("encoder", (PRETRAINED, SCRATCH, RANDOM)),
        ("labels_per_class", ("all", "18", "5")),
        ("mode", MODES),
    )
    for column, order in orders:
        best = min(wanted[column], key=functools.partial(rank_of, order))
        wanted = wanted[wanted[column] == best]
    wanted = wanted[wanted["protocol"] == max(wanted["protocol"])]  # uniform comes behind random
    first = wanted.iloc[0]
    parts = []
    for folder in wanted["folder"].unique():
        table, _ = read_predictions(folder)
        parts.append(
            table[(table["encoder"] == first["encoder"]) & (table["protocol"] == first["protocol"])]
        )
    found = pd.concat(parts, ignore_index=True)[["video_id", "label", "predicted"]]
    labels = (
        "all labels"
        if first["labels_per_class"] == "all"
        else f"{first['labels_per_class']} labels per class"
    )
    folds, seeds = wanted["fold"].nunique(), wanted["seed"].nunique()
    where = f"{first['encoder']} encoder, {first['mode']}, {labels}, {first['protocol']}"
    return found, f"{where}, {counted(folds, 'fold')} x {counted(seeds, 'seed')}"


def _read_run(folder: Path, name: str) -> Run:
    checkpoint = load_checkpoint(folder)
    try:
        results = read_results(folder)
    except FileNotFoundError:
        results = pd.DataFrame()
    if checkpoint is None and results.empty:
        raise FileNotFoundError(
            f"{folder} holds neither a checkpoint nor results of a run; {where_a_run_is(folder)}"
        )
    return Run(
        name=name,
        path=folder,
        config=checkpoint.config if checkpoint else None,
        step=checkpoint.step if checkpoint else 0,
        numerics=checkpoint.numerics if checkpoint else {},
        metrics=cast("list[dict[str, Any]]", read_metrics(folder)),
        results=results,
    )


def rank_of(order: Sequence[str], value: str) -> tuple[int, str]:
    """Return a key that sorts as `order`, what is not in it last and by name."""
    return (order.index(value) if value in order else len(order)), value


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that differ from each other."""
    parts = [folder.resolve().parts for folder in folders]
    names = [""] * len(parts)
    for number, own in enumerate(parts):
        others = [other for place, other in enumerate(parts) if place != number]
        depth = next(
            (
                depth
                for depth in range(1, len(own) + 1)
                if all(other[-depth:] != own[-depth:] for other in others)
            ),
            1,
        )
        names[number] = "/".join(own[-depth:])
    return names
