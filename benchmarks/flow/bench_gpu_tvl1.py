"""TV-L1 on a CUDA device: the processor's bits, pairs per second, and how far that is from what the
device could do.

    make bench-gpu PYTHON=python3
    python -m benchmarks.flow.bench_gpu_tvl1 --pack FILE

The first command needs no .venv, but a Python with NumPy and numba-cuda, and a device. The second
one packs frames of real clips and OpenCV's flow into FILE, to carry to the machine with the device.
Without a packed file moving textures are used. Prints tables, and writes them and their JSON to
docs/benchmarks/flow/tvl1-gpu.md and tvl1-gpu.json.
"""

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from records import ROOT, machine_record
from textures import blocks_of_noise, moving_texture, odd_frames

sys.path.insert(0, str(ROOT))
Frames = NDArray[np.uint8]
SIZES = ((240, 320), (256, 342))
PACKED = ROOT / "build" / "tvl1_frames.npz"
# Per pixel of an iteration, counted in pipeline/tvl1/cuda/iterate.py: additions and products, and
# divisions and square roots.
FLOPS, SPECIAL = 47, 6
# Values per pixel: those a pass reads with its halo, those it writes, and the coefficients that
# every iteration reads again.
READ, WRITTEN, COEFFICIENTS = 6, 6, 4


def pack(path: Path) -> None:
    """Write gray frames of real clips, and OpenCV's flow of a pair of each, to one file."""
    from benchmarks.flow.bench_tvl1 import SPEED_CLIPS, clip_frames, ucf6_clip
    from flowcpc.pipeline.tvl1.solver import compute_flow

    arrays: dict[str, Any] = {}
    for height, width in SIZES:
        for name in SPEED_CLIPS:
            frames = clip_frames(ucf6_clip(name), height, width, 0, 33)
            arrays[f"frames {height}x{width} {name}"] = frames
            if (height, width) == SIZES[0]:
                arrays[f"opencv {name}"] = compute_flow(frames[16:18], backend="opencv")[0].astype(
                    np.float32
                )
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


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


def same_bits(clips: list[Frames]) -> list[str]:
    """Table of whether the device gives the processor's bits."""
    from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
    from flowcpc.pipeline.tvl1.solver import compute_flow

    cases = {
        "frames of the benchmark": [clip[:9] for clip in clips],
        "odd frames": list(odd_frames().values()),
    }
    cases["noise"] = [
        blocks_of_noise(1, 61, 83),
        blocks_of_noise(2, 240, 320),
        moving_texture(3, 480, 640, step=(3, 1)),
    ]
    lines = [
        "| frames | profile | pairs | pairs with the same bits | largest difference, px |",
        "|---|---|---|---|---|",
    ]
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
            lines.append(f"| {name} | {profile} | {pairs} | {same} | {largest:.3g} |")
    return lines


def parity(clips: list[Frames], flows: dict[str, NDArray[np.float32]]) -> list[str]:
    """Table of the differences from OpenCV's flow, where it was packed."""
    from flowcpc.pipeline.tvl1.solver import compute_flow

    if not flows:
        return ["OpenCV's flow was not packed with the frames."]
    lines = ["| clip | within 0.1 px of OpenCV 5 | median difference, px |", "|---|---|---|"]
    for frames, (name, theirs) in zip(clips, flows.items(), strict=True):
        difference = np.abs(compute_flow(frames[16:18], backend="cuda")[0] - theirs).max(axis=0)
        lines.append(
            f"| {name} | {100 * (difference < 0.1).mean():.2f} % | {np.median(difference):.2g} |"
        )
    return lines


