"""Steps of pretraining per second on a CUDA device at the paper's size, beside the same loop on
ready-made tensors.

    make bench-gpu PYTHON=python3
    python -m benchmarks.training.bench_gpu_train --size tiny

The second command runs anywhere, also on a CPU; its figures mean nothing. Reading a store needs
neither zarr nor h5py; making one does. For a machine without them, make the store elsewhere with
`--make build/train.flow` and carry that folder along. Writes docs/benchmarks/training/train-gpu.md.
"""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

import torch
from ready_made import HEAD, measure, row, write_store
from records import ROOT, machine_record

sys.path.insert(0, str(ROOT))
STORE = ROOT / "build" / "train.flow"
SHAPES = {  # videos, flows of each, size of the frames
    "paper": (16, 110, (256, 342)),
    "tiny": (16, 40, (36, 48)),
}


def make(path: Path, size: str) -> Path:
    """Write the store of a size; says in a sentence where that cannot be done."""
    videos, flows, frame = SHAPES[size]
    try:
        return write_store(path, videos=videos, flows=flows, size=frame)
    except ImportError as error:
        sys.exit(
            f"bench_gpu_train makes no store here ({error}); make one elsewhere with --make "
            f"{STORE.relative_to(ROOT)} and bring it along"
        )


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(SHAPES), default="paper")
    parser.add_argument(
        "--store", type=Path, default=STORE, help="where the store is, if it is there"
    )
    parser.add_argument("--make", type=Path, help="write the store of this size there, and end")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs/benchmarks/training", help="folder of the record"
    )
    arguments = parser.parse_args()
    if arguments.make is not None:
        print(make(arguments.make, arguments.size))
        return
    cuda = torch.cuda.is_available()
    if not cuda and arguments.size == "paper":
        sys.exit("bench_gpu_train finds no CUDA device here; see `nvidia-smi`, or try --size tiny")
    from flowcpc.train.pretraining.execution import Execution
    from flowcpc.train.settings.config import PretrainConfig

    steps = arguments.steps
    config = PretrainConfig(
        steps=steps, log_every=max(steps // 4, 1), checkpoint_every=10**6, precision="bf16"
    )
    if arguments.size == "tiny":
        config = dataclasses.replace(
            config, num_flows=2, size=(32, 32), width=4, precision="float32"
        )
    kinds = {"plain": Execution(workers=arguments.workers)}
    if cuda:
        kinds["--compile"] = Execution(workers=arguments.workers, compile=True)
        kinds["--cuda-graphs"] = Execution(workers=arguments.workers, cuda_graphs=True)
    with tempfile.TemporaryDirectory() as name:
        store = (
            arguments.store
            if arguments.store.is_dir()
            else make(Path(name) / "store", arguments.size)
        )
        rows = []
        for kind, execution in kinds.items():
            real, ready = [], []
            for n in range(arguments.rounds):
                own = dataclasses.replace(execution, workers=0)
                real.append(measure(store, config, execution, ready_made=False))
                ready.append(measure(store, config, own, ready_made=True))
                print(
                    f"{kind}, round {n}: {1 / real[-1].step_time:.2f} steps/s, ready-made "
                    f"{1 / ready[-1].step_time:.2f}",
                    flush=True,
                )
            rows.append(row(kind, real, ready)[0])
    device = torch.cuda.get_device_name() if cuda else "a CPU"
    text = (
        "# Steps of pretraining on a GPU\n\n`python -m benchmarks.training.bench_gpu_train --size "
        f"{arguments.size}` on {device}: "
        f"model 1 with Conv3D, B=16, T=8, N={config.num_flows}, {config.size[0]}x{config.size[1]} "
        f"crops, {config.precision}, "
        f"{arguments.workers} loader processes; "
        f"{arguments.rounds} rounds of {steps} steps in turns, medians.\n\n{HEAD}\n"
        + "\n".join(rows)
        + f"\n\n{machine_record()}\n"
    )
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "train-gpu.md").write_text(text)


if __name__ == "__main__":
    main()
