"""A store in, flow folders of other programs out."""

import dataclasses
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowcpc.pipeline.exchange.layouts import Layout, check_bound, encode_flow, is_torn
from flowcpc.stores.base.atomic import TEMPORARY_SUFFIX, replace_file, sync_folder
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.listener import Progress
from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.records.catalog import KIND_DAMAGED
from flowcpc.stores.records.record_file import read_record, write_record

_BLOCK = 32  # flows in memory
_RECORD = ".flowcpc.json"  # what a folder was made from, hidden from programs that list JPEGs


@dataclasses.dataclass
class ExportSummary:
    """What an export of so many `videos` did: those `written` now, (video_id, reason) of the damaged ones; `finished` is false when it was stopped
    before the end.
    """

    finished: bool = True
    videos: int = 0
    written: int = 0
    failed: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def export_flow(
    store: FlowStore,
    out: Path,
    layout: Layout,
    video_ids: Sequence[str],
    *,
    bound: float,
    progress: Progress = lambda done, total, fields: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> ExportSummary:
    """Write the flow of some videos, of all where none is named, to OUT/<video_id>/.

    A folder is there whole or not at all: it is written under another name and renamed. One that is there from the same flow,
    layout and bound is left alone; what it lacks, or has as an empty file, is written again.
    Raises ValueError for a bound that cannot be, an unknown video, or an `out` that is something else.
    """
    check_bound(bound)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder to write to")
    tables = store.tables("videos", "failures")
    failures = tables["failures"].set_index("video_id")
    damaged = failures.loc[failures["kind"] == KIND_DAMAGED, "reason"].to_dict()
    known = sorted({*tables["videos"]["video_id"], *damaged})
    video_ids = video_ids or known
    unknown = sorted(set(video_ids).difference(known))
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)} is not in {store.path}; flowcpc query lists what is"
        )
    escaping = [
        video_id
        for video_id in video_ids
        if ".." in Path(video_id).parts or Path(video_id).is_absolute()
    ]
    if escaping:
        raise ValueError(
            f"{escaping[0]} would be written outside {out}; export it from a store with other names"
        )
    out.mkdir(parents=True, exist_ok=True)
    for parent in {(out / video_id).parent for video_id in video_ids}:
        for torn in parent.glob(f".*{TEMPORARY_SUFFIX}"):
            if is_torn(torn):
                shutil.rmtree(torn)
    summary = ExportSummary(videos=len(video_ids))
    for number, video_id in enumerate(video_ids):
        if should_stop():
            summary.finished = False
            return summary
        progress(number, len(video_ids), {"written": f"{summary.written}"})
        if video_id in damaged:
            summary.failed.append((video_id, damaged[video_id]))
            continue
        try:
            summary.written += _export_one(store, out, layout, video_id, bound)
        except DamagedStoreError as error:
            summary.failed.append((video_id, str(error)))
    progress(len(video_ids), len(video_ids), {"written": f"{summary.written}"})
    return summary


def _export_one(store: FlowStore, out: Path, layout: Layout, video_id: str, bound: float) -> bool:
    target = out / video_id
    video = store.open_video(video_id)
    flows = video.shape[0]
    commit = store.commit_of(video_id)
    made = {
        "layout": layout.name,
        "bound": bound,
        "flows": flows,
        "generation": commit and commit["generation"],
    }
    if target.is_dir():
        _refuse_other_exports(target, made)
        lacking = _lacking(layout, target, flows)
        for frame in lacking:
            for kind, data in encode_flow(
                layout, store.encoding.decode(video.read(frame, frame + 1))[0], bound
            ):
                replace_file(target / layout.file_name(kind, frame), data)
        return bool(lacking)
    temporary = target.parent / f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    temporary.mkdir(parents=True)
    try:
        for start in range(0, flows, _BLOCK):
            block = store.encoding.decode(video.read(start, min(start + _BLOCK, flows)))
            for offset, flow in enumerate(block):
                for kind, data in encode_flow(layout, flow, bound):
                    (temporary / layout.file_name(kind, start + offset)).write_bytes(data)
        write_record(temporary / _RECORD, made)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(target.parent)
    return True


def _refuse_other_exports(folder: Path, made: Mapping[str, Any]) -> None:
    """Raise ValueError unless `folder` was exported from the flow, and in the way, that `made` says."""
    remedy = "remove it, or export to another folder"
    try:
        found = read_record(folder / _RECORD)
    except FileNotFoundError:
        raise ValueError(f"{folder} exists and holds something else; {remedy}") from None
    except DamagedStoreError:
        raise ValueError(
            f"{folder / _RECORD}, which says what the folder was made from, is damaged; {remedy}"
        ) from None
    if found == made:
        return
    form = "layout {layout} with bound {bound:g} px"
    if form.format(**found) == form.format(**made):
        raise ValueError(
            f"{folder} was exported from flow that the store has replaced since; {remedy}"
        )
    raise ValueError(
        f"{folder} was exported as {form.format(**found)}, and {form.format(**made)} is asked for; {remedy}"
    )


def _lacking(layout: Layout, folder: Path, flows: int) -> list[int]:
    """Return the flows of which a file is absent or empty, as after a crash of the machine."""
    with os.scandir(folder) as entries:
        there = {entry.name for entry in entries if entry.stat().st_size > 0}
    return [
        frame
        for frame in range(flows)
        if any(layout.file_name(kind, frame) not in there for kind in layout.kinds)
    ]
