"""Pretraining: one loop, visible from top to bottom, for one process or several (torchrun)."""

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.base.listener import Progress
from flowcpc.stores.flow_store import open_store
from flowcpc.train.data.batches import SegmentReader, SequenceReader
from flowcpc.train.data.loader import loading
from flowcpc.train.data.splits import digest_of_videos, videos_of
from flowcpc.train.model.context import share_batch
from flowcpc.train.model.cpc import build_model
from flowcpc.train.model.loss import info_nce
from flowcpc.train.pretraining.announce import (
    announce_bottleneck,
    announce_guessing,
    announce_start,
)
from flowcpc.train.pretraining.distributed import Ranks, joined, rivals_of
from flowcpc.train.pretraining.execution import (
    Execution,
    check_execution,
    compiled,
    forward_precision,
)
from flowcpc.train.pretraining.loggers import watching
from flowcpc.train.pretraining.timing import Timer, bottleneck
from flowcpc.train.pretraining.validation import HeldOut
from flowcpc.train.runs.checkpoint import (
    Checkpoint,
    hold_run,
    load_checkpoint,
    open_run,
    save_checkpoint,
)
from flowcpc.train.runs.metrics import HorizonMeans, MetricsLog, Window, effective_rank, line_of
from flowcpc.train.runs.tensors import load_strictly, restore_momentum, sgd_momentum
from flowcpc.train.settings.config import PretrainConfig, learning_rate, named_seed


class DivergedError(OperationError):
    """The loss or a weight is no longer a finite number; the message says what to change."""


@dataclass(frozen=True)
class PretrainResult:
    """How a run stands.

    Attributes
    ----------
    finished : bool
        False when `should_stop` ended the call early; the same call again goes on.
    step, steps : int
        Iterations done, and wanted.
    loss, accuracy : float
        Means over the last logged steps (NaN before the first line); accuracy is the share of predictions that pick the right one of `classes`.
    classes : int
    chance : float
        1 / classes.
    held_out_accuracy : float or None
        The same accuracy on the fold's test videos with batch norm in eval mode; None when they do not fill a batch, or were trained on.
    held_out_classes : int
        Candidates there: those of a whole batch, also where a process that trains compares with its own videos only.
    """

    finished: bool
    step: int
    steps: int
    loss: float
    accuracy: float
    classes: int
    chance: float
    held_out_accuracy: float | None
    held_out_classes: int

    def to_text(self) -> str:
        """Return the result as lines for a person."""
        held_out = (
            "not measured" if self.held_out_accuracy is None else f"{self.held_out_accuracy:.1%}"
        )
        if self.held_out_accuracy is not None and self.held_out_classes != self.classes:
            held_out += f" (out of {self.held_out_classes})"
        return (
            f"step {self.step} of {self.steps}: loss {self.loss:.4g} (guessing: {math.log(self.classes):.4g})\n"
            f"right segment picked out of {self.classes}: {self.accuracy:.1%} on training videos, {held_out} on held-out videos, "
            f"chance {self.chance:.1%}"
        )


