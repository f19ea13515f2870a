"""Pretraining: one loop, visible from top to bottom."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stores.errors import OperationError
from stores.flow_store import FlowStore, open_store
from stores.progress import Progress
from train.batches import SegmentReader, SequenceReader, choose_device
from train.checkpoint import (
    load_strictly,
    open_run,
    restore_momentum,
    save_checkpoint,
    sgd_momentum,
)
from train.config import PretrainConfig, learning_rate, named_seed
from train.cpc import ModelOne
from train.loader import loading
from train.loss import info_nce
from train.metrics import MetricsLog, Window
from train.splits import split_of, videos_of


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
    """

    finished: bool
    step: int
    steps: int
    loss: float
    accuracy: float
    classes: int
    chance: float
    held_out_accuracy: float | None

    def to_text(self) -> str:
        """Return the result as lines for a person."""
        held_out = "not measured" if self.held_out_accuracy is None else f"{self.held_out_accuracy:.1%}"
        return (
            f"step {self.step} of {self.steps}: loss {self.loss:.4g} (guessing: {math.log(self.classes):.4g})\n"
            f"right segment picked out of {self.classes}: {self.accuracy:.1%} on training videos, {held_out} on held-out videos, "
            f"chance {self.chance:.1%}"
        )


def pretrain(
    store_path: str | os.PathLike[str],
    run_path: str | os.PathLike[str],
    config: PretrainConfig,
    *,
    progress: Progress = lambda done, total, fields: None,
    announce: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> PretrainResult:
    """Pretrain CPC on the flow of a store and return how the run stands; the same call goes on where the run stopped.

    The run's folder holds the settings, a checkpoint and `metrics.jsonl`: a line every `log_every` steps with means since the line before (loss in
    nats, unsupervised accuracy, also per horizon, lower bound on the mutual information in nats, mean stride in flows, seconds per step and the
    part of it spent waiting for data), and at the end one on held-out videos. On a CPU an interrupted run equals an uninterrupted one bit for bit.

    Raises
    ------
    ValueError
        The store has too few videos or too small flow; or the run was made with other settings (only `steps` may grow) or on other flow.
    FileNotFoundError, FileExistsError
        There is no store; or the run's folder holds something else.
    DivergedError
        The loss is no longer finite; the checkpoint is still the last good one.
    """
    store = open_store(store_path)
    run = Path(run_path)
    device = choose_device()
    video_ids = videos_of(store, config.fold, config.split)["video_id"].tolist()
    if config.batch_size > len(video_ids):
        raise ValueError(
            f"batch_size={config.batch_size} needs as many videos, but there are {len(video_ids)} to train on; "
            f"set batch_size to at most {len(video_ids)}"
        )
    segments = SegmentReader(store, video_ids, config, device)
    batches = SequenceReader(segments, config, named_seed(config.seed, "pretrain"))
    checkpoint = open_run(run, config, store.numerics)

    torch.manual_seed(named_seed(config.seed, "initial weights"))
    model = ModelOne(config).to(device).train()
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.SGD(
        parameters.values(),
        lr=config.learning_rates[0][1],
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    first = 0
    window = Window(config.num_predicted, device)
    _announce_start(announce, store, config, segments.shots.longest, device)
    if checkpoint is not None:
        first = checkpoint.step
        load_strictly(model, checkpoint.part("model"))
        restore_momentum(optimizer, parameters, checkpoint.part("momentum"))
        window.restore(checkpoint.window)
        announce(f"resumed from step {first}")
    log = MetricsLog(run, keep=first)

    stopped = False
    done = first
    fields: dict[str, float | str] = {}
    with loading(batches.read, range(first, config.steps)) as loaded:
        asked = time.perf_counter()
        for batch in loaded:
            got = time.perf_counter()
            rate = learning_rate(config.learning_rates, done)
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(named_seed(config.seed, "step", done))

            predictions, latents = model(segments.to_device(batch))  # (B, P, D), (B, T, D)
            found = info_nce(predictions, latents, model.positions, difficult_negatives=config.difficult_negatives)
            optimizer.zero_grad(set_to_none=True)
            found.loss.backward()
            optimizer.step()

            done += 1
            now = time.perf_counter()
            window.add(found, float(batch.strides.mean()), data_time=got - asked, step_time=now - asked)
            asked = now
            stopped = should_stop()
            is_line = done % config.log_every == 0 or done == config.steps
            is_save = done % config.checkpoint_every == 0 or done == config.steps or stopped
            if is_line or is_save:
                _check_finite(model, window, done, run)
            if is_line:
                line = window.line(done, rate, config.classes)
                log.append(line)
                window.clear()
                fields = {"loss": line["loss"], "acc": line["accuracy"]}
            if is_save:
                save_checkpoint(
                    run,
                    step=done,
                    config=config,
                    numerics=store.numerics,
                    window=window.values(),
                    model=model.state_dict(),
                    momentum=sgd_momentum(optimizer, parameters),
                )
            progress(done, config.steps, fields)
            if stopped:
                break

    held_out = log.last("held_out_accuracy")
    if done == config.steps and not stopped and (held_out is None or held_out["step"] != done):
        measured = _measure_held_out(model, store, config, device, announce, should_stop)
        if measured is None:
            stopped = True
        else:
            held_out = {"step": done, **measured}
            log.append(held_out)
    last = log.last("loss") or {"loss": math.nan, "accuracy": math.nan}
    return PretrainResult(
        finished=not stopped,
        step=done,
        steps=config.steps,
        loss=last["loss"],
        accuracy=last["accuracy"],
        classes=config.classes,
        chance=1 / config.classes,
        held_out_accuracy=held_out["held_out_accuracy"] if held_out is not None and held_out["step"] == done else None,
    )


def _check_finite(model: ModelOne, window: Window, step: int, run: Path) -> None:
    """Raise DivergedError when a loss since the last line, or a weight or statistic, is not a finite number."""
    values = (value for value in model.state_dict().values() if value.is_floating_point())
    if not window.is_finite() or not all(bool(torch.isfinite(value).all()) for value in values):
        raise DivergedError(
            f"the loss is not a finite number any more at step {step}; a checkpoint in {run} is the last good one: "
            f"start a new run with smaller learning_rates"
        )


def _announce_start(
    announce: Callable[[str], None],
    store: FlowStore,
    config: PretrainConfig,
    longest: NDArray[np.int64],
    device: torch.device,
) -> None:
    which = f"the train split of fold {config.fold}" if config.split == "train" else "all splits"
    announce(f"{len(longest)} videos of {which} of {store.path}, on {device.type}")
    if remark := store.remark_on_damage():
        announce(remark)
    own = config.num_segments if config.difficult_negatives else 1
    announce(
        f"{config.classes} classes ({config.batch_size - 1} other videos x {config.num_segments} segments + {own}), "
        f"chance level {1 / config.classes:.2%}, loss of guessing {math.log(config.classes):.3f}"
    )
    short = int((longest < config.shortest_span).sum())
    if short:
        announce(
            f"{short} videos have fewer than {config.shortest_span} flows without a cut: their segments are closer together than asked for"
        )
    if config.split == "all":
        announce("pretraining on all splits sees the flow of test videos: its results are transductive")


def _measure_held_out(
    model: ModelOne,
    store: FlowStore,
    config: PretrainConfig,
    device: torch.device,
    announce: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> dict[str, Any] | None:
    """Return means over one pass over the test videos, drawn as in training but with batch norm in eval mode.

    The accuracy is None when the videos were trained on or do not fill a batch; the whole is None when told to stop.
    """
    video_ids = [] if config.split == "all" else split_of(store.videos(), config.fold, "test")["video_id"].tolist()
    if len(video_ids) < config.batch_size:
        announce(f"{len(video_ids)} held-out videos do not fill a batch of {config.batch_size}: no accuracy on them")
        return {"held_out_accuracy": None}
    segments = SegmentReader(store, video_ids, config, device)
    batches = SequenceReader(segments, config, named_seed(config.seed, "held out"))
    found = []
    model.eval()
    with torch.no_grad(), loading(batches.read, range(batches.steps_per_epoch)) as loaded:
        for batch in loaded:
            if should_stop():
                return None
            predictions, latents = model(segments.to_device(batch))
            found.append(
                info_nce(predictions, latents, model.positions, difficult_negatives=config.difficult_negatives)
            )
    return {
        "held_out_loss": torch.stack([one.loss for one in found]).mean().item(),
        "held_out_accuracy": torch.stack([one.accuracy for one in found]).mean().item(),
        "held_out_horizon_accuracy": torch.stack([one.horizon_accuracy for one in found]).mean(dim=0).tolist(),
        "held_out_videos": config.batch_size * len(found),
    }
