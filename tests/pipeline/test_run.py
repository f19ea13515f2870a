"""A whole run: when it tries again, when it gives up, and what it tells the user."""

import errno
import re
import shlex
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import assert_same_store, write_class_folders
from command_cases import SMALL, flowcpc, refused
from recorder import Recorder

from flowcpc.commands import console
from flowcpc.pipeline import run
from flowcpc.pipeline.cluster import workers
from flowcpc.pipeline.cluster.places import InProcess, LocalProcesses
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.datasets.sources import read_dataset
from flowcpc.pipeline.decoding.limits import Preempted
from flowcpc.pipeline.extraction.extract import (
    FAILED,
    KIND_MACHINE,
    ExtractionSettings,
    Outcome,
    StoreWriteError,
    extract_video,
    record_failure,
)
from flowcpc.pipeline.extraction.ledger import ExtractionSummary
from flowcpc.pipeline.run import TRIES, run_extraction
from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.flow_store import open_store
from flowcpc.stores.records.contract import WorkerState

CLASSES = {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "videos", CLASSES)


def extract(videos: Path, store: Path, **options: object) -> ExtractionSummary:
    settings = ExtractionSettings(str(videos), str(store), 24, 32)
    return run_extraction(settings, read_dataset(videos, "folder").videos, InProcess(), **options)


def test_a_failure_of_the_machine_is_tried_again_within_the_run(
    videos: Path, tmp_path: Path
) -> None:
    tries: list[str] = []

    def out_of_memory(
        settings: ExtractionSettings, video: Video, on_pairs: object, **options: object
    ) -> Outcome:
        tries.append(video.video_id)
        if video.video_id == "Left/v_Left_g01_c01" and tries.count(video.video_id) < TRIES:
            stamp = {"source_bytes": 1, "source_mtime_ns": 1}
            record_failure(open_store(settings.store), video, KIND_MACHINE, "MemoryError", stamp)
            return Outcome(video.video_id, FAILED, reason="MemoryError", may_pass=True)
        return extract_video(settings, video, on_pairs, **options)

    summary = extract(videos, tmp_path / "s", extract=out_of_memory)
    assert (summary.finished, summary.stored, summary.failed) == (True, 6, [])
    assert tries.count("Left/v_Left_g01_c01") == TRIES
    extract(videos, tmp_path / "calm")
    assert_same_store(tmp_path / "s", tmp_path / "calm")


