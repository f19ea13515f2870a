import fcntl
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import assert_same_store, commit_flow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stores import layout, zarr_arrays
from stores.encoding import Encoding
from stores.errors import DamagedStoreError
from stores.flow_store import FlowStore, create_store, open_store

NUMERICS = {"height": 16, "width": 20, "encoding": Encoding().to_json(), "tvl1": {"tau": 0.25}}


def some_flow(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (length, 2, 16, 20)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> FlowStore:
    return create_store(tmp_path / "s.flow", NUMERICS)


def test_any_flow_comes_back_within_the_encoding_s_error(tmp_path: Path) -> None:
    store = create_store(tmp_path / "s.flow", NUMERICS)

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        hnp.arrays(
            np.float32,
            st.tuples(st.integers(1, 12), st.just(2), st.just(16), st.just(20)),
            elements=st.floats(-64, 64, width=32),
        )
    )
    def check(flow: np.ndarray) -> None:
        commit_flow(store, "v", flow)
        np.testing.assert_allclose(store.read_flow("v"), flow, rtol=0.0175, atol=0.0626)

    check()


@pytest.mark.parametrize("shard", [10, 1000])
def test_any_window_equals_the_slice_of_the_whole(
    store: FlowStore, monkeypatch: pytest.MonkeyPatch, shard: int
) -> None:
    monkeypatch.setattr(zarr_arrays, "FLOWS_PER_SHARD", shard)
    commit_flow(store, "v", some_flow(27))
    whole = store.read_flow("v")
    assert whole.shape == (27, 2, 16, 20)
    for start, stop in [(0, 0), (0, 1), (5, 17), (9, 11), (19, 27), (27, 27)]:
        np.testing.assert_array_equal(store.read_flow("v", start, stop), whole[start:stop])


@pytest.mark.parametrize("window", [(-1, 3), (3, 2), (0, 28), (28, 28)])
def test_a_window_outside_the_video_is_refused(store: FlowStore, window: tuple[int, int]) -> None:
    commit_flow(store, "v", some_flow(27))
    with pytest.raises(ValueError, match="but it has 27"):
        store.read_flow("v", *window)


def test_unknown_video_names_the_nearest_and_a_failed_one_its_reason(store: FlowStore) -> None:
    commit_flow(store, "v_Archery_g01_c01", some_flow(3))
    store.record_failure(failure("v_Broken", "is empty"))
    with pytest.raises(KeyError, match="did you mean v_Archery_g01_c01"):
        store.read_flow("v_Archery_g01_c02")
    with pytest.raises(KeyError, match=r"has no flow in .*: is empty"):
        store.read_flow("v_Broken")


def test_plain_zarr_reads_a_video_and_its_attributes_decode_it(store: FlowStore) -> None:
    commit_flow(store, "v", some_flow(5))
    (path,) = (store.path / "flow").glob("*/*")
    array = zarr.open_group(path, mode="r")["flow"]
    assert array.metadata.dimension_names == layout.DIMENSIONS
    assert array.attrs["units"] == "px per frame"
    table = np.array(array.attrs["levels_px"], np.float32)
    np.testing.assert_array_equal(table[array[:]], store.read_flow("v"))


def test_nothing_is_visible_before_the_commit_and_nothing_left_after_an_error(store: FlowStore) -> None:
    def fail() -> None:
        with store.write_video("v") as writer:
            writer.append(Encoding().encode(some_flow(4)))
            assert len(store.videos()) == 0
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert len(store.videos()) == 0
    assert list((store.path / "flow").glob("*/*")) == []


def test_a_recommit_replaces_and_the_old_generation_is_collected(store: FlowStore) -> None:
    commit_flow(store, "v", some_flow(4))
    commit_flow(store, "v", some_flow(6, seed=1))
    assert store.read_flow("v").shape[0] == 6
    assert len(list((store.path / "flow").glob("*/*"))) == 2
    assert store.collect_garbage() == 1
    assert store.read_flow("v").shape[0] == 6


