"""Seconds that each stage of an extraction takes."""

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
        """Add the time that the block takes to `stage`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - began

    def waiting(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield `items` and add the time spent waiting for them to `stage`."""
        iterator, end = iter(items), object()
        while True:
            with self.timed(stage):
                item = next(iterator, end)
            if item is end:
                return
            yield item  # type: ignore[misc]

    def columns(self, flows: int, seconds: float, decoder_peak_bytes: int) -> dict[str, Any]:
        """Return what a video of `flows` took in `seconds`, as columns of the videos table."""
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
