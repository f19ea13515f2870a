"""The CUDA solver: tiny images in Numba's simulator, and real ones where there is a device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT
from textures import blocks_of_noise, moving_texture, odd_frames
from tvl1_cases import SHORT, middlebury

from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.pipeline.tvl1.solver import compute_flow, resolve_backend

# name -> (frames, height, width, parameters, tile or None, pairs a batch or None)
TINY = {
    "two levels": (2, 20, 20, SHORT | {"inner_iterations": 2}, None, None),
    "other profile": (2, 20, 21, SHORT | {"profile": "opencv-cuda", "warps": 1}, None, None),
    "small median": (2, 16, 19, SHORT | {"median": 3, "warps": 1}, None, None),
    "one iteration a pass": (2, 16, 17, SHORT | {"warps": 1}, (9, 8, 1, 1, 0), None),
    "long passes": (
        2,
        17,
        16,
        SHORT | {"warps": 1, "inner_iterations": 4},
        (12, 13, 1, 3, 0),
        None,
    ),
    "batches of one": (4, 16, 16, SHORT | {"scales": 1, "warps": 1}, None, 1),
    "pairs that end apart": (
        4,
        16,
        16,
        {"scales": 1, "warps": 1, "inner_iterations": 5, "outer_iterations": 2},
        None,
        None,
    ),
}


def simulate(name: str) -> None:
    """Print whether the simulated device gives the processor's bits; in its own process."""
    from flowcpc.pipeline.tvl1.cpu import solve as cpu
    from flowcpc.pipeline.tvl1.cuda import solve as cuda
    from flowcpc.pipeline.tvl1.cuda.iterate import DEFAULT_TILE, Tile

    count, height, width, changed, tile, pairs = TINY[name]
    frames = blocks_of_noise(3, height, width, frames=count)
    if name == "pairs that end apart":
        frames[1] = frames[0]
    parameters = TVL1Parameters(**changed)
    if pairs:
        cuda._MAX_PAIRS = pairs
    flow = cuda.compute_flow(frames, parameters, tile=Tile(*tile) if tile else DEFAULT_TILE)
    expected = cpu.compute_flow(frames, parameters, 1)
    print(
        json.dumps({"same": bool((flow == expected).all()), "largest": float(np.abs(flow).max())})
    )


def run_out_of_memory() -> None:
    """Print the batch sizes tried on a simulated device with memory for two pairs, then none."""
    from flowcpc.pipeline.tvl1.cpu import solve as cpu
    from flowcpc.pipeline.tvl1.cuda import solve as cuda

    class Full(Exception):
        pass

    tried: list[int] = []
    fits = 2

    class Limited(cuda.Batch):
        def __init__(self, parameters, pyramid, tile, pairs):  # type: ignore[no-untyped-def]
            tried.append(pairs)
            if pairs > fits:
                raise Full("CUDA_ERROR_OUT_OF_MEMORY")
            super().__init__(parameters, pyramid, tile, pairs)

    cuda.Batch = Limited
    frames = blocks_of_noise(4, 16, 16, frames=6)
    parameters = TVL1Parameters(scales=1, warps=1, inner_iterations=2, outer_iterations=1)
    flow = cuda.compute_flow(frames, parameters)
    same = bool((flow == cpu.compute_flow(frames, parameters, 1)).all())
    fits = 0
    cuda._kept.clear()
    try:
        cuda.compute_flow(frames, parameters)
        words = ""
    except MemoryError as error:
        words = str(error)
    print(json.dumps({"same": same, "tried": tried, "words": words}))


RUN = """
import runpy, sys
test = runpy.run_path(sys.argv[1])
eval(sys.argv[2], test)
"""


def in_simulator(call: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, str(Path(__file__)), call],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize(
    "name",
    [
        name if name == "small median" else pytest.param(name, marks=pytest.mark.slow)
        for name in TINY
    ],
)
def test_the_simulated_device_gives_the_processors_bits(name: str) -> None:
    result = in_simulator(f"simulate({name!r})")
    assert result["same"]
    assert result["largest"] > 0.01


