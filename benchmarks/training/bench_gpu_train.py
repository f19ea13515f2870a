"""Steps of pretraining per second on a CUDA device at the paper's size, beside the same loop on
ready-made tensors.

    make bench-gpu PYTHON=python3
    python -m benchmarks.training.bench_gpu_train --size tiny

The second command runs anywhere, also on a CPU; its figures mean nothing. Reading a store needs
neither zarr nor h5py; making one does. For a machine without them, make the store elsewhere with
`--make build/train.flow` and carry that folder along. Writes docs/benchmarks/training/train-gpu.md.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import torch
from checkout import ROOT

from benchmarks.record import make_parser, table, write_record
from benchmarks.training.ready_made import COLUMNS, measure, row, write_store
from flowcpc.train.pretraining.execution import Execution
from flowcpc.train.settings.config import PretrainConfig

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
    parser = make_parser(__doc__, "training", workers=8, rounds=3, steps=200)
    parser.add_argument("--size", choices=list(SHAPES), default="paper")
    parser.add_argument(
        "--store", type=Path, default=STORE, help="where the store is, if it is there"
    )
    parser.add_argument("--make", type=Path, help="write the store of this size there, and end")
    arguments = parser.parse_args()
    if arguments.make is not None:
        print(make(arguments.make, arguments.size))
        return
    cuda = torch.cuda.is_available()
    if not cuda and arguments.size == "paper":
        sys.exit("bench_gpu_train finds no CUDA device here; see `nvidia-smi`, or try --size tiny")
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
            rows.append(row(kind, real, ready))
    device = torch.cuda.get_device_name() if cuda else "a CPU"
    write_record(
        arguments.out / "train-gpu.md",
        "Steps of pretraining on a GPU",
        f"`python -m benchmarks.training.bench_gpu_train --size {arguments.size}` on {device}: "
        f"model 1 with Conv3D, B=16, T=8, N={config.num_flows}, {config.size[0]}x{config.size[1]} "
        f"crops, {config.precision}, {arguments.workers} loader processes; {arguments.rounds} "
        f"rounds of {steps} steps in turns, medians.",
        table(COLUMNS, rows),
    )


if __name__ == "__main__":
    main()
