"""A folder per class."""

from pathlib import Path

import pytest
from builders import touch

from flowcpc.pipeline.datasets.sources import read_dataset


def test_folders_of_classes_are_split_by_groups(tmp_path: Path) -> None:
    names = [
        f"{label}/v_{label}_g{g:02d}_c{c:02d}.AVI"
        for label in ("A", "B")
        for g in range(1, 11)
        for c in (1, 2)
    ]
    found = read_dataset(touch(tmp_path, *names), "folder")
    assert len(found.videos) == 40
    assert "70 % train and 30 % test (seed 0)" in found.remarks[0]
    for label in ("A", "B"):
        groups = {
            split: {v.group for v in found.videos if v.label == label and v.folds["fold1"] == split}
            for split in ("train", "test")
        }
        assert not groups["train"] & groups["test"]
        assert (len(groups["train"]), len(groups["test"])) == (7, 3)
    assert read_dataset(tmp_path, "folder").videos == found.videos
    assert read_dataset(tmp_path, "folder", seed=1).videos != found.videos


def test_equal_file_names_in_two_classes_are_two_groups(tmp_path: Path) -> None:
    found = read_dataset(
        touch(tmp_path, *(f"{label}/{n}.avi" for label in "AB" for n in range(10))), "folder"
    ).videos
    assert len({video.group for video in found}) == 20


def test_a_class_of_one_group_trains(tmp_path: Path) -> None:
    (only,) = read_dataset(touch(tmp_path, "A/x.avi"), "folder").videos
    assert only.folds == {"fold1": "train"}


def test_split_folders_are_kept(tmp_path: Path) -> None:
    found = read_dataset(touch(tmp_path, "train/A/x.avi", "test/A/y.mp4", "val/B/z.mkv"), "folder")
    assert {(v.video_id, v.label, v.folds["fold1"]) for v in found.videos} == {
        ("train/A/x", "A", "train"), ("test/A/y", "A", "test"), ("val/B/z", "B", "val"),
    }  # fmt: skip
    touch(tmp_path, "extra/A/w.avi")
    with pytest.raises(
        ValueError, match=r"placed as SPLIT/CLASS/VIDEO; move 1 video, first .*w\.avi, or"
    ):
        read_dataset(tmp_path, "folder")


def test_folders_within_class_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"placed as CLASS/VIDEO; move 2 videos, first .*x\.avi, or"
    ):
        read_dataset(touch(tmp_path, "videos/A/x.avi", "videos/B/y.avi"), "folder")


def test_files_without_a_video_extension_are_counted(tmp_path: Path) -> None:
    found = read_dataset(touch(tmp_path, "A/x.avi", "A/y", "A/z.txt"), "folder")
    assert found.remarks[0] == f"files without a video extension are left out (2 under {tmp_path})"
