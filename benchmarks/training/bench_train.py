"""Steps of pretraining per second on a CPU, beside the same loop on ready-made tensors, and what of
a step is waiting and drawing.

Run `python -m benchmarks.training.bench_train`; `make bench` does. Writes
docs/benchmarks/training/train.md.
"""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

import torch
from ready_made import HEAD, measure, row, sampler_seconds, write_store
from records import ROOT, machine_record

sys.path.insert(0, str(ROOT))


def main() -> None:
    """Measure, print and record."""
    from flowcpc.train.pretraining.execution import Execution
    from flowcpc.train.settings.presets import find_preset

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs/benchmarks/training", help="folder of the record"
    )
    arguments = parser.parse_args()
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
    rows = [row(f"batches by {kind}", *some)[0] for kind, some in found.items()]
    share = drawn / min(one.step_time for one in found["a thread"][0])
    text = (
        "# Steps of pretraining\n\n`python -m benchmarks.training.bench_train`: model 1 with "
        f"Conv3D, B=16, T=8, N=5, {config.size[0]}x{config.size[1]} "
        f"crops of a store of 72x96, width {config.width}, on the CPU with "
        f"{torch.get_num_threads()} threads; {arguments.rounds} rounds of "
        f"{arguments.steps} steps in turns, medians.\n\n{HEAD}\n" + "\n".join(rows) + "\n\n"
        f"Drawing a batch's segments takes {1e6 * drawn:.0f} microseconds, {share:.3%} of a step.\n"
        f"\n{machine_record()}\n"
    )
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "train.md").write_text(text)


if __name__ == "__main__":
    main()
