"""Imports over a store that is there already."""

from pathlib import Path

import numpy as np
import pytest
from builders import commit_flow
from exchange_cases import done, flowcpc, smooth_flow, two_videos

from flowcpc.stores.encoding import DEFAULT
from flowcpc.stores.flow_store import FlowStore, create_store, open_store
from flowcpc.stores.layout import commit_path


@pytest.fixture
def store(tmp_path: Path) -> FlowStore:
    return two_videos(tmp_path)


@pytest.mark.parametrize("damage", ["bit", "gone", "record"])
def test_import_again_mends_what_is_damaged(store: FlowStore, tmp_path: Path, damage: str) -> None:
    out, again = tmp_path / "out", tmp_path / "again.flow"
    done(flowcpc("export", store.path, out, "--layout", "tsn"))
    done(flowcpc("import", out, again, "--layout", "tsn"))
    imported = open_store(again)
    expected = imported.read_flow("Left/a")
    file = again / imported.commit_of("Left/a")["chunks"]["files"][0]
    if damage == "record":
        file = commit_path(again, "Left/a")
    data = file.read_bytes()
    file.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    if damage == "gone":
        file.unlink()
    result = flowcpc("verify", again)
    assert result.exit_code == 1
    advised = result.stderr.splitlines()[-1].partition(" with: ")[2]
    assert advised.startswith(f"flowcpc import FOLDER {again} --layout tsn --bound 20")
    assert "flowcpc import FOLDER" in flowcpc("verify", again, "--repair", out).stderr
    assert "stored 1 video in" in done(flowcpc("import", out, again, "--layout", "tsn"))
    done(flowcpc("verify", again))
    np.testing.assert_array_equal(open_store(again).read_flow("Left/a"), expected)


def test_a_folder_that_broke_or_went_keeps_its_earlier_flow(
    store: FlowStore, tmp_path: Path
) -> None:
    out, again = tmp_path / "out", tmp_path / "again.flow"
    done(flowcpc("export", store.path, out, "--layout", "tsn"))
    done(flowcpc("import", out, again, "--layout", "tsn"))
    (out / "Left" / "a" / "flow_y_00002.jpg").unlink()
    result = flowcpc("import", out, again, "--layout", "tsn")
    assert (result.exit_code, result.stdout) == (3, "Left/a\tlacks flow_y_00002.jpg\n")
    assert "the store keeps their earlier flow" in result.stderr
    assert open_store(again).read_flow("Left/a").shape[0] == 5


def test_other_frames_per_second_are_said(store: FlowStore, tmp_path: Path) -> None:
    words = ["import", tmp_path / "out", tmp_path / "in.flow", "--layout", "tsn"]
    done(flowcpc("export", store.path, tmp_path / "out", "--layout", "tsn"))
    for fps, said in (
        (["--fps", 25], ""),
        (["--fps", 25], ""),
        (["--fps", 30], "this import has --fps 30, earlier ones"),
        ([], "this import has no --fps, earlier ones"),
    ):
        output = done(flowcpc(*words, *fps))
        assert ("times change" in output) == bool(said)
        assert said in output


def test_names_that_begin_with_a_dot_come_back_and_folders_without_flow_are_said(
    tmp_path: Path,
) -> None:
    store = create_store(
        tmp_path / "s.flow", {"height": 32, "width": 48, "encoding": DEFAULT.to_json()}
    )
    for video_id in (".A/.a", "B/b"):
        commit_flow(store, video_id, smooth_flow(2, 0), label="A")
    done(flowcpc("export", store.path, tmp_path / "out", "--layout", "tsn"))
    (tmp_path / "out" / "B" / "empty").mkdir()
    (tmp_path / "out" / "B" / f".{'0' * 32}.tmp").mkdir()
    output = done(flowcpc("import", tmp_path / "out", tmp_path / "in.flow", "--layout", "tsn"))
    empty = tmp_path / "out" / "B" / "empty"
    assert (
        f"left out 1 folder, such as {empty}, because no file is named like flow_x_00001.jpg"
        in output
    )
    assert open_store(tmp_path / "in.flow").videos()["video_id"].tolist() == [".A/.a", "B/b"]


def test_new_lists_and_a_new_rate_reach_videos_that_are_there(tmp_path: Path) -> None:
    store = create_store(
        tmp_path / "s.flow", {"height": 32, "width": 48, "encoding": DEFAULT.to_json()}
    )
    commit_flow(store, "v_Left_g01_c01", smooth_flow(3, 0))
    done(flowcpc("export", store.path, tmp_path / "out", "--layout", "tsn"))
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Left\n")
    words = [
        "import",
        tmp_path / "out",
        tmp_path / "in.flow",
        "--layout",
        "tsn",
        "--dataset",
        "ucf101",
    ]
    for split in ("train", "test"):
        (lists / f"{split}list01.txt").write_text("Left/v_Left_g01_c01.avi 1\n")
        assert "stored" in done(flowcpc(*words, "--annotations", lists))
        assert open_store(tmp_path / "in.flow").videos()["fold1"].tolist() == [split]
        (lists / f"{split}list01.txt").unlink()
    (lists / "trainlist01.txt").write_text("Left/v_Left_g01_c01.avi 1\n")
    assert "stored 1 video in" in done(flowcpc(*words, "--annotations", lists, "--fps", 10))
    assert open_store(tmp_path / "in.flow").frames()["time_s"].tolist() == [0.0, 0.1, 0.2]
    assert "stored 0 videos" in done(flowcpc(*words, "--annotations", lists, "--fps", 10))
    (tmp_path / "out" / "copy").mkdir()
    (tmp_path / "out" / "v_Left_g01_c01").rename(tmp_path / "out" / "copy" / "v_Left_g01_c01")
    done(flowcpc("export", store.path, tmp_path / "out", "--layout", "tsn"))
    assert "have the flow of one listed video" in flowcpc(*words, "--annotations", lists).output
