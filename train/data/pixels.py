"""The pixels of a batch on the model's device: dequantise, subtract the mean, resize, mirror."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from flowcpc.stores.base.compiled import kernel


def dequantise(codes: Tensor, means: Tensor, levels: Tensor | None, scale: float = 1.0) -> Tensor:
    """Return flow in px, or images, minus their means, float32 (B, T, N, C, h, w).

    `codes` (B, T, N, C, h, w) are uint8 with `levels`, float32 (256,) px of every code; without
    levels, `scale` is px per code. `means`, float32 (B, T, N, C), are those of whole decoded flows,
    so that uniform motion becomes zero whatever the crop (paper, section 4.3).
    """
    if levels is None:
        flow = codes.float() * scale
    else:
        flow = torch.index_select(levels, 0, codes.flatten().int()).view(codes.shape)
    return flow.sub_(means[..., None, None])


def decode_planes(codes: Tensor, means: Tensor, levels: Tensor) -> Tensor:
    """Return what `dequantise` does, on a CPU in one pass: a table per plane, less its mean."""
    # NumPy asks for huge pages; without them new memory takes longer than all else here.
    flow = np.empty(codes.shape, np.float32)
    planes, out = (array.reshape(means.numel(), -1) for array in (codes.numpy(), flow))
    _decode(planes, means.numpy().reshape(-1), levels.numpy(), out)
    return torch.from_numpy(flow)


@kernel
def _decode(codes: Any, means: Any, levels: Any, out: Any) -> None:
    table = np.empty_like(levels)
    for p in range(codes.shape[0]):
        for code in range(len(levels)):
            table[code] = levels[code] - means[p]
        for i in range(codes.shape[1]):
            out[p, i] = table[codes[p, i]]


def resize(flow: Tensor, size: tuple[int, int], *, rescale_vectors: bool) -> Tensor:
    """Return frames (B, T, N, 2, H, W) resized to `size` (h, w); float32 (B, T, N, 2, h, w).

    Each direction has its own factor; bilinear and antialiased, so that no pixel is skipped.
    Vectors stay as in the stored frame, or are scaled like it.
    """
    before = flow.shape[-2:]
    if before != size:
        flat = flow.flatten(0, 1).flatten(1, 2)
        flat = functional.interpolate(flat, size, mode="bilinear", antialias=True)
        flow = flat.view(*flow.shape[:-2], *size)
    if rescale_vectors:
        flow[:, :, :, 0] *= size[1] / before[1]
        flow[:, :, :, 1] *= size[0] / before[0]
    return flow


def mirror(flow: Tensor, flips: NDArray[np.bool_], *, vectors: bool = True) -> None:
    """Mirror (T, N, C, h, w) of some of B videos in place, left to right; `vectors` negates u.

    The means are subtracted before, so that theirs are mirrored too.
    """
    if flips.any():
        which = torch.from_numpy(np.flatnonzero(flips)).to(flow.device)
        turned = flow[which].flip(-1)
        if vectors:
            turned[:, :, :, 0].neg_()
        flow[which] = turned
