"""What a run announces at its start and at its end."""

import math
from collections.abc import Sequence

from flowcpc.stores.base.errors import counted
from flowcpc.stores.base.listener import Listener
from flowcpc.train.pretraining.execution import uses_bf16
from flowcpc.train.pretraining.timing import bottleneck
from flowcpc.train.pretraining.training_run import TrainingRun
from flowcpc.train.runs.metrics import MetricsLine

# Share of the loss of guessing; a run that gained less learned next to nothing.
_LEAST_LEARNED = 0.05


def announce_start(run: TrainingRun) -> None:
    """Announce on what and how a run trains, and what the user should know about its data."""
    config, ranks, say = run.config, run.ranks, run.listener.announce
    flows = run.longest_shots
    which = f"the train split of fold {config.fold}" if config.split == "train" else "all splits"
    precision = "bf16" if uses_bf16(config.precision, ranks.device) else "float32"
    say(
        f"{counted(len(flows), 'video')} of {which} of {run.store.path}, "
        f"on {ranks.device.type}, in {precision}"
    )
    if remark := run.store.remark_on_damage():
        say(remark)
    same_video = config.num_segments if config.difficult_negatives else 1
    others = (run.classes - same_video) // config.num_segments
    say(
        f"{run.classes} classes ({others} other videos x {config.num_segments} segments + "
        f"{same_video}), chance level {1 / run.classes:.2%}, "
        f"loss of guessing {math.log(run.classes):.3f}"
    )
    if ranks.count > 1:
        whose = "the whole batch" if config.negatives == "global" else "a process's own videos only"
        say(
            f"{ranks.count} processes share each batch of {config.batch_size}; "
            f"negatives come from {whose}"
        )
    for needed, what in (
        (config.shortest_span, "their segments are closer together than the settings say"),
        (config.num_flows, "every segment repeats the last flow"),
    ):
        if short := int((flows < needed).sum()):
            say(f"{counted(short, 'video')} of fewer than {needed} flows without a cut: {what}")
    if run.is_transductive:
        say("pretraining on all splits sees the flow of test videos: its results are transductive")
    held_out = run.held_out
    if config.split == "train" and not held_out.is_due(config.steps):
        say(
            f"{held_out.videos} held-out videos do not fill a batch of {config.batch_size}: "
            "their accuracy is not measured"
        )
    elif config.split == "train" and (rest := held_out.videos % config.batch_size):
        say(
            f"{held_out.videos - rest} of {held_out.videos} held-out videos fill whole batches "
            "and are measured"
        )
    if run.step:
        say(f"resumed from step {run.step}")


def announce_end(run: TrainingRun) -> None:
    """Announce what limited the speed of this call, and a run that learned next to nothing."""
    measured = run.lines[1:] or run.lines  # the first line includes the start
    if measured:
        data_time = sum(line["data_time"] for line in measured)
        step_time = sum(line["step_time"] for line in measured)
        workers = run.execution.workers
        run.listener.announce(bottleneck(data_time, step_time, run.ranks.device, workers))
    if run.step == run.config.steps:
        announce_guessing(run.listener, run.lines)


def announce_guessing(listener: Listener, lines: Sequence[MetricsLine]) -> None:
    """Announce that a run learned next to nothing, with the effective rank of its latents.

    At a rate that is too large for the data the latents collapse first.
    """
    last = lines[-1] if lines else None
    if last and last["information_bound"] < _LEAST_LEARNED * math.log(last["classes"]):
        listener.announce(
            f"the loss, {last['loss']:.3f}, is still that of guessing, "
            f"{math.log(last['classes']):.3f}, after {last['step']:,} steps: the run is too short, "
            "or its learning_rates are too large (effective rank of the latents: "
            f"{last['effective_rank']:.1f}; near 1 they have collapsed: try a third of the rate)"
        )
