"""A run that is open for training: its data, model, optimiser, log and checkpoint."""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.base.listener import Listener
from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.data.batches import COLUMNS, TABLES, SegmentReader, SequenceReader
from flowcpc.train.data.splits import digest_of_videos, videos_of
from flowcpc.train.model.context import share_batch
from flowcpc.train.model.cpc import build_model
from flowcpc.train.pretraining.distributed import Ranks, rivals_of
from flowcpc.train.pretraining.execution import Execution, check_execution, compiled
from flowcpc.train.pretraining.loggers import watching
from flowcpc.train.pretraining.validation import HeldOut
from flowcpc.train.runs.checkpoint import (
    Checkpoint,
    hold_run,
    load_checkpoint,
    open_run,
    save_checkpoint,
)
from flowcpc.train.runs.metrics import MetricsLine, MetricsLog, Window, effective_rank, line_of
from flowcpc.train.runs.tensors import load_strictly, restore_momentum, sgd_momentum
from flowcpc.train.settings.config import PretrainConfig, named_seed


class DivergedError(OperationError):
    """The loss or a weight is no longer a finite number; the message says what to change."""


@dataclass(frozen=True)
class PretrainResult:
    """The state of a run.

    Accuracy is the share of predictions that pick the right one of `classes`. It and the loss are
    means over the last logged steps, NaN before the first line.
    """

    finished: bool  # False if the listener stopped the call early; the same call resumes
    step: int  # iterations done
    steps: int  # iterations wanted
    loss: float
    accuracy: float
    classes: int
    chance: float  # 1 / classes
    # On the fold's test videos, with batch norm in eval mode. None if they do not fill a batch or
    # were trained on.
    held_out_accuracy: float | None
    # Candidates there: those of a whole batch, even if each process trains on its own negatives.
    held_out_classes: int

    def to_text(self) -> str:
        """Return the result as two lines for the user."""
        held_out = "not measured"
        if self.held_out_accuracy is not None:
            held_out = f"{self.held_out_accuracy:.1%}"
            if self.held_out_classes != self.classes:
                held_out += f" (out of {self.held_out_classes})"
        guessing = math.log(self.classes)
        return (
            f"step {self.step} of {self.steps}: loss {self.loss:.4g} (guessing: {guessing:.4g})\n"
            f"right segment picked out of {self.classes}: {self.accuracy:.1%} on training videos, "
            f"{held_out} on held-out videos, chance {self.chance:.1%}"
        )


