"""Results as tables: every accuracy next to chance, an untrained encoder and other baselines."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from flowcpc.train.evaluation import modes
from flowcpc.train.evaluation.classifiers.retrieval import RANKS
from flowcpc.train.evaluation.modes import MOTION, PRETRAINED, RANDOM, SCRATCH, SHUFFLED
from flowcpc.train.report.page import Bar, Row, Table
from flowcpc.train.report.runs import MODES, Run, rank_of

# In the order of the tables.
_ENCODERS = {
    SHUFFLED: SHUFFLED,
    MOTION: MOTION,
    RANDOM: "untrained encoder",
    SCRATCH: "from scratch",
    PRETRAINED: "pretrained encoder",
}
_METHODS = {
    "linear": "linear layer on the frozen encoder",
    "finetune": "all layers trained",
    "scratch": "all layers trained",
    "knn": "nearest neighbours",
    "probe": "linear layer on cached embeddings",
    "random": "linear layer on the frozen encoder",
}
_COLUMNS = {"Encoder": "text", "Classifier": "text", "Top-1, even segments": "bar", "Run": "run"}
_COLUMNS |= dict.fromkeys(("Random segments", "Top-5", "Mean of classes", "n", "Paper"), "n")


class Number(NamedTuple):
    """Mean and standard deviation over `units` seeds and folds, in percent."""

    mean: float
    deviation: float
    units: int

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + (f" ± {self.deviation:.1f}" if self.units > 1 else "")


def number_of(rows: pd.DataFrame, share: str) -> Number | None:
    """Return the column `share` (0..1) as a number; None where it has no values."""
    if share not in rows or rows[share].isna().all():
        return None
    known = 100 * rows[share].dropna().astype(float)
    return Number(float(known.mean()), float(known.std()), len(known))


def sampling_error(videos: int) -> float:
    """Return the largest standard error, in percentage points, of an accuracy on so many videos.

    >>> sampling_error(100)
    5.0
    """
    return 100 * math.sqrt(0.25 / videos)


def best_linear(run: Run, encoder: str) -> Number | None:
    """Return the accuracy of a linear layer on `encoder`: all labels, evenly spread segments."""
    if "top1" not in run.results:
        return None
    rows = run.results[run.results["encoder"] == encoder]
    rows = rows[rows["labels_per_class"].astype(str) == "all"]
    if encoder == MOTION:
        return number_of(_of_one_mode(rows), "top1")
    rows = rows[rows["mode"].isin(["linear", "random"])]
    return number_of(rows[rows["protocol"].str.startswith("uniform")], "top1")


def accuracy_tables(runs: Sequence[Run]) -> list[Table]:
    """Return a table of accuracies for each number of labels and set of classes."""
    results = _results_of(runs)
    if "top1" not in results:
        return []
    groups = _groups(results[results["top1"].notna()], "labels_per_class", "classes")
    keys = sorted(groups, key=lambda key: (_rank_of_labels(key[0]), key[1]))
    return [_accuracy_table(groups[key], runs) for key in keys]


def recall_table(runs: Sequence[Run]) -> Table | None:
    """Return how often one of the nearest training videos has the class of a test video."""
    results = _results_of(runs)
    retrieval = results[results["mode"] == "retrieval"] if len(results) else results
    if retrieval.empty:
        return None
    groups = _groups(retrieval, "colour", "labels_per_class", "encoder")
    order = (PRETRAINED, RANDOM, MOTION, SHUFFLED)
    rows = []
    for key in sorted(groups, key=lambda k: (k[0], _rank_of_labels(k[1]), rank_of(order, k[2]))):
        colour, labels, encoder = key
        shares = [number_of(groups[key], f"r{rank}") or "-" for rank in RANKS]
        rows.append(Row([_ENCODERS[encoder], runs[colour].name, labels, *shares], colour))
    columns = {"Encoder": "text", "Run": "run", "Labels": "text"}
    caption = (
        "Share of test videos, in percent, with a training video of their class among the nearest "
        "k training videos that have labels (all, or so many per class)."
    )
    return Table("Retrieval", caption, columns | {f"R@{rank}": "n" for rank in RANKS}, rows)


def _results_of(runs: Sequence[Run]) -> pd.DataFrame:
    tables = [run.results.assign(colour=run.colour) for run in runs if len(run.results)]
    if not tables:
        return pd.DataFrame()
    results = pd.concat(tables, ignore_index=True)
    return results.assign(labels_per_class=results["labels_per_class"].astype(str))


def _groups(rows: pd.DataFrame, *columns: str) -> dict[Any, pd.DataFrame]:
    return dict(iter(rows.groupby(list(columns))))


def _rank_of_labels(labels: str) -> float:
    return -math.inf if labels == "all" else -float(labels)


def _of_one_mode(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what one mode of one run measured: motion statistics depend on neither."""
    for column in ("colour", "mode"):
        if column in rows and len(rows):
            rows = rows[rows[column] == rows[column].iloc[0]]
    return rows


