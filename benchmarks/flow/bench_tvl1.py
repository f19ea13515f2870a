"""Our TV-L1 beside OpenCV's: speed at the same work, where the time goes, and how far the flows
differ, on real frames.

Run `python -m benchmarks.flow.bench_tvl1`; `make bench` does. Prints tables and writes
docs/benchmarks/flow/tvl1.md. Both sides get the same gray frames and parameters and are timed in
turns in the same process; figures are medians over rounds of ratios within a round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from records import ROOT, machine_record, real_data_folder
from tvl1_cases import endpoint_error, middlebury, within

from flowcpc.pipeline.decoding.frame_size import FrameSize
from flowcpc.pipeline.decoding.frames import FrameReader
from flowcpc.pipeline.tvl1.constants import make_constants
from flowcpc.pipeline.tvl1.cpu import iterate, median, warp
from flowcpc.pipeline.tvl1.cpu import solve as cpu
from flowcpc.pipeline.tvl1.cpu.resize import build_levels
from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.pipeline.tvl1.pyramid import make_pyramid
from flowcpc.pipeline.tvl1.solver import compute_flow, prepare

Frames = NDArray[np.uint8]
Flow = NDArray[np.float32]
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
MIDDLEBURY = ("Dimetrodon", "Grove2", "RubberWhale", "Venus")
OLD_OPENCV = "4.10.0.84"
CUT = "scene cut"


def clip_frames(path: Path, height: int, width: int, start: int | None, count: int) -> Frames:
    """`count` frames from `start`, by default from the middle of the clip."""
    frames = np.concatenate(list(FrameReader(path, FrameSize(height, width)).blocks()))
    first = len(frames) // 2 if start is None else start
    return np.ascontiguousarray(frames[first : first + count])


def ucf6_clip(name: str) -> Path:
    """Path of a clip; another one of its class where that group has no such clip."""
    folder = DATA / "ucf6" / "videos" / name.split("_")[1]
    path = folder / f"{name}.avi"
    return (
        path
        if path.exists()
        else min(folder.glob(f"{name[:-4]}*.avi"), default=min(folder.glob("*.avi")))
    )


def image_pair(*paths: Path) -> Frames:
    """Two gray images."""
    return np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths])


def real_pairs() -> Iterator[tuple[str, Frames]]:
    """Pairs of real frames: quiet and fast motion, a cut, packed B-frames, stills of other sets."""
    for path in sorted((DATA / "ucf6" / "videos").glob("*/*.avi"))[::12]:
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


def speed(rounds: int, pairs: int) -> list[str]:
    """Table of pairs/s of both sides, at both sizes, on one and two threads; ratio per clip."""
    lines = [
        "| frames | threads | OpenCV, pairs/s | flowcpc, pairs/s | ratio | ratio per clip, least "
        "to most |",
        "|---|---|---|---|---|---|",
    ]
    for height, width in SIZES:
        clips = [
            clip_frames(ucf6_clip(name), height, width, None, pairs + 1) for name in SPEED_CLIPS
        ]
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            ratios: list[list[float]] = [[] for _ in clips]
            rates: dict[str, list[float]] = {"opencv": [], "cpu": []}
            for number in range(rounds):
                totals = {"opencv": 0.0, "cpu": 0.0}
                for clip, frames in enumerate(clips):
                    seconds = {}
                    for backend in ("opencv", "cpu") if number % 2 else ("cpu", "opencv"):
                        began = time.perf_counter()
                        compute_flow(frames, backend=backend, threads=threads)
                        seconds[backend] = time.perf_counter() - began
                        totals[backend] += seconds[backend]
                    ratios[clip].append(seconds["opencv"] / seconds["cpu"])
                for backend, total in totals.items():
                    rates[backend].append(len(clips) * pairs / total)
            ratio = statistics.median(
                ours / theirs for ours, theirs in zip(rates["cpu"], rates["opencv"], strict=True)
            )
            theirs, ours = (statistics.median(rates[backend]) for backend in ("opencv", "cpu"))
            spread = sorted(statistics.median(clip) for clip in ratios)
            lines.append(
                f"| {height}x{width} | {threads} | {theirs:.2f} | {ours:.1f} | **{ratio:.1f}** | "
                f"{', '.join(f'{value:.0f}' for value in spread)} |"
            )
            print(lines[-1], flush=True)
    cv2.setNumThreads(1)
    return lines


def median_seconds(function: Callable[[], object], rounds: int) -> float:
    """Median time of a call, after one that is not counted."""
    function()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def stages(rounds: int) -> list[str]:
    """Table of the stages of a solve at 240x320 on one thread: time per pixel, work per pair, share
    of the whole.
    """
    height, width = SIZES[0]
    parameters = TVL1Parameters()
    pyramid = make_pyramid(height, width, parameters)
    c = make_constants(parameters, pyramid)
    buffers = cpu.Buffers(pyramid)
    solve = cpu.pair_solver(pyramid, parameters)
    clips = [clip_frames(ucf6_clip(name), height, width, None, 2) for name in SPEED_CLIPS]
    levels = [np.zeros((2, int(pyramid.offsets[-1]) + 64), np.float32) for _ in clips]
    tables = pyramid.sizes, pyramid.offsets, pyramid.down_index, pyramid.down_fraction
    for frames, pair in zip(clips, levels, strict=True):
        for t in range(2):
            build_levels(frames[t], *tables, pair[t])
    flow = np.zeros((2, height, width), np.float32)
    work = [solve(*pair, buffers, flow) for pair in levels]
    whole = median_seconds(lambda: [solve(*pair, buffers, flow) for pair in levels], rounds) / len(
        levels
    )
    state, other, coefficients, interleaved, scratch, weights, taps, addresses, _ = buffers.arrays
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
    lines = [
        "| stage | ns per pixel | full-size images per pair | share of the time |",
        "|---|---|---|---|",
    ]
    rest = 1.0
    total = whole + median_seconds(per_call["pyramid of a frame"], rounds)
    for name, call in per_call.items():
        calls = iterate.LONGEST_PASS if name == "iterate" else 1
        seconds = median_seconds(call, 5 * rounds) / calls
        share = seconds * times[name] / total
        rest -= share
        lines.append(
            f"| {name} | {1e9 * seconds / pixels:.2f} | {times[name]:.1f} | {100 * share:.0f} % |"
        )
    lines.append(f"| replays, flow between levels, the rest | | | {100 * rest:.0f} % |")
    return lines


def flow_of_old_opencv(pairs: dict[str, Frames]) -> dict[str, Flow]:
    """The flow of OpenCV 4.10, installed into a folder of its own; empty where it cannot be
    fetched.
    """
    code = (
        "import sys, numpy as np; sys.path.insert(0, sys.argv[1]); import cv2; "
        "cv2.setNumThreads(1)\n"
        "pairs = np.load(sys.argv[2]); solve = lambda a, b: "
        "cv2.optflow.DualTVL1OpticalFlow_create().calc(a, b, None)\n"
        "np.savez(sys.argv[3], **{name: solve(*pairs[name]).transpose(2, 0, 1) for name in pairs})"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        install = [
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            name,
            f"opencv-contrib-python-headless=={OLD_OPENCV}",
        ]
        if subprocess.run([sys.executable, "-m", *install], capture_output=True).returncode:
            return {}
        np.savez(folder / "pairs.npz", **pairs)
        command = [
            sys.executable,
            "-c",
            code,
            name,
            str(folder / "pairs.npz"),
            str(folder / "flow.npz"),
        ]
        subprocess.run(command, check=True)
        with np.load(folder / "flow.npz") as flow:
            return {pair: flow[pair] for pair in pairs}


def opencv_without_ipp(frames: Frames) -> Flow:
    """OpenCV's flow without Intel's library, which it uses where the processor suits."""
    cv2.ipp.setUseIPP(False)
    try:
        return compute_flow(frames, backend="opencv")[0]
    finally:
        cv2.ipp.setUseIPP(True)


def with_one_pixel_changed(frames: Frames) -> Frames:
    """The same frames but for the last bit of one pixel."""
    changed = frames.copy()
    changed[0, frames.shape[1] // 2, frames.shape[2] // 2] ^= 1
    return changed


def parity() -> list[str]:
    """Table of the differences per pair, and of OpenCV's own: with and without IPP, one gray level
    apart, 4.10 and 5.
    """
    pairs = {name: middlebury(DATA, name)[0] for name in MIDDLEBURY} | dict(real_pairs())
    flows = {}
    for number, (name, frames) in enumerate(pairs.items()):
        print(f"\rparity: pair {number + 1} of {len(pairs)} ", end="", file=sys.stderr, flush=True)
        ours, theirs = (compute_flow(frames, backend=backend)[0] for backend in ("cpu", "opencv"))
        flows[name] = {"ours": ours, "opencv": theirs, "no ipp": opencv_without_ipp(frames)}
        flows[name]["changed"] = compute_flow(with_one_pixel_changed(frames), backend="opencv")[0]
    print(file=sys.stderr)
    for name, flow in flow_of_old_opencv(pairs).items():
        flows[name]["old"] = flow
    lines = [
        "| pair | flow, px | within 0.1 px | median | 99 % | 99.9 % | OpenCV, IPP on and off | "
        "OpenCV, one pixel changed | OpenCV 5, 4.10 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]

    def row(title: str, chosen: list[dict[str, Flow]]) -> str:
        def largest(a: str, b: str) -> Flow:
            return np.concatenate(
                [np.abs(flow[a] - flow[b]).max(axis=0).ravel() for flow in chosen]
            )

        def share(values: Flow) -> str:
            return f"{100 * (values < 0.1).mean():.2f} %"

        mean = np.mean([np.hypot(*flow["opencv"]).mean() for flow in chosen])
        difference = largest("ours", "opencv")
        percentiles = " | ".join(
            f"{value:.2g}" for value in np.percentile(difference, (50, 99, 99.9))
        )
        old = (
            share(largest("opencv", "old"))
            if all("old" in flow for flow in chosen)
            else "not measured"
        )
        own = " | ".join(share(largest("opencv", other)) for other in ("no ipp", "changed"))
        return f"| {title} | {mean:.2f} | {share(difference)} | {percentiles} | {own} | {old} |"

    lines += [row(name, [flow]) for name, flow in flows.items()]
    steady = [flow for name, flow in flows.items() if name != CUT]
    lines.append(row(f"**all pixels of {len(steady)} pairs, without the cut**", steady))
    lines.append(row(f"**all pixels of {len(flows)} pairs**", list(flows.values())))
    least = min(within(flow["ours"], flow["opencv"]) for flow in steady)
    lines += [
        "",
        f"Least share of a single pair within 0.1 px, the cut aside: {100 * least:.2f} %.",
        "",
    ]
    lines += ["| ground truth | flowcpc, AEE px | OpenCV 5, AEE px | ratio |", "|---|---|---|---|"]
    for name in MIDDLEBURY:
        truth = middlebury(DATA, name)[1]
        ours, theirs = (endpoint_error(flows[name][side], truth) for side in ("ours", "opencv"))
        lines.append(f"| {name} | {ours:.4f} | {theirs:.4f} | {ours / theirs:.4f} |")
    return lines


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--pairs", type=int, default=2, help="pairs of a clip in the measurement of speed"
    )
    arguments = parser.parse_args()
    if not (DATA / "videos.csv").is_file():
        print(
            f"bench_tvl1 was left out: no real clips at {DATA}; set FLOWCPC_TEST_DATA to a folder "
            "that has them"
        )
        return
    prepare("cpu")
    sections = [
        "# TV-L1 on the processor",
        '`make bench`; `backend="cpu"` beside OpenCV\'s DualTVL1 with the same parameters on the '
        "same gray frames.",
        "## Speed",
        f"{arguments.pairs} pairs of each of {len(SPEED_CLIPS)} UCF-101 clips; medians of "
        f"{arguments.rounds} rounds in turns, ratios within a round.",
        "\n".join(speed(arguments.rounds, arguments.pairs)),
        "## Where the time goes",
        "One pair of each of the same clips at 240x320, one thread. OpenCV's iteration takes 62-69 "
        "ns per pixel, the fused loop that a C compiler "
        "makes of it 2-3 ns (the specification's figures, from another machine).",
        "\n".join(stages(4 * arguments.rounds)),
        f"Peak memory of a process after 1,000 frames of 256x342: {peak_memory():.2f} GB.",
        "## The same flow",
        "Differences are the larger one of the two components, px; shares are of pixels that "
        "differ by less than 0.1 px. The last three columns "
        "say how far OpenCV's flow is from itself: IPP is Intel's library, the one pixel changes "
        "by one gray level. Across a cut nothing of "
        "one frame is in the other: the flow there is an accident of rounding, OpenCV's as much as "
        "ours.",
        "\n".join(parity()),
        machine_record(),
    ]
    text = "\n\n".join(sections) + "\n"
    print(text)
    (ROOT / "docs" / "benchmarks" / "flow").mkdir(parents=True, exist_ok=True)
    (ROOT / "docs" / "benchmarks" / "flow" / "tvl1.md").write_text(text)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
