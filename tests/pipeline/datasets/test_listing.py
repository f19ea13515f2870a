"""The files under a folder."""

import os
from pathlib import Path
from unittest import mock

import pytest
from builders import touch
from hypothesis import given
from hypothesis import strategies as st

from flowcpc.pipeline.datasets.listing import list_files, merge_folds, read_columns
from flowcpc.pipeline.datasets.sources import read_dataset
from flowcpc.stores.base.errors import OperationError

parts = st.text(st.sampled_from("ab.é #"), min_size=1, max_size=3).filter(
    lambda part: part.strip(".") != ""
)


@given(st.sets(st.lists(parts, min_size=1, max_size=3).map("/".join), max_size=12))
def test_all_files_are_listed(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    root = tmp_path_factory.mktemp("tree")
    for name in names:
        touch(root, f"{name}.avi")
    oracle = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    assert list_files(root) == (oracle, 0)


def test_links(tmp_path: Path) -> None:
    root = touch(tmp_path / "videos", "A/x.avi")
    touch(tmp_path / "elsewhere", "y.avi", "deep/z.avi")
    (root / "B").symlink_to(tmp_path / "elsewhere")
    (root / "A" / "up").symlink_to(root)
    (root / "C").symlink_to(root / "A")
    (root / "A" / "gone.avi").symlink_to(tmp_path / "nowhere.avi")
    (root / "A" / "round.avi").symlink_to(root / "A" / "round.avi")
    (root / "A" / "file.avi").symlink_to(tmp_path / "elsewhere" / "y.avi")
    os.mkfifo(root / "A" / "pipe.avi")  # opening it would wait for ever
    of_a = ["file.avi", "gone.avi", "round.avi", "x.avi"]
    in_b = ["B/deep/z.avi", "B/y.avi"]
    names = [f"A/{name}" for name in of_a] + in_b + [f"C/{name}" for name in of_a]
    assert list_files(root) == (names, 0)


def test_no_file_is_asked_for_more_than_its_name(tmp_path: Path) -> None:
    root = touch(tmp_path, *(f"{label}/{n}.avi" for label in "ABC" for n in range(20)))
    with mock.patch("os.stat", wraps=os.stat) as stat:
        found = read_dataset(root, "folder").videos
    assert len(found) == 60
    assert stat.call_count < 10  # of folders


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "A/x.avi")
    with (
        mock.patch("os.scandir", side_effect=PermissionError(13, "Permission denied")),
        pytest.raises(
            OperationError,
            match=r"cannot be listed \(Permission denied\); give yourself permission",
        ),
    ):
        list_files(tmp_path)


def test_extensions(tmp_path: Path) -> None:
    names = ("a/b.AVI", "a.mp4", "b.txt", ".avi", "a.avi/b", "x.y.webm")
    assert list_files(touch(tmp_path, *names)) == (["a.mp4", "a/b.AVI", "x.y.webm"], 3)


def test_columns_may_stand_beside_spaces(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("\ufeffpath , label\r\na.avi, X\r\n\r\nb.avi\r\n".encode())
    columns, rows = read_columns(tmp_path / "list.csv")
    assert columns == ["path", "label"]
    assert list(rows) == [
        (f"{tmp_path / 'list.csv'}, line 2", {"path": "a.avi", "label": "X"}),
        (f"{tmp_path / 'list.csv'}, line 4", {"path": "b.avi", "label": ""}),
    ]


@pytest.mark.parametrize("path", ["A/x.y.avi", "./A/x.y.avi", "A/./x.y.avi", "A//x.y.avi"])
def test_the_label_is_the_name_of_the_folder(path: str) -> None:
    (video,) = merge_folds([("line 1", path, "fold1", "train")], lambda stem, label: stem)
    assert (video.video_id, video.label) == ("x.y", "A")
