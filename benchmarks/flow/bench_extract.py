"""Where a worker's seconds go, from video files to committed flow on one thread, with the decoder
in a process beside it.

Run `python -m benchmarks.flow.bench_extract`; `make bench` does. Writes
docs/benchmarks/flow/extract.md.
"""

import os
import tempfile
import time

from benchmarks.real_flow import CLIPS, as_video, gray_frames, spread
from benchmarks.record import make_parser, table, write_record
from flowcpc.pipeline.extraction.extract import ExtractionSettings, extract_video
from flowcpc.stores.flow_store import create_store
from flowcpc.stores.inspection.status import read_status

STAGES = {
    "decode": "waiting for frames",
    "flow": "the solver",
    "encode": "codes, statistics, cuts",
    "write": "compressing, writing, reading back",
    "other": "opening the store, records",
}


def main() -> None:
    """Measure, print and record."""
    arguments = make_parser(__doc__, "flow", clips=12).parse_args()
    chosen = [as_video(clip) for clip in spread(arguments.clips + 1)]
    with tempfile.TemporaryDirectory() as place:
        settings = ExtractionSettings(str(CLIPS), f"{place}/warm")
        create_store(settings.store, settings.numerics())
        extract_video(settings, chosen.pop())  # loads kernels, and starts the decoder
        settings = ExtractionSettings(str(CLIPS), f"{place}/store")
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
    height, width = settings.height, settings.width
    began = time.perf_counter()
    frames = sum(len(gray_frames(CLIPS / video.path, height, width)) for video in chosen)
    decoding = (time.perf_counter() - began) / frames
    (host,) = status.hosts.to_dict("records")
    write_record(
        arguments.out / "extract.md",
        "Extraction",
        f"`python -m benchmarks.flow.bench_extract`: {len(outcomes)} UCF-101 clips ({pairs} pairs) "
        f"at {height}x{width}, one after the other in one process on one thread, kernels compiled "
        "and the decoder started before.",
        table(
            ["stage", "what", "ms per pair", "share"],
            [
                [name, STAGES[name], f"{value / pairs * 1e3:.3f}", f"{value / elapsed:.1%}"]
                for name, value in seconds.items()
            ],
        ),
        f"{pairs / elapsed:.1f} pairs/s. Decoding takes {decoding * 1e3:.2f} ms per frame of its "
        f"own process. Largest memory: worker {host['worker_peak_bytes'] >> 20} MB, decoder "
        f"{host['decoder_peak_bytes'] >> 20} MB. Load of the machine (1 minute) at the end: "
        f"{os.getloadavg()[0]:.1f}.",
    )


if __name__ == "__main__":
    main()
