"""Where the seconds of one video go."""

import contextlib
import os
import platform
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from flowcpc.pipeline.decoding.memory import peak_bytes
from flowcpc.stores.layout import STAGES

Item = TypeVar("Item")


class Stages:
    """Seconds of each of STAGES, so far."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count what the block takes under `stage`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - began

    def waiting(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield `items`, and count the wait for each under `stage`."""
        iterator = iter(items)
        while True:
            with self.timed(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def columns(self, flows: int, seconds: float, decoder_peak_bytes: int) -> dict[str, Any]:
        """Return what a video of `flows` took so far, as columns of the videos table.

        Parameters
        ----------
        seconds : float
            From its beginning; what the stages do not account for is opening and looking up.
        decoder_peak_bytes : int
            Most memory that the decoding process has held.
        """
        return {
            "host": platform.node(),
            "pid": os.getpid(),
            "committed": time.time(),
            "seconds": round(seconds, 3),
            **{f"{stage}_seconds": round(value, 4) for stage, value in self.seconds.items()},
            "pairs_per_second": round(flows / seconds, 3),
            "worker_peak_bytes": peak_bytes(),
            "decoder_peak_bytes": decoder_peak_bytes,
        }
