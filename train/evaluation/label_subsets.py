"""The training videos that keep their labels: clips of distinct groups, drawn once and saved."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from flowcpc.train.data.splits import name_some
from flowcpc.train.evaluation.results import read_table, write_table
from flowcpc.train.settings.config import named_seed

_COLUMNS = ["video_id", "label", "group"]


def labelled_subset(
    folder: Path, train: pd.DataFrame, labels: int | None, *, seed: int, fold: int
) -> tuple[pd.DataFrame, list[str]]:
    """Return what `choose_labelled` chooses, and save it in `folder`; a saved choice is used again.

    Raises ValueError if the saved choice is damaged, or names videos that are not in `train`.
    """
    if labels is None:
        return train, []
    file = folder / f"{labels}-fold{fold}-seed{seed}.parquet"
    if not file.is_file():
        chosen, remarks = choose_labelled(train, labels, seed=seed, fold=fold)
        write_table(file, pa.Table.from_pandas(chosen[_COLUMNS], preserve_index=False))
        return chosen, remarks
    table = read_table(file)
    if table is None or not set(_COLUMNS) <= set(table.column_names):
        raise ValueError(f"{file} is damaged; restore it, or delete it to draw the videos again")
    saved = table.select(["video_id", "label"]).to_pandas()
    chosen = train.merge(saved, on=["video_id", "label"])
    if missing := sorted(set(saved["video_id"]) - set(chosen["video_id"])):
        raise ValueError(
            f"{file} names {len(missing)} videos that are not in the train split of fold {fold} "
            f"with the same label: {name_some(missing)}; extract them, give --out another folder, "
            "or delete the file to draw others"
        )
    return chosen, _remarks(chosen, labels)


def choose_labelled(
    train: pd.DataFrame, labels: int, *, seed: int, fold: int
) -> tuple[pd.DataFrame, list[str]]:
    """Return `labels` training videos per class, and remarks on classes with too few.

    Each video of a class is of another group while there are groups, because clips of one group
    look alike. After the last group follow second clips of the groups, and so on. The draw depends
    on (seed, fold) only, and a smaller choice is a subset of a larger one. `train` has the columns
    video_id, label and group; a video without group is a group of its own.
    """
    generator = np.random.default_rng(named_seed(seed, "labels", fold))
    drawn: list[str] = []
    for _, rows in train.sort_values("video_id").groupby("label", sort=True):
        shuffled = rows.iloc[generator.permutation(len(rows))]
        groups = shuffled["group"].fillna(shuffled["video_id"])
        # The first clip of every group, in the order of the draw; then the second of every group.
        place_in_group = groups.groupby(groups, sort=False).cumcount()
        in_turn = shuffled.iloc[np.argsort(place_in_group, kind="stable")]
        drawn += in_turn["video_id"].head(labels).tolist()
    chosen = train[train["video_id"].isin(drawn)].reset_index(drop=True)
    return chosen, _remarks(chosen, labels)


def _remarks(chosen: pd.DataFrame, labels: int) -> list[str]:
    """Return sentences on classes that have fewer videos, or groups, than `labels`."""
    groups = chosen["group"].fillna(chosen["video_id"]).groupby(chosen["label"]).nunique()
    videos = chosen.groupby("label").size()
    lacks = (
        (groups[(groups < labels) & (videos == labels)], "groups, so some videos share a group"),
        (videos[videos < labels], "videos, so all of them are used"),
    )
    remarks = []
    for counts, what in lacks:
        if number := len(counts):
            names = name_some([f"{label} ({count})" for label, count in counts.items()])
            has = "class has" if number == 1 else "classes have"
            remarks.append(f"{number} {has} fewer than {labels} {what}: {names}")
    return remarks
