"""A store in, flow folders of other programs out."""

import dataclasses
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowcpc.pipeline.exchange.layouts import Layout, check_bound, encode_flow, is_torn
from flowcpc.stores.base.atomic import TEMPORARY_SUFFIX, replace_file, sync
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.records.catalog import KIND_DAMAGED
from flowcpc.stores.records.record_file import read_record, write_record

_BLOCK = 32  # flows in memory
_RECORD = ".flowcpc.json"  # how a folder was made, hidden from programs that list JPEGs


@dataclasses.dataclass
class ExportSummary:
    """Result of an export of so many `videos`; `failed` has (video_id, reason)."""

    videos: int
    finished: bool = True  # false if it was stopped early
    written: int = 0  # videos that lacked files before
    failed: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def export_flow(
    store: FlowStore,
    out: Path,
    layout: Layout,
    video_ids: Sequence[str] = (),
    *,
    bound: float = 20.0,
    listener: Listener = SILENT,
) -> ExportSummary:
    """Write the flow of some videos (of all unless named) to OUT/<video_id>/.

    A folder is renamed into place when it is complete. One that was made from the same flow, layout
    and bound is kept; files that it lacks, or that are empty, are written again. The listener may
    stop the work between videos. Raises ValueError for an invalid bound, an unknown video, or a
    folder in `out` that holds something else.
    """
    check_bound(bound)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder to write to")
    tables = store.tables("videos", "failures")
    failures = tables["failures"].set_index("video_id")
    damaged = failures.loc[failures["kind"] == KIND_DAMAGED, "reason"].to_dict()
    known = sorted({*tables["videos"]["video_id"], *damaged})
    video_ids = video_ids or known
    unknown = ", ".join(sorted(set(video_ids).difference(known)))
    if unknown:
        raise ValueError(f"{unknown} is not in {store.path}; list its videos with flowcpc query")
    for path in map(Path, video_ids):
        if ".." in path.parts or path.is_absolute():
            raise ValueError(f"{path} would be written outside {out}; its name cannot be exported")
    out.mkdir(parents=True, exist_ok=True)
    for parent in {(out / video_id).parent for video_id in video_ids}:
        for torn in filter(is_torn, parent.glob(f".*{TEMPORARY_SUFFIX}")):
            shutil.rmtree(torn)
    summary = ExportSummary(len(video_ids))
    for number, video_id in enumerate(video_ids):
        if listener.should_stop():
            summary.finished = False
            return summary
        listener.progress(number, len(video_ids), {"written": f"{summary.written}"})
        try:
            if video_id in damaged:
                raise DamagedStoreError(damaged[video_id])
            summary.written += _export_one(store, out, layout, video_id, bound)
        except DamagedStoreError as error:
            summary.failed.append((video_id, str(error)))
    listener.progress(len(video_ids), len(video_ids), {"written": f"{summary.written}"})
    return summary


def _export_one(store: FlowStore, out: Path, layout: Layout, video_id: str, bound: float) -> bool:
    """Write what is missing of one video; return whether there was anything."""
    target = out / video_id
    video, commit = store.open_video(video_id), store.commit_of(video_id)
    flows, generation = video.shape[0], commit and commit["generation"]
    recipe = {"layout": layout.name, "bound": bound, "flows": flows, "generation": generation}
    if target.is_dir():
        _refuse_other_exports(target, recipe)
        incomplete = _incomplete_flows(layout, target, flows)
        for frame in incomplete:
            flow = store.encoding.decode(video.read(frame, frame + 1))[0]
            for kind, data in encode_flow(layout, flow, bound):
                replace_file(target / layout.file_name(kind, frame), data)
        return bool(incomplete)
    temporary = target.parent / f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    temporary.mkdir(parents=True)
    try:
        for start in range(0, flows, _BLOCK):
            block = store.encoding.decode(video.read(start, min(start + _BLOCK, flows)))
            for frame, flow in enumerate(block, start):
                for kind, data in encode_flow(layout, flow, bound):
                    (temporary / layout.file_name(kind, frame)).write_bytes(data)
        write_record(temporary / _RECORD, recipe)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(target.parent)
    return True


def _refuse_other_exports(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Raise ValueError unless `folder` was exported by `recipe`."""
    try:
        existing = read_record(folder / _RECORD)
    except FileNotFoundError:
        problem = f"{folder} exists and holds something else"
    except DamagedStoreError:
        problem = f"{folder / _RECORD}, which says how the folder was made, is damaged"
    else:
        if existing == recipe:
            return
        words = "layout {layout} with bound {bound:g} px"
        was, wanted = words.format(**existing), words.format(**recipe)
        problem = f"{folder} was exported as {was}, and {wanted} is requested"
        if was == wanted:
            problem = f"{folder} was exported from flow that the store has replaced since"
    raise ValueError(f"{problem}; remove it, or export to another folder")


def _incomplete_flows(layout: Layout, folder: Path, flows: int) -> list[int]:
    """Return the flows with a missing or empty file, as after a crash of the machine."""
    with os.scandir(folder) as entries:
        names = {entry.name for entry in entries if entry.stat().st_size > 0}
    return [
        frame
        for frame in range(flows)
        if not names.issuperset(layout.file_name(kind, frame) for kind in layout.kinds)
    ]
