"""Data sets on disk -> rows (video_id, path, label, group, folds)."""

import csv
import dataclasses
import hashlib
import io
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.frames import VIDEO_SUFFIXES

DATASETS = ("ucf101", "folder", "csv")
SPLITS = ("train", "val", "test")
_GROUP = re.compile(r"_(g\d+)_c\d+$")
_FOLDER_TEST_SHARE = 0.3


@dataclasses.dataclass(frozen=True)
class Video:
    """One video of a data set.

    Attributes
    ----------
    video_id : str
        The stem for UCF-101; the relative path without suffix otherwise.
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

    def to_record(self) -> dict[str, Any]:
        """Return the fields as a commit or failure record keeps them."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The videos of a data set, sorted by video_id, and remarks that a user should read."""

    videos: list[Video]
    remarks: list[str]


def read_dataset(root: Path, dataset: str, annotations: Path | None = None, *, seed: int = 0) -> Dataset:
    """Return the videos of a data set under `root`. A listed video that is absent is still a row; extraction records it
    as failed.

    Raises ValueError or FileNotFoundError, in a sentence, for a folder or list that cannot be what it should be.
    """
    if not root.exists():
        raise FileNotFoundError(f"videos folder {root} does not exist; give the folder that holds the videos")
    if not root.is_dir():
        raise ValueError(f"{root} is a file; VIDEOS must be the folder that holds the videos")
    if dataset == "folder":
        if annotations is not None:
            raise ValueError(
                "--annotations does not go with --dataset folder, whose classes are its folders; drop it, or use --dataset csv"
            )
        found = _read_folder(root, seed)
    elif annotations is None:
        wanted = (
            "the folder of classInd.txt, trainlist01.txt, testlist01.txt ..." if dataset == "ucf101" else "the CSV file"
        )
        raise ValueError(f"--dataset {dataset} needs --annotations: {wanted}")
    elif dataset == "ucf101":
        found = _read_ucf101(root, annotations)
    elif dataset == "csv":
        found = _read_csv(root, annotations)
    else:
        raise ValueError(f"dataset={dataset!r} is unknown; choose one of {', '.join(DATASETS)}")
    _refuse_twins(found.videos)
    return Dataset(sorted(found.videos, key=lambda video: video.video_id), found.remarks)


def limit_videos(videos: Sequence[Video], limit: int) -> list[Video]:
    """Return `limit` videos, class-balanced, sorted by video_id: the same ones every time, and those of a smaller limit
    among them.

    Within a class, splits of the first fold come in proportion, and groups by turns, so that few videos still cover
    many groups.
    """
    by_class: dict[str, list[Video]] = defaultdict(list)
    for video in sorted(videos, key=lambda video: video.video_id):
        by_class[video.label or ""].append(video)
    columns = [_interleave_splits(of_class) for _, of_class in sorted(by_class.items())]
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*columns))
    chosen = [video for video in rounds if video is not None][:limit]
    return sorted(chosen, key=lambda video: video.video_id)


def _interleave_splits(videos: list[Video]) -> list[Video]:
    by_split: dict[str, list[Video]] = defaultdict(list)
    for video in videos:
        by_split[next(iter(video.folds.values()), "")].append(video)
    placed: list[tuple[float, Video]] = []
    for of_split in by_split.values():
        by_group: dict[str, list[Video]] = defaultdict(list)
        for video in of_split:
            by_group[video.group or video.video_id].append(video)
        turns = [video for row in itertools.zip_longest(*by_group.values()) for video in row if video is not None]
        placed.extend(((position + 0.5) / len(turns), video) for position, video in enumerate(turns))
    return [video for _, video in sorted(placed, key=lambda pair: (pair[0], pair[1].video_id))]


