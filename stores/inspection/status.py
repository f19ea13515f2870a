"""How an extraction is doing: counts and rates of its records, heartbeats of active runs."""

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from flowcpc.stores.base.errors import counted
from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.inspection.tables import as_records, as_text
from flowcpc.stores.layout import STAGES
from flowcpc.stores.records import catalog
from flowcpc.stores.records.contract import RunState
from flowcpc.stores.records.dataset_file import whole_dataset
from flowcpc.stores.records.run_files import read_runs

RECENT_S = 600.0
_MOST_ROWS = 10  # of the slowest videos, and of the reasons
_STAGE_SECONDS = [f"{stage}_seconds" for stage in STAGES]
_PEAKS = ["worker_peak_bytes", "decoder_peak_bytes"]
_DTYPES = {
    **{"video_id": "str", "flows": "Int64", "host": "str", "pid": "Int64"},
    **{"committed": "float64", "seconds": "float64", **dict.fromkeys(_STAGE_SECONDS, "float64")},
    **{"pairs_per_second": "float64", **dict.fromkeys(_PEAKS, "Int64")},
}


@dataclasses.dataclass(frozen=True)
class StoreStatus:
    """What was extracted, by which hosts, and how fast, at `time`. Times are seconds since 1970.

    `hosts` has per host: workers that committed, videos, flows, seconds of each stage, pairs per
    second of a worker, peak memory in bytes, failed videos and their seconds. `failures` has the
    number of videos per kind and reason, the most frequent first.
    """

    path: str
    time: float
    stored: int  # videos with flow
    failed: int
    pending: int  # not extracted yet
    left_out: int  # further videos of the data set, which no run was asked to extract
    flows: int
    runs: tuple[RunState, ...]  # active ones, and those without a recent heartbeat
    last: float | None  # when a video was last stored or failed
    recent_videos: int  # in the last RECENT_S seconds (before `last` if no run is active)
    recent_pairs_per_second: float  # of all workers, while any worked in these seconds
    eta_seconds: float | None  # until the active runs are done at that rate
    seconds: dict[str, float]  # of all workers over all stored videos: each of STAGES and `other`
    hosts: pd.DataFrame
    slowest: pd.DataFrame
    failures: pd.DataFrame

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        runs = [{**dataclasses.asdict(run), "live": run.is_live(self.time)} for run in self.runs]
        tables = {name: as_records(vars(self)[name]) for name in ("hosts", "slowest", "failures")}
        return {**vars(self), "runs": runs, **tables}

    def to_text(self) -> str:
        """Return the status as lines for people."""
        left_out = f"; {self.left_out} more of the data set not requested (--limit)"
        lines = [
            f"store    {self.path}",
            f"videos   {self.stored} stored ({counted(self.flows, 'flow')}), {self.failed} failed, "
            f"{self.pending} pending{left_out if self.left_out else ''}",
            *(f"run      {self._describe(run)}" for run in self.runs),
            f"speed    {self._throughput()}",
        ]
        total = sum(self.seconds.values())
        if total:
            parts = (f"{name} {value / total:.1%}" for name, value in self.seconds.items())
            lines.append(f"spent    {_duration(total)} of worker time: {', '.join(parts)}")
        tables = {"workers": self.workers(), "hosts": self.hosts, "slowest videos": self.slowest}
        for title, table in {**tables, "failures": self.failures}.items():
            if len(table):
                lines += ["", title, _table_text(table)]
        return "\n".join(lines)

    def workers(self) -> pd.DataFrame:
        """Return a row per worker of the active runs.

        `video` is the one it has worked on for longest (for `seconds`), `more` the number of its
        others; `pairs_per_second` is its mean since it started.
        """
        columns = ["host", "pid", "video", "more", "seconds", "pairs_per_second"]
        workers = [worker for run in self._active_runs() for worker in run.workers]
        rows: list[tuple[object, ...]] = []
        for worker in workers:
            video, seconds = None, None
            if worker.videos:
                video, seconds = worker.videos[0], round(self._since(worker.since), 1)
            more = max(0, len(worker.videos) - 1)
            rows.append((worker.host, worker.pid, video, more, seconds, worker.pairs_per_second))
        table = pd.DataFrame(rows, columns=columns)
        return table.astype({"seconds": "float64", "pairs_per_second": "float64"})

    def _active_runs(self) -> list[RunState]:
        return [run for run in self.runs if run.is_live(self.time)]

    def _describe(self, run: RunState) -> str:
        age = _duration(self._since(run.time))
        process = f"on {run.host} (pid {run.pid})"
        if not run.is_live(self.time):
            return f"{process}: no heartbeat for {age}: probably killed; run its command again"
        done = f"{run.settled} of {counted(run.videos, 'video')}"
        workers = counted(len(run.workers), "worker")
        took = _duration(run.time - run.began)
        return f"{process}: {done} in {took}, {workers}, heartbeat {age} ago"

    def _throughput(self) -> str:
        if self.last is None:
            return "no video was stored yet"
        rate, videos = f"{self.recent_pairs_per_second:.3g} pairs/s", self.recent_videos
        span = f"last {RECENT_S / 60:.0f} minutes"
        if self._active_runs():
            eta = "" if self.eta_seconds is None else f", ETA {_duration(self.eta_seconds)}"
            return f"{rate} ({counted(videos, 'video')} in the {span}){eta}"
        idle = f"no active run, the last video ended {_duration(self._since(self.last))} ago"
        return f"{rate} ({counted(videos, 'video')} in its {span}); {idle}"

    def _since(self, moment: float) -> float:
        return max(0.0, self.time - moment)  # clocks of hosts differ


