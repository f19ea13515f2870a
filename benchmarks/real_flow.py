"""Real clips for benchmarks, their frames, and the flow in the middle of them."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from checkout import real_data_folder

from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.decoding.frame_size import FrameSize
from flowcpc.pipeline.decoding.frames import FrameReader
from flowcpc.pipeline.tvl1.solver import compute_flow

CLIPS = real_data_folder() / "ucf6" / "videos"


def clips() -> list[Path]:
    """All clips, sorted by class and name. Exits with a sentence where there are none."""
    clips = sorted(CLIPS.glob("*/*.avi"))
    if not clips:
        raise SystemExit(
            f"this benchmark needs real clips, and {real_data_folder()} has none; "
            "set FLOWCPC_TEST_DATA to a folder that has them"
        )
    return clips


def spread(count: int) -> list[Path]:
    """`count` clips spread evenly over the classes and groups."""
    found = clips()
    return [found[k * len(found) // count] for k in range(count)]


def as_video(clip: Path) -> Video:
    """A clip as a video of the folder CLIPS."""
    return Video(clip.stem, clip.relative_to(CLIPS).as_posix(), clip.parent.name, None, {})


def gray_frames(clip: Path, height: int, width: int) -> np.ndarray:
    """All frames of a clip, uint8 (T, H, W)."""
    return np.concatenate(list(FrameReader(clip, FrameSize(height, width)).blocks()))


def _middle(job: tuple[Path, int, int, int]) -> np.ndarray:
    clip, flows, height, width = job
    frames = gray_frames(clip, height, width)
    first = max(0, (len(frames) - flows - 1) // 2)
    return compute_flow(frames[first : first + flows + 1], threads=1)


def middle_flows(
    chosen: list[Path], flows: int, height: int = 256, width: int = 342
) -> list[np.ndarray]:
    """Flow in the middle of each clip, float32 (n <= flows, 2, H, W), on all cores."""
    with ProcessPoolExecutor() as pool:
        return list(pool.map(_middle, [(clip, flows, height, width) for clip in chosen]))
