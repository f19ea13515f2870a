"""What stored frames cost: bytes and error by how they are stored, the time they add to an
extraction, and windows read per second.

Run `python -m benchmarks.storage.bench_frames`; `make bench` does. Writes
docs/benchmarks/storage/frames.md. Times are processor time, also of the decoder's process, so that
other load weighs little.
"""

import io
import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.real_flow import CLIPS, as_video, spread
from benchmarks.record import make_parser, table, write_record
from flowcpc.pipeline.decoding import frames as pipeline_frames
from flowcpc.pipeline.decoding.decoder import end_idle_decoders
from flowcpc.pipeline.extraction.extract import ExtractionSettings, extract_video
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.window_reader import WindowReader

SIZE, CROP, FRAMES, WINDOWS = (256, 342), (224, 224), 10, 100
WAYS = {
    "quality 95, 4:2:0": (95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
    "quality 95, 4:4:4": (95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    "quality 90, 4:2:0": (90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
}


def colour_frames(clips: list[Path]) -> list[np.ndarray]:
    """Every tenth frame of some clips as extraction brings it to size, BGR."""
    found = []
    for clip in clips:
        video = cv2.VideoCapture(str(clip), cv2.CAP_FFMPEG)
        number = 0
        while (frame := video.read())[0]:
            if number % 10 == 0:
                found.append(pipeline_frames._resized(np.asarray(frame[1], np.uint8), *SIZE))
            number += 1
    return found


def ways(frames: list[np.ndarray]) -> list[list[str]]:
    """A row for each way to store frames."""
    rows = []
    for name, (quality, sampling) in WAYS.items():
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        began = time.process_time()
        jpegs = [cv2.imencode(".jpg", frame, options)[1].tobytes() for frame in frames]
        encoded = time.process_time()
        pictures = [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs]
        decoded = time.process_time()
        errors = np.stack(
            [
                np.abs(a.astype(np.int16) - b[:, :, ::-1])
                for a, b in zip(pictures[::4], frames[::4], strict=True)
            ]
        )
        size = np.mean([len(jpeg) for jpeg in jpegs]) / 1e3
        milliseconds = [value / len(frames) * 1e3 for value in (encoded - began, decoded - encoded)]
        row = [name, f"{size:.1f}", f"{errors.mean():.2f}", f"{np.percentile(errors, 99):.0f}"]
        rows.append(row + [f"{value:.2f}" for value in milliseconds])
    return rows


def extraction(folder: Path, clips: list[Path], with_frames: bool) -> tuple[FlowStore, float]:
    """Extract some clips; (store, seconds of all processes)."""
    settings = ExtractionSettings(str(CLIPS), str(folder), with_frames=with_frames)
    store = create_store(folder, settings.numerics())
    end_idle_decoders()
    began = _seconds()
    for clip in clips:
        extract_video(settings, as_video(clip))
    end_idle_decoders()
    return store, _seconds() - began


def _seconds() -> float:
    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def windows_per_second(reader: WindowReader, lengths: np.ndarray) -> float:
    """Random windows of one thread, per second of processor time."""
    rng = np.random.default_rng(0)
    videos = rng.integers(0, len(lengths), WINDOWS)
    starts = rng.integers(0, lengths[videos] - FRAMES)[:, None]
    corners = rng.integers(0, np.array(SIZE) - CROP + 1, (WINDOWS, 1, 2))
    for timed in (slice(0, 8), slice(8, WINDOWS)):
        began = time.process_time()
        reader.read_windows(videos[timed], starts[timed], FRAMES, corners=corners[timed], size=CROP)
    return (WINDOWS - 8) / (time.process_time() - began)


def main() -> None:
    """Measure, print and record."""
    arguments = make_parser(__doc__, "storage", clips=12, extracted=2).parse_args()
    cv2.setNumThreads(1)
    rows = ways(colour_frames(spread(arguments.clips)))
    clips = spread(arguments.extracted + 1)[1:]
    with tempfile.TemporaryDirectory() as name:
        extraction(Path(name, "warm"), clips[:1], True)
        _, without = extraction(Path(name, "without"), clips, False)
        store, having = extraction(Path(name, "with"), clips, True)
        videos = store.videos()
        names, lengths = videos["video_id"].tolist(), videos["flows"].to_numpy()
        frames = WindowReader(store, names, frames=True, threads=1)
        frames_rate = windows_per_second(frames, lengths)
        flows_rate = windows_per_second(WindowReader(store, names, threads=1), lengths)
    pairs, size = int(lengths.sum()), int(videos["frame_bytes"].sum())
    write_record(
        arguments.out / "frames.md",
        "Stored frames",
        f"`python -m benchmarks.storage.bench_frames`. Every tenth frame of {arguments.clips} "
        "UCF-101 clips at 256x342: KB per frame, error of the three colours against the frame "
        "before JPEG (of 255), encoding by OpenCV, decoding by Pillow.",
        table(["JPEG", "KB", "mean error", "p99", "ms to encode", "ms to decode"], rows),
        f"{len(clips)} clips ({pairs} pairs) extracted with `--with-frames`: "
        f"{having / without:.3f} of the processor time without, "
        f"{size / (pairs + len(clips)) / 1e3:.1f} KB per frame beside "
        f"{(videos['bytes'].sum() - size) / pairs / 1e3:.1f} KB per flow.",
        f"Random windows of {FRAMES} with a crop of 224x224, on one core: {frames_rate:.0f} "
        f"windows of frames per second, {flows_rate:.0f} of flow.",
    )


if __name__ == "__main__":
    main()
