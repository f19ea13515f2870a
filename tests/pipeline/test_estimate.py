"""What an extraction would take, before anything is written."""

from pathlib import Path

import dask
import pytest
from builders import write_class_folders
from command_cases import SMALL, flowcpc

from flowcpc.pipeline import estimate as module
from flowcpc.pipeline.cluster.places import ExistingScheduler, InProcess, LocalProcesses, SlurmJobs
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.datasets.sources import read_dataset
from flowcpc.pipeline.estimate import estimate
from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.run import run_extraction

CLASSES = {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}


def test_the_plan_is_what_the_run_does(tmp_path: Path) -> None:
    videos = write_class_folders(tmp_path / "videos", CLASSES, clips=3, frames=8)
    (videos / "Left" / "broken.avi").write_bytes(b"junk")
    found = [*read_dataset(videos, "folder").videos, Video("gone", "gone.avi", None, None, {})]
    settings = ExtractionSettings(str(videos), str(tmp_path / "s"), 24, 32)
    before = estimate(settings, found, LocalProcesses(3))
    assert (before.videos, before.stored, before.absent, before.headers) == (7, 0, 1, 7)
    assert before.pairs == pytest.approx(42, abs=2)
    assert before.bytes > 0
    assert all(seconds > 0 for seconds in before.seconds.values())
    assert "on 3 cores" in before.to_text("folder")
    assert not (tmp_path / "s").exists()
    run_extraction(settings, found, InProcess())
    after = estimate(settings, found, ExistingScheduler("a:1"))
    assert (after.videos, after.stored, after.pairs) == (1, 6, 0)


def test_a_large_set_is_sampled_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_HEADERS", 3)
    videos = write_class_folders(tmp_path / "videos", CLASSES, clips=5, frames=8)
    found = estimate(
        ExtractionSettings(str(videos), str(tmp_path / "s"), 24, 32),
        read_dataset(videos, "folder").videos,
        InProcess(),
    )
    assert found.headers == 3
    assert found.pairs == pytest.approx(70, rel=0.1)
    assert "3 headers, the rest by size" in found.to_text("folder")


def test_the_command_prints_and_writes_nothing(tmp_path: Path) -> None:
    videos = write_class_folders(tmp_path / "videos", CLASSES, clips=1)
    result = flowcpc("extract-flow", videos, tmp_path / "s", "--dry-run", *SMALL)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("data set ")
    assert "2 to do, 0 stored already, 0 absent" in result.stdout
    assert not (tmp_path / "s").exists()


def test_jobs_of_slurm_have_the_cores_of_dask_jobqueue_s_configuration() -> None:
    with dask.config.set({"jobqueue.slurm": {"cores": 6}}):
        assert module._threads(SlurmJobs(maximum=4)) == 24
        assert module._threads(SlurmJobs(maximum=4, cores=2)) == 8
