"""What a worker is to SLURM: the options of its job, and which jobs are still in the queue."""

import shutil
import subprocess
import time
from collections.abc import Collection
from typing import Any

from flowcpc.pipeline.cluster.places import SlurmJobs
from flowcpc.stores.base.errors import OperationError

_EVERY_S = 15.0
_MOST_LOST = 3


def check_slurm() -> None:
    """Raise ValueError where jobs cannot be submitted from."""
    for command in ("sbatch", "squeue", "scancel"):
        if shutil.which(command) is None:
            raise ValueError(
                f"--cluster slurm needs {command}, which is not on this machine's PATH; run it where jobs are submitted, or use --cluster local"
            )


def job_options(place: SlurmJobs, limits: dict[str, str]) -> dict[str, Any]:
    """Return the options of dask-jobqueue's SLURMCluster for workers in jobs of their own with `limits` on threads."""
    further = ["--lifetime", place.lifetime] if place.lifetime else []
    if place.stagger:
        further += ["--lifetime-stagger", place.stagger]
    return {
        "queue": place.queue,
        "account": place.account,
        "walltime": place.walltime,
        "cores": place.cores,
        "processes": 1,
        "memory": place.memory,
        "job_extra_directives": list(place.directives),
        "job_script_prologue": [f"export {name}={value}" for name, value in limits.items()],
        "worker_extra_args": further,
        "interface": place.interface,
        "log_directory": place.logs,
        "job_name": "flowcpc",
    }


def check_job(script: str) -> None:
    """Raise OperationError with SLURM's own words where it would not take a job of this script."""
    answer = subprocess.run(
        ["sbatch", "--test-only"], input=script, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        words = [
            line.partition("error: ")[2] or line
            for line in answer.stderr.splitlines()
            if line.strip()
        ]
        raise OperationError(
            f"SLURM does not take the workers' jobs: {'; '.join(words)}; change the options of --cluster slurm"
        )


def jobs_in_queue(jobs: Collection[str]) -> set[str]:
    """Return those of `jobs`, by id, that wait or run; all of them where SLURM does not answer."""
    if not jobs:
        return set()
    ask = [
        "squeue",
        "--noheader",
        "--format=%A",
        "--states=PENDING,RUNNING,CONFIGURING,COMPLETING,SUSPENDED",
    ]
    try:
        # All of a user's jobs: asked for one that is over, squeue fails.
        answer = subprocess.run(
            [*ask, "--me"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return set(jobs)
    return set(answer.stdout.split()) & set(jobs)


class JobWatch:
    """Says, when called, why SLURM brings no workers; empty where it does, or may.

    `cluster` is a SLURMCluster whose jobs' output goes to the folder `logs`. A job that is over although its worker never came is given up, so
    that another is submitted, but not for ever: a job that cannot start a worker would come back and back.
    """

    def __init__(self, cluster: Any, logs: str) -> None:
        self._cluster = cluster
        self._logs = logs
        self._asked = time.monotonic()
        self._lost = 0

    def __call__(self) -> str:
        if time.monotonic() - self._asked < _EVERY_S:
            return ""
        self._asked = time.monotonic()
        # A copy in one step: the cluster's own thread changes it.
        requested = dict(self._cluster.workers)
        waiting = {
            name: job.job_id
            for name, job in requested.items()
            if name not in self._cluster.observed
        }
        there = jobs_in_queue({job for job in waiting.values() if job})
        over = [name for name, job in waiting.items() if job and job not in there]
        if over:
            self._cluster.sync(self._cluster.scale_down, over)
        self._lost = 0 if self._cluster.observed else self._lost + len(over)
        if self._lost < _MOST_LOST:
            return ""
        return f"{self._lost} SLURM jobs ended before their worker came; read their output in {self._logs}"
