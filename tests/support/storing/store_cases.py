"""Numerics, flow and failures of small stores."""

import numpy as np

from flowcpc.stores.encoding import DEFAULT

NUMERICS = {"height": 16, "width": 20, "encoding": DEFAULT.to_json(), "tvl1": {"tau": 0.25}}


def some_flow(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (length, 2, 16, 20)).astype(np.float32)


FORMATS = ("zarr", "hdf5")


def failure(video_id: str, reason: str) -> dict[str, object]:
    source = {
        "video_id": video_id,
        "path": f"{video_id}.avi",
        "label": "X",
        "group": None,
        "folds": {"fold1": "test"},
    }
    return {
        **source,
        "kind": "file",
        "reason": reason,
        "attempts": 1,
        "time": 0.0,
        "source_bytes": 1,
        "source_mtime_ns": 1,
    }
