"""Which videos of a store are trained on and which are tested."""

import hashlib
import json

import pandas as pd

from flowcpc.stores.flow_store import FlowStore

_NAMED_IN_MESSAGES = 5


def videos_of(
    store: FlowStore, fold: int, split: str, videos: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the rows of `videos` in one split of a fold ("train", "val", "test"), or in "all".

    `videos` is `store.videos()` unless given. Sorted by video_id. Raises ValueError when the store
    does not have the fold, or there is no video.
    """
    videos = store.videos() if videos is None else videos
    found = videos if split == "all" else split_of(videos, fold, split)
    if found.empty:
        where = "" if split == "all" else f" in the {split} split of fold {fold}"
        raise ValueError(
            f"{store.path} has no videos{where}; extract some, or choose another fold or split"
        )
    return found


def digest_of_videos(videos: pd.DataFrame) -> str:
    """Return a hash of the videos' names and lengths, which decide all batches."""
    rows = list(zip(videos["video_id"], videos["flows"].tolist(), strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def split_of(videos: pd.DataFrame, fold: int, split: str) -> pd.DataFrame:
    """Return the rows of `videos` in one split of a fold."""
    return videos[videos[fold_column(videos, fold)] == split].reset_index(drop=True)


def fold_column(videos: pd.DataFrame, fold: int) -> str:
    """Return the name of the fold's column. Raises ValueError naming the folds that there are."""
    column = f"fold{fold}"
    if column not in videos:
        known = [name.removeprefix("fold") for name in videos.columns if name.startswith("fold")]
        has = "has no folds; set split=all to pretrain on all of its videos"
        if known:
            has = f"has the folds {', '.join(known)}"
        raise ValueError(f"fold={fold} was asked for, but the store {has}")
    return column


def labelled_split(
    store: FlowStore, fold: int, *, allow_missing: bool
) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Return (train rows, test rows, number of test videos left out) of a fold.

    Raises ValueError if videos of the test split have no flow, or videos have no label
    (`allow_missing` leaves them out); if a group is in both splits; if a split is empty; or if all
    training videos are of one class.
    """
    videos = store.videos()
    column = fold_column(videos, fold)
    absent = without_flow(store, fold, "test")
    in_fold = videos[videos[column].isin(("train", "test"))]
    unlabelled = in_fold.loc[in_fold["label"].isna(), "video_id"].tolist()
    for names, which, what in ((absent, "test videos", "flow"), (unlabelled, "videos", "label")):
        if names and not allow_missing:
            raise ValueError(
                f"{len(names)} {which} of fold {fold} have no {what}: {name_some(names)}; without "
                "them an accuracy cannot be compared with others, so extract or label them, or "
                "evaluate with --allow-missing"
            )
    labelled = in_fold[in_fold["label"].notna()]
    train, test = (split_of(labelled, fold, split) for split in ("train", "test"))
    for rows, split in ((train, "train"), (test, "test")):
        if rows.empty:
            raise ValueError(
                f"{store.path} has no labelled videos in the {split} split of fold {fold}"
            )
    if shared := sorted(set(train["group"].dropna()) & set(test["group"].dropna())):
        raise ValueError(
            f"{len(shared)} groups of fold {fold} are in both train and test: {name_some(shared)}; "
            "clips of one group look alike, so correct the split"
        )
    if train["label"].nunique() < 2:
        raise ValueError(
            f"all training videos of fold {fold} are of class {train['label'][0]}; "
            "two classes are needed"
        )
    unlabelled_tests = int((in_fold["label"].isna() & (in_fold[column] == "test")).sum())
    return train, test, len(absent) + unlabelled_tests


def without_flow(store: FlowStore, fold: int, split: str) -> list[str]:
    """Return the videos in one split of a fold that have no flow: failed, or not extracted yet."""
    failures, column = store.failures(), f"fold{fold}"
    if column not in failures:
        return []
    return failures.loc[failures[column] == split, "video_id"].tolist()


def name_some(names: list[str]) -> str:
    """Return the first few of `names` for a message."""
    more = len(names) - _NAMED_IN_MESSAGES
    return ", ".join(names[:_NAMED_IN_MESSAGES]) + (f" and {more} more" if more > 0 else "")
