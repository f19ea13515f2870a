"""What a run says about itself at its start and at its end."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowcpc.stores.base.plurals import counted
from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.pretraining.distributed import Ranks
from flowcpc.train.pretraining.execution import Execution, uses_bf16
from flowcpc.train.pretraining.timing import bottleneck
from flowcpc.train.pretraining.validation import HeldOut
from flowcpc.train.settings.config import PretrainConfig

_FEWEST_SHARE = (
    0.05  # of the loss of guessing; a run that stays within that has learned next to nothing
)


def announce_start(
    say: Callable[[str], None],
    store: FlowStore,
    config: PretrainConfig,
    flows: NDArray[np.int64],
    held_out: HeldOut,
    ranks: Ranks,
    classes: int,
) -> None:
    """Say on what and how a run trains, and everything about its data that a person should know first.

    Parameters
    ----------
    flows : int64 (V,)
        Number of flows of the longest shot of every video that is trained on.
    classes : int
        What each prediction is really compared with.
    """
    which = f"the train split of fold {config.fold}" if config.split == "train" else "all splits"
    precision = "bf16" if uses_bf16(config.precision, ranks.device) else "float32"
    say(
        f"{counted(len(flows), 'video')} of {which} of {store.path}, on {ranks.device.type}, in {precision}"
    )
    if remark := store.remark_on_damage():
        say(remark)
    own = config.num_segments if config.difficult_negatives else 1
    others = (classes - own) // config.num_segments
    say(
        f"{classes} classes ({others} other videos x {config.num_segments} segments + {own}), "
        f"chance level {1 / classes:.2%}, loss of guessing {math.log(classes):.3f}"
    )
    if ranks.count > 1:
        whose = "the whole batch" if config.negatives == "global" else "a process's own videos only"
        say(
            f"{ranks.count} processes share each batch of {config.batch_size}; negatives come from {whose}"
        )
    if short := int((flows < config.shortest_span).sum()):
        say(
            f"{counted(short, 'video')} of fewer than {config.shortest_span} flows without a cut: their segments are closer together than asked for"
        )
    if padded := int((flows < config.num_flows).sum()):
        say(
            f"{counted(padded, 'video')} of fewer than {config.num_flows} flows without a cut: the last one is repeated in every segment"
        )
    if config.split == "all" and f"fold{config.fold}" in store.videos():
        say("pretraining on all splits sees the flow of test videos: its results are transductive")
    elif config.split == "train" and not held_out.is_due(config.steps):
        say(
            f"{held_out.videos} held-out videos do not fill a batch of {config.batch_size}: no accuracy on them"
        )
    elif config.split == "train" and (left := held_out.videos % config.batch_size):
        say(
            f"{held_out.videos - left} of {held_out.videos} held-out videos fill whole batches and are measured"
        )


def announce_guessing(say: Callable[[str], None], lines: list[dict[str, Any]]) -> None:
    """Say that a run learned next to nothing, with what tells the usual reason: at a rate too large for the data latents collapse first."""
    last = lines[-1] if lines else None
    if last and last["information_bound"] < _FEWEST_SHARE * math.log(last["classes"]):
        say(
            f"the loss, {last['loss']:.3f}, is still that of guessing, {math.log(last['classes']):.3f}, after {last['step']:,} steps: "
            f"the run is too short, or its learning_rates are too large (effective rank of the latents: {last['effective_rank']:.1f}; "
            "near 1 they have collapsed, and a third of the rate may do)"
        )


def announce_bottleneck(
    say: Callable[[str], None],
    lines: list[dict[str, Any]],
    device: torch.device,
    execution: Execution,
) -> None:
    """Say what the steps of this call were bound by; its first line, which holds the start, counts only when it is alone."""
    measured = lines[1:] or lines
    if measured:
        data_time, step_time = (
            sum(line[name] for line in measured) for name in ("data_time", "step_time")
        )
        say(bottleneck(data_time, step_time, device, execution.workers))
