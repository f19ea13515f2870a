"""Results for a person: every accuracy relative to chance and baselines, and how sure that is."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from flowcpc.stores.base.errors import counted
from flowcpc.train.evaluation.classifiers.retrieval import RANKS
from flowcpc.train.evaluation.modes import MOTION, PRETRAINED, RANDOM, SCRATCH, SHUFFLED
from flowcpc.train.evaluation.scoring.uncertainty import difference

REPEATS = ("weights", "seeds", "folds")
NOTHING = pd.DataFrame()
_SHARES = ("top1", "top5", "mean_class", *(f"r{k}" for k in RANKS))
_STANDARD_ERRORS = 3  # by which shuffled labels may differ from chance
_FEWEST_REPEATS = 3  # for a standard deviation


class Evaluation(NamedTuple):
    """The outcome of an evaluation.

    Unless it is finished, the listener stopped the call and the tables are empty. Call it again to
    resume. `table` has the columns of `flowcpc.train.evaluation.results.read_results` except path.
    """

    finished: bool
    table: pd.DataFrame
    baselines: pd.DataFrame  # of untrained encoders by other modes, same labels, folds and seeds
    path: Path  # the folder of the results
    # Whether each test video was predicted right, as `hits_of` returns it, with the columns mode
    # and labels_per_class: of `table` and of `baselines`.
    hits: pd.DataFrame = NOTHING

    def to_text(self) -> str:
        """Return a table in percent for each number of labels per class, with comparisons."""
        blocks = []
        for labels, rows in self.table.groupby("labels_per_class", sort=False):
            baselines = _with_same_share(rows, self.baselines)
            title = f"{rows['mode'].iloc[0]}, labels per class: {labels}"
            if len(rows[["fold", "seed"]].drop_duplicates()) > 1:
                folds, seeds = rows["fold"].nunique(), rows["seed"].nunique()
                title += f"; means over {counted(folds, 'fold')} x {counted(seeds, 'seed')}"
            sentences = comparisons(rows, baselines, self.hits)
            blocks.append("\n".join([title, _table_text(rows, baselines), *sentences]))
        return "\n\n".join(blocks)


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Return means over folds and seeds of what `read_results` returns, and what they vary with.

    One row per path, run, preset, schedule, mode, labels_per_class, encoder and protocol: videos,
    chance, the mean of each share, and the columns of `spreads` for top1 (r1 in retrieval).
    """
    known = ("path", "run", "preset", "schedule", "mode", "labels_per_class", "encoder", "protocol")
    keys = [name for name in known if name in results]
    grouped = results.groupby(keys, sort=False, dropna=False)
    shares = [name for name in _SHARES if name in results and results[name].notna().any()]
    table = grouped[["videos", "chance", *shares]].mean()
    varied = pd.DataFrame([spreads(rows) for _, rows in grouped], index=table.index)
    return table.join(varied).reset_index()


def spreads(rows: pd.DataFrame) -> dict[str, float]:
    """Return how the accuracy of one encoder varies with what was repeated.

    Keys are `weights`, `seeds` and `folds`: their numbers, and with `_std` the standard deviations
    of the means, NaN for fewer than three. A seed draws new initial weights of an untrained encoder
    and of one that is trained from scratch; the weights of a run stay, and a seed repeats only the
    evaluation.
    """
    share = _share_of(rows)
    drawn = rows["encoder"].isin([RANDOM, SCRATCH]) | (rows["mode"].isin([RANDOM, SCRATCH]))
    by_seed, by_fold = rows.groupby("seed")[share].mean(), rows.groupby("fold")[share].mean()
    alone = by_seed.iloc[:1]
    repeats = (by_seed, alone) if drawn.any() else (alone, by_seed)
    found: dict[str, float] = {}
    for name, means in zip(REPEATS, (*repeats, by_fold), strict=True):
        found |= {name: len(means), f"{name}_std": spread(means)}
    return found


def spread(means: pd.Series) -> float:
    """Return the standard deviation of means; NaN of fewer than three."""
    return float(means.std()) if means.count() >= _FEWEST_REPEATS else np.nan


