"""`extract-flow --with-frames`: the frames beside the flow, from the decoder to training."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import assert_same_store, write_class_folders
from command_cases import flowcpc, refused
from PIL import Image
from store_cases import FORMATS, some_flow

from flowcpc.pipeline.cluster.places import InProcess
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.decoding.frame_size import FrameSize
from flowcpc.pipeline.decoding.frames import FrameReader
from flowcpc.pipeline.estimate import estimate
from flowcpc.pipeline.extraction import extract
from flowcpc.pipeline.extraction.extract import STORED, ExtractionSettings, extract_video
from flowcpc.stores import layout
from flowcpc.stores.flow_store import FlowStore, create_store, open_store
from flowcpc.stores.records import record_file

CLIP = Video("clip", "clip.avi", None, None, {})
SHIFT = 20  # of green and blue against red, so that colours in another order are noticed


def coloured(count: int, height: int, width: int) -> np.ndarray:
    """Smooth colour pictures that move, uint8 (count, H, W, 3) RGB."""
    y, x = np.mgrid[:height, :width]
    pictures = [
        np.stack([128 + 90 * np.sin((x + 2 * y + 3 * t + SHIFT * c) / 40) for c in range(3)], -1)
        for t in range(count)
    ]
    return np.stack(pictures).astype(np.uint8)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with one colour clip, 11 frames of 48x64."""
    folder = tmp_path / "videos"
    folder.mkdir()
    writer = cv2.VideoWriter(
        str(folder / CLIP.path), cv2.VideoWriter.fourcc(*"FFV1"), 25.0, (64, 48), True
    )
    for picture in coloured(11, 48, 64):
        writer.write(picture[:, :, ::-1])
    writer.release()
    return folder


def settings_of(
    videos: Path, store: Path, with_frames: bool, **changes: object
) -> ExtractionSettings:
    return ExtractionSettings(str(videos), str(store), 24, 32, with_frames=with_frames, **changes)


def extracted(videos: Path, store: Path, with_frames: bool = True, **changes: object) -> FlowStore:
    settings = settings_of(videos, store, with_frames, **changes)
    made = create_store(store, settings.numerics(), settings.array_format)
    assert extract_video(settings, CLIP).status == STORED
    return made


@pytest.mark.parametrize("array_format", FORMATS)
@pytest.mark.parametrize("block", [1, 3, 32])
def test_frames_are_those_that_flow_was_computed_from(
    videos: Path, tmp_path: Path, array_format: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "_MAX_FRAMES_CPU", block)
    store = extracted(videos, tmp_path / "s", array_format=array_format)
    found = store.read_frames("clip")
    assert (found.dtype, found.shape, len(store.read_flow("clip"))) == (
        np.uint8,
        (11, 24, 32, 3),
        10,
    )
    shrunk = np.stack(
        [
            cv2.resize(picture, (32, 24), interpolation=cv2.INTER_AREA)
            for picture in coloured(11, 48, 64)
        ]
    )
    error = np.abs(found.astype(int) - shrunk)
    assert error.mean() < 3
    assert error.max() < 16
    np.testing.assert_array_equal(store.read_frames("clip", 4, 6), found[4:6])
    (row,) = store.videos().to_dict("records")
    (file,) = store.path.glob("frames/*/clip.*.mjpeg")
    assert row["frame_bytes"] == file.stat().st_size
    assert row["bytes"] == sum(
        path.stat().st_size for path in [*store.path.glob("flow/**/*"), file] if path.is_file()
    )


@pytest.mark.parametrize("array_format", FORMATS)
def test_flow_is_the_same_with_and_without(videos: Path, tmp_path: Path, array_format: str) -> None:
    having = extracted(videos, tmp_path / "having", array_format=array_format)
    lacking = extracted(videos, tmp_path / "lacking", with_frames=False, array_format=array_format)
    if array_format == "zarr":  # an HDF5 file says when it was written
        with_them, without = (
            next(store.path.glob("flow/*/*/flow/c.*")) for store in (having, lacking)
        )
        assert with_them.read_bytes() == without.read_bytes()
    np.testing.assert_array_equal(having.read_codes("clip"), lacking.read_codes("clip"))
    assert not lacking.has_frames
    assert not (lacking.path / "frames").exists()
    commit = lacking.commit_of("clip")
    assert commit is not None
    assert "jpegs" not in commit
    assert "frame_bytes" not in commit["video"]
    assert "frames" not in record_file.read_record(lacking.path / layout.STORE_FILE)["numerics"]


def test_one_decoding_gives_both(videos: Path) -> None:
    plain = list(FrameReader(videos / CLIP.path, FrameSize(24, 32)).blocks(4))
    reader = FrameReader(videos / CLIP.path, FrameSize(24, 32), with_jpegs=True)
    taken = []
    for block, wanted in zip(reader.blocks(4), plain, strict=True):
        np.testing.assert_array_equal(block, wanted)
        taken.append(reader.take_jpegs())
    assert [len(jpegs) for jpegs in taken] == [4, 4, 3]
    assert reader.take_jpegs() == []
    picture = Image.open(io.BytesIO(taken[0][0]))
    assert (picture.size, picture.mode) == ((32, 24), "RGB")
    gray = np.asarray(picture.convert("L")).astype(int)
    assert np.abs(gray - plain[0][0]).mean() < 2


