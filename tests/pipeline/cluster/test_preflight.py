"""What is asked before the first video, and what a cluster that cannot work is told."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import write_class_folders
from dask_site import Site, until

from flowcpc.commands import console
from flowcpc.pipeline.cluster import preflight
from flowcpc.pipeline.cluster.preflight import (
    Probe,
    differences,
    examine,
    judge,
    made_probe,
    versions,
)
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.extraction.ledger import VideoTask
from flowcpc.stores import layout
from flowcpc.stores.flow_store import create_store

VIDEO = Video("Left/v_Left_g01_c01", "Left/v_Left_g01_c01.avi", "Left", "g", {})
HIDDEN = "import sys; sys.modules['flowcpc.pipeline'] = None"
OTHER_NUMBA = """
import importlib.metadata
version = getattr(importlib.metadata, "real", importlib.metadata.version)  # may be loaded twice
importlib.metadata.real = version
importlib.metadata.version = lambda name: "0.1" if name == "numba" else version(name)
"""


@pytest.fixture
def probe(tmp_path: Path) -> Iterator[Probe]:
    videos = write_class_folders(tmp_path / "videos", {"Left": (1.0, 0.0)}, clips=1)
    settings = ExtractionSettings(str(videos), str(tmp_path / "s"), 24, 32)
    create_store(settings.store, settings.numerics())
    with made_probe(settings, VideoTask(VIDEO, (videos / VIDEO.path).stat().st_size)) as probe:
        yield probe
    left = {path.name for path in (tmp_path / "s").iterdir()}
    assert left == {layout.LOCK_FILE, layout.STORE_FILE}, "no probe and no answer are left behind"


def test_the_same_machine_may_work(probe: Probe) -> None:
    assert judge(probe, examine(probe, "cpu")) == ""


def test_a_worker_that_sees_other_files_is_told_which(
    probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_PATIENCE_S", 0.0)
    (tmp_path / "other").mkdir()
    elsewhere = Probe(str(tmp_path / "other"), probe.token, probe.video, probe.video_bytes)
    assert "does not see the client's store" in judge(probe, examine(elsewhere, "cpu"))
    elsewhere.file.write_text(probe.token)  # as if the store had been copied to another disk
    assert "must be one folder that all machines share" in judge(probe, examine(elsewhere, "cpu"))
    no_video = Probe(probe.store, probe.token, f"{probe.video}x", probe.video_bytes)
    assert "does not see" in judge(probe, examine(no_video, "cpu"))
    other_video = Probe(probe.store, probe.token, probe.video, probe.video_bytes + 1)
    assert "which has" in judge(probe, examine(other_video, "cpu"))


def test_a_worker_without_a_solver_says_that_it_cannot_compute(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(backend: str) -> str:
        raise ValueError(f"backend={backend!r} does not work here")

    monkeypatch.setattr(preflight, "prepare", prepare)
    problem = judge(probe, examine(probe, "cuda"))
    assert problem == "cannot compute flow (backend='cuda' does not work here)"


def test_other_software_is_named_with_both_versions() -> None:
    assert differences(versions()) == ""
    assert set(versions()) >= {"flowcpc", "numpy", "numba", "opencv", "zarr", "h5py"}
    assert (
        differences({**versions(), "zarr": "2"}) == f"zarr is 2 there and {versions()['zarr']} here"
    )


def failed(process: "subprocess.Popen[str]", *words: str) -> None:
    """The command ended before the first video, with code 1 and a sentence."""
    try:
        stderr = process.communicate(timeout=200)[1]
    finally:
        process.kill()
    assert process.returncode == console.FAILED, stderr
    assert "Traceback" not in stderr
    sentence = stderr.splitlines()[-1]
    assert sentence.startswith("Error: ")
    for word in words:
        assert word in sentence


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, write_class_folders(tmp_path / "videos", {"Left": (1.0, 0.0)}, clips=2))
    yield site
    assert not list(site.store.glob("commits/*/*.json"))
    site.close()


def test_a_worker_without_the_package(site: Site) -> None:
    site.preload.write_text(HIDDEN)
    site.start_workers(1)
    # One that connects later ends by itself, as it cannot load what the scheduler hands it.
    until(lambda: "Registered to" in (site.folder / "dask.log").read_text())
    failed(
        site.extract(),
        "the worker at tcp://",
        "died when it was asked to load flowcpc",
        "install the same flowcpc there",
    )


def test_a_worker_with_another_numba(site: Site) -> None:
    site.preload.write_text(OTHER_NUMBA)
    site.start_workers(1)
    failed(site.extract(), "the worker at tcp://", "numba is 0.1 there and")


def test_a_scheduler_without_the_package(site: Site) -> None:
    site.preload.write_text(HIDDEN)
    site.scheduler.kill()
    site.scheduler.wait()
    site.start_scheduler("0", "--preload", str(site.preload))
    failed(
        site.extract(),
        f"the scheduler at {site.address} cannot load flowcpc",
        "install the same flowcpc there",
    )


def test_no_worker_comes(site: Site) -> None:
    failed(
        site.extract("--wait", "1"),
        f"the scheduler at {site.address} has had no usable worker for 1 s",
    )


def test_no_scheduler_answers(site: Site) -> None:
    site.scheduler.kill()
    site.scheduler.wait()
    failed(
        site.extract("--wait", "1"),
        f"no Dask scheduler answers at {site.address}",
        "dask scheduler",
    )
