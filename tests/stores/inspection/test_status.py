import dataclasses
import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import commit_flow, extraction_command, write_class_folders
from click.testing import CliRunner
from store_cases import NUMERICS, some_flow

from flowcpc.commands import main
from flowcpc.stores import layout
from flowcpc.stores.flow_store import FlowStore, create_store, open_store
from flowcpc.stores.inspection.status import read_status
from flowcpc.stores.records import record_file
from flowcpc.stores.records import record_file as store_records
from flowcpc.stores.records.contract import SILENT_S, RunState, WorkerState

NOW = 1_000_000.0
FLOW = {"decode_seconds": 1.0, "flow_seconds": 6.0, "encode_seconds": 1.0, "write_seconds": 1.5}


def add(store: FlowStore, name: str, **values: Any) -> None:
    """Commit a video that took 10 s on host n1, or what `values` say instead."""
    commit_flow(store, name, some_flow(4))
    run = {
        "seconds": 10.0,
        "host": "n1",
        "pid": 1,
        "committed": NOW - 60,
        "pairs_per_second": 0.4,
        **FLOW,
    }
    path = layout.commit_path(store.path, name)
    record = store_records.read_record(path)
    memory = {"worker_peak_bytes": 300 << 20, "decoder_peak_bytes": 80 << 20}
    store_records.write_record(
        path, {**record, "video": {**record["video"], **run, **memory, **values}}
    )


def fail(store: FlowStore, name: str, kind: str, reason: str, **values: Any) -> None:
    described = {"video_id": name, "path": f"{name}.avi", "label": None, "group": None, "folds": {}}
    run = {"attempts": 1, "time": NOW - 30, "host": "n1", "seconds": 2.0}
    store.record_failure({**described, "kind": kind, "reason": reason, **run, **values})


@pytest.fixture
def store(tmp_path: Path) -> FlowStore:
    """Four videos stored on two hosts, three failed, two pending."""
    store = create_store(tmp_path / "s.flow", NUMERICS)
    names = ["a", "b", "c", "d", "x", "y", "z", "p", "q"]
    rows = [
        {"video_id": name, "path": f"{name}.avi", "label": None, "group": None, "folds": {}}
        for name in names
    ]
    store.set_dataset(rows, set(names))
    add(store, "a")
    add(store, "b", pid=2, seconds=30.0, decoder_peak_bytes=500 << 20)
    add(store, "c", host="n2", worker_peak_bytes=900 << 20)
    add(store, "d", committed=NOW - 5000)
    fail(store, "x", "file", "the file is empty (0 bytes)")
    fail(store, "y", "file", "the file is empty (0 bytes)", time=NOW - 5000)
    fail(store, "z", "machine", "took longer than the time limit of 2 s", host=None, seconds=None)
    return store


def write_run(store: FlowStore, run: RunState) -> None:
    store_records.write_record(store.path / "running" / f"{run.host}.json", dataclasses.asdict(run))


@pytest.mark.parametrize("indexed", [False, True])
def test_it_counts_what_the_records_say(store: FlowStore, indexed: bool) -> None:
    if indexed:
        store.consolidate()
    found = read_status(store, NOW)
    assert (found.stored, found.failed, found.pending, found.flows) == (4, 3, 2, 16)
    assert found.seconds == {
        "decode": 4.0,
        "flow": 24.0,
        "encode": 4.0,
        "write": 6.0,
        "other": 22.0,
    }
    n1, n2 = found.hosts.to_dict("records")
    assert (n1["host"], n1["workers"], n1["videos"], n1["flows"], n1["failed"]) == (
        "n1",
        2,
        3,
        12,
        2,
    )
    assert (n1["flow_seconds"], n1["other_seconds"], n1["failed_seconds"]) == (18.0, 21.5, 4.0)
    assert n1["pairs_per_second"] == 12 / 50
    assert (n1["worker_peak_bytes"], n1["decoder_peak_bytes"]) == (300 << 20, 500 << 20)
    assert (n2["host"], n2["workers"], n2["videos"], n2["failed"], n2["worker_peak_bytes"]) == (
        "n2",
        1,
        1,
        0,
        900 << 20,
    )
    assert found.slowest["video_id"][0] == "b"
    assert found.failures.values.tolist() == [
        ["file", "the file is empty (0 bytes)", 2],
        ["machine", "took longer than the time limit of 2 s", 1],
    ]


def test_the_pace_is_that_of_the_last_minutes(store: FlowStore) -> None:
    """Three videos and two failures; the first of them was begun 90 s ago."""
    run = RunState("n1", 7, NOW - 100, NOW - 2, 7, 4, ())
    write_run(store, run)
    found = read_status(store, NOW)
    assert found.recent_videos == 5
    assert found.recent_pairs_per_second == pytest.approx(12 / 100), (
        "a run that is at work works all the time"
    )
    assert found.eta_seconds == pytest.approx(3 * 100 / 5)
    run_line = "run      on n1 (pid 7): 4 of 7 videos in 98 s, 0 workers, heartbeat 2 s ago"
    assert run_line in found.to_text().splitlines()


def test_idle_time_is_not_averaged_into_the_speed_and_nothing_that_stopped_has_an_end(
    store: FlowStore,
) -> None:
    """The videos took from 90 to 60 s ago and the failure from 32 to 30 s ago, and nothing else."""
    for later in (0, 1000, 10**6):
        found = read_status(store, NOW + later)
        assert (found.recent_videos, found.eta_seconds) == (5, None)
        assert found.recent_pairs_per_second == pytest.approx(12 / 32)
    text = read_status(store, NOW + 1000).to_text()
    assert "no active run, the last video ended 17 min ago" in text


