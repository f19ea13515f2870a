"""TV-L1 on a CUDA device: the processor's bits, pairs per second, and how far that is from what the
device could do.

    make bench-gpu PYTHON=python3
    python -m benchmarks.flow.bench_gpu_tvl1 --pack FILE

The first command needs no .venv, but a Python with NumPy and numba-cuda, and a device. The second
one packs frames of real clips and OpenCV's flow into FILE, to carry to the machine with the device.
Without a packed file moving textures are used. Prints tables, and writes them and their JSON to
docs/benchmarks/flow/tvl1-gpu.md and tvl1-gpu.json.
"""

import json
import math
import statistics
import sys
from pathlib import Path

import numpy as np
from checkout import ROOT
from numpy.typing import NDArray
from textures import blocks_of_noise, moving_texture, odd_frames

from benchmarks.flow.cuda_device import ceilings, prepare_device
from benchmarks.record import machine_record, make_parser, table, write_record
from benchmarks.timing import median_seconds
from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.pipeline.tvl1.solver import available_threads, compute_flow

Frames = NDArray[np.uint8]
SIZES = ((240, 320), (256, 342))
PACKED = ROOT / "build" / "tvl1_frames.npz"
# Per pixel of an iteration, counted in pipeline/tvl1/cuda/iterate.py: additions and products, and
# divisions and square roots.
FLOPS, SPECIAL = 47, 6
# Values per pixel: those a pass reads with its halo, those it writes, and the coefficients that
# every iteration reads again.
READ, WRITTEN, COEFFICIENTS = 6, 6, 4


def load(
    path: Path,
) -> tuple[str, dict[tuple[int, int], list[Frames]], dict[str, NDArray[np.float32]]]:
    """Where the frames come from, clips by size, and OpenCV's flow of frames 16 and 17 by clip."""
    if not path.exists():
        steps = ((0.4, 0.1), (2.5, -1.0), (-6.0, 2.0))
        clips = {
            size: [moving_texture(33, *size, step=step, seed=n) for n, step in enumerate(steps)]
            for size in SIZES
        }
        return "moving textures", clips, {}
    with np.load(path) as file:
        clips = {
            size: [
                file[name] for name in file.files if name.startswith(f"frames {size[0]}x{size[1]} ")
            ]
            for size in SIZES
        }
        names = [
            name.split()[-1] for name in file.files if name.startswith(f"frames {SIZES[0][0]}x")
        ]
        return "UCF-101 clips", clips, {name: file[f"opencv {name}"] for name in names}


