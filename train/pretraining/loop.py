"""Pretraining: one loop, visible from top to bottom, for one process or several (torchrun)."""

import contextlib
import os
from pathlib import Path

import torch

from flowcpc.stores.base.listener import SILENT, Fields, Listener
from flowcpc.stores.flow_store import open_store
from flowcpc.train.data.loader import loading
from flowcpc.train.model.loss import info_nce
from flowcpc.train.pretraining.announce import announce_end, announce_start
from flowcpc.train.pretraining.distributed import joined
from flowcpc.train.pretraining.execution import Execution, forward_precision
from flowcpc.train.pretraining.timing import Timer, bottleneck
from flowcpc.train.pretraining.training_run import PretrainResult, TrainingRun
from flowcpc.train.settings.config import PretrainConfig, learning_rate, named_seed


def pretrain(
    store_path: str | os.PathLike[str],
    run_path: str | os.PathLike[str],
    config: PretrainConfig,
    execution: Execution = Execution(),
    *,
    listener: Listener = SILENT,
) -> PretrainResult:
    """Pretrain CPC on the videos of a store and return the state of the run; the same call resumes.

    Under torchrun every process makes this call; the first one writes, announces and reports
    progress. The run's folder holds the settings, a checkpoint and `metrics.jsonl`, whose lines
    docs/training/pretraining.md describes. On a CPU a resumed run equals an uninterrupted one bit
    for bit.

    Raises ValueError if the store has too few videos or too small flow, the run has other settings
    (only `steps` may grow) or other flow, another process trains it, or this machine lacks what
    `execution` needs; FileNotFoundError if there is no store; FileExistsError if the run's folder
    holds something else; OperationError if another process of the run is gone, and DivergedError if
    the loss is no longer finite: the checkpoint is still the last good one.
    """
    with joined() as ranks, contextlib.ExitStack() as resources:
        listener = ranks.listener(listener)
        store, path = open_store(store_path), Path(run_path)
        run = TrainingRun(store, path, config, execution, ranks, listener, resources)
        announce_start(run)
        timer = Timer(ranks.device)
        fields: Fields = {}
        stopped = not run.validate()
        steps = range(run.step, run.step if stopped else config.steps)
        with loading(run.batches.read, steps, workers=execution.workers) as batches:
            timer.start()
            for batch in batches:
                timer.work()
                rate = learning_rate(config.learning_rates, run.step)
                for group in run.optimizer.param_groups:
                    group["lr"] = rate
                torch.manual_seed(named_seed(config.seed, "step", run.step))
                if execution.cuda_graphs:  # a replayed graph may overwrite what it returned before
                    torch.compiler.cudagraph_mark_step_begin()

                with forward_precision(config.precision, ranks.device):
                    stacks = run.segments.to_device(batch)  # (B, T, planes, h, w)
                    predictions, latents = run.forward(stacks)  # (B, P, D), (B, T, D)
                nce = info_nce(
                    predictions,
                    latents,
                    run.model.positions,
                    difficult_negatives=config.difficult_negatives,
                    candidates=run.rivals.gather(latents),
                    first=run.first_rival,
                )
                run.optimizer.zero_grad(set_to_none=True)
                nce.loss.backward()
                run.optimizer.step()

                run.step += 1
                stride = float(batch.segments.strides.mean())
                run.window.add(nce, stride=stride, size=batch.codes.nbytes)
                stopped = ranks.any(listener.should_stop())
                is_last = stopped or run.step == config.steps
                logs = run.step % config.log_every == 0 or run.step == config.steps
                saves = run.step % config.checkpoint_every == 0 or is_last
                if logs or saves or run.held_out.is_due(run.step):
                    run.window.add_time(*timer.stop())
                    run.check_finite()
                    if logs:
                        line = run.log(rate, latents)
                        times = line["data_time"], line["step_time"]
                        sentence = bottleneck(*times, ranks.device, execution.workers)
                        bound = sentence.partition(";")[0]
                        fields = {"loss": line["loss"], "acc": line["accuracy"], "bound by": bound}
                    if saves:
                        run.save()
                    if not stopped and not run.validate():
                        stopped = True
                        run.save()
                    timer.start()
                else:
                    timer.wait()
                listener.progress(run.step, config.steps, fields)
                if stopped:
                    break

        announce_end(run)
        return run.result(finished=not stopped)
