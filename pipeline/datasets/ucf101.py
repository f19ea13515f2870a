"""UCF-101: the official lists classInd.txt, trainlist01.txt, testlist01.txt ... -> videos."""

import itertools
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

from flowcpc.pipeline.datasets.listing import Video, read_lines, stem_of

LISTS = "the folder of classInd.txt, trainlist01.txt, testlist01.txt ..."
_GROUP = re.compile(r"_(g\d+)_c\d+$")


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
        for number, line in read_lines(file):
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
            stem_of(path),
            path,
            PurePosixPath(path).parent.name,
            ucf_group(stem_of(path)),
            dict(sorted(membership.items())),
        )
        for path, membership in folds.items()
    ]


def _read_class_index(file: Path) -> set[str]:
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist; the annotations folder must hold classInd.txt"
        )
    classes = set()
    for number, line in read_lines(file):
        parts = line.split()
        if len(parts) != 2 or not parts[0].isdigit():
            raise ValueError(
                f"{file}, line {number}: {line!r} is not 'NUMBER CLASS'; use the official classInd.txt"
            )
        classes.add(parts[1])
    return classes


def ucf_group(stem: str) -> str:
    """Return class and group of v_<Class>_gGG_cCC, so that equal numbers in two classes are two groups; the stem itself
    otherwise.
    """
    return stem.rpartition("_c")[0] if _GROUP.search(stem) else stem
