"""Commits that are none of the store that they lie in."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from builders import commit_flow
from store_cases import NUMERICS, some_flow

from flowcpc.stores import layout
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.encoding import ENCODINGS
from flowcpc.stores.flow_store import create_store, open_store
from flowcpc.stores.inspection.verify import verify
from flowcpc.stores.records import record_file


def test_flow_of_another_store_is_never_read(tmp_path: Path) -> None:
    """Files of two stores in one folder, whichever store.json wins; equal numerics may mix."""
    ours, theirs, same = (
        create_store(
            tmp_path / name, NUMERICS | {"encoding": ENCODINGS[encoding].to_json()}, "zarr"
        )
        for name, encoding in (
            ("ours", "companded8"),
            ("theirs", "uint8-bound20"),
            ("same", "companded8"),
        )
    )
    commit_flow(ours, "a", some_flow(3))
    for other in (theirs, same):
        commit_flow(other, "b", some_flow(3, seed=1))
        other.consolidate()
    shutil.copytree(same.path, tmp_path / "joined")
    shutil.copytree(ours.path, tmp_path / "joined", dirs_exist_ok=True)
    joined = open_store(tmp_path / "joined")
    assert joined.videos()["video_id"].tolist() == ["a", "b"]
    np.testing.assert_array_equal(joined.read_flow("b"), same.read_flow("b"))
    shutil.copytree(theirs.path, ours.path, dirs_exist_ok=True)  # their store.json and index too
    for numerics, good, bad in ((theirs.numerics, "b", "a"), (joined.numerics, "a", "b")):
        record_file.write_record(
            ours.path / layout.STORE_FILE,
            record_file.read_record(ours.path / layout.STORE_FILE) | {"numerics": numerics},
        )
        mixed = open_store(ours.path)
        assert mixed.videos()["video_id"].tolist() == [good]
        assert mixed.failures()[["video_id", "kind"]].values.tolist() == [[bad, "damaged"]]
        with pytest.raises(DamagedStoreError, match="files of two stores are mixed"):
            mixed.read_flow(bad)
        assert [(problem.kind, problem.video_id) for problem in verify(mixed).harmful] == [
            ("damaged", bad)
        ]
