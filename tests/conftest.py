"""Fixtures that several test modules share."""

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from builders import FRAMES, commit_flow
from numpy.typing import NDArray
from records import real_data_folder

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # as cli.main does, for the tests that call train/ directly

with contextlib.suppress(ImportError):  # a GPU machine may lack it
    import hypothesis

    # The first example of many compiles a kernel.
    hypothesis.settings.register_profile("no deadline", deadline=None)
    hypothesis.settings.load_profile("no deadline")

Flows = Mapping[str, NDArray[np.float32]]
Names = Mapping[str, str]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips, or a skip where a clone has none."""
    path = real_data_folder()
    if not (path / "videos.csv").is_file():
        pytest.skip(f"no real clips at {path}; set FLOWCPC_TEST_DATA to a folder that has them")
    return path


@pytest.fixture
def make_store() -> Callable[..., Path]:
    """A function that writes arrays into a store.

    make_store(tmp_path, videos={id: flow (n, 2, H, W)}, labels=, groups=, folds=, with_frames=).
    Flows of several sizes share their shorter side.
    """
    from flowcpc.stores.encoding import DEFAULT
    from flowcpc.stores.flow_store import create_store

    def make(
        tmp_path: Path,
        videos: Flows,
        labels: Names | None = None,
        groups: Names | None = None,
        folds: Mapping[str, Names] | None = None,
        with_frames: bool = False,
    ) -> Path:
        sizes = {flow.shape[-2:] for flow in videos.values()}
        height, width = next(iter(sizes))
        size = (
            {"height": height, "width": width}
            if len(sizes) == 1
            else {"short_side": min(height, width)}
        )
        numerics = {**size, "encoding": DEFAULT.to_json(), **(FRAMES if with_frames else {})}
        store = create_store(tmp_path / "store.flow", numerics)
        for video_id, flow in videos.items():
            commit_flow(
                store,
                video_id,
                flow,
                label=(labels or {}).get(video_id),
                group=(groups or {}).get(video_id),
                folds=dict((folds or {}).get(video_id, {})),
            )
        store.consolidate()
        return store.path

    return make


@pytest.fixture
def store(tmp_path: Path, make_store: Callable[..., Path]) -> Path:
    """The small store of train_cases, for the modules that have no store of their own."""
    from train_cases import small_store

    return small_store(tmp_path, make_store)


@pytest.fixture
def run(store: Path, tmp_path: Path) -> Path:
    """A run on it, finished, with the settings of train_cases."""
    from train_cases import CONFIG

    from flowcpc.train.pretraining.loop import pretrain

    pretrain(store, tmp_path / "run", CONFIG)
    return tmp_path / "run"
