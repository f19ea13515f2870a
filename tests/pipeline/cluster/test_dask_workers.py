"""Which worker gets which video, and what follows when it dies; with a fake Dask client."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import write_class_folders
from recorder import Recorder

from flowcpc.pipeline import run as run_module
from flowcpc.pipeline.cluster import dask_workers
from flowcpc.pipeline.cluster.dask_tasks import (
    LEAVING_TOPIC,
    PairsDone,
    cause_of_death,
    examine_worker,
)
from flowcpc.pipeline.cluster.dask_workers import ClusterJob, DaskWorkers
from flowcpc.pipeline.cluster.preflight import WorkerReport, examine, made_probe
from flowcpc.pipeline.cluster.workers import EndedTask
from flowcpc.pipeline.datasets.sources import read_dataset
from flowcpc.pipeline.extraction.extract import (
    STORED,
    ExtractionSettings,
    Outcome,
    StoreWriteError,
    extract_video,
)
from flowcpc.pipeline.extraction.ledger import ExtractionPlan, VideoTask
from flowcpc.pipeline.run import TRIES
from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.flow_store import create_store
from flowcpc.stores.records.contract import WorkerState
from flowcpc.stores.records.run_files import RunFile


class FakeFuture:
    """A task that has ended with `error`, or will never end."""

    def __init__(self, status: str, error: Exception | None = None) -> None:
        self.status = status
        self.released = False
        self.exception = lambda: error

    def add_done_callback(self, callback: Callable[["FakeFuture"], None]) -> None:
        if self.status != "pending":
            callback(self)

    def release(self) -> None:
        self.released = True


class FakeClient:
    """Workers that answer at once; `habits` says what becomes of a video: stored unless named."""

    def __init__(self, habits: dict[str, str], slots: int) -> None:
        self.status = "running"
        self.habits = habits
        self.slots = slots
        self.addresses: list[str] = []
        self.given: list[tuple[str, str]] = []
        self.futures: list[FakeFuture] = []
        self.handlers: dict[str, Callable[[Any], None]] = {}
        self.subscribe_topic = self.handlers.__setitem__
        self.unsubscribe_topic = self.handlers.get
        self.register_plugin = print
        self.log = "\n".join(f"Worker process {pid} was killed by signal 9" for pid in range(2))

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        return {"workers": dict.fromkeys(self.addresses)}

    def sync(self, *_: object, **__: object) -> str:
        return self.log

    def happens(self, action: str, address: str, *, expected: bool = False) -> None:
        self.handlers["all"]((0, {"action": action, "worker": address, "expected": expected}))

    def submit(
        self, function: object, topic: str, *arguments: Any, workers: list[str], **_: object
    ) -> FakeFuture:
        (address,) = workers

        def send(message: Any) -> None:
            event = (type(message).__name__, address, dataclasses.asdict(message))
            self.handlers[topic]((0, event))

        if function is examine_worker:
            report = dataclasses.replace(
                examine(*arguments), host="h", pid=1, nanny="n", slots=self.slots
            )
            if self.habits.get(address) == "foreign":
                report = dataclasses.replace(report, versions={**report.versions, "numba": "0"})
            send(report)
            return FakeFuture("finished")
        name = arguments[-1].video_id
        self.given.append((address, name))
        habit = self.habits.pop(f"{name} once", self.habits.get(name, "stored"))
        future = FakeFuture("finished")
        if habit in ("dies", "goes"):
            self.happens("remove-worker", address, expected=habit == "goes")
            self.happens("add-worker", f"{address}'")
            future = FakeFuture("pending")
        elif habit == "leaves":
            self.handlers[LEAVING_TOPIC]((0, address))
            self.happens("remove-worker", address)
        elif habit == "unwritable":
            future = FakeFuture("error", StoreWriteError("disk full"))
        else:
            send(Outcome(name, STORED, 5))
        self.futures.append(future)
        return future


class Run:
    """A run over six videos."""

    def __init__(self, folder: Path, slots: int = 1, **habits: str) -> None:
        videos = write_class_folders(folder / "videos", {"A": (1.0, 0.0)}, clips=6)
        self.settings = ExtractionSettings(str(videos), str(folder / "s"), 24, 32, backend="cpu")
        self.store = create_store(self.settings.store, self.settings.numerics())
        found = read_dataset(videos, "folder").videos
        self.names = [video.video_id for video in found]
        self.tasks = [VideoTask(video, (videos / video.path).stat().st_size) for video in found]
        named = {
            self.names[int(key[1])] + key[2:].replace("_", " ") if key[1].isdigit() else key: habit
            for key, habit in habits.items()
        }
        self.client = FakeClient(named, slots)
        self.listener = Recorder()
        self.ended: list[EndedTask] = []
        self.states: list[list[WorkerState]] = []
        self.trouble = ""

    def outcomes(self, *addresses: str) -> dict[str, str]:
        self.client.addresses += addresses
        plan = ExtractionPlan(self.tasks, 0, [], [])
        run = run_module._Run(self.store, self.settings, plan, None, self.listener)
        with made_probe(self.settings, self.tasks[0]) as probe:
            job = ClusterJob(self.settings, probe, extract_video, run.remaining, self.listener)
            name = "the scheduler at nowhere"
            with DaskWorkers(self.client, name, job, 0.5, lambda: self.trouble) as workers:
                self.workers, wait = workers, workers.wait

                def recorded() -> list[EndedTask]:
                    self.states.append(workers.states())
                    ended = wait()
                    self.ended += ended
                    return ended

                workers.wait = recorded
                run.extract_videos(workers, RunFile(self.store.path, 6))
        settled = [ended.outcome for ended in self.ended if ended.outcome is not None]
        outcomes = {outcome.video_id: outcome.status for outcome in settled}
        failures = self.store.failures()
        return {**outcomes, **dict(zip(failures["video_id"], failures["reason"], strict=True))}


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_workers, "_TICK_S", 0.01)


def test_every_video_goes_to_one_worker_and_no_worker_has_two(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.outcomes("a", "b") == dict.fromkeys(run.names, STORED)
    assert sorted(name for _, name in run.client.given) == run.names
    assert {address for address, _ in run.client.given} == {"a", "b"}
    assert all(len(state.videos) <= 1 for states in run.states for state in states)


def test_a_worker_with_slots_has_several_videos_and_workers_share_them(tmp_path: Path) -> None:
    run = Run(tmp_path, slots=3)
    assert run.outcomes("a", "b") == dict.fromkeys(run.names, STORED)
    assert sorted(name for _, name in run.client.given) == run.names
    assert [address for address, _ in run.client.given].count("a") == 3


@pytest.mark.parametrize("killer", range(6))
def test_of_several_videos_the_one_that_kills_is_found_by_trying_each_alone(
    tmp_path: Path, killer: int
) -> None:
    run = Run(tmp_path, slots=4, **{f"v{killer}": "dies"})
    outcomes = run.outcomes("a")
    reason = outcomes.pop(run.names[killer])
    assert reason == f"killed its worker process {TRIES} times (was killed by signal 9, on h)"
    assert outcomes == dict.fromkeys(outcomes, STORED)
    assert len(outcomes) == 5
    alone = [ended.task.video.video_id for ended in run.ended if ended.cause_of_death]
    assert alone == [run.names[killer]] * TRIES


def test_a_video_that_kills_its_workers_is_blamed_alone(tmp_path: Path) -> None:
    run = Run(tmp_path, v2="dies")
    outcomes = run.outcomes("a", "b")
    reason = outcomes.pop(run.names[2])
    assert reason == f"killed its worker process {TRIES} times (was killed by signal 9, on h)"
    assert set(outcomes.values()) == {STORED}
    assert [name for _, name in run.client.given].count(run.names[2]) == TRIES
    assert run.store.failure_of(run.names[2])["kind"] == "machine"


@pytest.mark.parametrize("habit", ["dies", "goes"])
def test_a_video_whose_worker_went_once_is_done_by_another(tmp_path: Path, habit: str) -> None:
    run = Run(tmp_path, v2_once=habit)
    assert run.outcomes("a") == dict.fromkeys(run.names, STORED)
    (dropped,) = [ended for ended in run.ended if ended.outcome is None]
    assert bool(dropped.cause_of_death) == (habit == "dies")
    assert {address for address, _ in run.client.given} == {"a", "a'"}


def test_a_worker_that_leaves_gets_no_more(tmp_path: Path) -> None:
    run = Run(tmp_path, v0_once="leaves")
    assert run.outcomes("a", "b") == dict.fromkeys(run.names, STORED)
    leaver = next(address for address, name in run.client.given if name == run.names[0])
    assert [name for address, name in run.client.given if address == leaver] == [run.names[0]]


def test_a_worker_with_other_software_stops_a_run_before_its_first_video(tmp_path: Path) -> None:
    run = Run(tmp_path, bad="foreign")
    with pytest.raises(OperationError, match=r"worker at bad on h has other software .numba is 0"):
        run.outcomes("a", "bad")
    assert run.client.given == []


def test_a_worker_with_other_software_that_comes_later_is_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path, v3="dies", **{"a'": "foreign", "a''": "foreign"})
    run.outcomes("a", "b")
    assert all(address != "a'" for address, _ in run.client.given)
    said = [message for message in run.listener.said if "left out" in message]
    assert not said or "the worker at a' on h has other software" in said[0]


def test_an_unwritable_store_stops_the_run_and_takes_all_back(tmp_path: Path) -> None:
    run = Run(tmp_path, v0="unwritable", v1="unwritable")
    with pytest.raises(StoreWriteError, match="disk full"):
        run.outcomes("a", "b")
    assert [future.released for future in run.client.futures] == [True, True]


def test_nobody_comes(tmp_path: Path) -> None:
    words = r"the scheduler at nowhere has had no usable worker for 0\.5 s"
    with pytest.raises(OperationError, match=words):
        Run(tmp_path).outcomes()


def test_a_cluster_that_is_lost_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.trouble = "the scheduler is gone"
    with pytest.raises(OperationError, match="the scheduler is gone; committed videos are safe"):
        run.outcomes()


def test_every_worker_says_what_it_is_processing_and_its_throughput(tmp_path: Path) -> None:
    run = Run(tmp_path, slots=2)
    run.outcomes("a", "b")
    states = [state for states in run.states for state in states]
    assert {state.host for state in states} == {"h"}
    assert max(len(state.videos) for state in states) == 2
    assert {video for state in states for video in state.videos} <= set(run.names)
    last = run.workers.states()
    assert len(last) == 2
    assert all(state.pairs_per_second > 0 for state in last)
    assert run.workers.pairs == 30


def test_the_cause_of_a_death_is_in_the_log_of_the_nanny() -> None:
    client = FakeClient({}, 1)
    worker = WorkerReport("h", 12, {}, nanny="n")
    client.log = "Worker process 12 was killed by signal 11\nRestarting worker"
    assert cause_of_death(client, worker) == "was killed by signal 11, on h"
    client.log = "Worker tcp://a:1 (pid=12) exceeded 95% memory budget. Restarting..."
    assert cause_of_death(client, worker) == "exceeded 95% memory budget, on h"


def test_news_of_a_worker_that_died_do_not_touch_the_next_one_at_its_address(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path)
    run.outcomes("a")
    old = run.workers._workers["a"]
    old.videos["v"] = dask_workers._InFlight(run.tasks[0], FakeFuture("pending"), alone=False)
    run.workers._remove("a", expected=False)
    run.workers._join("a")
    (died,) = run.workers.wait()
    assert died.cause_of_death is not None
    for message in (Outcome("v", STORED, 5), PairsDone("v", 5)):
        run.workers._receive("a", message)
    assert run.workers._ended == []
    assert run.workers.pairs == 30
