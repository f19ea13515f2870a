"""Kinetics: the official CSV files (label, youtube_id, time_start, time_end, split) -> videos, and where their files are."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from flowcpc.pipeline.datasets.listing import Video, read_columns, stem_of

LISTS = "the official CSV, or a folder of several"
_NEEDED = ("youtube_id", "time_start", "time_end")
_SPLITS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}
_ID = re.compile(r"[A-Za-z0-9_-]+")
_CLIP = re.compile(r"(?P<id>[A-Za-z0-9_-]+)_(?P<start>\d{1,6})_(?P<end>\d{1,6})")
_MOST_SECONDS = 999_999


def list_kinetics(annotations: Path) -> list[Video]:
    """Return the clips of a Kinetics CSV, or of all of them in a folder, named <youtube_id>_<start>_<end>, with label, group and split.

    The group is the YouTube video. Raises ValueError or FileNotFoundError, in a sentence, for lists that are absent or contradict themselves.
    """
    if not annotations.exists():
        raise FileNotFoundError(f"annotations {annotations} do not exist; give {LISTS}")
    files = sorted(annotations.glob("*.csv")) if annotations.is_dir() else [annotations]
    clips: dict[str, Video] = {}
    read = False
    for file in files:
        columns, rows = read_columns(file)
        missing = [name for name in _NEEDED if name not in columns]
        if missing and annotations.is_dir():
            continue  # the releases keep other tables beside the lists, for example of the classes
        if missing:
            raise ValueError(
                f"{file} has no column {', '.join(missing)}; it needs {', '.join(_NEEDED)}, and label and split"
            )
        read = True
        for number, row in rows:
            clip = _clip_of(f"{file}, line {number}", row)
            known = clips.setdefault(clip.video_id, clip)
            if known != clip:
                raise ValueError(
                    f"{file}, line {number}: {clip.video_id} is {clip.label!r} in {_split_of(clip)} here, and {known.label!r} in "
                    f"{_split_of(known)} before; a clip has one label and one split: keep one row"
                )
    if not read:
        raise ValueError(
            f"{annotations} holds no CSV with the columns {', '.join(_NEEDED)}; give {LISTS}"
        )
    if not clips:
        raise ValueError(f"{annotations} lists no clip; it needs one row per clip")
    return list(clips.values())


def find_clips(clips: Sequence[Video], files: Sequence[str]) -> list[str]:
    """Return the file of every clip, wherever it lies among `files`; for an absent one where it would lie, <label>/<clip>.mp4.

    A file is a clip's by its name, <youtube_id>_<start>_<end> with any extension; <youtube_id> alone will do where one clip of it is listed.
    Raises ValueError where two files are one clip.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for file in files:
        stem = stem_of(file)
        match = _CLIP.fullmatch(stem)
        by_name[
            stem if match is None else _name(match["id"], int(match["start"]), int(match["end"]))
        ].append(file)
    listed = Counter(clip.group for clip in clips)
    places = []
    for clip in clips:
        found = by_name.get(clip.video_id, [])
        if clip.group is not None and listed[clip.group] == 1:
            found = found + by_name.get(clip.group, [])
        if len(found) > 1:
            raise ValueError(
                f"{found[0]} and {found[1]} are both the clip {clip.video_id}; remove one of them"
            )
        places.append(found[0] if found else clip.path)
    return places


def _clip_of(where: str, row: dict[str, str]) -> Video:
    youtube_id, label, split = row["youtube_id"], row.get("label", ""), row.get("split", "")
    if not _ID.fullmatch(youtube_id):
        raise ValueError(
            f"{where}: youtube_id {youtube_id!r} is not made of letters, digits, - and _; use the official list"
        )
    if split and split.lower() not in _SPLITS:
        raise ValueError(
            f"{where}: split {split!r} is unknown; use train, val (validate) or test, or leave it empty"
        )
    name = _name(youtube_id, _seconds(where, row, "time_start"), _seconds(where, row, "time_end"))
    folder = f"{label.replace('/', '_')}/" if label.strip(".") else ""
    folds = {"fold1": _SPLITS[split.lower()]} if split else {}
    return Video(name, f"{folder}{name}.mp4", label or None, youtube_id, folds)


def _seconds(where: str, row: dict[str, str], column: str) -> int:
    try:
        value = float(row[column])
    except ValueError:
        value = -1.0
    if not 0 <= value <= _MOST_SECONDS or value != int(value):
        raise ValueError(
            f"{where}: {column} {row[column]!r} is not a number of whole seconds; use the official list"
        )
    return int(value)


def _name(youtube_id: str, start: int, end: int) -> str:
    return f"{youtube_id}_{start:06d}_{end:06d}"


def _split_of(clip: Video) -> str:
    return clip.folds.get("fold1", "no split")
