"""Flow folders of other programs, out and in, by the real commands."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import commit_flow
from exchange_cases import done, flowcpc, smooth_flow, two_videos
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowcpc.pipeline.exchange.layouts import (
    LAYOUTS,
    FolderError,
    dequantise,
    encode_flow,
    quantise,
)
from flowcpc.stores.encoding import DEFAULT
from flowcpc.stores.flow_store import FlowStore, create_store, open_store

STEP = 40 / 255
# Half a step of the quantiser and the error of JPEG on smooth flow. It is larger in colour, which
# JPEG turns into brightness and hues.
JPEG_STEPS = {"denseflow": 2.5, "tsn": 2.5, "memdpc": 4.5}
EACH = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture
def store(tmp_path: Path) -> FlowStore:
    return two_videos(tmp_path)


def as_a_denseflow_user_reads(folder: Path, first: int, count: int) -> np.ndarray:
    """An obvious loop over the JPEGs, written without our module."""
    flows = []
    for n in range(count):
        parts = [
            cv2.imread(str(folder / f"flow_{c}_{n + first:05d}.jpg"), cv2.IMREAD_GRAYSCALE)
            for c in "xy"
        ]
        flows.append(np.stack(parts) / 255.0 * 40 - 20)
    return np.stack(flows)


@EACH
@pytest.mark.parametrize("array_format", ["zarr", "hdf5"])
def test_out_and_in_again(store: FlowStore, tmp_path: Path, layout: str, array_format: str) -> None:
    out, again = tmp_path / "out", tmp_path / "again.flow"
    done(flowcpc("export", store.path, out, "--layout", layout))
    done(flowcpc("import", out, again, "--layout", layout, "--fps", 25, "--format", array_format))
    imported = open_store(again)
    assert imported.videos()[["video_id", "label", "flows"]].values.tolist() == [
        ["Left/a", "Left", 5],
        ["Right/b", "Right", 40],
    ]
    for video_id in ("Left/a", "Right/b"):
        error = np.abs(imported.read_flow(video_id) - store.read_flow(video_id))
        assert error.max() < JPEG_STEPS[layout] * STEP + 0.2  # and the store's own step twice
        assert error.mean() < STEP
    assert imported.segments()["stop_s"].max() == pytest.approx(1.6)
    assert f"{array_format}, imported from {layout} (bound 20 px)" in done(flowcpc("info", again))


@pytest.mark.parametrize(("layout", "first"), [("denseflow", 0), ("tsn", 1)])
def test_others_read_what_is_exported(
    store: FlowStore, tmp_path: Path, layout: str, first: int
) -> None:
    done(flowcpc("export", store.path, tmp_path / "out", "Right/b", "--layout", layout))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Right"]
    found = as_a_denseflow_user_reads(tmp_path / "out" / "Right" / "b", first, 40)
    assert np.abs(found - store.read_flow("Right/b")).max() < JPEG_STEPS[layout] * STEP
    assert len(list((tmp_path / "out" / "Right" / "b").glob("*.jpg"))) == 80


def test_flow_that_is_too_large_for_a_jpeg_is_refused() -> None:
    flow = np.zeros((2, 1, 65501), np.float32)
    with pytest.raises(FolderError, match="cannot write a JPEG of 1x65501 px"):
        list(encode_flow(LAYOUTS["tsn"], flow, 20.0))


def test_memdpc_has_u_in_blue_and_v_in_green(store: FlowStore, tmp_path: Path) -> None:
    done(flowcpc("export", store.path, tmp_path / "out", "Left/a", "--layout", "memdpc"))
    image = cv2.imread(str(tmp_path / "out" / "Left" / "a" / "flow_00001.jpg"), cv2.IMREAD_COLOR)
    u, v = store.read_flow("Left/a", 0, 1)[0]
    assert np.abs(image[..., 0] / 255.0 * 40 - 20 - u).max() < JPEG_STEPS["memdpc"] * STEP
    assert np.abs(image[..., 1] / 255.0 * 40 - 20 - v).max() < JPEG_STEPS["memdpc"] * STEP
    assert np.abs(image[..., 2].astype(int) - 128).max() <= 3


@given(
    hnp.arrays(np.float32, 20, elements=st.floats(-50, 50, width=32)),
    st.sampled_from([8.0, 20.0, 32.0]),
)
def test_the_quantiser_clips_and_is_within_half_a_step(flow: np.ndarray, bound: float) -> None:
    back = dequantise(quantise(flow, bound), bound)
    assert np.abs(back - np.clip(flow, -bound, bound)).max() <= bound / 255 * 1.001 + 1e-5


@pytest.mark.parametrize("first", [0, 1])
@EACH
def test_files_may_be_numbered_from_0_or_1(
    store: FlowStore, tmp_path: Path, layout: str, first: int
) -> None:
    """denseflow's old versions begin at 1, some TSN trees at 0: off by one is off by one flow."""
    done(flowcpc("export", store.path, tmp_path / "out", "Left/a", "--layout", layout))
    folder, own = tmp_path / "out" / "Left" / "a", LAYOUTS[layout].first_index
    for path in sorted(folder.glob("*.jpg"), reverse=first > own):
        kind, _, number = path.stem.rpartition("_")
        path.rename(folder / f"{kind}_{int(number) - own + first:05d}.jpg")
    done(flowcpc("import", tmp_path / "out", tmp_path / "in.flow", "--layout", layout))
    error = np.abs(open_store(tmp_path / "in.flow").read_flow("Left/a") - store.read_flow("Left/a"))
    assert error.mean() < STEP


