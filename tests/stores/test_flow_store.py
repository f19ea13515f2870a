import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from builders import assert_same_store, commit_flow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from store_cases import FORMATS, NUMERICS, failure, some_flow

from flowcpc.stores import layout
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.encoding import DEFAULT, ENCODINGS
from flowcpc.stores.flow_store import FlowStore, create_store, open_store
from flowcpc.stores.records import record_file
from flowcpc.stores.video import zarr_arrays


@pytest.fixture(params=FORMATS)
def store(tmp_path: Path, request: pytest.FixtureRequest) -> FlowStore:
    return create_store(tmp_path / "s.flow", NUMERICS, request.param)


def video_path(store: FlowStore, video_id: str = "v") -> Path:
    commit = store.commit_of(video_id)
    assert commit is not None
    return store.path / layout.generation_path(video_id, commit["generation"], store.array_format)


def array_file(store: FlowStore) -> Path:
    """The file that holds the chunks of the only video."""
    (path,) = store.path.glob(
        "flow/*/*/flow/c.*" if store.array_format == "zarr" else "flow/*/*.h5"
    )
    return path


@pytest.mark.parametrize("array_format", FORMATS)
@pytest.mark.parametrize("name", ENCODINGS)
def test_any_flow_comes_back_as_the_nearest_codes(
    tmp_path: Path, name: str, array_format: str
) -> None:
    encoding = ENCODINGS[name]
    store = create_store(
        tmp_path / "s.flow", {**NUMERICS, "encoding": encoding.to_json()}, array_format
    )

    @settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        hnp.arrays(
            np.float32,
            st.tuples(st.integers(1, 60), st.just(2), st.just(16), st.just(20)),
            elements=st.floats(-64, 64, width=32),
        )
    )
    def check(flow: np.ndarray) -> None:
        commit_flow(store, "v", flow)
        codes = encoding.encode(flow)
        np.testing.assert_array_equal(store.read_codes("v"), codes)
        np.testing.assert_array_equal(store.read_flow("v"), encoding.decode(codes))

    check()


@pytest.mark.parametrize("shard", [10, 30, 1000])
def test_any_window_equals_the_slice_of_the_whole(
    store: FlowStore, monkeypatch: pytest.MonkeyPatch, shard: int
) -> None:
    monkeypatch.setattr(zarr_arrays, "FLOWS_PER_SHARD", shard)
    flow = some_flow(57)
    commit_flow(store, "v", flow)
    whole = store.encoding.encode(flow)
    video = store.open_video("v")
    rng = np.random.default_rng(0)
    for start, stop in [(0, 0), (0, 1), (5, 17), (9, 11), (19, 57), (57, 57), (0, 57)]:
        np.testing.assert_array_equal(store.read_codes("v", start, stop), whole[start:stop])
    for _ in range(50):
        flows = np.sort(rng.integers(0, 57, rng.integers(1, 12)))
        height, width = (int(n) for n in rng.integers(1, (17, 21)))
        top, left = (int(n) for n in rng.integers(0, (17 - height, 21 - width)))
        out = np.empty((len(flows), 2, height, width), np.uint8)
        video.read_crop(flows, (top, left), (height, width), out)
        np.testing.assert_array_equal(out, whole[flows, :, top : top + height, left : left + width])


def test_both_formats_read_the_same_and_hold_the_same_chunks(tmp_path: Path) -> None:
    stores = [create_store(tmp_path / name, NUMERICS, name) for name in FORMATS]
    for store in stores:
        commit_flow(store, "v", some_flow(57))
    assert_same_store(stores[0].path, stores[1].path, but="bytes")
    maps = [store.commit_of("v")["chunks"] for store in stores]
    assert maps[0]["crc32c"] == maps[1]["crc32c"]


@pytest.mark.parametrize("window", [(-1, 3), (3, 2), (0, 28), (28, 28)])
def test_a_window_outside_the_video_is_refused(store: FlowStore, window: tuple[int, int]) -> None:
    commit_flow(store, "v", some_flow(27))
    with pytest.raises(ValueError, match=r"must lie within \[0, 27\)"):
        store.read_flow("v", *window)


