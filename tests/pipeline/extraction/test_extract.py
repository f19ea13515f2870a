import dataclasses
import os
import platform
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import write_video
from extraction_cases import CLIP, clip_settings
from hostile import decoder_of, write_huge, write_miscounted
from textures import moving_texture

from flowcpc.pipeline.decoding.frame_size import FrameSize
from flowcpc.pipeline.decoding.frames import FrameReader
from flowcpc.pipeline.decoding.limits import Preempted
from flowcpc.pipeline.extraction import extract
from flowcpc.pipeline.extraction.extract import (
    FAILED,
    STORED,
    ExtractionSettings,
    StoreWriteError,
    extract_video,
)
from flowcpc.pipeline.tvl1.solver import compute_flow
from flowcpc.stores.flow_store import FlowStore, create_store


@pytest.fixture
def settings(tmp_path: Path) -> ExtractionSettings:
    return clip_settings(tmp_path)


@pytest.fixture
def store(settings: ExtractionSettings) -> FlowStore:
    return create_store(settings.store, settings.numerics())


def test_flow_in_the_store_is_the_solver_s_flow(
    settings: ExtractionSettings, store: FlowStore
) -> None:
    outcome = extract_video(settings, CLIP)
    assert (outcome.status, outcome.flows) == (STORED, 10)
    frames = np.concatenate(
        list(FrameReader(Path(settings.videos, CLIP.path), FrameSize(24, 32)).blocks())
    )
    np.testing.assert_array_equal(
        store.read_codes("clip"), store.encoding.encode(compute_flow(frames))
    )


def test_blocks_lose_no_pair(
    settings: ExtractionSettings, store: FlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract_video(settings, CLIP)
    whole = store.read_codes("clip")
    for block in (1, 3, 10, 11):
        monkeypatch.setattr(extract, "_MAX_FRAMES_CPU", block)
        pairs: list[int] = []
        extract_video(settings, CLIP, pairs.append)
        assert sum(pairs) == 10
        np.testing.assert_array_equal(store.read_codes("clip"), whole)


def test_the_row_of_a_video(settings: ExtractionSettings, store: FlowStore) -> None:
    extract_video(settings, CLIP)
    (row,) = store.videos().to_dict("records")
    wanted = {
        "label": "X", "group": "g1", "fold1": "train", "flows": 10, "decoded_frames": 11,
        "header_frames": 11, "decoded_is_header": True, "fps": 25.0, "source_height": 24,
        "source_width": 32, "height": 24, "width": 32, "clip_rate": 0.0, "backend": "cpu",
    }  # fmt: skip
    assert {name: row[name] for name in wanted} == wanted
    assert row["path"] == "X/clip.avi"
    assert len(row["source_sha256"]) == 64
    assert 0 < row["encoding_error"] < 0.0625
    assert row["magnitude"] == pytest.approx(np.hypot(1, 0.5), abs=0.15)
    np.testing.assert_allclose(store.frames()["time_s"], np.arange(10) / 25)


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"", "file", "is empty"),
        (b"junk", "file", "cannot|can be decoded"),
        (None, "missing", "does not exist"),
    ],
)
def test_a_bad_video_is_a_row_in_failures(
    settings: ExtractionSettings, store: FlowStore, content: bytes | None, kind: str, words: str
) -> None:
    path = Path(settings.videos, CLIP.path)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert extract_video(settings, CLIP).status == FAILED
    (row,) = store.failures().to_dict("records")
    assert (row["video_id"], row["label"], row["fold1"], row["kind"], row["attempts"]) == (
        "clip",
        "X",
        "train",
        kind,
        1,
    )
    assert any(word in row["reason"] for word in words.split("|"))
    assert list((store.path / "flow").glob("*/*")) == []


def test_one_frame_is_too_few(settings: ExtractionSettings, store: FlowStore) -> None:
    write_video(Path(settings.videos, CLIP.path), moving_texture(1, 24, 32, step=(0, 0)))
    assert "has 1 frame; flow needs at least 2" in extract_video(settings, CLIP).reason


