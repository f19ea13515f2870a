"""HMDB-51: the official lists <class>_test_split<N>.txt -> videos."""

import re
from collections import defaultdict
from pathlib import Path

from flowcpc.pipeline.datasets.listing import Video, read_lines, stem_of

LISTS = "the folder of <class>_test_split1.txt ... of all classes"
_FILE = re.compile(r"(?P<label>.+)_test_split(?P<fold>\d+)\.txt")
_SPLITS = {"0": None, "1": "train", "2": "test"}  # 0: not used in this fold
# What is visible of the body, camera motion, number of people, direction, quality, number of the clip.
_PROPERTIES = re.compile(r"_[a-z]+_(?:cm|nm)_np\d+_[a-z]{2}_[a-z]{3}_\d+$")


def list_hmdb51(annotations: Path) -> list[Video]:
    """Return the videos of HMDB-51's official lists in the folder `annotations`, with label, group and folds.

    A fold that does not use a video is not among its folds. Raises ValueError or FileNotFoundError, in a sentence, for lists that are absent,
    incomplete or contradict themselves.
    """
    if not annotations.is_dir():
        raise FileNotFoundError(
            f"annotations folder {annotations} does not exist or is no folder; give {LISTS}"
        )
    files = {
        (match["label"], int(match["fold"])): file
        for file in sorted(annotations.iterdir())
        if (match := _FILE.fullmatch(file.name)) is not None
    }
    if not files:
        raise FileNotFoundError(
            f"{annotations} has no file named like brush_hair_test_split1.txt; give {LISTS}"
        )
    labels, numbers = {label for label, _ in files}, {fold for _, fold in files}
    for label in sorted(labels):
        for fold in sorted(numbers):
            if (label, fold) not in files:
                name = f"{label}_test_split{fold}.txt"
                raise FileNotFoundError(
                    f"{annotations / name} does not exist, though other classes have split {fold}; add it"
                )
    folds: dict[str, dict[str, str]] = defaultdict(dict)
    for (label, fold), file in sorted(files.items()):
        seen: dict[str, str] = {}
        for number, line in read_lines(file):
            name, _, use = line.rpartition(" ")
            name = name.strip()
            if use not in _SPLITS or not name:
                raise ValueError(
                    f"{file}, line {number}: {line!r} is not 'VIDEO 0', 'VIDEO 1' or 'VIDEO 2'; use the official list"
                )
            if seen.setdefault(name, use) != use:
                raise ValueError(
                    f"{file}, line {number}: {name} is listed as {seen[name]} and as {use}; a video has one use in a fold"
                )
            split = _SPLITS[use]
            folds[f"{label}/{name}"].update({f"fold{fold}": split} if split else {})
    return [
        Video(
            stem_of(path),
            path,
            label := path.partition("/")[0],
            hmdb_group(stem_of(path), label),
            membership,
        )
        for path, membership in folds.items()
    ]


def hmdb_group(stem: str, label: str) -> str:
    """Return what the clips of one class cut from one source video share: the name without the clip's properties and number.

    It ends in the class, because clips of two classes from one film are not kept apart by the official splits, and those of one class are.

    >>> hmdb_group("April_09_brush_hair_u_nm_np1_ba_goo_0", "brush_hair")
    'April_09_brush_hair'
    """
    source = _PROPERTIES.sub("", stem)
    return source if source != stem and source.endswith(f"_{label}") else stem
