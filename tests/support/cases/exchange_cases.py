"""Small stores and commands for the folders of other programs."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import commit_flow
from click.testing import CliRunner, Result

from flowcpc.commands import main
from flowcpc.stores.encoding import DEFAULT
from flowcpc.stores.flow_store import FlowStore, create_store


def smooth_flow(length: int, seed: int) -> np.ndarray:
    """Flow that varies slowly over the frame, up to about 12 px, float32 (n, 2, 32, 48)."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 4, (length, 2, 4, 6)).astype(np.float32)
    return np.stack(
        [
            [cv2.resize(part, (48, 32), interpolation=cv2.INTER_CUBIC) for part in flow]
            for flow in coarse
        ]
    )


def two_videos(tmp_path: Path) -> FlowStore:
    store = create_store(
        tmp_path / "s.flow", {"height": 32, "width": 48, "encoding": DEFAULT.to_json()}
    )
    commit_flow(store, "Left/a", smooth_flow(5, 0), label="Left")
    commit_flow(store, "Right/b", smooth_flow(40, 1), label="Right")
    return store


@pytest.fixture
def store(tmp_path: Path) -> FlowStore:
    return two_videos(tmp_path)


def flowcpc(*words: object) -> Result:
    return CliRunner().invoke(main.main, [str(word) for word in words])


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output