def test_an_unexpected_error_fails_one_video(
    settings: ExtractionSettings, store: FlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(extract, "compute_flow", no_memory)
    assert extract_video(settings, CLIP).reason == "MemoryError: out of memory"
    assert store.failures()["kind"].tolist() == ["machine"]


def test_a_full_disk_is_no_video_s_fault(
    settings: ExtractionSettings, store: FlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("flowcpc.stores.video.zarr_arrays.sync", full)
    with pytest.raises(
        StoreWriteError,
        match=r"cannot be written .No space left on device.; committed videos are safe",
    ):
        extract_video(settings, CLIP)
    assert len(store.failures()) == 0
    assert list((store.path / "flow").glob("*/*")) == []


def test_the_row_says_what_the_video_took(settings: ExtractionSettings, store: FlowStore) -> None:
    outcome = extract_video(settings, CLIP)
    (row,) = store.videos().to_dict("records")
    stages = [row[f"{stage}_seconds"] for stage in ("decode", "flow", "encode", "write")]
    assert min(stages) > 0
    assert sum(stages) <= row["seconds"] + 0.001
    assert 10 / row["pairs_per_second"] == pytest.approx(
        row["seconds"], abs=0.0006
    )  # which is rounded
    assert (row["host"], row["pid"]) == (platform.node(), os.getpid())
    assert row["worker_peak_bytes"] > row["decoder_peak_bytes"] > 10 << 20, (
        "no kernels are loaded where frames are decoded"
    )
    assert outcome.stages.keys() == {"decode", "flow", "encode", "write"}
    assert outcome.stages["write"] >= row["write_seconds"]


def test_a_failure_says_where_and_how_long(settings: ExtractionSettings, store: FlowStore) -> None:
    Path(settings.videos, CLIP.path).write_bytes(b"junk")
    extract_video(settings, CLIP)
    (row,) = store.failures().to_dict("records")
    assert row["host"] == platform.node()
    assert 0 < row["seconds"] < 60


@pytest.mark.parametrize(
    ("claimed", "strict", "stored"),
    [
        (11, True, True),
        (12, True, True),
        (10, True, True),
        (13, True, False),
        (9, True, False),
        (13, False, True),
    ],
)
def test_strict_refuses_what_its_header_contradicts(
    settings: ExtractionSettings, store: FlowStore, claimed: int, strict: bool, stored: bool
) -> None:
    write_miscounted(
        Path(settings.videos, CLIP.path), moving_texture(11, 24, 32, step=(1, 0)), claimed=claimed
    )
    outcome = extract_video(dataclasses.replace(settings, strict=strict), CLIP)
    assert (outcome.status == STORED) == stored
    if stored:
        (row,) = store.videos().to_dict("records")
        assert (row["decoded_frames"], row["header_frames"], row["decoded_is_header"]) == (
            11,
            claimed,
            claimed == 11,
        )
    else:
        (row,) = store.failures().to_dict("records")
        assert row["kind"] == "file"
        assert f"decodes to 11 frames and its header says {claimed}" in row["reason"]
        assert list((store.path / "flow").glob("*/*")) == []


@pytest.mark.parametrize(
    ("claimed", "stored"), [(304, False), (303, True), (298, True), (297, False)]
)
def test_strict_allows_a_hundredth(
    settings: ExtractionSettings, store: FlowStore, claimed: int, stored: bool
) -> None:
    write_miscounted(
        Path(settings.videos, CLIP.path), moving_texture(300, 24, 32, step=(1, 0)), claimed=claimed
    )
    assert (
        extract_video(dataclasses.replace(settings, strict=True), CLIP).status == STORED
    ) == stored


def test_a_stop_drops_the_video_and_leaves_nothing(
    settings: ExtractionSettings, store: FlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "_MAX_FRAMES_CPU", 2)
    seen: list[int] = []
    with pytest.raises(Preempted):
        extract_video(settings, CLIP, seen.append, should_stop=lambda: len(seen) >= 3)
    assert seen == [1, 2, 2], "the video went on after it was asked to stop"
    assert len(store.videos()) == len(store.failures()) == 0
    assert list((store.path / "flow").glob("*/*")) == []
    assert extract_video(settings, CLIP).status == STORED


def test_a_stop_during_a_second_extraction_keeps_the_first(
    settings: ExtractionSettings, store: FlowStore
) -> None:
    extract_video(settings, CLIP)
    before = store.videos()
    with pytest.raises(Preempted):
        extract_video(settings, CLIP, should_stop=lambda: True)
    pd.testing.assert_frame_equal(store.videos(), before)


def test_a_time_limit_is_a_failure_of_the_machine(
    settings: ExtractionSettings, store: FlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "_MAX_FRAMES_CPU", 2)
    outcome = extract_video(
        dataclasses.replace(settings, time_limit=0.2), CLIP, lambda pairs: time.sleep(0.1)
    )
    assert outcome.status == FAILED
    (row,) = store.failures().to_dict("records")
    assert row["kind"] == "machine"
    assert (
        row["reason"] == "took longer than the time limit of 0.2 s; "
        "give more with --time-limit, or leave the video out"
    )
    assert row["seconds"] >= 0.2
    assert list((store.path / "flow").glob("*/*")) == []


def test_a_crash_of_the_decoder_fails_one_video(
    settings: ExtractionSettings, store: FlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(Path(settings.videos, CLIP.path), moving_texture(600, 24, 32, step=(1, 0)))
    monkeypatch.setattr(extract, "_MAX_FRAMES_CPU", 2)
    killed: list[int] = []

    def kill_once(pairs: int) -> None:
        if not killed:
            killed.append(decoder_of(path))
            os.kill(killed[0], signal.SIGSEGV)

    assert (
        "its decoder was killed by SIGSEGV after" in extract_video(settings, CLIP, kill_once).reason
    )
    assert store.failures()["kind"].tolist() == ["machine"]
    assert extract_video(settings, CLIP).flows == 599


def test_a_memory_hog_fails_one_video(settings: ExtractionSettings, store: FlowStore) -> None:
    write_huge(Path(settings.videos, CLIP.path))
    reason = extract_video(dataclasses.replace(settings, memory_limit=256 << 20), CLIP).reason
    assert reason.startswith("needs more memory to decode than the limit of 256M after 0 frames")
    assert store.failures()["kind"].tolist() == ["machine"]


def test_limits_that_nothing_can_meet_are_refused(settings: ExtractionSettings) -> None:
    with pytest.raises(ValueError, match=r"memory limit .* 256M .* got 100M"):
        dataclasses.replace(settings, memory_limit=100 << 20)
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"time limit .*got {seconds:g}"):
            dataclasses.replace(settings, time_limit=seconds)


def test_sizes_below_the_solver_s_are_refused() -> None:
    with pytest.raises(ValueError, match="height and width must be 16 to 8192 px, got 8x32"):
        ExtractionSettings("v", "s", 8, 32)
    with pytest.raises(ValueError, match="16 to 8192 px, got 99999x32"):
        ExtractionSettings("v", "s", 99999, 32)
