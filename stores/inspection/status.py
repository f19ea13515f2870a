"""How an extraction is doing, for `flowcpc status`: from the records, so that it can be asked while one runs, and for ever after; what workers
have in hand, from what runs say of themselves.
"""

import dataclasses
import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from flowcpc.stores.base.plurals import counted
from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.layout import STAGES
from flowcpc.stores.records import catalog
from flowcpc.stores.records.contract import RunState
from flowcpc.stores.records.dataset_file import whole_dataset
from flowcpc.stores.records.run_files import read_runs

# What a worker's seconds are made of: waiting for frames; the solver; codes and statistics; compressing and writing.
RECENT_S = 600.0
_MOST_ROWS = 10  # of the slowest videos, and of the reasons
_INTEGERS = ("flows", "pid", "worker_peak_bytes", "decoder_peak_bytes")
_COLUMNS = (
    "video_id",
    "flows",
    "host",
    "pid",
    "committed",
    "seconds",
    *(f"{stage}_seconds" for stage in STAGES),
    "pairs_per_second",
    "worker_peak_bytes",
    "decoder_peak_bytes",
)


@dataclasses.dataclass(frozen=True)
class StoreStatus:
    """What was done, by whom and how fast.

    Attributes
    ----------
    path : str
    time : float
        When it was asked for, seconds since the epoch.
    stored, failed, pending : int
        Videos of the store: with flow, without it for a reason, not extracted yet.
    left_out : int
        Further videos of the data set, which no run was asked for.
    flows : int
    runs : tuple of RunState
        Those at work, and those that went without a word.
    last : float, optional
        When a video was stored or failed last, seconds since the epoch.
    recent_videos : int
        Stored or failed in the last RECENT_S seconds, or before `last` where no run is at work.
    recent_pairs_per_second : float
        Of all workers together, over those of these seconds in which any of them worked; 0 where nothing was stored.
    eta_seconds : float, optional
        Until the runs at work have done what they have to, if videos go on at that rate.
    seconds : dict
        Of all workers over all stored videos: each of STAGES and `other`.
    hosts : pandas.DataFrame
        A row per host: workers (processes that committed), videos, flows, seconds of each stage and `other`, pairs per second of a worker, largest
        memory of a worker and of a decoder in bytes, videos that failed there and what they took.
    slowest : pandas.DataFrame
        The videos that took longest.
    failures : pandas.DataFrame
        Number of videos per kind and reason, the most frequent first.
    """

    path: str
    time: float
    stored: int
    failed: int
    pending: int
    left_out: int
    flows: int
    runs: tuple[RunState, ...]
    last: float | None
    recent_videos: int
    recent_pairs_per_second: float
    eta_seconds: float | None
    seconds: dict[str, float]
    hosts: pd.DataFrame
    slowest: pd.DataFrame
    failures: pd.DataFrame

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["runs"] = [
            {**dataclasses.asdict(run), "live": run.is_live(self.time)} for run in self.runs
        ]
        tables = {
            name: json.loads(getattr(self, name).to_json(orient="records"))
            for name in ("hosts", "slowest", "failures")
        }
        return values | tables

    def to_text(self) -> str:
        """Return the status as lines for a person."""
        out = (
            f"; {self.left_out} more of the data set were not asked for (--limit)"
            if self.left_out
            else ""
        )
        lines = [
            f"store    {self.path}",
            f"videos   {self.stored} stored ({counted(self.flows, 'flow')}), {self.failed} failed, {self.pending} pending{out}",
            *(f"run      {self._describe(run)}" for run in self.runs),
            f"speed    {self._pace()}",
        ]
        total = sum(self.seconds.values())
        if total:
            shares = ", ".join(
                f"{name} {value / total:.1%}" for name, value in self.seconds.items()
            )
            lines.append(f"spent    {_duration(total)} of workers' time: {shares}")
        for title, table in (
            ("workers", self.workers()),
            ("hosts", self.hosts),
            ("slowest videos", self.slowest),
            ("failures", self.failures),
        ):
            if len(table):
                lines += ["", title, _table_text(table)]
        return "\n".join(lines)

    def workers(self) -> pd.DataFrame:
        """Return a row per worker of the runs at work: host, pid, video in hand (the longest, and how many more), seconds on it, pairs per second
        since it was taken into use.
        """
        states = [worker for run in self.runs if run.is_live(self.time) for worker in run.workers]
        rows = [
            {
                "host": worker.host,
                "pid": worker.pid,
                "video": worker.videos[0] if worker.videos else None,
                "more": max(0, len(worker.videos) - 1),
                "seconds": round(max(0.0, self.time - worker.since), 1) if worker.videos else None,
                "pairs_per_second": worker.pairs_per_second,
            }
            for worker in states
        ]
        table = pd.DataFrame(
            rows, columns=["host", "pid", "video", "more", "seconds", "pairs_per_second"]
        )
        return table.astype({"seconds": "float64", "pairs_per_second": "float64"})

    def _describe(self, run: RunState) -> str:
        who, age = f"on {run.host} (pid {run.pid})", _duration(max(0.0, self.time - run.time))
        if not run.is_live(self.time):
            return (
                f"{who} went without a word {age} ago, or its disk hangs; the same command goes on"
            )
        done = f"{run.settled} of {counted(run.videos, 'video')}"
        return f"{who}: {done} in {_duration(run.time - run.began)}, {counted(len(run.workers), 'worker')}, said {age} ago"

    def _pace(self) -> str:
        if self.last is None:
            return "nothing was stored yet"
        minutes = f"{counted(self.recent_videos, 'video')} in {{}}{RECENT_S / 60:.0f} minutes"
        speed = f"{self.recent_pairs_per_second:.3g} pairs/s"
        if any(run.is_live(self.time) for run in self.runs):
            left = "" if self.eta_seconds is None else f", about {_duration(self.eta_seconds)} left"
            return f"{speed} ({minutes.format('the last ')}){left}"
        ago = _duration(max(0.0, self.time - self.last))
        return (
            f"{speed} ({minutes.format('its last ')}); nothing runs, the last video ended {ago} ago"
        )


