import contextlib
import fcntl
import os
import shutil
from pathlib import Path

import pytest
from builders import commit_flow
from store_cases import FORMATS, NUMERICS, some_flow

from flowcpc.stores import layout
from flowcpc.stores.encoding import DEFAULT
from flowcpc.stores.flow_store import FlowStore, create_store, open_store


@pytest.fixture(params=FORMATS)
def store(tmp_path: Path, request: pytest.FixtureRequest) -> FlowStore:
    return create_store(tmp_path / "s.flow", NUMERICS, request.param)


def test_a_recommit_replaces_and_the_old_generation_is_collected(store: FlowStore) -> None:
    commit_flow(store, "v", some_flow(4))
    commit_flow(store, "v", some_flow(6, seed=1))
    assert store.read_flow("v").shape[0] == 6
    assert len(list((store.path / "flow").glob("*/*"))) == 2
    assert store.collect_garbage() == 1
    assert store.read_flow("v").shape[0] == 6


def test_a_kill_in_the_middle_leaves_garbage_that_the_next_run_collects(store: FlowStore) -> None:
    commit_flow(store, "v", some_flow(4))
    killed = contextlib.ExitStack()
    writer = killed.enter_context(store.write_video("w"))
    writer.append(DEFAULT.encode(some_flow(4)))
    (store.path / "commits" / "ab").mkdir(exist_ok=True)
    (store.path / "commits" / "ab" / ".x.tmp").write_bytes(b"torn")
    assert store.collect_garbage() == 0, "another process, or this writer, still holds the store"
    leftover = store.path / "kept"
    writer.path.rename(leftover)
    killed.close()
    leftover.rename(writer.path)  # as after kill -9
    assert store.collect_garbage() == 2
    assert store.videos()["video_id"].tolist() == ["v"]


def test_garbage_is_left_alone_while_another_writer_holds_the_store(store: FlowStore) -> None:
    (store.path / "flow" / "00").mkdir(parents=True)
    (store.path / "flow" / "00" / "v.0").mkdir()
    with open(store.path / layout.LOCK_FILE, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert store.collect_garbage() == 0
    assert store.collect_garbage() == 1


def test_a_store_that_is_being_created_is_no_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two extractions that start together both create the store; one may be a moment ahead."""
    replace = os.replace

    def overtaken(temporary: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        shutil.copy(temporary, target)
        assert open_store(tmp_path / "s").collect_garbage() == 0
        replace(temporary, target)

    monkeypatch.setattr(os, "replace", overtaken)
    store = create_store(tmp_path / "s", NUMERICS)
    assert os.replace is replace
    assert store.collect_garbage() == 0
