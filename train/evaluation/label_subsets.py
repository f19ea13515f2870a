"""Which training videos keep their labels when there are few: clips of distinct groups, drawn once and written down."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from flowcpc.train.data.splits import name_some
from flowcpc.train.evaluation.results import read_table, write_table
from flowcpc.train.settings.config import named_seed

ALL = "all"
_COLUMNS = ["video_id", "label", "group"]


def read_labels(text: str) -> str:
    """Return how many labels per class `text` asks for, `all` or a number from 1, as it stands in results. Raises ValueError."""
    if text == ALL or (text.isdecimal() and int(text) > 0):
        return text if text == ALL else str(int(text))
    raise ValueError(
        f"labels per class: {text!r} is neither `all` nor a number from 1; write for example all, 18 or 5"
    )


def choose_labelled(
    train: pd.DataFrame, labels: str, *, seed: int, fold: int
) -> tuple[pd.DataFrame, list[str]]:
    """Return the training videos that keep their labels, and remarks on classes that lack groups or videos.

    A class gives N videos, each of another group as long as there are groups: clips of one group look alike, so two of them are little more than one.
    After the last group it gives second clips, and so on. What is drawn depends on (seed, fold) alone, and fewer labels are a part of more.

    Parameters
    ----------
    train : DataFrame
        video_id, label, group of the training videos of one fold; a video without group counts as a group of its own.
    labels : str
        `all`, or a number N.
    """
    if labels == ALL:
        return train, []
    wanted = int(labels)
    generator = np.random.default_rng(named_seed(seed, "labels", fold))
    drawn: list[str] = []
    for _, rows in train.sort_values("video_id").groupby("label", sort=True):
        shuffled = rows.iloc[generator.permutation(len(rows))]
        groups = shuffled["group"].fillna(shuffled["video_id"])
        # The first clip of every group, then the second of every group ...; groups in the order in which they were drawn.
        in_turn = shuffled.iloc[
            np.argsort(groups.groupby(groups, sort=False).cumcount(), kind="stable")
        ]
        drawn += in_turn["video_id"].head(wanted).tolist()
    chosen = train[train["video_id"].isin(drawn)].reset_index(drop=True)
    return chosen, _remarks(chosen, wanted)


def _remarks(chosen: pd.DataFrame, wanted: int) -> list[str]:
    """Return sentences on the classes of which `chosen` has fewer videos, or groups, than wanted: then there were no more to choose."""
    few_groups: list[str] = []
    few_videos: list[str] = []
    for label, rows in chosen.groupby("label", sort=True):
        groups = rows["group"].fillna(rows["video_id"]).nunique()
        if len(rows) < wanted:
            few_videos.append(f"{label} ({len(rows)})")
        elif groups < wanted:
            few_groups.append(f"{label} ({groups})")
    remarks = []
    for names, lack in (
        (few_groups, "groups, so some of its videos share one"),
        (few_videos, "videos, so it has those"),
    ):
        if names:
            classes = "class has" if len(names) == 1 else "classes have"
            remarks.append(f"{len(names)} {classes} fewer than {wanted} {lack}: {name_some(names)}")
    return remarks


def labelled_subset(
    folder: Path, train: pd.DataFrame, labels: str, *, seed: int, fold: int
) -> tuple[pd.DataFrame, list[str]]:
    """Return what `choose_labelled` chose, and write it to `folder` as Parquet; where that was done before, what stands there.

    Raises ValueError when the file names videos that are no longer among the training videos.
    """
    if labels == ALL:
        return train, []
    file = folder / f"{labels}-fold{fold}-seed{seed}.parquet"
    if not file.is_file():
        chosen, remarks = choose_labelled(train, labels, seed=seed, fold=fold)
        write_table(file, pa.Table.from_pandas(chosen[_COLUMNS], preserve_index=False))
        return chosen, remarks
    table = read_table(file)
    if table is None or not set(_COLUMNS) <= set(table.column_names):
        raise ValueError(
            f"{file} is damaged; restore it, or delete it to have its videos drawn again"
        )
    written = table.select(["video_id", "label"]).to_pandas()
    chosen = train.merge(written, on=["video_id", "label"])
    if len(chosen) < len(written):
        gone = sorted(set(written["video_id"]) - set(chosen["video_id"]))
        raise ValueError(
            f"{file} names {len(gone)} videos that are not in the train split of fold {fold} with that label: {name_some(gone)}; "
            "extract them, give --out another folder, or delete the file to have others drawn"
        )
    return chosen, _remarks(chosen, int(labels))
