"""Where an extraction runs: in this process, on processes or GPUs of this machine, on a running scheduler, on SLURM."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WAIT_S = 120.0


@dataclasses.dataclass(frozen=True)
class InProcess:
    """This process, without Dask: one video after the other, whose flow its threads share, or several where a GPU computes it."""


@dataclasses.dataclass(frozen=True)
class LocalProcesses:
    """`count` processes of this machine."""

    count: int


@dataclasses.dataclass(frozen=True)
class LocalGpus:
    """One process for each GPU of this machine."""


@dataclasses.dataclass(frozen=True)
class ExistingScheduler:
    """The workers of a scheduler that somebody else started, at `address` or as its `file` says.

    `wait_s` is how long, in seconds, to wait for a worker where there is none.
    """

    address: str | None = None
    file: str | None = None
    wait_s: float = WAIT_S

    def __str__(self) -> str:
        return self.address or f"the address in {self.file}"


@dataclasses.dataclass(frozen=True)
class SlurmJobs:
    """SLURM jobs of one worker each, between `minimum` and `maximum` of them, as many as videos are left.

    Attributes
    ----------
    minimum, maximum : int
    cores : int
        Of each worker; its threads share the flow of one video.
    memory : str
        Of each worker, as "8GB".
    queue, account, walltime : str, optional
    directives : tuple of str
        Further lines of `#SBATCH`, as "--gres=gpu:1".
    lifetime, stagger : str, optional
        A worker hands back its place after this time, "55m", spread by that much at random.
    interface : str, optional
        Network interface by which workers reach this machine, "ib0".
    logs : str
        Folder that the jobs' output goes to.
    wait_s : float, optional
        Seconds to wait for a first worker; None waits as long as the queue takes.
    """

    minimum: int = 0
    maximum: int = 1
    cores: int = 1
    memory: str = "4GB"
    queue: str | None = None
    account: str | None = None
    walltime: str | None = None
    directives: tuple[str, ...] = ()
    lifetime: str | None = None
    stagger: str | None = None
    interface: str | None = None
    logs: str = "slurm-logs"
    wait_s: float | None = None


Place = InProcess | LocalProcesses | LocalGpus | ExistingScheduler | SlurmJobs

_SLURM_OPTIONS = {
    "adapt": "--adapt",
    "queue": "--queue",
    "account": "--account",
    "walltime": "--walltime",
    "memory": "--memory",
    "cores": "--cores",
    "directives": "--directive",
    "lifetime": "--lifetime",
    "stagger": "--lifetime-stagger",
    "interface": "--interface",
    "logs": "--job-logs",
}


def choose_place(options: Mapping[str, Any], cores: int) -> Place:
    """Return the place that command line `options` ask for, None and () meaning not given; `cores` are this machine's.

    Raises ValueError, in one sentence, for options that do not go together.

    >>> choose_place({"workers": 0}, cores=8)
    InProcess()
    >>> choose_place({}, cores=8)
    LocalProcesses(count=8)
    >>> choose_place({"shard": (1, 4)}, cores=8)
    InProcess()
    """
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    cluster, workers = given.get("cluster"), given.get("workers")
    if "scheduler" in given and "scheduler_file" in given:
        raise ValueError("--scheduler and --scheduler-file both name a scheduler; give one of them")
    runs = (
        "--scheduler"
        if "scheduler" in given
        else "--scheduler-file"
        if "scheduler_file" in given
        else None
    )
    if runs and cluster:
        raise ValueError(
            f"{runs} uses a cluster that runs and --cluster {cluster} starts one; give one of them"
        )
    if runs and workers is not None:
        raise ValueError(
            f"{runs} uses all workers of that scheduler; leave --workers {workers} out"
        )
    alone = [
        option for name, option in _SLURM_OPTIONS.items() if name in given and cluster != "slurm"
    ]
    if alone:
        raise ValueError(f"{alone[0]} goes with --cluster slurm; give both, or leave it out")
    if "shard" in given and (runs or cluster in ("cuda", "slurm")):
        other = runs or f"--cluster {cluster}"
        raise ValueError(
            f"--shard divides the work without a cluster and {other} is one; give one of them"
        )
    if "wait" in given and not runs and cluster != "slurm":
        raise ValueError(
            "--wait is for workers that others start; give it with --scheduler or --cluster slurm"
        )
    if runs:
        return _running(given)
    if cluster == "cuda":
        if workers is not None:
            raise ValueError(
                f"--cluster cuda starts one worker per GPU; leave --workers {workers} out"
            )
        if given.get("backend") in ("cpu", "opencv"):
            raise ValueError(
                f"--cluster cuda computes on GPUs and --backend {given['backend']} does not; drop one"
            )
        return LocalGpus()
    if cluster == "slurm":
        return _slurm(given)
    if workers is None:
        workers = 0 if "shard" in given else cores
    if workers == 0 and cluster == "local":
        raise ValueError(
            "--workers 0 works in this process and --cluster local starts others; give one of them"
        )
    return LocalProcesses(workers) if workers else InProcess()


def parse_adapt(text: str) -> tuple[int, int]:
    """Return (minimum, maximum) of "MIN:MAX".

    >>> parse_adapt("0:40")
    (0, 40)
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or not int(match[1]) <= int(match[2]) or int(match[2]) == 0:
        raise ValueError(
            f"--adapt {text!r} is not MIN:MAX; write two numbers of workers, as in 0:40"
        )
    return int(match[1]), int(match[2])


