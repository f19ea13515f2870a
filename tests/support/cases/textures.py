"""Frames that move in known ways, made of NumPy alone."""

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


def moving_texture(
    frames: int, height: int, width: int, *, step: tuple[float, float], seed: int = 0
) -> NDArray[np.uint8]:
    """A smooth random texture that moves by `step` = (dx, dy) px per frame: uint8 (frames, height,
    width).
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = [
        (rng.uniform(-0.5, 0.5, 2), rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.0))
        for _ in range(24)
    ]
    out = np.empty((frames, height, width))
    for t in range(frames):
        moved = [
            a * np.sin(k[0] * (x - t * step[0]) + k[1] * (y - t * step[1]) + phase)
            for k, phase, a in waves
        ]
        out[t] = sum(moved)
    return np.round(128 + out * (100 / np.abs(out).max())).astype(np.uint8)


def blocks_of_noise(seed: int, height: int, width: int, frames: int = 3) -> Frames:
    """Smoothed noise that moves by whole pixels, made of integers: the same bytes everywhere."""
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