def read_status(store: FlowStore, now: float | None = None) -> StoreStatus:
    """Return the status of `store` at `now`, seconds since the epoch (the present unless given)."""
    now = time.time() if now is None else now
    videos, failures = _read(store)
    pending = failures["kind"] == catalog.KIND_PENDING
    failed = failures[~pending]
    runs = read_runs(store.path)
    last, recent, pairs_per_second, eta = _pace(
        videos, failed, [run for run in runs if run.is_live(now)], now
    )
    spent = videos[[*(f"{stage}_seconds" for stage in STAGES), "other_seconds"]].sum()
    slowest = videos.sort_values("seconds", ascending=False).head(_MOST_ROWS)
    return StoreStatus(
        path=str(store.path),
        time=now,
        stored=len(videos),
        failed=len(failed),
        pending=int(pending.sum()),
        left_out=max(0, whole_dataset(store.path) - len(videos) - len(failures)),
        flows=int(videos["flows"].sum()),
        runs=runs,
        last=last,
        recent_videos=recent,
        recent_pairs_per_second=pairs_per_second,
        eta_seconds=eta,
        seconds={
            str(name).removesuffix("_seconds"): round(float(value), 3)
            for name, value in spent.items()
        },
        hosts=_by_host(videos, failed),
        slowest=slowest[["video_id", "seconds", "flows", "pairs_per_second", "host"]].reset_index(
            drop=True
        ),
        failures=failed.groupby(["kind", "reason"])
        .size()
        .sort_values(ascending=False)
        .head(_MOST_ROWS)
        .rename("videos")
        .reset_index(),
    )


def _read(store: FlowStore) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the columns _COLUMNS and other_seconds of all stored videos, and the failures."""
    tables = store.tables("videos", "failures")
    failures = tables["failures"]
    videos = tables["videos"].reindex(columns=list(_COLUMNS))
    failures = failures[
        ~failures["video_id"].isin(videos["video_id"])
    ]  # one may have been stored since
    kinds = {"video_id": "str", "host": "str", **dict.fromkeys(_INTEGERS, "Int64")}
    videos = videos.astype({name: kinds.get(name, "float64") for name in _COLUMNS})
    stages = videos[[f"{stage}_seconds" for stage in STAGES]].sum(axis=1)
    videos["other_seconds"] = (videos["seconds"] - stages).clip(lower=0)
    return videos, failures.astype({"time": "float64", "seconds": "float64"})


def _pace(
    videos: pd.DataFrame, failed: pd.DataFrame, live: Sequence[RunState], now: float
) -> tuple[float | None, int, float, float | None]:
    """Return when the last video ended, the number of recent ones, their pairs/s while anybody worked, and the seconds that the `live` runs need."""
    ends = pd.concat([videos["committed"], failed["time"]], ignore_index=True)
    took = pd.concat([videos["seconds"], failed["seconds"]], ignore_index=True).fillna(0)
    if not ends.notna().any():
        return None, 0, 0.0, None
    last = float(ends.max())
    since = (now if live else last) - RECENT_S
    recent = ends > since
    spans = [
        *zip((ends - took)[recent], ends[recent], strict=True),
        *((run.began, now) for run in live),
    ]
    worked = max(
        _covered([(max(begin, since), end) for begin, end in spans]), 1e-3
    )  # clocks of hosts differ
    count, flows = int(recent.sum()), float(videos.loc[videos["committed"] > since, "flows"].sum())
    left = sum(run.videos - run.settled for run in live)
    return last, count, flows / worked, left * worked / count if live and count else None


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return how much of the line the spans cover together.

    >>> _covered([(0, 2), (1, 4), (7, 8)])
    5.0
    """
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _by_host(videos: pd.DataFrame, failed: pd.DataFrame) -> pd.DataFrame:
    groups = videos.groupby("host")
    seconds = [f"{name}_seconds" for name in (*STAGES, "other")]
    hosts = pd.concat(
        [
            groups["pid"].nunique().rename("workers"),
            groups.size().rename("videos"),
            groups["flows"].sum().astype("int64"),
            groups[seconds].sum().round(3),
            (groups["flows"].sum() / groups["seconds"].sum()).round(3).rename("pairs_per_second"),
            groups[["worker_peak_bytes", "decoder_peak_bytes"]].max(),
            failed.groupby("host").size().rename("failed"),
            failed.groupby("host")["seconds"].sum().round(3).rename("failed_seconds"),
        ],
        axis=1,
    )
    counts = ["workers", "videos", "flows", "failed"]
    filled = hosts.fillna(dict.fromkeys([*counts, "failed_seconds"], 0)).astype(
        dict.fromkeys(counts, "int64")
    )
    return filled.rename_axis("host").reset_index()


def _table_text(table: pd.DataFrame) -> str:
    shown = table.rename(
        columns=lambda name: (
            name.replace("_bytes", "_MB")
            .replace("_seconds", "_s")
            .replace("pairs_per_second", "pairs/s")
        )
    )
    for name in shown.columns:
        if name.endswith("_MB"):
            shown[name] = shown[name].astype("float64") / 2**20
    return shown.to_string(
        index=False, na_rep="-", float_format=lambda value: f"{value:.4g}", max_colwidth=100
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
