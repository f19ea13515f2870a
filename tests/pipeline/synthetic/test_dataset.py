"""Tests of flowcpc.pipeline.synthetic.dataset: files, lists, resuming, refusals.

test_scene.py tests what the videos show.
"""

import fcntl
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from recorder import Recorder

from flowcpc.pipeline.datasets.sources import read_dataset
from flowcpc.pipeline.synthetic.dataset import (
    SyntheticParameters,
    SyntheticSummary,
    annotation_files,
    write_dataset,
)
from flowcpc.pipeline.synthetic.motions import PROGRAMMES

SMALL = SyntheticParameters(
    groups=3, clips_per_group=1, frames=5, size=(32, 48), classes=("ZoomIn", "Shear")
)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def decode(path: Path) -> NDArray[np.uint8]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        found, frame = capture.read()
        if not found:
            return np.stack(frames)
        frames.append(frame)


def test_files_have_the_names_and_lists_of_ucf101(tmp_path: Path) -> None:
    summary = write_dataset(tmp_path / "synth", SMALL)
    assert summary == SyntheticSummary(tmp_path / "synth", ("Shear", "ZoomIn"), 6, 6, 0, True)
    annotations = [f"{kind}list0{split}.txt" for kind in ("test", "train") for split in (1, 2, 3)]
    videos = [
        f"videos/{name}/v_{name}_g0{group}_c01.avi"
        for name in ("Shear", "ZoomIn")
        for group in (1, 2, 3)
    ]
    assert sorted(digests(summary.path)) == sorted(
        [
            "synth.json",
            "annotations/classInd.txt",
            "annotations/groups.txt",
            *(f"annotations/{name}" for name in annotations),
            *videos,
        ]
    )
    assert not (summary.path / ".unfinished").exists()
    folder = summary.path / "annotations"
    assert (folder / "classInd.txt").read_text() == "1 Shear\n2 ZoomIn\n"
    assert (
        folder / "testlist02.txt"
    ).read_text() == "Shear/v_Shear_g02_c01.avi\nZoomIn/v_ZoomIn_g02_c01.avi\n"
    assert (folder / "trainlist02.txt").read_text().splitlines() == [
        "Shear/v_Shear_g01_c01.avi 1",
        "Shear/v_Shear_g03_c01.avi 1",
        "ZoomIn/v_ZoomIn_g01_c01.avi 2",
        "ZoomIn/v_ZoomIn_g03_c01.avi 2",
    ]


def test_the_data_set_is_read_as_ucf101(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "synth", SMALL).path
    videos = read_dataset(root / "videos", "ucf101", root / "annotations").videos
    assert len(videos) == 6
    # Clips of one scene are one group, whatever their class.
    groups = {video.video_id: video.group for video in videos}
    assert groups == {name: name.split("_")[2] for name in groups}
    assert {video.label for video in videos} == {"Shear", "ZoomIn"}
    assert {video.folds["fold1"] for video in videos if video.video_id.endswith("g01_c01")} == {
        "test"
    }
    assert {video.folds["fold1"] for video in videos if not video.video_id.endswith("g01_c01")} == {
        "train"
    }


def test_videos_have_the_frames_size_and_rate_asked_for(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, replace(SMALL, fps=12.5, groups=2)).path
    path = root / "videos/ZoomIn/v_ZoomIn_g01_c01.avi"
    assert decode(path).shape == (5, 32, 48, 3)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)


def test_every_class_begins_with_the_same_picture(tmp_path: Path) -> None:
    parameters = SyntheticParameters(groups=2, clips_per_group=2, frames=3, size=(32, 32))
    root = write_dataset(tmp_path, parameters).path
    for clip in ("g01_c01", "g01_c02", "g02_c01"):
        firsts = [
            decode(root / "videos" / name / f"v_{name}_{clip}.avi")[0].tobytes()
            for name in PROGRAMMES
        ]
        assert len(set(firsts)) == 1
    assert decode(root / "videos/Shear/v_Shear_g01_c01.avi")[0].tobytes() != firsts[0]


@given(st.integers(2, 99))
def test_every_split_divides_the_groups_and_leaves_most_for_training(groups: int) -> None:
    parameters = replace(SMALL, groups=groups, clips_per_group=2)
    files = annotation_files(parameters)
    everything = {
        f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi"
        for name in ("Shear", "ZoomIn")
        for group in range(1, groups + 1)
        for clip in (1, 2)
    }
    for split in (1, 2, 3):
        train = {line.split()[0] for line in files[f"trainlist0{split}.txt"].splitlines()}
        test = set(files[f"testlist0{split}.txt"].splitlines())
        assert train | test == everything
        groups_of = [
            {Path(video).stem.split("_")[2] for video in videos} for videos in (train, test)
        ]
        assert groups_of[0].isdisjoint(groups_of[1])
        assert 1 <= len(groups_of[1]) <= len(groups_of[0])


