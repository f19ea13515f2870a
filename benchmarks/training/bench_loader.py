"""Feeding a training loop: samplers relative to plain loops, the loader to the raw reader and to a
loader like that of DPC's code.

Run `python -m benchmarks.training.bench_loader`; `make bench` does. Writes
docs/benchmarks/training/loader.md. What is compared runs in turns in one process; figures are
medians over rounds of ratios within a round. Real flow is needed.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import naive_train
import numpy as np
import torch
from builders import commit_flow
from PIL import Image

from benchmarks.real_flow import middle_flows, spread
from benchmarks.record import make_parser, table, write_record
from benchmarks.timing import median_and_range, seconds
from flowcpc.stores.encoding import DEFAULT, ENCODINGS
from flowcpc.stores.flow_store import create_store
from flowcpc.stores.window_reader import WindowReader
from flowcpc.train.data.batches import SegmentReader, SequenceReader
from flowcpc.train.data.draws import epoch_order
from flowcpc.train.data.loader import loading
from flowcpc.train.data.selection import Segments, select_sequences
from flowcpc.train.data.shots import pack_shots
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.settings.config import SELECTIONS, PretrainConfig

HEIGHT, WIDTH, CROP, FLOWS, WARM, BATCHES, WORKERS = 256, 342, 224, 60, 4, 12, 2
# The paper's segments and crops, in batches that a benchmark of minutes can read several of.
CONFIG = PretrainConfig(num_segments=4, num_observed=3, batch_size=4, size=(CROP, CROP), width=16)
STEP_MS = 31  # of the paper's size on an A100 (docs/training/feeding.md)
BOUND = 20
Spans = list[list[tuple[int, int]]]


def like_ucf101(count: int) -> Spans:
    """Shots of as many videos as UCF-101 trains on: 28 to 600 flows, one in ten with a cut."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.1, 0.45, count), 28, 600).astype(int).tolist()
    return [[(0, n // 3), (n // 3 + 1, n)] if rng.random() < 0.1 else [(0, n)] for n in lengths]


def measure_samplers(rounds: int, videos: int) -> str:
    """Return a row per selection: microseconds a batch, share of a step, rate relative to loops."""
    shots = like_ucf101(videos)
    packed = pack_shots(shots)
    batches = len(shots) // 16
    rows = []
    for selection in SELECTIONS:
        spacing = {"consecutive": 0, "overlap": 5}.get(selection, 10)
        sizes = {
            "batch_size": 16,
            "num_segments": 8,
            "num_flows": 10,
            "selection": selection,
            "spacing": spacing,
        }

        def epoch(sizes: dict[str, Any] = sizes) -> None:
            epoch_order.cache_clear()
            for step in range(batches):
                select_sequences(packed, seed=0, step=step, **sizes)

        def loops(sizes: dict[str, Any] = sizes) -> None:
            order = naive_train.permutation(0, 0, len(shots))
            for step in range(batches):
                naive_train.sequences(shots, 0, step, *sizes.values(), order=order)

        epoch()
        found = [(seconds(epoch), seconds(loops)) for _ in range(rounds)]
        micro = statistics.median(ours for ours, _ in found) / batches * 1e6
        ratio = statistics.median(slow / ours for ours, slow in found)
        rows.append([selection, f"{micro:.1f}", f"{micro / STEP_MS / 1e3:.3%}", f"{ratio:.0f}"])
    return table(["selection", "us per batch", f"of a step of {STEP_MS} ms", "x loops"], rows)


class Raw:
    """Reads the windows of a round at each call, without a loader, and returns the seconds.

    All BATCHES batches go into the same array.
    """

    def __init__(self, batches: SequenceReader, reader: WindowReader) -> None:
        self._batches = batches
        self._reader = reader
        self._out = np.empty(
            (CONFIG.batch_size, CONFIG.num_segments, CONFIG.num_flows, 2, CROP, CROP), DEFAULT.dtype
        )
        self._rounds = 0

    def __call__(self) -> float:
        windows = [self._batches.select(step)[:2] for step in steps_of_round(self._rounds)[WARM:]]
        self._rounds += 1
        return seconds(lambda: [self._read(*one) for one in windows])

    def _read(self, segments: Segments, corners: np.ndarray) -> None:
        where = {"stops": segments.stops, "corners": corners, "size": CONFIG.size, "out": self._out}
        self._reader.read_windows(segments.videos, segments.starts, CONFIG.num_flows, **where)


def steps_of_round(number: int) -> range:
    """Return the steps of a round. The first WARM are not timed: they were read ahead."""
    return range(number * (WARM + BATCHES), (number + 1) * (WARM + BATCHES))


def timed(batches: Iterator[object]) -> float:
    """Seconds of the BATCHES batches after the next WARM."""
    for _ in range(WARM):
        next(batches)
    began = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    return time.perf_counter() - began


def write_jpegs(folder: Path, flows: list[np.ndarray]) -> None:
    """Two gray JPEGs of quality 95 per flow, bound 20, as flow is kept for DPC's kind of loader."""
    for n, flow in enumerate(flows):
        (folder / f"v{n}").mkdir(parents=True)
        for t, codes in enumerate(ENCODINGS[f"uint8-bound{BOUND}"].encode(flow)):
            for component, name in zip(codes, "xy", strict=True):
                Image.fromarray(component).save(
                    folder / f"v{n}" / f"flow_{name}_{t + 1:05d}.jpg", quality=95
                )


def crop_all(images: list[Image.Image], top: int, left: int) -> list[Image.Image]:
    """The same crop of every image."""
    return [image.crop((left, top, left + CROP, top + CROP)) for image in images]


def to_tensors(images: list[Image.Image]) -> list[torch.Tensor]:
    """Every image as float32 (1, h, w) in 0..1."""
    return [torch.from_numpy(np.array(image, np.uint8)[None]).float().div(255) for image in images]


def to_pixels(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Every tensor in px."""
    return [tensor * (2 * BOUND) - BOUND for tensor in tensors]


class FramesOnDisk(torch.utils.data.Dataset):
    """A sample: one sequence of one video from a JPEG per frame, by transforms of one image at a
    time.
    """

    def __init__(self, folder: Path, steps: list[tuple[Segments, np.ndarray]]) -> None:
        self._folder = folder
        self._items = [
            (segments.videos[b], segments.starts[b], segments.stops[b], corners[b])
            for segments, corners in steps
            for b in range(len(segments.videos))
        ]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number: int) -> torch.Tensor:
        video, starts, stops, corners = self._items[number]
        stacks = []
        for start, stop, (top, left) in zip(starts, stops, corners, strict=True):
            images = []
            for n in range(CONFIG.num_flows):
                for name in "xy":
                    frame = min(start + n, stop - 1) + 1
                    with open(
                        self._folder / f"v{video}" / f"flow_{name}_{frame:05d}.jpg", "rb"
                    ) as file:
                        images.append(Image.open(file).convert("L"))
            means = [tensor.mean() for tensor in to_pixels(to_tensors(images))]
            tensors = to_pixels(to_tensors(crop_all(images, int(top), int(left))))
            stacks.append(
                torch.cat([tensor - mean for tensor, mean in zip(tensors, means, strict=True)])
            )
        return torch.stack(stacks)


def measure_training(segments: SegmentReader, batches: SequenceReader, rounds: int) -> str:
    """Return steps/s of a small encoder with each kind of loader, relative to one ready batch."""
    encoder = Encoder(CONFIG)
    tensor = segments.to_device(batches.read(0))

    def step(tensor: torch.Tensor) -> None:
        encoder(tensor.flatten(0, 1)).sum().backward()
        encoder.zero_grad()

    step(tensor)
    rows = []
    for workers in (0, 2):
        with loading(batches.read, range(10**6), workers=workers) as loaded:
            steps = map(step, map(segments.to_device, loaded))
            timed(steps)
            ratios = []
            for _ in range(rounds):
                ready = seconds(lambda: [step(tensor) for _ in range(BATCHES)])
                ratios.append(ready / timed(steps))
        rows.append([kind_of(workers), median_and_range(ratios, 2)])
    return table(["loader", "steps/s, in parts of steps on ready tensors"], rows)


def kind_of(workers: int) -> str:
    """Return a number of loader processes in words."""
    return (
        f"{workers} process{'es' if workers > 1 else ''}"
        if workers
        else "a thread of the training process"
    )


def measure_loaders(rounds: int, clips: int) -> tuple[str, str, str]:
    """Return the loader relative to the raw reader, in training, and relative to one of JPEGs."""
    flows = middle_flows(spread(clips), FLOWS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = create_store(
            folder / "s", {"height": HEIGHT, "width": WIDTH, "encoding": DEFAULT.to_json()}
        )
        ids = [f"v{n}" for n in range(clips)]
        for video_id, flow in zip(ids, flows, strict=True):
            commit_flow(store, video_id, flow)
        write_jpegs(folder / "jpeg", flows)
        segments = SegmentReader(store, ids, CONFIG, torch.device("cpu"))
        batches = SequenceReader(segments, CONFIG, 0)

        rows = []
        for workers in (0, 1, 2):
            raw = Raw(batches, WindowReader(store, ids, threads=workers or WORKERS))
            with loading(batches.read, range(10**6), workers=workers) as loaded:
                raw(), timed(loaded)  # videos are opened
                ratios = [raw() / timed(loaded) for _ in range(rounds)]
            rows.append([kind_of(workers), median_and_range(ratios, 2), workers or WORKERS])

        training = measure_training(segments, batches, min(rounds, 3))
        data = torch.utils.data.DataLoader(
            FramesOnDisk(folder / "jpeg", [batches.select(step)[:2] for step in steps_of_round(0)]),
            CONFIG.batch_size,
            num_workers=WORKERS,
            persistent_workers=True,
            multiprocessing_context="forkserver",
        )
        difference = float((segments.to_device(batches.read(0)) - next(iter(data))).abs().mean())
        steps = (step for _ in range(10**6) for step in steps_of_round(0))
        with loading(batches.read, steps, workers=WORKERS) as loaded:
            ready = map(segments.to_device, loaded)
            timed(ready)
            ratios = [timed(iter(data)) / timed(ready) for _ in range(rounds)]
    peer = (
        "A JPEG of quality 95 per frame and component, PIL, transforms of one image at a time and "
        "torch's DataLoader, against ours, "
        f"{WORKERS} processes each, the same windows, the same crops, float32 tensors on the CPU "
        "as result: ours delivers "
        f"**{statistics.median(ratios):.1f} times** the samples/s ({min(ratios):.1f} to "
        f"{max(ratios):.1f}). "
        f"The two differ by {difference:.3f} px in the mean (JPEG, and the bound of {BOUND} px)."
    )
    return table(["loader", "x raw reader", "on as many threads"], rows), training, peer


def main() -> None:
    """Measure, print and record."""
    arguments = make_parser(__doc__, "training", rounds=5, videos=9537, clips=8).parse_args()
    samplers = measure_samplers(arguments.rounds, arguments.videos)
    loaders, training, peer = measure_loaders(arguments.rounds, arguments.clips)
    size = f"B={CONFIG.batch_size}, T={CONFIG.num_segments}, N={CONFIG.num_flows}"
    write_record(
        arguments.out / "loader.md",
        "Feeding",
        f"`python -m benchmarks.training.bench_loader`, medians of {arguments.rounds} rounds in "
        "turns.",
        f"**Samplers**: an epoch of batches of B=16, T=8, N=10 out of {arguments.videos:,} videos "
        "of UCF-101's lengths, one in ten with a cut, against the loops that the tests compare "
        "them with, on one thread.",
        samplers,
        f"**Loaders**: batches of {size}, crops of {CROP}x{CROP} from {HEIGHT}x{WIDTH}, real flow "
        f"of {arguments.clips} UCF-101 clips, page cache warm: batches/s in parts of "
        "WindowReader's on the same windows into one array.",
        loaders,
        f"**Training**: forward and backward of an encoder of width {CONFIG.width} on these "
        "batches, on the CPU with all cores.",
        training,
        f"**Against a JPEG per frame.** {peer}",
    )


if __name__ == "__main__":
    main()
