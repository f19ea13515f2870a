"""A scheduler and workers started by hand, and kill -9 of each at any moment."""

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import assert_same_store, write_video
from dask_site import SIZE, Site, until
from textures import moving_texture

from flowcpc.commands import console
from flowcpc.pipeline.cluster.places import InProcess
from flowcpc.pipeline.datasets.sources import read_dataset
from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.run import run_extraction
from flowcpc.stores.flow_store import open_store
from flowcpc.stores.records.garbage import find_leftovers

# `make chaos` sets this to 30.
KILLS = int(os.environ.get("FLOWCPC_WORKER_KILLS", "3"))


def commits(store: Path) -> int:
    return len(list((store / "commits").glob("*/*.json")))


def make_videos(folder: Path, count: int, frames: int = 30) -> Path:
    """`count` clips, two different ones by turns."""
    for label, step in (("Left", (-1.0, 0.0)), ("Right", (1.0, 0.5))):
        clip = write_video(folder / f"{label}.avi", moving_texture(frames, 48, 64, step=step))
        (folder / "videos" / label).mkdir(parents=True)
        for number in range(count // 2):
            shutil.copy(clip, folder / "videos" / label / f"v_{label}_g{number:03d}_c01.avi")
    return folder / "videos"


def assert_undisturbed(videos: Path, store: Path, folder: Path) -> None:
    """The store equals an undisturbed one: every video once, none failed, nothing left over."""
    found = read_dataset(videos, "folder").videos
    calm = folder / "calm"
    if not calm.exists():
        run_extraction(ExtractionSettings(str(videos), str(calm), *SIZE), found, InProcess())
    assert_same_store(store, calm)
    opened = open_store(store)
    assert len(opened.videos()) == len(found)
    assert len(opened.failures()) == 0
    opened.collect_garbage()
    assert find_leftovers(store) == []
    assert len(list((store / "flow").glob("*/*"))) == len(found)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, make_videos(tmp_path, 12))
    yield site
    site.close()


@pytest.mark.slow
def test_a_cluster_started_by_hand_and_videos_that_kill_its_workers(site: Site) -> None:
    for name in ("segfault", "exit"):
        shutil.copy(site.folder / "Left.avi", site.videos / "Left" / f"{name}.avi")
    site.start_workers()
    process = site.extract()
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == console.DONE_IN_PART, stderr
    assert "dashboard http://" in stderr
    reasons = dict(line.split("\t") for line in stdout.splitlines())
    assert reasons["Left/segfault"].startswith(
        "killed its worker process 3 times (was killed by signal 11, on "
    )
    assert reasons["Left/exit"].startswith(
        "killed its worker process 3 times (exited with status 7, on "
    )
    assert len(reasons) == 2
    assert "Traceback" not in stderr
    assert set(open_store(site.store).failures()["kind"]) == {"machine"}
    assert "stored 12 videos" in stderr, "nobody else is blamed"
    for name in ("segfault", "exit"):
        (site.videos / "Left" / f"{name}.avi").unlink()
    site.run_again()
    assert_undisturbed(site.videos, site.store, site.folder)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_storm_of_kills_of_workers(tmp_path: Path) -> None:
    site = Site(tmp_path, make_videos(tmp_path, max(12, 8 * KILLS), 120))
    rng = random.Random(0)
    try:
        site.start_workers()
        process = site.extract()
        kills = 0
        while kills < KILLS and process.poll() is None:
            time.sleep(rng.uniform(0, 1.5))
            live = site.live()
            if live:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(sorted(live)), signal.SIGKILL)
                    kills += 1
                until(lambda live=live: site.live() != live or process.poll() is not None)
        stderr = process.communicate(timeout=600)[1]
        assert kills == KILLS, f"the kills come too late: {stderr}"
        assert process.returncode in (0, console.DONE_IN_PART), stderr
        site.run_again()
        assert_undisturbed(site.videos, site.store, site.folder)
    finally:
        site.close()


@pytest.mark.slow
def test_kill_9_of_the_scheduler(site: Site) -> None:
    site.start_workers()
    process = site.extract()
    until(lambda: commits(site.store) >= 2)
    os.killpg(site.scheduler.pid, signal.SIGKILL)
    site.scheduler.wait()
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == console.FAILED, stderr
    assert f"Error: the scheduler at {site.address} is gone; committed videos are safe" in stderr
    assert "Traceback" not in stderr, stderr
    site.start_scheduler(site.address.rpartition(":")[2])
    site.start_workers()
    assert "stored already" in site.run_again()
    assert_undisturbed(site.videos, site.store, site.folder)


@pytest.mark.slow
def test_kill_9_of_the_client(site: Site) -> None:
    for number in range(4):
        shutil.copy(site.folder / "Left.avi", site.videos / "Left" / f"slow{number}.avi")
    site.start_workers()
    process = site.extract()
    until(lambda: commits(site.store) >= 3)
    live = site.live()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    site.run_again()
    assert site.live() == live, "the workers outlive a client"
    assert_undisturbed(site.videos, site.store, site.folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_worker_that_is_asked_to_go_drops_its_video_and_another_does_it(
    site: Site, number: int
) -> None:
    for clip in range(4):
        shutil.copy(site.folder / "Left.avi", site.videos / "Left" / f"slow{clip}.avi")
    site.start_workers()
    process = site.extract()
    until(lambda: commits(site.store) >= 2)
    os.kill(site.workers[0].pid, number)
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode == 0, stderr
    assert site.workers[0].wait(60) is not None
    assert_undisturbed(site.videos, site.store, site.folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_client_that_is_asked_to_go_says_how_to_go_on(site: Site, number: int) -> None:
    site.start_workers(1)
    process = site.extract()
    until(lambda: commits(site.store) >= 2)
    os.kill(process.pid, number)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == console.PREEMPTED, stderr
    assert "run the same command to resume: flowcpc extract-flow" in stderr
    assert commits(site.store) < 12
    assert "stored already" in site.run_again()
    assert_undisturbed(site.videos, site.store, site.folder)