def same_bits(clips: list[Frames]) -> str:
    """Table of whether the device gives the processor's bits."""
    cases = {
        "frames of the benchmark": [clip[:9] for clip in clips],
        "odd frames": list(odd_frames().values()),
    }
    cases["noise"] = [
        blocks_of_noise(1, 61, 83),
        blocks_of_noise(2, 240, 320),
        moving_texture(3, 480, 640, step=(3, 1)),
    ]
    rows = []
    for profile in ("opencv-cpu", "opencv-cuda"):
        parameters = TVL1Parameters(profile=profile)
        for name, batches in cases.items():
            pairs = same = 0
            largest = 0.0
            for frames in batches:
                ours = compute_flow(frames, parameters=parameters, backend="cuda")
                theirs = compute_flow(frames, parameters=parameters, backend="cpu")
                pairs += len(ours)
                same += sum(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
                largest = max(largest, float(np.abs(ours - theirs).max()))
            rows.append([name, profile, pairs, same, f"{largest:.3g}"])
    columns = ["frames", "profile", "pairs", "pairs with the same bits", "largest difference, px"]
    return table(columns, rows)


def parity(clips: list[Frames], flows: dict[str, NDArray[np.float32]]) -> str:
    """Table of the differences from OpenCV's flow, where it was packed."""
    if not flows:
        return "OpenCV's flow was not packed with the frames."
    rows = []
    for frames, (name, theirs) in zip(clips, flows.items(), strict=True):
        difference = np.abs(compute_flow(frames[16:18], backend="cuda")[0] - theirs).max(axis=0)
        near = f"{100 * (difference < 0.1).mean():.2f} %"
        rows.append([name, near, f"{np.median(difference):.2g}"])
    return table(["clip", "within 0.1 px of OpenCV 5", "median difference, px"], rows)


def speed(
    clips: dict[tuple[int, int], list[Frames]], pairs: int, rounds: int
) -> tuple[str, dict[str, float]]:
    """Table of pairs/s beside the processor's solver, for batches of several sizes; figures."""
    rows, figures = [], {}
    for size, parts in clips.items():
        # Whole clips one after the other, as often as it takes; a cut between them is a
        # pair like any other.
        once = np.concatenate(parts)
        cpu = (len(once) - 1) / median_seconds(
            lambda: compute_flow(once, backend="cpu"),  # noqa: B023
            1,
        )
        for count in sorted({32, 180, pairs}):
            frames = np.resize(once, (count + 1, *size))
            rate = count / median_seconds(
                lambda: compute_flow(frames, backend="cuda"),  # noqa: B023
                rounds,
            )
            name = f"{size[0]}x{size[1]}"
            figures[f"{name} {count}"] = rate
            peer = f"{cpu:.1f} ({available_threads()} cores)"
            rows.append([name, count, f"{rate:.0f}", peer, f"{rate / cpu:.1f}"])
            print(*rows[-1], flush=True)
    columns = ["frames", "pairs in flight", "cuda, pairs/s", "cpu on all cores, pairs/s", "ratio"]
    return table(columns, rows), figures


def tiles(clips: list[Frames], pairs: int, rounds: int) -> str:
    """Table of pairs/s for other shapes of the work of a block."""
    from flowcpc.pipeline.tvl1.cuda import solve as cuda
    from flowcpc.pipeline.tvl1.cuda.iterate import DEFAULT_TILE, Tile

    frames = np.resize(np.concatenate(clips), (pairs + 1, *clips[0].shape[1:]))
    shapes = [DEFAULT_TILE]
    blocks = (64, 28, 7), (64, 28, 4), (64, 28, 14), (32, 32, 8), (64, 24, 8), (96, 19, 4)
    for width, height, rows in blocks:
        shapes += [
            Tile(width, height, rows, iterations, registers)
            for iterations in (2, 3, 4)
            for registers in (48, 64, 96)
        ]
    rates = {}
    for tile in dict.fromkeys(shapes):
        try:
            rates[tile] = pairs / median_seconds(
                lambda: cuda.compute_flow(frames, TVL1Parameters(), 0, tile),  # noqa: B023
                rounds,
            )
        except Exception as error:  # a shape that this device cannot launch is a row, not an end
            print(f"{tile}: {error}", file=sys.stderr)
    lines = []
    for tile, rate in sorted(rates.items(), key=lambda item: -item[1])[:12]:
        name = f"{tile.width}x{tile.height}" + (" (default)" if tile == DEFAULT_TILE else "")
        threads, relative = tile.width * tile.rows, f"{rate / rates[DEFAULT_TILE]:.2f}"
        lines.append([name, threads, tile.iterations, tile.registers or "any", relative])
    columns = ["tile", "threads", "iterations", "registers", "pairs/s relative to the default"]
    return table(columns, lines)


def roofline(clips: list[Frames], rate: float) -> str:
    """What a pair costs by count, and what the device's measured ceilings would allow."""
    from flowcpc.pipeline.tvl1.cpu import solve as cpu
    from flowcpc.pipeline.tvl1.cpu.resize import build_levels
    from flowcpc.pipeline.tvl1.cuda.iterate import DEFAULT_TILE
    from flowcpc.pipeline.tvl1.pyramid import make_pyramid

    parameters = TVL1Parameters()
    pyramid = make_pyramid(*clips[0].shape[1:], parameters)
    solve, buffers = cpu.pair_solver(pyramid, parameters), cpu.make_buffers(pyramid)
    tables = pyramid.sizes, pyramid.offsets, pyramid.down_index, pyramid.down_fraction
    flow = np.zeros((2, *clips[0].shape[1:]), np.float32)
    iterated = []
    for frames in clips:
        levels = np.zeros((2, int(pyramid.offsets[-1]) + 64), np.float32)
        for t in range(2):
            build_levels(frames[16 + t], *tables, levels[t])
        iterated.append(solve(*levels, buffers, flow)[0])
    work = statistics.mean(iterated)
    tile = DEFAULT_TILE
    halo = tile.width * tile.height / math.prod(tile.inner)
    traffic = work * 4 * ((READ * halo + WRITTEN) / tile.iterations + COEFFICIENTS * halo)
    bandwidth, operations = ceilings()
    lines = [
        f"- Pixel-iterations of a pair (mean of the clips, exact stopping): {work / 1e6:.1f} "
        "million.",
        f"- Bytes: {traffic / 1e9:.2f} GB a pair through the caches and memory (tile "
        f"{tile.width}x{tile.height}, {tile.iterations} iterations a pass, halo factor {halo:.2f}; "
        "the coefficients, read again in every iteration, are counted in full although caches may "
        "hold them).",
        f"- Operations: {work * halo * FLOPS / 1e9:.2f} GFlop a pair, without fused products, and "
        f"{work * halo * SPECIAL / 1e9:.2f} billion exact divisions and square roots, each some "
        "ten instructions.",
        f"- Measured ceilings: {bandwidth / 1e12:.2f} TB/s (copy, read and write counted), "
        f"{operations / 1e12:.1f} TFlop/s with fused products.",
        f"- Bytes alone would allow {bandwidth / traffic:.0f} pairs/s, operations alone (half the "
        "ceiling, as nothing is fused, and ten for each special one) "
        f"{operations / 2 / (work * halo * (FLOPS + 10 * SPECIAL)):.0f}; measured: {rate:.0f}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Pack, or measure, print and record."""
    parser = make_parser(__doc__, "flow", pairs=1024, rounds=5)
    parser.add_argument(
        "--pack",
        type=Path,
        metavar="FILE",
        help="write frames of real clips to FILE and do nothing else",
    )
    parser.add_argument(
        "--frames",
        type=Path,
        default=PACKED,
        help=f"a packed file  [default: {PACKED.relative_to(ROOT)}]",
    )
    parser.add_argument("--tiles", action="store_true", help="measure other tiles too")
    arguments = parser.parse_args()
    if arguments.pack:
        from benchmarks.flow.tvl1_frames import pack

        pack(arguments.pack)
        return
    device = prepare_device()
    origin, clips, flows = load(arguments.frames)
    first = clips[SIZES[0]]
    rates, figures = speed(clips, arguments.pairs, arguments.rounds)
    key = f"{SIZES[0][0]}x{SIZES[0][1]} {arguments.pairs}"
    write_record(
        arguments.out / "tvl1-gpu.md",
        "TV-L1 on CUDA",
        f"`make bench-gpu PYTHON=python3` on {device}; frames: {origin}. Decoding and storing are "
        "left out, copies to and from the device are in.",
        "## Speed",
        rates,
        "## The same bits as the processor",
        same_bits(first),
        "## OpenCV",
        parity(first, flows),
        "## Roofline at 240x320",
        roofline(first, figures[key]),
        *(["## Tiles", tiles(first, 256, 3)] if arguments.tiles else []),
    )
    record = {
        "device": device,
        "frames": origin,
        "pairs_per_second": figures,
        "machine": machine_record(),
    }
    (arguments.out / "tvl1-gpu.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