def test_a_run_that_went_without_a_word_is_not_taken_for_one_at_work(store: FlowStore) -> None:
    worker = WorkerState("n1", 8, ("a",), NOW - 200, 3.0)
    write_run(store, RunState("n1", 7, NOW - 300, NOW - 2 * SILENT_S, 7, 4, (worker,)))
    found = read_status(store, NOW)
    assert (found.eta_seconds, len(found.workers())) == (None, 0)
    assert "run      on n1 (pid 7): no heartbeat for 2 min" in found.to_text()
    assert found.to_json()["runs"][0]["live"] is False
    store.collect_garbage()
    assert read_status(store, NOW).runs == ()


def test_each_worker_of_each_run_has_a_row(store: FlowStore) -> None:
    workers = [
        WorkerState("n1", 8, ("p", "q", "r"), NOW - 12, 3.0),
        WorkerState("n2", 9, (), NOW - 5, 0.5),
    ]
    write_run(store, RunState("n1", 7, NOW - 50, NOW, 4, 2, tuple(workers)))
    write_run(
        store, RunState("n3", 7, NOW - 40, NOW, 4, 2, (WorkerState("n3", 7, ("s",), NOW + 1, 2.0),))
    )
    table = read_status(store, NOW).workers()
    assert table["pid"].tolist() == [8, 9, 7]
    assert table["video"].tolist()[::2] == ["p", "s"]
    assert table["more"].tolist() == [2, 0, 0]
    assert table["seconds"].tolist()[::2] == [12.0, 0.0], "clocks of hosts differ"
    values = json.loads(json.dumps(read_status(store, NOW).to_json()))
    assert values["runs"][0]["workers"][0]["videos"] == ["p", "q", "r"]


def test_what_a_limit_left_out_is_said(tmp_path: Path) -> None:
    store = create_store(tmp_path / "l.flow", NUMERICS)
    row = {"video_id": "a", "path": "a.avi", "label": None, "group": None, "folds": {}}
    store.set_dataset([row], {"a", "b", "c"})
    add(store, "a")
    found = read_status(store, NOW)
    assert (found.pending, found.left_out) == (0, 2)
    assert "0 pending; 2 more of the data set not requested (--limit)" in found.to_text()
    store.set_dataset([row], {"a"})  # a repair, which knows those of the store alone
    assert read_status(store, NOW).left_out == 2
    store.set_dataset([row], {"a", "b"})
    assert read_status(store, NOW).left_out == 1


def test_a_finished_store_has_nothing_to_wait_for(store: FlowStore) -> None:
    for name in ("p", "q"):
        add(store, name)
    assert read_status(store, NOW).eta_seconds is None


def test_no_answer_needs_the_long_lists(store: FlowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of an extraction no index fits, and most of a record is lists."""
    monkeypatch.setattr(record_file, "unpack_columns", lambda value: pytest.fail("unpacked"))
    assert read_status(store, NOW).stored == 4


def test_a_damaged_record_is_named(store: FlowStore) -> None:
    path = layout.commit_path(store.path, "a")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    result = CliRunner().invoke(main.main, ["status", str(store.path)])
    assert result.exit_code == 0
    assert re.search(r"^ *damaged .* 1$", result.stdout, re.MULTILINE)


def test_stores_without_these_columns_and_without_videos(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    """Imported flow, what an earlier release wrote, and a store in which nothing happened yet."""
    old = read_status(open_store(make_store(tmp_path, {"v": some_flow(4)})), NOW)
    assert (old.stored, old.flows, sum(old.seconds.values())) == (1, 4, 0.0)
    assert old.to_text()
    json.dumps(old.to_json())
    empty = read_status(create_store(tmp_path / "empty", NUMERICS), NOW)
    assert (empty.stored, empty.failed, empty.pending, len(empty.hosts)) == (0, 0, 0, 0)
    assert empty.to_text().startswith("store")
    json.dumps(empty.to_json())


def test_the_command_prints_text_and_json(store: FlowStore) -> None:
    text = CliRunner().invoke(main.main, ["status", str(store.path)])
    assert text.exit_code == 0, text.output
    assert "4 stored (16 flows), 3 failed, 2 pending" in text.stdout
    assert "flow 40.0%" in text.stdout
    values = json.loads(CliRunner().invoke(main.main, ["status", str(store.path), "--json"]).stdout)
    assert (values["stored"], values["hosts"][0]["decoder_peak_bytes"]) == (4, 500 << 20)
    missing = CliRunner().invoke(main.main, ["status", str(store.path / "nowhere")])
    assert missing.exit_code == 2


@pytest.mark.slow
def test_it_answers_while_an_extraction_runs(tmp_path: Path) -> None:
    videos = write_class_folders(tmp_path / "videos", {"Left": (-1.0, 0.0)}, clips=4, frames=24)
    command = extraction_command(
        videos, tmp_path / "s", size="256x342"
    )  # workers are told of every three seconds
    answers = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if list((tmp_path / "s").glob("commits/*/*.json")):
                answers.append(read_status(open_store(tmp_path / "s")))
            time.sleep(0.01)
    assert process.returncode == 0
    assert all(answer.stored + answer.pending == 4 for answer in answers)
    between = [
        answer
        for answer in answers
        if answer.pending and any(run.is_live(answer.time) for run in answer.runs)
    ]
    assert between
    assert all(answer.recent_pairs_per_second > 0 and answer.eta_seconds for answer in between)
    hands = [row for answer in between for row in answer.workers().to_dict("records")]
    assert {row["pid"] for row in hands} == {process.pid}
    assert {row["video"] for row in hands if isinstance(row["video"], str)} <= {
        f"Left/v_Left_g{n:02d}_c01" for n in range(1, 5)
    }
    assert read_status(open_store(tmp_path / "s")).runs == ()
    assert [answer.stored for answer in answers] == sorted(answer.stored for answer in answers)