def list_ucf101(annotations: Path) -> list[Video]:
    """Return the videos of UCF-101's official lists in the folder `annotations`, with label, group and folds.

    Raises ValueError or FileNotFoundError, in a sentence, for lists that are absent or contradict themselves.
    """
    if not annotations.is_dir():
        raise FileNotFoundError(
            f"annotations folder {annotations} does not exist or is no folder; give the folder of classInd.txt and the train and test lists"
        )
    classes = _read_class_index(annotations / "classInd.txt")
    folds: dict[str, dict[str, str]] = defaultdict(dict)
    for fold, split in itertools.product((1, 2, 3), ("train", "test")):
        file = annotations / f"{split}list{fold:02d}.txt"
        if not file.is_file():
            continue
        for number, line in enumerate(_lines(file), 1):
            path = line.split()[0]
            label = PurePosixPath(path).parent.name
            if label not in classes:
                raise ValueError(
                    f"{file}, line {number}: class {label!r} of {path} is not in classInd.txt; mend the list, or use the lists that belong together"
                )
            if folds[path].setdefault(f"fold{fold}", split) != split:
                raise ValueError(
                    f"{file}, line {number}: {path} is in train and test of fold {fold}; a video may be in one of them"
                )
    if not folds:
        raise FileNotFoundError(
            f"{annotations} has no trainlist01.txt or testlist01.txt; give the folder of the official lists"
        )
    return [
        Video(
            PurePosixPath(path).stem,
            path,
            PurePosixPath(path).parent.name,
            ucf_group(PurePosixPath(path).stem),
            dict(sorted(membership.items())),
        )
        for path, membership in folds.items()
    ]


def _read_ucf101(root: Path, annotations: Path) -> Dataset:
    videos = list_ucf101(annotations)
    listed = {video.path for video in videos}
    unlisted = len({str(path.relative_to(root).as_posix()) for path in _video_files(root)} - listed)
    remarks = [f"{unlisted} video files under {root} are in no list and are left out"] if unlisted else []
    if all(not (root / video.path).exists() for video in videos):
        raise ValueError(
            f"none of the {len(videos)} listed videos is under {root}; it must hold folders of classes, as in {root / videos[0].path}"
        )
    return Dataset(videos, remarks)


def _read_class_index(file: Path) -> set[str]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; the annotations folder must hold classInd.txt")
    classes = set()
    for number, line in enumerate(_lines(file), 1):
        parts = line.split()
        if len(parts) != 2 or not parts[0].isdigit():
            raise ValueError(f"{file}, line {number}: {line!r} is not 'NUMBER CLASS'; use the official classInd.txt")
        classes.add(parts[1])
    return classes


def _lines(file: Path) -> list[str]:
    """Return the lines that hold something; the official lists end lines with CRLF."""
    return [line.strip() for line in _text(file).splitlines() if line.strip()]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text file in UTF-8 ({error}); give the list itself") from error


def ucf_group(stem: str) -> str:
    """Return class and group of v_<Class>_gGG_cCC, so that equal numbers in two classes are two groups; the stem itself
    otherwise.
    """
    return stem.rpartition("_c")[0] if _GROUP.search(stem) else stem


def _read_folder(root: Path, seed: int) -> Dataset:
    files = [path.relative_to(root) for path in _video_files(root)]
    if not files:
        raise ValueError(
            f"{root} holds no video file ({', '.join(VIDEO_SUFFIXES)}); give the folder above the class folders"
        )
    with_splits = {path.parts[0] for path in files if len(path.parts) > 2} & set(SPLITS)
    depth = 1 if with_splits else 0
    videos, misplaced = [], []
    for path in files:
        if len(path.parts) != depth + 2 or (with_splits and path.parts[0] not in with_splits):
            misplaced.append(path)
            continue
        folds = {"fold1": path.parts[0]} if with_splits else {}
        videos.append(
            Video(name := path.with_suffix("").as_posix(), path.as_posix(), path.parts[depth], ucf_group(name), folds)
        )
    if misplaced:
        form = "SPLIT/CLASS/VIDEO" if with_splits else "CLASS/VIDEO"
        raise ValueError(
            f"{root / misplaced[0]} and {len(misplaced) - 1} more are not placed as {form}; move them, or use --dataset csv"
        )
    others = sum(path.is_file() for path in root.rglob("*")) - len(files)
    remarks = [f"{others} files under {root} have no video extension and are left out"] if others else []
    if with_splits:
        return Dataset(videos, [*remarks, f"splits are the folders {', '.join(sorted(with_splits))}"])
    drawn = draw_split(videos, seed)
    return Dataset(drawn.videos, [*remarks, *drawn.remarks])


