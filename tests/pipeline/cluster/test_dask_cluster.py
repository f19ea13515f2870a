import dataclasses
import os
import platform
import signal
import subprocess
import time
from pathlib import Path

import pytest
from builders import assert_same_store, extraction_command, write_class_folders, write_video
from recorder import Recorder
from textures import moving_texture

from flowcpc.pipeline.cluster.places import InProcess, LocalGpus, LocalProcesses, Place
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.datasets.sources import read_dataset
from flowcpc.pipeline.extraction.extract import (
    ExtractionSettings,
    Outcome,
    StoreWriteError,
    extract_video,
)
from flowcpc.pipeline.extraction.ledger import ExtractionSummary
from flowcpc.pipeline.run import run_extraction
from flowcpc.stores.flow_store import open_store

CLASSES = {"Left": (-1.0, 0.0), "Right": (1.0, 0.0), "Up": (0.0, -1.0)}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "videos", CLASSES)


def extract(videos: Path, store: Path, *, workers: int = 0, **options: object) -> ExtractionSummary:
    place: Place = LocalProcesses(workers) if workers else InProcess()
    return run_extraction(
        ExtractionSettings(str(videos), str(store), 24, 32),
        read_dataset(videos, "folder").videos,
        place,
        **options,
    )


def test_processes_and_this_process_make_the_same_store(videos: Path, tmp_path: Path) -> None:
    listener, of_processes = Recorder(), Recorder()
    alone = extract(videos, tmp_path / "alone", listener=listener)
    together = extract(videos, tmp_path / "together", workers=2, listener=of_processes)
    lines = [line.split(maxsplit=3) for lines in of_processes.lines for line in lines]
    assert len({pid for _, pid, _, _ in lines}) == 2
    assert {host for host, _, _, _ in lines} == {platform.node()}
    assert {name.rstrip(",:") for _, _, name, _ in lines} - {"idle"} <= set(
        open_store(tmp_path / "alone").videos()["video_id"]
    )
    assert not list((tmp_path / "together" / "running").iterdir()), "a run takes its file away"
    for summary in (alone, together):
        assert (
            summary.finished,
            summary.videos,
            summary.stored,
            summary.pairs,
            summary.failed,
        ) == (True, 9, 9, 45, [])
    assert_same_store(tmp_path / "alone", tmp_path / "together")
    done, total, fields = listener.calls[-1]
    assert done == total
    assert fields["videos"] == "9/9"


def test_a_second_run_does_nothing(videos: Path, tmp_path: Path) -> None:
    extract(videos, tmp_path / "s")
    generations = open_store(tmp_path / "s").videos()["generation"].tolist()
    listener = Recorder()
    again = extract(videos, tmp_path / "s", workers=2, listener=listener)
    assert (again.stored, again.stored_before) == (0, 9)
    assert listener.said == ["0 to do, 9 stored already"]
    assert open_store(tmp_path / "s").videos()["generation"].tolist() == generations


def test_bad_videos_are_rows_and_the_rest_goes_on(videos: Path, tmp_path: Path) -> None:
    (videos / "Up" / "broken.avi").write_bytes(b"junk")
    write_video(videos / "Up" / "single.avi", moving_texture(1, 24, 32, step=(0, 0)))
    summary = extract(videos, tmp_path / "s", workers=2)
    assert summary.stored == 9
    assert [video_id for video_id, _ in summary.failed] == ["Up/broken", "Up/single"]
    assert open_store(tmp_path / "s").failures()["kind"].tolist() == ["file", "file"]


def test_a_video_taken_out_of_the_data_set_is_forgotten_and_one_left_out_by_a_limit_is_not(
    videos: Path, tmp_path: Path
) -> None:
    (videos / "Up" / "broken.avi").write_bytes(b"junk")
    found = read_dataset(videos, "folder").videos
    settings = ExtractionSettings(str(videos), str(tmp_path / "s"), 24, 32)
    run_extraction(settings, found, InProcess())
    everything = {video.video_id for video in found}
    part = [video for video in found if video.label == "Left"]
    run_extraction(settings, part, InProcess(), whole_dataset=everything)
    assert open_store(tmp_path / "s").failures()["video_id"].tolist() == ["Up/broken"]
    run_extraction(settings, part, InProcess(), whole_dataset=everything - {"Up/broken"})
    assert len(open_store(tmp_path / "s").failures()) == 0
    assert len(open_store(tmp_path / "s").videos()) == 9


@pytest.mark.slow
def test_a_video_that_kills_its_worker_is_recorded_with_its_name(
    videos: Path, tmp_path: Path
) -> None:
    summary = extract(videos, tmp_path / "s", workers=2, extract=_die_on_one_video)
    assert summary.stored == 8
    (failed,) = summary.failed
    assert failed[0] == "Up/v_Up_g02_c01"
    assert (
        failed[1]
        == f"killed its worker process 3 times (was killed by signal 9, on {platform.node()})"
    )
    assert open_store(tmp_path / "s").failures()["kind"].tolist() == ["machine"]
    assert extract(videos, tmp_path / "s").stored == 1, "a failure of the machine is tried again"
    extract(videos, tmp_path / "undisturbed")
    assert_same_store(tmp_path / "s", tmp_path / "undisturbed")