def read_status(store: FlowStore, now: float | None = None) -> StoreStatus:
    """Return the status of `store` at `now`, seconds since the epoch (default: the present)."""
    now = time.time() if now is None else now
    tables = store.tables("videos", "failures")
    videos = tables["videos"].reindex(columns=list(_DTYPES)).astype(_DTYPES)
    videos["other_seconds"] = (videos["seconds"] - videos[_STAGE_SECONDS].sum(axis=1)).clip(lower=0)
    failures = tables["failures"].astype({"time": "float64", "seconds": "float64"})
    # A video may have been stored since it failed.
    failures = failures[~failures["video_id"].isin(videos["video_id"])]
    pending = failures["kind"] == catalog.KIND_PENDING
    failed = failures[~pending]
    runs = read_runs(store.path)
    seconds = videos[[*_STAGE_SECONDS, "other_seconds"]].sum().round(3)
    slowest = videos.nlargest(_MOST_ROWS, "seconds").reset_index(drop=True)
    reasons = failed.value_counts(["kind", "reason"]).head(_MOST_ROWS)
    return StoreStatus(
        path=str(store.path),
        time=now,
        stored=len(videos),
        failed=len(failed),
        pending=int(pending.sum()),
        left_out=max(0, whole_dataset(store.path) - len(videos) - len(failures)),
        flows=int(videos["flows"].sum()),
        runs=runs,
        **_recent(videos, failed, [run for run in runs if run.is_live(now)], now),
        seconds={str(name).removesuffix("_seconds"): value for name, value in seconds.items()},
        hosts=_by_host(videos, failed),
        slowest=slowest[["video_id", "seconds", "flows", "pairs_per_second", "host"]],
        failures=reasons.rename("videos").reset_index(),
    )


def _recent(
    videos: pd.DataFrame, failed: pd.DataFrame, active: Sequence[RunState], now: float
) -> dict[str, Any]:
    """Return `last`, `recent_videos`, `recent_pairs_per_second` and `eta_seconds` of the status."""
    ended = pd.concat([videos["committed"], failed["time"]], ignore_index=True)
    took = pd.concat([videos["seconds"], failed["seconds"]], ignore_index=True).fillna(0)
    last = float(ended.max()) if ended.notna().any() else None
    count, worked, flows = 0, 1e-3, 0.0
    if last is not None:
        since = (now if active else last) - RECENT_S
        recent = ended > since
        began = (ended - took)[recent].clip(lower=since)
        spans = [*zip(began, ended[recent], strict=True)]
        spans += [(max(run.began, since), now) for run in active]
        count, worked = int(recent.sum()), max(_covered(spans), worked)  # clocks of hosts differ
        flows = float(videos.loc[videos["committed"] > since, "flows"].sum())
    remaining = sum(run.videos - run.settled for run in active)
    return {
        "last": last,
        "recent_videos": count,
        "recent_pairs_per_second": flows / worked,
        "eta_seconds": remaining * worked / count if active and count else None,
    }


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of some spans.

    >>> _covered([(0, 2), (1, 4), (7, 8)])
    5.0
    """
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _by_host(videos: pd.DataFrame, failed: pd.DataFrame) -> pd.DataFrame:
    stored, lost = videos.groupby("host"), failed.groupby("host")
    rate = (stored["flows"].sum() / stored["seconds"].sum()).round(3)
    columns: list[pd.Series[Any] | pd.DataFrame] = [
        stored["pid"].nunique().rename("workers"),
        stored.size().rename("videos"),
        stored["flows"].sum(),
        stored[[*_STAGE_SECONDS, "other_seconds"]].sum().round(3),
        rate.rename("pairs_per_second"),
        stored[_PEAKS].max(),
        lost.size().rename("failed"),
        lost["seconds"].sum().round(3).rename("failed_seconds"),
    ]
    counts = ["workers", "videos", "flows", "failed"]
    hosts = pd.concat(columns, axis=1)
    filled = hosts.fillna(dict.fromkeys([*counts, "failed_seconds"], 0))
    return filled.astype(dict.fromkeys(counts, "int64")).rename_axis("host").reset_index()


def _table_text(table: pd.DataFrame) -> str:
    """Return `table` as text with short names and sizes in MB."""
    sizes = table.columns[table.columns.str.endswith("_bytes")]
    shown = table.assign(**{name: table[name].astype("float64") / 2**20 for name in sizes})
    shown.columns = shown.columns.str.replace("_bytes", "_MB").str.replace("_seconds", "_s")
    return as_text(shown.rename(columns={"pairs_per_second": "pairs/s"}))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
