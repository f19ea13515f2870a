from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcpc.train.evaluation.label_subsets import choose_labelled, labelled_subset


def videos(groups_of: dict[str, list[int]]) -> pd.DataFrame:
    """Training videos: for each class the number of clips in each of its groups."""
    rows = [
        (f"v_{label}_g{g:02d}_c{c:02d}", label, f"v_{label}_g{g:02d}")
        for label, clips in groups_of.items()
        for g, count in enumerate(clips)
        for c in range(count)
    ]
    return pd.DataFrame(rows, columns=["video_id", "label", "group"])


def test_five_labels_are_five_groups_and_eighteen_are_all_of_them() -> None:
    train = videos({"A": [4, 1, 7] * 6, "B": [2] * 18})
    for labels, count in ((5, 5), (18, 18)):
        chosen, remarks = choose_labelled(train, labels, seed=0, fold=1)
        assert chosen.groupby("label").size().tolist() == [count, count]
        assert chosen.groupby("label")["group"].nunique().tolist() == [count, count]
        assert remarks == []
    whole, remarks = labelled_subset(Path(), train, None, seed=0, fold=1)
    assert whole is train
    assert remarks == []


@given(
    clips=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    labels=st.integers(1, 12),
    seed=st.integers(0, 5),
    fold=st.integers(1, 3),
)
def test_groups_are_used_evenly_and_fewer_labels_are_a_part_of_more(
    clips: list[int], labels: int, seed: int, fold: int
) -> None:
    train = videos({"A": clips, "B": [3, 3, 3]})
    chosen, _ = choose_labelled(train, labels, seed=seed, fold=fold)
    mine = chosen[chosen["label"] == "A"]
    assert len(mine) == min(labels, sum(clips))
    assert mine["video_id"].is_unique
    used = (
        mine.groupby("group")
        .size()
        .reindex(train.loc[train["label"] == "A", "group"].unique(), fill_value=0)
    )
    # No group gives a second clip while another that has one left has given none.
    left = used < pd.Series(clips, index=used.index)
    assert used[left].min() >= used.max() - 1 or not left.any()
    shuffled, _ = choose_labelled(
        train.sample(frac=1, random_state=1), labels, seed=seed, fold=fold
    )
    assert set(shuffled["video_id"]) == set(chosen["video_id"])
    more, _ = choose_labelled(train, labels + 1, seed=seed, fold=fold)
    assert set(chosen["video_id"]) <= set(more["video_id"])


def test_seeds_and_folds_draw_differently() -> None:
    train = videos({"A": [5] * 18})
    draws = {
        tuple(choose_labelled(train, 5, seed=seed, fold=fold)[0]["video_id"])
        for seed in range(5)
        for fold in (1, 2)
    }
    assert len(draws) == 10


def test_classes_that_lack_groups_or_videos_are_named(tmp_path: Path) -> None:
    train = videos({"A": [3] * 5, "B": [9], "C": [1, 1]})
    chosen, remarks = choose_labelled(train, 5, seed=0, fold=1)
    for _ in range(2):  # drawn, and read from where that was written down
        assert labelled_subset(tmp_path, train, 5, seed=0, fold=1)[1] == remarks
    assert chosen.groupby("label").size().to_dict() == {"A": 5, "B": 5, "C": 2}
    assert remarks == [
        "1 class has fewer than 5 groups, so some videos share a group: B (1)",
        "1 class has fewer than 5 videos, so all of them are used: C (2)",
    ]


def test_videos_without_group_are_groups_of_their_own() -> None:
    train = videos({"A": [1] * 4}).assign(group=None)
    chosen, remarks = choose_labelled(train, 3, seed=0, fold=1)
    assert len(chosen) == 3
    assert remarks == []


def test_the_subset_is_written_down_and_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = videos({"A": [2] * 18, "B": [2] * 18})
    first, _ = labelled_subset(tmp_path, train, 5, seed=3, fold=2)
    manifest = pd.read_parquet(tmp_path / "5-fold2-seed3.parquet")
    assert manifest["video_id"].tolist() == first["video_id"].tolist()
    assert list(manifest.columns) == ["video_id", "label", "group"]
    drawn: Callable[..., object] = None
    monkeypatch.setattr("flowcpc.train.evaluation.label_subsets.choose_labelled", drawn)
    again, _ = labelled_subset(tmp_path, train, 5, seed=3, fold=2)
    pd.testing.assert_frame_equal(again, first)
    # New videos of the data set change nothing; those that have gone are named.
    grown = (
        pd.concat([train, videos({"A": [9] * 30})])
        .drop_duplicates("video_id")
        .reset_index(drop=True)
    )
    assert set(labelled_subset(tmp_path, grown, 5, seed=3, fold=2)[0]["video_id"]) == set(
        first["video_id"]
    )
    gone = first["video_id"][0]
    with pytest.raises(
        ValueError, match=f"names 1 videos that are not in the train split of fold 2 .* {gone}"
    ):
        labelled_subset(tmp_path, train[train["video_id"] != gone], 5, seed=3, fold=2)
    whole = (tmp_path / "5-fold2-seed3.parquet").read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    for damaged in (b"no Parquet", whole[: -8 - footer] + bytes(footer) + whole[-8:]):
        (tmp_path / "5-fold2-seed3.parquet").write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged; restore it, or delete it"):
            labelled_subset(tmp_path, train, 5, seed=3, fold=2)


def test_official_ucf101_subsets(real_data: Path) -> None:
    """18 groups in every class of every train split; no test group among the chosen."""
    folder = real_data / "annotations" / "ucf101"
    for fold in (1, 2, 3):
        names = {
            split: [
                line.split()[0]
                for line in (folder / f"{split}list0{fold}.txt").read_text().split("\n")
                if line.strip()
            ]
            for split in ("train", "test")
        }
        rows = [
            (Path(name).stem, Path(name).parent.name, Path(name).stem[:-4])
            for name in names["train"]
        ]
        train = pd.DataFrame(rows, columns=["video_id", "label", "group"])
        assert len(train) == {1: 9537, 2: 9586, 3: 9624}[fold]
        assert len(names["test"]) == {1: 3783, 2: 3734, 3: 3696}[fold]
        test_groups = {Path(name).stem[:-4] for name in names["test"]}
        for labels in (18, 5):
            chosen, remarks = choose_labelled(train, labels, seed=0, fold=fold)
            assert remarks == []
            assert chosen.groupby("label").size().eq(labels).all()
            assert chosen.groupby("label")["group"].nunique().eq(labels).all()
            assert chosen["label"].nunique() == 101
            assert not set(chosen["group"]) & test_groups
