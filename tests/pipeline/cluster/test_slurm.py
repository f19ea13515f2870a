"""A real SLURM, where one answers: `make test-slurm` brings a single node up and writes docs/benchmarks/slurm.md."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import assert_same_store, write_class_folders
from records import ROOT

from flowcpc.commands import console
from flowcpc.pipeline.cluster import slurm
from flowcpc.pipeline.cluster.places import InProcess, SlurmJobs, thread_limits
from flowcpc.pipeline.cluster.slurm import JobWatch, check_slurm, job_options, jobs_in_queue
from flowcpc.pipeline.datasets.sources import read_dataset
from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.run import run_extraction
from flowcpc.stores.flow_store import open_store

CLASSES = {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}


def test_a_worker_s_job_has_the_options_that_were_asked_for() -> None:
    place = SlurmJobs(
        cores=4,
        memory="8GB",
        queue="short",
        directives=("--gres=gpu:1",),
        lifetime="55m",
        stagger="4m",
    )
    options = job_options(place, thread_limits(4))
    assert (options["cores"], options["processes"], options["queue"]) == (4, 1, "short")
    assert options["worker_extra_args"] == ["--lifetime", "55m", "--lifetime-stagger", "4m"]
    assert "export NUMBA_NUM_THREADS=4" in options["job_script_prologue"]
    assert "export OMP_NUM_THREADS=1" in options["job_script_prologue"]


def test_a_machine_without_slurm_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="needs sbatch, which is not on this machine's PATH"):
        check_slurm()


class _Cluster:
    """What a JobWatch sees of a SLURMCluster: three jobs, of which one's worker has come."""

    def __init__(self) -> None:
        self.workers = {name: type("Job", (), {"job_id": name}) for name in ("1", "2", "3")}
        self.observed = {"1"}
        self.given_up: list[str] = []

    def sync(self, function: object, names: list[str]) -> None:
        self.given_up += names

    scale_down = None


def test_jobs_that_are_over_are_given_up_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "_EVERY_S", 0.0)
    monkeypatch.setattr(slurm, "jobs_in_queue", lambda jobs: {"2"} & jobs)
    cluster = _Cluster()
    watch = JobWatch(cluster, "logs")
    assert watch() == ""
    assert cluster.given_up == ["3"]
    cluster.observed = set()
    assert [watch(), watch()][0] == ""
    assert watch() == "6 SLURM jobs ended before their worker came; read their output in logs"


def test_where_the_queue_does_not_answer_every_job_may_be_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(subprocess, "run", silent)
    assert jobs_in_queue({"7"}) == {"7"}
    assert jobs_in_queue(set()) == set()


@pytest.fixture
def queue() -> None:
    """A SLURM that answers, or a skip."""
    if shutil.which("sbatch") is None:
        pytest.skip("SLURM is not installed here; make test-slurm installs and starts one")
    sinfo = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, check=False)
    if sinfo.returncode or not sinfo.stdout.strip():
        pytest.skip("no SLURM answers here; make test-slurm starts one")


@pytest.mark.usefixtures("queue")
def test_an_extraction_on_slurm(tmp_path: Path) -> None:
    videos = write_class_folders(tmp_path / "videos", CLASSES, clips=6, frames=20)
    words = [
        "extract-flow",
        str(videos),
        str(tmp_path / "s"),
        "--size",
        "24x32",
        "--cluster",
        "slurm",
        "--workers",
        "2",
    ]
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        *words,
        "--job-logs",
        str(tmp_path / "logs"),
        "--memory",
    ]
    refused = subprocess.run([*command, "900TB"], capture_output=True, text=True, check=False)
    assert refused.returncode == console.FAILED
    assert "Error: SLURM does not take the workers' jobs: " in refused.stderr
    assert "Traceback" not in refused.stderr
    began = time.monotonic()
    done = subprocess.run(
        [*command, "500MB", "--lifetime", "10m"], capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert "stored 12 videos" in done.stderr
    assert len(list((tmp_path / "logs").glob("flowcpc-*.err"))) == 2, "each worker was a job"
    settings = ExtractionSettings(str(videos), str(tmp_path / "calm"), 24, 32)
    run_extraction(settings, read_dataset(videos, "folder").videos, InProcess())
    assert_same_store(tmp_path / "s", tmp_path / "calm")
    time.sleep(3)
    queued = subprocess.run(
        ["squeue", "--me", "--noheader"], capture_output=True, text=True, check=True
    ).stdout
    assert "flowcpc" not in queued, "no job is left behind"
    if record := os.environ.get("FLOWCPC_SLURM_RECORD"):
        write_record(Path(record), len(open_store(tmp_path / "s").videos()), seconds)


def write_record(file: Path, videos: int, seconds: float) -> None:
    """Write down what was run; no paths and no names of machines."""
    version = subprocess.run(
        ["sinfo", "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    file.write_text(
        f"# On a real SLURM\n\n`make test-slurm` (tests/support/helpers/slurm_node.py, tests/pipeline/cluster/test_slurm.py), {version}, one node that is controller and worker.\n\n"
        "1. munged, slurmctld and slurmd are started without systemd; `sinfo` shows the node idle.\n"
        "2. `flowcpc extract-flow VIDEOS STORE --size 24x32 --cluster slurm --workers 2 --memory 900TB`: exit 1 with SLURM's own words.\n"
        "3. The same with `--memory 500MB --lifetime 10m`: two jobs are submitted, their workers come, are examined and do the videos.\n"
        f"4. Exit 0: {videos} videos stored in {seconds:.0f} s from the command to its end, the queue's wait and the workers' start among them.\n"
        "5. The store equals one made in a single process; each worker's output lies in the folder of `--job-logs`; no job is left in the queue.\n"
    )
