"""Our TV-L1 beside OpenCV's: speed at the same work, where the time goes, and how far the flows
differ, on real frames.

Run `python -m benchmarks.flow.bench_tvl1`; `make bench` does. Prints tables and writes
docs/benchmarks/flow/tvl1.md. Both sides get the same gray frames and parameters and are timed in
turns in the same process; figures are medians over rounds of ratios within a round.
"""

import functools
import json
import os
import statistics
import subprocess
import sys

import cv2
import numpy as np
from checkout import ROOT

from benchmarks.flow.tvl1_frames import SIZES, SPEED_CLIPS, clip_frames, require_clips, speed_clip
from benchmarks.flow.tvl1_parity import parity
from benchmarks.record import make_parser, table, write_record
from benchmarks.timing import median_seconds, seconds
from flowcpc.pipeline.tvl1.constants import make_constants
from flowcpc.pipeline.tvl1.cpu import iterate, median, warp
from flowcpc.pipeline.tvl1.cpu import solve as cpu
from flowcpc.pipeline.tvl1.cpu.resize import build_levels
from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.pipeline.tvl1.pyramid import make_pyramid
from flowcpc.pipeline.tvl1.solver import compute_flow, prepare


def speed(rounds: int, pairs: int) -> str:
    """Table of pairs/s of both sides, at both sizes, on one and two threads; ratio per clip."""
    columns = ["frames", "threads", "OpenCV, pairs/s", "flowcpc, pairs/s", "ratio"]
    rows = []
    for height, width in SIZES:
        clips = [
            clip_frames(speed_clip(name), height, width, None, pairs + 1) for name in SPEED_CLIPS
        ]
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            ratios: list[list[float]] = [[] for _ in clips]
            rates: dict[str, list[float]] = {"opencv": [], "cpu": []}
            for number in range(rounds):
                totals = {"opencv": 0.0, "cpu": 0.0}
                for clip, frames in enumerate(clips):
                    times = {}
                    for backend in ("opencv", "cpu") if number % 2 else ("cpu", "opencv"):
                        solve = functools.partial(
                            compute_flow, frames, backend=backend, threads=threads
                        )
                        times[backend] = seconds(solve)
                        totals[backend] += times[backend]
                    ratios[clip].append(times["opencv"] / times["cpu"])
                for backend, total in totals.items():
                    rates[backend].append(len(clips) * pairs / total)
            ratio = statistics.median(
                ours / theirs for ours, theirs in zip(rates["cpu"], rates["opencv"], strict=True)
            )
            theirs, ours = (statistics.median(rates[backend]) for backend in ("opencv", "cpu"))
            spread = sorted(statistics.median(clip) for clip in ratios)
            row = [f"{height}x{width}", threads, f"{theirs:.2f}", f"{ours:.1f}", f"**{ratio:.1f}**"]
            rows.append([*row, ", ".join(f"{value:.0f}" for value in spread)])
            print(*rows[-1], flush=True)
    cv2.setNumThreads(1)
    return table([*columns, "ratio per clip, least to most"], rows)


