"""Video files and folders as a user names them, without a data set -> videos, and flow like that of another store."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowcpc.pipeline.datasets.listing import VIDEO_SUFFIXES, Dataset, Video, is_video, list_files
from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.stores.base.plurals import counted


def find_videos(paths: Sequence[Path]) -> tuple[Path, Dataset]:
    """Return (folder, data set) of video files and of all video files under folders; a video is called by its path in `folder`, without suffix.

    `folder` is the lowest one that has them all. A file that is named is taken whatever its extension. The data set has neither labels nor splits.
    Raises FileNotFoundError for a path that does not exist, ValueError where there is no video or two would have one name.
    """
    files: list[Path] = []
    others = 0
    for path in (Path(os.path.abspath(path)) for path in paths):
        if path.is_dir():
            found = list_files(path)
            files += [path / name for name in found if is_video(name)]
            others += sum(not is_video(name) for name in found)
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path} does not exist; give video files, or folders of them")
    if not files:
        raise ValueError(
            f"{', '.join(map(str, paths))} holds no video file ({', '.join(VIDEO_SUFFIXES)}); give video files, or folders of them"
        )
    files = sorted(set(files))
    folder = Path(os.path.commonpath([file.parent for file in files]))
    videos: dict[str, Video] = {}
    for file in files:
        name = file.relative_to(folder).as_posix()
        video = Video(os.path.splitext(name)[0], name, None, None, {})
        if video.video_id in videos:
            raise ValueError(
                f"{folder / videos[video.video_id].path} and {file} would both be called {video.video_id!r}; rename one of them"
            )
        videos[video.video_id] = video
    remarks = [f"{counted(others, 'file')} without a video extension left out"] if others else []
    return folder, Dataset(list(videos.values()), remarks)


def settings_like(
    numerics: Mapping[str, Any], videos: Path, store: Path, backend: str
) -> ExtractionSettings:
    """Return the settings by which videos under `videos` become flow of these `numerics` in `store`.

    Raises ValueError for flow that no extraction of this release makes.
    """
    if "tvl1" not in numerics:
        raise ValueError(
            "the encoder was trained on flow that was not computed by flowcpc, so videos cannot be made into such flow; "
            "make a store of theirs as that one was made, and give: flowcpc embed STORE RUN"
        )
    try:
        return ExtractionSettings(
            str(videos),
            str(store),
            **{
                name: numerics[name]
                for name in ("height", "width", "short_side")
                if name in numerics
            },
            parameters=TVL1Parameters(**numerics["tvl1"]),
            backend=backend,
            encoding=numerics["encoding"]["name"],
            with_frames="frames" in numerics,
        )
    except TypeError as error:
        raise ValueError(
            f"the flow that the encoder was trained on is of another release of flowcpc ({error}); use that release"
        ) from error
