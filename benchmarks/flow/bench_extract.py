"""Where a worker's seconds go, from video files to committed flow on one thread, with the decoder
in a process beside it.

Run `python -m benchmarks.flow.bench_extract`; `make bench` does. Writes
docs/benchmarks/flow/extract.md.
"""

import os
import tempfile
import time
from pathlib import Path

from real_flow import gray_frames, spread
from records import ROOT, machine_record, real_data_folder

from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.extraction.extract import ExtractionSettings, extract_video
from flowcpc.stores.flow_store import create_store
from flowcpc.stores.inspection.status import read_status

CLIPS = 12


def main() -> None:
    """Measure, print and record."""
    root = real_data_folder() / "ucf6" / "videos"
    chosen = [
        Video(clip.stem, clip.relative_to(root).as_posix(), clip.parent.name, None, {})
        for clip in spread(CLIPS + 1)
    ]
    with tempfile.TemporaryDirectory() as place:
        settings = ExtractionSettings(str(root), f"{place}/warm")
        create_store(settings.store, settings.numerics())
        extract_video(settings, chosen.pop())  # loads kernels, and starts the decoder
        settings = ExtractionSettings(str(root), f"{place}/store")
        store = create_store(settings.store, settings.numerics())
        began = time.perf_counter()
        outcomes = [extract_video(settings, video) for video in chosen]
        elapsed = time.perf_counter() - began
        status = read_status(store)
    pairs = sum(outcome.flows for outcome in outcomes)
    seconds = {
        stage: sum(outcome.stages[stage] for outcome in outcomes) for stage in outcomes[0].stages
    }
    seconds["other"] = elapsed - sum(seconds.values())
    began = time.perf_counter()
    frames = sum(
        len(gray_frames(Path(root, video.path), settings.height, settings.width))
        for video in chosen
    )
    decoding = (time.perf_counter() - began) / frames
    what = {
        "decode": "waiting for frames",
        "flow": "the solver",
        "encode": "codes, statistics, cuts",
        "write": "compressing, writing, reading back",
        "other": "opening the store, records",
    }
    lines = [
        f"| {name} | {what[name]} | {value / pairs * 1e3:.3f} | {value / elapsed:.1%} |"
        for name, value in seconds.items()
    ]
    (host,) = status.hosts.to_dict("records")
    text = (
        f"# Extraction\n\n`python -m benchmarks.flow.bench_extract`: {len(outcomes)} UCF-101 clips "
        f"({pairs} pairs) at "
        f"{settings.height}x{settings.width}, one after the other in one process on one thread, "
        "kernels compiled and the decoder started before.\n\n"
        "| stage | what | ms per pair | share |\n|---|---|---|---|\n"
        + "\n".join(lines)
        + f"\n\n{pairs / elapsed:.1f} pairs/s. Decoding takes {decoding * 1e3:.2f} ms per frame of "
        "its own process. Largest "
        f"memory: worker {host['worker_peak_bytes'] >> 20} MB, decoder "
        f"{host['decoder_peak_bytes'] >> 20} MB. Load of the machine (1 minute) at the "
        f"end: {os.getloadavg()[0]:.1f}.\n\n{machine_record()}\n"
    )
    print(text)
    (ROOT / "docs" / "benchmarks" / "flow" / "extract.md").write_text(text)


if __name__ == "__main__":
    main()
