"""Videos of several shapes in one store, from `--short-side` to training, by the real commands."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import assert_same_store, commit_flow, write_video
from click.testing import CliRunner, Result
from PIL import Image
from textures import moving_texture

from flowcpc.commands import main
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.decoding.frame_size import FrameSize
from flowcpc.pipeline.decoding.frames import FrameReader, VideoError
from flowcpc.pipeline.extraction.extract import ExtractionSettings, extract_video
from flowcpc.pipeline.tvl1.solver import compute_flow
from flowcpc.stores import layout
from flowcpc.stores.encoding import DEFAULT
from flowcpc.stores.flow_store import create_store, open_store

# Sources and what becomes of them at a shorter side of 24 px.
SHAPES = {
    "A/wide": ((48, 64), (24, 32)),
    "A/tall": ((64, 48), (32, 24)),
    "B/square": ((40, 40), (24, 24)),
    "B/strip": ((20, 60), (24, 72)),
}


def flowcpc(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main.main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for number, (name, (source, _)) in enumerate(SHAPES.items()):
        frames = moving_texture(5 + number, *source, step=(1, 0.5), seed=number)
        write_video(tmp_path / "videos" / f"{name}.avi", frames)
    return tmp_path / "videos"


def extract(videos: Path, store: Path, *words: object) -> Path:
    flowcpc("extract-flow", videos, store, "--short-side", 24, "--workers", 0, *words)
    return store


@pytest.fixture
def store(videos: Path, tmp_path: Path) -> Path:
    return extract(videos, tmp_path / "s")


@pytest.mark.parametrize("array_format", ["zarr", "hdf5"])
def test_every_video_has_its_own_size(videos: Path, tmp_path: Path, array_format: str) -> None:
    store = open_store(extract(videos, tmp_path / "s", "--format", array_format))
    assert (store.size, store.short_side) == (None, 24)
    names = ("short_side", "height", "width", "flows_per_chunk")
    assert [store.numerics.get(name) for name in names] == [24, None, None, None]
    rows = store.videos().set_index("video_id")
    for name, (source, size) in SHAPES.items():
        assert tuple(rows.loc[name, ["source_height", "source_width", "height", "width"]]) == (
            *source,
            *size,
        )
        frames = np.concatenate(
            list(FrameReader(videos / f"{name}.avi", FrameSize(*size)).blocks())
        )
        flow = compute_flow(frames)
        np.testing.assert_array_equal(store.read_codes(name), store.encoding.encode(flow))
        commit = store.commit_of(name)
        assert commit is not None
        assert commit["chunks"]["flows_per_chunk"] == layout.flows_per_chunk(*size)
    assert (
        len({layout.flows_per_chunk(*size) for _, size in SHAPES.values()}) > 1
    )  # or this would show nothing


def test_other_programs_read_each_video(videos: Path, tmp_path: Path) -> None:
    import h5py
    import hdf5plugin  # noqa: F401  (the filter)
    import zarr

    for array_format in ("zarr", "hdf5"):
        store = open_store(extract(videos, tmp_path / array_format, "--format", array_format))
        for name in SHAPES:
            commit = store.commit_of(name)
            path = store.path / layout.generation_path(name, commit["generation"], array_format)
            array = zarr.open_group(path, mode="r") if array_format == "zarr" else h5py.File(path)
            np.testing.assert_array_equal(array["flow"][:], store.read_codes(name))


def test_the_commands_that_look_after_a_store(videos: Path, store: Path, tmp_path: Path) -> None:
    assert (
        "nothing to do: the flow of all 4 videos"
        in flowcpc("extract-flow", videos, store, "--short-side", 24, "--workers", 0).stderr
    )
    text = flowcpc("info", store).stdout
    assert "flow       shorter side 24 px: " in text
    assert all(f"{height}x{width} (1)" in text for _, (height, width) in SHAPES.values())
    sizes = json.loads(flowcpc("info", store, "--json").stdout)["sizes"]
    assert sizes == {f"{height}x{width}": 1 for _, (height, width) in SHAPES.values()}
    sql = "SELECT height, width FROM videos WHERE video_id = 'A/tall'"
    assert flowcpc("query", store, sql, "--as", "csv").stdout == "height,width\n32,24\n"
    assert flowcpc("verify", store).stdout == ""
    flowcpc("show", store, *SHAPES, "--out", tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    flowcpc("show", store, "A/wide", "A/tall", "--out", tmp_path / "flow.gif")
    with Image.open(tmp_path / "flow.gif") as picture:
        factor = round(256 / 32)
        assert picture.size == (factor * (32 + 24), factor * 32 + 34)


@pytest.mark.slow
def test_damage_is_mended_at_the_same_sizes(videos: Path, store: Path) -> None:
    before = {name: open_store(store).read_codes(name) for name in SHAPES}
    for name in ("A/tall", "B/strip"):
        (file,) = [path for path in store.glob(f"flow/*/{layout.video_key(name)}.*/flow/c.*")]
        file.write_bytes(file.read_bytes()[:-1])
    result = flowcpc("verify", store, "--repair", videos)
    assert "has no damage" in result.stderr
    for name, codes in before.items():
        np.testing.assert_array_equal(open_store(store).read_codes(name), codes)


def test_out_and_in_again(store: Path, tmp_path: Path) -> None:
    flowcpc("export", store, tmp_path / "out", "--layout", "denseflow")
    words = ["import", tmp_path / "out", tmp_path / "in", "--layout", "denseflow"]
    flowcpc(*words, "--short-side", 24)
    first, second = open_store(store), open_store(tmp_path / "in")
    assert second.numerics["short_side"] == 24
    pd.testing.assert_frame_equal(
        first.videos()[["video_id", "height", "width", "flows"]],
        second.videos()[["video_id", "height", "width", "flows"]],
    )
    for name in SHAPES:
        assert np.abs(first.read_flow(name) - second.read_flow(name)).mean() < 40 / 255
    assert "stored 0 videos" in flowcpc(*words, "--short-side", 24).stderr
    one_size = flowcpc(
        "import", tmp_path / "out", tmp_path / "one", "--layout", "denseflow", code=3
    )
    assert len(one_size.stdout.splitlines()) == 3
    assert "videos of several sizes need --short-side" in one_size.stdout
    other = flowcpc(
        "import",
        tmp_path / "out",
        tmp_path / "other",
        "--layout",
        "denseflow",
        "--short-side",
        20,
        code=2,
    )
    assert re.search(r"is \d+x\d+, but short_side=20", other.stderr)
    assert not (tmp_path / "other").exists()


def test_sizes_that_contradict_each_other(videos: Path, store: Path, tmp_path: Path) -> None:
    def refused(*words: object) -> str:
        result = flowcpc("extract-flow", videos, *words, "--workers", 0, code=2)
        return result.stderr.strip().splitlines()[-1]

    assert "--size and --short-side both give the size of frames; give one" in refused(
        tmp_path / "n", "--size", "24x32", "--short-side", 24
    )
    assert "short_side must be 16 to 8192 px, got 8" in refused(tmp_path / "n", "--short-side", 8)
    assert "short_side is 24 in the store and 32 here" in refused(store, "--short-side", 32)
    assert "size is '--short-side 24' in the store and '--size 24x32' here; use" in refused(
        store, "--size", "24x32"
    )
    assert not (tmp_path / "n").exists()
    flowcpc("extract-flow", videos, tmp_path / "one", "--size", "24x32", "--workers", 0)
    assert "size is '--size 24x32' in the store and '--short-side 24' here; use" in refused(
        tmp_path / "one", "--short-side", 24
    )


def test_the_default_size_is_the_short_side_of_256_of_a_4_to_3_video() -> None:
    assert ExtractionSettings("v", "s", short_side=256).size.resolve(240, 320) == (
        ExtractionSettings.height,
        ExtractionSettings.width,
    )
    assert (
        f"[default: {ExtractionSettings.height}x{ExtractionSettings.width}]"
        in flowcpc("extract-flow", "--help").stdout
    )


@pytest.mark.slow
def test_workers_give_the_same_store(videos: Path, store: Path, tmp_path: Path) -> None:
    flowcpc("extract-flow", videos, tmp_path / "w", "--short-side", 24, "--workers", 2)
    assert_same_store(store, tmp_path / "w")


def test_a_strip_that_would_be_too_long_is_a_failure(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "A" / "strip.avi", moving_texture(3, 16, 400, step=(1, 0)))
    write_video(tmp_path / "videos" / "A" / "good.avi", moving_texture(3, 24, 32, step=(1, 0)))
    settings = ExtractionSettings(str(tmp_path / "videos"), str(tmp_path / "s"), short_side=512)
    store = create_store(settings.store, settings.numerics())
    outcome = extract_video(settings, Video("strip", "A/strip.avi", None, None, {}))
    assert "12800 px; the maximum is 8192" in outcome.reason
    assert store.failures()["kind"].tolist() == ["file"]
    with pytest.raises(VideoError, match="is 16x400 px"):
        FrameReader(tmp_path / "videos" / "A" / "strip.avi", FrameSize(short_side=512)).begin()


def test_a_writer_takes_the_store_s_sizes_alone(tmp_path: Path) -> None:
    mixed = create_store(tmp_path / "mixed", {"short_side": 24, "encoding": DEFAULT.to_json()})
    one = create_store(tmp_path / "one", {"height": 24, "width": 32, "encoding": DEFAULT.to_json()})
    for store, size, rule in (
        (mixed, None, "flow of v is without a size, .* takes a shorter side of 24 px"),
        (mixed, (32, 26), "flow of v is of 32x26, .* takes a shorter side of 24 px"),
        (one, (32, 24), "flow of v is of 32x24, .* takes flow of 24x32"),
    ):
        with pytest.raises(ValueError, match=rule):
            store.write_video("v", size)
    refused = pytest.raises(ValueError, match=r"this store takes uint8 \(n, \*\(2, 40, 24\)\)")
    with mixed.write_video("v", (40, 24)) as writer, refused:
        writer.append(np.zeros((1, 2, 24, 40), np.uint8))
    commit_flow(one, "v", np.zeros((1, 2, 24, 32), np.float32))
    assert one.videos()[["height", "width"]].values.tolist() == [[24, 32]]


@pytest.mark.parametrize(
    ("file", "source", "size"),
    [
        ("portrait_120x320.mp4", (320, 120), (86, 32)),
        ("decord_video_0.mov", (320, 568), (32, 56)),
        ("decord_video_90.mov", (568, 320), (56, 32)),
        ("decord_video_180.mov", (320, 568), (32, 56)),
        ("decord_video_270.mov", (568, 320), (56, 32)),
        ("odd_161x121_h264.mp4", (121, 161), (32, 42)),
    ],
)
def test_real_videos_upright_and_turned(
    real_data: Path, tmp_path: Path, file: str, source: tuple[int, int], size: tuple[int, int]
) -> None:
    settings = ExtractionSettings(str(real_data / "bad"), str(tmp_path / "s"), short_side=32)
    store = create_store(settings.store, settings.numerics())
    extract_video(settings, Video("v", file, None, None, {}))
    (row,) = store.videos().to_dict("records")
    assert (row["source_height"], row["source_width"]) == source
    assert (row["height"], row["width"]) == size
    assert store.read_flow("v").shape == (row["decoded_frames"] - 1, 2, *size)


@pytest.fixture
def mixed_store(tmp_path: Path, make_store: Callable[..., Path]) -> Path:
    """Twelve labelled videos of three sizes with a shorter side of 18 px, two classes."""
    rng = np.random.default_rng(0)
    shapes = [(18, 24), (24, 18), (18, 18)]
    names = [f"v{n:02d}" for n in range(12)]
    flows = {
        name: rng.normal(n % 2, 0.3, (8 + n, 2, *shapes[n % 3])).astype(np.float32)
        for n, name in enumerate(names)
    }
    return make_store(
        tmp_path,
        flows,
        labels={name: "AB"[n % 2] for n, name in enumerate(names)},
        groups={name: name for name in names},
        folds={name: {"fold1": "train" if n < 8 else "test"} for n, name in enumerate(names)},
    )


TINY = [
    "num_segments=4",
    "num_observed=3",
    "num_flows=2",
    "spacing=1",
    "width=2",
    "batch_size=4",
    "log_every=1",
]


def pretrain(store: Path, run: Path, crop: str, code: int = 0) -> Result:
    settings = [word for setting in [*TINY, f"size={crop}"] for word in ("--set", setting)]
    return flowcpc("pretrain", store, run, "--preset", "tiny", "--steps", 2, *settings, code=code)


def test_training_takes_crops_of_one_size_out_of_all(mixed_store: Path, tmp_path: Path) -> None:
    pretrain(mixed_store, tmp_path / "run", "18x18")
    table = json.loads(
        flowcpc(
            "evaluate", mixed_store, tmp_path / "run", "--set", "linear_steps=3", "--json"
        ).stdout
    )
    assert {row["videos"] for row in table} == {4}
    flowcpc("embed", mixed_store, tmp_path / "run")
    rows = flowcpc(
        "query", mixed_store, "SELECT count(DISTINCT video_id) AS n FROM embeddings", "--as", "csv"
    ).stdout
    assert rows == "n\n12\n"


def test_a_crop_that_does_not_fit_every_video_is_refused(mixed_store: Path, tmp_path: Path) -> None:
    sentence = (
        pretrain(mixed_store, tmp_path / "run", "18x20", code=2).stderr.strip().splitlines()[-1]
    )
    assert "size=18x20 does not fit 5 of 8 videos in" in sentence
    assert (
        "for example v01, which is 24x18; set a smaller size, or extract at a larger size"
        in sentence
    )
