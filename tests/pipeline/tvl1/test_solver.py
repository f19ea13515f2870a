from collections.abc import Iterator

import numpy as np
import pytest
from recorder import Recorder
from textures import moving_texture, odd_frames
from tvl1_cases import SHORT

from flowcpc.commands.main import main
from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.tvl1 import solver
from flowcpc.pipeline.tvl1.cuda import solve as cuda
from flowcpc.pipeline.tvl1.parameters import PROFILES, TVL1Parameters
from flowcpc.pipeline.tvl1.solver import compute_flow, prepare, resolve_backend
from flowcpc.stores.base import compiled

CPU_BACKENDS = ("cpu", "opencv")


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("step", [(1.0, 0.0), (0.0, -1.5), (0.5, 0.75), (-2.25, 0.1)])
def test_translation_is_recovered(step: tuple[float, float], backend: str) -> None:
    flow = compute_flow(moving_texture(3, 48, 64, step=step), backend=backend)
    assert flow.shape == (2, 2, 48, 64)
    assert flow.dtype == np.float32
    inner = flow[:, :, 8:-8, 8:-8]
    assert np.median(inner[:, 0]) == pytest.approx(step[0], abs=0.05)
    assert np.median(inner[:, 1]) == pytest.approx(step[1], abs=0.05)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_identical_frames_give_exactly_zero(backend: str) -> None:
    for frames in (moving_texture(1, 32, 40, step=(0, 0)), *odd_frames().values()):
        flow = compute_flow(np.stack([frames[0]] * 3), backend=backend)
        assert (flow == 0).all()


@pytest.mark.parametrize("profile", ["opencv-cpu", "opencv-cuda"])
@pytest.mark.parametrize("name", odd_frames())
def test_odd_frames_give_finite_flow(name: str, profile: str) -> None:
    frames = odd_frames()[name]
    flow = compute_flow(frames, parameters=TVL1Parameters(profile=profile), backend="cpu")
    assert flow.shape == (len(frames) - 1, 2, *frames.shape[1:])
    assert np.isfinite(flow).all()


def test_mirrored_frames_give_mirrored_flow() -> None:
    frames = moving_texture(2, 60, 72, step=(1.4, -0.6))
    flow = compute_flow(frames)[0]
    across = compute_flow(frames[:, :, ::-1])[0][:, :, ::-1] * np.array([-1, 1])[:, None, None]
    down = compute_flow(frames[:, ::-1])[0][:, ::-1] * np.array([1, -1])[:, None, None]
    for mirrored in (across, down):
        assert np.percentile(np.abs(mirrored - flow), 95) < 0.05


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_parameters_reach_the_solver(backend: str) -> None:
    frames = moving_texture(2, 40, 56, step=(1.2, -0.4))
    default = compute_flow(frames, backend=backend)
    for changed in (
        {"lambda_": 0.01},
        {"warps": 1},
        {"scales": 1},
        {"scale_step": 0.5},
        {"theta": 0.1},
        {"tau": 0.1},
        {"epsilon": 0.2},
        {"median": 1},
        {"median": 3},
        {"outer_iterations": 1},
        {"inner_iterations": 2, "epsilon": 1e-3},
    ):
        flow = compute_flow(frames, parameters=TVL1Parameters(**changed), backend=backend)
        assert not np.array_equal(flow, default), changed


