"""A CSV of one's own (path, label, group, split) -> videos."""

import functools
import os
from pathlib import Path, PurePosixPath

from flowcpc.pipeline.datasets.listing import SPLITS, Dataset, Video, read_columns
from flowcpc.stores.base.plurals import counted

LISTS = "the CSV file"


def read_csv(root: Path, file: Path) -> Dataset:
    """Return the videos of the CSV `file`; its paths are relative to `root`, or absolute and inside it. Raises ValueError or FileNotFoundError."""
    if not file.is_file():
        raise FileNotFoundError(
            f"annotations file {file} does not exist or is no file; give a CSV with the columns path, label, group, split"
        )
    columns, rows = read_columns(file)
    if "path" not in columns or "label" not in columns:
        raise ValueError(
            f"{file} has the columns {', '.join(columns) or '(none)'}; it needs path and label, and may have group and split"
        )
    roots = (os.path.abspath(root), os.path.realpath(root))
    videos = [_video(root, roots, f"{file}, line {number}", row) for number, row in rows]
    if not videos:
        raise ValueError(f"{file} has no rows; it needs one row per video")
    unlabelled = sum(video.label is None for video in videos)
    return Dataset(
        videos, [f"{counted(unlabelled, 'video')} of {file} without a label"] if unlabelled else []
    )


def _video(root: Path, roots: tuple[str, str], where: str, row: dict[str, str]) -> Video:
    path = _relative(roots, row["path"])
    if path is None:
        raise ValueError(
            f"{where}: path {row['path']!r} is not inside {root}; write paths relative to it, or absolute ones inside it"
        )
    split = row.get("split", "")
    if split and split not in SPLITS:
        raise ValueError(
            f"{where}: split {split!r} is unknown; use {', '.join(SPLITS)} or leave it empty"
        )
    name = path.with_suffix("").as_posix()
    folds = {"fold1": split} if split else {}
    return Video(name, path.as_posix(), row["label"] or None, row.get("group") or name, folds)


def _relative(roots: tuple[str, str], text: str) -> PurePosixPath | None:
    """Return a path of the list relative to the videos' folder, by whichever of its names it is written; None when it is not inside."""
    path = PurePosixPath(text)
    if path.is_absolute():
        written = (path, PurePosixPath(_real(str(path.parent)), path.name))
        inside = [
            one.relative_to(base) for one in written for base in roots if one.is_relative_to(base)
        ]
        if not inside:
            return None
        path = inside[0]
    return path if path.parts and ".." not in path.parts else None


@functools.lru_cache(1024)
def _real(folder: str) -> str:
    return os.path.realpath(folder)
