from pathlib import Path

import numpy as np
import pytest
from builders import commit_flow
from click.testing import CliRunner
from PIL import Image
from store_cases import NUMERICS

from flowcpc.commands import main
from flowcpc.stores.base.errors import UnknownVideoError
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.inspection import animation
from flowcpc.stores.inspection.animation import write_animation
from flowcpc.stores.inspection.pictures import flow_to_rgb


@pytest.fixture
def store(tmp_path: Path) -> FlowStore:
    store = create_store(tmp_path / "s.flow", NUMERICS)
    for name, length in (("short", 3), ("long", 6)):
        flow = np.zeros((length, 2, 16, 20), np.float32)
        flow[:, 0] = np.linspace(-2, 2, length)[:, None, None]
        commit_flow(store, name, flow, label=name)
    return store


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_every_flow_is_shown_in_its_colour_at_the_video_s_speed(
    store: FlowStore, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"flow{suffix}"
    write_animation(file, store, ["short", "long"])
    with Image.open(file) as picture:
        assert picture.n_frames == 6
        assert picture.info["loop"] == 0
        for frame in range(6):
            picture.seek(frame)
            pixels = np.asarray(picture.convert("RGB")).astype(int)
            assert picture.info["duration"] == 40
            for column, (name, last) in enumerate((("short", 2), ("long", 5))):
                flow = store.read_flow(name, min(frame, last), min(frame, last) + 1)[0]
                middle = pixels[-20, pixels.shape[1] // 4 + column * pixels.shape[1] // 2]
                np.testing.assert_allclose(middle, flow_to_rgb(flow, 2.0)[0, 0], atol=12)


def test_a_caption_stays_within_its_panel(tmp_path: Path) -> None:
    drawn = []
    for name in ("b", "c"):
        store = create_store(tmp_path / f"{name}.flow", NUMERICS)
        for video_id in ("a very long name " * 10, name):
            commit_flow(store, video_id, np.zeros((2, 2, 16, 20), np.float32))
        write_animation(tmp_path / f"{name}.gif", store, ["a very long name " * 10, name])
        with Image.open(tmp_path / f"{name}.gif") as picture:
            drawn.append(np.asarray(picture.convert("L"))[:-208])
    middle = drawn[0].shape[1] // 2
    assert (drawn[0][:, :middle] == drawn[1][:, :middle]).all()
    assert (drawn[0][:, middle:] != drawn[1][:, middle:]).any()
    assert (drawn[0][:, middle - 2 : middle] == 255).all()


def test_a_long_video_is_cut_and_that_is_said(
    store: FlowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(animation, "MOST_FLOWS", 4)
    remark = write_animation(tmp_path / "flow.gif", store, ["long"])
    assert remark == ["showing the first 4 of 6 flows"]
    with Image.open(tmp_path / "flow.gif") as picture:
        assert picture.n_frames == 4


def test_what_cannot_be_shown_is_refused(store: FlowStore, tmp_path: Path) -> None:
    with pytest.raises(UnknownVideoError, match="did you mean long"):
        write_animation(tmp_path / "flow.gif", store, ["lonk"])
    with pytest.raises(ValueError, match="no video is named"):
        write_animation(tmp_path / "flow.gif", store, [])
    assert list(tmp_path.glob("*.gif")) == []


def test_the_command_chooses_by_the_ending(store: FlowStore, tmp_path: Path) -> None:
    for name, start in (("a.gif", b"GIF89a"), ("a.webp", b"RIFF"), ("a.png", b"\x89PNG")):
        result = CliRunner().invoke(
            main.main, ["show", str(store.path), "--out", str(tmp_path / name)]
        )
        assert result.exit_code == 0, result.output
        assert (tmp_path / name).read_bytes().startswith(start)
    result = CliRunner().invoke(
        main.main, ["show", str(store.path), "--out", str(tmp_path / "a.jpg")]
    )
    assert (result.exit_code, (tmp_path / "a.jpg").exists()) == (2, False)
    assert "a.jpg must end in .png (a sheet) or .gif or .webp" in result.output
