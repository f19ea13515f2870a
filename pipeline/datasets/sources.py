"""Data sets on disk -> rows (video_id, path, label, group, folds): the front door to the modules that know one kind each."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from flowcpc.pipeline.datasets import csv_list, hmdb51, kinetics, ucf101
from flowcpc.pipeline.datasets.class_folders import read_class_folders
from flowcpc.pipeline.datasets.listing import Dataset as Dataset
from flowcpc.pipeline.datasets.listing import Video as Video
from flowcpc.pipeline.datasets.listing import find_listed

DATASETS = ("ucf101", "hmdb51", "kinetics", "folder", "csv")
# Data sets with official lists: what --annotations is, and who reads it.
_LISTED: dict[str, tuple[str, Callable[[Path], list[Video]]]] = {
    "ucf101": (ucf101.LISTS, ucf101.list_ucf101),
    "hmdb51": (hmdb51.LISTS, hmdb51.list_hmdb51),
    "kinetics": (kinetics.LISTS, kinetics.list_kinetics),
}


def read_dataset(
    root: Path, dataset: str, annotations: Path | None = None, *, seed: int = 0
) -> Dataset:
    """Return the videos of a data set under `root`, sorted by video_id. A listed video that is absent is still a row; extraction records it as
    failed.

    Raises ValueError or FileNotFoundError, in a sentence, for a folder or list that cannot be what it should be.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset={dataset!r} is unknown; choose one of {', '.join(DATASETS)}")
    if not root.exists():
        raise FileNotFoundError(
            f"videos folder {root} does not exist; give the folder that holds the videos"
        )
    if not root.is_dir():
        raise ValueError(f"{root} is a file; VIDEOS must be the folder that holds the videos")
    if dataset == "folder":
        if annotations is not None:
            raise ValueError(
                "--annotations does not go with --dataset folder, whose classes are its folders; drop it, or use --dataset csv"
            )
        found = read_class_folders(root, seed)
    elif dataset == "csv":
        if annotations is None:
            raise ValueError(f"--dataset csv needs --annotations: {csv_list.LISTS}")
        found = csv_list.read_csv(root, annotations)
    else:
        videos = list_videos(dataset, annotations)
        if dataset == "kinetics":
            found = find_listed(root, videos, lambda files: kinetics.find_clips(videos, files))
        else:
            found = find_listed(root, videos, lambda files: [video.path for video in videos])
    _refuse_twins(found.videos)
    return Dataset(sorted(found.videos, key=lambda video: video.video_id), found.remarks)


def list_videos(dataset: str, annotations: Path | None) -> list[Video]:
    """Return the videos in the official lists of "ucf101", "hmdb51" or "kinetics", wherever their files are; raises as `read_dataset`."""
    wanted, read = _LISTED[dataset]
    if annotations is None:
        raise ValueError(f"--dataset {dataset} needs --annotations: {wanted}")
    return read(annotations)


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
        turns = [
            video
            for row in itertools.zip_longest(*by_group.values())
            for video in row
            if video is not None
        ]
        placed.extend(
            ((position + 0.5) / len(turns), video) for position, video in enumerate(turns)
        )
    return [video for _, video in sorted(placed, key=lambda pair: (pair[0], pair[1].video_id))]


def _refuse_twins(videos: Iterable[Video]) -> None:
    seen: dict[str, str] = {}
    for video in videos:
        if seen.get(video.video_id) == video.path:
            raise ValueError(
                f"{video.path} is listed twice; a video has one label, one group and one split: keep one row"
            )
        if seen.setdefault(video.video_id, video.path) != video.path:
            raise ValueError(
                f"{seen[video.video_id]} and {video.path} would both be called {video.video_id!r}; rename one of them"
            )
