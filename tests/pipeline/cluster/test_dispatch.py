"""Decisions about workers, told by a cluster that is none."""

import queue
from pathlib import Path
from typing import Any

import pytest
from builders import write_class_folders

from flowcpc.pipeline.cluster import dispatch
from flowcpc.pipeline.cluster.backlog import TRIES, Backlog
from flowcpc.pipeline.cluster.dispatch import (
    ENDED,
    EXAMINED,
    JOINED,
    LEAVING,
    LEFT,
    OUTCOME,
    UNWRITABLE,
    Dispatcher,
)
from flowcpc.pipeline.cluster.preflight import Probe, examine, made_probe
from flowcpc.pipeline.datasets.sources import read_dataset
from flowcpc.pipeline.extraction.extract import STORED, ExtractionSettings, StoreWriteError
from flowcpc.pipeline.extraction.ledger import VideoTask
from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.flow_store import create_store
from flowcpc.stores.records.contract import WorkerState


class FakeHub:
    """Workers that answer at once; `habits` says what becomes of a video on a worker: stored unless named."""

    name = "the scheduler at nowhere"
    wait_s: float | None = 0.5

    def __init__(self, habits: dict[str, str], slots: int = 1) -> None:
        self.slots = slots
        self.messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.habits = habits
        self.given: list[tuple[str, str]] = []
        self.released: list[object] = []
        self.lost = ""

    def join(self, *addresses: str) -> None:
        for address in addresses:
            self.messages.put((JOINED, address, {}))

    def examine(self, address: str, probe: Probe, backend: str) -> object:
        report = {**examine(probe, backend), "nanny": None, "host": "h", "slots": self.slots}
        if self.habits.get(address) == "foreign":
            report["versions"] = {**report["versions"], "numba": "0"}
        self.messages.put((EXAMINED, address, report))
        return f"examine {address}"

    def extract(
        self, address: str, settings: ExtractionSettings, task: VideoTask, attempt: int
    ) -> object:
        name, handle = task.video.video_id, f"extract {attempt}"
        self.given.append((address, name))
        habit = self.habits.pop(f"{name} once", self.habits.get(name, "stored"))
        if habit in ("dies", "goes"):
            self.messages.put((LEFT, address, {"expected": habit == "goes"}))
            self.join(f"{address}'")
        elif habit == "leaves":
            self.messages.put((LEAVING, address, {}))
            self.messages.put((ENDED, address, {"handle": handle, "error": ""}))
        elif habit == "unwritable":
            self.messages.put((UNWRITABLE, address, {"reason": "disk full"}))
        else:
            self.messages.put((OUTCOME, address, {"video_id": name, "status": STORED, "flows": 5}))
            self.messages.put((ENDED, address, {"handle": handle, "error": ""}))
        return handle

    def release(self, handle: object) -> None:
        self.released.append(handle)

    def exit_message(self, nanny: str | None, pid: int) -> str:
        return "was killed by signal 9"

    def trouble(self) -> str:
        return self.lost


class Run:
    """A dispatcher over six videos."""

    def __init__(self, folder: Path, slots: int = 1, **habits: str) -> None:
        videos = write_class_folders(folder / "videos", {"A": (1.0, 0.0)}, clips=6)
        self.settings = ExtractionSettings(str(videos), str(folder / "s"), 24, 32, backend="cpu")
        self.store = create_store(self.settings.store, self.settings.numerics())
        found = read_dataset(videos, "folder").videos
        self.names = [video.video_id for video in found]
        self.tasks = [VideoTask(video, (videos / video.path).stat().st_size) for video in found]
        named = {
            self.names[int(key[1])] + key[2:].replace("_", " "): habit
            for key, habit in habits.items()
            if key[1].isdigit()
        }
        self.hub = FakeHub(
            named | {key: habit for key, habit in habits.items() if not key[1].isdigit()}, slots
        )
        self.said: list[str] = []
        self.events: list[dict[str, Any]] = []

    def outcomes(self, *workers: str) -> dict[str, str]:
        self.hub.join(*workers)
        backlog = Backlog(self.store, self.settings.videos, self.tasks)

        def note(event: str, **values: Any) -> None:
            self.events.append(values)

        with made_probe(self.settings, self.tasks[0]) as probe:
            dispatcher = Dispatcher(self.hub, probe, self.said.append, note)
            found = dispatcher.outcomes(self.settings, backlog, lambda: None, lambda: False)
            return {
                task.video.video_id: outcome.reason or outcome.status for task, outcome, _ in found
            }


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_TICK_S", 0.01)


