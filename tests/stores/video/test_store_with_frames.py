"""A store that holds frames beside the flow: what it takes, refuses, misses and cleans up."""

from pathlib import Path

import numpy as np
import pytest
from builders import FRAMES, commit_flow, some_jpegs
from store_cases import FORMATS, NUMERICS, some_flow

from flowcpc.stores import layout
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.inspection.verify import DAMAGED, EXTRA, MISSING, verify
from flowcpc.stores.records import garbage


def test_a_store_is_of_one_kind(tmp_path: Path) -> None:
    create_store(tmp_path / "lacking", NUMERICS)
    with pytest.raises(
        ValueError,
        match=r"it holds flow without frames, and --with-frames asks for them; use the same",
    ):
        create_store(tmp_path / "lacking", NUMERICS | FRAMES)
    create_store(tmp_path / "having", NUMERICS | FRAMES)
    with pytest.raises(
        ValueError,
        match=r"it holds frames too, and --with-frames is not given; use the same options",
    ):
        create_store(tmp_path / "having", NUMERICS)
    other = {"frames": FRAMES["frames"] | {"quality": 80}}
    with pytest.raises(ValueError, match=r"frames.quality is 95 in the store and 80 here"):
        create_store(tmp_path / "having", NUMERICS | other)


@pytest.mark.parametrize("count", [4, 6])
def test_frames_that_are_not_one_more_than_flows_are_no_video(tmp_path: Path, count: int) -> None:
    store = create_store(tmp_path / "s", NUMERICS | FRAMES)
    with store.write_video("v") as writer:
        writer.append(store.encoding.encode(some_flow(4)))
        writer.append_frames(some_jpegs(count, 16, 20))
        with pytest.raises(ValueError, match=f"v has {count} frames and 4 flows; a video has one"):
            writer.commit({}, {}, frames={}, shots={}, segments={})
    assert list(store.path.rglob("v.*")) == []


def test_a_store_without_frames_takes_none(tmp_path: Path) -> None:
    store = create_store(tmp_path / "s", NUMERICS)
    with (
        pytest.raises(ValueError, match="holds flow without frames; do not append those of v"),
        store.write_video("v") as writer,
    ):
        writer.append_frames(some_jpegs(1, 16, 20))


@pytest.fixture(params=FORMATS)
def store(tmp_path: Path, request: pytest.FixtureRequest) -> FlowStore:
    """Two videos with frames, and tables."""
    store = create_store(tmp_path / "s", NUMERICS | FRAMES, request.param)
    for seed, name in enumerate(("a", "b")):
        commit_flow(store, name, some_flow(5, seed))
    store.set_dataset(
        [
            {"video_id": name, "path": name, "label": None, "group": None, "folds": {}}
            for name in "ab"
        ],
        "ab",
    )
    store.consolidate()
    return store


def frames_file(store: FlowStore, video_id: str) -> Path:
    (path,) = store.path.glob(f"frames/*/{video_id}.*.mjpeg")
    return path


def test_what_no_commit_names_is_garbage(store: FlowStore) -> None:
    stray = frames_file(store, "a").with_name("a.0123456789ab.mjpeg")
    never = store.path / "frames" / "00" / "never.0123456789ab.mjpeg"
    never.parent.mkdir(exist_ok=True)
    for path in (stray, never):
        path.write_bytes(b"begun")
    assert [problem.kind for problem in verify(store).problems] == [EXTRA, EXTRA]
    assert store.collect_garbage() == 2
    assert not stray.exists()
    assert not never.exists()
    commit_flow(store, "a", some_flow(5, 9))  # a new generation leaves the one before
    assert store.collect_garbage() == 2
    assert verify(store).problems == []
    assert store.read_frames("a").shape == (6, 16, 20, 3)


def test_a_lost_commit_keeps_its_frames(store: FlowStore) -> None:
    path = layout.commit_path(store.path, "a")
    intact = path.read_bytes()
    path.unlink()
    assert [(problem.kind, problem.video_id) for problem in verify(store).problems] == [
        (MISSING, "a")
    ]
    assert garbage.collect(store.path) == 0
    path.write_bytes(intact)
    assert verify(store).problems == []


def test_missing_and_damaged_frames_are_found(store: FlowStore) -> None:
    frames_file(store, "a").unlink()
    file = frames_file(store, "b")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    found = sorted((problem.video_id, problem.kind) for problem in verify(store).harmful)
    assert found == [("a", MISSING), ("b", DAMAGED)]
    np.testing.assert_array_equal(store.read_codes("a"), store.encoding.encode(some_flow(5)))