class TrainingRun:
    """An open run: everything that `pretrain` works with, at the state of the last checkpoint.

    The first process of `ranks` writes to the folder `path`, and `listener` is silent in the other
    ones. `resources` closes the run's lock and loggers.
    """

    def __init__(
        self,
        store: FlowStore,
        path: Path,
        config: PretrainConfig,
        execution: Execution,
        ranks: Ranks,
        listener: Listener,
        resources: contextlib.ExitStack,
    ) -> None:
        check_execution(execution, config, ranks)
        self.store, self.path, self.config = store, path, config
        self.execution, self.ranks, self.listener = execution, ranks, listener
        device = ranks.device
        tables = store.tables(*TABLES, columns=COLUMNS)
        videos = videos_of(store, config.fold, config.split, tables["videos"])
        if config.batch_size > len(videos):
            raise ValueError(
                f"batch_size must be at most {len(videos)}, the number of training videos, "
                f"got {config.batch_size}"
            )
        self._digest = digest_of_videos(videos)
        # Whether it trains on test videos too.
        self.is_transductive = config.split == "all" and f"fold{config.fold}" in videos
        # The processes whose latents are candidates of a prediction, and the number of candidates.
        self.rivals, self.classes = rivals_of(config, ranks)
        ids = videos["video_id"].tolist()
        self.segments = SegmentReader(store, ids, config, device, tables)
        self.longest_shots = self.segments.shots.longest  # int64 (V,), in flows
        seed = named_seed(config.seed, "pretrain")
        self.batches = SequenceReader(self.segments, config, seed, ranks.rank, ranks.count)
        self.held_out = HeldOut(store, config, ranks, tables, workers=execution.workers)
        checkpoint = ranks.main_first(lambda: self._open_checkpoint(resources))

        torch.manual_seed(named_seed(config.seed, "initial weights"))
        self.model = build_model(config).to(device).train()
        share = config.share_of(ranks.count)
        share_batch(self.model, ranks.rank * share, config.batch_size)
        self.first_rival = self.rivals.rank * share  # this process's first row among candidates
        self._parameters = dict(self.model.named_parameters())
        momentum, decay = config.momentum, config.weight_decay
        self.optimizer = torch.optim.SGD(  # the loop sets the learning rate
            self._parameters.values(), momentum=momentum, weight_decay=decay, fused=True
        )
        self.window = Window(self.model.horizons, device)
        if checkpoint is not None:
            load_strictly(self.model, checkpoint.part("model"))
            restore_momentum(self.optimizer, self._parameters, checkpoint.part("momentum"))
            self.window.restore(checkpoint.window)
        self.step = self.saved_step = 0 if checkpoint is None else checkpoint.step
        # The module to call: compiled, or over all processes.
        self.forward = compiled(ranks.together(self.model), execution)
        self.lines: list[MetricsLine] = []  # of training that this call logged
        self._log = MetricsLog(path, keep=self.step, writes=ranks.is_main)
        logged_to = execution if ranks.is_main else Execution()
        self._watch = resources.enter_context(watching(path, config, logged_to, first=self.step))

    def _open_checkpoint(self, resources: contextlib.ExitStack) -> Checkpoint | None:
        if not self.ranks.is_main:
            return load_checkpoint(self.path)
        resources.enter_context(hold_run(self.path))
        return open_run(self.path, self.config, self.store.numerics, self._digest)

    def log(self, rate: float, latents: Tensor) -> MetricsLine:
        """Log the means over the steps since the last line, and return them."""
        *sums, spread = self.ranks.mean([*self.window.values(), effective_rank(latents)])
        line = line_of(
            sums,
            step=self.step,
            rate=rate,
            classes=self.classes,
            batch_size=self.config.batch_size,
            ranks=self.ranks.count,
            effective_rank=spread,
        )
        self._write(line)
        self.lines.append(line)
        self.window.clear()
        return line

    def _write(self, line: MetricsLine) -> None:
        self._log.append(line)
        self._watch(line)

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is one; every process waits for it."""
        if self.saved_step == self.step:
            return
        sums = self.ranks.mean(self.window.values())
        if self.ranks.is_main:
            self._log.sync()
            save_checkpoint(
                self.path,
                step=self.step,
                config=self.config,
                numerics=self.store.numerics,
                videos=self._digest,
                window=sums,
                model=self.model.state_dict(),
                momentum=sgd_momentum(self.optimizer, self._parameters),
            )
        self.ranks.any(False)
        self.saved_step = self.step

    def validate(self) -> bool:
        """Measure held-out videos if due and not done; return False if stopped meanwhile."""
        # The first process decides: another one may have read older lines.
        is_due = self.ranks.is_main and self.held_out.is_due(self.step) and not self._held_out()
        if not self.ranks.any(is_due):
            return True
        line = self.held_out.measure(self.model, self.step, self.listener)
        if line is not None:
            self._write(line)
        return line is not None

    def check_finite(self) -> None:
        """Raise DivergedError if a loss or a weight is not finite in any process."""
        values = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        finite = torch.stack([torch.isfinite(value).all() for value in values])
        if self.ranks.any(not (self.window.is_finite() and bool(finite.all()))):
            cure = "start a new run with smaller learning_rates"
            if self.saved_step:
                cure += f", or use the checkpoint of step {self.saved_step} in {self.path}"
            raise DivergedError(f"the loss is no longer finite at step {self.step}; {cure}")

    def result(self, *, finished: bool) -> PretrainResult:
        """Return the state of the run."""
        last: Any = self._log.last("loss") or {"loss": math.nan, "accuracy": math.nan}
        held_out = self._held_out()
        return PretrainResult(
            finished=finished,
            step=self.step,
            steps=self.config.steps,
            loss=last["loss"],
            accuracy=last["accuracy"],
            classes=self.classes,
            chance=1 / self.classes,
            held_out_accuracy=held_out["held_out_accuracy"] if held_out else None,
            held_out_classes=self.config.classes,
        )

    def _held_out(self) -> MetricsLine | None:
        """Return the accuracy on held-out videos after this step, if it was measured."""
        last = self._log.last("held_out_accuracy")
        return last if last and last["step"] == self.step else None