def _accuracy_table(results: pd.DataFrame, runs: Sequence[Run]) -> Table:
    labels, classes = results[["labels_per_class", "classes"]].iloc[0]
    chance = f"{100 * results['chance'].iloc[0]:.1f}"
    bar = Bar(chance, float(chance))
    rows = [Row(["chance", "one of the classes, drawn", bar, "-", chance, "-", chance, "-", "-"])]
    for encoder, name in _ENCODERS.items():
        measured = results[results["encoder"] == encoder]
        if encoder == MOTION:
            measured = _of_one_mode(measured)
        groups = _groups(measured, "mode", "colour")
        for mode, colour in sorted(groups, key=lambda key: (rank_of(MODES, key[0]), key)):
            rows.append(_accuracy_row(groups[mode, colour], runs[colour], labels))
        if not groups and encoder != PRETRAINED:
            mode = "scratch" if encoder == SCRATCH else "linear"
            absent = f"not measured; flowcpc evaluate STORE RUN --mode {mode}"
            rows.append(Row([name, absent], style="absent"))
    title = modes.labels_in_words(labels).capitalize()
    videos = sorted(set(results["videos"].astype(int)))
    counts = f"{videos[0]:,}" if len(videos) == 1 else f"{videos[0]:,} to {videos[-1]:,}"
    segments = results["protocol"].str.extract(r"(\d+)$", expand=False).dropna().astype(int)
    read = " or ".join(f"{count} segments" for count in sorted(set(segments))) or "all of"
    caption = (
        f"Top-1 accuracy in percent on {counts} test videos of {classes} classes, {read} each, "
        "next to what needs no pretraining. ± is the standard deviation over n seeds and folds. "
        f"The standard error on this many videos is at most {sampling_error(videos[0]):.1f} points."
    )
    return Table(title, caption, _COLUMNS, rows, "accuracies")


def _accuracy_row(results: pd.DataFrame, run: Run, labels: str) -> Row:
    """Return the row of one encoder, mode and run."""
    mode, encoder = results["mode"].iloc[0], results["encoder"].iloc[0]
    uniform = results[results["protocol"].str.startswith("uniform")]
    main = uniform if len(uniform) else results
    top1 = number_of(main, "top1")
    assert top1 is not None  # rows without are left out
    random = number_of(results[results["protocol"].str.startswith("random")], "top1")
    numbers = {"linear": run.paper.linear, "finetune": run.paper.finetune} if run.paper else {}
    cells = (
        _ENCODERS[encoder],
        "ten statistics per clip" if encoder == MOTION else _METHODS.get(mode, mode),
        Bar(str(top1), top1.mean),
        run.name,
        random or "-",
        number_of(main, "top5") or "-",
        number_of(main, "mean_class") or "-",
        top1.units,
        (encoder == PRETRAINED and numbers.get(mode, {}).get(labels)) or "-",
    )
    return Row(cells, run.colour, "ours" if encoder == PRETRAINED else "")