def test_frames_that_are_a_view_give_the_same_flow() -> None:
    frames = moving_texture(3, 40, 56, step=(0.7, 0.2))
    wide = np.zeros((6, 40, 112), np.uint8)
    wide[::2, :, ::2] = frames
    parameters = TVL1Parameters(**SHORT)
    view = wide[::2, :, ::2]
    view.setflags(write=False)
    np.testing.assert_array_equal(
        compute_flow(view, parameters=parameters), compute_flow(frames, parameters=parameters)
    )


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([[[0] * 32] * 32] * 2, "must be a NumPy array, .* got a list"),
        (np.zeros((2, 32, 32), np.float32), r"must be .* uint8 \(T, H, W\), gray, got float32"),
        (np.zeros((2, 32, 32, 3), np.uint8), r"got uint8 \(2, 32, 32, 3\)"),
        (np.zeros((1, 32, 32), np.uint8), "at least 2"),
        (np.zeros((2, 15, 32), np.uint8), "at least 16x16 px, got 15x32"),
    ],
)
def test_wrong_frames_are_refused_in_words(frames: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compute_flow(frames)


def test_wrong_backends_are_refused_in_words() -> None:
    frames = np.zeros((2, 32, 32), np.uint8)
    with pytest.raises(
        ValueError, match="backend='gpu' is unknown; choose one of auto, cuda, cpu, opencv"
    ):
        compute_flow(frames, backend="gpu")
    with pytest.raises(ValueError, match="backend='opencv' has no profile='opencv-cuda'"):
        compute_flow(frames, backend="opencv", parameters=TVL1Parameters(profile="opencv-cuda"))
    with pytest.raises(ValueError, match="threads=0 must be at least 1"):
        compute_flow(frames, threads=0)


@pytest.fixture
def no_memory_of_devices() -> Iterator[None]:
    """What was found out about this machine's devices is forgotten before and after."""
    solver._cuda_problem.cache_clear()
    yield
    solver._cuda_problem.cache_clear()


@pytest.mark.usefixtures("no_memory_of_devices")
def test_cuda_without_a_device_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "device_names", lambda: [])
    with pytest.raises(
        ValueError, match="backend='cuda' does not work here: no CUDA device was found"
    ):
        compute_flow(np.zeros((2, 32, 32), np.uint8), backend="cuda")
    assert resolve_backend("auto") == "cpu"
    with pytest.raises(ValueError, match="no CUDA device was found"):
        prepare("cuda")
    assert ExtractionSettings("videos", "store", backend="cuda").backend == "cuda", (
        "its workers may have a device"
    )
    with pytest.raises(ValueError, match="backend='opencv' has no profile"):
        ExtractionSettings(
            "videos", "store", backend="opencv", parameters=TVL1Parameters(profile="opencv-cuda")
        )


@pytest.mark.usefixtures("no_memory_of_devices")
def test_a_device_is_used_once_it_has_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, ...]] = []
    monkeypatch.setattr(cuda, "device_names", lambda: ["one"])
    monkeypatch.setattr(cuda, "compute_flow", lambda frames, *rest: tried.append(frames.shape))
    recorder = Recorder()
    assert prepare("auto", recorder.announce) == "cuda"
    assert [line.split(" ")[0] for line in recorder.said] == ["compiling", "compiled"]
    assert resolve_backend("cuda") == "cuda"
    assert tried == [(2, 20, 20)]
    with pytest.raises(ValueError, match=r"device=1 does not exist; this machine has 1 device"):
        compute_flow(np.zeros((2, 32, 32), np.uint8), backend="cuda", device=1)


@pytest.mark.usefixtures("no_memory_of_devices")
def test_a_broken_device_leaves_the_work_to_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("the driver is too old\nand more")

    monkeypatch.setattr(cuda, "device_names", lambda: ["one"])
    monkeypatch.setattr(cuda, "compute_flow", broken)
    recorder = Recorder()
    assert prepare("auto", recorder.announce) == "cpu"
    words = "because CUDA does not work here: RuntimeError: the driver is too old"
    assert words in " ".join(recorder.said)
    with pytest.raises(
        ValueError, match="does not work here: RuntimeError: the driver is too old; use"
    ):
        resolve_backend("cuda")


def test_prepare_names_the_backend_and_says_when_it_compiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder()
    assert prepare("opencv", recorder.announce) == "opencv"
    assert prepare("cpu") == "cpu"
    monkeypatch.setattr(compiled, "is_complete", lambda package: True)
    prepare("cpu", recorder.announce)
    assert recorder.said == []
    monkeypatch.setattr(compiled, "is_complete", lambda package: False)
    prepare("cpu", recorder.announce)
    assert [line.split(" ")[0] for line in recorder.said] == ["compiling", "compiled"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tau": 0},
        {"tau": 1e30},
        {"tau": "a"},
        {"theta": 1e-40},
        {"epsilon": 1e-5},
        {"scales": 2.0},
        {"scales": 10**9},
        {"lambda_": -1},
        {"theta": float("nan")},
        {"epsilon": float("inf")},
        {"scale_step": 1.0},
        {"scales": 0},
        {"warps": 1.5},
        {"median": 4},
        {"profile": "mine"},
    ],
)
def test_parameters_are_validated(wrong: dict[str, float | str]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        TVL1Parameters(**wrong)


def test_a_profile_brings_its_median() -> None:
    assert TVL1Parameters().median == 5
    assert TVL1Parameters(profile="opencv-cuda").median == 1
    assert TVL1Parameters(profile="opencv-cuda", median=3).to_json()["median"] == 3


def test_the_command_offers_every_backend_and_profile() -> None:
    offered = {option.name: option.type for option in main.commands["extract-flow"].params}
    assert tuple(offered["backend"].choices) == solver.BACKENDS
    assert tuple(offered["profile"].choices) == tuple(PROFILES)
