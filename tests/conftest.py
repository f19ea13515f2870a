"""Fixtures that several test modules share."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from builders import FRAMES, commit_flow
from checkout import real_data_folder
from numpy.typing import NDArray

# As the command line does, for tests that call train/ directly; and as many threads as there are
# cores for a test process. Every process that a test starts inherits both.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

with contextlib.suppress(ImportError):  # a GPU machine may lack it
    import hypothesis

    # The first example of many compiles a kernel.
    hypothesis.settings.register_profile("no deadline", deadline=None)
    hypothesis.settings.load_profile("no deadline")

Flows = Mapping[str, NDArray[np.float32]]
Names = Mapping[str, str]


@pytest.fixture(scope="session", autouse=True)
def without_waiting_for_the_disk() -> Iterator[None]:
    """No test survives a power cut, and waiting for a busy disk takes longer than most tests."""
    with mock.patch("os.fsync"):
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips, or a skip where a clone has none."""
    path = real_data_folder()
    if not (path / "videos.csv").is_file():
        pytest.skip(f"no real clips at {path}; set FLOWCPC_TEST_DATA to a folder that has them")
    return path


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def small_store_made_once(
    tmp_path_factory: pytest.TempPathFactory, make_store: Callable[..., Path]
) -> Path:
    from train_cases import small_store

    return small_store(tmp_path_factory.mktemp("small"), make_store)


@pytest.fixture(scope="session")
def small_run_made_once(small_store_made_once: Path) -> Path:
    from train_cases import CONFIG

    from flowcpc.train.pretraining.loop import pretrain

    pretrain(small_store_made_once, small_store_made_once.with_name("run"), CONFIG)
    return small_store_made_once.with_name("run")


@pytest.fixture
def store(tmp_path: Path, small_store_made_once: Path) -> Path:
    """A copy of the small store of train_cases, for modules that have no store of their own."""
    return Path(shutil.copytree(small_store_made_once, tmp_path / small_store_made_once.name))


@pytest.fixture
def run(store: Path, tmp_path: Path, small_run_made_once: Path) -> Path:
    """A copy of a finished run on it, with the settings of train_cases."""
    return Path(shutil.copytree(small_run_made_once, tmp_path / "run"))
