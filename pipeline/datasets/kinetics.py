"""Kinetics: the official CSV files, and the files of their clips."""

import dataclasses
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from flowcpc.pipeline.datasets.listing import Video, read_columns, read_split

LISTS = "the official CSV, or a folder of several"
_NEEDED = ("youtube_id", "time_start", "time_end")
_SPLITS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}
_ID = re.compile(r"[A-Za-z0-9_-]+")
_CLIP = re.compile(r"(?P<id>[A-Za-z0-9_-]+)_(?P<start>\d{1,6})_(?P<end>\d{1,6})")
_MAX_SECONDS = 999_999


def list_kinetics(annotations: Path) -> list[Video]:
    """Return the clips of a Kinetics CSV, or of all CSV files in a folder.

    A clip is called <youtube_id>_<start>_<end>; its group is the YouTube video. Raises ValueError
    or FileNotFoundError for lists that are absent or contradict themselves.
    """
    if not annotations.exists():
        raise FileNotFoundError(f"annotations {annotations} do not exist; give {LISTS}")
    files = sorted(annotations.glob("*.csv")) if annotations.is_dir() else [annotations]
    clips: dict[str, Video] = {}
    # Releases keep other tables beside the lists, for example of the classes.
    tables = [rows for columns, rows in map(read_columns, files) if set(_NEEDED) <= set(columns)]
    if not tables:
        needed = ", ".join(_NEEDED)
        raise ValueError(f"{annotations} has no CSV with the columns {needed}; give {LISTS}")
    for where, row in itertools.chain.from_iterable(tables):
        clip = _read_clip(where, row)
        known = clips.setdefault(clip.video_id, clip)
        if known != clip:
            problem = f"{clip.video_id} is {_describe(clip)} here, and {_describe(known)} before"
            rule = "a clip has one label and one split: keep one row"
            raise ValueError(f"{where}: {problem}; {rule}")
    if not clips:
        raise ValueError(f"{annotations} lists no clip; it needs one row per clip")
    return list(clips.values())


def find_clips(clips: Sequence[Video], files: Sequence[str]) -> list[Video]:
    """Return the clips with the paths of their files among `files`, in whatever folder they are.

    A clip's file is named <youtube_id>_<start>_<end>, or <youtube_id> where only one clip of it is
    listed, with any extension. An absent clip keeps the path where it would be,
    <label>/<clip>.mp4. Raises ValueError where two files are one clip.
    """
    files_by_name: dict[str, list[str]] = defaultdict(list)
    for file in files:
        name = os.path.splitext(os.path.basename(file))[0]
        if match := _CLIP.fullmatch(name):
            name = _clip_name(match["id"], int(match["start"]), int(match["end"]))
        files_by_name[name].append(file)
    clips_of = Counter(clip.group for clip in clips)
    located = []
    for clip in clips:
        names = [clip.video_id, clip.group] if clips_of[clip.group] == 1 else [clip.video_id]
        candidates = [file for name in names for file in files_by_name.get(name or "", ())]
        if len(candidates) > 1:
            one, other, *_ = candidates
            raise ValueError(f"{one} and {other} are both the clip {clip.video_id}; remove one")
        located += [dataclasses.replace(clip, path=path) for path in candidates] or [clip]
    return located


def _read_clip(where: str, row: dict[str, str]) -> Video:
    youtube_id, label = row["youtube_id"], row.get("label", "")
    if not _ID.fullmatch(youtube_id):
        raise ValueError(f"{where}: youtube_id {youtube_id!r} must be letters, digits, - and _")
    folds = read_split(where, row.get("split", "").lower(), _SPLITS)
    seconds = (_read_seconds(where, row, column) for column in _NEEDED[1:])
    name = _clip_name(youtube_id, *seconds)
    folder = f"{label.replace('/', '_')}/" if label.strip(".") else ""
    return Video(name, f"{folder}{name}.mp4", label or None, youtube_id, folds)


def _read_seconds(where: str, row: dict[str, str], column: str) -> int:
    try:
        value = float(row[column])
    except ValueError:
        value = -1.0
    if not 0 <= value <= _MAX_SECONDS or value != int(value):
        raise ValueError(f"{where}: {column} {row[column]!r} is not a number of whole seconds")
    return int(value)


def _clip_name(youtube_id: str, start: int, end: int) -> str:
    return f"{youtube_id}_{start:06d}_{end:06d}"


def _describe(clip: Video) -> str:
    return f"{clip.label!r} in {clip.folds.get('fold1', 'no split')}"
