"""Damage of every kind is found, named and mended."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from builders import commit_flow
from command_cases import flowcpc
from damage_cases import NAMES, array_files, truncate, whole_store
from store_cases import FORMATS, some_flow

from flowcpc.stores import layout
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.embeddings import read_embeddings
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.stores.inspection.verify import DAMAGED, EXTRA, MISSING, PENDING, StoreProblem, verify
from flowcpc.stores.records import catalog


@pytest.fixture(params=FORMATS)
def store(tmp_path: Path, request: pytest.FixtureRequest) -> FlowStore:
    return whole_store(tmp_path / "s.flow", request.param)


def problems(store: FlowStore, *, but: str = PENDING) -> list[tuple[str, str | None]]:
    return [
        (problem.kind, problem.video_id)
        for problem in verify(store).problems
        if problem.kind != but
    ]


def test_a_whole_store_has_nothing_but_what_is_left_to_do(store: FlowStore) -> None:
    result = verify(store, workers=2)
    assert result.problems == [StoreProblem(PENDING, "later", "", "it is not extracted yet")]
    assert (result.finished, result.videos) == (True, 3)
    assert result.bytes == store.videos()["bytes"].sum()
    assert result.harmful == []


@pytest.mark.parametrize("flips", [50, pytest.param(250, marks=pytest.mark.slow)])
def test_every_single_bit_flip_is_found_and_nothing_wrong_is_read(
    store: FlowStore, flips: int
) -> None:
    """Half of them in any file, half in those of flow; any bit."""
    codes = {name: store.read_codes(name) for name in NAMES}
    tables = {name: catalog.read_table(store.path, name) for name in catalog.TABLES}
    files = sorted(
        path for path in store.path.rglob("*") if path.is_file() and path.name != layout.LOCK_FILE
    )
    rng = np.random.default_rng(7)
    chosen = [files[k] for k in rng.integers(0, len(files), flips // 2)]
    chosen += [path for path in files if "flow" in path.relative_to(store.path).parts[0]] * flips
    for path in chosen[:flips]:
        intact = path.read_bytes()
        position = int(rng.integers(0, 8 * len(intact)))
        damaged = bytearray(intact)
        damaged[position // 8] ^= 1 << (position % 8)
        path.write_bytes(bytes(damaged))
        where = f"bit {position} of {path}"
        try:
            found = verify(open_store(store.path)).harmful
            assert found, where
            assert all(
                str(path.relative_to(store.path)).startswith(problem.path) for problem in found
            ), where
        except (DamagedStoreError, ValueError):  # it cannot even be opened
            assert path.name == layout.STORE_FILE, where
        assert_right_or_refused(store, codes, tables, where)
        path.write_bytes(intact)
    assert verify(store).harmful == []


def assert_right_or_refused(store: FlowStore, codes: dict, tables: dict, where: str) -> None:
    refusal = contextlib.suppress(DamagedStoreError)
    for name, expected in codes.items():
        with refusal:
            np.testing.assert_array_equal(store.read_codes(name), expected, where)
    for name, table in tables.items():
        with refusal:
            assert catalog.read_table(store.path, name).equals(table), where
    with refusal:
        assert np.array_equal(read_embeddings(store, "run", level="video")[1], np.eye(3, 5)), where


def test_plain_readers_notice_every_flip_in_chunks(store: FlowStore) -> None:
    (path,) = array_files(store, "b")
    commit = store.commit_of("b")
    assert commit is not None
    chunks = store.open_video("b").chunks
    intact, expected = path.read_bytes(), store.read_codes("b")
    rng = np.random.default_rng(3)
    for _ in range(60):
        chunk = int(rng.integers(0, len(chunks.sizes)))
        position = int(chunks.offsets[chunk]) * 8 + int(rng.integers(0, 8 * chunks.sizes[chunk]))
        damaged = bytearray(intact)
        damaged[position // 8] ^= 1 << (position % 8)
        path.write_bytes(bytes(damaged))
        with pytest.raises((OSError, ValueError, RuntimeError)):
            read_plainly(store, path)
        path.write_bytes(intact)
    np.testing.assert_array_equal(read_plainly(store, path), expected)


def read_plainly(store: FlowStore, path: Path) -> np.ndarray:
    if store.array_format == "zarr":
        return zarr.open_group(path.parent.parent, mode="r")["flow"][:]
    with h5py.File(path, "r") as file:
        return file["flow"][:]


def remove(store: FlowStore) -> None:
    array_files(store, "b")[0].unlink()


def swap(store: FlowStore) -> None:
    shutil.copy(array_files(store, "a")[0], array_files(store, "b")[0])


def remove_generation(store: FlowStore) -> None:
    for path in store.path.glob("flow/*/b.*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def swap_records(store: FlowStore) -> None:
    shutil.copy(layout.commit_path(store.path, "a"), layout.commit_path(store.path, "b"))


def damage_record(store: FlowStore) -> None:
    path = layout.commit_path(store.path, "b")
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (truncate, DAMAGED),
        (remove, MISSING),
        (swap, DAMAGED),
        (remove_generation, MISSING),
        (swap_records, DAMAGED),
        (damage_record, DAMAGED),
    ],
)
def test_damage_is_named_with_its_video(
    store: FlowStore, damage: Callable[[FlowStore], None], kind: str
) -> None:
    damage(store)
    found = {(problem.kind, problem.video_id) for problem in verify(store).harmful}
    assert found == {(kind, "b")}


def lose_commits(store: FlowStore) -> None:
    shutil.rmtree(store.path / "commits")


def test_lost_commits_are_said_and_their_flow_is_kept(store: FlowStore, tmp_path: Path) -> None:
    shutil.copytree(store.path / "commits", tmp_path / "copy")
    lose_commits(store)
    assert {(problem.kind, problem.video_id) for problem in verify(store).harmful} == {
        (MISSING, name) for name in NAMES
    }
    result = flowcpc("verify", store.path)
    assert f"{EXTRA}\t" not in result.stdout
    assert (
        result.exit_code,
        "restore" in result.output and "--repair VIDEOS" in result.output,
    ) == (
        1,
        True,
    )
    assert store.collect_garbage() == 0
    shutil.copytree(tmp_path / "copy", store.path / "commits")
    assert verify(store).harmful == []
    (store.path / "commits").rename(tmp_path / "again")
    commit_flow(store, "a", some_flow(3), label="X")
    assert store.collect_garbage() == 1, "what a new commit replaces goes as ever"


def test_leftovers_are_named_and_do_no_harm(store: FlowStore) -> None:
    (store.path / "flow" / "00").mkdir(exist_ok=True)
    (store.path / "flow" / "00" / "v.0123456789ab").mkdir()
    (store.path / "flow" / "00" / "v.0123456789ab" / "x").touch()
    (store.path / "flow" / "stray").touch()
    (store.path / "index" / ".torn.tmp").touch()
    assert problems(store) == [(EXTRA, None)] * 3
    assert verify(store).harmful == []


def test_the_other_files_are_checked_too(store: FlowStore) -> None:
    for name in (
        "dataset.json",
        "index/frames.parquet",
        "index/index.json",
        "embeddings/run-abc/part-*.parquet",
        "embeddings/run-abc/_manifest.json",
    ):
        path = sorted(store.path.glob(name))[0]
        intact = path.read_bytes()
        path.write_bytes(intact.replace(b"a", b"b", 1))
        (problem,) = verify(store).harmful
        assert (problem.kind, problem.video_id) == (DAMAGED, None)
        assert name.startswith(problem.path)
        path.write_bytes(intact)


def test_a_damaged_index_is_not_believed(store: FlowStore) -> None:
    before = store.videos()
    path = store.path / "index" / "videos.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert store.videos().equals(before)
