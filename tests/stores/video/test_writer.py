"""Faults between a video and its disk are found before the commit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import FRAMES, some_jpegs
from store_cases import FORMATS, NUMERICS, some_flow

from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.encoding import DEFAULT
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.video import writer as writer_module
from flowcpc.stores.video.writer import VideoWriter

SOURCE = {"video_id": "v", "path": "v.avi", "label": None, "group": None, "folds": {}}

SPAN = ("start", "stop", "start_s", "stop_s")
MEANS = ("mean_u", "mean_v", "magnitude", "clip_rate")


@pytest.fixture(params=FORMATS)
def store(tmp_path: Path, request: pytest.FixtureRequest) -> FlowStore:
    return create_store(tmp_path / "s.flow", {**NUMERICS, **FRAMES}, request.param)


def write(store: FlowStore, before_commit: Callable[[VideoWriter], object]) -> None:
    codes = DEFAULT.encode(some_flow(12))
    with store.write_video("v") as writer:
        writer.append(codes)
        writer.append_frames(some_jpegs(13, *codes.shape[2:]))
        before_commit(writer)
        empty: dict[str, Any] = {name: [] for name in (*SPAN, *MEANS)}
        rows = {name: [0] * 12 for name in ("time_s", *MEANS, "error", "cut")}
        writer.commit(SOURCE, {}, frames=rows, shots=empty, segments={**empty, "shot": []})


def assert_nothing_is_stored(store: FlowStore) -> None:
    assert store.commit_of("v") is None
    assert [path for kind in ("flow", "frames") for path in store.path.glob(f"{kind}/*/*")] == []


def change_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_without_a_fault_it_is_stored(store: FlowStore) -> None:
    write(store, lambda writer: None)
    np.testing.assert_array_equal(store.read_codes("v"), DEFAULT.encode(some_flow(12)))


@pytest.mark.parametrize("kind", ["flow", "frames"])
def test_bytes_that_change_on_the_disk_are_found(
    store: FlowStore, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(writer: VideoWriter) -> None:
        part = writer_module.FrameFileWriter if kind == "frames" else type(writer.array)
        close = part.close

        def close_and_change(self: Any) -> None:
            close(self)
            path = writer.frames_path if kind == "frames" else self.files[0]
            change_byte(path, (0 if kind == "frames" else self.offsets[0]) + 40)

        monkeypatch.setattr(part, "close", close_and_change)

    with pytest.raises(DamagedStoreError, match=r"reads back other bytes .*check the disk"):
        write(store, damage)
    assert_nothing_is_stored(store)


def test_a_chunk_that_its_codec_changes_is_found(
    store: FlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress = writer_module.compress
    monkeypatch.setattr(writer_module, "compress", lambda chunk: compress(np.roll(chunk, 1)))
    with pytest.raises(DamagedStoreError, match=r"a chunk of v changes when it is compressed"):
        write(store, lambda writer: None)
    assert_nothing_is_stored(store)