def test_the_estimate_counts_frames(videos: Path, tmp_path: Path) -> None:
    sizes = [
        estimate(settings_of(videos, tmp_path / "none", with_frames), [CLIP], InProcess()).bytes
        for with_frames in (False, True)
    ]
    stored = [
        int(extracted(videos, tmp_path / f"s{n}", bool(n)).videos()["bytes"][0]) for n in range(2)
    ]
    assert sizes == pytest.approx(stored, rel=0.05)
    assert sizes[1] > sizes[0] + 11 * 300


SMALL = ["--size", "24x32", "--workers"]


@pytest.mark.slow
def test_a_flipped_bit_is_found_and_mended(tmp_path: Path) -> None:
    folders = write_class_folders(
        tmp_path / "videos", {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}, clips=1
    )
    for name in ("s", "whole"):
        assert (
            flowcpc("extract-flow", folders, tmp_path / name, *SMALL, 0, "--with-frames").exit_code
            == 0
        )
    file = next((tmp_path / "s").glob("frames/*/*Right*.mjpeg"))
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 4
    file.write_bytes(bytes(data))
    result = flowcpc("verify", tmp_path / "s")
    assert result.exit_code == 1
    assert "Right/v_Right_g01_c01" in result.stdout
    assert str(file.relative_to(tmp_path / "s")) in result.stdout
    result = flowcpc("verify", tmp_path / "s", "--repair", folders, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert_same_store(tmp_path / "s", tmp_path / "whole")
    assert flowcpc("verify", tmp_path / "s").exit_code == 0


@pytest.mark.slow
def test_real_clips_through_the_command(real_data: Path, tmp_path: Path) -> None:
    lists = [
        "--dataset",
        "ucf101",
        "--annotations",
        real_data / "ucf6" / "annotations",
        "--limit",
        2,
    ]
    for name, workers in (("workers", 1), ("alone", 0)):
        result = flowcpc(
            "extract-flow",
            real_data / "ucf6" / "videos",
            tmp_path / name,
            *SMALL,
            workers,
            *lists,
            "--with-frames",
        )
        assert result.exit_code == 0, result.output
    assert_same_store(tmp_path / "workers", tmp_path / "alone")
    store = open_store(tmp_path / "workers")
    for row in store.videos().to_dict("records"):
        frames = store.read_frames(row["video_id"])
        assert frames.shape == (row["decoded_frames"], 24, 32, 3)
        reader = FrameReader(real_data / "ucf6" / "videos" / row["path"], FrameSize(24, 32))
        gray = np.concatenate(list(reader.blocks()))
        luma = frames @ np.array([0.299, 0.587, 0.114])
        assert np.abs(luma - gray).mean() < 2, "JPEG's loss"
    told = json.loads(flowcpc("info", store.path, "--json").stdout)
    assert told["frame_bytes"] == sum(path.stat().st_size for path in store.path.glob("frames/*/*"))
    assert told["bytes"] > told["frame_bytes"] > 0
    assert "(jpeg, quality 95, 4:2:0)" in flowcpc("info", store.path).stdout


def test_frames_are_not_added_later(tmp_path: Path) -> None:
    folders = write_class_folders(tmp_path / "videos", {"Left": (-1.0, 0.0)}, clips=1)
    assert flowcpc("extract-flow", folders, tmp_path / "s", *SMALL, 0).exit_code == 0
    words = (
        "it holds flow without frames, and --with-frames asks for them",
        "use the same options, or another store",
    )
    refused(flowcpc("extract-flow", folders, tmp_path / "s", *SMALL, 0, "--with-frames"), *words)


def test_training_on_images(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    flows = {f"v{n}": some_flow(6 + n, n) for n in range(8)}
    labels = {name: "AB"[n % 2] for n, name in enumerate(flows)}
    folds = {name: {"fold1": "train" if n < 4 else "test"} for n, name in enumerate(flows)}
    path = make_store(
        tmp_path,
        flows,
        labels=labels,
        groups={name: name for name in flows},
        folds=folds,
        with_frames=True,
    )
    chosen = [
        "num_segments=4",
        "num_observed=3",
        "num_flows=2",
        "spacing=1",
        "width=2",
        "batch_size=2",
        "size=16x16",
    ]
    words = [word for setting in [*chosen, "modality=image"] for word in ("--set", setting)]
    result = flowcpc("pretrain", path, tmp_path / "run", "--preset", "tiny", "--steps", 2, *words)
    assert result.exit_code == 0, result.output
    table = json.loads(
        flowcpc("evaluate", path, tmp_path / "run", "--set", "linear_steps=3", "--json").stdout
    )
    assert {row["videos"] for row in table} == {4}
    assert flowcpc("embed", path, tmp_path / "run").exit_code == 0
    (tmp_path / "lacking").mkdir()
    lacking = make_store(
        tmp_path / "lacking",
        flows,
        labels=labels,
        groups={name: name for name in flows},
        folds=folds,
    )
    result = flowcpc(
        "pretrain", lacking, tmp_path / "other", "--preset", "tiny", "--steps", 2, *words
    )
    refused(result, "modality=image needs frames", "holds flow alone", "--with-frames")
