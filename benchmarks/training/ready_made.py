"""What the benchmarks of training share.

A store of synthetic flow, runs on it, and the same runs on ready-made batches.
"""

import dataclasses
import statistics
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import seconds
from flowcpc.train.data.batches import HostBatch, SegmentReader, SequenceReader
from flowcpc.train.pretraining import loop
from flowcpc.train.pretraining.execution import Execution
from flowcpc.train.runs.metrics import read_metrics
from flowcpc.train.settings.config import PretrainConfig

_CELL = 3


def write_store(path: Path, *, videos: int, flows: int, size: tuple[int, int]) -> Path:
    """Commit `videos` of `flows` flows of drifting textures, all in the train split.

    Needs the packages that an extraction needs.
    """
    from builders import commit_flow
    from textures import moving_texture

    from flowcpc.stores.encoding import DEFAULT
    from flowcpc.stores.flow_store import create_store

    store = create_store(path, {"height": size[0], "width": size[1], "encoding": DEFAULT.to_json()})
    # Cells of equal flow, so that a flow takes about as many bytes as one of a real video.
    coarse = tuple(-(-side // _CELL) for side in size)
    for n in range(videos):
        u, v = (
            moving_texture(flows, *coarse, step=(0.4 + 0.1 * n, 0.3), seed=2 * n + c)
            for c in range(2)
        )
        cells = (np.stack([u, v], axis=1).astype(np.float32) - 128) / 32
        flow = cells.repeat(_CELL, axis=2).repeat(_CELL, axis=3)[:, :, : size[0], : size[1]]
        commit_flow(store, f"v{n:03d}", flow, folds={"fold1": "train"})
    store.consolidate()
    return path


@dataclasses.dataclass(frozen=True)
class Measured:
    """Of one run: seconds per step and, of those, waiting for data; bytes of a batch."""

    step_time: float
    data_time: float
    size: float


def measure(
    store: Path, config: PretrainConfig, execution: Execution, *, ready_made: bool
) -> Measured:
    """Train for `config.steps` and return medians over the lines of metrics.

    The first line is left out: it includes compilation and warm-up.
    """
    with tempfile.TemporaryDirectory() as folder:
        patches = _ready_made() if ready_made else []
        for patch in patches:
            patch.start()
        try:
            loop.pretrain(store, Path(folder) / "run", config, execution)
        finally:
            for patch in patches:
                patch.stop()
        lines = read_metrics(Path(folder) / "run")[1:]
    return Measured(
        *(
            statistics.median(line[name] for line in lines)
            for name in ("step_time", "data_time", "bytes_per_step")
        )
    )


def _ready_made() -> list["mock._patch[object]"]:
    """Patches that give every step the same batch at once.

    Its float32 tensor is the same too, and already on the device.
    """
    batches: dict[str, HostBatch] = {}
    tensors: dict[str, Tensor] = {}
    read, to_device = SequenceReader.read, SegmentReader.to_device

    def read_once(self: SequenceReader, step: int) -> HostBatch:
        if not batches:
            batches["batch"] = read(self, step)
        return batches["batch"]

    def to_device_once(self: SegmentReader, batch: HostBatch) -> Tensor:
        if not tensors:
            tensors["flow"] = torch.randn_like(to_device(self, batch))
        return tensors["flow"]

    return [
        mock.patch.object(SequenceReader, "read", read_once),
        mock.patch.object(SegmentReader, "to_device", to_device_once),
    ]


def sampler_seconds(config: PretrainConfig, store: Path) -> float:
    """Median seconds in which the sampler draws a batch."""
    from flowcpc.stores.flow_store import open_store
    from flowcpc.train.data.selection import select_sequences
    from flowcpc.train.data.shots import shots_of

    opened = open_store(store)
    shots = shots_of(opened.shots(), opened.videos()["video_id"].tolist())
    sizes = {
        name: getattr(config, name)
        for name in ("batch_size", "num_segments", "num_flows", "selection", "spacing")
    }
    return statistics.median(
        seconds(lambda: select_sequences(shots, seed=0, step=step, **sizes))  # noqa: B023
        for step in range(200)
    )


def row(name: str, real: list[Measured], ready: list[Measured]) -> list[str]:
    """A row of a table with COLUMNS; every number is a median over the rounds."""
    ratio = statistics.median(b.step_time / a.step_time for a, b in zip(real, ready, strict=True))
    share = statistics.median(one.data_time / one.step_time for one in real)
    step, peer = (statistics.median(one.step_time for one in some) for some in (real, ready))
    rates = [f"{1 / step:.2f}", f"{1 / peer:.2f}", f"{ratio:.3f}"]
    return [name, *rates, f"{share:.2%}", f"{real[0].size / 1e6:.1f}"]


COLUMNS = (
    "execution",
    "steps/s",
    "on ready-made tensors",
    "ratio",
    "waiting for data",
    "MB per step",
)
