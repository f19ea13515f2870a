"""A store with a file of every kind, and damage to it."""

from pathlib import Path

import numpy as np
from builders import commit_flow
from embedding_cases import put_embeddings
from store_cases import NUMERICS, failure, some_flow

from flowcpc.stores.flow_store import FlowStore, create_store

NAMES = ("a", "b", "c")


def whole_store(path: Path, array_format: str) -> FlowStore:
    """Make a store of the videos NAMES, with a failure, a pending video, tables and embeddings."""
    store = create_store(path, NUMERICS, array_format)
    for seed, name in enumerate(NAMES):
        commit_flow(store, name, some_flow(23 + seed, seed), label="X", folds={"fold1": "train"})
    store.record_failure(failure("broken", "is empty"))
    store.set_dataset(
        [
            {"video_id": name, "path": f"{name}.avi", "label": "X", "group": None, "folds": {}}
            for name in (*NAMES, "broken", "later")
        ],
        (*NAMES, "broken", "later"),
    )
    put_embeddings(store, "run", np.eye(3, 5, dtype=np.float32))
    store.consolidate()
    return store


def array_files(store: FlowStore, video_id: str) -> list[Path]:
    commit = store.commit_of(video_id)
    assert commit is not None
    return [store.path / name for name in commit["chunks"]["files"]]


def truncate(store: FlowStore) -> None:
    (path,) = array_files(store, "b")
    path.write_bytes(path.read_bytes()[:-7])
