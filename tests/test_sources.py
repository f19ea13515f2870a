from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources import Video, limit_videos, read_dataset


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "classInd.txt").write_bytes(b"1 Bow\r\n2 Run\r\n")
    (folder / "trainlist01.txt").write_bytes(b"Bow/v_Bow_g02_c01.avi 1\r\nRun/v_Run_g02_c01.avi 2\r\n\r\n")
    (folder / "testlist01.txt").write_bytes(b"Bow/v_Bow_g01_c01.avi\r\n")
    (folder / "trainlist02.txt").write_bytes(b"Bow/v_Bow_g01_c01.avi 1\r\n")
    return folder


def test_ucf101_lists_become_rows(tmp_path: Path, lists: Path) -> None:
    root = touch(tmp_path / "videos", "Bow/v_Bow_g01_c01.avi", "Bow/v_Bow_g02_c01.avi", "Bow/v_Bow_g09_c01.avi")
    found = read_dataset(root, "ucf101", lists)
    assert found.videos == [
        Video("v_Bow_g01_c01", "Bow/v_Bow_g01_c01.avi", "Bow", "v_Bow_g01", {"fold1": "test", "fold2": "train"}),
        Video("v_Bow_g02_c01", "Bow/v_Bow_g02_c01.avi", "Bow", "v_Bow_g02", {"fold1": "train"}),
        Video("v_Run_g02_c01", "Run/v_Run_g02_c01.avi", "Run", "v_Run_g02", {"fold1": "train"}),  # listed, absent
    ]
    assert found.remarks == [f"1 video files under {root} are in no list and are left out"]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("trainlist01.txt", "Swim/v_Swim_g01_c01.avi 3\n", "class 'Swim' .* is not in classInd.txt"),
        ("testlist01.txt", "Bow/v_Bow_g02_c01.avi\n", "in train and test of fold 1"),
        ("classInd.txt", "Bow\n", "is not 'NUMBER CLASS'"),
    ],
)
def test_ucf101_lists_that_are_wrong(tmp_path: Path, lists: Path, file: str, content: str, words: str) -> None:
    (lists / file).write_text(content)
    with pytest.raises(ValueError, match=words):
        read_dataset(touch(tmp_path / "videos", "Bow/v_Bow_g01_c01.avi"), "ucf101", lists)


def test_ucf101_without_what_it_needs(tmp_path: Path, lists: Path) -> None:
    root = touch(tmp_path / "videos", "other/x.avi")
    with pytest.raises(ValueError, match="none of the 3 listed videos is under"):
        read_dataset(root, "ucf101", lists)
    with pytest.raises(ValueError, match="needs --annotations"):
        read_dataset(root, "ucf101")
    with pytest.raises(FileNotFoundError, match=r"classInd\.txt does not exist"):
        read_dataset(root, "ucf101", root)
    with pytest.raises(FileNotFoundError, match=r"annotations folder .* does not exist"):
        read_dataset(root, "ucf101", tmp_path / "nowhere")


def test_missing_folder_and_file_instead_of_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_dataset(tmp_path / "nowhere", "folder")
    with pytest.raises(ValueError, match="is a file"):
        read_dataset(touch(tmp_path, "x.avi") / "x.avi", "folder")
    with pytest.raises(ValueError, match="holds no video file"):
        read_dataset(touch(tmp_path / "empty", "readme.txt"), "folder")


def test_folders_of_classes_are_split_by_groups(tmp_path: Path) -> None:
    names = [f"{label}/v_{label}_g{g:02d}_c{c:02d}.AVI" for label in ("A", "B") for g in range(1, 11) for c in (1, 2)]
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
    found = read_dataset(touch(tmp_path, *(f"{label}/{n}.avi" for label in "AB" for n in range(10))), "folder").videos
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
    with pytest.raises(ValueError, match="not placed as SPLIT/CLASS/VIDEO"):
        read_dataset(tmp_path, "folder")


def test_two_files_of_one_name_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would both be called 'A/x'"):
        read_dataset(touch(tmp_path, "A/x.avi", "A/x.mp4"), "folder")


def test_csv_rows(tmp_path: Path) -> None:
    root = touch(tmp_path / "videos", "a.avi")
    file = tmp_path / "list.csv"
    file.write_text(f"path,label,group,split\na.avi,X,g1,train\n{root.resolve()}/sub/b.mp4,Y,,test\n'c d'.avi,,,\n")
    found = read_dataset(root, "csv", file).videos
    assert [(v.video_id, v.label, v.group, v.folds) for v in found] == [
        ("'c d'", None, "'c d'", {}),
        ("a", "X", "g1", {"fold1": "train"}),
        ("sub/b", "Y", "sub/b", {"fold1": "test"}),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\na.avi,X\n", "needs path and label"),
        ("path,label\n", "has no rows"),
        ("path,label\n../a.avi,X\n", "line 2: path '../a.avi' is not inside"),
        ("path,label\n/etc/passwd,X\n", "is not inside"),
        ("path,label,split\na.avi,X,training\n", "split 'training' is unknown"),
        ("path,label\na.avi,X\na.avi,Y\n", r"a\.avi is listed twice"),
    ],
)
def test_csv_that_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "list.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_dataset(touch(tmp_path / "videos", "a.avi"), "csv", file)


def test_csv_in_another_character_set_is_named(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes("path,label\na.avi,é\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"list\.csv is not a text file in UTF-8"):
        read_dataset(touch(tmp_path / "videos", "a.avi"), "csv", file)


def test_folders_within_class_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not placed as CLASS/VIDEO"):
        read_dataset(touch(tmp_path, "videos/A/x.avi", "videos/B/y.avi"), "folder")


def test_files_without_a_video_extension_are_counted(tmp_path: Path) -> None:
    found = read_dataset(touch(tmp_path, "A/x.avi", "A/y", "A/z.txt"), "folder")
    assert found.remarks[0] == f"2 files under {tmp_path} have no video extension and are left out"


videos_of = st.lists(
    st.tuples(st.sampled_from("ABC"), st.integers(1, 6), st.integers(1, 3)), unique=True, min_size=1, max_size=40
).map(
    lambda rows: [
        Video(f"v_{c}_g{g:02d}_c{k:02d}", "", c, f"v_{c}_g{g:02d}", {"fold1": "test" if g < 3 else "train"})
        for c, g, k in rows
    ]
)


@given(videos_of, st.integers(1, 45))
def test_a_limit_is_balanced_and_grows_without_forgetting(videos: list[Video], limit: int) -> None:
    chosen = limit_videos(videos, limit)
    assert len(chosen) == min(limit, len(videos))
    assert {v.video_id for v in chosen} <= {v.video_id for v in limit_videos(videos, limit + 1)}
    available, taken = Counter(v.label for v in videos), Counter(v.label for v in chosen)
    for label, count in available.items():
        assert taken[label] >= min(count, max(taken.values()) - 1)


def test_official_ucf101_lists_have_the_published_counts(real_data: Path, tmp_path: Path) -> None:
    root = touch(tmp_path, "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi")
    videos = read_dataset(root, "ucf101", real_data / "annotations" / "ucf101").videos
    assert len(videos) == 13320
    assert len({video.label for video in videos}) == 101
    for fold, counts in {"fold1": (9537, 3783), "fold2": (9586, 3734), "fold3": (9624, 3696)}.items():
        found = Counter(video.folds[fold] for video in videos if fold in video.folds)
        assert (found["train"], found["test"]) == counts
        groups = {
            split: {video.group for video in videos if video.folds.get(fold) == split} for split in ("train", "test")
        }
        assert not groups["train"] & groups["test"]
