"""From video files to committed store on a CUDA device: pairs per second, and how busy the device
was.

    make bench-gpu PYTHON=python3

Needs what an extraction needs (docs/extraction/cluster.md, On a machine without a network, says how
to carry it there) and clips under build/clips, or in the folder of --clips; without clips moving
textures are written as AVI files. Writes docs/benchmarks/flow/extract-gpu.md.
"""

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
from checkout import ROOT
from textures import moving_texture

from benchmarks.record import make_parser, write_record
from benchmarks.timing import median_and_range

CLIPS = ROOT / "build" / "clips"
PEER_SHARE = 8  # the processor's solver gets so many times fewer videos


def write_textures(folder: Path, count: int = 8, frames: int = 180) -> None:
    """Write moving textures of 240x320 as AVI files."""
    folder.mkdir(parents=True)
    for n in range(count):
        step = (0.4 + 0.7 * n, 0.3 * n - 1)
        file = cv2.VideoWriter(
            str(folder / f"t{n}.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (320, 240)
        )
        for frame in moving_texture(frames, 240, 320, step=step, seed=n):
            file.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
        file.release()


def link_clips(clips: list[Path], folder: Path, count: int) -> None:
    """Make `count` videos of a class out of links to `clips`, each several times."""
    (folder / "X").mkdir(parents=True)
    for n in range(count):
        (folder / "X" / f"v{n:05d}.avi").symlink_to(clips[n % len(clips)])


class Busy:
    """Samples the share of time in which the device had work, by nvidia-smi."""

    def __enter__(self) -> "Busy":
        self.samples: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--id=0"]
        query.append("--format=csv,noheader,nounits")
        while not self._over.wait(0.25):
            try:
                answer = subprocess.run(query, capture_output=True, text=True, timeout=10)
                self.samples.append(float(answer.stdout.split()[0]))
            except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
                return


def extract(
    videos: Path, store: Path, backend: str, size: tuple[int, int], array_format: str
) -> tuple[float, int]:
    """Extract all videos of a folder in this process; (seconds, pairs)."""
    from flowcpc.pipeline.cluster.places import InProcess
    from flowcpc.pipeline.datasets.sources import read_dataset
    from flowcpc.pipeline.extraction.extract import ExtractionSettings
    from flowcpc.pipeline.run import run_extraction

    settings = ExtractionSettings(
        str(videos), str(store), *size, backend=backend, array_format=array_format
    )
    found = read_dataset(videos, "folder").videos
    began = time.perf_counter()
    summary = run_extraction(settings, found, InProcess())
    seconds = time.perf_counter() - began
    if summary.failed or not summary.finished:
        sys.exit(f"the extraction did not end well: {summary}")
    return seconds, summary.pairs


def same_flow(one: Path, other: Path) -> tuple[int, int]:
    """How many videos of `one` are in `other` with the same codes, and how many there are."""
    from flowcpc.stores.flow_store import open_store

    first, second = open_store(one), open_store(other)
    names = first.videos()["video_id"].tolist()
    return sum(
        np.array_equal(first.read_codes(name), second.read_codes(name)) for name in names
    ), len(names)


def main() -> None:
    """Measure, print and record."""
    parser = make_parser(__doc__, "flow", videos=256, rounds=3, height=256, width=342)
    parser.add_argument(
        "--clips",
        type=Path,
        default=CLIPS,
        help=f"folder of .avi files  [default: {CLIPS.relative_to(ROOT)}]",
    )
    parser.add_argument("--format", choices=["zarr", "hdf5"], default="zarr")
    arguments = parser.parse_args()
    try:
        metadata.version("flowcpc")
    except metadata.PackageNotFoundError:
        sys.exit(
            "bench-gpu finds no flowcpc installed here; docs/extraction/cluster.md, On a machine "
            "without a network, says how"
        )
    from benchmarks.flow.cuda_device import prepare_device

    device = prepare_device()
    size = arguments.height, arguments.width
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips, origin = sorted(arguments.clips.resolve().rglob("*.avi")), "UCF-101 clips"
        if not clips:
            write_textures(folder / "textures")
            clips, origin = sorted((folder / "textures").glob("*.avi")), "moving textures"
        few = max(1, arguments.videos // PEER_SHARE)
        for count in (arguments.videos, few):
            link_clips(clips, folder / f"videos{count}", count)
        rates, ratios, busy, same = [], [], [], (0, 0)
        for n in range(
            arguments.rounds + 1
        ):  # the first warms the disk, the device and the decoders
            with Busy() as watched:
                seconds, pairs = extract(
                    folder / f"videos{arguments.videos}",
                    folder / f"cuda{n}",
                    "cuda",
                    size,
                    arguments.format,
                )
            peer_seconds, peer_pairs = extract(
                folder / f"videos{few}", folder / f"cpu{n}", "cpu", size, arguments.format
            )
            print(
                f"round {n}: cuda {pairs / seconds:.0f} pairs/s, cpu "
                f"{peer_pairs / peer_seconds:.0f} pairs/s",
                flush=True,
            )
            if n:
                rates.append(pairs / seconds)
                ratios.append(pairs / seconds * peer_seconds / peer_pairs)
                busy += watched.samples
        same = same_flow(folder / "cpu0", folder / "cuda0")
    worked = (
        f"{statistics.mean(busy):.0f} % of the time (nvidia-smi, mean of {len(busy)} samples)"
        if busy
        else "unknown (no nvidia-smi)"
    )
    write_record(
        arguments.out / "extract-gpu.md",
        "Extraction on a GPU",
        f"`python -m benchmarks.flow.bench_gpu_extract` on {device}: {arguments.videos} videos out "
        f"of {len(clips)} {origin}, {pairs} pairs, brought to {size[0]}x{size[1]}, from AVI files "
        f"to a committed {arguments.format} store in one process, medians of {arguments.rounds} "
        "rounds after one more.",
        f"- {median_and_range(rates, 0)} pairs/s; {statistics.median(ratios):.1f} times the "
        f"processor's solver with all cores on {few} of these videos in turns.\n"
        f"- The device had work {worked}.\n"
        f"- {same[0]} of {same[1]} videos have the same codes from both.",
    )


if __name__ == "__main__":
    main()
