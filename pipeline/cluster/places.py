"""Where an extraction runs: this process, processes or GPUs of this machine, a cluster, SLURM."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WAIT_S = 120.0
CLUSTERS = ("local", "cuda", "slurm")


@dataclasses.dataclass(frozen=True)
class InProcess:
    """This process, without Dask."""


@dataclasses.dataclass(frozen=True)
class LocalProcesses:
    """`count` processes of this machine."""

    count: int


@dataclasses.dataclass(frozen=True)
class LocalGpus:
    """One process for each GPU of this machine."""


@dataclasses.dataclass(frozen=True)
class ExistingScheduler:
    """The workers of a running scheduler, at `address` or as its `file` says."""

    address: str | None = None
    file: str | None = None
    wait_s: float = WAIT_S  # how long to wait for a worker

    def __str__(self) -> str:
        return self.address or f"the address in {self.file}"


@dataclasses.dataclass(frozen=True)
class SlurmJobs:
    """Between `minimum` and `maximum` SLURM jobs of one worker each, as many as videos remain.

    What is None here is taken from dask-jobqueue's configuration.
    """

    minimum: int = 0
    maximum: int = 1
    cores: int | None = None  # of each job
    memory: str | None = None  # of each job, as "8GB"
    queue: str | None = None
    account: str | None = None
    walltime: str | None = None
    directives: tuple[str, ...] = ()  # more #SBATCH lines, as "--gres=gpu:1"
    wait_s: float | None = None  # for a first worker; None: as long as the queue takes


Cluster = LocalProcesses | LocalGpus | ExistingScheduler | SlurmJobs
Place = InProcess | Cluster

_SLURM_OPTIONS = ("adapt", "queue", "account", "walltime", "memory", "cores", "directives")


def choose_place(options: Mapping[str, Any], cores: int) -> Place:
    """Return the place that command-line `options` ask for; None and () mean not given.

    `cores` is the number of this machine's. Raises ValueError for options that exclude each other.
    """
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    _refuse_conflicts(given)
    cluster, workers = given.get("cluster"), given.get("workers")
    if "scheduler" in given or "scheduler_file" in given:
        return _existing_scheduler(given)
    if cluster == "cuda":
        return LocalGpus()
    if cluster == "slurm":
        minimum, maximum = parse_adapt(given["adapt"]) if "adapt" in given else (0, workers or 1)
        fields = {field.name for field in dataclasses.fields(SlurmJobs)}
        options = {name: value for name, value in given.items() if name in fields}
        return SlurmJobs(minimum, maximum, wait_s=given.get("wait"), **options)
    if workers is None:
        workers = 0 if "shard" in given else cores
    return LocalProcesses(workers) if workers else InProcess()


def _refuse_conflicts(given: Mapping[str, Any]) -> None:
    """Raise ValueError for options that exclude each other."""
    schedulers = [f"--{name.replace('_', '-')}" for name in given if name.startswith("scheduler")]
    cluster, workers, backend = given.get("cluster"), given.get("workers"), given.get("backend")
    where = schedulers[-1] if schedulers else f"--cluster {cluster}"
    is_gpu, is_slurm = cluster == "cuda", cluster == "slurm"
    slurm_only = [name.removesuffix("s") for name in _SLURM_OPTIONS if name in given]
    if slurm_only and not is_slurm:
        raise ValueError(f"--{slurm_only[0]} needs --cluster slurm; give both, or leave it out")
    if "wait" in given and not (schedulers or is_slurm):
        raise ValueError("--wait is for workers that others start: --scheduler or --cluster slurm")
    is_fixed = (schedulers or is_gpu) and workers is not None
    is_elsewhere = "shard" in given and (schedulers or is_gpu or is_slurm)
    is_on_cpu = is_gpu and backend in ("cpu", "opencv")
    is_doubled = {"workers", "adapt"} <= given.keys()
    conflicts = {
        "--scheduler and --scheduler-file exclude each other": len(schedulers) > 1,
        f"{where} finds a cluster, --cluster {cluster} starts one": schedulers and cluster,
        f"{where} sets the number of workers, and so does --workers {workers}": is_fixed,
        f"--shard needs no cluster, and {where} is one": is_elsewhere,
        f"--cluster cuda computes on GPUs, --backend {backend} does not": is_on_cpu,
        "--workers and --adapt both set the number of workers": is_doubled,
        f"--workers 0 starts no process, --cluster {cluster} does": cluster and workers == 0,
    }
    for message, is_conflict in conflicts.items():
        if is_conflict:
            raise ValueError(f"{message}; leave one of them out")


def _existing_scheduler(given: Mapping[str, Any]) -> ExistingScheduler:
    file, address = given.get("scheduler_file"), given.get("scheduler")
    if file is not None and not Path(file).is_file():
        cure = "a scheduler writes it when it starts"
        raise FileNotFoundError(f"--scheduler-file {file} does not exist; {cure}")
    pattern = r"(\w+://)?(\[[^\]\s]+\]|[^:/\s\[\]]+):\d+"
    if address is not None and not re.fullmatch(pattern, address):
        raise ValueError(f"--scheduler {address!r} is no address; write it as tcp://HOST:PORT")
    return ExistingScheduler(address, file and str(file), given.get("wait", WAIT_S))


def parse_adapt(text: str) -> tuple[int, int]:
    """Return (minimum, maximum) of "MIN:MAX".

    >>> parse_adapt("0:40")
    (0, 40)
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or not int(match[1]) <= int(match[2]) or int(match[2]) == 0:
        expected = "give two numbers of workers, for example 0:40"
        raise ValueError(f"--adapt {text!r} is not MIN:MAX; {expected}")
    return int(match[1]), int(match[2])


def thread_limits(threads: int) -> dict[str, str]:
    """Return the environment of a process with `threads` Numba threads and no others."""
    blas = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
    return {"NUMBA_NUM_THREADS": str(threads), **dict.fromkeys(blas, "1")}


def gpu_workers(names: Sequence[str], cores: int) -> dict[str, dict[str, Any]]:
    """Return the options of one worker per GPU: it sees that GPU alone and has a share of `cores`.

    `names` are those of the devices. Raises ValueError if there is none.
    """
    if not names:
        raise ValueError(
            "--cluster cuda needs a GPU, and no CUDA device was found (see nvidia-smi), or "
            "numba-cuda is missing (pip install 'flowcpc[gpu]'); use --cluster local"
        )
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    visible = [name.strip() for name in listed if name.strip()]
    gpus = visible[: len(names)] or [str(number) for number in range(len(names))]
    threads = max(1, cores // len(gpus))
    limits, shared = thread_limits(threads), {"nthreads": threads, "resources": {"GPU": 1}}
    return {f"gpu-{gpu}": shared | {"env": limits | {"CUDA_VISIBLE_DEVICES": gpu}} for gpu in gpus}