def pretrain(
    store_path: str | os.PathLike[str],
    run_path: str | os.PathLike[str],
    config: PretrainConfig,
    execution: Execution = Execution(),
    *,
    progress: Progress = lambda done, total, fields: None,
    announce: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> PretrainResult:
    """Pretrain CPC on the videos of a store and return how the run stands; the same call goes on where the run stopped.

    Under torchrun every process makes this call; the first one writes, announces and reports progress. The run's folder holds the settings, a
    checkpoint and `metrics.jsonl`, whose lines docs/pretraining.md describes. On a CPU an interrupted run equals an uninterrupted one bit for bit.

    Raises
    ------
    ValueError
        The store has too few videos or too small flow; the run was made with other settings (only `steps` may grow) or on other flow, or is being
        trained by somebody else; or this machine cannot do what `execution` asks for.
    FileNotFoundError, FileExistsError
        There is no store; or the run's folder holds something else.
    DivergedError
        The loss is no longer finite; the checkpoint is still the last good one.
    OperationError
        Another process of the run is gone.
    """
    with joined() as ranks, contextlib.ExitStack() as held:

        def open_it() -> Checkpoint | None:
            if not ranks.is_main:
                return load_checkpoint(run)
            held.enter_context(hold_run(run))
            return open_run(run, config, store.numerics, digest)

        check_execution(execution, config, ranks)
        say = announce if ranks.is_main else lambda message: None
        store, run, device = open_store(store_path), Path(run_path), ranks.device
        videos = videos_of(store, config.fold, config.split)
        video_ids, digest = videos["video_id"].tolist(), digest_of_videos(videos)
        if config.batch_size > len(video_ids):
            raise ValueError(
                f"batch_size={config.batch_size} needs as many videos, but there are {len(video_ids)} to train on; "
                f"set batch_size to at most {len(video_ids)}"
            )
        rivals, classes = rivals_of(config, ranks)
        segments = SegmentReader(store, video_ids, config, device)
        batches = SequenceReader(
            segments, config, named_seed(config.seed, "pretrain"), ranks.rank, ranks.count
        )
        held_out = HeldOut(store, config, ranks, workers=execution.workers)
        checkpoint = ranks.main_first(open_it)

        torch.manual_seed(named_seed(config.seed, "initial weights"))
        model = build_model(config).to(device).train()
        own = config.share_of(ranks.count)
        share_batch(model, ranks.rank * own, config.batch_size)
        parameters = dict(model.named_parameters())
        optimizer = torch.optim.SGD(
            parameters.values(),
            lr=config.learning_rates[0][1],
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
        window = Window(HorizonMeans(model.horizons, device), device)
        first = 0
        announce_start(say, store, config, segments.shots.longest, held_out, ranks, classes)
        if checkpoint is not None:
            first = checkpoint.step
            load_strictly(model, checkpoint.part("model"))
            restore_momentum(optimizer, parameters, checkpoint.part("momentum"))
            window.restore(checkpoint.window)
            say(f"resumed from step {first}")
        forward = compiled(ranks.together(model), execution)
        log = MetricsLog(run, keep=first, writes=ranks.is_main)
        shown = execution if ranks.is_main else Execution()
        watch = held.enter_context(watching(run, config, shown, first=first))

        def write(line: Mapping[str, Any]) -> None:
            log.append(line)
            watch(line)

        def save() -> None:
            sums = ranks.mean(window.values())
            if ranks.is_main:
                log.sync()
                save_checkpoint(
                    run,
                    step=done,
                    config=config,
                    numerics=store.numerics,
                    videos=digest,
                    window=sums,
                    model=model.state_dict(),
                    momentum=sgd_momentum(optimizer, parameters),
                )
            ranks.any(False)  # nobody leaves before the checkpoint is there

        def validate() -> bool:
            """Measure held-out videos if that is due and was not done; False when told to stop meanwhile."""
            last = log.last("held_out_accuracy")
            measured_before = last is not None and last["step"] == done
            # The first process decides: what another one reads of its lines may be older.
            if not ranks.any(ranks.is_main and held_out.is_due(done) and not measured_before):
                return True
            measured = held_out.measure(model, should_stop)
            if measured is not None:
                write({"step": done, **measured})
            return measured is not None

        done = saved = first
        lines: list[dict[str, Any]] = []
        fields: dict[str, float | str] = {}
        timer = Timer(device)
        stopped = not validate()
        steps = range(first, first if stopped else config.steps)
        with loading(batches.read, steps, workers=execution.workers) as loaded:
            timer.start()
            for batch in loaded:
                timer.work()
                rate = learning_rate(config.learning_rates, done)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                torch.manual_seed(named_seed(config.seed, "step", done))
                if (
                    execution.cuda_graphs
                ):  # what a replayed graph returned last time may be overwritten
                    torch.compiler.cudagraph_mark_step_begin()

                with forward_precision(config.precision, device):
                    predictions, latents = forward(
                        segments.to_device(batch)
                    )  # (B, P, D), (B, T, D)
                found = info_nce(
                    predictions,
                    latents,
                    model.positions,
                    difficult_negatives=config.difficult_negatives,
                    candidates=rivals.gather(latents),
                    first=rivals.rank * own,
                )
                optimizer.zero_grad(set_to_none=True)
                found.loss.backward()
                optimizer.step()

                done += 1
                window.add(found, stride=float(batch.strides.mean()), size=batch.codes.nbytes)
                stopped = ranks.any(should_stop())
                is_line = done % config.log_every == 0 or done == config.steps
                is_save = done % config.checkpoint_every == 0 or done == config.steps or stopped
                if is_line or is_save or held_out.is_due(done):
                    window.add_time(*timer.stop())
                    _check_finite(model, window, done, saved, run, ranks)
                    if is_line:
                        *sums, spread = ranks.mean([*window.values(), effective_rank(latents)])
                        line = line_of(
                            sums,
                            step=done,
                            rate=rate,
                            classes=classes,
                            batch_size=config.batch_size,
                            ranks=ranks.count,
                            effective_rank=spread,
                        )
                        write(line)
                        lines.append(line)
                        window.clear()
                        bound = bottleneck(
                            line["data_time"], line["step_time"], device, execution.workers
                        )
                        fields = {
                            "loss": line["loss"],
                            "acc": line["accuracy"],
                            "bound by": bound.partition(";")[0],
                        }
                    if is_save:
                        save()
                        saved = done
                    if not stopped and not validate():
                        stopped = True
                        if saved != done:
                            save()
                    timer.start()
                else:
                    timer.wait()
                if ranks.is_main:
                    progress(done, config.steps, fields)
                if stopped:
                    break

        announce_bottleneck(say, lines, device, execution)
        if done == config.steps:
            announce_guessing(say, lines)
        return _result(log, config, done, stopped, classes)


def _check_finite(
    model: nn.Module, window: Window, step: int, saved: int, run: Path, ranks: Ranks
) -> None:
    """Raise DivergedError when a loss since the last line, or a weight or statistic, is not a finite number in any process."""
    values = (value for value in model.state_dict().values() if value.is_floating_point())
    finite = torch.stack([torch.isfinite(value).all() for value in values])
    if ranks.any(not (window.is_finite() and bool(finite.all()))):
        raise DivergedError(
            f"the loss is not a finite number any more at step {step}; start a new run with smaller learning_rates"
            + (
                f", or take the checkpoint in {run}, of step {saved}, the last good one"
                if saved
                else ""
            )
        )


def _result(
    log: MetricsLog, config: PretrainConfig, done: int, stopped: bool, classes: int
) -> PretrainResult:
    last = log.last("loss") or {"loss": math.nan, "accuracy": math.nan}
    held_out = log.last("held_out_accuracy")
    return PretrainResult(
        finished=not stopped,
        step=done,
        steps=config.steps,
        loss=last["loss"],
        accuracy=last["accuracy"],
        classes=classes,
        chance=1 / classes,
        held_out_accuracy=held_out["held_out_accuracy"]
        if held_out is not None and held_out["step"] == done
        else None,
        held_out_classes=config.classes,
    )
