"""SLURM jobs of one worker each: their options, and which of them are still queued."""

import shutil
import subprocess
import time
from collections.abc import Collection, Mapping
from typing import Any

from flowcpc.pipeline.cluster.places import SlurmJobs, thread_limits
from flowcpc.stores.base.errors import OperationError

_INTERVAL_S = 15.0
_MOST_LOST_JOBS = 3
_ACTIVE = "PENDING,RUNNING,CONFIGURING,COMPLETING,SUSPENDED"


def check_slurm() -> None:
    """Raise ValueError if jobs cannot be submitted from this machine."""
    missing = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
    if missing:
        cure = "run it where jobs are submitted, or use --cluster local"
        problem = f"--cluster slurm needs {missing[0]}, which is not on this machine's PATH"
        raise ValueError(f"{problem}; {cure}")


def job_options(place: SlurmJobs, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of SLURMCluster, from `place` and, where it has none, from `config`.

    This is the section jobqueue.slurm of Dask's configuration.
    """
    cores = place.cores or config.get("cores") or 1
    exports = [f"export {name}={value}" for name, value in thread_limits(cores).items()]
    return {
        "queue": place.queue,
        "account": place.account,
        "walltime": place.walltime,
        "cores": cores,
        "processes": 1,
        "memory": place.memory or config.get("memory") or "4GB",
        "job_extra_directives": [*(config.get("job-extra-directives") or ()), *place.directives],
        "job_script_prologue": [*(config.get("job-script-prologue") or ()), *exports],
        "log_directory": config.get("log-directory") or "slurm-logs",
        "job_name": "flowcpc",
        "scheduler_options": {"dashboard_address": ":0", **(config.get("scheduler-options") or {})},
    }


def check_job(script: str) -> None:
    """Raise OperationError with SLURM's message if it would refuse a job with this script."""
    command = ["sbatch", "--test-only"]
    answer = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    if answer.returncode:
        lines = filter(None, map(str.strip, answer.stderr.splitlines()))
        reasons = "; ".join(line.partition("error: ")[2] or line for line in lines)
        cure = "change the options of --cluster slurm"
        raise OperationError(f"SLURM refuses the workers' jobs: {reasons}; {cure}")


def jobs_in_queue(jobs: Collection[str]) -> set[str]:
    """Return those of the job ids that wait or run; all of them if SLURM does not answer."""
    if not jobs:
        return set()
    # All jobs of this user: squeue fails when it is asked for one that has ended.
    command = ["squeue", "--noheader", "--format=%A", f"--states={_ACTIVE}", "--me"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return set(jobs)
    return set(answer.stdout.split()) & set(jobs)


class JobWatch:
    """Returns, when called, why SLURM starts no workers; "" while it does, or may.

    A job that ended before its worker connected is removed from the SLURMCluster, which submits
    another one. After three of them, with no worker connected, a job is assumed to be unable to
    start one. `logs` is the folder of the jobs' output.
    """

    def __init__(self, cluster: Any, logs: str) -> None:
        self._cluster, self._logs = cluster, logs
        self._checked, self._lost = time.monotonic(), 0

    def __call__(self) -> str:
        if time.monotonic() - self._checked < _INTERVAL_S:
            return ""
        self._checked = time.monotonic()
        requested = dict(self._cluster.workers)  # copied at once: the cluster's thread changes it
        waiting = {
            name: job.job_id
            for name, job in requested.items()
            if name not in self._cluster.observed and job.job_id
        }
        queued = jobs_in_queue(set(waiting.values()))
        ended = [name for name, job_id in waiting.items() if job_id not in queued]
        if ended:
            self._cluster.sync(self._cluster.scale_down, ended)
        self._lost = 0 if self._cluster.observed else self._lost + len(ended)
        if self._lost < _MOST_LOST_JOBS:
            return ""
        ended_early = f"{self._lost} SLURM jobs ended before their workers connected"
        return f"{ended_early}; read their output in {self._logs}"