def test_every_video_goes_to_one_worker_and_no_worker_has_two(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.outcomes("a", "b") == dict.fromkeys(run.names, STORED)
    assert sorted(name for _, name in run.hub.given) == run.names
    assert {address for address, _ in run.hub.given} == {"a", "b"}


def test_a_worker_with_slots_has_several_videos_and_workers_share_them(tmp_path: Path) -> None:
    run = Run(tmp_path, slots=3)
    assert run.outcomes("a", "b") == dict.fromkeys(run.names, STORED)
    assert sorted(name for _, name in run.hub.given) == run.names
    assert [address for address, _ in run.hub.given].count("a") == 3


@pytest.mark.parametrize("killer", range(6))
def test_of_several_videos_the_one_that_kills_is_found_by_trying_each_alone(
    tmp_path: Path, killer: int
) -> None:
    run = Run(tmp_path, slots=4, **{f"v{killer}": "dies"})
    outcomes = run.outcomes("a")
    assert (
        outcomes.pop(run.names[killer])
        == f"killed its worker process {TRIES} times (was killed by signal 9, on h)"
    )
    assert outcomes == dict.fromkeys(outcomes, STORED)
    assert len(outcomes) == 5
    deaths = [event["video_ids"] for event in run.events if event["state"] == "died"]
    assert all(run.names[killer] in names for names in deaths)
    assert [names for names in deaths if len(names) == 1] == [[run.names[killer]]] * TRIES


def test_a_video_that_kills_its_workers_is_blamed_alone(tmp_path: Path) -> None:
    run = Run(tmp_path, v2="dies")
    outcomes = run.outcomes("a", "b")
    assert (
        outcomes.pop(run.names[2])
        == f"killed its worker process {TRIES} times (was killed by signal 9, on h)"
    )
    assert set(outcomes.values()) == {STORED}
    assert [name for _, name in run.hub.given].count(run.names[2]) == TRIES
    assert run.store.failure_of(run.names[2])["kind"] == "machine"


@pytest.mark.parametrize("habit", ["dies", "goes"])
def test_a_video_whose_worker_went_once_is_done_by_another(tmp_path: Path, habit: str) -> None:
    run = Run(tmp_path, v2_once=habit)
    assert run.outcomes("a") == dict.fromkeys(run.names, STORED)
    states = [event["state"] for event in run.events]
    assert states == ["joined", "died" if habit == "dies" else "left", "joined"]


def test_a_worker_that_leaves_gets_no_more(tmp_path: Path) -> None:
    run = Run(tmp_path, v0_once="leaves")
    assert run.outcomes("a", "b") == dict.fromkeys(run.names, STORED)
    leaver = next(address for address, name in run.hub.given if name == run.names[0])
    assert [name for address, name in run.hub.given if address == leaver] == [run.names[0]]


def test_a_worker_with_other_software_stops_a_run_before_its_first_video(tmp_path: Path) -> None:
    run = Run(tmp_path, bad="foreign")
    with pytest.raises(
        OperationError, match=r"the worker at bad on h has other software .numba is 0 there"
    ):
        run.outcomes("a", "bad")
    assert run.hub.given == []


def test_a_worker_with_other_software_that_comes_later_is_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path, v3="dies", **{"a'": "foreign", "a''": "foreign"})
    run.outcomes("a", "b")
    assert all(address != "a'" for address, _ in run.hub.given)
    assert not run.said or "left out: the worker at a' on h has other software" in run.said[0]


def test_an_unwritable_store_stops_the_run_and_takes_all_back(tmp_path: Path) -> None:
    run = Run(tmp_path, v0="unwritable", v1="unwritable")
    with pytest.raises(StoreWriteError, match="disk full"):
        run.outcomes("a", "b")
    assert len(run.hub.released) == 2


def test_nobody_comes(tmp_path: Path) -> None:
    with pytest.raises(
        OperationError, match=r"the scheduler at nowhere has had no worker for 0\.5 s"
    ):
        Run(tmp_path).outcomes()


def test_a_cluster_that_is_lost_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.hub.lost = "the scheduler is gone"
    with pytest.raises(OperationError, match="the scheduler is gone; what was committed is safe"):
        run.outcomes()


def test_every_worker_says_what_it_has_in_hand_and_how_fast_it_is(tmp_path: Path) -> None:
    run = Run(tmp_path, slots=2)
    run.hub.join("a", "b")
    seen: list[list[WorkerState]] = []
    with made_probe(run.settings, run.tasks[0]) as probe:
        dispatcher = Dispatcher(run.hub, probe, run.said.append, lambda event, **values: None)
        assert dispatcher.states() == []
        backlog = Backlog(run.store, run.settings.videos, run.tasks)
        for _ in dispatcher.outcomes(run.settings, backlog, lambda: None, lambda: False):
            seen.append(dispatcher.states())
    assert all(len(states) == 2 for states in seen)
    assert {state.host for states in seen for state in states} == {"h"}
    in_hand = [len(state.videos) for states in seen for state in states]
    assert max(in_hand) == 2
    assert {video for states in seen for state in states for video in state.videos} <= set(
        run.names
    )
    assert all(state.pairs_per_second > 0 for state in dispatcher.states())
    assert sum(worker.pairs for worker in dispatcher.workers.values()) == dispatcher.pairs == 30
