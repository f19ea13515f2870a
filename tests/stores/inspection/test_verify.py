"""Damage of every kind is found, named and mended."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from builders import assert_same_store, commit_flow, write_class_folders
from click.testing import CliRunner, Result
from embedding_cases import put_embeddings
from store_cases import FORMATS, NUMERICS, failure, some_flow

from flowcpc.commands import main
from flowcpc.stores import layout
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.embeddings import read_embeddings
from flowcpc.stores.flow_store import FlowStore, create_store, open_store
from flowcpc.stores.inspection.verify import DAMAGED, EXTRA, MISSING, PENDING, StoreProblem, verify
from flowcpc.stores.records import catalog, record_file
from flowcpc.stores.records.dataset_file import read_dataset

NAMES = ("a", "b", "c")


@pytest.fixture(params=FORMATS)
def store(tmp_path: Path, request: pytest.FixtureRequest) -> FlowStore:
    store = create_store(tmp_path / "s.flow", NUMERICS, request.param)
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


def problems(store: FlowStore, *, but: str = PENDING) -> list[tuple[str, str | None]]:
    return [
        (problem.kind, problem.video_id)
        for problem in verify(store).problems
        if problem.kind != but
    ]


def array_files(store: FlowStore, video_id: str) -> list[Path]:
    commit = store.commit_of(video_id)
    assert commit is not None
    return [store.path / name for name in commit["chunks"]["files"]]


def test_a_whole_store_has_nothing_but_what_is_left_to_do(store: FlowStore) -> None:
    result = verify(store, workers=2)
    assert result.problems == [StoreProblem(PENDING, "later", "", "it is not extracted yet")]
    assert (result.finished, result.videos) == (True, 3)
    assert result.bytes == store.videos()["bytes"].sum()
    assert result.harmful == []


def test_every_single_bit_flip_is_found_and_nothing_wrong_is_read(store: FlowStore) -> None:
    """Half of the 500 flips for each format: any file, any bit."""
    codes = {name: store.read_codes(name) for name in NAMES}
    tables = {name: catalog.read_table(store.path, name) for name in catalog.TABLES}
    files = sorted(
        path for path in store.path.rglob("*") if path.is_file() and path.name != layout.LOCK_FILE
    )
    rng = np.random.default_rng(7)
    chosen = [files[k] for k in rng.integers(0, len(files), 125)]
    chosen += [path for path in files if "flow" in path.relative_to(store.path).parts[0]] * 125
    for path in chosen[:250]:
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


def truncate(store: FlowStore) -> None:
    (path,) = array_files(store, "b")
    path.write_bytes(path.read_bytes()[:-7])


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


def flowcpc(*words: object) -> Result:
    return CliRunner().invoke(main.main, [str(word) for word in words])


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return write_class_folders(
        tmp_path / "videos", {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}, clips=2
    )


@pytest.mark.parametrize("array_format", FORMATS)
def test_the_command_names_and_mends(videos: Path, tmp_path: Path, array_format: str) -> None:
    path, whole = tmp_path / "s", tmp_path / "whole"
    common = ["--size", "24x32", "--workers", 0, "--format", array_format]
    for target in (path, whole):
        assert flowcpc("extract-flow", videos, target, *common).exit_code == 0
    assert flowcpc("verify", path).exit_code == 0
    store = open_store(path)
    names = store.videos()["video_id"].tolist()
    array_files(store, names[0])[0].write_bytes(b"short")
    layout.commit_path(path, names[1]).write_bytes(b"{}")
    array_files(store, names[2])[0].unlink()
    result = flowcpc("verify", path)
    assert result.exit_code == 1
    assert all(name in result.output for name in names[:3])
    assert names[3] not in result.output
    assert "--repair VIDEOS" in result.output
    (videos / "Left" / f"{names[0].rpartition('/')[2]}.avi").rename(tmp_path / "away.avi")
    result = flowcpc("verify", path, "--repair", videos, "--workers", 1)
    assert result.exit_code == 1
    assert "does not exist" in result.output
    (tmp_path / "away.avi").rename(videos / "Left" / f"{names[0].rpartition('/')[2]}.avi")
    result = flowcpc("verify", path, "--repair", videos, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "has no damage" in result.output
    assert_same_store(path, whole)
    assert flowcpc("verify", path).exit_code == 0


def test_repair_needs_a_folder_and_flow_of_our_own(store: FlowStore, tmp_path: Path) -> None:
    truncate(store)
    result = flowcpc("verify", store.path, "--repair", tmp_path / "nowhere")
    assert (result.exit_code, "is not a folder" in result.output) == (2, True)
    store.numerics.pop("tvl1")
    record_file.write_record(
        store.path / layout.STORE_FILE,
        record_file.read_record(store.path / layout.STORE_FILE) | {"numerics": store.numerics},
    )
    result = flowcpc("verify", store.path, "--repair", tmp_path)
    assert (result.exit_code, "was not computed by flowcpc" in result.output) == (2, True)


def test_the_advice_fits_the_damage(store: FlowStore) -> None:
    for damage, words in (
        (store.path / "index" / "videos.parquet", "--rebuild-index"),
        (store.path / "dataset.json", f"delete {store.path / 'dataset.json'}"),
        (store.path / "embeddings" / "run-abc" / "_manifest.json", "flowcpc embed"),
        (layout.commit_path(store.path, "b"), "--repair VIDEOS"),
    ):
        intact = damage.read_bytes()
        damage.write_bytes(b"x")
        result = flowcpc("verify", store.path)
        assert result.exit_code == 1
        assert words in result.stderr.splitlines()[-1]
        assert (
            len(
                [
                    line
                    for line in result.stderr.splitlines()
                    if " with: " in line or "delete" in line
                ]
            )
            == 1
        )
        damage.write_bytes(intact)


def test_many_videos_that_are_only_pending_are_one_line(store: FlowStore) -> None:
    names = [*NAMES, *(f"later{n}" for n in range(11))]
    store.set_dataset(
        [
            {"video_id": name, "path": f"{name}.avi", "label": "X", "group": None, "folds": {}}
            for name in names
        ],
        names,
    )
    result = flowcpc("verify", store.path)
    assert result.exit_code == 0
    assert result.stdout == "pending\t\t\t11 videos of the data set are not extracted yet\n"


def test_a_stray_record_does_not_block_the_repair_of_the_rest(videos: Path, tmp_path: Path) -> None:
    common = ["--size", "24x32", "--workers", 0]
    assert flowcpc("extract-flow", videos, tmp_path / "s", *common, "--limit", 3).exit_code == 0
    store = open_store(tmp_path / "s")
    first, second, third = store.videos()["video_id"]
    array_files(store, first)[0].unlink()
    layout.commit_path(store.path, second).write_bytes(b"")
    stray = layout.commit_path(store.path, first).with_name("stray.json")
    stray.touch()
    for words in (
        ["info", store.path],
        ["query", store.path, "SELECT * FROM videos"],
        ["info", store.path, "--rebuild-index"],
    ):
        assert flowcpc(*words).exit_code == 0
    assert (
        "2 videos damaged and in no table but failures"
        in flowcpc("query", store.path, "SELECT 1").stderr
    )
    result = flowcpc("export", store.path, tmp_path / "out", "--layout", "tsn")
    assert (result.exit_code, len(result.stdout.splitlines())) == (3, 3)
    assert "1 video (1 written now)\n3 of 4 videos are damaged" in result.stderr
    assert flowcpc("export", store.path, tmp_path / "out", third, "--layout", "tsn").exit_code == 0
    assert flowcpc("show", store.path, third, "--out", tmp_path / "third.png").exit_code == 0
    assert f"{second}.json" in flowcpc(
        "show", store.path, second, "--out", tmp_path / "x.png"
    ).stderr.replace("%2F", "/")
    result = flowcpc("verify", store.path, "--repair", videos, "--workers", 1)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith(
        f"stray\t{stray} is not in the store's list of videos"
    )
    assert [problem.path for problem in verify(store).harmful] == [
        str(stray.relative_to(store.path))
    ]
    stray.unlink()
    later = {"video_id": "later", "path": "later.avi", "label": None, "group": None, "folds": {}}
    store.set_dataset([later], ["later", *read_dataset(store.path)])
    array_files(store, first)[0].unlink()
    result = flowcpc("verify", store.path, "--repair", videos, "--workers", 1)
    repaired, pending = result.stderr.splitlines()[-2:]
    assert repaired == f"repaired: {store.path} has no damage"
    assert pending.startswith("1 video of its data set")


def test_json_for_programs(store: FlowStore) -> None:
    truncate(store)
    result = CliRunner().invoke(main.main, ["verify", str(store.path), "--json"])
    assert '"kind": "damaged"' in result.stdout
