"""Read a data set by name: the entry point to the modules that each know one kind."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from flowcpc.pipeline.datasets import csv_list, hmdb51, kinetics, listing, ucf101
from flowcpc.pipeline.datasets.class_folders import read_class_folders
from flowcpc.pipeline.datasets.listing import Dataset, Video, group_by, sorted_by_id
from flowcpc.stores.base.errors import counted

# Data sets with official lists: what --annotations is, and the function that reads it.
_LISTED: dict[str, tuple[str, Callable[[Path], list[Video]]]] = {
    "ucf101": (ucf101.LISTS, ucf101.list_ucf101),
    "hmdb51": (hmdb51.LISTS, hmdb51.list_hmdb51),
    "kinetics": (kinetics.LISTS, kinetics.list_kinetics),
}
DATASETS = (*_LISTED, "folder", "csv")


def read_dataset(
    root: Path, dataset: str, annotations: Path | None = None, *, seed: int = 0
) -> Dataset:
    """Return the videos of a data set under `root`, sorted by video_id.

    A listed video that is absent is included; extraction records it as failed. Raises ValueError
    or FileNotFoundError for an unusable folder or list.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset={dataset!r} is unknown; choose one of {', '.join(DATASETS)}")
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist; VIDEOS must be the folder of the videos")
    if not root.is_dir():
        raise ValueError(f"{root} is a file; VIDEOS must be the folder of the videos")
    if dataset == "folder":
        if annotations is not None:
            rule = "--dataset folder takes no --annotations"
            raise ValueError(f"{rule}; drop it, or use --dataset csv")
        result = read_class_folders(root, seed)
    elif dataset == "csv":
        if annotations is None:
            raise ValueError(f"--dataset csv needs --annotations: {csv_list.LISTS}")
        result = csv_list.read_csv(root, annotations)
    else:
        result = _find_listed(root, dataset, list_videos(dataset, annotations))
    return Dataset(sorted_by_id(result.videos), result.remarks)


def list_videos(dataset: str, annotations: Path | None) -> list[Video]:
    """Return the videos in the official lists of a data set. Raises as `read_dataset`."""
    content, read = _LISTED[dataset]
    if annotations is None:
        raise ValueError(f"--dataset {dataset} needs --annotations: {content}")
    return read(annotations)


def _find_listed(root: Path, dataset: str, videos: list[Video]) -> Dataset:
    """Return the listed `videos`, and a remark on unlisted video files under `root`."""
    files, _ = listing.list_files(root)
    if dataset == "kinetics":
        videos = kinetics.find_clips(videos, files)
    unlisted = len(set(files) - {video.path for video in videos})
    if unlisted == len(files):
        problem = f"none of {counted(len(videos), 'video of the list')} is under {root}"
        example = root / videos[0].path
        raise ValueError(f"{problem}; it must hold folders of classes, as in {example}")
    remark = f"video files in no list are left out ({unlisted} under {root})"
    return Dataset(videos, [remark] if unlisted else [])


def limit_videos(videos: Sequence[Video], limit: int) -> list[Video]:
    """Return `limit` videos, class-balanced, sorted by video_id.

    The choice is always the same, and includes that of every smaller limit. Within a class, the
    splits of the first fold keep their proportions and groups take turns, so that few videos still
    cover many groups.
    """
    classes = group_by(sorted_by_id(videos), lambda video: video.label or "")
    columns = [_interleave_splits(of_class) for _, of_class in sorted(classes.items())]
    return sorted_by_id(itertools.islice(_take_turns(columns), limit))


def _interleave_splits(videos: list[Video]) -> list[Video]:
    positions: dict[str, float] = {}
    for of_split in group_by(videos, lambda video: next(iter(video.folds.values()), "")).values():
        for number, video in enumerate(_take_turns(group_by(of_split, listing.group_of).values())):
            positions[video.video_id] = (number + 0.5) / len(of_split)
    return sorted(videos, key=lambda video: (positions[video.video_id], video.video_id))


def _take_turns(columns: Iterable[list[Video]]) -> Iterator[Video]:
    rows = itertools.chain.from_iterable(itertools.zip_longest(*columns))
    return (video for video in rows if video is not None)
