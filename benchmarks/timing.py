"""Times of calls, and medians of them."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median_seconds(work: Callable[[], object], rounds: int) -> float:
    """Median time of `rounds` calls after one that does not count."""
    work()
    return statistics.median(seconds(work) for _ in range(rounds))


def median_and_range(values: Sequence[float], digits: int) -> str:
    """Median, least and most of some values, as in `2.5 (1.0 to 4.0)`."""
    median, least, most = (
        f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return f"{median} ({least} to {most})"


def seconds_for_each(work: Callable[[Item], object], items: Iterable[Item]) -> float:
    """How long the calls for all items take; what a call returns is dropped at once."""
    began = time.perf_counter()
    for item in items:
        work(item)
    return time.perf_counter() - began
