"""SLURM jobs; with a real SLURM, where one answers: `make test-slurm` starts a single node.

It writes docs/benchmarks/flow/slurm.md.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import pytest
from builders import assert_same_store, write_class_folders
from checkout import ROOT

from flowcpc.commands import console
from flowcpc.pipeline.cluster import dask_cluster, slurm
from flowcpc.pipeline.cluster.places import InProcess, SlurmJobs
from flowcpc.pipeline.cluster.slurm import JobWatch, check_slurm, job_options, jobs_in_queue
from flowcpc.pipeline.datasets.sources import read_dataset
from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.run import run_extraction
from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.flow_store import open_store

CLASSES = {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}


CONFIG = {
    "cores": None,
    "memory": "2GB",
    "job-extra-directives": ["--exclusive"],
    "job-script-prologue": ["module load cuda"],
    "log-directory": None,
    "scheduler-options": {},
}


def test_a_worker_s_job_has_the_options_that_were_given() -> None:
    place = SlurmJobs(cores=4, memory="8GB", queue="short", directives=("--gres=gpu:1",))
    options = job_options(place, CONFIG)
    assert (options["cores"], options["processes"], options["queue"]) == (4, 1, "short")
    assert options["memory"] == "8GB"
    assert options["job_extra_directives"] == ["--exclusive", "--gres=gpu:1"]
    assert options["job_script_prologue"][0] == "module load cuda"
    assert "export NUMBA_NUM_THREADS=4" in options["job_script_prologue"]
    assert "export OMP_NUM_THREADS=1" in options["job_script_prologue"]


def test_other_options_of_jobs_come_from_dask_jobqueue_s_configuration() -> None:
    options = job_options(SlurmJobs(), {**CONFIG, "cores": 3, "log-directory": "logs"})
    assert (options["cores"], options["memory"], options["log_directory"]) == (3, "2GB", "logs")
    assert "export NUMBA_NUM_THREADS=3" in options["job_script_prologue"]
    default = job_options(SlurmJobs(), {})
    assert job_options(SlurmJobs(), dict.fromkeys(CONFIG)) == default, "a key without a value"
    assert (default["cores"], default["memory"]) == (1, "4GB")


def test_a_job_script_holds_what_dask_jobqueue_s_configuration_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The script that would be submitted; and the import of dask-jobqueue leaves Ctrl-C alone."""
    scripts: list[str] = []

    def refuse(script: str) -> None:
        scripts.append(script)
        raise OperationError("not submitted")

    monkeypatch.setattr(dask_cluster, "check_slurm", lambda: None)
    monkeypatch.setattr(dask_cluster, "check_job", refuse)
    handler = signal.getsignal(signal.SIGINT)
    section = {"worker-extra-args": ["--lifetime", "55m"], "job-extra-directives": ["--exclusive"]}
    with (
        dask.config.set({f"jobqueue.slurm.{name}": value for name, value in section.items()}),
        pytest.raises(OperationError, match="not submitted"),
    ):
        dask_cluster._slurm_cluster(SlurmJobs(cores=2, directives=("--gres=gpu:1",)), None)
    assert signal.getsignal(signal.SIGINT) is handler
    (script,) = scripts
    for line in ("#SBATCH --exclusive", "#SBATCH --gres=gpu:1", "#SBATCH --cpus-per-task=2"):
        assert line in script.splitlines()
    assert "--lifetime 55m" in script
    assert "#SBATCH -J flowcpc" in script


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
    monkeypatch.setattr(slurm, "_INTERVAL_S", 0.0)
    monkeypatch.setattr(slurm, "jobs_in_queue", lambda jobs: {"2"} & jobs)
    cluster = _Cluster()
    watch = JobWatch(cluster, "logs")
    assert watch() == ""
    assert cluster.given_up == ["3"]
    cluster.observed = set()
    assert [watch(), watch()][0] == ""
    assert watch() == "6 SLURM jobs ended before their workers connected; read their output in logs"


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
        "--memory",
    ]
    environment = {**os.environ, "DASK_JOBQUEUE__SLURM__LOG_DIRECTORY": str(tmp_path / "logs")}
    refused = subprocess.run(
        [*command, "900TB"], env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == console.FAILED
    assert "Error: SLURM refuses the workers' jobs: " in refused.stderr
    assert "Traceback" not in refused.stderr
    began = time.monotonic()
    done = subprocess.run(
        [*command, "500MB"], env=environment, capture_output=True, text=True, check=False
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
        "# On a real SLURM\n\n`make test-slurm` (tests/support/helpers/slurm_node.py, "
        f"tests/pipeline/cluster/test_slurm.py), {version}, one node that is controller and "
        "worker.\n\n"
        "1. munged, slurmctld and slurmd are started without systemd; `sinfo` shows the node idle."
        "\n2. `flowcpc extract-flow VIDEOS STORE --size 24x32 --cluster slurm --workers 2 "
        "--memory 900TB`: exit 1 with SLURM's message.\n"
        "3. The same with `--memory 500MB`: two jobs are submitted, their workers connect, are "
        "examined and extract the videos.\n"
        f"4. Exit 0: {videos} videos stored in {seconds:.0f} s from the command to its end, with "
        "the wait for the queue and the start of the workers.\n"
        "5. The store equals one made in a single process; each worker's output is in the "
        "configured log directory; no job is left in the queue.\n"
    )
