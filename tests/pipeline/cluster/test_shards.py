"""Division of a data set among jobs that know nothing of each other."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import assert_same_store, write_class_folders, write_video
from checkout import ROOT
from hypothesis import given
from hypothesis import strategies as st
from textures import moving_texture

from flowcpc.commands import console
from flowcpc.pipeline.cluster import shards
from flowcpc.pipeline.cluster.shards import parse_shard, videos_of_shard
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.stores.flow_store import open_store
from flowcpc.stores.inspection.verify import verify

CLASSES = {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}


@given(sizes=st.lists(st.integers(0, 10**9), max_size=60), count=st.integers(1, 9))
def test_every_video_is_in_one_shard_and_shards_weigh_alike(sizes: list[int], count: int) -> None:
    videos = [Video(f"v{n}", f"v{n}.avi", None, None, {}) for n in range(len(sizes))]
    stamps = {f"v{n}.avi": {"source_bytes": size or None} for n, size in enumerate(sizes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "source_stamp", lambda path: stamps[path.name])
        parts = [
            videos_of_shard(videos, Path("videos"), (number, count))
            for number in range(1, count + 1)
        ]
        assert sorted(video.video_id for part in parts for video in part) == sorted(
            video.video_id for video in videos
        )
        assert parts[0] == videos_of_shard(videos[::-1], Path("videos"), (1, count)), (
            "the order of the list plays no part"
        )
    loads = [sum(stamps[video.path]["source_bytes"] or 0 for video in part) for part in parts]
    assert max(loads) - min(loads) <= max(sizes, default=0) + len(sizes)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not I/N"):
        parse_shard(text)


def shard(videos: Path, store: Path, which: str) -> "subprocess.Popen[str]":
    words = ["extract-flow", str(videos), str(store), "--size", "24x32", "--shard", which]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *words], stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_shards_that_start_at_once_make_the_store_of_one_run(tmp_path: Path) -> None:
    videos = write_class_folders(tmp_path / "videos", CLASSES, clips=9, frames=12)
    (videos / "Left" / "broken.avi").write_bytes(b"junk")
    processes = [shard(videos, tmp_path / "s", f"{number}/3") for number in (1, 2, 3)]
    said = [process.communicate(timeout=240)[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 0, console.DONE_IN_PART], said
    assert (
        sum(
            int(match[1])
            for text in said
            if (match := re.search(r"^stored (\d+) videos", text, re.MULTILINE))
        )
        == 18
    ), "no video twice"
    alone = shard(videos, tmp_path / "alone", "1/1")
    alone.communicate(timeout=240)
    assert_same_store(tmp_path / "s", tmp_path / "alone")
    store = open_store(tmp_path / "s")
    assert len(list((store.path / "flow").glob("*/*"))) == 18
    store.consolidate()
    assert_same_store(tmp_path / "s", tmp_path / "alone")
    assert verify(store).problems == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_shard_that_is_preempted_exits_75_and_the_rerun_goes_on(
    tmp_path: Path, number: int
) -> None:
    videos = write_class_folders(tmp_path / "videos", CLASSES, clips=4, frames=40)
    long = moving_texture(2, 24, 32, step=(1, 0))
    write_video(videos / "Left" / "long.avi", long.repeat(3000, axis=0))
    process = shard(videos, tmp_path / "s", "1/2")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "s").glob("flow/*/*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, number)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == console.PREEMPTED, stderr
    assert "--shard 1/2" in stderr.splitlines()[-1]
    assert list((tmp_path / "s").glob("flow/*/*")) == [], "the video in hand is dropped cleanly"
    kinds = open_store(tmp_path / "s").failures()["kind"]
    assert set(kinds) == {"pending"}, "what other shards do is pending, never silently absent"
    assert len(kinds) == 9
    for which in ("1/2", "2/2"):
        process = shard(videos, tmp_path / "s", which)
        process.communicate(timeout=240)
        assert process.returncode == 0
    assert len(open_store(tmp_path / "s").videos()) == 9
    assert verify(open_store(tmp_path / "s")).problems == []


def test_a_shard_loads_no_dask(tmp_path: Path) -> None:
    videos = write_class_folders(tmp_path / "videos", CLASSES, clips=1)
    words = ["extract-flow", str(videos), str(tmp_path / "s"), "--size", "24x32", "--shard", "1/1"]
    code = (
        "import sys; from flowcpc.commands.main import main; "
        f"main({words!r}, standalone_mode=False); assert 'distributed' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
