"""HMDB-51's official lists."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from builders import touch
from hypothesis import given
from hypothesis import strategies as st

from flowcpc.pipeline.datasets.hmdb51 import hmdb_group, list_hmdb51
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.datasets.sources import read_dataset

JUMP = "Goal_1_&_2_jump_f_cm_np1_fr_goo_2"
WAVE = "Who!_wave_u_nm_np1_fr_med_11"


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "annotations"
    folder.mkdir()
    for fold, uses in ((1, "21"), (2, "01"), (3, "12")):
        for label, name, use in (("jump", JUMP, uses[0]), ("wave", WAVE, uses[1])):
            (folder / f"{label}_test_split{fold}.txt").write_text(f"{name}.avi {use} \n")
    (folder / "class_list.txt").write_text("jump\nwave\n")  # stands beside the official lists
    return folder


def test_lists_become_rows(tmp_path: Path, lists: Path) -> None:
    root = touch(
        tmp_path / "videos",
        f"jump/{JUMP}.avi",
        "jump/hmdb51_x_jump_f_cm_np1_fr_goo_2.avi",
        "jump/notes.txt",
    )
    found = read_dataset(root, "hmdb51", lists)
    assert found.videos == [
        Video(
            JUMP, f"jump/{JUMP}.avi", "jump", "Goal_1_&_2_jump", {"fold1": "test", "fold3": "train"}
        ),
        Video(
            WAVE,
            f"wave/{WAVE}.avi",
            "wave",
            "Who!_wave",
            {"fold1": "train", "fold2": "train", "fold3": "test"},
        ),
    ]
    assert found.remarks == [f"video files in no list are left out (1 under {root})"]


def test_lists_that_are_wrong(tmp_path: Path, lists: Path) -> None:
    root = touch(tmp_path / "videos", f"jump/{JUMP}.avi")
    (lists / "jump_test_split1.txt").write_text(f"{JUMP}.avi 3\n")
    with pytest.raises(
        ValueError,
        match=r"jump_test_split1\.txt, line 1: .* is not 'VIDEO 0', 'VIDEO 1' or 'VIDEO 2'",
    ):
        read_dataset(root, "hmdb51", lists)
    (lists / "jump_test_split1.txt").write_text(f"{JUMP}.avi 1\n\n{JUMP}.avi 2\n")
    with pytest.raises(
        ValueError, match=r"line 3: .* is in test of fold1 here, and in train before"
    ):
        read_dataset(root, "hmdb51", lists)
    (lists / "jump_test_split1.txt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"jump_test_split1\.txt does not exist, though .* split 1"
    ):
        read_dataset(root, "hmdb51", lists)
    with pytest.raises(
        FileNotFoundError, match=r"has no file named like brush_hair_test_split1\.txt"
    ):
        read_dataset(root, "hmdb51", root)
    with pytest.raises(FileNotFoundError, match="does not exist or is no folder"):
        read_dataset(root, "hmdb51", tmp_path / "nowhere")


def test_lists_without_a_video(tmp_path: Path) -> None:
    root = touch(tmp_path / "videos", f"{JUMP}.avi")
    lists = touch(tmp_path / "lists", "jump_test_split1.txt")
    with pytest.raises(ValueError, match=r"the lists in .* name no video"):
        read_dataset(root, "hmdb51", lists)


def test_none_of_the_listed_videos_is_there(tmp_path: Path, lists: Path) -> None:
    root = touch(tmp_path / "videos", f"{JUMP}.avi")
    with pytest.raises(
        ValueError, match=r"none of 2 videos of the list is under .* as in .*videos/jump/Goal"
    ):
        read_dataset(root, "hmdb51", lists)


properties = st.tuples(
    st.sampled_from("ulfh"), st.sampled_from(["cm", "nm"]), st.integers(0, 12),
    st.sampled_from(["fr", "le", "ri", "ba"]), st.sampled_from(["bad", "med", "goo"]),
    st.integers(0, 120),
).map(lambda p: "{}_{}_np{}_{}_{}_{}".format(*p))  # fmt: skip
sources = st.text(st.sampled_from("aZ9_-()!+#[]&;~@"), min_size=1, max_size=30)


@given(sources, sources, st.sampled_from(["run", "brush_hair"]), properties, properties)
def test_clips_of_one_source_share_a_group_and_others_do_not(
    one: str, other: str, label: str, first: str, second: str
) -> None:
    group = hmdb_group(f"{one}_{label}_{first}", label)
    assert group == f"{one}_{label}"
    assert hmdb_group(f"{one}_{label}_{second}", label) == group
    assert (hmdb_group(f"{other}_{label}_{first}", label) == group) == (one == other)
    assert hmdb_group(f"{one}_walk_{first}", "walk") != group


def test_a_name_of_another_form_is_a_group_of_its_own() -> None:
    assert hmdb_group("my_clip_3", "run") == "my_clip_3"
    assert hmdb_group("x_walk_f_cm_np1_fr_goo_2", "run") == "x_walk_f_cm_np1_fr_goo_2"


def test_official_lists_have_the_published_counts(real_data: Path) -> None:
    videos = list_hmdb51(real_data / "annotations" / "hmdb51")
    assert len(videos) == len({video.video_id for video in videos}) == 6766
    assert len({video.label for video in videos}) == 51
    for fold in ("fold1", "fold2", "fold3"):
        uses = Counter((video.label, video.folds[fold]) for video in videos if fold in video.folds)
        assert Counter(split for _, split in uses.elements()) == {"train": 3570, "test": 1530}
        assert {count for (_, split), count in uses.items() if split == "train"} == {70}
        assert {count for (_, split), count in uses.items() if split == "test"} == {30}


def test_groups_are_never_split_by_the_official_folds(real_data: Path) -> None:
    """So a source within its class is the right group: the authors kept its clips on one side."""
    videos = list_hmdb51(real_data / "annotations" / "hmdb51")
    assert all(video.group != video.video_id for video in videos)
    groups = Counter(video.group for video in videos)
    assert len(groups) == 2291
    assert sum(groups.values()) / len(groups) > 2.9
    for fold in ("fold1", "fold2", "fold3"):
        sides = defaultdict(set)
        for video in videos:
            if fold in video.folds:
                sides[video.group].add(video.folds[fold])
        assert {len(side) for side in sides.values()} == {1}
