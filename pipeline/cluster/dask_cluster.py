"""Start of a Dask cluster, or connection to one."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import dask
import distributed
from distributed import Client, SpecCluster
from distributed.utils import silence_logging_cmgr

from flowcpc.pipeline.cluster import places
from flowcpc.pipeline.cluster.dask_workers import ClusterJob, DaskWorkers
from flowcpc.pipeline.cluster.places import Cluster
from flowcpc.pipeline.cluster.preflight import check_scheduler, versions
from flowcpc.pipeline.cluster.slurm import JobWatch, check_job, check_slurm, job_options
from flowcpc.pipeline.tvl1.solver import available_threads, devices
from flowcpc.stores.base.errors import OperationError, first_line
from flowcpc.stores.base.signals import STOPS, held_back

_CONNECT_S = 30.0
_CLOSE_S = 60.0  # a cluster that takes longer to close is left to its scheduler
_SILENT = 51  # above all levels of logging
_CONFIG = {
    "distributed.admin.log-length": 100,
    "distributed.comm.timeouts.connect": f"{_CONNECT_S:g}s",
    "distributed.worker.profile.enabled": False,
    # A worker holds no data of Dask's; a paused one would keep the video that was meant for it.
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "logging.distributed": "critical",
}


@contextlib.contextmanager
def open_cluster(place: Cluster, job: ClusterJob) -> Iterator[DaskWorkers]:
    """Start the cluster at `place` or connect to it; yield its workers; close it or disconnect.

    Raises ValueError for a place that is not available here, OperationError if the workers cannot
    be started or the scheduler does not answer or has other software.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(_CONFIG))
        stack.enter_context(silence_logging_cmgr(_SILENT))  # errors become sentences of our own
        try:
            workers = stack.enter_context(_connected_workers(place, job, stack))
        except OperationError:
            raise
        except (RuntimeError, OSError) as error:
            problem = f"the workers cannot be started ({first_line(error)})"
            raise OperationError(f"{problem}; fix the cause and run again") from error
        yield workers


def _connected_workers(place: Cluster, job: ClusterJob, stack: contextlib.ExitStack) -> DaskWorkers:
    trouble: Callable[[], str] = str  # returns "": there is none
    if isinstance(place, places.ExistingScheduler):
        where = {"address": place.address} if place.address else {"scheduler_file": place.file}
        timeout = min(place.wait_s, _CONNECT_S)
        try:
            client = Client(**where, timeout=timeout, set_as_default=False)
        except Exception as error:  # time-outs, refusals, other protocols
            problem = f"no Dask scheduler answers at {place} ({first_line(error)})"
            raise OperationError(f"{problem}; start it with: dask scheduler") from error
    else:
        with held_back():  # also: a start that is interrupted leaves processes behind
            if isinstance(place, places.SlurmJobs):
                cluster, trouble = _slurm_cluster(place, job)
            else:
                cluster = _local_cluster(place, job)
            stack.callback(_close, cluster, timeout=_CLOSE_S)
            client = Client(cluster, set_as_default=False)
    stack.callback(_close, client, timeout=2)
    address = str(client.scheduler_info(n_workers=0)["address"])
    check_scheduler(address, lambda: client.run_on_scheduler(versions))
    job.listener.announce(f"scheduler {address}, dashboard {client.dashboard_link}")
    wait_s = getattr(place, "wait_s", places.WAIT_S)
    return DaskWorkers(client, f"the scheduler at {address}", job, wait_s, trouble)


def _close(closable: Client | SpecCluster, **options: Any) -> None:
    with held_back(), contextlib.suppress(Exception):  # its scheduler may be gone
        closable.close(**options)


def _local_cluster(place: places.LocalProcesses | places.LocalGpus, job: ClusterJob) -> SpecCluster:
    local: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    if isinstance(place, places.LocalProcesses):
        count = min(place.count, job.remaining())
        threads = place.count // count  # few videos: the cores that remain serve as threads
        local |= {"processes": True, "silence_logs": _SILENT, "env": places.thread_limits(threads)}
        return distributed.LocalCluster(count, threads_per_worker=threads, **local)
    shared = {"host": "127.0.0.1", "silence_logs": _SILENT}
    workers = {
        name: {"cls": distributed.Nanny, "options": options | shared}
        for name, options in places.gpu_workers(devices(), available_threads()).items()
    }
    scheduler = {"cls": distributed.Scheduler, "options": local}
    return SpecCluster(workers, scheduler, silence_logs=_SILENT)


def slurm_options(place: places.SlurmJobs) -> dict[str, Any]:
    """Return the options of SLURMCluster, from `place` and dask-jobqueue's configuration."""
    return job_options(place, dask.config.get("jobqueue.slurm", {}))


class _AdaptToVideos(distributed.Adaptive):
    """Asks for as many workers as videos remain; Dask sees only those in flight."""

    def __init__(self, *arguments: Any, remaining: Callable[[], int], **options: Any) -> None:
        self._remaining = remaining
        super().__init__(*arguments, **options)

    async def target(self) -> int:
        return self._remaining()


def _slurm_cluster(place: places.SlurmJobs, job: ClusterJob) -> tuple[SpecCluster, JobWatch]:
    check_slurm()
    handlers = {number: signal.getsignal(number) for number in STOPS}
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ValueError(
            "--cluster slurm needs dask-jobqueue; install it with: pip install 'flowcpc[slurm]'"
        ) from error
    finally:  # its import handles Ctrl-C in a way of its own
        for number, handler in handlers.items():
            signal.signal(number, handler)
    options = slurm_options(place)
    cluster = SLURMCluster(**options, silence_logs=_SILENT)
    try:
        check_job(cluster.job_script())  # a job that the queue refuses later is not reported
    except BaseException:
        cluster.close()
        raise
    limits = {"minimum": place.minimum, "maximum": place.maximum, "remaining": job.remaining}
    cluster.adapt(Adaptive=_AdaptToVideos, interval="2s", **limits)
    return cluster, JobWatch(cluster, options["log_directory"])
