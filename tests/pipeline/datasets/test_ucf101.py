"""UCF-101's official lists."""

from collections import Counter
from pathlib import Path

import pytest
from builders import touch

from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.datasets.sources import read_dataset


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "classInd.txt").write_bytes(b"1 Bow\r\n2 Run\r\n")
    (folder / "trainlist01.txt").write_bytes(
        b"Bow/v_Bow_g02_c01.avi 1\r\nRun/v_Run_g02_c01.avi 2\r\n\r\n"
    )
    (folder / "testlist01.txt").write_bytes(b"Bow/v_Bow_g01_c01.avi\r\n")
    (folder / "trainlist02.txt").write_bytes(b"Bow/v_Bow_g01_c01.avi 1\r\n")
    return folder


def test_ucf101_lists_become_rows(tmp_path: Path, lists: Path) -> None:
    root = touch(
        tmp_path / "videos",
        "Bow/v_Bow_g01_c01.avi",
        "Bow/v_Bow_g02_c01.avi",
        "Bow/v_Bow_g09_c01.avi",
    )
    found = read_dataset(root, "ucf101", lists)
    assert found.videos == [
        Video(
            "v_Bow_g01_c01",
            "Bow/v_Bow_g01_c01.avi",
            "Bow",
            "v_Bow_g01",
            {"fold1": "test", "fold2": "train"},
        ),
        Video("v_Bow_g02_c01", "Bow/v_Bow_g02_c01.avi", "Bow", "v_Bow_g02", {"fold1": "train"}),
        Video(
            "v_Run_g02_c01", "Run/v_Run_g02_c01.avi", "Run", "v_Run_g02", {"fold1": "train"}
        ),  # listed, absent
    ]
    assert found.remarks == [f"video files in no list are left out (1 under {root})"]


def test_a_list_of_groups_may_name_those_that_classes_share(tmp_path: Path, lists: Path) -> None:
    root = touch(tmp_path / "videos", "Bow/v_Bow_g01_c01.avi")
    (lists / "groups.txt").write_text("Bow/v_Bow_g02_c01.avi g02\nRun/v_Run_g02_c01.avi g02\n")
    found = {video.video_id: video.group for video in read_dataset(root, "ucf101", lists).videos}
    assert found == {"v_Bow_g01_c01": "v_Bow_g01", "v_Bow_g02_c01": "g02", "v_Run_g02_c01": "g02"}


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (
            "trainlist01.txt",
            "Swim/v_Swim_g01_c01.avi 3\n",
            "class 'Swim' .* is not in classInd.txt",
        ),
        ("testlist01.txt", "Bow/v_Bow_g02_c01.avi\n", "in test of fold1 here, and in train before"),
        ("classInd.txt", "Bow\n", "is not 'NUMBER CLASS'"),
        ("groups.txt", "Bow/v_Bow_g01_c01.avi\n", r"groups.txt, line 1: .* is not 'VIDEO GROUP'"),
    ],
)
def test_ucf101_lists_that_are_wrong(
    tmp_path: Path, lists: Path, file: str, content: str, words: str
) -> None:
    (lists / file).write_text(content)
    with pytest.raises(ValueError, match=words):
        read_dataset(touch(tmp_path / "videos", "Bow/v_Bow_g01_c01.avi"), "ucf101", lists)


def test_ucf101_without_what_it_needs(tmp_path: Path, lists: Path) -> None:
    root = touch(tmp_path / "videos", "other/x.avi")
    with pytest.raises(ValueError, match="none of 3 videos of the list is under"):
        read_dataset(root, "ucf101", lists)
    with pytest.raises(ValueError, match="needs --annotations"):
        read_dataset(root, "ucf101")
    with pytest.raises(FileNotFoundError, match=r"classInd\.txt does not exist"):
        read_dataset(root, "ucf101", root)
    with pytest.raises(FileNotFoundError, match=r"annotations folder .* does not exist"):
        read_dataset(root, "ucf101", tmp_path / "nowhere")


def test_official_ucf101_lists_have_the_published_counts(real_data: Path, tmp_path: Path) -> None:
    root = touch(tmp_path, "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi")
    videos = read_dataset(root, "ucf101", real_data / "annotations" / "ucf101").videos
    assert len(videos) == 13320
    assert len({video.label for video in videos}) == 101
    for fold, counts in {
        "fold1": (9537, 3783),
        "fold2": (9586, 3734),
        "fold3": (9624, 3696),
    }.items():
        found = Counter(video.folds[fold] for video in videos if fold in video.folds)
        assert (found["train"], found["test"]) == counts
        groups = {
            split: {video.group for video in videos if video.folds.get(fold) == split}
            for split in ("train", "test")
        }
        assert not groups["train"] & groups["test"]
