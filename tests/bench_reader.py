"""Random windows of flow per second: WindowReader beside plain zarr-python and an uncompressed memmap, on the same data and one core.

Run by `make bench`. Prints a table and writes docs/benchmarks/reader.md. Peers read the same windows, crop them alike, and are timed in turns
in the same process; the figures are medians over rounds of ratios within a round.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr
from conftest import commit_flow
from records import ROOT, machine_record
from textures import moving_texture

from pipeline.tvl1.solver import compute_flow
from stores import layout
from stores.encoding import Encoding
from stores.flow_store import FlowStore, create_store
from stores.reader import WindowReader

HEIGHT, WIDTH, CROP, FLOWS, VIDEOS, SEGMENTS, NUM_FLOWS = 256, 342, 224, 60, 6, 4, 10
Windows = tuple[np.ndarray, np.ndarray, np.ndarray]


def make_store(folder: Path) -> FlowStore:
    """A store of videos whose flow is TV-L1's, computed at a quarter of the size and enlarged to save the benchmark's time."""
    store = create_store(folder / "s.flow", {"height": HEIGHT, "width": WIDTH, "encoding": Encoding().to_json()})
    for n in range(VIDEOS):
        frames = moving_texture(13, HEIGHT // 4, WIDTH // 4 + 1, step=(1.5 - n, 0.5 * n), seed=n)
        flow = 4 * compute_flow(frames).repeat(4, axis=2).repeat(4, axis=3)[..., :WIDTH]
        commit_flow(store, f"v{n}", np.tile(flow, (FLOWS // len(flow), 1, 1, 1)))
    return store


def draw(rng: np.random.Generator, batch: int = 4) -> Windows:
    """Random (videos (B,), starts (B, T), corners (B, T, 2))."""
    corners = rng.integers(0, [HEIGHT - CROP + 1, WIDTH - CROP + 1], (batch, SEGMENTS, 2))
    return rng.integers(0, VIDEOS, batch), rng.integers(0, FLOWS - NUM_FLOWS, (batch, SEGMENTS)), corners


def readers(store: FlowStore, folder: Path) -> dict[str, Callable[[Windows], np.ndarray]]:
    """Functions that read the same windows from the same values."""
    names = [f"v{n}" for n in range(VIDEOS)]
    own = WindowReader(store, names)
    paths = [store.path / layout.generation_path(name, store.commit_of(name)["generation"]) for name in names]
    arrays = [zarr.open_group(path, mode="r")["flow"] for path in paths]
    raw = []
    for name in names:
        np.save(folder / f"{name}.npy", store.read_codes(name))
        raw.append(np.load(folder / f"{name}.npy", mmap_mode="r"))

    def one_by_one(sources: list[np.ndarray]) -> Callable[[Windows], np.ndarray]:
        def read(windows: Windows) -> np.ndarray:
            videos, starts, corners = windows
            out = np.empty((*starts.shape, NUM_FLOWS, 2, CROP, CROP), np.uint8)
            for b, t in np.ndindex(*starts.shape):
                start, (top, left) = starts[b, t], corners[b, t]
                out[b, t] = sources[videos[b]][start : start + NUM_FLOWS, :, top : top + CROP, left : left + CROP]
            return out

        return read

    return {
        "WindowReader": lambda w: own.read_windows(w[0], w[1], NUM_FLOWS, corners=w[2], size=(CROP, CROP)),
        "zarr-python": one_by_one(arrays),
        "memmap": one_by_one(raw),
    }


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        read = readers(make_store(folder), folder)
        rng = np.random.default_rng(0)
        first = draw(rng)
        expected = read["memmap"](first)
        for reader in read.values():
            np.testing.assert_array_equal(reader(first), expected)
        seconds: dict[str, list[float]] = {peer: [] for peer in read}
        for _ in range(rounds):
            batches = [draw(rng) for _ in range(4)]
            for peer, reader in read.items():
                began = time.perf_counter()
                for windows in batches:
                    reader(windows)
                seconds[peer].append(time.perf_counter() - began)
    lines = ["| reader | windows/s relative to zarr-python |", "|---|---|"]
    for peer, times in seconds.items():
        ratio = statistics.median(z / s for z, s in zip(seconds["zarr-python"], times, strict=True))
        lines.append(f"| {peer} | {ratio:.2f} |")
    text = (
        "# Window reads\n\n`make bench`: random windows of 10 flows with a 224x224 crop from a store of 256x342, one core, page cache warm, "
        f"checksums on, median of {rounds} rounds in turns. Bytes on disk are the same for WindowReader and zarr-python; memmap is uncompressed.\n\n"
        + "\n".join(lines)
        + f"\n\n{machine_record()}\n"
    )
    print(text)
    (ROOT / "docs" / "benchmarks").mkdir(parents=True, exist_ok=True)
    (ROOT / "docs" / "benchmarks" / "reader.md").write_text(text)


if __name__ == "__main__":
    main()
