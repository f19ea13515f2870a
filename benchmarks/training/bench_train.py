"""Steps of pretraining per second on a CPU, beside the same loop on ready-made tensors, and what of
a step is waiting and drawing.

Run `python -m benchmarks.training.bench_train`; `make bench` does. Writes
docs/benchmarks/training/train.md.
"""

import dataclasses
import tempfile
from pathlib import Path

import torch

from benchmarks.record import make_parser, table, write_record
from benchmarks.training.ready_made import COLUMNS, measure, row, sampler_seconds, write_store
from flowcpc.train.pretraining.execution import Execution
from flowcpc.train.settings.presets import find_preset


def main() -> None:
    """Measure, print and record."""
    arguments = make_parser(__doc__, "training", rounds=3, steps=40).parse_args()
    config = dataclasses.replace(
        find_preset("tiny").config,
        num_segments=8,
        num_observed=4,
        num_flows=5,
        size=(64, 64),
        batch_size=16,
    )
    config = dataclasses.replace(
        config,
        steps=arguments.steps,
        log_every=max(arguments.steps // 4, 1),
        checkpoint_every=10**6,
    )
    kinds = {"a thread": Execution(), "one process": Execution(workers=1)}
    with tempfile.TemporaryDirectory() as name:
        store = write_store(Path(name) / "store", videos=24, flows=60, size=(72, 96))
        found = {kind: ([], []) for kind in kinds}
        for _ in range(arguments.rounds):
            for kind, execution in kinds.items():
                for ready_made, into in zip((False, True), found[kind], strict=True):
                    own = Execution() if ready_made else execution
                    into.append(measure(store, config, own, ready_made=ready_made))
        drawn = sampler_seconds(config, store)
    rows = [row(f"batches by {kind}", *some) for kind, some in found.items()]
    share = drawn / min(one.step_time for one in found["a thread"][0])
    write_record(
        arguments.out / "train.md",
        "Steps of pretraining",
        "`python -m benchmarks.training.bench_train`: model 1 with Conv3D, B=16, T=8, N=5, "
        f"{config.size[0]}x{config.size[1]} crops of a store of 72x96, width {config.width}, on "
        f"the CPU with {torch.get_num_threads()} threads; {arguments.rounds} rounds of "
        f"{arguments.steps} steps in turns, medians.",
        table(COLUMNS, rows),
        f"Drawing a batch's segments takes {1e6 * drawn:.0f} microseconds, {share:.3%} of a step.",
    )


if __name__ == "__main__":
    main()
