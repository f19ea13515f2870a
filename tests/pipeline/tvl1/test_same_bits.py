"""One flow everywhere: the same bits on every processor, compared with recorded hashes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT
from textures import blocks_of_noise
from tvl1_cases import middlebury

from flowcpc.pipeline.decoding.frame_size import FrameSize
from flowcpc.pipeline.decoding.frames import FrameReader

# Whoever changes these values changes the numerics, and raises SOLVER_VERSION.
NOISE_SHA256 = {
    "opencv-cpu": "b872eb2eb06292c1d40dbee2fe3834594182578afb84a87dca6367fe42d05f65",
    "opencv-cuda": "7c61c0a3a91d5995059c38e2d00078651ab4213c5591af4bff9995152d74e9a7",
}
RUBBER_WHALE_SHA256 = "8ebc0670040a542fb1814e6c862960ea49c9e9f6f8a2be32fa8eb4c8da01f259"

# Processors from the plainest on, with the features that Numba would otherwise take from this one.
TARGETS = {
    "x86-64": "",
    "nehalem": "+sse4.2,+popcnt",
    "haswell": "+avx2,+bmi2,+fma,+popcnt",
    "skylake-avx512": "+avx512f,+avx512dq,+avx512bw,+avx512vl,+avx2,+bmi2,+fma,+popcnt",
}

HASHES = """
import hashlib, json, sys
import numpy as np
from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.pipeline.tvl1.solver import compute_flow

frames = np.load(sys.argv[1])
for name in frames:
    profile = name.partition(" ")[0]
    parameters = TVL1Parameters(profile=profile)
    flow = compute_flow(frames[name], parameters=parameters, backend="cpu", threads=1)
    print(json.dumps([name, hashlib.sha256(flow.tobytes()).hexdigest()]))
"""


def hashes(path: Path, **environment: str) -> dict[str, str]:
    """SHA-256 of the flow of every array in `path`, computed by a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", HASHES, str(path)],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(line) for line in done.stdout.splitlines())


def runs_here(features: str) -> bool:
    """Whether this processor has the features, as Linux names them."""
    names = {"sse4.2": "sse4_2"}
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    wanted = [feature.removeprefix("+") for feature in features.split(",") if feature]
    return all(names.get(feature, feature) in flags for feature in wanted)


def environment(target: str) -> dict[str, str]:
    """What makes Numba compile for `target`, or a skip where such code cannot run."""
    if not runs_here(TARGETS[target]):
        pytest.skip(f"this processor cannot run code for {target}")
    return {"NUMBA_CPU_NAME": target, "NUMBA_CPU_FEATURES": TARGETS[target]}


@pytest.fixture(scope="module")
def frames_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = {f"{profile} noise": blocks_of_noise(11, 61, 83) for profile in NOISE_SHA256}
    path = tmp_path_factory.mktemp("frames") / "frames.npz"
    np.savez(path, **frames)
    return path


@pytest.fixture(scope="module")
def real_frames_file(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RubberWhale and a pair of three real clips."""
    frames = {"opencv-cpu RubberWhale": middlebury(real_data, "RubberWhale")[0]}
    for video in sorted((real_data / "ucf6" / "videos").glob("*/*.avi"))[5:150:60]:
        blocks = FrameReader(video, FrameSize(128, 171)).blocks(12)
        frames[f"opencv-cpu {video.stem}"] = next(blocks)[10:12]
    path = tmp_path_factory.mktemp("frames") / "real.npz"
    np.savez(path, **frames)
    return path


def test_flow_is_the_one_that_was_written_down(frames_file: Path) -> None:
    assert hashes(frames_file) == {
        f"{profile} noise": value for profile, value in NOISE_SHA256.items()
    }


def test_real_flow_is_the_one_that_was_written_down(real_frames_file: Path) -> None:
    assert hashes(real_frames_file)["opencv-cpu RubberWhale"] == RUBBER_WHALE_SHA256


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_processor_gives_the_same_bits(target: str, frames_file: Path) -> None:
    expected = {f"{profile} noise": value for profile, value in NOISE_SHA256.items()}
    assert hashes(frames_file, **environment(target)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_processor_gives_the_same_bits_of_real_flow(
    target: str, real_frames_file: Path
) -> None:
    found = hashes(real_frames_file, **environment(target))
    assert len(found) == 4
    assert found == hashes(real_frames_file)
