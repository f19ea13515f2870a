"""The health of a store: videos without flow, short videos, videos that decoded unexpectedly."""

from collections.abc import Sequence
from typing import TypedDict

import pandas as pd

from flowcpc.stores.base.errors import counted
from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.data.shots import shots_of
from flowcpc.train.report.page import Row, Table
from flowcpc.train.report.runs import Run
from flowcpc.train.settings.config import PretrainConfig

_MOST_NAMED = 40


class Listing(TypedDict):
    """A finding about `count` videos, of which `names` are some, each with a remark."""

    summary: str
    count: int
    names: list[tuple[str, str]]
    note: str


class Health(TypedDict):
    """The state of a store; `tiles` are (what, value, style)."""

    tiles: list[tuple[str, str, str]]
    failures: Table | None
    miscounted: Listing
    short: list[Listing]


def health(store: FlowStore, runs: Sequence[Run]) -> Health:
    """Return the health of a store, and which videos are too short for the settings of `runs`."""
    tables = store.tables("videos", "failures", "shots")
    videos, failures = tables["videos"], tables["failures"]
    longest = shots_of(tables["shots"], videos["video_id"].tolist()).longest
    shots = videos[["video_id"]].assign(longest=longest).sort_values(["longest", "video_id"])
    lengths = videos["flows"] if len(videos) else pd.Series([0])
    span = f"{lengths.min():,}, {int(lengths.median()):,}, {lengths.max():,}"
    miscounted = _miscounted(videos)
    tiles = [
        ("videos with flow", f"{len(videos):,}", ""),
        ("classes", str(videos["label"].nunique()), ""),
        ("flows per video: minimum, median, maximum", span, ""),
    ]
    for what, count in (
        ("videos without flow", len(failures)),
        ("frames not as many as announced", miscounted["count"]),
    ):
        tiles.append((what, f"{count:,}", "bad" if count else "good"))
    return {
        "tiles": tiles,
        "failures": _failures(store, failures) if len(failures) else None,
        "miscounted": miscounted,
        "short": [_short(run.name, run.config, shots) for run in runs if run.config is not None],
    }


def asked_strides(config: PretrainConfig) -> tuple[int, int]:
    """Return the smallest and the largest stride, in flows, that the settings of a run ask for."""
    fixed = {"spaced": config.spacing, "overlap": -config.spacing, "consecutive": 0}
    low = config.num_flows + fixed.get(config.selection, 0)
    return low, low if config.selection in fixed else low + config.spacing


def _failures(store: FlowStore, failures: pd.DataFrame) -> Table:
    """Return how many videos failed for each reason, the most frequent first."""
    rows = []
    groups = failures.groupby(["kind", "reason"])["video_id"]
    for (kind, reason), ids in sorted(groups, key=lambda group: -len(group[1])):
        examples = ", ".join(ids[:3]) + (" ..." if len(ids) > 3 else "")
        rows.append(Row((len(ids), kind, reason, examples)))
    columns = {"Videos": "n", "Kind": "text", "Reason": "text", "For example": "text"}
    caption = f"Videos of {store.path.resolve().name} that have no flow, by reason"
    return Table("Videos without flow", caption, columns, rows)


def _miscounted(videos: pd.DataFrame) -> Listing:
    """Return the videos that did not decode to the number of frames in their header."""
    wrong = videos[:0]
    if "decoded_is_header" in videos:
        wrong = videos[~videos["decoded_is_header"].astype(bool)]
    names = []
    for row in wrong.head(_MOST_NAMED).to_dict("records"):
        header = row.get("header_frames")
        announced = "no number" if header is None or pd.isna(header) else f"{int(header)}"
        remark = f"{int(row['decoded_frames'])} decoded, header says {announced}"
        names.append((str(row["video_id"]), remark))
    summary = f"{len(wrong)} of {counted(len(videos), 'video')}"
    return {"summary": summary, "count": len(wrong), "names": names, "note": ""}


def _short(run: str, config: PretrainConfig, shots: pd.DataFrame) -> Listing:
    """Return the videos whose longest shot is shorter than a sequence; `shots`: shortest first."""
    span = config.shortest_span
    widest = config.num_flows + (config.num_segments - 1) * asked_strides(config)[1]
    short = shots[shots["longest"] < span]
    narrowed, total = int((shots["longest"] < widest).sum()), len(shots)
    note = (
        f"{narrowed} of {total} videos have fewer than the {widest} flows of a sequence at the "
        "largest spacing: their segments stand closer together."
    )
    sequence = f"the {span} flows of a sequence without a cut"
    summary = f"{run}: every video has {sequence}."
    if len(short):
        summary = f"{run}: {len(short)} of {total} videos have fewer than {sequence}"
    named = short.head(_MOST_NAMED).itertuples(index=False)
    names = [(str(video), counted(flows, "flow")) for video, flows in named]
    note = note if narrowed > len(short) else ""
    return {"summary": summary, "count": len(short), "names": names, "note": note}
