"""A folder per class, with folders of splits above them or not -> videos."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from flowcpc.pipeline.datasets.listing import (
    SPLITS,
    VIDEO_SUFFIXES,
    Dataset,
    Video,
    is_video,
    list_files,
)
from flowcpc.pipeline.datasets.ucf101 import ucf_group
from flowcpc.stores.base.plurals import counted

_TEST_SHARE = 0.3


def read_class_folders(root: Path, seed: int) -> Dataset:
    """Return the videos of [SPLIT/]CLASS/VIDEO under `root`; without folders of splits, one is drawn. Raises ValueError, in a sentence."""
    files = list_files(root)
    paths = [path for path in files if is_video(path)]
    if not paths:
        raise ValueError(
            f"{root} holds no video file ({', '.join(VIDEO_SUFFIXES)}); give the folder above the class folders"
        )
    parted = [path.split("/") for path in paths]
    with_splits = {parts[0] for parts in parted if len(parts) > 2} & set(SPLITS)
    depth = 1 if with_splits else 0
    videos, misplaced = [], []
    for path, parts in zip(paths, parted, strict=True):
        if len(parts) != depth + 2 or (with_splits and parts[0] not in with_splits):
            misplaced.append(path)
            continue
        folds = {"fold1": parts[0]} if with_splits else {}
        videos.append(
            Video(name := path.rpartition(".")[0], path, parts[depth], ucf_group(name), folds)
        )
    if misplaced:
        form = "SPLIT/CLASS/VIDEO" if with_splits else "CLASS/VIDEO"
        raise ValueError(
            f"{counted(len(misplaced), 'video')} not placed as {form}, first {root / misplaced[0]}; move what is misplaced, or use --dataset csv"
        )
    others = len(files) - len(paths)
    remarks = (
        [f"{counted(others, 'file')} under {root} without a video extension left out"]
        if others
        else []
    )
    if with_splits:
        return Dataset(
            videos, [*remarks, f"splits are the folders {', '.join(sorted(with_splits))}"]
        )
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
        order = sorted(
            groups, key=lambda group: hashlib.sha256(f"{seed}/{label}/{group}".encode()).digest()
        )
        wanted = _TEST_SHARE * sum(map(len, groups.values()))
        in_test = 0
        for position, group in enumerate(order):
            # A group goes to test while that brings the share closer to 30 %; a class of one group trains.
            is_test = position < len(order) - 1 and in_test + len(groups[group]) / 2 <= wanted
            in_test += len(groups[group]) if is_test else 0
            split = "test" if is_test else "train"
            done.extend(
                dataclasses.replace(video, folds={"fold1": split}) for video in groups[group]
            )
    drawn = f"a split by groups was drawn within each class, about 70 % train and 30 % test (seed {seed})"
    return Dataset(done, [f"no train/test folders: {drawn}"])
