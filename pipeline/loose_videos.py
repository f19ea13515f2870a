"""Videos without a data set: the files and folders that a user names, and flow like a store's."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowcpc.pipeline.datasets import listing
from flowcpc.pipeline.datasets.listing import VIDEO_SUFFIXES, Dataset, Video
from flowcpc.pipeline.extraction.extract import ExtractionSettings


def find_videos(paths: Sequence[Path]) -> tuple[Path, Dataset]:
    """Return (folder, data set) of the video files among `paths` and in the folders among them.

    `folder` is the deepest one that contains all of them; a video_id is the path in it without
    suffix. A named file counts whatever its extension. The data set has no labels and no splits.
    Raises FileNotFoundError for a path that does not exist, ValueError without any video or for
    two of one name.
    """
    files: set[Path] = set()
    others = 0
    for path in (Path(os.path.abspath(path)) for path in paths):
        if path.is_dir():
            names, others_here = listing.list_files(path)
            files.update(path / name for name in names)
            others += others_here
        elif path.exists():
            files.add(path)
        else:
            raise FileNotFoundError(f"{path} does not exist; give video files, or folders of them")
    if not files:
        raise ValueError(
            f"{', '.join(map(str, paths))} holds no video file ({', '.join(VIDEO_SUFFIXES)}); "
            "give video files, or folders of them"
        )
    folder = Path(os.path.commonpath([file.parent for file in files]))
    names = [file.relative_to(folder).as_posix() for file in sorted(files)]
    videos = [Video(os.path.splitext(name)[0], name, None, None, {}) for name in names]
    remarks = [f"files without a video extension are left out ({others})"] if others else []
    return folder, Dataset(listing.sorted_by_id(videos), remarks)


def settings_like(
    numerics: Mapping[str, Any], videos: Path, store: Path, backend: str
) -> ExtractionSettings:
    """Return settings that extract `videos` into `store` with the `numerics` of another store.

    Raises ValueError for numerics that no extraction of this release produces.
    """
    if "tvl1" not in numerics:
        raise ValueError(
            "the encoder was trained on imported flow, which flowcpc cannot compute from videos; "
            "make a store of such flow for these videos, and run: flowcpc embed STORE RUN"
        )
    return ExtractionSettings.like(numerics, videos, store, backend=backend)