def draw_split(videos: Sequence[Video], seed: int = 0) -> Dataset:
    """Give each class's groups, in an order drawn from (seed, group), to test until it has 30 % of the class; one group
    stays in train.
    """
    by_class: dict[str, dict[str, list[Video]]] = defaultdict(lambda: defaultdict(list))
    for video in videos:
        by_class[video.label or ""][video.group or video.video_id].append(video)
    done: list[Video] = []
    for label, groups in by_class.items():
        order = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}/{label}/{group}".encode()).digest())
        wanted = _FOLDER_TEST_SHARE * sum(map(len, groups.values()))
        in_test = 0
        for position, group in enumerate(order):
            # A group goes to test while that brings the share closer to 30 %; a class of one group trains.
            is_test = position < len(order) - 1 and in_test + len(groups[group]) / 2 <= wanted
            in_test += len(groups[group]) if is_test else 0
            split = "test" if is_test else "train"
            done.extend(dataclasses.replace(video, folds={"fold1": split}) for video in groups[group])
    drawn = f"a split by groups was drawn within each class, about 70 % train and 30 % test (seed {seed})"
    return Dataset(done, [f"no train/test folders: {drawn}"])


def _read_csv(root: Path, file: Path) -> Dataset:
    if not file.is_file():
        raise FileNotFoundError(
            f"annotations file {file} does not exist or is no file; give a CSV with the columns path, label, group, split"
        )
    reader = csv.DictReader(io.StringIO(_text(file), newline=""))
    columns = reader.fieldnames or []
    if "path" not in columns or "label" not in columns:
        raise ValueError(
            f"{file} has the columns {', '.join(columns) or '(none)'}; it needs path and label, and may have group and split"
        )
    rows = [(reader.line_num, {key: (value or "").strip() for key, value in row.items() if key}) for row in reader]
    if not rows:
        raise ValueError(f"{file} has no rows; it needs one row per video")
    videos = [_csv_video(root, file, number, row) for number, row in rows]
    unlabelled = sum(video.label is None for video in videos)
    return Dataset(videos, [f"{unlabelled} videos of {file} have no label"] if unlabelled else [])


def _csv_video(root: Path, file: Path, number: int, row: dict[str, str]) -> Video:
    path = Path(row["path"])
    if path.is_absolute() and path.is_relative_to(root.resolve()):
        path = path.relative_to(root.resolve())
    if not row["path"] or path.is_absolute() or ".." in path.parts:
        raise ValueError(
            f"{file}, line {number}: path {row['path']!r} is not inside {root}; write paths relative to it"
        )
    split = row.get("split", "")
    if split and split not in SPLITS:
        raise ValueError(
            f"{file}, line {number}: split {split!r} is unknown; use {', '.join(SPLITS)} or leave it empty"
        )
    name = path.with_suffix("").as_posix()
    return Video(
        name, path.as_posix(), row["label"] or None, row.get("group") or name, {"fold1": split} if split else {}
    )


def _video_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())


def _refuse_twins(videos: Iterable[Video]) -> None:
    seen: dict[str, str] = {}
    for video in videos:
        if not video.path.encode(errors="replace") == video.path.encode(errors="surrogateescape"):
            raise ValueError(f"the name of {video.path!r} is not UTF-8; rename the file")
        if seen.get(video.video_id) == video.path:
            raise ValueError(
                f"{video.path} is listed twice; a video has one label, one group and one split: keep one row"
            )
        if seen.setdefault(video.video_id, video.path) != video.path:
            raise ValueError(
                f"{seen[video.video_id]} and {video.path} would both be called {video.video_id!r}; rename one of them"
            )
