"""Flow folders that are broken, incomplete or of something else, by the real commands."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from exchange_cases import done, flowcpc, two_videos

from flowcpc.stores.flow_store import FlowStore, open_store


@pytest.fixture
def store(tmp_path: Path) -> FlowStore:
    return two_videos(tmp_path)


def spoil(folder: Path, how: str) -> None:
    files = sorted(folder.glob("*.jpg"))
    if how == "hole":
        (folder / "flow_y_00003.jpg").unlink()
    elif how == "junk":
        files[0].write_bytes(b"junk")
    elif how == "empty":
        files[0].write_bytes(b"")
    elif how == "cut":
        files[0].write_bytes(files[0].read_bytes()[:-2])
    elif how == "many":
        for path in files[3:]:
            path.rename(folder / path.name.replace("_000", "_900"))
    elif how == "twins":
        files[0].with_name("flow_x_1.jpg").write_bytes(files[0].read_bytes())
    elif how == "colour":
        cv2.imwrite(str(files[0]), np.tile(np.uint8([0, 128, 255]), (32, 48, 1)))
    elif how == "grown":
        for path in folder.glob("*_00003.jpg"):
            cv2.imwrite(str(path), np.zeros((30, 48), np.uint8))
        (folder / "flow_x_00004.jpg").write_bytes(b"junk")  # not read any more
    elif how == "late":
        for number in (1, 2):
            (folder / f"flow_x_{number:05d}.jpg").unlink()
            (folder / f"flow_y_{number:05d}.jpg").unlink()
    else:
        cv2.imwrite(str(files[-1]), np.zeros((30, 48), np.uint8))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("hole", "lacks flow_y_00003.jpg"),
        ("junk", "flow_x_00001.jpg is not an image"),
        ("empty", "flow_x_00001.jpg is not an image"),
        ("cut", "flow_x_00001.jpg is cut off"),
        (
            "many",
            "lacks flow_y_00001.jpg, flow_y_00002.jpg, flow_y_00003.jpg, flow_x_00004.jpg, "
            "flow_y_00004.jpg and ",
        ),
        ("twins", "has both flow_x_00001.jpg and flow_x_1.jpg"),
        ("colour", "flow_x_00001.jpg is a colour image"),
        ("grown", "flow_x_00003.jpg is 30x48, but the flow before it is 32x48"),
        ("late", "begins with number 3, but the first flow here is 1"),
        ("size", "flow_y_00005.jpg is 30x48 and flow_x_00005.jpg is 32x48"),
    ],
)
def test_a_bad_folder_is_a_row_in_failures(
    store: FlowStore, tmp_path: Path, how: str, words: str
) -> None:
    done(flowcpc("export", store.path, tmp_path / "out", "--layout", "tsn"))
    spoil(tmp_path / "out" / "Left" / "a", how)
    result = flowcpc("import", tmp_path / "out", tmp_path / "in.flow", "--layout", "tsn")
    assert result.exit_code == 3, result.output
    assert words in result.output
    imported = open_store(tmp_path / "in.flow")
    assert imported.failures()["video_id"].tolist() == ["Left/a"]
    assert imported.videos()["video_id"].tolist() == ["Right/b"]


def test_a_video_without_its_first_flow_is_not_shifted_by_one(
    store: FlowStore, tmp_path: Path
) -> None:
    """Alone, flows 1 to 4 of a tree from 0 look like all flows of one from 1."""
    done(flowcpc("export", store.path, tmp_path / "out", "--layout", "denseflow"))
    for kind in "xy":
        (tmp_path / "out" / "Left" / "a" / f"flow_{kind}_00000.jpg").unlink()
    result = flowcpc("import", tmp_path / "out", tmp_path / "in.flow", "--layout", "denseflow")
    assert (result.exit_code, result.stdout) == (
        3,
        "Left/a\tbegins with number 1, but the first flow here is 0\n",
    )


def test_pictures_of_flow_are_not_taken_for_flow(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "a"
    folder.mkdir(parents=True)
    gray = np.full((32, 48), 90, np.uint8)
    for number, image in enumerate(
        (np.dstack([gray, gray, np.full_like(gray, 255)]), gray), start=1
    ):
        cv2.imwrite(str(folder / f"flow_{number:05d}.jpg"), image)
    words = ["import", tmp_path / "out", tmp_path / "in.flow", "--layout", "memdpc"]
    assert "flow_00001.jpg has red that is not 128" in flowcpc(*words).output
    (folder / "flow_00001.jpg").write_bytes((folder / "flow_00002.jpg").read_bytes())
    assert "flow_00001.jpg is not a colour image" in flowcpc(*words).output


def test_a_link_back_to_the_tree_ends(store: FlowStore, tmp_path: Path) -> None:
    done(flowcpc("export", store.path, tmp_path / "out", "--layout", "tsn"))
    (tmp_path / "out" / "Left" / "again").symlink_to(tmp_path / "out")
    assert "stored 2 videos" in done(
        flowcpc("import", tmp_path / "out", tmp_path / "in.flow", "--layout", "tsn")
    )
