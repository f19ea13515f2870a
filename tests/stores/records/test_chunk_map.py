from pathlib import Path

import numpy as np
import pytest
from builders import commit_flow
from hypothesis import given
from hypothesis import strategies as st
from store_cases import NUMERICS, some_flow

from flowcpc.stores import layout
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.flow_store import create_store
from flowcpc.stores.records import record_file
from flowcpc.stores.records.chunk_map import ChunkMap


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 2**31), st.integers(0, 2**32 - 1)), min_size=1
    ),
    st.integers(1, 4),
)
def test_a_map_comes_back_from_its_record(
    chunks: list[tuple[int, int, int]], per_file: int
) -> None:
    gaps, sizes, checks = np.array(chunks, np.int64).T
    offsets = np.cumsum(gaps + np.concatenate([[0], sizes[:-1]]))
    files = tuple(f"c{n}" for n in range(-(-len(chunks) // per_file)))
    found = ChunkMap.from_json(ChunkMap(files, per_file, offsets, sizes, checks).to_json())
    assert (found.files, found.chunks_per_file) == (files, per_file)
    for name, values in (("offsets", offsets), ("sizes", sizes), ("checks", checks)):
        np.testing.assert_array_equal(getattr(found, name), values)
    assert found.holds(3 * len(chunks), 3)
    assert found.holds(3 * len(chunks) - 2, 3)
    assert not found.holds(3 * len(chunks) + 1, 3)
    assert not found.holds(3 * len(chunks) - 3, 3)


@pytest.mark.parametrize("change", ["flows", "sizes", "files", "chunks_per_file"])
def test_a_record_that_contradicts_itself_is_refused(tmp_path: Path, change: str) -> None:
    """Its checksum is right, as if another program wrote it; kernels check no bounds."""
    store = create_store(tmp_path / "s", NUMERICS)
    commit_flow(store, "v", some_flow(4))
    record = store.commit_of("v")
    assert record is not None
    if change == "flows":
        record["video"]["flows"] = 100
    elif change == "sizes":
        record["chunks"]["sizes"] = record_file.pack_array(np.zeros(1, np.int64), "<u4")
        record["chunks"]["gaps"] = record_file.pack_array(np.zeros(1, np.int64), "<i8")
        record["video"]["flows"] = 40
    else:
        record["chunks"][change] = [] if change == "files" else 0
    record_file.write_record(layout.commit_path(store.path, "v"), record)
    with pytest.raises(DamagedStoreError, match="contradicts itself"):
        store.read_flow("v")
