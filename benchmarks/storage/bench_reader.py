"""Random windows of flow per second: WindowReader on both formats beside the readers that the field
uses, on the same flow and one core.

Run `python -m benchmarks.storage.bench_reader`; `make bench` does. Writes
docs/benchmarks/storage/reader.md. All read the same windows of the same real flow, crop them and
are timed in turns in one process; figures are medians over rounds of ratios within a round.
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import h5py
import numpy as np
import zarr
from builders import commit_flow

from benchmarks.real_flow import middle_flows, spread
from benchmarks.record import make_parser, table, write_record
from benchmarks.timing import median_seconds, seconds_for_each
from flowcpc.stores.codec.blosc import decode_frame, scratch_bytes
from flowcpc.stores.codec.checksums import crc32c
from flowcpc.stores.codec.raw_bytes import SLACK
from flowcpc.stores.encoding import DEFAULT, ENCODINGS
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.video.reader import _open
from flowcpc.stores.window_reader import WindowReader

HEIGHT, WIDTH, CROP, FLOWS, NUM_FLOWS, BATCH = 256, 342, 224, 40, 10, 64
MEMMAP, JPEG = "memmap (uncompressed)", "JPEG per frame, bound 20"
Windows = tuple[np.ndarray, np.ndarray, np.ndarray]
Reader = Callable[[Windows], np.ndarray]


def make_stores(folder: Path, flows: list[np.ndarray]) -> dict[str, FlowStore]:
    """The same flow in a store of either format."""
    numerics = {"height": HEIGHT, "width": WIDTH, "encoding": DEFAULT.to_json()}
    stores = {name: create_store(folder / name, numerics, name) for name in ("zarr", "hdf5")}
    for store in stores.values():
        for n, flow in enumerate(flows):
            commit_flow(store, f"v{n}", flow)
    return stores


def draw(rng: np.random.Generator, lengths: list[int]) -> Windows:
    """Random (videos (B,), starts (B, 1), corners (B, 1, 2))."""
    videos = rng.integers(0, len(lengths), BATCH)
    starts = np.array([[rng.integers(0, lengths[video] - NUM_FLOWS + 1)] for video in videos])
    return videos, starts, rng.integers(0, [HEIGHT - CROP + 1, WIDTH - CROP + 1], (BATCH, 1, 2))


def one_by_one(read: Callable[[int, int, int, int], np.ndarray]) -> Reader:
    """A batch reader from a window reader: read(video, start, top, left) -> (N, 2, CROP, CROP)."""
    out = np.empty((BATCH, 1, NUM_FLOWS, 2, CROP, CROP), np.uint8)

    def batch(windows: Windows) -> np.ndarray:
        for b, (video, (start,), ((top, left),)) in enumerate(zip(*windows, strict=True)):
            out[b, 0] = read(int(video), int(start), int(top), int(left))
        return out

    return batch


def sliced(arrays: list) -> Reader:
    """A reader from arrays that are sliced as NumPy's."""
    return one_by_one(
        lambda v, s, y, x: arrays[v][s : s + NUM_FLOWS, :, y : y + CROP, x : x + CROP]
    )


def jpeg_folders(folder: Path, flows: list[np.ndarray]) -> Reader:
    """Two gray JPEGs of quality 95 per flow, as denseflow and TSN keep them, bound 20."""
    encoding = ENCODINGS["uint8-bound20"]
    for n, flow in enumerate(flows):
        (folder / f"v{n}").mkdir(parents=True)
        for t, codes in enumerate(encoding.encode(flow)):
            for component, name in zip(codes, "xy", strict=True):
                cv2.imwrite(
                    str(folder / f"v{n}" / f"flow_{name}_{t + 1:05d}.jpg"),
                    component,
                    [cv2.IMWRITE_JPEG_QUALITY, 95],
                )

    def read(video: int, start: int, top: int, left: int) -> np.ndarray:
        window = np.empty((NUM_FLOWS, 2, CROP, CROP), np.uint8)
        for n in range(NUM_FLOWS):
            for c, name in enumerate("xy"):
                image = cv2.imread(
                    str(folder / f"v{video}" / f"flow_{name}_{start + n + 1:05d}.jpg"),
                    cv2.IMREAD_GRAYSCALE,
                )
                window[n, c] = image[top : top + CROP, left : left + CROP]
        return window

    return one_by_one(read)