def test_25_groups_are_split_as_in_ucf101() -> None:
    files = annotation_files(replace(SMALL, groups=25))
    for split, expected in ((1, range(1, 8)), (2, range(8, 15)), (3, range(15, 22))):
        assert files[f"testlist0{split}.txt"].split() == [
            f"{name}/v_{name}_g{group:02d}_c01.avi"
            for name in ("Shear", "ZoomIn")
            for group in expected
        ]


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (digests(write_dataset(tmp_path / name, SMALL).path) for name in "ab")
    other = digests(write_dataset(tmp_path / "c", replace(SMALL, seed=1)).path)
    assert first == second
    video = "videos/Shear/v_Shear_g01_c01.avi"
    assert other[video] != first[video]


def test_a_stopped_data_set_is_finished_by_the_next_call(tmp_path: Path) -> None:
    recorder = Recorder(stop=lambda: len(recorder.calls) == 3)
    begun = write_dataset(tmp_path / "a", SMALL, listener=recorder)
    assert (begun.written, begun.existing, begun.videos, begun.finished) == (3, 0, 6, False)
    videos = sorted((tmp_path / "a").rglob("*.avi"))
    assert len(videos) == 3
    stamps = [path.stat().st_mtime_ns for path in videos]
    ended = write_dataset(tmp_path / "a", SMALL, listener=recorder)
    assert (ended.written, ended.existing, ended.finished) == (3, 3, True)
    assert [path.stat().st_mtime_ns for path in videos] == stamps
    assert [done for done, _, _ in recorder.calls] == [1, 2, 3, 1, 2, 3, 4, 5, 6]
    assert {total for _, total, _ in recorder.calls} == {6}
    assert digests(tmp_path / "a") == digests(write_dataset(tmp_path / "b", SMALL).path)


def test_a_video_that_broke_off_is_written_again(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", SMALL)
    whole = digests(tmp_path / "a")
    path = tmp_path / "a/videos/Shear/v_Shear_g02_c01.avi"
    unfinished = tmp_path / "a/.unfinished" / path.name
    unfinished.parent.mkdir()
    unfinished.write_bytes(path.read_bytes()[:100])
    path.unlink()
    assert write_dataset(tmp_path / "a", SMALL).written == 1
    assert digests(tmp_path / "a") == whole


def test_a_stop_after_the_last_video_is_a_finish(tmp_path: Path) -> None:
    write_dataset(tmp_path, SMALL)
    stops = iter([False] * 5 + [True])
    assert write_dataset(tmp_path, SMALL, listener=Recorder(stop=lambda: next(stops))).finished


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"groups": 1}, "groups is 1, but"),
        ({"groups": 100}, "groups is 100, but"),
        ({"clips_per_group": 0}, "clips_per_group is 0, but"),
        ({"frames": 2}, "frames is 2, but"),
        ({"frames": 10**11}, "frames is 100000000000, but must be at most 100000"),
        ({"size": (64, 10**9)}, "size is 64x1000000000, but must be at most 4096 px"),
        ({"size": (30, 64)}, "size is 30x64, but.*at least 32"),
        ({"size": (33, 64)}, "size is 33x64, but.*try 34x64"),
        ({"fps": 0}, "fps is 0, but"),
        ({"fps": float("nan")}, "fps is nan, but"),
        ({"seed": -1}, "seed is -1, but"),
        (
            {"classes": ["ZoomIn", "ZoomOt"]},
            "class 'ZoomOt' is no motion programme; did you mean ZoomOut?",
        ),
        (
            {"classes": ["ZoomIn", "?"]},
            "class '\\?' is no motion programme; choose from LeftThenRight, ",
        ),
        ({"classes": ["ZoomIn", "ZoomIn"]}, "class 'ZoomIn' is named 2 times"),
        ({"classes": ["ZoomIn"]}, "number of classes is 1, but"),
        ({"classes": []}, "number of classes is 0, but"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_written(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_dataset(tmp_path / "out", replace(SMALL, **changed))
    assert not (tmp_path / "out").exists()


def test_other_parameters_are_refused_naming_both_values(tmp_path: Path) -> None:
    write_dataset(tmp_path, SMALL)
    before = digests(tmp_path)
    with pytest.raises(
        ValueError, match="groups is 3 there and 4 here; seed is 0 there and 7 here"
    ):
        write_dataset(tmp_path, replace(SMALL, groups=4, seed=7))
    assert digests(tmp_path) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not a synthetic data set \(it has no synth.json\)"):
        write_dataset(tmp_path, SMALL)
    with pytest.raises(ValueError, match="is not a synthetic data set"):
        write_dataset(tmp_path / "thesis.txt", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("text", "message"), [("{", "synth.json is damaged"), ("[]", "synth.json is damaged")]
)
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "synth.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        write_dataset(tmp_path, SMALL)


def test_two_processes_do_not_write_one_data_set(tmp_path: Path) -> None:
    write_dataset(tmp_path, SMALL)
    with open(tmp_path / "synth.json", "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is writing to"):
            write_dataset(tmp_path, SMALL)


def test_the_manifest_holds_the_parameters(tmp_path: Path) -> None:
    write_dataset(tmp_path, SMALL)
    manifest = json.loads((tmp_path / "synth.json").read_text())
    assert manifest == {
        "generator": 1,
        "groups": 3,
        "clips_per_group": 1,
        "frames": 5,
        "size": [32, 48],
        "fps": 25.0,
        "seed": 0,
        "classes": ["Shear", "ZoomIn"],
    }
