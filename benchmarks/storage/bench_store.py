"""What storing costs: its share of an extraction's time, the opening of a store of 13,320 videos,
and the memory of an hour of video.

Run `python -m benchmarks.storage.bench_store`; `make bench` does. Writes
docs/benchmarks/storage/store.md.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from builders import commit_flow
from checkout import ROOT

from benchmarks.real_flow import gray_frames, spread
from benchmarks.record import make_parser, write_record
from benchmarks.timing import seconds
from flowcpc.pipeline.extraction.cuts import cut_scores
from flowcpc.pipeline.extraction.segmentation import find_segments, find_shots, frame_statistics
from flowcpc.pipeline.tvl1.solver import compute_flow
from flowcpc.stores import layout
from flowcpc.stores.encoding import DEFAULT
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.records import record_file

BLOCK = 250  # flows
NUMERICS = {"height": 256, "width": 342, "encoding": DEFAULT.to_json()}

OPEN = """
import json, resource, sys, time
import pandas, pyarrow.parquet, flowcpc.stores.flow_store
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
videos = flowcpc.stores.flow_store.open_store(sys.argv[1]).videos()
seconds = time.perf_counter() - began
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([len(videos), seconds, (after - before) / 1e3]))
"""


def writing_share(folder: Path, clips: int) -> tuple[float, float]:
    """Time of encoding, statistics and the committed write against that of the solver on one
    thread, for both formats.
    """
    shares = []
    frames = [gray_frames(clip, 256, 342) for clip in spread(clips)]
    began = time.perf_counter()
    flows = [compute_flow(part, threads=1) for part in frames]
    solving = time.perf_counter() - began
    for array_format in ("zarr", "hdf5"):
        store = create_store(folder / array_format, NUMERICS, array_format)
        commit_flow(store, "warm", flows[0][:2])
        began = time.perf_counter()
        for n, flow in enumerate(flows):
            store_flow(store, f"v{n}", frames[n], flow)
        shares.append((time.perf_counter() - began) / solving)
    return shares[0], shares[1]


def store_flow(store: FlowStore, video_id: str, frames: np.ndarray, flow: np.ndarray) -> None:
    """All that an extraction does with a video's flow once it has it."""
    codes = store.encoding.encode(flow)
    scores = cut_scores(frames, flow)
    columns = frame_statistics(flow, codes, store.encoding)
    columns["time_s"] = [n / 25 for n in range(len(flow))]
    columns["cut"] = [bool(score > 1) for score in scores]
    shots = find_shots(columns, columns["cut"])
    source = {
        "video_id": video_id,
        "path": f"{video_id}.avi",
        "label": None,
        "group": None,
        "folds": {},
    }
    with store.write_video(video_id) as writer:
        writer.append(codes)
        writer.commit(
            source,
            {"fps": 25.0},
            frames=columns,
            shots=shots,
            segments=find_segments(columns, shots),
        )


def opening(folder: Path, videos: int) -> tuple[int, float, float, float]:
    """Synthetic commits of as many videos as UCF-101 has: (videos, seconds, MB) of opening, seconds
    of rebuilding the index.
    """
    store = create_store(folder / "many", NUMERICS | {"height": 16, "width": 20})
    commit_flow(
        store,
        "v",
        np.zeros((180, 2, 16, 20), np.float32),
        label="X",
        group="g",
        folds={"fold1": "train"},
    )
    commit = store.commit_of("v")
    assert commit is not None
    for n in range(videos):
        name = f"v_Class{n % 101}_g{n % 25:02d}_c{n // 101:03d}"
        record_file.write_record(
            layout.commit_path(store.path, name),
            {**commit, "video_id": name, "label": f"Class{n % 101}"},
        )
    layout.commit_path(store.path, "v").unlink()
    rebuilding = seconds(store.consolidate)
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(store.path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return (*json.loads(done.stdout), rebuilding)


def long_video(folder: Path, blocks: int) -> tuple[int, float]:
    """Write small flow block by block; (flows, MB that the process grew by while it did)."""
    store = create_store(folder / "long", NUMERICS | {"height": 64, "width": 86})
    block = np.random.default_rng(0).normal(0, 1, (BLOCK, 2, 64, 86)).astype(np.float32)
    codes = store.encoding.encode(block)
    columns = frame_statistics(block, codes, store.encoding)
    with store.write_video("warm") as writer:
        writer.append(codes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with store.write_video("long") as writer:
        for _ in range(blocks):
            writer.append(codes)
        many = {name: values * blocks for name, values in columns.items()}
        flows = blocks * BLOCK
        many |= {"time_s": [n / 25 for n in range(flows)], "cut": [False] * flows}
        shots = find_shots(many, many["cut"])
        source = {"video_id": "long", "path": "long.avi", "label": None, "group": None, "folds": {}}
        writer.commit(
            source, {"fps": 25.0}, frames=many, shots=shots, segments=find_segments(many, shots)
        )
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    np.testing.assert_array_equal(store.read_codes("long", flows - BLOCK), codes)
    return store.open_video("long").shape[0], grown


def main() -> None:
    """Measure, print and record."""
    parser = make_parser(__doc__, "storage", clips=3, videos=13_320, minutes=60)
    arguments = parser.parse_args()
    blocks = arguments.minutes * 60 * 25 // BLOCK
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flows, grown = long_video(folder, blocks)
        zarr_share, hdf5_share = writing_share(folder, arguments.clips)
        videos, opened, megabytes, rebuilding = opening(folder, arguments.videos)
    write_record(
        arguments.out / "store.md",
        "Storing",
        "`python -m benchmarks.storage.bench_store`.",
        "- Writing at 256x342 (encoding, statistics, cuts, compression, sync, reading back, "
        f"commit) against the solver on one thread: {zarr_share:.1%} of its time for Zarr, "
        f"{hdf5_share:.1%} for HDF5.\n"
        f"- Opening a store of {videos} videos and answering `videos()`: {opened:.2f} s and "
        f"{megabytes:.0f} MB beyond the imports; rebuilding its index from the records takes "
        f"{rebuilding / opened:.0f} times as long.\n"
        f"- {arguments.minutes} minutes of video, {flows} flows of 64x86 "
        f"({flows * 2 * 64 * 86 / 1e6:.0f} MB of codes), written in blocks of {BLOCK}: the process "
        f"grew by {grown:.0f} MB, most of it the record's columns.",
    )


if __name__ == "__main__":
    main()
