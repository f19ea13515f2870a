"""Loggers besides `metrics.jsonl`: TensorBoard, and Weights & Biases without a network."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flowcpc.train.pretraining.execution import Execution
from flowcpc.train.settings.config import PretrainConfig

Watch = Callable[[Mapping[str, Any]], None]
TENSORBOARD_FOLDER = "tensorboard"


@contextlib.contextmanager
def watching(
    run: Path, config: PretrainConfig, execution: Execution, *, first: int
) -> Iterator[Watch]:
    """Yield a function that takes each line of metrics to where `execution` wants it seen.

    A run that resumes from step `first` makes TensorBoard drop later points; Weights & Biases keeps
    a run for every start, in one group, and `wandb sync RUN/wandb/*` uploads them.
    """
    wanted = [_tensorboard(run / TENSORBOARD_FOLDER, first)] if execution.tensorboard else []
    wanted += [_wandb(run, config)] if execution.wandb else []
    with contextlib.ExitStack() as stack:
        watches = [stack.enter_context(one) for one in wanted]

        def tell(line: Mapping[str, Any]) -> None:
            for watch in watches:
                watch(line)

        yield tell


def named_numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line by name, those of a list numbered from 1; the step is left out.

    >>> named_numbers({"step": 20, "loss": 2.5, "horizon_accuracy": [0.5, 0.25]})
    {'loss': 2.5, 'horizon_accuracy/1': 0.5, 'horizon_accuracy/2': 0.25}
    """
    numbers: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, list):
            numbers |= {f"{name}/{place}": one for place, one in enumerate(value, start=1)}
        elif name != "step":
            numbers[name] = value
    return numbers


@contextlib.contextmanager
def _tensorboard(folder: Path, first: int) -> Iterator[Watch]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=first + 1) as writer:

        def watch(line: Mapping[str, Any]) -> None:
            for name, value in named_numbers(line).items():
                writer.add_scalar(name, value, line["step"])
            writer.flush()

        yield watch


@contextlib.contextmanager
def _wandb(run: Path, config: PretrainConfig) -> Iterator[Watch]:
    import wandb

    begun = wandb.init(
        project="flowcpc",
        group=run.resolve().name,
        dir=str(run),
        config=config.to_json(),
        mode="online" if os.environ.get("WANDB_MODE") == "online" else "offline",
        settings=wandb.Settings(silent=True),
    )
    try:
        yield lambda line: begun.log(named_numbers(line), step=line["step"])
    finally:
        begun.finish()
