"""Make what tests need: videos, flow in stores, commands; and compare two stores."""

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from checkout import ROOT
from numpy.typing import NDArray
from textures import moving_texture

if TYPE_CHECKING:  # a GPU machine runs its tests without what the stores need
    from flowcpc.stores.flow_store import FlowStore

# Columns that differ between two runs over the same videos.
COLUMNS_OF_A_RUN = (
    "seconds", "decode_seconds", "flow_seconds", "encode_seconds", "write_seconds",
    "pairs_per_second", "worker_peak_bytes", "decoder_peak_bytes", "host", "pid", "committed",
    "generation", "time", "attempts",
)  # fmt: skip

FRAMES = {
    "frames": {"codec": "jpeg", "quality": 95, "subsampling": "4:2:0"}
}  # in the numerics of a store that holds frames


def some_jpegs(count: int, height: int, width: int, seed: int = 0) -> list[bytes]:
    """Frames as a store keeps them: pictures of smooth colours and some noise, no two alike."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    jpegs = []
    for number in range(count):
        colours = [
            128 + 100 * np.sin((y * (1 + c) + x + 9 * number + 40 * seed) / 11) for c in range(3)
        ]
        picture = np.stack(colours, axis=-1) + rng.normal(0, 3, (height, width, 3))
        file = io.BytesIO()
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
        jpegs.append(file.getvalue())
    return jpegs


def commit_flow(
    store: "FlowStore",
    video_id: str,
    flow: NDArray[np.float32],
    *,
    cuts: Sequence[int] = (),
    **source: object,
) -> None:
    """Commit one video's flow, float32 (n, 2, H, W) px, with the statistics of an extraction.

    The store also gets frames if its numerics name them. Flows `cuts` span a cut.
    """
    from flowcpc.pipeline.extraction.segmentation import find_segments, find_shots, frame_statistics

    codes = store.encoding.encode(flow)
    frames = frame_statistics(flow, codes, store.encoding)
    frames["time_s"] = [t / 25.0 for t in range(len(flow))]
    frames["cut"] = [t in cuts for t in range(len(flow))]
    shots = find_shots(frames, frames["cut"])
    described = (
        {"path": f"{video_id}.avi", "label": None, "group": None, "folds": {}}
        | source
        | {"video_id": video_id}
    )
    video = {"fps": 25.0, "decoded_frames": len(flow) + 1}
    with store.write_video(video_id, flow.shape[2:]) as writer:
        writer.append(codes)
        if store.has_frames:
            writer.append_frames(some_jpegs(len(flow) + 1, *flow.shape[2:], seed=len(video_id)))
        writer.commit(
            described, video, frames=frames, shots=shots, segments=find_segments(frames, shots)
        )


def write_video(path: Path, frames: NDArray[np.uint8], *, fps: float = 25.0) -> Path:
    """Write gray frames, uint8 (T, H, W), as a Motion JPEG file and return its path."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, frames.shape[:0:-1], True
    )
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()
    return path


def write_class_folders(
    root: Path, classes: Mapping[str, tuple[float, float]], *, clips: int = 3, frames: int = 6
) -> Path:
    """Write clips of moving textures as ROOT/<Class>/v_<Class>_gGG_c01.avi and return ROOT."""
    for c, (label, step) in enumerate(sorted(classes.items())):
        for clip in range(clips):
            texture = moving_texture(frames, 24, 32, step=step, seed=100 * c + clip)
            write_video(root / label / f"v_{label}_g{clip + 1:02d}_c01.avi", texture)
    return root


def assert_same_store(first: Path, second: Path, *, but: str = "") -> None:
    """Two stores hold the same arrays and index values.

    Columns that name a run (times, host, generations) and the column `but` may differ.
    """
    import pandas as pd

    from flowcpc.stores.flow_store import open_store
    from flowcpc.stores.records.catalog import TABLES

    a, b = open_store(first), open_store(second)
    assert a.numerics == b.numerics
    for table in TABLES:
        left, right = getattr(a, table)(), getattr(b, table)()
        pd.testing.assert_frame_equal(
            left.drop(columns=[*COLUMNS_OF_A_RUN, but], errors="ignore"),
            right.drop(columns=[*COLUMNS_OF_A_RUN, but], errors="ignore"),
        )
    for video_id in a.videos()["video_id"]:
        np.testing.assert_array_equal(a.read_codes(video_id), b.read_codes(video_id))
        if a.has_frames:
            np.testing.assert_array_equal(a.read_frames(video_id), b.read_frames(video_id))


def change_numerics(store: Path, **values: object) -> None:
    """Make `store` one that was written with other numerics: store.json and every commit say so."""
    from flowcpc.stores.records.commits import digest_of
    from flowcpc.stores.records.record_file import read_record, write_record

    meta = read_record(store / "store.json")
    meta["numerics"] |= values
    write_record(store / "store.json", meta)
    for path in (store / "commits").glob("*/*.json"):
        write_record(
            path,
            read_record(path) | {"numerics": digest_of(meta["array_format"], meta["numerics"])},
        )


def extraction_command(
    videos: Path, store: Path, *further: str, size: str, workers: int | None = 0
) -> list[str]:
    """Return the command line of a `flowcpc extract-flow` process.

    workers=None leaves the number of workers out.
    """
    places = [] if workers is None else ["--workers", str(workers)]
    words = ["extract-flow", str(videos), str(store), "--size", size, *places, *further]
    return [sys.executable, str(ROOT / "cli.py"), *words]


def touch(root: Path, *names: str) -> Path:
    """Make empty files of these names under `root` and return it."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root