def npz_per_video(folder: Path, codes: list[np.ndarray]) -> Reader:
    """One compressed npz per video."""
    folder.mkdir()
    for n, values in enumerate(codes):
        np.savez_compressed(folder / f"v{n}.npz", flow=values)
    return one_by_one(
        lambda v, s, y, x: np.load(folder / f"v{v}.npz")["flow"][
            s : s + NUM_FLOWS, :, y : y + CROP, x : x + CROP
        ]
    )


def memory_maps(folder: Path, codes: list[np.ndarray]) -> Reader:
    """Uncompressed codes in files that are mapped."""
    folder.mkdir()
    for n, values in enumerate(codes):
        np.save(folder / f"v{n}.npy", values)
    return sliced([np.load(folder / f"v{n}.npy", mmap_mode="r") for n in range(len(codes))])


def array_paths(store: FlowStore, folder: str) -> list[Path]:
    """Where the files of every video's array are."""
    return [
        store.path / store.commit_of(f"v{n}")["chunks"]["files"][0].removesuffix(folder)
        for n in range(len(store.videos()))
    ]


def tensorstore_reader(store: FlowStore) -> Reader | None:
    """TensorStore on the Zarr store, or None where it is not installed."""
    try:
        import tensorstore as ts
    except ImportError:
        return None
    context = ts.Context(
        {"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}}
    )
    arrays = [
        ts.open(
            {"driver": "zarr3", "kvstore": f"file://{path}/"}, context=context, open=True, read=True
        ).result()
        for path in array_paths(store, "/c.0.0.0.0")
    ]
    return one_by_one(
        lambda v, s, y, x: (
            arrays[v][s : s + NUM_FLOWS, :, y : y + CROP, x : x + CROP].read().result()
        )
    )


def litdata_reader(folder: Path, codes: list[np.ndarray]) -> Reader | None:
    """LitData: a sample per flow in uncompressed chunks, windows by ten items; None where it is not
    installed.
    """
    try:
        from litdata import StreamingDataset
        from litdata.streaming.cache import Cache
    except ImportError:
        return None
    cache = Cache(str(folder), chunk_bytes=1 << 24)
    first = np.cumsum([0, *map(len, codes)])
    for n, values in enumerate(codes):
        for t, flow in enumerate(values):
            cache._add_item(int(first[n]) + t, {"flow": flow})
    cache.done()
    cache.merge(1)
    data = StreamingDataset(str(folder), shuffle=False)

    def read(video: int, start: int, top: int, left: int) -> np.ndarray:
        items = [data[int(first[video]) + start + n]["flow"] for n in range(NUM_FLOWS)]
        return np.stack(items)[:, :, top : top + CROP, left : left + CROP]

    return one_by_one(read)


def own(store: FlowStore) -> Reader:
    """Our reader on one thread."""
    reader = WindowReader(store, [f"v{n}" for n in range(len(store.videos()))], threads=1)
    out = np.empty((BATCH, 1, NUM_FLOWS, 2, CROP, CROP), np.uint8)
    return lambda w: reader.read_windows(
        w[0], w[1], NUM_FLOWS, corners=w[2], size=(CROP, CROP), out=out
    )


def folder_kilobytes(path: Path, flows: int) -> float:
    """Kilobytes per flow of all files in a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / flows / 1e3


def make_readers(
    folder: Path, stores: dict[str, FlowStore], flows: list[np.ndarray]
) -> tuple[dict[str, Reader], dict[str, Path]]:
    """The readers that can be had here, on the same flow, and the folder that each one reads."""
    codes = [DEFAULT.encode(flow) for flow in flows]
    zarr_store, hdf5_store = stores["zarr"], stores["hdf5"]
    in_zarr = [zarr.open_array(path) for path in array_paths(zarr_store, "/c.0.0.0.0")]
    in_hdf5 = [h5py.File(path, rdcc_nbytes=0)["flow"] for path in array_paths(hdf5_store, "")]
    candidates: dict[str, tuple[Reader | None, str]] = {
        MEMMAP: (memory_maps(folder / "npy", codes), "npy"),
        "WindowReader, zarr": (own(zarr_store), "zarr/flow"),
        "WindowReader, hdf5": (own(hdf5_store), "hdf5/flow"),
        "LitData, item per flow (uncompressed)": (
            litdata_reader(folder / "litdata", codes),
            "litdata",
        ),
        "TensorStore, the same zarr": (tensorstore_reader(zarr_store), "zarr/flow"),
        "h5py, the same hdf5, no chunk cache": (sliced(in_hdf5), "hdf5/flow"),
        JPEG: (jpeg_folders(folder / "jpeg", flows), "jpeg"),
        "zarr-python, the same zarr": (sliced(in_zarr), "zarr/flow"),
        "npz per video": (npz_per_video(folder / "npz", codes), "npz"),
    }
    readers = {peer: reader for peer, (reader, _) in candidates.items() if reader is not None}
    return readers, {peer: folder / candidates[peer][1] for peer in readers}


def main() -> None:
    """Measure, print and record."""
    arguments = make_parser(__doc__, "storage", rounds=9, clips=24).parse_args()
    flows = middle_flows(spread(arguments.clips), FLOWS)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        stores = make_stores(Path(name), flows)
        readers, folders = make_readers(Path(name), stores, flows)
        rng = np.random.default_rng(0)
        lengths = [len(flow) for flow in flows]
        windows = draw(rng, lengths)
        expected = readers[MEMMAP](windows).copy()
        for peer, reader in readers.items():
            if peer != JPEG:  # whose values are others
                np.testing.assert_array_equal(reader(windows), expected, peer)
        times: dict[str, list[float]] = {peer: [] for peer in readers}
        for _ in range(arguments.rounds):
            windows = draw(rng, lengths)
            for peer, reader in readers.items():
                times[peer].append(seconds_for_each(reader, [windows]))
        sizes = {peer: folder_kilobytes(path, sum(lengths)) for peer, path in folders.items()}
        profile = write_profile(stores["zarr"], draw(rng, lengths))
    write_record(
        arguments.out / "reader.md",
        "Window reads",
        f"`python -m benchmarks.storage.bench_reader`: random windows of {NUM_FLOWS} flows with a "
        f"{CROP}x{CROP} crop, real flow of {arguments.clips} UCF-101 clips at {HEIGHT}x{WIDTH}, "
        f"batches of {BATCH} into one array, one core, page cache warm, checksums on, medians of "
        f"{arguments.rounds} rounds in turns.",
        profile,
        ratios(times, sizes),
    )


def write_profile(store: FlowStore, windows: Windows) -> str:
    """Return the time of each part of reading a window, relative to the whole, as a table."""
    reader = own(store)
    videos = [store.open_video(f"v{n}") for n in range(len(store.videos()))]
    raw = np.zeros(1 << 21, np.uint8)
    scratch = np.zeros(scratch_bytes(2 * HEIGHT * WIDTH), np.uint8)
    out = np.zeros((2, CROP, CROP), np.uint8)

    def chunks() -> Iterator[tuple[int, int, Path]]:
        for video, (start,), _ in zip(*windows, strict=True):
            places = videos[video].chunks
            for n in range(NUM_FLOWS):
                yield (
                    int(places.offsets[start + n]),
                    int(places.sizes[start + n]),
                    store.path / places.files[0],
                )

    frames = []
    for offset, size, path in chunks():
        with open(path, "rb") as file:
            file.seek(offset)
            frames.append((np.frombuffer(file.read(size) + bytes(SLACK), np.uint8), size))

    def read() -> None:
        for video, (start,), _ in zip(*windows, strict=True):
            places = videos[video].chunks
            begin, last = places.offsets[start], start + NUM_FLOWS - 1
            end = int(places.offsets[last] + places.sizes[last])
            file = _open(str(store.path / places.files[0]))
            os.preadv(file.descriptor, [raw[: end - begin].data], int(begin))

    parts = {
        "reading the file": read,
        "checksums": lambda: [crc32c(frame, 0, size) for frame, size in frames],
        "LZ4": lambda: [
            decode_frame(frame, 0, size, scratch, HEIGHT * WIDTH) for frame, size in frames
        ],
        "cropping": lambda: [
            np.copyto(out, scratch[: 2 * HEIGHT * WIDTH].reshape(2, HEIGHT, WIDTH)[:, :CROP, :CROP])
            for _ in frames
        ],
    }
    whole = median_seconds(lambda: reader(windows), 7)
    shares = [f"{name} {median_seconds(part, 7) / whole:.0%}" for name, part in parts.items()]
    return f"WindowReader's parts alone, against the whole: {', '.join(shares)}."


def ratios(times: dict[str, list[float]], sizes: dict[str, float]) -> str:
    """Return a row per reader: windows/s relative to two of them, and bytes."""

    def ratio(peer: str, other: str) -> float:
        return statistics.median(b / a for a, b in zip(times[peer], times[other], strict=True))

    return table(
        ["reader", "x JPEG folders", "x memmap", "KB per flow"],
        [
            [peer, f"{ratio(peer, JPEG):.2f}", f"{ratio(peer, MEMMAP):.3f}", f"{sizes[peer]:.1f}"]
            for peer in times
        ],
    )


if __name__ == "__main__":
    main()