def test_a_kill_in_the_middle_leaves_garbage_that_the_next_run_collects(store: FlowStore) -> None:
    commit_flow(store, "v", some_flow(4))
    writer = store.write_video("w").__enter__()  # never left: as after kill -9
    writer.append(Encoding().encode(some_flow(4)))
    writer._array.close()
    (store.path / "commits" / "ab").mkdir(exist_ok=True)
    (store.path / "commits" / "ab" / ".x.tmp").write_bytes(b"torn")
    assert store.collect_garbage() == 0, "another process, or this writer, still holds the store"
    writer._lock.close()
    assert store.collect_garbage() == 2
    assert store.videos()["video_id"].tolist() == ["v"]


def test_garbage_is_left_alone_while_another_writer_holds_the_store(store: FlowStore) -> None:
    (store.path / "flow" / "00").mkdir(parents=True)
    (store.path / "flow" / "00" / "v.0").mkdir()
    with open(store.path / layout.LOCK_FILE, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert store.collect_garbage() == 0
    assert store.collect_garbage() == 1


def test_a_moved_store_reads_the_same(store: FlowStore, tmp_path: Path) -> None:
    commit_flow(store, "v", some_flow(4))
    store.consolidate()
    shutil.copytree(store.path, tmp_path / "elsewhere" / "copy.flow")
    assert_same_store(store.path, tmp_path / "elsewhere" / "copy.flow")


def test_single_bit_flips_never_pass_for_flow(store: FlowStore) -> None:
    commit_flow(store, "v", some_flow(25))
    expected = store.read_codes("v")
    (shard,) = (store.path / "flow").glob("*/*/flow/c.*")
    intact = shard.read_bytes()
    rng = np.random.default_rng(5)
    detected = 0
    for position in rng.integers(0, 8 * len(intact), 60):
        damaged = bytearray(intact)
        damaged[position // 8] ^= 1 << (position % 8)
        shard.write_bytes(bytes(damaged))
        try:
            np.testing.assert_array_equal(store.read_codes("v"), expected)
        except DamagedStoreError:
            detected += 1
    assert detected > 50


@pytest.mark.parametrize("damage", ["truncate", "delete shard", "delete array", "flip zarr.json"])
def test_damage_is_named(store: FlowStore, damage: str) -> None:
    commit_flow(store, "v", some_flow(25))
    (shard,) = (store.path / "flow").glob("*/*/flow/c.*")
    if damage == "truncate":
        shard.write_bytes(shard.read_bytes()[:-40])
    elif damage == "delete shard":
        shard.unlink()
    elif damage == "delete array":
        shutil.rmtree(shard.parent)
    else:
        meta = shard.parent / "zarr.json"
        meta.write_text(meta.read_text().replace("25", "24", 1))
    with pytest.raises(DamagedStoreError, match="extract"):
        store.read_codes("v")


def test_a_damaged_record_is_named(store: FlowStore) -> None:
    commit_flow(store, "v", some_flow(3))
    path = layout.commit_path(store.path, "v")
    path.write_text(path.read_text().replace('"fps": 25.0', '"fps": 26.0'))
    with pytest.raises(DamagedStoreError, match=r"v\.json does not fit its checksum"):
        store.videos()


def test_other_numerics_are_refused_with_both_values(store: FlowStore) -> None:
    assert create_store(store.path, NUMERICS).numerics == NUMERICS
    with pytest.raises(ValueError, match=r"tvl1\.tau is 0\.25 in the store and 0\.1 here"):
        create_store(store.path, {**NUMERICS, "tvl1": {"tau": 0.1}})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 99}, "has format version 99"),
        ({"array_format": "hdf5"}, "hdf5"),
        ({"format": "other"}, "does not describe a flowcpc store"),
    ],
)
def test_other_formats_are_refused(store: FlowStore, change: dict[str, object], words: str) -> None:
    file = store.path / layout.STORE_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=words):
        open_store(store.path)


def test_no_store_and_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a flowcpc store"):
        open_store(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="exists and is not a flowcpc store"):
        create_store(tmp_path, NUMERICS)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stores.atomic import replace_file

    replace_file(tmp_path / "f", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


def failure(video_id: str, reason: str) -> dict[str, object]:
    source = {"video_id": video_id, "path": f"{video_id}.avi", "label": "X", "group": None, "folds": {"fold1": "test"}}
    return {
        **source,
        "kind": "file",
        "reason": reason,
        "attempts": 1,
        "time": 0.0,
        "source_bytes": 1,
        "source_mtime_ns": 1,
    }
