"""What data sets are read into, and what their readers share: files, lists and tables."""

import csv
import dataclasses
import io
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import cast

from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.records.contract import SourceRecord

VIDEO_SUFFIXES = (
    ".avi", ".mp4", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".ogv", ".3gp"
)  # fmt: skip
SPLITS = ("train", "val", "test")
# A line of an official list: ("FILE, line N", path, fold, split or None if the fold omits it).
ListedUse = tuple[str, str, str, str | None]


@dataclasses.dataclass(frozen=True)
class Video:
    """One video of a data set. Raises ValueError for a path that is not UTF-8."""

    video_id: str  # UCF-101, HMDB-51: stem; Kinetics: the clip's name; else path without suffix
    path: str  # relative to the videos' folder, with `/`
    label: str | None
    group: str | None  # shared by related clips, which are never split between train and test
    folds: dict[str, str]  # for example {"fold1": "train", "fold2": "test"}

    def __post_init__(self) -> None:
        try:
            self.path.encode()
        except UnicodeEncodeError as error:
            name = os.fsencode(self.path)
            raise ValueError(f"the name of {name!r} is not UTF-8; rename it") from error

    def to_record(self) -> SourceRecord:
        """Return the fields as a commit or failure record stores them."""
        return cast(SourceRecord, dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The videos of a data set, and remarks that the user should read."""

    videos: list[Video]
    remarks: list[str]


def list_files(root: Path) -> tuple[list[str], int]:
    """Return the video files under `root`, sorted, relative to it, and the number of other files.

    Only names are read: the extension tells a video. Links to folders are followed, except into a
    folder that contains them. A link without a reachable target counts as a file, so that its video
    is reported as missing. Raises OperationError for a folder that cannot be listed.
    """
    files: list[str] = []
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while folders:
        prefix, ancestors = folders.pop()
        try:
            state = os.stat(root / prefix)
            identity = state.st_dev, state.st_ino
            if identity in ancestors:
                continue
            with os.scandir(root / prefix) as entries:
                for entry in entries:
                    dangling = entry.is_symlink() and not os.path.exists(entry.path)
                    if not dangling and entry.is_dir():
                        folders.append((f"{prefix}{entry.name}/", ancestors | {identity}))
                    elif dangling or entry.is_file():
                        files.append(prefix + entry.name)
        except OSError as error:
            problem = f"the folder {root / prefix} cannot be listed ({error.strerror})"
            cure = f"give yourself permission, or move it out of {root}"
            raise OperationError(f"{problem}; {cure}") from error
    videos = [file for file in files if os.path.splitext(file)[1].lower() in VIDEO_SUFFIXES]
    return sorted(videos), len(files) - len(videos)


def group_by(videos: Iterable[Video], key: Callable[[Video], str]) -> dict[str, list[Video]]:
    """Return the videos by their `key`, in the order in which they come."""
    groups: dict[str, list[Video]] = defaultdict(list)
    for video in videos:
        groups[key(video)].append(video)
    return groups


def group_of(video: Video) -> str:
    """Return the group of a video; a video without one is its own group."""
    return video.group or video.video_id


def sorted_by_id(videos: Iterable[Video]) -> list[Video]:
    """Return the videos sorted by video_id. Raises ValueError where two have the same."""
    result = sorted(videos, key=lambda video: (video.video_id, video.path))
    for one, other in itertools.pairwise(result):
        if one.video_id == other.video_id:
            names = f"{one.path} and {other.path} would both be called {one.video_id!r}; rename one"
            twice = f"{one.path} is listed twice, but a video has one label and one split"
            raise ValueError(twice if one.path == other.path else names)
    return result


def check_annotations(path: Path, kind: str, content: str) -> None:
    """Raise FileNotFoundError unless `path` is of `kind` "file" or "folder"."""
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        problem = f"annotations {kind} {path} does not exist or is no {kind}"
        raise FileNotFoundError(f"{problem}; give {content}")


def read_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield ("FILE, line N", text without surrounding space) for every line that is not blank."""
    for number, line in enumerate(_read_text(file).splitlines(), 1):
        if line.strip():
            yield f"{file}, line {number}", line.strip()


def read_columns(file: Path) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """Return a CSV's columns and an iterator of ("FILE, line N", row); a missing cell is ""."""
    reader = csv.DictReader(io.StringIO(_read_text(file), newline=""))
    reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    rows = ({key: (value or "").strip() for key, value in row.items() if key} for row in reader)
    return reader.fieldnames, ((f"{file}, line {reader.line_num}", row) for row in rows)


def read_split(where: str, split: str, names: Mapping[str, str]) -> dict[str, str]:
    """Return {"fold1": names[split]}, {} for an empty cell. Raises ValueError for others."""
    if split and split not in names:
        raise ValueError(f"{where}: split {split!r} is unknown; use {', '.join(names)} or none")
    return {"fold1": names[split]} if split else {}


def merge_folds(lines: Iterable[ListedUse], group: Callable[[str, str], str]) -> list[Video]:
    """Return the videos of official lists. The label is the path's folder; `group(stem, label)`.

    Raises ValueError for a video with two splits in a fold.
    """
    splits: dict[str, dict[str, str | None]] = defaultdict(dict)
    for where, path, fold, split in lines:
        known = splits[path].setdefault(fold, split)
        if known != split:
            here, before = split or "no split", known or "no split"
            problem = f"{path} is in {here} of {fold} here, and in {before} before"
            raise ValueError(f"{where}: {problem}; a video has one split in a fold")
    videos = []
    for path, of_path in splits.items():
        stem, label = os.path.splitext(os.path.basename(path))[0], PurePosixPath(path).parent.name
        folds = {fold: split for fold, split in sorted(of_path.items()) if split}
        videos.append(Video(stem, path, label, group(stem, label), folds))
    return videos


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"{file} is not a text file in UTF-8 ({error})"
        raise ValueError(f"{problem}; give the list itself") from error
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} does not exist; add this list") from None