@pytest.mark.slow
def test_a_batch_is_halved_until_it_fits() -> None:
    result = in_simulator("run_out_of_memory()")
    assert result["same"]
    assert result["tried"][:4] == [5, 3, 2, 2]
    assert result["tried"][-1] == 1
    assert "too little free memory for a pair of 16x16" in result["words"]


def test_the_simulator_is_never_chosen_by_itself() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from flowcpc.pipeline.tvl1.solver import resolve_backend as r;"
            "print(r('auto'), r('cuda'))",
        ],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["cpu", "cuda"]


@pytest.fixture
def device() -> int:
    """Index of the first CUDA device, or a skip."""
    try:
        resolve_backend("cuda")
    except ValueError:
        pytest.skip("no CUDA device works here")
    return 0


@pytest.mark.gpu
@pytest.mark.parametrize("profile", ["opencv-cpu", "opencv-cuda"])
@pytest.mark.parametrize("size", [(240, 320), (256, 342), (61, 47), (480, 640), (16, 16)])
def test_the_device_gives_the_processors_bits(
    profile: str, size: tuple[int, int], device: int
) -> None:
    frames = np.concatenate([moving_texture(5, *size, step=(2.3, -0.6)), blocks_of_noise(8, *size)])
    parameters = TVL1Parameters(profile=profile)
    flow = compute_flow(frames, parameters=parameters, backend="cuda", device=device)
    np.testing.assert_array_equal(flow, compute_flow(frames, parameters=parameters, backend="cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("name", odd_frames())
def test_the_device_gives_the_processors_bits_of_odd_frames(name: str, device: int) -> None:
    frames = odd_frames()[name]
    flow = compute_flow(frames, backend="cuda", device=device)
    np.testing.assert_array_equal(flow, compute_flow(frames, backend="cpu"))


@pytest.mark.gpu
def test_the_device_gives_the_processors_bits_of_real_frames(real_data: Path, device: int) -> None:
    for name in ("RubberWhale", "Venus"):
        frames, _ = middlebury(real_data, name)
        flow = compute_flow(frames, backend="cuda", device=device)
        np.testing.assert_array_equal(flow, compute_flow(frames, backend="cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "tile", [(32, 32, 8, 1, 0), (64, 28, 7, 2, 0), (64, 28, 7, 4, 64), (48, 40, 8, 5, 0)]
)
def test_the_tile_decides_nothing_on_the_device(tile: tuple[int, ...], device: int) -> None:
    from flowcpc.pipeline.tvl1.cuda import solve as cuda
    from flowcpc.pipeline.tvl1.cuda.iterate import Tile

    frames = moving_texture(6, 120, 161, step=(1.2, 0.4))
    flow = cuda.compute_flow(frames, TVL1Parameters(), device, Tile(*tile))
    np.testing.assert_array_equal(flow, compute_flow(frames, backend="cuda", device=device))


@pytest.mark.gpu
def test_the_batch_decides_nothing_on_the_device(
    device: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowcpc.pipeline.tvl1.cuda import solve as cuda

    frames = moving_texture(24, 90, 110, step=(0.9, -1.1))
    whole = compute_flow(frames, backend="cuda", device=device)
    for pairs in (1, 7, 16):
        cuda._kept.clear()
        monkeypatch.setattr(cuda, "_MAX_PAIRS", pairs)
        np.testing.assert_array_equal(compute_flow(frames, backend="cuda", device=device), whole)
    cuda._kept.clear()


@pytest.mark.gpu
def test_no_product_is_fused_into_a_sum_on_the_device(device: int) -> None:
    """What keeps a device's bits the processor's, held in the machine's own words."""
    from flowcpc.pipeline.tvl1.cuda import frames as cuda_frames
    from flowcpc.pipeline.tvl1.cuda import iterate as cuda_iterate

    compute_flow(moving_texture(2, 64, 64, step=(1, 0)), backend="cuda", device=device)
    kernels = [cuda_frames.warp, cuda_frames.shrink_level, cuda_frames.begin_level]
    for kernel in [*kernels, cuda_iterate.make_pass(cuda_iterate.DEFAULT_TILE)]:
        texts = list(kernel.inspect_asm().values())
        assert texts
        assert all("fma.rn.f32" not in text for text in texts)