def test_a_source_that_was_replaced_by_a_broken_file_keeps_its_flow_and_that_is_said(
    videos: Path, tmp_path: Path
) -> None:
    extract(videos, tmp_path / "s")
    file = videos / "Up" / "v_Up_g01_c01.avi"
    intact = file.read_bytes()
    file.write_bytes(b"junk")
    for options in ({}, {}, {"retry_failed": True}):
        summary = extract(videos, tmp_path / "s", **options)
        assert ([name for name, _ in summary.outdated], summary.failed) == (["Up/v_Up_g01_c01"], [])
    assert open_store(tmp_path / "s").failure_of("Up/v_Up_g01_c01")["attempts"] == 2, (
        "tried again when that is asked for"
    )
    assert open_store(tmp_path / "s").read_flow("Up/v_Up_g01_c01").shape[0] == 5
    file.write_bytes(intact)
    summary = extract(videos, tmp_path / "s")
    assert (summary.stored, summary.outdated) == (1, [])


def test_the_same_files_under_other_names_are_refused_before_anything_is_written(
    videos: Path, tmp_path: Path
) -> None:
    extract(videos, tmp_path / "s")
    before = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()}
    renamed = [
        dataclasses.replace(video, video_id=video.video_id + "x")
        for video in read_dataset(videos, "folder").videos
    ]
    with pytest.raises(
        ValueError, match="use the --dataset and --annotations that the store was made with"
    ):
        run_extraction(
            ExtractionSettings(str(videos), str(tmp_path / "s"), 24, 32), renamed, InProcess()
        )
    assert {
        path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()
    } == before


def _die_on_one_video(
    settings: ExtractionSettings, video: object, on_pairs: object, **options: object
) -> object:
    if video.video_id == "Up/v_Up_g02_c01":
        os.kill(os.getpid(), signal.SIGKILL)
    return extract_video(settings, video, on_pairs, **options)


@pytest.mark.slow
def test_each_gpu_has_a_worker_that_announces_it(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers of `--cluster cuda` on a machine with two pretended GPUs; flow is of the CPU."""
    monkeypatch.setattr("flowcpc.pipeline.cluster.dask_cluster.devices", lambda: ["one", "two"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = tmp_path / "seen"
    seen.mkdir()

    def noted(
        settings: ExtractionSettings, video: Video, on_pairs: object, **options: object
    ) -> Outcome:
        from distributed import get_worker

        announced = get_worker().state.total_resources
        (seen / f"{os.environ['CUDA_VISIBLE_DEVICES']} {announced}").touch()
        return extract_video(settings, video, on_pairs, **options)

    settings = ExtractionSettings(str(videos), str(tmp_path / "s"), 24, 32, backend="cpu")
    summary = run_extraction(
        settings, read_dataset(videos, "folder").videos, LocalGpus(), extract=noted
    )
    assert summary.stored == 9
    assert {path.name for path in seen.iterdir()} == {"0 {'GPU': 1}", "1 {'GPU': 1}"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stop_keeps_what_is_done_and_the_next_run_goes_on(
    videos: Path, tmp_path: Path, workers: int
) -> None:
    listener = Recorder(stop=lambda: any(done for done, _, _ in listener.calls))
    stopped = extract(videos, tmp_path / "s", workers=workers, listener=listener)
    assert not stopped.finished
    committed = len(open_store(tmp_path / "s").videos())
    assert 0 < stopped.stored <= committed < 9, "a video in hand may end after the stop"
    pending = open_store(tmp_path / "s").failures()
    assert set(pending["kind"]) == {"pending"}
    assert len(pending) == 9 - committed, (
        "a video that was not reached is a row, never silently absent"
    )
    assert stopped.failed == []
    assert extract(videos, tmp_path / "s").stored == 9 - committed
    extract(videos, tmp_path / "undisturbed")
    assert_same_store(tmp_path / "s", tmp_path / "undisturbed")


def test_an_unwritable_store_stops_the_whole_run(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("flowcpc.stores.video.writer.sync", full)
    with pytest.raises(StoreWriteError, match="No space left"):
        extract(videos, tmp_path / "s")


@pytest.mark.slow
@pytest.mark.parametrize("moments", [(2,), (1, 4, 8)])
def test_kill_9_in_the_middle_then_the_same_command(
    tmp_path: Path, moments: tuple[int, ...]
) -> None:
    """The command's process group is killed after so many commits; the store is the same."""
    videos = write_class_folders(tmp_path / "videos", CLASSES, clips=4, frames=24)
    command = extraction_command(videos, tmp_path / "s", size="24x32", workers=2)
    committed_at_kill = []
    for wanted in moments:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while (
            _commits(tmp_path / "s") < wanted
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        committed_at_kill.append(_commits(tmp_path / "s"))
    assert committed_at_kill[0] < 12, "the first kill came too late to test anything"
    last = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert f"{12 - committed_at_kill[-1]} to do" in last.stderr
    run_extraction(
        ExtractionSettings(str(videos), str(tmp_path / "calm"), 24, 32),
        read_dataset(videos, "folder").videos,
        InProcess(),
    )
    assert_same_store(tmp_path / "s", tmp_path / "calm")
    leftovers = [path for path in (tmp_path / "s").rglob("*.tmp")]
    assert leftovers == []
    assert len(list((tmp_path / "s" / "flow").glob("*/*"))) == 12, (
        "a generation that no commit names was left behind"
    )


def _commits(store: Path) -> int:
    return len(list((store / "commits").glob("*/*.json")))
