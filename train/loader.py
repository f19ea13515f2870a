"""Batches ahead of time."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from train.batches import prefetch

Step = TypeVar("Step")
Loaded = TypeVar("Loaded")


@contextlib.contextmanager
def loading(
    read: Callable[[Step], Loaded], steps: Iterable[Step], *, workers: int = 0, ahead: int = 2
) -> Iterator[Iterator[Loaded]]:
    """Yield an iterator of `read(step)` for every step in order, made ahead of time on a thread."""
    with contextlib.closing(prefetch(read, steps, ahead=ahead)) as loaded:
        yield loaded
