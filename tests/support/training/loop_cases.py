"""Small trainings, and the comparison of two runs."""

import dataclasses
from pathlib import Path

import torch
from train_cases import CONFIG

from flowcpc.train.pretraining.loop import PretrainResult, pretrain
from flowcpc.train.runs.checkpoint import require_checkpoint
from flowcpc.train.runs.metrics import read_metrics

# On a 1x1 map, the CPU's bf16 convolution of stride 2 leaves gradients of unseen pixels undefined.
BF16_SIZE = (18, 20)

TIMES = ("data_time", "step_time", "samples_per_second")


def untimed(run: Path) -> list[dict[str, object]]:
    return [
        {key: value for key, value in line.items() if key not in TIMES}
        for line in read_metrics(run)
    ]


def assert_same_run(first: Path, second: Path) -> None:
    a, b = require_checkpoint(first), require_checkpoint(second)
    assert (a.step, a.tensors.keys()) == (b.step, b.tensors.keys())
    for name, value in a.tensors.items():
        assert torch.equal(value, b.tensors[name]), name
    assert untimed(first) == untimed(second)


def train(store: Path, run: Path, **changes: object) -> PretrainResult:
    return pretrain(store, run, dataclasses.replace(CONFIG, **changes))