def comparisons(
    rows: pd.DataFrame, baselines: pd.DataFrame, hits: pd.DataFrame = NOTHING
) -> list[str]:
    """Return sentences that compare the accuracies of a mode with chance and all baselines.

    `rows` are of one mode and number of labels, `baselines` those of other modes, and `hits` those
    of `Evaluation`.
    """
    share = _share_of(rows)
    # A baseline of the mode itself replaces that of another mode.
    baselines = _with_same_share(rows, baselines)
    every = rows
    if len(baselines):
        others = baselines[~baselines["encoder"].isin(rows["encoder"])]
        every = pd.concat([rows, others], ignore_index=True)
    every = every[~every["protocol"].str.startswith("random")]
    if len(hits):
        keys = ["mode", "labels_per_class", "encoder", "protocol"]
        hits = hits.merge(every[keys].drop_duplicates(), on=keys)
    means = every.groupby("encoder")[share].mean()
    chance = float(rows["chance"].mean())
    main = next(name for name in (PRETRAINED, SCRATCH, RANDOM) if name in set(rows["encoder"]))
    lines = [f"{main} is {means[main] / chance:.1f} times chance."]
    for name in (RANDOM, SCRATCH, MOTION):
        if name in means and name != main:
            points = 100 * (means[main] - means[name])
            lines.append(f"{main} - {name}: {_difference(hits, main, name, points)}.")
        elif name != MOTION and main == PRETRAINED and share == "top1":
            missing = f"{name} was not evaluated on these labels, folds and seeds"
            lines.append(f"{missing}: flowcpc evaluate ... --mode {name}")
    if SHUFFLED in means:
        # Predicting the most frequent class raises top-1 above chance, but not the class mean.
        column = share if share == "r1" else "mean_class"
        shuffled = every.loc[every["encoder"] == SHUFFLED, column].mean()
        # Seeds test the same videos again; only folds add test videos.
        videos = int(rows.drop_duplicates("fold")["videos"].sum())
        error = float(np.sqrt(chance * (1 - chance) / videos))
        is_near = abs(shuffled - chance) <= _STANDARD_ERRORS * error
        verdict = "at chance, as expected" if is_near else "NOT at chance: find the reason"
        lines.append(f"shuffled labels: {shuffled:.1%}, chance is {chance:.1%}: {verdict}.")
    return lines


def _difference(hits: pd.DataFrame, main: str, other: str, points: float) -> str:
    """Return a difference in words; `points` is that of the means, where no video has hits."""
    found = None
    if len(hits):
        sides = (hits[hits["encoder"] == name].drop(columns=["mode"]) for name in (main, other))
        found = difference(*sides)
    return f"{points:+.1f} points, without predictions to compare" if found is None else str(found)


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


def _table_text(rows: pd.DataFrame, baselines: pd.DataFrame) -> str:
    everything = pd.concat([rows, baselines], ignore_index=True) if len(baselines) else rows
    table = summarise(everything)
    shown = table[["mode", "encoder", "protocol"]].copy()
    for name in _SHARES:
        if name in table and rows[name].notna().any():
            shown[name] = ["-" if np.isnan(mean) else f"{mean:.1%}" for mean in table[name]]
    for name in REPEATS:
        if (table[name] > 1).any():
            pairs = zip(table[name], table[f"{name}_std"], strict=True)
            shown[f"± {name} (n)"] = [spread_text(number, 100 * std) for number, std in pairs]
    shown["chance"] = table["chance"].map("{:.1%}".format)
    shown["videos"] = table["videos"].map("{:.0f}".format)
    return shown.to_string(index=False)


def spread_text(number: int, deviation: float) -> str:
    """Return a standard deviation in points over `number` repeats; "-" where there is none.

    >>> spread_text(3, 2.25), spread_text(2, float("nan"))
    ('2.2 (3)', '- (2)')
    """
    return f"{'-' if np.isnan(deviation) else f'{deviation:.1f}'} ({number})"