def test_the_same_command_again_does_what_is_missing(store: FlowStore, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again.flow"
    done(flowcpc("export", store.path, out, "Left/a", "--layout", "tsn"))
    torn = out / "Right" / f".{'0' * 32}.tmp"  # what a killed export leaves
    torn.mkdir(parents=True)
    (torn / "flow_x_00001.jpg").touch()
    (out / ".mine.tmp").mkdir()  # and what is somebody else's
    assert "2 videos (1 written now)" in done(flowcpc("export", store.path, out, "--layout", "tsn"))
    assert list(out.rglob(".*.tmp")) == [out / ".mine.tmp"]
    for lost in ("flow_x_00003.jpg", "flow_y_00007.jpg"):  # after a crash of the machine
        intact = (out / "Right" / "b" / lost).read_bytes()
        (out / "Right" / "b" / lost).write_bytes(b"")
        if lost.startswith("flow_x"):
            (out / "Right" / "b" / lost).unlink()
        assert "2 videos (1 written now)" in done(
            flowcpc("export", store.path, out, "--layout", "tsn")
        )
        assert (out / "Right" / "b" / lost).read_bytes() == intact
    assert "2 videos (0 written now)" in done(flowcpc("export", store.path, out, "--layout", "tsn"))
    assert "stored 2 videos" in done(flowcpc("import", out, again, "--layout", "tsn"))
    assert "stored 0 videos in" in done(flowcpc("import", out, again, "--layout", "tsn"))
    (out / "Left" / "a" / "flow_x_00001.jpg").touch()
    assert "stored 1 video in" in done(flowcpc("import", out, again, "--layout", "tsn"))


def test_labels_and_splits_of_the_official_lists(tmp_path: Path) -> None:
    store = create_store(
        tmp_path / "s.flow", {"height": 32, "width": 48, "encoding": DEFAULT.to_json()}
    )
    commit_flow(store, "v_Left_g01_c01", smooth_flow(3, 0))
    done(flowcpc("export", store.path, tmp_path / "out", "--layout", "denseflow"))
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Left\n")
    (lists / "trainlist01.txt").write_text("Left/v_Left_g01_c01.avi 1\nLeft/v_Left_g02_c01.avi 1\n")
    words = [
        "import",
        tmp_path / "out",
        tmp_path / "in.flow",
        "--layout",
        "denseflow",
        "--dataset",
        "ucf101",
    ]
    result = flowcpc(*words, "--annotations", lists)
    assert result.exit_code == 3
    imported = open_store(tmp_path / "in.flow")
    assert imported.videos()[["label", "group", "fold1"]].values.tolist() == [
        ["Left", "v_Left_g01", "train"]
    ]
    assert imported.failures()[["video_id", "kind"]].values.tolist() == [
        ["v_Left_g02_c01", "missing"]
    ]
    assert "needs --annotations" in flowcpc(*words).output


def test_what_cannot_be_done_is_one_sentence(store: FlowStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done(flowcpc("export", store.path, out, "--layout", "tsn"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "afile").touch()
    for words, sentence in (
        (["import", tmp_path / "nowhere", tmp_path / "x", "--layout", "tsn"], "nowhere"),
        (
            ["import", tmp_path / "empty", tmp_path / "x", "--layout", "tsn"],
            "has no folder of files named like flow_x_00001.jpg",
        ),
        (
            ["import", out, tmp_path / "x", "--layout", "memdpc"],
            "has no folder of files named like flow_00001.jpg",
        ),
        (
            ["import", out, tmp_path / "x", "--layout", "tsn", "--bound", 0],
            "bound=0 must be from 0.01 to 10000 px",
        ),
        (
            ["import", out, tmp_path / "x", "--layout", "tsn", "--bound", "1e300"],
            "must be from 0.01 to 10000 px",
        ),
        (
            ["export", store.path, tmp_path / "x", "--layout", "tsn", "--bound", "1e-300"],
            "bound=1e-300 must be from",
        ),
        (
            ["import", out, tmp_path / "x", "--layout", "tsn", "--fps", -1],
            "fps=-1.0 must be above 0",
        ),
        (["import", out, store.path, "--layout", "tsn"], "made with other numerics"),
        (["export", store.path, out, "nobody", "--layout", "tsn"], "nobody is not in"),
        (["export", store.path, tmp_path / "afile", "--layout", "tsn"], "is a file"),
        (
            ["export", store.path, out, "--layout", "denseflow"],
            "as layout tsn with bound 20 px, and layout denseflow with bound 20 px is requested",
        ),
        (
            ["export", store.path, out, "--layout", "tsn", "--bound", 5],
            "and layout tsn with bound 5 px is requested",
        ),
        (
            ["export", store.path, out, "--layout", "tsn", "--bound", "nan"],
            "bound=nan must be from",
        ),
    ):
        result = flowcpc(*words)
        assert result.exit_code == 2, (words, result.output)
        assert sentence in result.output
        assert "Traceback" not in result.output
    assert not (tmp_path / "x").exists()


def test_no_export_leaves_its_folder(store: FlowStore, tmp_path: Path) -> None:
    commit_flow(store, "../../outside", smooth_flow(2, 5))
    result = flowcpc("export", store.path, tmp_path / "a" / "b" / "out", "--layout", "tsn")
    assert (result.exit_code, "would be written outside" in result.output) == (2, True)
    assert not (tmp_path / "a" / "outside").exists()


def test_memdpc_s_own_files_halve_colours_and_are_read(tmp_path: Path) -> None:
    """extract_ff.py writes with OpenCV's defaults: u and v have half the resolution in part."""
    folder = tmp_path / "out" / "Left" / "a"
    folder.mkdir(parents=True)
    flow = smooth_flow(3, 2)
    for number, (u, v) in enumerate(flow, start=1):
        image = np.full((32, 48, 3), 128, np.uint8)
        image[..., :2] = np.round((np.clip(np.dstack([u, v]), -20, 20) + 20) * (255.0 / 40))
        cv2.imwrite(str(folder / f"flow_{number:05d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    done(flowcpc("import", tmp_path / "out", tmp_path / "in.flow", "--layout", "memdpc"))
    assert (
        np.abs(open_store(tmp_path / "in.flow").read_flow("Left/a") - np.clip(flow, -20, 20)).mean()
        < STEP
    )


@pytest.mark.parametrize("layout", ["denseflow", "tsn"])
def test_what_8_bits_cannot_reach_is_counted_as_clipped(tmp_path: Path, layout: str) -> None:
    store = create_store(
        tmp_path / "s.flow", {"height": 32, "width": 48, "encoding": DEFAULT.to_json()}
    )
    flow = np.full((2, 2, 32, 48), 3, np.float32)
    flow[:, 0, :, :24], flow[:, 1] = 30, -30
    commit_flow(store, "a", flow)
    done(flowcpc("export", store.path, tmp_path / "out", "--layout", layout))
    done(
        flowcpc(
            "import",
            tmp_path / "out",
            tmp_path / "in.flow",
            "--layout",
            layout,
            "--encoding",
            "uint8-bound20",
        )
    )
    imported = open_store(tmp_path / "in.flow")
    found = imported.read_flow("a")
    np.testing.assert_allclose(found[:, 0, :, :24], 20, atol=1e-5)
    np.testing.assert_allclose(found[:, 1], -20, atol=1e-5)
    assert imported.videos()["clip_rate"].tolist() == [0.75]


def test_splits_are_folders_or_drawn_and_follow_what_changes(
    store: FlowStore, tmp_path: Path
) -> None:
    out, words = tmp_path / "out", ["--layout", "tsn"]
    done(flowcpc("export", store.path, out, *words))
    assert "a split by groups was drawn" in done(
        flowcpc("import", out, tmp_path / "drawn.flow", *words)
    )
    drawn = open_store(tmp_path / "drawn.flow").videos()
    assert drawn[["label", "group", "fold1"]].values.tolist() == [
        ["Left", "Left/a", "train"],
        ["Right", "Right/b", "train"],
    ]
    for split in ("train", "test"):
        (tmp_path / "split" / split).mkdir(parents=True)
    (out / "Left").rename(tmp_path / "split" / "train" / "Left")
    (out / "Right").rename(tmp_path / "split" / "test" / "Right")
    done(flowcpc("import", tmp_path / "split", tmp_path / "split.flow", *words))
    assert open_store(tmp_path / "split.flow").videos()[
        ["video_id", "label", "fold1"]
    ].values.tolist() == [
        ["test/Right/b", "Right", "test"],
        ["train/Left/a", "Left", "train"],
    ]
    (tmp_path / "split" / "train" / "Left").rename(tmp_path / "split" / "Left")
    refused = flowcpc("import", tmp_path / "split", tmp_path / "split.flow", *words)
    assert (refused.exit_code, "must lie at SPLIT/CLASS/VIDEO" in refused.output) == (2, True)


def test_a_damaged_video_does_not_stop_an_export(store: FlowStore, tmp_path: Path) -> None:
    file = next(path for path in store.path.glob("flow/*/Left*/**/c.*") if path.is_file())
    data = bytearray(file.read_bytes())
    data[200] ^= 255
    file.write_bytes(data)
    result = flowcpc("export", store.path, tmp_path / "out", "--layout", "tsn")
    assert result.exit_code == 3
    assert result.stdout.startswith("Left/a\tflows [0, 5) of Left/a are damaged")
    assert [
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").glob("*/*")
    ] == ["Right/b"]
