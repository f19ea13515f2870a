"""The process group that trains one model (torchrun): ranks, collectives and a common stop."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import DistError
from torch.nn.parallel import DistributedDataParallel

from flowcpc.stores.base.errors import OperationError, first_line
from flowcpc.stores.base.listener import Listener
from flowcpc.train.settings.config import PretrainConfig

# Longer than one process may be busy alone, with a checkpoint for example.
_TIMEOUT = timedelta(minutes=10)
# What torchrun tells its processes.
_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """One of `count` processes, which computes on `device`; with one no method communicates.

    Flags and numbers travel over gloo, from host memory, so the host need not wait for the GPU.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def listener(self, listener: Listener) -> Listener:
        """Return `listener`, which in other processes than the first hears nothing."""
        return listener if self.is_main else _StopsOnly(listener)

    def together(self, model: nn.Module) -> nn.Module:
        """Return `model` such that a backward pass gives the mean of all processes' gradients.

        Batch norm sees a process's own videos; its running statistics are the first process's.
        """
        if self.count == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)

    def same_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's buffers."""
        if self.count > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)

    def gather(self, latents: Tensor) -> Tensor:
        """Return the latents (C, T, D) of all processes by rank, differentiable, from (B, T, D)."""
        if self.count == 1:
            return latents
        gathered: Tensor = _Gather.apply(latents, self.rank, self.count)
        return gathered

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true in any process; all of them wait for each other here."""
        if self.count == 1:
            return flag
        agreed = torch.tensor([flag], dtype=torch.uint8)
        distributed.all_reduce(agreed, distributed.ReduceOp.MAX)
        return bool(agreed.item())

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        return list(sums.tolist())

    def mean(self, values: Sequence[float]) -> list[float]:
        """Return the means over all processes."""
        return [value / self.count for value in self.sum(values)]

    def main_first(self, work: Callable[[], T]) -> T:
        """Return `work()`, done by the first process before the others; all raise its error."""
        if self.count == 1:
            return work()
        raised: list[Any] = [None]
        if self.is_main:
            try:
                return work()
            except BaseException as error:
                raised = [error]
                raise
            finally:
                distributed.broadcast_object_list(raised, 0)
        distributed.broadcast_object_list(raised, 0)
        if raised[0] is not None:
            raise raised[0]
        return work()


class _StopsOnly(Listener):
    """Asks another listener whether to stop, and tells it nothing."""

    def __init__(self, listener: Listener) -> None:
        self.should_stop = listener.should_stop  # type: ignore[method-assign]


class _Gather(torch.autograd.Function):
    """Latents of all processes, differentiable.

    Let L_r be the loss of process r, the mean over its own rows. The loss L of the batch is their
    mean, because all have as many rows. A latent of process r is a candidate in every L_s, so
    dL/dz_r = 1/count * sum over s of dL_s/dz_r. The backward pass computes the sum; the factor
    1/count is the mean that DistributedDataParallel takes over gradients.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, rank: int, count: int) -> Tensor:
        ctx.rank, ctx.rows = rank, len(own)
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(count)]
        distributed.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total[ctx.rank * ctx.rows : (ctx.rank + 1) * ctx.rows], None, None


def rivals_of(config: PretrainConfig, ranks: Ranks) -> tuple[Ranks, int]:
    """Return the processes whose latents are candidates of a prediction, and how many classes.

    Raises ValueError if the batch cannot be shared so.
    """
    classes = config.classes_of(ranks.count)
    return (ranks if config.negatives == "global" else Ranks(0, 1, ranks.device)), classes


def is_main_process() -> bool:
    """Return whether this process is the one that prints, by what torchrun told it."""
    return not _launched() or os.environ["RANK"] == "0"


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Yield this process's Ranks: one of torchrun's processes, or alone.

    Raises ValueError if a host has more processes than GPUs, OperationError if another process is
    gone or does not answer for ten minutes.
    """
    rank, local_rank, count = 0, 0, 1
    if _launched():
        rank, local_rank, count = (int(os.environ[name]) for name in _VARIABLES[:3])
    device = _device(local_rank)
    if count == 1:
        yield Ranks(0, 1, device)
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield Ranks(rank, count, device)
    except RuntimeError as error:
        named = any(backend in str(error) for backend in ("gloo", "NCCL"))
        if isinstance(error, OperationError) or not (named or isinstance(error, DistError)):
            raise
        raise OperationError(
            f"process {rank} of {count} lost the connection to another process "
            f"({first_line(error)}); read the message of that process, then run the same command "
            "again to resume from the last checkpoint"
        ) from error
    distributed.destroy_process_group()  # after an error it would wait for processes that are gone


def _launched() -> bool:
    return all(name in os.environ for name in _VARIABLES)


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if local_rank >= found:
        raise ValueError(
            f"process {local_rank + 1} of this host has no GPU of its own: there are {found}; "
            f"set --nproc-per-node {found}"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