def seconds(function: Any, rounds: int) -> float:
    """Median time of a call that ends with its result on the host."""
    function()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def speed(
    clips: dict[tuple[int, int], list[Frames]], pairs: int, rounds: int
) -> tuple[list[str], dict[str, float]]:
    """Table of pairs/s beside the processor's solver, for batches of several sizes; and the
    figures.
    """
    from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
    from flowcpc.pipeline.tvl1.solver import available_threads, compute_flow

    lines = [
        "| frames | pairs in flight | cuda, pairs/s | cpu on all cores, pairs/s | ratio |",
        "|---|---|---|---|---|",
    ]
    figures = {}
    parameters = TVL1Parameters()
    for size, parts in clips.items():
        # Whole clips one after the other, as often as it takes; a cut between them is a
        # pair like any other.
        once = np.concatenate(parts)
        cpu = (len(once) - 1) / seconds(
            lambda: compute_flow(once, parameters=parameters, backend="cpu"),  # noqa: B023
            1,
        )
        for count in sorted({32, 180, pairs}):
            frames = np.resize(once, (count + 1, *size))
            rate = count / seconds(
                lambda: compute_flow(frames, parameters=parameters, backend="cuda"),  # noqa: B023
                rounds,
            )
            figures[f"{size[0]}x{size[1]} {count}"] = rate
            lines.append(
                f"| {size[0]}x{size[1]} | {count} | {rate:.0f} | {cpu:.1f} ({available_threads()} "
                f"cores) | {rate / cpu:.1f} |"
            )
            print(lines[-1], flush=True)
    return lines, figures


def tiles(clips: list[Frames], pairs: int, rounds: int) -> list[str]:
    """Table of pairs/s for other shapes of the work of a block."""
    from flowcpc.pipeline.tvl1.cuda import solve as cuda
    from flowcpc.pipeline.tvl1.cuda.iterate import DEFAULT_TILE, Tile
    from flowcpc.pipeline.tvl1.parameters import TVL1Parameters

    frames = np.resize(np.concatenate(clips), (pairs + 1, *clips[0].shape[1:]))
    shapes = [DEFAULT_TILE]
    for width, height, rows in (
        (64, 28, 7),
        (64, 28, 4),
        (64, 28, 14),
        (32, 32, 8),
        (64, 24, 8),
        (96, 19, 4),
    ):
        shapes += [
            Tile(width, height, rows, iterations, registers)
            for iterations in (2, 3, 4)
            for registers in (48, 64, 96)
        ]
    rates = {}
    for tile in dict.fromkeys(shapes):
        try:
            rates[tile] = pairs / seconds(
                lambda: cuda.compute_flow(frames, TVL1Parameters(), 0, tile),  # noqa: B023
                rounds,
            )
        except Exception as error:  # a shape that this device cannot launch is a row, not an end
            print(f"{tile}: {error}", file=sys.stderr)
    lines = [
        "| tile | threads | iterations | registers | pairs/s relative to the default |",
        "|---|---|---|---|---|",
    ]
    for tile, rate in sorted(rates.items(), key=lambda item: -item[1])[:12]:
        name = f"{tile.width}x{tile.height}" + (" (default)" if tile == DEFAULT_TILE else "")
        lines.append(
            f"| {name} | {tile.width * tile.rows} | {tile.iterations} | {tile.registers or 'any'} "
            f"| {rate / rates[DEFAULT_TILE]:.2f} |"
        )
    return lines


def ceilings() -> tuple[float, float]:
    """Measured bytes/s of a copy within the device's memory, and float32 operations/s of
    independent products and sums.
    """
    from numba import cuda

    @cuda.jit
    def copy(source, target):  # type: ignore[no-untyped-def]
        step = cuda.gridsize(1)
        for i in range(cuda.grid(1), source.size, step):
            target[i] = source[i]

    @cuda.jit
    def calculate(out, turns):  # type: ignore[no-untyped-def]
        i = cuda.grid(1)
        a = np.float32(i)
        b = np.float32(1) + a
        c = np.float32(2) + a
        d = np.float32(3) + a
        factor = np.float32(0.999)
        for _ in range(turns):
            a = a * factor + b
            b = b * factor + c
            c = c * factor + d
            d = d * factor + a
        out[i] = a + b + c + d

    values = 1 << 28
    source, target = (cuda.device_array(values, np.float32) for _ in range(2))
    blocks = 64 * cuda.get_current_device().MULTIPROCESSOR_COUNT
    out = cuda.device_array(blocks * 256, np.float32)
    turns = 1 << 14

    def copied() -> None:
        copy[blocks, 256](source, target)
        cuda.synchronize()

    def calculated() -> None:
        calculate[blocks, 256](out, np.int64(turns))
        cuda.synchronize()

    return 8 * values / seconds(copied, 9), 8 * turns * blocks * 256 / seconds(calculated, 5)