def thread_limits(threads: int) -> dict[str, str]:
    """Return the environment of a process that computes on `threads` threads of its own making; libraries add none."""
    blas = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
    return {"NUMBA_NUM_THREADS": str(threads), **dict.fromkeys(blas, "1")}


def gpu_workers(names: Sequence[str], cores: int) -> dict[str, dict[str, Any]]:
    """Return the options of one worker for each GPU that this process may use: it sees that GPU alone, and has its share
    of the `cores`.

    `names` are those of the devices. Raises ValueError where there is none.
    """
    if not names:
        raise ValueError(
            "--cluster cuda needs a GPU, and no CUDA device was found (see nvidia-smi), or numba-cuda is missing "
            "(pip install 'flowcpc[gpu]'); use --cluster local"
        )
    visible = [
        name.strip()
        for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if name.strip()
    ]
    chosen = visible[: len(names)] or [str(number) for number in range(len(names))]
    threads = max(1, cores // len(chosen))
    return {
        f"gpu-{gpu}": {
            "nthreads": threads,
            "resources": {"GPU": 1},
            "env": {**thread_limits(threads), "CUDA_VISIBLE_DEVICES": gpu},
        }
        for gpu in chosen
    }


def _running(given: Mapping[str, Any]) -> ExistingScheduler:
    file = given.get("scheduler_file")
    if file is not None and not Path(file).is_file():
        raise FileNotFoundError(
            f"--scheduler-file {file} does not exist; a scheduler writes it when it starts"
        )
    address, wait_s = given.get("scheduler"), given.get("wait", WAIT_S)
    if address is not None and not re.fullmatch(
        r"(\w+://)?(\[[^\]\s]+\]|[^:/\s\[\]]+):\d+", address
    ):
        raise ValueError(f"--scheduler {address!r} is no address; write it as tcp://HOST:PORT")
    return ExistingScheduler(address, None if file is None else str(file), wait_s)


def _slurm(given: Mapping[str, Any]) -> SlurmJobs:
    if "workers" in given and "adapt" in given:
        raise ValueError("--workers and --adapt both say how many workers; give one of them")
    if given.get("workers") == 0:
        raise ValueError(
            "--workers 0 works in this process and --cluster slurm does not; give one of them"
        )
    minimum, maximum = (
        parse_adapt(given["adapt"]) if "adapt" in given else (0, given.get("workers", 1))
    )
    if "stagger" in given and "lifetime" not in given:
        raise ValueError("--lifetime-stagger spreads what --lifetime sets; give both")
    fields = {field.name for field in dataclasses.fields(SlurmJobs)}
    chosen = {name: value for name, value in given.items() if name in fields}
    return SlurmJobs(
        **chosen | {"minimum": minimum, "maximum": maximum, "wait_s": given.get("wait")}
    )
