"""A synthetic data set whose class is the motion alone, in UCF-101's folders, names and lists.

```
OUT/synth.json                                   the parameters that made it
OUT/videos/<Class>/v_<Class>_gGG_cCC.avi         Motion JPEG
OUT/annotations/classInd.txt                     `1 LeftThenRight`
OUT/annotations/{trainlist,testlist}0{1,2,3}.txt three splits by group
```
Clips gGG_cCC of all classes share background, objects, start positions, speed and camera drift, and so their first frame.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flowcpc.pipeline.synthetic.motions import PROGRAMMES, choose_classes
from flowcpc.pipeline.synthetic.scene import Scene, draw_frame, draw_scene
from flowcpc.stores.base.atomic import replace_file, sync_file
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.base.locks import locked

MANIFEST = "synth.json"
UNFINISHED = (
    ".unfinished"  # beside videos/, so that no listing of videos finds one that is half written
)
GENERATOR = 1  # raise it when the same parameters give other pictures
SMALLEST_SIDE = 32
TEST_SHARE = 0.28  # 7 of UCF-101's 25 groups
SPLITS = (1, 2, 3)


@dataclass(frozen=True)
class SyntheticSummary:
    """What `write_dataset` did.

    Attributes
    ----------
    path : Path
        The data set's folder; `videos` and `annotations` are in it.
    classes : tuple of str
    videos : int
        How many the data set has when finished.
    written, kept : int
        Videos made by this call, and those found whole.
    finished : bool
        False when the listener ended the call early; call again to go on.
    """

    path: Path
    classes: tuple[str, ...]
    videos: int
    written: int
    kept: int
    finished: bool


@dataclass(frozen=True)
class _Clip:
    name: str
    group: int
    clip: int

    @property
    def video(self) -> str:
        """Path inside `videos/`, as the lists spell it."""
        return f"{self.name}/v_{self.name}_g{self.group:02d}_c{self.clip:02d}.avi"


def write_dataset(
    out: str | os.PathLike[str],
    *,
    groups: int = 25,
    clips_per_group: int = 4,
    frames: int = 81,
    size: tuple[int, int] = (96, 128),
    fps: float = 25,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    listener: Listener = SILENT,
) -> SyntheticSummary:
    """Write the synthetic motion data set to `out`, or finish one that was begun there.

    The same arguments give the same bytes. Videos are written under another name and renamed, so those that exist are whole and are kept.

    Parameters
    ----------
    out : path
        A new or empty folder, or one that this function has written to with the same arguments.
    groups, clips_per_group : int
        Clips of a group share their looks. Groups 1..28 % are the test groups of split 1, the next ones of split 2, and of split 3.
    frames : int
        Per video. 81 give 80 flows: eight consecutive segments of ten.
    size : (int, int)
        Height and width in px, both even. Objects and speeds grow with it.
    fps : float
        Written into the files; the motion per frame does not depend on it.
    seed : int
    classes : sequence of str, optional
        Motion programmes; all of them unless given.
    listener : Listener
        Receives progress after every video, and may stop the work there.

    Raises
    ------
    ValueError
        An argument is out of range, `out` holds something else or a data set of other arguments, or another process is writing there.
    OSError
        A video could not be written.
    """
    chosen = choose_classes(classes)
    _check_arguments(groups, clips_per_group, frames, size, fps, seed)
    parameters = {
        "generator": GENERATOR,
        "groups": int(groups),
        "clips_per_group": int(clips_per_group),
        "frames": int(frames),
        "size": [int(side) for side in size],
        "fps": float(fps),
        "seed": int(seed),
        "classes": list(chosen),
    }
    root = Path(out)
    _claim(root, parameters)
    clips = _clips(chosen, groups, clips_per_group)
    written = kept = 0
    with _writing(root):
        for name, text in _annotations(clips, chosen, groups).items():
            replace_file(root / "annotations" / name, text.encode())
        # clips of one scene follow each other: it is drawn once, and a data set that was stopped has whole groups
        for (group, number), same_scene in itertools.groupby(
            sorted(clips, key=_scene_of), key=_scene_of
        ):
            scene = draw_scene(seed, group, number, frames, *size)
            for clip in same_scene:
                path = root / "videos" / clip.video
                if path.is_file():
                    kept += 1
                else:
                    _write_video(path, root / UNFINISHED / path.name, clip.name, scene, float(fps))
                    written += 1
                listener.progress(written + kept, len(clips), {"video": path.stem})
                if listener.should_stop() and written + kept < len(clips):
                    return SyntheticSummary(root, chosen, len(clips), written, kept, finished=False)
    return SyntheticSummary(root, chosen, len(clips), written, kept, finished=True)


def _check_arguments(
    groups: int, clips_per_group: int, frames: int, size: tuple[int, int], fps: float, seed: int
) -> None:
    if not 2 <= groups <= 99:
        raise ValueError(
            f"groups is {groups}, but splits by group need 2 to 99 of them (names have two digits); give a number in that range"
        )
    if not 1 <= clips_per_group <= 99:
        raise ValueError(
            f"clips_per_group is {clips_per_group}, but names have two digits; give 1 to 99"
        )
    if frames < 3:
        raise ValueError(
            f"frames is {frames}, but a motion there and back needs at least 3; give 3 or more"
        )
    height, width = size
    if min(size) < SMALLEST_SIDE:
        raise ValueError(
            f"size is {height}x{width}, but objects need sides of at least {SMALLEST_SIDE} px to show their motion; give a larger size"
        )
    if height % 2 or width % 2:
        raise ValueError(
            f"size is {height}x{width}, but the video codec keeps even sides only; try {height + height % 2}x{width + width % 2}"
        )
    if not (np.isfinite(fps) and 1 <= fps <= 1000):
        raise ValueError(
            f"fps is {fps}, but a video has 1 to 1000 frames per second; give a number in that range"
        )
    if seed < 0:
        raise ValueError(f"seed is {seed}, but seeds are not negative; give 0 or more")


def _claim(root: Path, parameters: dict[str, Any]) -> None:
    """Leave `parameters` in `root`, or find the same ones there. Raises ValueError otherwise."""
    file = root / MANIFEST
    if not file.is_file():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise ValueError(
                f"{root} exists and is not a synthetic data set (it has no {MANIFEST}); give a new or empty folder"
            )
        replace_file(file, json.dumps(parameters, indent=2).encode())
        return
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{file} is not JSON ({error}); delete {root} and write the data set again"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{file} does not hold the parameters of a data set; delete {root} and write the data set again"
        )
    differences = [
        f"{name} is {found.get(name)!r} there and {parameters.get(name)!r} here"
        for name in [*parameters, *sorted(found.keys() - parameters.keys())]
        if found.get(name) != parameters.get(name)
    ]
    if differences:
        raise ValueError(
            f"{root} holds a data set of other parameters: {'; '.join(differences)}; use the same ones, or another folder"
        )


def _clips(classes: Sequence[str], groups: int, clips_per_group: int) -> list[_Clip]:
    numbers = itertools.product(classes, range(1, groups + 1), range(1, clips_per_group + 1))
    return [_Clip(name, group, clip) for name, group, clip in numbers]


def _scene_of(clip: _Clip) -> tuple[int, int]:
    return clip.group, clip.clip


def _test_groups(split: int, groups: int) -> set[int]:
    """Return the 1-based test groups of a split: 1..n of split 1, the next n of split 2, the next n of split 3, starting over when they run out."""
    number = max(1, round(TEST_SHARE * groups))
    return {(number * (split - 1) + index) % groups + 1 for index in range(number)}


def _annotations(clips: Sequence[_Clip], classes: Sequence[str], groups: int) -> dict[str, str]:
    """Return the text of every annotation file by name."""
    index = {name: position for position, name in enumerate(classes, start=1)}
    files = {"classInd.txt": "".join(f"{position} {name}\n" for name, position in index.items())}
    for split in SPLITS:
        held_out = _test_groups(split, groups)
        train = [
            f"{clip.video} {index[clip.name]}\n" for clip in clips if clip.group not in held_out
        ]
        test = [f"{clip.video}\n" for clip in clips if clip.group in held_out]
        files |= {
            f"trainlist{split:02d}.txt": "".join(train),
            f"testlist{split:02d}.txt": "".join(test),
        }
    return files


@contextlib.contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Hold `root` against other processes; drop the folder of unfinished videos at the end."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(root / MANIFEST))
        except BlockingIOError as error:
            raise ValueError(
                f"{root} is being written by another process; wait for it, or give another folder"
            ) from error
        (root / UNFINISHED).mkdir(exist_ok=True)
        try:
            yield
        finally:
            with contextlib.suppress(
                OSError
            ):  # not empty: a video that broke off, to be overwritten by the next call
                (root / UNFINISHED).rmdir()


def _write_video(path: Path, temporary: Path, name: str, scene: Scene, fps: float) -> None:
    frames = len(scene.camera)
    travel = PROGRAMMES[name].travel(frames, scene.nuisance)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(
        str(temporary), cv2.VideoWriter.fourcc(*"MJPG"), fps, (scene.width, scene.height)
    )
    if not writer.isOpened():
        raise OSError(
            f"{temporary} could not be opened for Motion JPEG; check that the folder can be written to"
        )
    for frame in range(frames):
        writer.write(draw_frame(scene, travel, frame))
    writer.release()
    _check_video(temporary, frames)
    sync_file(temporary)
    os.replace(temporary, path)


def _check_video(path: Path, frames: int) -> None:
    # VideoWriter says nothing when the disk is full
    capture = cv2.VideoCapture(str(path))
    found = 0
    while capture.grab():
        found += 1
    capture.release()
    if found != frames:
        raise OSError(
            f"{path} has {found} of {frames} frames after writing; check that the disk is not full"
        )
