"""How a run is executed: settings that decide no result, so that they may change on resuming."""

import contextlib
import importlib.util
import os
import shutil
from dataclasses import dataclass

import torch
from torch import nn

from flowcpc.train.pretraining.distributed import Ranks
from flowcpc.train.settings.config import PretrainConfig

_WORKERS_PER_CORE = 4  # more than one where a slow disk is waited for


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Settings of one start of a run."""

    workers: int = 0  # processes that read batches; 0: a thread of this one
    compile: bool = False  # the model, by torch.compile
    # Compile it and replay its kernels as CUDA graphs, for models bound by kernel launches.
    cuda_graphs: bool = False
    tensorboard: bool = False  # write the lines of metrics to TensorBoard, too
    wandb: bool = False  # write them to Weights & Biases

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, got {self.workers}")


def check_execution(execution: Execution, config: PretrainConfig, ranks: Ranks) -> None:
    """Raise ValueError where this machine cannot do what is asked for."""
    kind, bf16 = ranks.device.type, uses_bf16(config.precision, ranks.device)
    # The last stage strides over maps of one point; torch 2.13 leaves its gradients undefined.
    if kind == "cpu" and bf16 and max(config.size) <= 16:
        raise ValueError("precision=bf16 needs a size above 16x16 on a CPU; set precision=float32")
    cores, workers = len(os.sched_getaffinity(0)), execution.workers
    if workers > (most := _WORKERS_PER_CORE * cores):
        raise ValueError(f"--workers must be at most {most} on {cores} cores, got {workers}")
    if execution.cuda_graphs and kind != "cuda":
        raise ValueError(f"--cuda-graphs needs an NVIDIA GPU, and this is a {kind}; leave it out")
    if execution.cuda_graphs and ranks.count > 1:
        raise ValueError(
            f"--cuda-graphs is for one process, and there are {ranks.count}; take --compile instead"
        )
    for package in ("tensorboard", "wandb"):
        if getattr(execution, package) and importlib.util.find_spec(package) is None:
            raise ValueError(
                f"--{package} needs a missing package; run: pip install 'flowcpc[{package}]'"
            )
    compilers = (os.environ.get("CXX", "g++"), "g++", "clang++")
    if execution.compile and not any(map(shutil.which, compilers)):
        raise ValueError(
            "--compile needs a C++ compiler (g++ or clang++); install one or leave it out"
        )


def compiled(model: nn.Module, execution: Execution) -> nn.Module:
    """Return `model`, or a compiled module that shares its parameters."""
    if execution.cuda_graphs:
        return torch.compile(model, mode="reduce-overhead")  # type: ignore[return-value]
    if execution.compile:
        return torch.compile(model)  # type: ignore[return-value]
    return model


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Return whether forward passes run in bfloat16: on request, or `auto` on a GPU that has it."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def forward_precision(
    precision: str, device: torch.device
) -> contextlib.AbstractContextManager[object]:
    """Return a context for forward passes; weights, gradients and scores stay float32 in it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(precision, device))
