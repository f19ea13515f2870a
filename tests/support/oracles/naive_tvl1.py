"""TV-L1 of both profiles in plain NumPy, as Zach et al. and OpenCV define it: the oracle.

Flow in px, error as a float sum, no tiles, no units of convenience: nothing here is shared with the
code it checks.
"""

import numpy as np
from numpy.typing import NDArray

F = np.float32
Image = NDArray[np.float32]


def compute_flow(
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    profile: str = "opencv-cpu",
    **changed: float,
) -> Image:
    """Flow of one pair, uint8 (H, W) each -> float32 (2, H, W) px."""
    par = {
        "tau": 0.25,
        "lambda_": 0.15,
        "theta": 0.3,
        "scales": 5,
        "scale_step": 0.8,
        "warps": 5,
        "epsilon": 0.01,
        "inner": 30,
        "outer": 10,
    }
    par |= {"median": 5 if profile == "opencv-cpu" else 1} | changed
    cuda = profile == "opencv-cuda"
    levels = [(first.astype(F), second.astype(F))]
    for _ in range(int(par["scales"]) - 1):
        height, width = (
            round(side * par["scale_step"]) for side in levels[-1][0].shape
        )  # Python rounds halves to even
        if min(height, width) < 16:
            break
        levels.append(
            tuple(
                resize(image, (height, width), 1 / par["scale_step"], 1 / par["scale_step"], cuda)
                for image in levels[-1]
            )
        )
    u = np.zeros((2, *levels[-1][0].shape), F)
    for level in range(len(levels) - 1, -1, -1):
        I0, I1 = levels[level]
        if level < len(levels) - 1:
            (h, w), (small_h, small_w) = I0.shape, u.shape[1:]
            u = np.stack([resize(c, (h, w), small_h / h, small_w / w, cuda) for c in u]) * F(
                1 / par["scale_step"]
            )
        p = np.zeros((2, 2, *I0.shape), F)
        I1x, I1y = gradient(I1)
        for _ in range(int(par["warps"])):
            u, p = one_warp(I0, I1, I1x, I1y, u, p, par, cuda)
    return u


def resize(
    image: Image, size: tuple[int, int], ratio_y: float, ratio_x: float, cuda: bool
) -> Image:
    """Bilinear; OpenCV's CPU code samples at pixel centres, its CUDA code at pixel corners."""
    shift = 0.0 if cuda else 0.5
    for axis, ratio in ((0, ratio_y), (1, ratio_x)):
        n = image.shape[axis]
        at = F((np.arange(size[axis]) + shift) * ratio - shift)
        low = np.floor(at)
        part = at - low
        part[(low < 0) | (low >= n - 1)] = 0
        low = np.clip(low, 0, n - 1).astype(int)
        part = part[:, None] if axis == 0 else part
        image = (
            image.take(low, axis) * (1 - part) + image.take(np.minimum(low + 1, n - 1), axis) * part
        )
    return image


def gradient(image: Image) -> tuple[Image, Image]:
    """Centred differences, indices clamped at the border."""
    padded = np.pad(image, 1, mode="edge")
    return F(0.5) * (padded[1:-1, 2:] - padded[1:-1, :-2]), F(0.5) * (
        padded[2:, 1:-1] - padded[:-2, 1:-1]
    )


def cubic(t: Image, a: float) -> Image:
    """Keys' kernel."""
    t = np.abs(t)
    inner = (a + 2) * t**3 - (a + 3) * t**2 + 1
    outer = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, inner, np.where(t < 2, outer, 0))


def sample(image: Image, at_x: Image, at_y: Image, cuda: bool) -> Image:
    """Bicubic; outside the image: nothing (CPU), or the border with normalised weights (CUDA)."""
    a = -0.5 if cuda else -0.75
    kind, image, at_x, at_y = (
        image.dtype,
        image.astype(float),
        at_x.astype(float),
        at_y.astype(float),
    )
    height, width = image.shape
    left, top = np.floor(at_x).astype(int), np.floor(at_y).astype(int)
    total = np.zeros_like(at_x)
    weights = np.zeros_like(at_x)
    for j in range(-1, 3):
        for i in range(-1, 3):
            x, y = left + i, top + j
            weight = cubic(at_x - x, a) * cubic(at_y - y, a)
            value = image[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
            if not cuda:
                value = np.where((x >= 0) & (x < width) & (y >= 0) & (y < height), value, 0)
            total += weight * value
            weights += weight
    return (total / weights if cuda else total).astype(kind)


def one_warp(I0, I1, I1x, I1y, u, p, par, cuda):  # type: ignore[no-untyped-def]
    height, width = I0.shape
    rows, columns = np.mgrid[:height, :width].astype(I0.dtype)
    x, y = columns + u[0], rows + u[1]
    I1w, Ix, Iy = (sample(image, x, y, cuda) for image in (I1, I1x, I1y))
    g = Ix**2 + Iy**2
    rho_c = I1w - Ix * u[0] - Iy * u[1] - I0
    lt, theta, taut = (
        F(par["lambda_"] * par["theta"]),
        F(par["theta"]),
        F(par["tau"] / par["theta"]),
    )
    limit = par["epsilon"] ** 2 * height * width
    error = np.inf
    for _ in range(int(par["outer"])):
        if error <= limit:
            break
        u = np.stack([median(c, int(par["median"])) for c in u])
        for _ in range(int(par["inner"])):
            if error <= limit:
                break
            rho = rho_c + Ix * u[0] + Iy * u[1]
            step = np.where(
                rho < -lt * g,
                lt,
                np.where(
                    rho > lt * g, -lt, np.where(g > F(1.19e-7), -rho / np.maximum(g, F(1e-7)), 0)
                ),
            )
            new = u + step * np.stack([Ix, Iy]) + theta * divergence(p)
            error = float(((new - u).astype(np.float64) ** 2).sum())
            u = new
            forward = np.zeros_like(p)
            forward[:, 0, :, :-1] = u[:, :, 1:] - u[:, :, :-1]
            forward[:, 1, :-1] = u[:, 1:] - u[:, :-1]
            p = (p + taut * forward) / (1 + taut * np.hypot(forward[:, 0], forward[:, 1])[:, None])
    return u, p


def divergence(p: Image) -> Image:
    """Backward differences with p = 0 before the image, (2, 2, H, W) -> (2, H, W)."""
    across = p[:, 0].copy()
    across[:, :, 1:] -= p[:, 0, :, :-1]
    down = p[:, 1].copy()
    down[:, 1:] -= p[:, 1, :-1]
    return across + down


def median(image: Image, side: int) -> Image:
    """Median of side x side values, borders repeated."""
    padded = np.pad(image, side // 2, mode="edge")
    blocks = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    return np.median(blocks.reshape(*image.shape, side * side), axis=2).astype(image.dtype)
