"""What every data set is read into, and how they read: the files under a folder, the lines of a list, the rows of a table."""

import csv
import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.base.plurals import counted

VIDEO_SUFFIXES = (
    ".avi",
    ".mp4",
    ".mov",
    ".mkv",
    ".webm",
    ".mpg",
    ".mpeg",
    ".m4v",
    ".wmv",
    ".flv",
    ".ogv",
    ".3gp",
)
SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Video:
    """One video of a data set.

    Attributes
    ----------
    video_id : str
        The stem for UCF-101 and HMDB-51, the clip's name for Kinetics; the relative path without suffix otherwise.
    path : str
        Relative to the videos' folder, with `/`.
    label, group : str or None
        Class, and what its clips share (never split between train and test).
    folds : dict
        For example {"fold1": "train", "fold2": "test"}; values train, val or test.
    """

    video_id: str
    path: str
    label: str | None
    group: str | None
    folds: dict[str, str]

    def __post_init__(self) -> None:
        try:
            self.path.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the name of {os.fsencode(self.path)!r} is not UTF-8; rename it"
            ) from error

    def to_record(self) -> dict[str, Any]:
        """Return the fields as a commit or failure record keeps them."""
        return {
            name: dict(value) if name == "folds" else value for name, value in vars(self).items()
        }


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The videos of a data set, and remarks that a user should read."""

    videos: list[Video]
    remarks: list[str]


def list_files(root: Path) -> list[str]:
    """Return all files under `root`, sorted, relative to it, with `/`.

    Links to folders are followed, unless they lead back to a folder that they are in; a link whose target is gone or cannot be reached counts as a
    file, because a video behind it is absent and not forgotten.
    No file is asked for more than its name. Raises OperationError for a folder that cannot be listed.
    """
    found: list[str] = []
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while folders:
        prefix, above = folders.pop()
        try:
            state = os.stat(root / prefix)
            if (state.st_dev, state.st_ino) in above:
                continue
            within = above | {(state.st_dev, state.st_ino)}
            with os.scandir(root / prefix) as entries:
                for entry in entries:
                    leads_nowhere = entry.is_symlink() and not os.path.exists(entry.path)
                    if not leads_nowhere and entry.is_dir():
                        folders.append((f"{prefix}{entry.name}/", within))
                    elif leads_nowhere or entry.is_file():
                        found.append(prefix + entry.name)
        except OSError as error:
            raise OperationError(
                f"the folder {root / prefix} cannot be listed ({error.strerror}); give yourself the right to, or move it out of {root}"
            ) from error
    return sorted(found)


def is_video(path: str) -> bool:
    """Return whether the extension is that of a video."""
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES


def stem_of(path: str) -> str:
    """Return the file name without its extension.

    >>> stem_of("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi")
    'April_09_brush_hair_u_nm_np1_ba_goo_0'
    """
    return os.path.splitext(path.rpartition("/")[2])[0]


def find_listed(
    root: Path, videos: Sequence[Video], paths: Callable[[list[str]], Sequence[str]]
) -> Dataset:
    """Return the listed `videos`, and a remark on the video files under `root` that are none of them.

    `paths` is given the video files and returns where each of `videos` is, or should be. Raises ValueError when none is there.
    """
    files = [path for path in list_files(root) if is_video(path)]
    placed = [
        video if video.path == path else dataclasses.replace(video, path=path)
        for video, path in zip(videos, paths(files), strict=True)
    ]
    unlisted = set(files) - {video.path for video in placed}
    if len(unlisted) == len(files):
        raise ValueError(
            f"none of {counted(len(videos), 'video of the list')} is under {root}; it must hold folders of classes, as in {root / placed[0].path}"
        )
    remarks = (
        [f"{counted(len(unlisted), 'video')} under {root} in no list, left out"] if unlisted else []
    )
    return Dataset(placed, remarks)


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, line) for the lines that hold something; some official lists end lines with CRLF, and with a space."""
    for number, line in enumerate(_text(file).splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def read_columns(file: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Return the columns of a CSV file, and an iterator of (line number, row); a cell that is missing is empty."""
    reader = csv.DictReader(io.StringIO(_text(file), newline=""))
    columns = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = columns
    rows = (
        (reader.line_num, {key: (value or "").strip() for key, value in row.items() if key})
        for row in reader
    )
    return columns, rows


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not a text file in UTF-8 ({error}); give the list itself"
        ) from error
