"""How long steps take and how much of that the processor or GPU had no batch to work on."""

import time

import torch

_ENOUGH = 0.05  # waiting less than this share of a step is not worth a word


class Timer:
    """Splits time into waiting for batches and all of it.

    On a GPU the host runs ahead: while it waits for a batch, the GPU may still have work. So events
    before and after the wait measure on the GPU's clock how long it was idle. They are read when
    the loop waits for the GPU anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._waited = 0.0
        self._began = self._asked = time.perf_counter()

    def start(self) -> None:
        """Begin to measure, with waiting for a batch."""
        self._events, self._waited = [], 0.0
        self._began = time.perf_counter()
        self.wait()

    def wait(self) -> None:
        """The work of a step is given out, and the next batch is asked for."""
        self._asked = time.perf_counter()
        if self._cuda:
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            self._events.append((began, ended))

    def work(self) -> None:
        """The batch is there."""
        self._waited += time.perf_counter() - self._asked
        if self._cuda:
            self._events[-1][1].record()

    def stop(self) -> tuple[float, float]:
        """Wait for the device and return (seconds of waiting, all seconds) since `start`."""
        if self._cuda:
            torch.cuda.synchronize()
            self._waited = sum(begin.elapsed_time(end) for begin, end in self._events) / 1e3
        return self._waited, time.perf_counter() - self._began


def bottleneck(data_time: float, step_time: float, device: torch.device, workers: int) -> str:
    """Return a sentence on what limits a step of `step_time` seconds, `data_time` of them waiting.

    >>> bottleneck(0.01, 1.0, torch.device("cpu"), 0)
    'compute: the processor waited 1 % of the time for batches; reading them costs nothing'
    """
    who = "GPU" if device.type == "cuda" else "processor"
    share = data_time / step_time if step_time else 0.0
    waited = f"the {who} waited {100 * share:.0f} % of the time for batches"
    if share <= _ENOUGH:
        return f"compute: {waited}; reading them costs nothing"
    return f"data: {waited}; raise --workers (now {workers}), or put the store on a local disk"
