"""Results as tables: every accuracy beside chance, an untrained encoder, training from scratch and motion statistics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flowcpc.train.evaluation.classifiers.retrieval import RANKS
from flowcpc.train.evaluation.modes import MOTION, PRETRAINED, RANDOM, SCRATCH, SHUFFLED
from flowcpc.train.report.runs import MODES, Run, rank_of
from flowcpc.train.settings.presets import Preset

# Encoders that are baselines, in the order of the tables, and what measures those that are absent.
_BASELINES = {
    SHUFFLED: "evaluate STORE RUN --mode linear",
    MOTION: "evaluate STORE RUN --mode linear",
    RANDOM: "evaluate STORE RUN --mode linear",
    SCRATCH: "evaluate STORE RUN --mode scratch",
}
_WORDS = {RANDOM: "untrained encoder", SCRATCH: "from scratch", PRETRAINED: "pretrained encoder"}
_HOW = {
    "linear": "linear layer on the frozen encoder",
    "finetune": "all layers trained",
    "scratch": "all layers trained",
    "knn": "nearest neighbours",
    "probe": "linear layer on cached embeddings",
    "random": "linear layer on the frozen encoder",
}


@dataclass(frozen=True)
class Number:
    """Mean and standard deviation over `count` seeds and folds, in percent."""

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        return (
            f"{self.mean:.1f}"
            if self.deviation is None
            else f"{self.mean:.1f} ± {self.deviation:.1f}"
        )


@dataclass(frozen=True)
class Row:
    """One line of a table of accuracies; `role` is chance, baseline, ours or absent, `colour` the number of the run."""

    name: str
    how: str
    role: str
    colour: int | None = None
    uniform: Number | None = None
    random: Number | None = None
    top5: Number | None = None
    mean_class: Number | None = None
    paper: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Accuracies:
    """All accuracies that were made with one number of labels on one set of classes."""

    title: str
    classes: int
    videos: str
    segments: str
    error: float
    rows: tuple[Row, ...]

    @property
    def has_paper(self) -> bool:
        """Whether a row has a number of the paper."""
        return any(row.paper is not None for row in self.rows)

    @property
    def scale(self) -> float:
        """What the longest bar stands for, percent."""
        return max(row.uniform.mean for row in self.rows if row.uniform is not None)


@dataclass(frozen=True)
class Recall:
    """Share of test videos with a training video of their class among the nearest k, percent, for each k of `flowcpc.train.evaluation.classifiers.retrieval.RANKS`."""

    name: str
    labels: str
    encoder: str
    colour: int
    values: tuple[Number | None, ...]


def accuracies(runs: Sequence[Run], paper: Sequence[Preset | None]) -> list[Accuracies]:
    """Return a table for each number of labels and classes; `paper` is the preset of each run that the paper has numbers of."""
    results = _together(runs)
    if results.empty or "top1" not in results:
        return []
    results = results[results["top1"].notna()]
    tables = []
    keys = sorted(
        {
            (str(a), int(b))
            for a, b in zip(results["labels_per_class"], results["classes"], strict=True)
        },
        key=_labels_first,
    )
    for labels, classes in keys:
        found = results[
            (results["labels_per_class"].astype(str) == labels) & (results["classes"] == classes)
        ]
        rows = [_chance_row(found)]
        for encoder, command in _BASELINES.items():
            own = (
                _once(found[found["encoder"] == encoder])
                if encoder == MOTION
                else found[found["encoder"] == encoder]
            )
            rows += _rows(own, runs, paper, labels) or [_absent(encoder, command)]
        ours = found[~found["encoder"].isin(list(_BASELINES))]
        rows += _rows(ours, runs, paper, labels)
        sizes = sorted(set(found["videos"].astype(int)))
        tables.append(
            Accuracies(
                title="All labels" if labels == "all" else f"{labels} labels per class",
                classes=classes,
                videos=f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}",
                segments=_segments(found["protocol"]),
                error=sampling_error(sizes[0]),
                rows=tuple(rows),
            )
        )
    return tables


def recalls(runs: Sequence[Run]) -> list[Recall]:
    """Return the rows of retrieval, a row per run, number of labels and encoder; empty where nothing was retrieved."""
    results = _together(runs)
    if results.empty or "r1" not in results:
        return []
    results = results[results["r1"].notna()]
    order = (PRETRAINED, RANDOM, MOTION, SHUFFLED)
    columns = (results[name] for name in ("number", "labels_per_class", "encoder"))
    keys = {
        (int(number), str(labels), str(encoder))
        for number, labels, encoder in zip(*columns, strict=True)
    }
    rows = []
    for number, labels, encoder in sorted(
        keys, key=lambda key: (key[0], _labels_first((key[1], 0)), rank_of(order, key[2]))
    ):
        own = (results["number"] == number) & (results["labels_per_class"].astype(str) == labels)
        found = results[own & (results["encoder"] == encoder)]
        values = tuple(number_of(found[f"r{k}"]) if f"r{k}" in found else None for k in RANKS)
        rows.append(Recall(runs[number].name, labels, _WORDS.get(encoder, encoder), number, values))
    return rows


def number_of(values: "pd.Series[float]") -> Number | None:
    """Return mean and standard deviation of shares in 0..1 as percent; None where there are none."""
    known = 100 * values.dropna().to_numpy(float)
    if not len(known):
        return None
    return Number(
        float(known.mean()), float(np.std(known, ddof=1)) if len(known) > 1 else None, len(known)
    )


def sampling_error(videos: int) -> float:
    """Return by how many points, at most, the choice of so many test videos moves an accuracy: its standard deviation at one half.

    >>> sampling_error(100)
    5.0
    """
    return 100 * math.sqrt(0.25 / videos)


def best_linear(run: Run, encoder: str) -> Number | None:
    """Return the accuracy of a linear layer on `encoder` with all labels, evenly spread segments; None where it was not measured."""
    found = run.results
    if found.empty or "top1" not in found:
        return None
    kept = (found["encoder"] == encoder) & (found["labels_per_class"].astype(str) == "all")
    if encoder in (PRETRAINED, RANDOM):
        kept &= found["protocol"].str.startswith("uniform") & found["mode"].isin(
            ["linear", "random"]
        )
    return number_of((_once(found[kept], ["mode"]) if encoder == MOTION else found[kept])["top1"])


def _together(runs: Sequence[Run]) -> pd.DataFrame:
    tables = [
        run.results.assign(number=number) for number, run in enumerate(runs) if len(run.results)
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _rows(
    found: pd.DataFrame, runs: Sequence[Run], paper: Sequence[Preset | None], labels: str
) -> list[Row]:
    rows = []
    keys = {
        (str(a), str(b), int(c))
        for a, b, c in zip(found["mode"], found["encoder"], found["number"], strict=True)
    }
    for mode, encoder, number in sorted(keys, key=lambda key: (rank_of(MODES, key[0]), *key)):
        part = found[
            (found["mode"] == mode) & (found["encoder"] == encoder) & (found["number"] == number)
        ]
        preset = paper[number]
        theirs = (
            {"linear": preset.linear, "finetune": preset.finetune}.get(mode, {}) if preset else {}
        )
        uniform, random = (
            part[part["protocol"].str.startswith(name)] for name in ("uniform", "random")
        )
        main = uniform if len(uniform) else part
        rows.append(
            Row(
                name=_WORDS.get(encoder, encoder),
                how=_HOW.get(mode, mode) if encoder != MOTION else "ten statistics per clip",
                role="ours" if encoder == PRETRAINED else "baseline",
                colour=number,
                uniform=number_of(main["top1"]),
                random=number_of(random["top1"]),
                top5=number_of(main["top5"]) if "top5" in main else None,
                mean_class=number_of(main["mean_class"]) if "mean_class" in main else None,
                paper=theirs.get(labels) if encoder == PRETRAINED else None,
                note=runs[number].name,
            )
        )
    return rows


def _once(found: pd.DataFrame, columns: Sequence[str] = ("number", "mode")) -> pd.DataFrame:
    """Return what one mode of one run measured: motion statistics know neither, so the others say the same."""
    for column in columns:
        found = found[found[column] == found[column].iloc[0]] if len(found) else found
    return found


def _chance_row(found: pd.DataFrame) -> Row:
    chance = Number(100 * float(found["chance"].iloc[0]), None, 1)
    return Row(
        "chance",
        "one of the classes, drawn",
        "chance",
        uniform=chance,
        random=chance,
        mean_class=chance,
    )


def _segments(protocols: "pd.Series[str]") -> str:
    """Return how many segments of a video were read, as the names of the protocols end: uniform8."""
    counts = sorted(protocols.str.extract(r"(\d+)$", expand=False).dropna().astype(int).unique())
    return " or ".join(f"{count} segments" for count in counts) or "all of"


def _absent(encoder: str, command: str) -> Row:
    return Row(_WORDS.get(encoder, encoder), "", "absent", note=f"flowcpc {command}")


def _labels_first(key: tuple[str, int]) -> tuple[float, int]:
    labels, classes = key
    return (
        -math.inf if labels == "all" else -float(labels) if labels.isdecimal() else 0.0
    ), classes
