"""A folder per class, with or without folders of splits above them."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from flowcpc.pipeline.datasets import listing
from flowcpc.pipeline.datasets.listing import SPLITS, Dataset, Video
from flowcpc.pipeline.datasets.ucf101 import ucf_group
from flowcpc.stores.base.errors import counted

_TEST_SHARE = 0.3


def read_class_folders(root: Path, seed: int) -> Dataset:
    """Return the videos [SPLIT/]CLASS/VIDEO under `root`; without split folders, draw a split.

    Raises ValueError for a folder without videos or with misplaced ones.
    """
    paths, others = listing.list_files(root)
    if not paths:
        suffixes = ", ".join(listing.VIDEO_SUFFIXES)
        raise ValueError(
            f"{root} holds no video file ({suffixes}); give the folder above the class folders"
        )
    splits = {path.split("/")[0] for path in paths if path.count("/") > 1} & set(SPLITS)
    videos, misplaced = [], []
    for path in paths:
        split, _, rest = path.partition("/") if splits else ("", "", path)
        if rest.count("/") != 1 or (splits and split not in splits):
            misplaced.append(path)
            continue
        name, folds = path.rpartition(".")[0], {"fold1": split} if splits else {}
        videos.append(Video(name, path, rest.partition("/")[0], ucf_group(name), folds))
    if misplaced:
        rule = f"videos must be placed as {'SPLIT/' * bool(splits)}CLASS/VIDEO"
        which = f"{counted(len(misplaced), 'video')}, first {root / misplaced[0]}"
        raise ValueError(f"{rule}; move {which}, or use --dataset csv")
    remark = f"files without a video extension are left out ({others} under {root})"
    remark_on_splits = f"splits are the folders {', '.join(sorted(splits))}"
    result = Dataset(videos, [remark_on_splits]) if splits else draw_split(videos, seed)
    return Dataset(result.videos, [remark, *result.remarks] if others else result.remarks)


def draw_split(videos: Sequence[Video], seed: int = 0) -> Dataset:
    """Return the videos with a random split by groups within each class.

    Each class's groups, in an order drawn from (seed, label, group), go to test until it has 30 %
    of the class. One group always stays in train.
    """
    drawn: list[Video] = []
    for label, of_class in listing.group_by(videos, lambda video: video.label or "").items():
        groups = {
            hashlib.sha256(f"{seed}/{label}/{group}".encode()).digest(): of_group
            for group, of_group in listing.group_by(of_class, listing.group_of).items()
        }
        in_test = 0
        for draw, of_group in sorted(groups.items()):
            # A group goes to test while that brings the share closer to 30 %.
            closer = in_test + len(of_group) / 2 <= _TEST_SHARE * len(of_class)
            split = "test" if closer and draw != max(groups) else "train"
            in_test += len(of_group) if split == "test" else 0
            drawn += [dataclasses.replace(video, folds={"fold1": split}) for video in of_group]
    remark = "no train/test folders: a split by groups was drawn within each class"
    return Dataset(drawn, [f"{remark}, about 70 % train and 30 % test (seed {seed})"])
