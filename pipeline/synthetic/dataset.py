"""A synthetic data set whose class is the motion alone, in UCF-101's folders, names and lists.

```
OUT/synth.json                                   the parameters that made it
OUT/videos/<Class>/v_<Class>_gGG_cCC.avi         Motion JPEG
OUT/annotations/classInd.txt                     `1 LeftThenRight`
OUT/annotations/{trainlist,testlist}0{1,2,3}.txt three splits by group
OUT/annotations/groups.txt                       `<Class>/v_<Class>_gGG_cCC.avi gGG`
```
Clips gGG_cCC of all classes share background, objects, start positions, speed and camera drift, and
so their first frame. A group is the same in all classes: a statistic must not count it as several.
"""

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2

from flowcpc.pipeline.synthetic.motions import PROGRAMMES, check_classes
from flowcpc.pipeline.synthetic.scene import Scene, draw_frame, draw_scene
from flowcpc.stores.base.atomic import replace_file, sync
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.base.locks import locked

MANIFEST = "synth.json"
# Beside videos/, so that a listing of videos does not find one that is half written.
_UNFINISHED = ".unfinished"
_GENERATOR = 1  # raise it when the same parameters give other pictures
_SIDES = (32, 4096)  # px
_MAX_FRAMES = 100_000
_TEST_SHARE = 0.28  # 7 of UCF-101's 25 groups


