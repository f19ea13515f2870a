"""Frames and parameters that several tests of TV-L1 share."""

from pathlib import Path

import cv2
import numpy as np
from conftest import moving_texture
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
# Few levels, warps and iterations, but each of every kind: for backends that are slow where they are tested.
SHORT = {"scales": 2, "warps": 2, "inner_iterations": 3, "outer_iterations": 2}


def blocks_of_noise(seed: int, height: int, width: int, frames: int = 3) -> Frames:
    """Smoothed noise that moves by whole pixels, made of integers alone: the same bytes everywhere."""
    noise = np.random.default_rng(seed).integers(0, 256, (height + 16, width + 32))
    smooth = sum(np.roll(noise, (dy, dx), (0, 1)) for dy in range(4) for dx in range(4)) // 16
    moved = [smooth[t : t + height, 24 - 2 * t : 24 - 2 * t + width] for t in range(frames)]
    return np.stack(moved).astype(np.uint8)


def odd_frames() -> dict[str, Frames]:
    """Frames that have broken solvers before: two or three of each."""
    rng = np.random.default_rng(0)
    flat = np.full((3, 24, 31), 77, np.uint8)
    flicker = np.zeros((3, 33, 20), np.uint8)
    flicker[1] = 255
    half = np.zeros((3, 40, 40), np.uint8)
    half[:, :, 20:] = 255
    half[1] = half[1, :, ::-1]
    return {
        "flat": flat,
        "black": np.zeros((2, 16, 16), np.uint8),
        "flicker": flicker,
        "swap": half,
        "noise": rng.integers(0, 256, (3, 16, 50)).astype(np.uint8),
        "cut": np.concatenate([blocks_of_noise(1, 50, 17, 2), blocks_of_noise(2, 50, 17, 1)]),
        "narrow": moving_texture(2, 64, 16, step=(0.5, 0)),
        "smallest": moving_texture(2, 16, 16, step=(0.3, -0.2)),
        "odd": moving_texture(2, 37, 53, step=(-1.3, 0.8)),
    }


def middlebury(real_data: Path, name: str) -> tuple[Frames, NDArray[np.float32]]:
    """Frames (2, H, W) and ground-truth flow (2, H, W) px of a Middlebury pair; unknown flow is NaN."""
    folder = real_data / "flow_gt" / "middlebury" / name
    frames = np.stack([cv2.imread(str(folder / f"frame{n}.png"), cv2.IMREAD_GRAYSCALE) for n in (10, 11)])
    truth = cv2.readOpticalFlow(str(folder / "flow10.flo")).transpose(2, 0, 1)
    return frames, np.where(np.abs(truth) > 1e8, np.nan, truth)


def endpoint_error(flow: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Average endpoint error where the truth is known, px."""
    return float(np.nanmean(np.hypot(*(flow - truth))))


def within(flow: NDArray[np.float32], other: NDArray[np.float32], px: float = 0.1) -> float:
    """Share of pixels whose components both differ by less than `px`."""
    return float((np.abs(flow - other).max(axis=-3) < px).mean())
