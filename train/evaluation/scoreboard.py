"""Results as a person reads them: every accuracy beside chance and the baselines, mean and spread over folds and seeds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from flowcpc.stores.base.plurals import counted
from flowcpc.train.evaluation.classifiers.retrieval import RANKS
from flowcpc.train.evaluation.task import MOTION, PRETRAINED, RANDOM, SCRATCH, SHUFFLED

AIM_POINTS = 5  # less than this above an untrained encoder shows little
_SHARES = ("top1", "top5", "mean_class", *(f"r{k}" for k in RANKS))
_MODES_OF = {
    RANDOM: "random",
    SCRATCH: "scratch",
}  # baselines that a mode without them can be set beside
_FEWEST_ERRORS = 3  # shuffled labels further from chance than so many standard errors are no chance


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes
    ----------
    finished : bool
        False when `should_stop` ended the call early; the same call again goes on.
    table : DataFrame
        The results that were asked for, as `flowcpc.train.evaluation.results.read_results` gives them. Empty until finished.
    beside : DataFrame
        Untrained encoders of the same labels, folds and seeds that other modes evaluated.
    path : Path
        The folder of the results.
    """

    finished: bool
    table: pd.DataFrame
    beside: pd.DataFrame
    path: Path

    def to_text(self) -> str:
        """Return tables for a person, in percent, one per number of labels per class, each with a verdict."""
        blocks = []
        for labels, rows in self.table.groupby("labels_per_class", sort=False):
            beside = (
                self.beside[self.beside["labels_per_class"] == labels]
                if len(self.beside)
                else self.beside
            )
            beside = _measured_alike(rows, beside)
            units = len(rows[["fold", "seed"]].drop_duplicates())
            over = f"{counted(rows['fold'].nunique(), 'fold')} x {counted(rows['seed'].nunique(), 'seed')}"
            spread = f"; mean ± standard deviation over {over}" if units > 1 else ""
            lines = [
                f"{rows['mode'].iloc[0]}, labels per class: {labels}{spread}",
                _table(rows, beside),
            ]
            blocks.append("\n".join(lines + verdicts(rows, beside)))
        return "\n\n".join(blocks)


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over folds and seeds of what `read_results` gives.

    One row per path, run, preset, schedule, mode, labels_per_class, encoder and protocol: units, videos, chance, and of every share `name` its mean
    and `name_std` (NaN for a single unit).
    """
    known = ("path", "run", "preset", "schedule", "mode", "labels_per_class", "encoder", "protocol")
    keys = [name for name in known if name in results]
    grouped = results.groupby(keys, sort=False, dropna=False)
    table = grouped.agg(
        units=("fold", "size"), videos=("videos", "mean"), chance=("chance", "mean")
    )
    for name in _SHARES:
        if name in results and results[name].notna().any():
            table[name], table[f"{name}_std"] = grouped[name].mean(), grouped[name].std()
    return table.reset_index()


def verdicts(rows: pd.DataFrame, beside: pd.DataFrame) -> list[str]:
    """Return sentences that say plainly what the accuracies of one mode and number of labels are worth."""
    share = _share_of(rows)
    beside = _measured_alike(rows, beside)
    if len(beside):  # an encoder that the mode itself evaluated is compared with that
        beside = beside[~beside["encoder"].isin(rows["encoder"])]
    every = pd.concat([rows, beside], ignore_index=True) if len(beside) else rows
    every = every[~every["protocol"].str.startswith("random")]
    means = every.groupby("encoder")[share].mean()
    chance = float(rows["chance"].mean())
    # Seeds test the same videos again, so only folds add some.
    videos = int(rows.drop_duplicates("fold")["videos"].sum())
    main = next(name for name in (PRETRAINED, SCRATCH, RANDOM) if name in set(rows["encoder"]))
    lines = [f"{main} is {means[main] / chance:.1f} times chance."]
    # What an aim is set against was trained in the same way, without pretraining: only there it says what pretraining is worth.
    alike = SCRATCH if (rows["mode"] == "finetune").any() else RANDOM
    for name in (RANDOM, SCRATCH, MOTION):
        if name in means and name != main:
            aim = main == PRETRAINED and name == alike
            lines.append(
                _difference(main, name, float(means[main]), float(means[name]), videos, aim)
            )
        elif name in _MODES_OF and main == PRETRAINED and share == "top1":
            lines.append(
                f"{name} was not evaluated on these labels, folds and seeds: flowcpc evaluate ... --mode {_MODES_OF[name]}"
            )
    if SHUFFLED in means:
        # Guesses of the largest class are right more often than 1 / classes, but on the mean of the classes they are not.
        of_shuffled = every.loc[
            every["encoder"] == SHUFFLED, share if share == "r1" else "mean_class"
        ].mean()
        error = float(np.sqrt(chance * (1 - chance) / videos))
        near = abs(of_shuffled - chance) <= _FEWEST_ERRORS * error
        verdict = "at chance, as it must be" if near else "NOT at chance: look for the reason"
        lines.append(
            f"with shuffled labels: {of_shuffled:.1%} where chance is {chance:.1%}, {verdict}."
        )
    return lines


def _share_of(rows: pd.DataFrame) -> str:
    return "r1" if (rows["mode"] == "retrieval").any() else "top1"


def _measured_alike(rows: pd.DataFrame, beside: pd.DataFrame) -> pd.DataFrame:
    """Return those rows of `beside` that have the share that `rows` are judged by: a recall is no accuracy."""
    share = _share_of(rows)
    return beside[beside[share].notna()] if share in beside else beside.iloc[:0]


def _difference(main: str, other: str, one: float, two: float, videos: int, aim: bool) -> str:
    points = 100 * (one - two)
    # Of a difference between two shares of n videos, taken as independent.
    error = 100 * float(np.sqrt((one * (1 - one) + two * (1 - two)) / videos))
    doubtful = abs(points) <= error
    sentence = f"{main} - {other}: {points:+.1f} points (standard error {error:.1f})"
    if not aim:
        return f"{sentence}, within that error." if doubtful else f"{sentence}."
    if points < AIM_POINTS:
        doubt = ", within that error" if doubtful else ""
        return f"{sentence}{doubt}; the aim of {AIM_POINTS:+d} points is NOT reached."
    if doubtful:
        return f"{sentence}; so few test videos cannot tell whether the aim of {AIM_POINTS:+d} points is reached."
    return f"{sentence}; the aim of {AIM_POINTS:+d} points is reached."


def _table(rows: pd.DataFrame, beside: pd.DataFrame) -> str:
    table = summarise(pd.concat([rows, beside], ignore_index=True) if len(beside) else rows)
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
