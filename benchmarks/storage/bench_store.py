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
from real_flow import gray_frames, spread
from records import ROOT, machine_record

from flowcpc.pipeline.extraction.cuts import cut_scores
from flowcpc.pipeline.extraction.segmentation import find_segments, find_shots, frame_statistics
from flowcpc.pipeline.tvl1.solver import compute_flow
from flowcpc.stores import layout
from flowcpc.stores.encoding import DEFAULT
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.records import record_file

VIDEOS, HOUR = 13_320, 3600 * 25
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


def writing_share(folder: Path) -> tuple[float, float]:
    """Time of encoding, statistics and the committed write against that of the solver on one
    thread, for both formats.
    """
    shares = []
    frames = [gray_frames(clip, 256, 342) for clip in spread(3)]
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


def opening(folder: Path) -> tuple[int, float, float, float]:
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
    for n in range(VIDEOS):
        name = f"v_Class{n % 101}_g{n % 25:02d}_c{n // 101:03d}"
        record_file.write_record(
            layout.commit_path(store.path, name),
            {**commit, "video_id": name, "label": f"Class{n % 101}"},
        )
    layout.commit_path(store.path, "v").unlink()
    began = time.perf_counter()
    store.consolidate()
    rebuilding = time.perf_counter() - began
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(store.path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return (*json.loads(done.stdout), rebuilding)


def hour_of_video(folder: Path) -> tuple[int, float]:
    """Write an hour of small flow block by block; (flows, MB that the process grew by while it
    did).
    """
    store = create_store(folder / "hour", NUMERICS | {"height": 64, "width": 86})
    block = np.random.default_rng(0).normal(0, 1, (250, 2, 64, 86)).astype(np.float32)
    codes = store.encoding.encode(block)
    columns = frame_statistics(block, codes, store.encoding)
    with store.write_video("warm") as writer:
        writer.append(codes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with store.write_video("hour") as writer:
        for _ in range(HOUR // 250):
            writer.append(codes)
        many = {name: values * (HOUR // 250) for name, values in columns.items()}
        many |= {"time_s": [n / 25 for n in range(HOUR)], "cut": [False] * HOUR}
        shots = find_shots(many, many["cut"])
        source = {"video_id": "hour", "path": "hour.avi", "label": None, "group": None, "folds": {}}
        writer.commit(
            source, {"fps": 25.0}, frames=many, shots=shots, segments=find_segments(many, shots)
        )
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    np.testing.assert_array_equal(store.read_codes("hour", HOUR - 250), codes)
    return store.open_video("hour").shape[0], grown


def main() -> None:
    """Measure, print and record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flows, grown = hour_of_video(folder)
        zarr_share, hdf5_share = writing_share(folder)
        videos, seconds, megabytes, rebuilding = opening(folder)
    text = (
        "# Storing\n\n`python -m benchmarks.storage.bench_store`.\n\n"
        "- Writing at 256x342 (encoding, statistics, cuts, compression, sync, reading back, "
        "commit) against the solver on one thread: "
        f"{zarr_share:.1%} of its time for Zarr, {hdf5_share:.1%} for HDF5.\n"
        f"- Opening a store of {videos} videos and answering `videos()`: {seconds:.2f} s and "
        f"{megabytes:.0f} MB beyond the imports; rebuilding its "
        f"index from the records takes {rebuilding / seconds:.0f} times as long.\n"
        f"- An hour of video, {flows} flows of 64x86 (991 MB of codes), written in blocks of 250: "
        f"the process grew by {grown:.0f} MB, most of it the "
        f"record's columns.\n\n{machine_record()}\n"
    )
    print(text)
    (ROOT / "docs" / "benchmarks" / "storage" / "store.md").write_text(text)


if __name__ == "__main__":
    main()
