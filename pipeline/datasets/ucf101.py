"""UCF-101: the official lists classInd.txt, trainlist01.txt, testlist01.txt and so on.

A list groups.txt, `VIDEO GROUP` per line, may name groups that several classes share: clips of one
synthetic scene. UCF-101 itself has none, because its groups are numbered anew in every class.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from flowcpc.pipeline.datasets import listing
from flowcpc.pipeline.datasets.listing import ListedUse, Video

LISTS = "the folder of classInd.txt, trainlist01.txt, testlist01.txt ..."
GROUPS = "groups.txt"
_GROUP = re.compile(r"_(g\d+)_c\d+$")


def list_ucf101(annotations: Path) -> list[Video]:
    """Return the videos of UCF-101's official lists in the folder `annotations`.

    Raises ValueError or FileNotFoundError for lists that are absent or contradict themselves.
    """
    listing.check_annotations(annotations, "folder", LISTS)
    shared = _read_groups(annotations / GROUPS)
    videos = listing.merge_folds(
        _read_lists(annotations), lambda stem, label: shared.get(stem) or ucf_group(stem)
    )
    if not videos:
        raise FileNotFoundError(f"{annotations} has no train and test lists; give {LISTS}")
    return videos


def _read_lists(annotations: Path) -> Iterator[ListedUse]:
    classes = set()
    for where, line in listing.read_lines(annotations / "classInd.txt"):
        parts = line.split()
        if len(parts) != 2 or not parts[0].isdigit():
            raise ValueError(f"{where}: {line!r} is not 'NUMBER CLASS'; use the official list")
        classes.add(parts[1])
    for fold, split in itertools.product((1, 2, 3), ("train", "test")):
        file = annotations / f"{split}list{fold:02d}.txt"
        for where, line in listing.read_lines(file) if file.is_file() else ():
            path = line.split()[0]
            label = PurePosixPath(path).parent.name
            if label not in classes:
                problem = f"class {label!r} of {path} is not in classInd.txt"
                raise ValueError(f"{where}: {problem}; add it")
            yield where, path, f"fold{fold}", split


def _read_groups(file: Path) -> dict[str, str]:
    """Return the group of each video of the list `file`, which need not exist."""
    groups = {}
    for where, line in listing.read_lines(file) if file.is_file() else ():
        video, _, group = line.partition(" ")
        if not group.strip():
            raise ValueError(f"{where}: {line!r} is not 'VIDEO GROUP'; add the group")
        groups[PurePosixPath(video).stem] = group.strip()
    return groups


def ucf_group(stem: str) -> str:
    """Return v_<Class>_gGG for v_<Class>_gGG_cCC (groups are numbered per class), else the stem."""
    return stem.rpartition("_c")[0] if _GROUP.search(stem) else stem