def roofline(clips: list[Frames], rate: float) -> list[str]:
    """What a pair costs by count, and what the device's measured ceilings would allow."""
    from flowcpc.pipeline.tvl1.cpu import solve as cpu
    from flowcpc.pipeline.tvl1.cpu.resize import build_levels
    from flowcpc.pipeline.tvl1.cuda.iterate import DEFAULT_TILE
    from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
    from flowcpc.pipeline.tvl1.pyramid import make_pyramid

    parameters = TVL1Parameters()
    pyramid = make_pyramid(*clips[0].shape[1:], parameters)
    solve, buffers = cpu.pair_solver(pyramid, parameters), cpu.Buffers(pyramid)
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
    return [
        f"- Pixel-iterations of a pair (mean of the clips, exact stopping): {work / 1e6:.1f} "
        "million.",
        f"- Bytes: {traffic / 1e9:.2f} GB a pair through the caches and memory (tile "
        f"{tile.width}x{tile.height}, {tile.iterations} iterations a "
        f"pass, halo factor {halo:.2f}; the coefficients, read again in every iteration, are "
        "counted in full although caches may hold them).",
        f"- Operations: {work * halo * FLOPS / 1e9:.2f} GFlop a pair, without fused products, and "
        f"{work * halo * SPECIAL / 1e9:.2f} billion "
        "exact divisions and square roots, each some ten instructions.",
        f"- Measured ceilings: {bandwidth / 1e12:.2f} TB/s (copy, read and write counted), "
        f"{operations / 1e12:.1f} TFlop/s with fused products.",
        f"- Bytes alone would allow {bandwidth / traffic:.0f} pairs/s, operations alone (half the "
        "ceiling, as nothing is fused, and ten for each "
        f"special one) {operations / 2 / (work * halo * (FLOPS + 10 * SPECIAL)):.0f}; measured: "
        f"{rate:.0f}.",
    ]


def main() -> None:
    """Pack, or measure, print and record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    parser.add_argument("--pairs", type=int, default=1024, help="pairs of the largest measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiles", action="store_true", help="measure other tiles too")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs/benchmarks/flow", help="folder of the records"
    )
    arguments = parser.parse_args()
    if arguments.pack:
        pack(arguments.pack)
        return
    from flowcpc.pipeline.tvl1.cuda import solve as cuda
    from flowcpc.pipeline.tvl1.solver import prepare

    devices = cuda.device_names()
    if not devices:
        sys.exit(
            "bench-gpu finds no CUDA device that works here; see `nvidia-smi` and `pip install "
            "flowcpc[gpu]`"
        )
    prepare("cuda", print)
    prepare("cpu", print)
    origin, clips, flows = load(arguments.frames)
    first = clips[SIZES[0]]
    lines, figures = speed(clips, arguments.pairs, arguments.rounds)
    key = f"{SIZES[0][0]}x{SIZES[0][1]} {arguments.pairs}"
    sections = [
        "# TV-L1 on CUDA",
        f"`make bench-gpu PYTHON=python3` on {devices[0]}; frames: {origin}. Decoding and storing "
        "are left out, copies to and from the "
        "device are in.",
        "## Speed",
        "\n".join(lines),
        "## The same bits as the processor",
        "\n".join(same_bits(first)),
        "## OpenCV",
        "\n".join(parity(first, flows)),
        "## Roofline at 240x320",
        "\n".join(roofline(first, figures[key])),
    ]
    if arguments.tiles:
        sections += ["## Tiles", "\n".join(tiles(first, 256, 3))]
    text = "\n\n".join([*sections, machine_record()]) + "\n"
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "tvl1-gpu.md").write_text(text)
    record = {
        "device": devices[0],
        "frames": origin,
        "pairs_per_second": figures,
        "machine": machine_record(),
    }
    (arguments.out / "tvl1-gpu.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
