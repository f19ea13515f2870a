"""HMDB-51: the official lists <class>_test_split<N>.txt."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from flowcpc.pipeline.datasets import listing
from flowcpc.pipeline.datasets.listing import ListedUse, Video

LISTS = "the folder of <class>_test_split1.txt ... of all classes"
_FILE = re.compile(r"(?P<label>.+)_test_split(?P<fold>\d+)\.txt")
_SPLITS = {"0": None, "1": "train", "2": "test"}  # 0: not used in this fold
# Visible part of the body, camera motion, number of people, direction, quality, number of the clip.
_PROPERTIES = re.compile(r"_[a-z]+_(?:cm|nm)_np\d+_[a-z]{2}_[a-z]{3}_\d+$")


def list_hmdb51(annotations: Path) -> list[Video]:
    """Return the videos of HMDB-51's official lists in the folder `annotations`.

    A video lacks the folds that do not use it. Raises ValueError or FileNotFoundError for lists
    that are absent, incomplete or contradict themselves.
    """
    listing.check_annotations(annotations, "folder", LISTS)
    matches = [match for file in annotations.iterdir() if (match := _FILE.fullmatch(file.name))]
    lists = {(match["label"], int(match["fold"])): annotations / match[0] for match in matches}
    if not lists:
        problem = f"{annotations} has no file named like brush_hair_test_split1.txt"
        raise FileNotFoundError(f"{problem}; give {LISTS}")
    labels, folds = (sorted(set(names)) for names in zip(*lists, strict=True))
    for label, fold in itertools.product(labels, folds):
        if (label, fold) not in lists:
            problem = f"{annotations}/{label}_test_split{fold}.txt does not exist"
            raise FileNotFoundError(f"{problem}, though other classes have split {fold}")
    videos = listing.merge_folds(_read_lists(lists), hmdb_group)
    if not videos:
        raise ValueError(f"the lists in {annotations} name no video; use the official lists")
    return videos


def _read_lists(lists: dict[tuple[str, int], Path]) -> Iterator[ListedUse]:
    for (label, fold), file in sorted(lists.items()):
        for where, line in listing.read_lines(file):
            name, _, use = line.rpartition(" ")
            if use not in _SPLITS or not name.strip():
                raise ValueError(f"{where}: {line!r} is not 'VIDEO 0', 'VIDEO 1' or 'VIDEO 2'")
            yield where, f"{label}/{name.strip()}", f"fold{fold}", _SPLITS[use]


def hmdb_group(stem: str, label: str) -> str:
    """Return what the clips of one class from one source video share: the name without properties.

    It ends in the class: the official splits keep clips of one film together only within a class.

    >>> hmdb_group("April_09_brush_hair_u_nm_np1_ba_goo_0", "brush_hair")
    'April_09_brush_hair'
    """
    source = _PROPERTIES.sub("", stem)
    return source if source != stem and source.endswith(f"_{label}") else stem
