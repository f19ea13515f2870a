"""What pretraining learns on synthetic motion: unsupervised accuracy on held-out videos, relative
to baselines that learn nothing.

Run `python -m benchmarks.training.learn_synth STORE RUN`; `make learning` does. Writes
docs/benchmarks/training/learning.md and docs/pictures/learning.png.
"""

import math
import shutil
import statistics

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks.record import make_parser, table, write_record
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.train.data.batches import SegmentReader, SequenceReader
from flowcpc.train.data.splits import split_of
from flowcpc.train.model.loss import info_nce
from flowcpc.train.report.report import draw_curve
from flowcpc.train.runs.checkpoint import require_checkpoint
from flowcpc.train.runs.metrics import read_metrics
from flowcpc.train.settings.config import PretrainConfig, named_seed

GRID = 4
PICTURE = "../../pictures/learning.png"


def descriptions(whole: NDArray[np.float32], flow: Tensor) -> dict[str, Tensor]:
    """Return descriptions (B, T, K) of segments by name, without any learning.

    `flow` (B, T, 2N, h, w) is what the encoder sees, `whole` (B, T, N, 2) the means of frames, px.
    """
    uv = flow.unflatten(2, (-1, 2))  # (B, T, N, 2, h, w)
    mean = torch.from_numpy(whole.mean(axis=2))  # (B, T, 2)
    size = uv.square().sum(dim=3).sqrt().mean(dim=(2, 3, 4))[..., None]
    cells = functional.adaptive_avg_pool2d(uv.mean(dim=2).flatten(0, 1), GRID).unflatten(
        0, flow.shape[:2]
    )
    return {
        "mean flow (u, v)": mean,
        "mean flow and mean magnitude": torch.cat([mean, size], dim=-1),
        f"mean flow in {GRID}x{GRID} cells": cells.flatten(2),
    }


def nearest(described: Tensor, config: PretrainConfig) -> float:
    """Return the accuracy of predicting that a segment is like the mean of the observed ones.

    Its candidates are those of the loss.
    """
    wanted = described[:, : config.num_observed].mean(dim=1)  # (B, K)
    # |a - b|^2 is least where 2 a.b - b.b is largest, so the loss's dot products find the nearest.
    predictions = torch.cat([2 * wanted, -torch.ones(len(wanted), 1)], dim=1)[:, None]
    candidates = torch.cat([described, described.square().sum(dim=-1, keepdim=True)], dim=-1)
    positions = range(config.num_observed, config.num_segments)
    return info_nce(
        predictions.expand(-1, len(positions), -1), candidates, positions
    ).accuracy.item()


def baselines(store: FlowStore, config: PretrainConfig) -> dict[str, float]:
    """Accuracy of every description over the batches that the run was measured on."""
    video_ids = split_of(store.videos(), config.fold, "test")["video_id"].tolist()
    segments = SegmentReader(store, video_ids, config, torch.device("cpu"))
    reader = SequenceReader(segments, config, named_seed(config.seed, "held out"))
    found: dict[str, list[float]] = {}
    for step in range(len(video_ids) // config.batch_size):
        batch = reader.read(step)
        for name, described in descriptions(
            segments.means_of(batch.segments), segments.to_device(batch)
        ).items():
            found.setdefault(name, []).append(nearest(described, config))
    return {name: statistics.fmean(values) for name, values in found.items()}


def main() -> None:
    """Compare, print and record."""
    parser = make_parser(__doc__, "training")
    parser.add_argument("store")
    parser.add_argument("run")
    arguments = parser.parse_args()
    config = require_checkpoint(arguments.run).config
    lines = read_metrics(arguments.run)
    last = [line for line in lines if line.get("held_out_accuracy") is not None][-1]
    seconds = [line["step_time"] for line in lines if "step_time" in line]
    minutes = float(np.mean(seconds)) * config.steps / 60
    found = baselines(open_store(arguments.store), config)
    shares = {
        "chance": 1 / config.classes,
        **{f"nearest neighbour, {name}": share for name, share in found.items()},
        "CPC, held-out videos": last["held_out_accuracy"],
    }
    picture = (arguments.out / PICTURE).resolve()
    picture.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(draw_curve(arguments.run), picture)
    horizons = ", ".join(f"{value:.1%}" for value in last["held_out_horizon_accuracy"])
    write_record(
        arguments.out / "learning.md",
        "What pretraining learns on synthetic motion",
        "`python -m benchmarks.training.learn_synth`.",
        f"Batches of {config.batch_size} videos, {config.num_segments} segments of "
        f"{config.num_flows} flows at {config.size[0]}x{config.size[1]}, model 1 with Conv3D, "
        f"width {config.width}, {config.steps} steps on 2 cores ({minutes:.0f} minutes of steps). "
        f"The right one of {config.classes} segments has to be picked, on the "
        f"{last['held_out_videos']} videos of the test groups, which the run has not seen.",
        table(["how", "right"], [[name, f"{share:.1%}"] for name, share in shares.items()]),
        f"By horizon, nearest first: {horizons}. Held-out loss {last['held_out_loss']:.2f} nats, "
        f"guessing {math.log(config.classes):.2f}.",
        "The nearest neighbours see the same segments and choose among the same candidates: the "
        "segment whose description is nearest to the mean of the observed ones. Mean flow is that "
        "of whole frames, before the mean is subtracted; the cells are of what the encoder sees.",
        f"![loss and accuracy over the steps]({PICTURE})",
    )


if __name__ == "__main__":
    main()
