"""A CSV file of the user (path, label, group, split), one row per video."""

import functools
import itertools
import os
from pathlib import Path, PurePosixPath

from flowcpc.pipeline.datasets import listing
from flowcpc.pipeline.datasets.listing import Dataset, Video
from flowcpc.stores.base.errors import counted

LISTS = "the CSV file"
_SPLITS = {split: split for split in listing.SPLITS}


def read_csv(root: Path, file: Path) -> Dataset:
    """Return the videos of the CSV `file`; its paths are relative to `root` or absolute inside it.

    Raises ValueError for a wrong row or column, FileNotFoundError without the file.
    """
    listing.check_annotations(file, "file", "a CSV with the columns path, label, group, split")
    columns, rows = listing.read_columns(file)
    if not {"path", "label"} <= set(columns):
        given = ", ".join(columns) or "(none)"
        needed = "path and label, and may have group and split"
        raise ValueError(f"{file} has the columns {given}; it needs {needed}")
    roots = (os.path.abspath(root), os.path.realpath(root))
    videos = []
    for where, row in rows:
        path = _relative_path(roots, row["path"])
        if path is None:
            raise ValueError(
                f"{where}: path {row['path']!r} is not inside {root}; write paths relative to it"
            )
        name = path.with_suffix("").as_posix()
        folds = listing.read_split(where, row.get("split", ""), _SPLITS)
        group = row.get("group") or name
        videos.append(Video(name, path.as_posix(), row["label"] or None, group, folds))
    if not videos:
        raise ValueError(f"{file} has no rows; it needs one row per video")
    unlabelled = sum(video.label is None for video in videos)
    remark = f"the label is empty for {counted(unlabelled, 'video')} of {file}"
    return Dataset(videos, [remark] if unlabelled else [])


def _relative_path(roots: tuple[str, str], text: str) -> PurePosixPath | None:
    """Return `text` relative to the videos' folder, whose names are `roots`; None if outside."""
    path = PurePosixPath(text)
    if path.is_absolute():
        real = PurePosixPath(_real_folder(str(path.parent)), path.name)
        pairs = itertools.product((path, real), roots)
        inside = (path.relative_to(root) for path, root in pairs if path.is_relative_to(root))
        path = next(inside, PurePosixPath())
    return path if path.parts and ".." not in path.parts else None


_real_folder = functools.lru_cache(1024)(os.path.realpath)
