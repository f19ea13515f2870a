"""How far our TV-L1 flow is from OpenCV's, and OpenCV's from itself, on real frames."""

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tvl1_cases import endpoint_error, middlebury, within

from benchmarks.flow.tvl1_frames import CUT, DATA, Frames, real_pairs
from benchmarks.record import table
from flowcpc.pipeline.tvl1.solver import compute_flow

Flow = NDArray[np.float32]
MIDDLEBURY = ("Dimetrodon", "Grove2", "RubberWhale", "Venus")
OLD_OPENCV = "4.10.0.84"
COLUMNS = ["pair", "flow, px", "within 0.1 px", "median", "99 %", "99.9 %"]
COLUMNS += ["OpenCV, IPP on and off", "OpenCV, one pixel changed", "OpenCV 5, 4.10"]


def flow_of_old_opencv(pairs: dict[str, Frames]) -> dict[str, Flow]:
    """The flow of OpenCV 4.10, installed for this; empty where it cannot be fetched."""
    code = (
        "import sys, numpy as np; sys.path.insert(0, sys.argv[1]); import cv2; "
        "cv2.setNumThreads(1)\n"
        "pairs = np.load(sys.argv[2]); solve = lambda a, b: "
        "cv2.optflow.DualTVL1OpticalFlow_create().calc(a, b, None)\n"
        "np.savez(sys.argv[3], **{name: solve(*pairs[name]).transpose(2, 0, 1) for name in pairs})"
    )
    with tempfile.TemporaryDirectory() as name:
        before, after = Path(name, "pairs.npz"), Path(name, "flow.npz")
        install = ["pip", "install", "-q", "--no-deps", "--target", name]
        install.append(f"opencv-contrib-python-headless=={OLD_OPENCV}")
        if subprocess.run([sys.executable, "-m", *install], capture_output=True).returncode:
            return {}
        np.savez(before, **pairs)
        subprocess.run([sys.executable, "-c", code, name, str(before), str(after)], check=True)
        with np.load(after) as flow:
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


def compared_flows() -> dict[str, dict[str, Flow]]:
    """Flow of every pair: ours, and OpenCV's as it is, without IPP, changed, and 4.10's."""
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
    return flows


def differences(title: str, chosen: list[dict[str, Flow]]) -> list[str]:
    """A row of the table with COLUMNS, over the pixels of some pairs."""

    def largest(a: str, b: str) -> Flow:
        return np.concatenate([np.abs(flow[a] - flow[b]).max(axis=0).ravel() for flow in chosen])

    def share(values: Flow) -> str:
        return f"{100 * (values < 0.1).mean():.2f} %"

    mean = np.mean([np.hypot(*flow["opencv"]).mean() for flow in chosen])
    difference = largest("ours", "opencv")
    row = [title, f"{mean:.2f}", share(difference)]
    row += [f"{value:.2g}" for value in np.percentile(difference, (50, 99, 99.9))]
    row += [share(largest("opencv", other)) for other in ("no ipp", "changed")]
    known = all("old" in flow for flow in chosen)
    return [*row, share(largest("opencv", "old")) if known else "not measured"]


def parity() -> list[str]:
    """Tables of the differences per pair and from ground truth, with a sentence between them."""
    flows = compared_flows()
    steady = [flow for name, flow in flows.items() if name != CUT]
    rows = [differences(name, [flow]) for name, flow in flows.items()]
    rows.append(differences(f"**all pixels of {len(steady)} pairs, without the cut**", steady))
    rows.append(differences(f"**all pixels of {len(flows)} pairs**", list(flows.values())))
    least = min(within(flow["ours"], flow["opencv"]) for flow in steady)
    errors = []
    for name in MIDDLEBURY:
        truth = middlebury(DATA, name)[1]
        ours, theirs = (endpoint_error(flows[name][side], truth) for side in ("ours", "opencv"))
        errors.append([name, f"{ours:.4f}", f"{theirs:.4f}", f"{ours / theirs:.4f}"])
    return [
        table(COLUMNS, rows),
        f"Least share of a single pair within 0.1 px, the cut aside: {100 * least:.2f} %.",
        table(["ground truth", "flowcpc, AEE px", "OpenCV 5, AEE px", "ratio"], errors),
    ]
