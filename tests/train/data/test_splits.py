import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import touch

from flowcpc.pipeline.datasets.hmdb51 import list_hmdb51
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.datasets.sources import read_dataset
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.train.data.splits import labelled_split, videos_of

FLOW = np.zeros((3, 2, 4, 4), np.float32)
IDS = [f"v{n}" for n in range(6)]
LABELS = {name: "AB"[n % 2] for n, name in enumerate(IDS)}
GROUPS = {name: f"g{n}" for n, name in enumerate(IDS)}
FOLDS = {name: {"fold1": "train" if n < 4 else "test"} for n, name in enumerate(IDS)}


@pytest.fixture
def store_with(tmp_path: Path, make_store: Callable[..., Path]) -> Callable[..., FlowStore]:
    def make(**changes: object) -> FlowStore:
        arguments = {"labels": LABELS, "groups": GROUPS, "folds": FOLDS} | changes
        return open_store(make_store(tmp_path, dict.fromkeys(IDS, FLOW), **arguments))

    return make


def fail(store: FlowStore, video_id: str, split: str) -> None:
    names = {
        "video_id": video_id,
        "path": video_id,
        "label": "A",
        "group": "g9",
        "folds": {"fold1": split},
    }
    why = {
        "kind": "file",
        "reason": "broken",
        "attempts": 1,
        "time": 0.0,
        "source_bytes": 1,
        "source_mtime_ns": 1,
    }
    store.record_failure(names | why)


def test_splits_of_a_fold(store_with: Callable[..., FlowStore]) -> None:
    store = store_with()
    assert videos_of(store, 1, "train")["video_id"].tolist() == IDS[:4]
    assert videos_of(store, 1, "test")["video_id"].tolist() == IDS[4:]
    assert videos_of(store, 9, "all")["video_id"].tolist() == IDS
    with pytest.raises(ValueError, match="no videos in the val split of fold 1"):
        videos_of(store, 1, "val")
    with pytest.raises(ValueError, match="fold=2 was asked for, but the store has the folds 1"):
        videos_of(store, 2, "train")


def test_a_store_without_folds(store_with: Callable[..., FlowStore]) -> None:
    with pytest.raises(ValueError, match="has no folds"):
        videos_of(store_with(folds={}), 1, "train")


def test_a_supervised_split(store_with: Callable[..., FlowStore]) -> None:
    store = store_with()
    fail(store, "lost in training", "train")
    train, test, missing = labelled_split(store, 1, allow_missing=False)
    assert (train["video_id"].tolist(), test["video_id"].tolist(), missing) == (IDS[:4], IDS[4:], 0)


def test_missing_test_videos_are_refused_by_name(store_with: Callable[..., FlowStore]) -> None:
    store = store_with()
    for n in range(7):
        fail(store, f"x{n}", "test")
    with pytest.raises(
        ValueError, match=r"7 test videos of fold 1 have no flow: x0, x1, x2, x3, x4 and 2 more"
    ):
        labelled_split(store, 1, allow_missing=False)
    assert labelled_split(store, 1, allow_missing=True)[2] == 7


def test_unlabelled_videos_are_refused_by_name(store_with: Callable[..., FlowStore]) -> None:
    store = store_with(
        labels={name: label for name, label in LABELS.items() if name not in ("v1", "v5")}
    )
    with pytest.raises(ValueError, match="2 videos of fold 1 have no label: v1, v5"):
        labelled_split(store, 1, allow_missing=False)
    train, test, missing = labelled_split(store, 1, allow_missing=True)
    assert (train["video_id"].tolist(), test["video_id"].tolist(), missing) == (
        ["v0", "v2", "v3"],
        ["v4"],
        1,
    )


def test_groups_on_both_sides_are_refused(store_with: Callable[..., FlowStore]) -> None:
    with pytest.raises(ValueError, match="1 groups of fold 1 are in both train and test: g0"):
        labelled_split(store_with(groups=GROUPS | {"v5": "g0"}), 1, allow_missing=True)


def test_unknown_groups_leak_nothing(store_with: Callable[..., FlowStore]) -> None:
    assert len(labelled_split(store_with(groups={}), 1, allow_missing=False)[0]) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"folds": {name: {"fold1": "train"} for name in IDS}},
            "no labelled videos in the test split",
        ),
        (
            {"folds": {name: {"fold1": "test"} for name in IDS}},
            "no labelled videos in the train split",
        ),
        ({"labels": dict.fromkeys(IDS, "A")}, "are of class A; two classes are needed"),
    ],
)
def test_splits_that_cannot_be_evaluated(
    store_with: Callable[..., FlowStore], changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        labelled_split(store_with(**changes), 1, allow_missing=True)


class Listed:
    """A store as `labelled_split` sees it. All videos of the data set but `lost` have flow."""

    path = Path("listed.flow")

    def __init__(self, videos: list[Video], lost: str | None = None) -> None:
        rows = pd.DataFrame([{**vars(video), **video.folds} for video in videos])
        self._lost = rows["video_id"] == lost
        self._rows = rows

    def videos(self) -> pd.DataFrame:
        return self._rows[~self._lost]

    def failures(self) -> pd.DataFrame:
        return self._rows[self._lost]


@pytest.mark.parametrize(
    ("dataset", "counts"),
    [
        ("ucf101", {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}),
        ("hmdb51", dict.fromkeys((1, 2, 3), (3570, 1530))),
    ],
)
def test_official_lists_are_trained_and_tested_whole(
    real_data: Path, tmp_path: Path, dataset: str, counts: dict[int, tuple[int, int]]
) -> None:
    """Every listed video appears once, and no group is on both sides.

    A test video without flow is named; otherwise nobody would notice the smaller test split.
    """
    annotations = real_data / "annotations" / dataset
    if dataset == "ucf101":
        root = touch(tmp_path, "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi")
        videos = read_dataset(root, "ucf101", annotations).videos
    else:
        videos = list_hmdb51(annotations)
    for fold, (trained, tested) in counts.items():
        train, test, missing = labelled_split(Listed(videos), fold, allow_missing=False)
        assert (len(train), len(test), missing) == (trained, tested, 0)
        assert not set(train["group"]) & set(test["group"])
        assert train["video_id"].is_unique
        assert test["video_id"].is_unique
        lost = test["video_id"].iloc[7]
        with pytest.raises(
            ValueError, match=f"1 test videos of fold {fold} have no flow: {re.escape(lost)};"
        ):
            labelled_split(Listed(videos, lost), fold, allow_missing=False)
        assert labelled_split(Listed(videos, lost), fold, allow_missing=True)[2] == 1