@dataclasses.dataclass(frozen=True)
class SyntheticParameters:
    """What decides every byte of a synthetic data set. Raises ValueError for a value out of range.

    Clips of a group share their looks. The first 28 % of the groups are the test groups of split 1,
    the next ones those of split 2, then of split 3. `frames` are per video: 81 give 80 flows, eight
    consecutive segments of ten. `size`, height and width in px, is even; objects and speeds grow
    with it. `fps` only stands in the files. `classes` are at least two motion programmes.
    """

    groups: int = 25
    clips_per_group: int = 4
    frames: int = 81
    size: tuple[int, int] = (96, 128)
    fps: float = 25.0
    seed: int = 0
    classes: Sequence[str] = tuple(PROGRAMMES)

    def __post_init__(self) -> None:
        height, width = self.size
        even = f"{height + height % 2}x{width + width % 2}"
        for name, valid, rule in (
            ("groups", 2 <= self.groups <= 99, "2 to 99, because names have two digits"),
            ("clips_per_group", 1 <= self.clips_per_group <= 99, "1 to 99"),
            ("frames", self.frames >= 3, "at least 3 for a motion there and back"),
            ("frames", self.frames <= _MAX_FRAMES, f"at most {_MAX_FRAMES}"),
            ("size", _SIDES[0] <= min(self.size), f"at least {_SIDES[0]} px on each side"),
            ("size", max(self.size) <= _SIDES[1], f"at most {_SIDES[1]} px on each side"),
            ("size", height % 2 == width % 2 == 0, f"even on each side for the codec; try {even}"),
            ("fps", 1 <= self.fps <= 1000, "1 to 1000"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not valid:
                value = f"{height}x{width}" if name == "size" else getattr(self, name)
                raise ValueError(f"{name} is {value}, but must be {rule}")
        check_classes(self.classes)

    def to_json(self) -> dict[str, Any]:
        """Return the parameters as the manifest keeps them."""
        values = {**dataclasses.asdict(self), "size": list(self.size)}
        return {"generator": _GENERATOR, **values, "classes": sorted(self.classes)}


@dataclasses.dataclass(frozen=True)
class SyntheticSummary:
    """What a call of `write_dataset` did."""

    path: Path
    classes: tuple[str, ...]
    videos: int  # when finished
    written: int  # now
    existing: int  # before
    finished: bool  # False if the listener stopped the call early; call again to resume


def write_dataset(
    root: Path, parameters: SyntheticParameters, *, listener: Listener = SILENT
) -> SyntheticSummary:
    """Write the synthetic motion data set to `root`, or resume one that was begun there.

    The same parameters give the same bytes. Videos are renamed into place when they are complete,
    so those that exist are kept. The listener may stop the work after every video.

    Raises ValueError unless `root` is a new or empty folder, or one that an earlier call with the
    same parameters has written to; and if another process is writing there. Raises OSError if a
    video cannot be written.
    """
    classes = tuple(sorted(parameters.classes))
    _claim(root, parameters.to_json())
    videos = len(classes) * parameters.groups * parameters.clips_per_group
    written = existing = 0
    with _locked(root):
        for name, text in annotation_files(parameters).items():
            replace_file(root / "annotations" / name, text.encode())
        for name, video, scene in _draw_clips(parameters):
            path = root / "videos" / video
            if path.is_file():
                existing += 1
            else:
                _write_video(path, root / _UNFINISHED / path.name, name, scene, parameters.fps)
                written += 1
            listener.progress(written + existing, videos, {"video": path.stem})
            if listener.should_stop():
                break
    finished = written + existing == videos
    return SyntheticSummary(root, classes, videos, written, existing, finished)


def _draw_clips(parameters: SyntheticParameters) -> Iterator[tuple[str, str, Scene]]:
    """Yield class, path and scene of every clip, with clips of one scene in a row."""
    for group, clip in _numbers(parameters):
        scene = draw_scene(parameters.seed, group, clip, parameters.frames, *parameters.size)
        for name in sorted(parameters.classes):
            yield name, _video_path(name, group, clip), scene


def _numbers(parameters: SyntheticParameters) -> Iterator[tuple[int, int]]:
    groups, clips = range(1, parameters.groups + 1), range(1, parameters.clips_per_group + 1)
    return itertools.product(groups, clips)


def _video_path(name: str, group: int, clip: int) -> str:
    return f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi"


def annotation_files(parameters: SyntheticParameters) -> dict[str, str]:
    """Return the text of every annotation file by name."""
    classes = list(enumerate(sorted(parameters.classes), start=1))
    files = {"classInd.txt": "".join(f"{number} {name}\n" for number, name in classes)}
    files["groups.txt"] = "".join(
        f"{_video_path(name, group, clip)} g{group:02d}\n"
        for (_, name), (group, clip) in itertools.product(classes, _numbers(parameters))
    )
    held_out = max(1, round(_TEST_SHARE * parameters.groups))
    for split in (1, 2, 3):
        lines = {"train": "", "test": ""}
        for (number, name), (group, clip) in itertools.product(classes, _numbers(parameters)):
            video = _video_path(name, group, clip)
            # The first groups are the test groups of split 1, the next ones those of split 2.
            if (group - 1 - held_out * (split - 1)) % parameters.groups < held_out:
                lines["test"] += f"{video}\n"
            else:
                lines["train"] += f"{video} {number}\n"
        files |= {f"{kind}list{split:02d}.txt": text for kind, text in lines.items()}
    return files


def _claim(root: Path, parameters: dict[str, Any]) -> None:
    """Write `parameters` into `root`. Raises ValueError if it holds others or something else."""
    file = root / MANIFEST
    if not file.is_file():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            problem = f"{root} is not a synthetic data set (it has no {MANIFEST})"
            raise ValueError(f"{problem}; give a new or empty folder")
        replace_file(file, json.dumps(parameters, indent=2).encode())
        return
    try:
        existing = dict(json.loads(file.read_bytes()).items())
    except (ValueError, AttributeError) as error:
        cure = f"delete {root} and write the data set again"
        raise ValueError(f"{file} is damaged ({error}); {cure}") from error
    differences = [
        f"{name} is {existing.get(name)!r} there and {parameters.get(name)!r} here"
        for name in {**parameters, **existing}
        if existing.get(name) != parameters.get(name)
    ]
    if differences:
        problem = f"{root} holds a data set of other parameters: {'; '.join(differences)}"
        raise ValueError(f"{problem}; use the same ones, or another folder")


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Lock `root` against other processes; it has a folder of unfinished videos meanwhile."""
    busy = f"another process is writing to {root}; wait for it, or give another folder"
    with locked(root / MANIFEST, busy=busy):
        (root / _UNFINISHED).mkdir(exist_ok=True)
        try:
            yield
        finally:
            # Not empty after an interrupted video, which the next call overwrites.
            with contextlib.suppress(OSError):
                (root / _UNFINISHED).rmdir()


def _write_video(path: Path, temporary: Path, name: str, scene: Scene, fps: float) -> None:
    frames, size = len(scene.camera), (scene.width, scene.height)
    travel = PROGRAMMES[name].travel(frames, scene.nuisance)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    if not writer.isOpened():
        raise OSError(f"cannot write Motion JPEG to {temporary}; check that the folder is writable")
    for frame in range(frames):
        writer.write(draw_frame(scene, travel, frame))
    writer.release()
    # VideoWriter reports nothing when the disk is full.
    capture = cv2.VideoCapture(str(temporary))
    decoded = sum(1 for _ in iter(capture.grab, False))
    capture.release()
    if decoded != frames:
        problem = f"{temporary} has {decoded} of {frames} frames"
        raise OSError(f"{problem}; check that the disk is not full")
    sync(temporary)
    os.replace(temporary, path)
