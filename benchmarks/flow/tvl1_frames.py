"""The real frames that the benchmarks of TV-L1 compare solvers on."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from checkout import real_data_folder
from numpy.typing import NDArray

from benchmarks.real_flow import CLIPS, gray_frames
from flowcpc.pipeline.tvl1.solver import compute_flow

Frames = NDArray[np.uint8]
DATA = real_data_folder()
SIZES = ((240, 320), (256, 342))
SPEED_CLIPS = (
    "v_Archery_g01_c04",
    "v_BasketballDunk_g10_c03",
    "v_HorseRace_g14_c01",
    "v_PlayingPiano_g01_c03",
    "v_PlayingViolin_g22_c01",
    "v_Surfing_g05_c01",
)
CUT = "scene cut"


def require_clips() -> None:
    """Exit with a sentence where the real clips and pictures are absent."""
    if not (DATA / "videos.csv").is_file():
        raise SystemExit(
            f"this benchmark needs real clips, and {DATA} has none; set FLOWCPC_TEST_DATA to a "
            "folder that has them"
        )


def clip_frames(path: Path, height: int, width: int, start: int | None, count: int) -> Frames:
    """`count` frames from `start`, by default from the middle of the clip."""
    frames = gray_frames(path, height, width)
    first = len(frames) // 2 if start is None else start
    return np.ascontiguousarray(frames[first : first + count])


def speed_clip(name: str) -> Path:
    """Path of a clip; another one of its class where that group has no such clip."""
    folder = CLIPS / name.split("_")[1]
    path = folder / f"{name}.avi"
    if path.exists():
        return path
    return min(folder.glob(f"{name[:-4]}*.avi"), default=min(folder.glob("*.avi")))


def image_pair(*paths: Path) -> Frames:
    """Two gray images."""
    return np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths])


def real_pairs() -> Iterator[tuple[str, Frames]]:
    """Pairs of real frames: quiet and fast motion, a cut, packed B-frames, stills of other sets."""
    for path in sorted(CLIPS.glob("*/*.avi"))[::12]:
        yield path.stem, clip_frames(path, *SIZES[0], None, 2)
    for n, path in enumerate(sorted((DATA / "clips").rglob("*.*"))):
        yield f"{path.parent.name} clip {n + 1}", clip_frames(path, *SIZES[0], None, 2)
    yield CUT, clip_frames(DATA / "bad" / "scene_cut.avi", *SIZES[0], 19, 2)
    stills = DATA / "flow_gt"
    yield (
        "basketball",
        image_pair(*(stills / "opencv_pairs" / f"basketball{n}.png" for n in (1, 2))),
    )
    yield "IPOL", image_pair(*(stills / "ipol_tvl1" / f"I{n}.png" for n in (0, 1)))
    yield (
        "RubberWhale 4-5",
        image_pair(*(stills / "rubberwhale_seq" / f"frame0{n}.png" for n in (4, 5))),
    )


def pack(path: Path) -> None:
    """Write gray frames of real clips, and OpenCV's flow of a pair of each, to one file."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for height, width in SIZES:
        for name in SPEED_CLIPS:
            frames = clip_frames(speed_clip(name), height, width, 0, 33)
            arrays[f"frames {height}x{width} {name}"] = frames
            if (height, width) == SIZES[0]:
                flow = compute_flow(frames[16:18], backend="opencv")[0]
                arrays[f"opencv {name}"] = flow.astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
