"""How a worker process died, from the log of its nanny."""

import contextlib
import re
import time
from collections.abc import Iterable

from distributed import Client

from flowcpc.pipeline.cluster.preflight import WorkerReport

_PATIENCE_S = 3.0


def cause_of_death(client: Client, worker: WorkerReport) -> str:
    """Return how and where a worker process died, as far as its nanny (if any) knows."""

    async def read_log() -> list[str]:
        assert client.scheduler is not None
        answer = await client.scheduler.broadcast(
            msg={"op": "get_logs", "n": 100}, workers=[worker.nanny]
        )
        return [line for _, line in answer[worker.nanny]]

    deadline = time.monotonic() + _PATIENCE_S
    while worker.nanny and time.monotonic() < deadline:
        with contextlib.suppress(Exception):  # its machine may be gone too
            log = client.sync(read_log, callback_timeout=_PATIENCE_S)
            if cause := end_of_process(log, worker.pid):
                return f"{cause}, on {worker.host}"
        time.sleep(0.2)
    return f"cause unknown, on {worker.host}"


def end_of_process(log: Iterable[str], pid: int) -> str:
    """Return how process `pid` ended by the lines that its nanny logged; "" if they do not say.

    >>> end_of_process(["Worker process 12 was killed by signal 11", "Restarting worker"], 12)
    'was killed by signal 11'
    >>> end_of_process(["Worker tcp://a:1 (pid=12) exceeded 95% memory budget. Restarting..."], 12)
    'exceeded 95% memory budget'
    """
    process = rf"(?:Worker process {pid}|\(pid={pid}\))"
    ends = [re.search(rf"{process} ((?:was killed|exited|exceeded)[^.]*)", line) for line in log]
    return ", ".join(dict.fromkeys(end[1] for end in ends if end))
