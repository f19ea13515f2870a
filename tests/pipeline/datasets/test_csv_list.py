"""A CSV list of the user."""

from pathlib import Path

import pytest
from builders import touch

from flowcpc.pipeline.datasets.sources import read_dataset


def test_csv_rows(tmp_path: Path) -> None:
    root = touch(tmp_path / "videos", "a.avi")
    file = tmp_path / "list.csv"
    file.write_text(
        "path,label,group,split\na.avi,X,g1,train\n"
        f"{root.resolve()}/sub/b.mp4,Y,,test\n'c d'.avi,,,\n"
    )
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


def test_absolute_paths_by_any_name_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = touch(tmp_path / "real", "a.avi", "sub/b.avi", "c.avi")
    (tmp_path / "link").symlink_to(root)
    file = tmp_path / "list.csv"
    file.write_text(f"path,label\n{root}/a.avi,X\n{tmp_path}/link/sub/b.avi,X\n./c.avi,X\n")
    monkeypatch.chdir(tmp_path)
    for name in (root, tmp_path / "link", Path("link"), Path("real")):
        assert [video.path for video in read_dataset(name, "csv", file).videos] == [
            "a.avi",
            "c.avi",
            "sub/b.avi",
        ]


@pytest.mark.parametrize(
    "path", ["{root}", "{root}/../secret.avi", "{root}x/a.avi", "sub/../../a.avi", "..", "."]
)
def test_paths_that_leave_the_folder(tmp_path: Path, path: str) -> None:
    root = touch(tmp_path / "videos", "a.avi")
    file = tmp_path / "list.csv"
    file.write_text(f"path,label\n{path.format(root=root)},X\n")
    with pytest.raises(ValueError, match=r"is not inside .*; write paths relative to it"):
        read_dataset(root, "csv", file)
