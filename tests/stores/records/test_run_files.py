"""What runs say of themselves while they are at work."""

from pathlib import Path

import pytest

from flowcpc.stores import layout
from flowcpc.stores.records import run_files as activity
from flowcpc.stores.records.contract import WorkerState
from flowcpc.stores.records.run_files import RunFile, read_runs

WORKER = WorkerState("n1", 8, ("a", "b"), 5.0, 3.5)


def test_a_file_says_what_was_told_and_goes_with_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "EVERY_S", 0.0)
    assert read_runs(tmp_path) == ()
    with RunFile(tmp_path, 9) as first, RunFile(tmp_path, 4):
        first.tell(3, [WORKER])
        runs = read_runs(tmp_path)
        assert [(run.videos, run.settled, run.workers) for run in runs] == [
            (9, 3, (WORKER,)),
            (4, 0, ()),
        ]
        assert all(run.is_live(run.time) for run in runs)
    assert read_runs(tmp_path) == ()
    assert list((tmp_path / layout.RUNS_FOLDER).iterdir()) == []


def test_it_is_written_seldom_and_a_torn_one_is_passed_over(tmp_path: Path) -> None:
    with RunFile(tmp_path, 9) as file:
        for settled in range(5):
            file.tell(settled, [WORKER])
        (run,) = read_runs(tmp_path)
        assert run.settled == 0
        (tmp_path / layout.RUNS_FOLDER / "torn.json").write_bytes(b"{")
        assert read_runs(tmp_path) == (run,)


def test_a_disk_that_takes_no_file_ends_no_run(tmp_path: Path) -> None:
    (tmp_path / layout.RUNS_FOLDER).write_bytes(b"in the way")
    with RunFile(tmp_path, 9) as file:
        file.tell(1, [WORKER])
    assert read_runs(tmp_path) == ()
