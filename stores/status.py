"""How an extraction is doing, for `flowcpc status`: from the records alone, so that it can be asked while one runs, and for ever after."""

import dataclasses
import json
import time
from typing import Any

import pandas as pd

from stores import catalog
from stores.flow_store import FlowStore

# What a worker's seconds are made of: waiting for frames; the solver; codes and statistics; compressing and writing.
STAGES = ("decode", "flow", "encode", "write")
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
    stored, failed, pending : int
        Videos of the store: with flow, without it for a reason, not extracted yet.
    flows : int
    recent_videos : int
        Stored or failed in the last RECENT_S seconds.
    recent_pairs_per_second : float
        Of all workers together over that time, or since they began; 0 where nothing was stored.
    eta_seconds : float, optional
        Until nothing is pending, if videos go on at that rate.
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
    stored: int
    failed: int
    pending: int
    flows: int
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
        tables = {
            name: json.loads(getattr(self, name).to_json(orient="records")) for name in ("hosts", "slowest", "failures")
        }
        return values | tables

    def to_text(self) -> str:
        """Return the status as lines for a person."""
        lines = [
            f"store    {self.path}",
            f"videos   {self.stored} stored ({self.flows} flows), {self.failed} failed, {self.pending} pending",
            f"now      {self._pace()}",
        ]
        total = sum(self.seconds.values())
        if total:
            shares = ", ".join(f"{name} {value / total:.1%}" for name, value in self.seconds.items())
            lines.append(f"spent    {_duration(total)} of workers' time: {shares}")
        for title, table in (("hosts", self.hosts), ("slowest videos", self.slowest), ("failures", self.failures)):
            if len(table):
                lines += ["", title, _table_text(table)]
        return "\n".join(lines)

    def _pace(self) -> str:
        if not self.recent_videos:
            return f"nothing was stored in the last {RECENT_S / 60:.0f} minutes"
        left = "" if self.eta_seconds is None else f", about {_duration(self.eta_seconds)} left"
        return f"{self.recent_pairs_per_second:.3g} pairs/s ({self.recent_videos} videos in the last {RECENT_S / 60:.0f} minutes){left}"


def read_status(store: FlowStore, now: float | None = None) -> StoreStatus:
    """Return the status of `store` at `now`, seconds since the epoch (the present unless given)."""
    now = time.time() if now is None else now
    videos, failures = _read(store)
    pending = failures["kind"] == catalog.KIND_PENDING
    failed = failures[~pending]
    waiting = int(pending.sum())
    recent, pairs_per_second, eta = _pace(videos, failed, waiting, now)
    spent = videos[[*(f"{stage}_seconds" for stage in STAGES), "other_seconds"]].sum()
    slowest = videos.sort_values("seconds", ascending=False).head(_MOST_ROWS)
    return StoreStatus(
        path=str(store.path),
        stored=len(videos),
        failed=len(failed),
        pending=waiting,
        flows=int(videos["flows"].sum()),
        recent_videos=recent,
        recent_pairs_per_second=pairs_per_second,
        eta_seconds=eta,
        seconds={str(name).removesuffix("_seconds"): round(float(value), 3) for name, value in spent.items()},
        hosts=_by_host(videos, failed),
        slowest=slowest[["video_id", "seconds", "flows", "pairs_per_second", "host"]].reset_index(drop=True),
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
    failures = failures[~failures["video_id"].isin(videos["video_id"])]  # one may have been stored since
    kinds = {"video_id": "str", "host": "str", **dict.fromkeys(_INTEGERS, "Int64")}
    videos = videos.astype({name: kinds.get(name, "float64") for name in _COLUMNS})
    stages = videos[[f"{stage}_seconds" for stage in STAGES]].sum(axis=1)
    videos["other_seconds"] = (videos["seconds"] - stages).clip(lower=0)
    return videos, failures.astype({"time": "float64", "seconds": "float64"})


def _pace(videos: pd.DataFrame, failed: pd.DataFrame, waiting: int, now: float) -> tuple[int, float, float | None]:
    """Return the number of recent videos, their pairs/s and the seconds until `waiting` more are done at that rate."""
    ends = pd.concat([videos["committed"], failed["time"]], ignore_index=True)
    took = pd.concat([videos["seconds"], failed["seconds"]], ignore_index=True).fillna(0)
    recent = ends > now - RECENT_S
    if not recent.any():
        return 0, 0.0, None
    began = max(now - RECENT_S, float((ends - took)[recent].min()))
    elapsed = max(now - began, 1e-3)  # clocks of hosts differ
    flows = float(videos.loc[videos["committed"] > now - RECENT_S, "flows"].sum())
    eta = waiting * elapsed / int(recent.sum()) if waiting else None
    return int(recent.sum()), flows / elapsed, eta


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
    filled = hosts.fillna(dict.fromkeys([*counts, "failed_seconds"], 0)).astype(dict.fromkeys(counts, "int64"))
    return filled.rename_axis("host").reset_index()


def _table_text(table: pd.DataFrame) -> str:
    shown = table.rename(
        columns=lambda name: (
            name.replace("_bytes", "_MB").replace("_seconds", "_s").replace("pairs_per_second", "pairs/s")
        )
    )
    for name in shown.columns:
        if name.endswith("_MB"):
            shown[name] = shown[name].astype("float64") / 2**20
    return shown.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.4g}", max_colwidth=100)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
