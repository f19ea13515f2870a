"""`flowcpc verify`: its answers, its advice, and the repair of damage."""

import os
import signal
from pathlib import Path

import pytest
from builders import assert_same_store, write_class_folders
from click.testing import CliRunner
from command_cases import flowcpc
from damage_cases import NAMES, array_files, truncate, whole_store
from store_cases import FORMATS

from flowcpc.commands import console, main
from flowcpc.stores import layout
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.stores.inspection import verify as inspection_verify
from flowcpc.stores.inspection.verify import Verification, verify
from flowcpc.stores.records import record_file
from flowcpc.stores.records.dataset_file import read_dataset


@pytest.fixture(params=FORMATS)
def store(tmp_path: Path, request: pytest.FixtureRequest) -> FlowStore:
    return whole_store(tmp_path / "s.flow", request.param)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return write_class_folders(
        tmp_path / "videos", {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}, clips=2
    )


@pytest.mark.parametrize("array_format", ["zarr", pytest.param("hdf5", marks=pytest.mark.slow)])
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


@pytest.mark.slow
def test_a_signal_while_a_repaired_store_is_verified_again_stops_the_command(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    assert flowcpc("extract-flow", videos, path, "--size", "24x32", "--workers", 0).exit_code == 0
    store = open_store(path)
    array_files(store, store.videos()["video_id"][0])[0].write_bytes(b"short")
    calls = []

    def interrupted(*given: object, **options: object) -> Verification:
        calls.append(given)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return verify(*given, **options)

    monkeypatch.setattr(inspection_verify, "verify", interrupted)
    result = flowcpc("verify", path, "--repair", videos, "--workers", 1)
    assert (len(calls), result.exit_code) == (2, console.PREEMPTED), result.output
    assert "has no damage" not in result.output


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


@pytest.mark.slow
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
    assert "the records of 2 videos are damaged" in flowcpc("query", store.path, "SELECT 1").stderr
    result = flowcpc("export", store.path, tmp_path / "out", "--layout", "tsn")
    assert (result.exit_code, len(result.stdout.splitlines())) == (3, 3)
    assert "1 video (1 written now)\ncould not export 3 of 4 videos" in result.stderr
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
