"""Motion statistics; they cannot tell the order classes of the synthetic data apart."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from flowcpc.commands import main
from flowcpc.pipeline.synthetic.dataset import SyntheticParameters, write_dataset
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.train.evaluation.classifiers.motion_statistics import (
    forest_shares,
    motion_statistics,
)


def test_statistics_by_obvious_loops(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    flows = {
        name: rng.normal(size=(count, 2, 8, 8)).astype(np.float32)
        for name, count in {"a": 7, "b": 1}.items()
    }
    store = open_store(make_store(tmp_path, flows))
    table = motion_statistics(store, ["b", "a"])
    assert table.index.tolist() == ["b", "a"]
    assert table.shape == (2, 10)
    for video_id, row in table.iterrows():
        flow = store.read_flow(video_id).astype(np.float64)
        speed = [float(np.hypot(*frame).mean()) for frame in flow]
        u, v = flow[:, 0].mean(axis=(1, 2)), flow[:, 1].mean(axis=(1, 2))
        drift = np.hypot(u.mean(), v.mean())
        expected = [
            np.mean(speed), np.std(speed), np.quantile(speed, 0.1), np.quantile(speed, 0.9),
            u.mean(), v.mean(), u.std(), v.std(), drift, drift / np.hypot(u, v).mean(),
        ]  # fmt: skip
        np.testing.assert_allclose(row, expected, atol=2e-5)


def test_nothing_that_moves_gives_numbers(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    store = open_store(make_store(tmp_path, {"still": np.zeros((3, 2, 4, 4), np.float32)}))
    assert motion_statistics(store, ["still"]).to_numpy().tolist() == [[0.0] * 10]


def test_the_forest_tells_what_the_statistics_tell_and_always_the_same() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 2], 20)
    values = rng.normal(size=(40, 10)) + 3 * labels[:, None]
    first = forest_shares(values[::2], labels[::2], values[1::2], 4)
    assert first.shape == (20, 4)
    assert (first.argmax(axis=1) == labels[1::2]).all()
    np.testing.assert_array_equal(first, forest_shares(values[::2], labels[::2], values[1::2], 4))


ORDER = ("LeftThenRight", "RightThenLeft")
STEADY = ("TranslateLeft", "TranslateRight")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> FlowStore:
    """24 clips of each of two classes that differ in order only, and of two that differ in mean."""
    folder = tmp_path_factory.mktemp("order")
    parameters = SyntheticParameters(
        groups=24, clips_per_group=1, frames=21, size=(48, 64), classes=(*ORDER, *STEADY)
    )
    write_dataset(folder / "synth", parameters)
    lists = [
        "--dataset",
        "ucf101",
        "--annotations",
        f"{folder}/synth/annotations",
        "--size",
        "36x48",
        "--workers",
        "0",
    ]
    result = CliRunner().invoke(
        main.main, ["extract-flow", f"{folder}/synth/videos", f"{folder}/flow", *lists]
    )
    assert result.exit_code == 0, result.output
    return open_store(folder / "flow")


def accuracy(store: FlowStore, classes: tuple[str, str], values: pd.DataFrame) -> tuple[float, int]:
    """Top-1 of the forest on the test clips of the three folds together, and how many they are."""
    videos = store.videos()
    chosen = videos["label"].isin(classes).to_numpy()
    videos, numbers = videos[chosen], values.to_numpy(np.float64)[chosen]
    labels = (videos["label"] == classes[1]).to_numpy(np.int64)
    right = []
    for fold in ("fold1", "fold2", "fold3"):
        test = (videos[fold] == "test").to_numpy()
        right.append(
            forest_shares(numbers[~test], labels[~test], numbers[test], 2).argmax(axis=1)
            == labels[test]
        )
    hits = np.concatenate(right)
    return float(hits.mean()), len(hits)


@pytest.mark.slow
def test_motion_statistics_do_not_tell_the_order_classes_apart(synthetic: FlowStore) -> None:
    """Within three standard errors of chance; steady motion, and half a clip, are easy."""
    videos = synthetic.videos()
    statistics = motion_statistics(synthetic, videos["video_id"].tolist())
    found, count = accuracy(synthetic, ORDER, statistics)
    assert count >= 40
    assert abs(found - 0.5) <= 3 * np.sqrt(0.25 / count), f"{found:.0%} of {count} clips"
    assert accuracy(synthetic, STEADY, statistics)[0] >= 0.9
    frames = synthetic.frames()
    first_half = (
        frames[frames["frame"] < 10].groupby("video_id")[["mean_u"]].mean().loc[videos["video_id"]]
    )
    assert accuracy(synthetic, ORDER, first_half)[0] >= 0.9
