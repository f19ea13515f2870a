"""Random numbers in Numba, each a hash of (seed, purpose, step, sample, index): no state."""

import functools

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.base.compiled import inlined, kernel

Integers = NDArray[np.int64]


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_videos: int) -> Integers:
    """Return the permutation of the videos in one epoch, int64 (V,), read-only."""
    order: Integers = _permute(seed, epoch, num_videos)
    order.flags.writeable = False
    return order


@kernel
def draw_integers(seed: int, purpose: int, step: int, limits: Integers) -> Integers:
    """Return an integer of [0, limit) for each of `limits` (B, K), all >= 1; int64 (B, K)."""
    out = np.empty_like(limits)
    common = stream(seed, purpose, step)
    for b in range(limits.shape[0]):
        for k in range(limits.shape[1]):
            out[b, k] = below(limits[b, k], common, b, k)
    return out


@kernel
def _permute(seed: int, epoch: int, num_videos: int) -> Integers:
    order = np.arange(num_videos)
    common = stream(seed, 0, epoch)
    for last in range(num_videos - 1, 0, -1):
        other = below(last + 1, common, last, 0)
        order[last], order[other] = order[other], order[last]
    return order


@inlined
def stream(seed: int, purpose: int, step: int) -> np.uint64:
    """Return what all draws for one purpose in one batch have in common."""
    bits = _scramble(np.uint64(seed))
    bits = _scramble(bits ^ np.uint64(purpose))
    return _scramble(bits ^ np.uint64(step))


@inlined
def below(limit: int, common: np.uint64, sample: int, index: int) -> np.int64:
    """Return an integer of [0, limit); the bias of the remainder is below limit / 2**64."""
    if limit == 1:
        return np.int64(0)
    bits = _scramble(common ^ np.uint64(sample))
    bits = _scramble(bits ^ np.uint64(index))
    return np.int64(bits % np.uint64(limit))


@inlined
def _scramble(bits: np.uint64) -> np.uint64:
    """One step of SplitMix64 (Steele, Lea and Flood 2014), a bijection of 64 bits."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