def stages(rounds: int) -> str:
    """Table of the stages of a solve at 240x320 on one thread.

    Columns are the time per pixel, the work per pair and the share of the whole.
    """
    height, width = SIZES[0]
    parameters = TVL1Parameters()
    pyramid = make_pyramid(height, width, parameters)
    c = make_constants(parameters, pyramid)
    buffers = cpu.make_buffers(pyramid)
    solve = cpu.pair_solver(pyramid, parameters)
    clips = [clip_frames(speed_clip(name), height, width, None, 2) for name in SPEED_CLIPS]
    levels = [np.zeros((2, int(pyramid.offsets[-1]) + 64), np.float32) for _ in clips]
    tables = pyramid.sizes, pyramid.offsets, pyramid.down_index, pyramid.down_fraction
    for frames, pair in zip(clips, levels, strict=True):
        for t in range(2):
            build_levels(frames[t], *tables, pair[t])
    flow = np.zeros((2, height, width), np.float32)
    work = [solve(*pair, buffers, flow) for pair in levels]
    whole = median_seconds(lambda: [solve(*pair, buffers, flow) for pair in levels], rounds)
    state, other, coefficients, interleaved, scratch, weights, taps, addresses, _ = buffers
    stride = int(iterate.line_stride(width))
    updates = np.zeros(iterate.LONGEST_PASS, np.int64)
    size, step, pixels = (height, width), (c.tau, c.bound), height * width
    numbers, row = (c.cubic, c.to_pixels, c.smallest_gradient), iterate.STATE_LINES * stride
    per_call = {
        "pyramid of a frame": lambda: build_levels(clips[0][0], *tables, levels[0][0]),
        "gradient": lambda: warp.interleave(levels[0][1], size, False, interleaved),
        "warp": lambda: warp.warp(
            levels[0][0], interleaved, state, size, numbers, (taps, addresses), coefficients
        ),
        "iterate": lambda: iterate._pass(
            coefficients, state, other, size, step, weights, iterate.LONGEST_PASS, updates
        ),
        "median": lambda: median.median_filter(other, size, stride, row, 5, scratch),
    }
    area = float(pyramid.offsets[-1]) / pixels
    times = {
        "pyramid of a frame": 1.0,
        "gradient": area,
        "warp": parameters.warps * area,
        "iterate": statistics.mean(iterated for iterated, _ in work) / pixels,
        "median": statistics.mean(filtered for _, filtered in work) / pixels,
    }
    rows = []
    rest = 1.0
    total = whole / len(levels) + median_seconds(per_call["pyramid of a frame"], rounds)
    for name, call in per_call.items():
        calls = iterate.LONGEST_PASS if name == "iterate" else 1
        taken = median_seconds(call, 5 * rounds) / calls
        share = taken * times[name] / total
        rest -= share
        per_pixel = f"{1e9 * taken / pixels:.2f}"
        rows.append([name, per_pixel, f"{times[name]:.1f}", f"{100 * share:.0f} %"])
    rows.append(["replays, flow between levels, the rest", "", "", f"{100 * rest:.0f} %"])
    columns = ["stage", "ns per pixel", "full-size images per pair", "share of the time"]
    return table(columns, rows)


def peak_memory() -> float:
    """Peak of a process that computes 1,000 frames of 256x342 in blocks, GB."""
    code = (
        "import json, resource, benchmarks\n"
        "from textures import moving_texture; from flowcpc.pipeline.tvl1.solver import "
        "compute_flow, prepare\n"
        "import numpy as np; prepare('cpu'); frames = np.resize(moving_texture(8, 256, 342, "
        "step=(0.2, 0.1)), (32, 256, 342))\n"
        "for start in range(0, 1000, 31): compute_flow(frames, threads=1)\n"
        "print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout)) / 2**20


def main() -> None:
    """Measure, print and record."""
    arguments = make_parser(__doc__, "flow", rounds=5, pairs=2).parse_args()
    require_clips()
    prepare("cpu")
    write_record(
        arguments.out / "tvl1.md",
        "TV-L1 on the processor",
        '`make bench`; `backend="cpu"` beside OpenCV\'s DualTVL1 with the same parameters on the '
        "same gray frames.",
        "## Speed",
        f"{arguments.pairs} pairs of each of {len(SPEED_CLIPS)} UCF-101 clips; medians of "
        f"{arguments.rounds} rounds in turns, ratios within a round.",
        speed(arguments.rounds, arguments.pairs),
        "## Where the time goes",
        "One pair of each of the same clips at 240x320, one thread. OpenCV's iteration takes 62-69 "
        "ns per pixel, the fused loop that a C compiler makes of it 2-3 ns (the specification's "
        "figures, from another machine).",
        stages(4 * arguments.rounds),
        f"Peak memory of a process after 1,000 frames of 256x342: {peak_memory():.2f} GB.",
        "## The same flow",
        "Differences are the larger one of the two components, px; shares are of pixels that "
        "differ by less than 0.1 px. The last three columns say how far OpenCV's flow is from "
        "itself: IPP is Intel's library, the one pixel changes by one gray level. Across a cut "
        "nothing of one frame is in the other: the flow there is an accident of rounding, OpenCV's "
        "as much as ours.",
        *parity(),
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