@pytest.mark.parametrize("at_a_time", [2, 5])
def test_several_videos_at_a_time_give_the_same_store(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    extract(videos, tmp_path / "calm")
    monkeypatch.setattr(workers, "videos_at_a_time", lambda backend, cores: at_a_time)
    monkeypatch.setattr(workers, "available_threads", lambda: at_a_time)
    together, most = threading.Semaphore(0), []

    def met(
        settings: ExtractionSettings, video: Video, on_pairs: object, **options: object
    ) -> Outcome:
        together.release()
        most.append(together._value)
        assert settings.threads == 1
        try:
            return extract_video(settings, video, on_pairs, **options)
        finally:
            together.acquire()

    listener = Recorder()
    summary = extract(videos, tmp_path / "s", extract=met, listener=listener)
    assert (summary.finished, summary.stored, summary.failed) == (True, 6, [])
    assert 1 < max(most) <= at_a_time
    assert listener.calls[-1][2]["pairs/s"] > 0
    assert_same_store(tmp_path / "s", tmp_path / "calm")


def test_a_stop_drops_all_videos_in_hand(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "videos_at_a_time", lambda backend, cores: 3)
    monkeypatch.setattr(workers, "available_threads", lambda: 3)
    all_there, gone = threading.Barrier(3), threading.Event()

    def waits(
        settings: ExtractionSettings,
        video: Video,
        on_pairs: object,
        *,
        should_stop: Callable[[], bool],
    ) -> Outcome:
        all_there.wait(60)
        gone.set()
        while not should_stop():
            time.sleep(0.01)
        raise Preempted

    summary = extract(videos, tmp_path / "s", extract=waits, listener=Recorder(gone.is_set))
    assert (summary.finished, summary.stored, summary.failed) == (False, 0, [])
    assert open_store(tmp_path / "s").failures()["kind"].tolist() == ["pending"] * 6


def test_a_video_that_is_stored_during_a_stop_counts(videos: Path, tmp_path: Path) -> None:
    in_flight = threading.Event()

    def slow(*given: object, should_stop: Callable[[], bool]) -> Outcome:
        in_flight.set()
        time.sleep(1.0)
        return extract_video(*given)

    summary = extract(videos, tmp_path / "s", extract=slow, listener=Recorder(in_flight.is_set))
    assert (summary.finished, summary.stored) == (False, 1)
    assert len(open_store(tmp_path / "s").videos()) == 1


def test_an_error_of_the_disk_during_a_stop_is_raised(videos: Path, tmp_path: Path) -> None:
    in_flight = threading.Event()

    def full(*given: object, should_stop: Callable[[], bool]) -> Outcome:
        in_flight.set()
        time.sleep(1.0)
        raise StoreWriteError("disk full")

    with pytest.raises(StoreWriteError, match="disk full"):
        extract(videos, tmp_path / "s", extract=full, listener=Recorder(in_flight.is_set))


def test_a_failure_that_stays_is_a_row_after_so_many_tries(videos: Path, tmp_path: Path) -> None:
    def out_of_memory(
        settings: ExtractionSettings, video: Video, on_pairs: object, **options: object
    ) -> Outcome:
        record_failure(open_store(settings.store), video, KIND_MACHINE, "MemoryError", {})
        return Outcome(video.video_id, FAILED, reason="MemoryError", may_pass=True)

    summary = extract(videos, tmp_path / "s", extract=out_of_memory)
    assert summary.finished
    assert [reason for _, reason in summary.failed] == ["MemoryError"] * 6
    assert open_store(tmp_path / "s").failures()["attempts"].tolist() == [TRIES] * 6


@pytest.mark.parametrize(
    ("options", "failed"), [(["--fail-fast"], 1), (["--max-failures", "1"], 2)]
)
def test_a_run_that_may_not_fail_often_stops_and_goes_on(
    videos: Path, tmp_path: Path, options: list[str], failed: int
) -> None:
    for number in range(4):
        (videos / "Left" / f"broken{number}.avi").write_bytes(
            bytes(10**6)
        )  # large, so they come first
    result = flowcpc("extract-flow", videos, tmp_path / "s", *options, *SMALL)
    assert result.exit_code == console.FAILED
    assert re.search(
        rf"stopped because {failed} videos? failed; run the same command to resume", result.stderr
    )
    assert len(result.stdout.splitlines()) == failed
    assert set(open_store(tmp_path / "s").failures()["kind"]) == {"file", "pending"}
    assert flowcpc("extract-flow", videos, tmp_path / "s", *SMALL).exit_code == console.DONE_IN_PART
    assert len(open_store(tmp_path / "s").videos()) == 6
    assert open_store(tmp_path / "s").failures()["attempts"].tolist() == [1] * 4, (
        "what failed for good is not tried again"
    )


def test_options_of_places_reach_the_user_in_words(videos: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    refused(
        flowcpc("extract-flow", videos, store, "--fail-fast", "--max-failures", "3"),
        "--fail-fast means --max-failures 0",
    )
    refused(
        flowcpc("extract-flow", videos, store, "--queue", "short"), "--queue", "--cluster slurm"
    )
    refused(flowcpc("extract-flow", videos, store, "--shard", "5/4"), "5/4", "I from 1 to N")
    refused(
        flowcpc("extract-flow", videos, store, "--scheduler-file", tmp_path / "no"),
        "does not exist",
    )
    assert not store.exists()


def test_a_line_for_each_worker() -> None:
    now = time.time()
    busy = WorkerState("n1", 8, ("p", "q"), now - 12, 3.0)
    assert run._worker_line(busy) == "  n1 8: p and 1 more, 12 s, 3 pairs/s"
    assert run._worker_line(WorkerState("n2", 9, (), now, 0.5)) == "  n2 9: idle, 0.5 pairs/s"


def test_cores_that_are_over_are_threads_of_the_videos_that_are_left(
    videos: Path, tmp_path: Path
) -> None:
    found = read_dataset(videos, "folder").videos[:1]
    threads = tmp_path / "threads"

    def noted(
        settings: ExtractionSettings, video: Video, on_pairs: object, **options: object
    ) -> Outcome:
        import os

        limits = [os.environ[name] for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")]
        threads.write_text(f"{settings.threads} {' '.join(limits)}")
        return extract_video(settings, video, on_pairs, **options)

    settings = ExtractionSettings(str(videos), str(tmp_path / "s"), 24, 32)
    assert run_extraction(settings, found, LocalProcesses(4), extract=noted).stored == 1
    assert threads.read_text() == "4 1 4"


@pytest.mark.parametrize(
    "words", [["--scheduler", "tcp://127.0.0.1:9"], ["--cluster", "slurm"], ["--cluster", "cuda"]]
)
def test_a_run_that_fails_before_its_first_video_fixes_nothing(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("flowcpc.pipeline.cluster.dask_cluster.devices", lambda: [])
    monkeypatch.setattr("flowcpc.pipeline.cluster.dask_cluster._CONNECT_S", 0.5)
    result = flowcpc("extract-flow", videos, tmp_path / "s", "--size", "16x16", *words)
    assert result.exit_code in (console.FAILED, console.USAGE), result.stderr
    assert [path.name for path in (tmp_path / "s").iterdir()] == [".lock"]
    assert flowcpc("extract-flow", videos, tmp_path / "s", *SMALL).exit_code == 0, (
        "another size is as good"
    )


def test_a_folder_of_something_else_is_left_as_it_is(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("chapter 1")
    refused(flowcpc("extract-flow", videos, tmp_path / "s", *SMALL), "is not a flowcpc store")
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["thesis.txt"]


def test_a_full_disk_at_the_first_video_leaves_no_store(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("flowcpc.stores.video.frames.FrameFileWriter.close", full)
        result = flowcpc("extract-flow", videos, tmp_path / "s", *SMALL, "--with-frames")
    assert result.exit_code == console.FAILED, result.stderr
    assert [path.name for path in (tmp_path / "s").iterdir()] == [".lock"]
    assert flowcpc("extract-flow", videos, tmp_path / "s", *SMALL).exit_code == 0, (
        "without frames is as good"
    )


def test_a_store_in_which_a_video_was_tried_is_not_taken_back(videos: Path, tmp_path: Path) -> None:
    (videos / "Left" / "broken.avi").write_bytes(bytes(10**6))

    def lost(
        settings: ExtractionSettings, video: Video, on_pairs: object, **options: object
    ) -> Outcome:
        if video.video_id == "Left/broken":
            return extract_video(settings, video, on_pairs, **options)
        raise OperationError("the disk is gone")

    with pytest.raises(OperationError, match="the disk is gone"):
        extract(videos, tmp_path / "s", extract=lost)
    assert set(open_store(tmp_path / "s").failures()["kind"]) == {"file", "pending"}


def test_of_runs_that_end_together_the_last_one_rebuilds_the_tables(
    videos: Path, tmp_path: Path
) -> None:
    extract(videos, tmp_path / "s")
    store = open_store(tmp_path / "s")
    before = store.videos()
    (videos / "Left" / "v_Left_g01_c01.avi").touch()
    with store.in_use():  # another run
        assert extract(videos, tmp_path / "s").stored == 1
        assert not store.is_indexed()
        assert store.videos()["video_id"].equals(before["video_id"]), "the records answer meanwhile"
    assert extract(videos, tmp_path / "s").stored == 0
    assert store.is_indexed()


def test_many_absent_videos_are_counted_and_a_few_named(videos: Path, tmp_path: Path) -> None:
    names = [f"Left/v_Left_g{number:02d}_c01.avi" for number in range(1, 40)]
    (tmp_path / "list.csv").write_text(
        "\n".join(["path,label", *(f"{name},Left" for name in names)])
    )
    result = flowcpc(
        "extract-flow",
        videos,
        tmp_path / "s",
        "--dataset",
        "csv",
        "--annotations",
        tmp_path / "list.csv",
        *SMALL,
    )
    assert result.exit_code == console.DONE_IN_PART
    assert len(result.stdout.splitlines()) == 10
    assert "36 of 39 videos have no flow:" in result.stderr
    assert "and 26 more: the file does not exist" in result.stderr
    (command,) = re.findall(r"all of them: flowcpc (query .*)", result.stderr)
    assert len(flowcpc(*shlex.split(command)).stdout.splitlines()) == 1 + 36


def test_an_empty_shard_says_so(videos: Path, tmp_path: Path) -> None:
    result = flowcpc(
        "extract-flow", videos, tmp_path / "s", "--shard", "8/9", *(word for word in SMALL if word)
    )
    assert result.exit_code == 0
    assert "nothing to do: this part of the data set has no video" in result.stderr
