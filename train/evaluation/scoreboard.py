"""Results for a person: every accuracy relative to chance and baselines, mean and spread."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from flowcpc.stores.base.errors import counted
from flowcpc.train.evaluation.classifiers.retrieval import RANKS
from flowcpc.train.evaluation.modes import MOTION, PRETRAINED, RANDOM, SCRATCH, SHUFFLED

_SHARES = ("top1", "top5", "mean_class", *(f"r{k}" for k in RANKS))
_STANDARD_ERRORS = 3  # by which shuffled labels may differ from chance


class Evaluation(NamedTuple):
    """The outcome of an evaluation.

    Unless it is finished, the listener stopped the call and the tables are empty. Call it again to
    resume. `table` has the columns of `flowcpc.train.evaluation.results.read_results` except path.
    """

    finished: bool
    table: pd.DataFrame
    baselines: pd.DataFrame  # of untrained encoders by other modes, same labels, folds and seeds
    path: Path  # the folder of the results

    def to_text(self) -> str:
        """Return a table in percent for each number of labels per class, with comparisons."""
        blocks = []
        for labels, rows in self.table.groupby("labels_per_class", sort=False):
            baselines = _with_same_share(rows, self.baselines)
            title = f"{rows['mode'].iloc[0]}, labels per class: {labels}"
            if len(rows[["fold", "seed"]].drop_duplicates()) > 1:
                folds, seeds = rows["fold"].nunique(), rows["seed"].nunique()
                over = f"{counted(folds, 'fold')} x {counted(seeds, 'seed')}"
                title += f"; mean ± standard deviation over {over}"
            lines = [title, _table_text(rows, baselines), *comparisons(rows, baselines)]
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks)


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over folds and seeds of what `read_results` returns.

    One row per path, run, preset, schedule, mode, labels_per_class, encoder and protocol: units,
    videos, chance, and the mean of each share `name` with its `name_std` (NaN for a single unit).
    """
    known = ("path", "run", "preset", "schedule", "mode", "labels_per_class", "encoder", "protocol")
    keys = [name for name in known if name in results]
    grouped = results.groupby(keys, sort=False, dropna=False)
    means = {name: (name, "mean") for name in ("videos", "chance")}
    table = grouped.agg(units=("fold", "size"), **means)
    for name in _SHARES:
        if name in results and results[name].notna().any():
            table[name], table[f"{name}_std"] = grouped[name].mean(), grouped[name].std()
    return table.reset_index()


def comparisons(rows: pd.DataFrame, baselines: pd.DataFrame) -> list[str]:
    """Return sentences that compare the accuracies of a mode with chance and all baselines.

    `rows` are of one mode and number of labels, `baselines` those of other modes.
    """
    share = _share_of(rows)
    # A baseline of the mode itself replaces that of another mode.
    baselines = _with_same_share(rows, baselines)
    every = rows
    if len(baselines):
        others = baselines[~baselines["encoder"].isin(rows["encoder"])]
        every = pd.concat([rows, others], ignore_index=True)
    every = every[~every["protocol"].str.startswith("random")]
    means = every.groupby("encoder")[share].mean()
    chance = float(rows["chance"].mean())
    # Seeds test the same videos again; only folds add test videos.
    videos = int(rows.drop_duplicates("fold")["videos"].sum())
    main = next(name for name in (PRETRAINED, SCRATCH, RANDOM) if name in set(rows["encoder"]))
    lines = [f"{main} is {means[main] / chance:.1f} times chance."]
    for name in (RANDOM, SCRATCH, MOTION):
        if name in means and name != main:
            lines.append(_difference(main, name, float(means[main]), float(means[name]), videos))
        elif name != MOTION and main == PRETRAINED and share == "top1":
            missing = f"{name} was not evaluated on these labels, folds and seeds"
            lines.append(f"{missing}: flowcpc evaluate ... --mode {name}")
    if SHUFFLED in means:
        # Predicting the most frequent class raises top-1 above chance, but not the class mean.
        column = share if share == "r1" else "mean_class"
        shuffled = every.loc[every["encoder"] == SHUFFLED, column].mean()
        error = float(np.sqrt(chance * (1 - chance) / videos))
        is_near = abs(shuffled - chance) <= _STANDARD_ERRORS * error
        verdict = "at chance, as expected" if is_near else "NOT at chance: find the reason"
        lines.append(f"shuffled labels: {shuffled:.1%}, chance is {chance:.1%}: {verdict}.")
    return lines


def _share_of(rows: pd.DataFrame) -> str:
    """Return the column by which rows of one mode are compared."""
    return "r1" if (rows["mode"] == "retrieval").any() else "top1"


def _with_same_share(rows: pd.DataFrame, baselines: pd.DataFrame) -> pd.DataFrame:
    """Return the baselines with the labels and the share of `rows`: recall is no accuracy."""
    share = _share_of(rows)
    if share not in baselines:
        return baselines.iloc[:0]
    same_labels = baselines["labels_per_class"] == rows["labels_per_class"].iloc[0]
    return baselines[same_labels & baselines[share].notna()]


def _difference(main: str, other: str, share: float, other_share: float, videos: int) -> str:
    points = 100 * (share - other_share)
    # Standard error of a difference of two independent shares of n videos.
    variance = (share * (1 - share) + other_share * (1 - other_share)) / videos
    error = 100 * float(np.sqrt(variance))
    end = ", within that error." if abs(points) <= error else "."
    return f"{main} - {other}: {points:+.1f} points (standard error {error:.1f}){end}"


def _table_text(rows: pd.DataFrame, baselines: pd.DataFrame) -> str:
    everything = pd.concat([rows, baselines], ignore_index=True) if len(baselines) else rows
    table = summarise(everything)
    shown = table[["mode", "encoder", "protocol"]].copy()
    for name in _SHARES:
        if name in table and rows[name].notna().any():
            pairs = zip(table[name], table[f"{name}_std"], strict=True)
            shown[name] = [_percent(mean, spread) for mean, spread in pairs]
    shown["chance"] = table["chance"].map("{:.1%}".format)
    shown["videos"] = table["videos"].map("{:.0f}".format)
    return shown.to_string(index=False)


def _percent(mean: float, spread: float) -> str:
    if np.isnan(mean):
        return "-"
    return f"{mean:.1%}" if np.isnan(spread) else f"{100 * mean:.1f} ± {100 * spread:.1f} %"