def test_unknown_video_names_the_nearest_and_a_failed_one_its_reason(store: FlowStore) -> None:
    commit_flow(store, "v_Archery_g01_c01", some_flow(3))
    store.record_failure(failure("v_Broken", "is empty"))
    with pytest.raises(KeyError, match="did you mean v_Archery_g01_c01"):
        store.read_flow("v_Archery_g01_c02")
    with pytest.raises(KeyError, match=r"has no flow in .*: is empty"):
        store.read_flow("v_Broken")


@pytest.mark.parametrize("name", ENCODINGS)
def test_plain_zarr_reads_a_video_and_its_attributes_decode_it(tmp_path: Path, name: str) -> None:
    store = create_store(
        tmp_path / "s.flow", {**NUMERICS, "encoding": ENCODINGS[name].to_json()}, "zarr"
    )
    commit_flow(store, "v", some_flow(57))
    array = zarr.open_group(video_path(store), mode="r")["flow"]
    assert array.metadata.dimension_names == layout.DIMENSIONS
    check_attributes(dict(array.attrs), array[:], store)


@pytest.mark.parametrize("name", ENCODINGS)
def test_plain_h5py_reads_a_video_and_its_attributes_decode_it(tmp_path: Path, name: str) -> None:
    store = create_store(
        tmp_path / "s.flow", {**NUMERICS, "encoding": ENCODINGS[name].to_json()}, "hdf5"
    )
    commit_flow(store, "v", some_flow(57))
    with h5py.File(video_path(store), "r") as file:
        array = file["flow"]
        assert [array.dims[axis].label for axis in range(4)] == list(layout.DIMENSIONS)
        check_attributes(dict(array.attrs), array[:], store)


def check_attributes(attributes: dict[str, Any], codes: np.ndarray, store: FlowStore) -> None:
    """The attributes alone give the px that the store gives."""
    assert attributes["units"] == "px per frame"
    if "levels_px" in attributes:
        flow = np.array(attributes["levels_px"], np.float32)[codes]
    else:
        flow = codes * attributes["scale_factor"] + attributes["add_offset"]
    np.testing.assert_allclose(flow, store.read_flow("v"), atol=1e-5)


def test_plain_zarr_reads_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_arrays, "FLOWS_PER_SHARD", 20)
    store = create_store(tmp_path / "s.flow", NUMERICS, "zarr")
    commit_flow(store, "v", some_flow(57))
    assert len(list(store.path.glob("flow/*/*/flow/c.*"))) == 3
    array = zarr.open_group(video_path(store), mode="r")["flow"]
    np.testing.assert_array_equal(array[:], store.read_codes("v"))


def test_nothing_is_visible_before_the_commit_and_nothing_left_after_an_error(
    store: FlowStore,
) -> None:
    def fail() -> None:
        with store.write_video("v") as writer:
            writer.append(DEFAULT.encode(some_flow(4)))
            assert len(store.videos()) == 0
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert len(store.videos()) == 0
    assert list((store.path / "flow").glob("*/*")) == []


def test_a_moved_store_reads_the_same(store: FlowStore, tmp_path: Path) -> None:
    commit_flow(store, "v", some_flow(4))
    store.consolidate()
    shutil.copytree(store.path, tmp_path / "elsewhere" / "copy.flow")
    assert_same_store(store.path, tmp_path / "elsewhere" / "copy.flow")


def test_single_bit_flips_never_pass_for_flow(store: FlowStore) -> None:
    commit_flow(store, "v", some_flow(25))
    expected = store.read_codes("v")
    shard = array_file(store)
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
    assert detected > 30


