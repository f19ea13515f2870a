"""`flowcpc extract-flow` as a user types it: what it prints, where, and with which exit code."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import write_class_folders, write_video
from checkout import ROOT
from command_cases import SMALL, flowcpc, refused
from textures import moving_texture

from flowcpc.commands import console
from flowcpc.stores.flow_store import open_store

CLASSES = {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "videos", CLASSES)


def test_extraction_then_again_then_info(videos: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    first = flowcpc("extract-flow", videos, store, *SMALL)
    assert first.exit_code == 0, first.output
    assert first.stdout == ""
    assert f"stored 6 videos in {store} (30 pairs" in first.stderr
    again = flowcpc("extract-flow", videos, store, *SMALL)
    assert again.exit_code == 0
    assert f"nothing to do: the flow of all 6 videos is in {store}" in again.stderr
    text = flowcpc("info", store)
    assert "videos     6 with 30 flows" in text.stdout
    assert re.search(r"^Left +3", text.stdout, re.MULTILINE)
    values = json.loads(flowcpc("info", store, "--json").stdout)
    assert (values["videos"], values["flows"], values["failures"]) == (6, 30, 0)


def test_failures_give_exit_code_3_and_a_table_on_stdout(videos: Path, tmp_path: Path) -> None:
    (videos / "Left" / "broken.avi").write_bytes(b"")
    for _ in range(2):
        result = flowcpc("extract-flow", videos, tmp_path / "s", *SMALL)
        assert result.exit_code == console.DONE_IN_PART
        assert result.stdout == "Left/broken\tthe file is empty (0 bytes)\n"
        assert "1 of 7 videos have no flow" in result.stderr
    assert len(open_store(tmp_path / "s").videos()) == 6


def test_a_source_that_became_unusable_gives_exit_code_3(videos: Path, tmp_path: Path) -> None:
    flowcpc("extract-flow", videos, tmp_path / "s", *SMALL)
    (videos / "Left" / "v_Left_g01_c01.avi").write_bytes(b"")
    for _ in range(2):
        result = flowcpc("extract-flow", videos, tmp_path / "s", *SMALL)
        assert result.exit_code == console.DONE_IN_PART
        assert result.stdout == "Left/v_Left_g01_c01\tthe file is empty (0 bytes)\n"
        assert (
            "1 video changed and cannot be used any more; the store keeps their earlier flow"
            in result.stderr
        )
        assert "nothing to do" not in result.stderr


def test_a_list_that_names_absent_videos(videos: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Left\n2 Right\n")
    (lists / "trainlist01.txt").write_text(
        "Left/v_Left_g01_c01.avi 1\nRight/v_Right_g07_c01.avi 2\n"
    )
    result = flowcpc(
        "extract-flow",
        videos,
        tmp_path / "s",
        "--dataset",
        "ucf101",
        "--annotations",
        lists,
        *SMALL,
    )
    assert result.exit_code == console.DONE_IN_PART
    assert result.stdout == "v_Right_g07_c01\tthe file does not exist\n"
    (row,) = open_store(tmp_path / "s").failures().to_dict("records")
    assert (row["video_id"], row["label"], row["fold1"], row["kind"]) == (
        "v_Right_g07_c01",
        "Right",
        "train",
        "missing",
    )


def test_limit_takes_a_balanced_part_and_a_larger_one_adds(videos: Path, tmp_path: Path) -> None:
    for limit, new in ((2, 2), (4, 2)):
        assert (
            f"stored {new} videos"
            in flowcpc("extract-flow", videos, tmp_path / "s", "--limit", limit, *SMALL).stderr
        )
        assert open_store(tmp_path / "s").videos()["label"].value_counts().to_dict() == {
            "Left": limit // 2,
            "Right": limit // 2,
        }


def test_wrong_input_to_extract_flow(videos: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    refused(flowcpc("extract-flow", tmp_path / "nowhere", store), "does not exist")
    (tmp_path / "empty").mkdir()
    refused(flowcpc("extract-flow", tmp_path / "empty", store), "holds no video file")
    refused(flowcpc("extract-flow", videos, store, "--dataset", "ucf101"), "needs --annotations")
    refused(flowcpc("extract-flow", videos, store, "--size", "big"), "'big' is not HxW")
    refused(flowcpc("extract-flow", videos, store, "--size", "8x8"), "height and width", "8x8")
    for size in ("4", "4T", "-1G", "G", "1.5G"):
        refused(
            flowcpc("extract-flow", videos, store, "--memory-limit", size),
            f"{size!r} is not a size",
            "500M or 4G",
        )
    refused(
        flowcpc("extract-flow", videos, store, "--memory-limit", "100M"),
        "memory limit",
        "100M",
        "256M",
    )
    refused(flowcpc("extract-flow", videos, store, "--time-limit", "0"), "time limit", "got 0")
    refused(flowcpc("extract-flow", videos, videos, *SMALL), "exists and is not a flowcpc store")
    refused(
        flowcpc("extract-flow", videos, videos / "Left" / "v_Left_g01_c01.avi", *SMALL),
        "exists and is not a flowcpc store",
    )
    assert not store.exists()


def test_other_size_into_the_same_store(videos: Path, tmp_path: Path) -> None:
    flowcpc("extract-flow", videos, tmp_path / "s", "--limit", 1, *SMALL)
    result = flowcpc(
        "extract-flow", videos, tmp_path / "s", "--size", "32x32", "--encoding", "int16"
    )
    refused(
        result,
        "encoding is 'companded8' in the store and 'int16' here",
        "height is 24 in the store and 32 here",
    )
    refused(
        flowcpc("extract-flow", videos, tmp_path / "s", "--short-side", 24),
        "size is '--size 24x32' in the store and '--short-side 24' here",
    )


def test_sigterm_saves_and_exits_75(tmp_path: Path) -> None:
    videos = write_class_folders(tmp_path / "videos", CLASSES, clips=4, frames=30)
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "extract-flow",
        str(videos),
        str(tmp_path / "s"),
        *SMALL,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "s").glob("commits/*/*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == console.PREEMPTED, stderr
    assert "run the same command to resume: flowcpc extract-flow" in stderr
    stored = len(open_store(tmp_path / "s").videos())
    assert 0 < stored < 8
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert f"stored {8 - stored} videos" in done.stderr


def test_odd_names_survive_the_way_through(tmp_path: Path) -> None:
    names = ["-dash", "naïve видео 動画 (1) #2;&", "a'b\"c", ".hidden[1]"]
    for name in names:
        write_video(
            tmp_path / "videos" / "X" / "v.avi", moving_texture(3, 24, 32, step=(1, 0))
        ).rename(tmp_path / "videos" / "X" / f"{name}.avi")
    assert flowcpc("extract-flow", tmp_path / "videos", tmp_path / "s", *SMALL).exit_code == 0
    store = open_store(tmp_path / "s")
    assert sorted(store.videos()["video_id"]) == sorted(f"X/{name}" for name in names)
    for video_id in store.videos()["video_id"]:
        assert store.read_flow(video_id).shape == (2, 2, 24, 32)
