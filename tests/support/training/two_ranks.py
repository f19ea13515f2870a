"""What each process of tests/train/pretraining/test_distributed.py does, under torchrun.

Run as: python two_ranks.py JOB FOLDER.
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from recorder import Recorder
from torch import distributed, nn
from train_cases import CONFIG

from flowcpc.train.model.context import share_batch
from flowcpc.train.model.cpc import build_model
from flowcpc.train.model.loss import info_nce
from flowcpc.train.pretraining.distributed import Ranks, joined, rivals_of
from flowcpc.train.pretraining.loop import pretrain
from flowcpc.train.settings.config import PretrainConfig

GRADIENT_CASES = {
    "gn": {"norm": "gn"},
    "frozen-bn": {},
    "difficult": {"difficult_negatives": True},
    "dropout": {"context": "tcam", "norm": "gn", "dropout": 0.2},
}  # fmt: skip


def gradient_config(case: str) -> PretrainConfig:
    """Settings of a case of `gradients`."""
    return dataclasses.replace(
        CONFIG, negatives="global", width=8, size=(48, 48), **GRADIENT_CASES[case]
    )


def model_of(config: PretrainConfig) -> nn.Module:
    """The same model in every process."""
    torch.manual_seed(0)
    model = (
        build_model(config).double().train()
    )  # rounding of float32 would be as large as what is looked for
    model.predictors.float()  # what is pooled is float32
    if config.norm == "bn":
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    return model


def batch_of(config: PretrainConfig) -> torch.Tensor:
    """A whole batch."""
    shape = (config.batch_size, config.num_segments, config.channels, *config.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradients(
    config: PretrainConfig, case: str, ranks: Ranks
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss of this process, and gradients by name."""
    model = model_of(config)
    rivals, _ = rivals_of(config, ranks)
    share = config.share_of(ranks.count)
    own = batch_of(config)[ranks.rank * share : (ranks.rank + 1) * share]
    share_batch(model, ranks.rank * share, config.batch_size)
    torch.manual_seed(2)  # as at every step
    forward = ranks.together(model)  # to be kept until the backward pass
    predictions, latents = forward(own)
    found = info_nce(
        predictions,
        latents,
        model.positions,
        difficult_negatives=config.difficult_negatives,
        candidates=rivals.gather(latents),
        first=rivals.rank * share,
    )
    found.loss.backward()
    return found.loss.item(), {name: value.grad for name, value in model.named_parameters()}


def refuse() -> None:
    """As a check does."""
    raise ValueError("no such fold")


def exchange(folder: Path) -> None:
    """Everything that processes tell each other; then the gradients of every case."""
    with joined() as ranks:
        rank = ranks.rank
        assert (ranks.count, ranks.is_main) == (2, rank == 0)
        assert ranks.any(rank == 1)
        assert not ranks.any(False)
        assert ranks.mean([rank, 10 * rank]) == [0.5, 5]
        assert ranks.sum([rank + 1]) == [3]
        assert torch.equal(
            ranks.gather(torch.full((2, 1, 1), float(rank))).flatten(), torch.tensor([0.0, 0, 1, 1])
        )

        norm = nn.BatchNorm1d(1)
        norm.running_mean.fill_(rank + 5)
        ranks.same_buffers(norm)
        assert norm.running_mean.item() == 5

        order = folder / "order"
        assert (
            ranks.main_first(
                lambda: order.write_text("main") if ranks.is_main else order.read_text()
            )
            == 4
            or rank
        )
        with pytest.raises(ValueError, match="no such fold"):
            ranks.main_first(lambda: refuse() if ranks.is_main else None)

        for case in GRADIENT_CASES:
            loss, found = gradients(gradient_config(case), case, ranks)
            assert len(found) > 10
            (mean,) = ranks.mean([loss])
            torch.save({"loss": mean, "gradients": found}, folder / f"{case}-{rank}.pt")


def train(folder: Path) -> None:
    """A run with batch norm."""
    whole = pretrain(folder / "store.flow", folder / "whole", CONFIG)
    assert (whole.finished, whole.classes) == (True, 5)


def stop(folder: Path) -> None:
    """The same, stopped by one process's signal."""
    asked = []

    def should_stop() -> bool:
        asked.append(True)
        return os.environ["RANK"] == "1" and len(asked) == 3

    stopped = pretrain(
        folder / "store.flow", folder / "parts", CONFIG, listener=Recorder(stop=should_stop)
    )
    assert (stopped.finished, stopped.step) == (False, 3)


def go_on(folder: Path) -> None:
    """And taken up again."""
    assert pretrain(folder / "store.flow", folder / "parts", CONFIG).finished


def die(folder: Path) -> None:
    """The second process is killed at step 5."""
    asked = []

    def should_stop() -> bool:
        asked.append(True)
        if os.environ["RANK"] == "1" and len(asked) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    pretrain(folder / "store.flow", folder / "dead", CONFIG, listener=Recorder(stop=should_stop))


if __name__ == "__main__":
    {job.__name__: job for job in (exchange, train, stop, go_on, die)}[sys.argv[1]](
        Path(sys.argv[2])
    )
    if distributed.is_initialized():
        sys.exit("the process group outlived its work")