@pytest.mark.parametrize("damage", ["truncate", "delete", "swap"])
def test_damage_is_named(store: FlowStore, damage: str) -> None:
    commit_flow(store, "v", some_flow(57))
    file = array_file(store)
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "delete":
        file.unlink()
    else:
        commit_flow(store, "other", some_flow(57, seed=1))
        pattern = "flow/*/other.*/flow/c.*" if store.array_format == "zarr" else "flow/*/other.*.h5"
        (other,) = store.path.glob(pattern)
        shutil.copy(other, file)
    with pytest.raises(DamagedStoreError, match=r"flows \[.*\) of v are damaged .*verify"):
        store.read_codes("v")


def test_reading_needs_neither_zarr_json_nor_hdf5(store: FlowStore) -> None:
    commit_flow(store, "v", some_flow(5))
    for path in store.path.rglob("zarr.json"):
        path.write_text("{}")
    np.testing.assert_array_equal(store.read_codes("v"), DEFAULT.encode(some_flow(5)))


def test_a_damaged_record_is_named(store: FlowStore) -> None:
    commit_flow(store, "v", some_flow(3))
    path = layout.commit_path(store.path, "v")
    path.write_text(path.read_text().replace('"fps": 25.0', '"fps": 26.0'))
    with pytest.raises(DamagedStoreError, match=r"v\.json does not fit its checksum"):
        store.read_flow("v")


def test_a_record_under_another_name_is_refused(store: FlowStore) -> None:
    commit_flow(store, "v", some_flow(3))
    path = layout.commit_path(store.path, "w")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(layout.commit_path(store.path, "v"), path)
    with pytest.raises(DamagedStoreError, match="is the record of v"):
        store.read_codes("w")


def test_other_numerics_are_refused_with_both_values(store: FlowStore) -> None:
    assert create_store(store.path, NUMERICS).numerics == store.numerics
    with pytest.raises(ValueError, match=r"tvl1\.tau is 0\.25 in the store and 0\.1 here"):
        create_store(store.path, {**NUMERICS, "tvl1": {"tau": 0.1}})


def test_another_format_than_the_store_s_is_refused(store: FlowStore) -> None:
    (other,) = set(FORMATS) - {store.array_format}
    assert create_store(store.path, NUMERICS).array_format == store.array_format
    with pytest.raises(ValueError, match=f"is {store.array_format}, but format {other} was given"):
        create_store(store.path, NUMERICS, other)
    with pytest.raises(ValueError, match="format='tiff' is unknown; choose one of zarr, hdf5"):
        create_store(store.path, NUMERICS, "tiff")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 99}, "has format version 99"),
        ({"format": "other"}, "does not describe a flowcpc store"),
    ],
)
def test_other_formats_are_refused(store: FlowStore, change: dict[str, object], words: str) -> None:
    file = store.path / layout.STORE_FILE
    record_file.write_record(file, {**record_file.read_record(file), **change})
    with pytest.raises(ValueError, match=words):
        open_store(store.path)


def test_the_first_format_is_refused_by_its_version(tmp_path: Path) -> None:
    (tmp_path / layout.STORE_FILE).write_text(
        json.dumps({"format": "flowcpc-store", "format_version": 1})
    )
    with pytest.raises(ValueError, match="has format version 1, but this release reads 3"):
        open_store(tmp_path)


def test_a_changed_store_file_is_refused(store: FlowStore) -> None:
    file = store.path / layout.STORE_FILE
    # Python refuses integers of so many digits by a ValueError that is no JSONDecodeError.
    for text in (file.read_text().replace("0.25", "0.26"), '{"format": ' + "1" * 5000 + "}"):
        file.write_text(text)
        with pytest.raises(DamagedStoreError, match=r"store\.json does not fit its checksum"):
            open_store(store.path)


def test_no_store_and_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a flowcpc store"):
        open_store(tmp_path)
    (tmp_path / "thesis.tex").touch()
    (tmp_path / "notes.tmp").touch()
    for path in (tmp_path, tmp_path / "thesis.tex", tmp_path / "notes.tmp"):
        with pytest.raises(ValueError, match="exists and is not a flowcpc store"):
            create_store(path, NUMERICS)
