"""A training of every preset.

`make test` trains a little; `make presets` trains on real clips.
"""

import json
import math
import os
import re
from pathlib import Path

import pytest
import train_cases  # noqa: F401  (one thread for torch)
from click.testing import CliRunner, Result

from flowcpc.commands import main
from flowcpc.commands.settings import pretrain_config
from flowcpc.train.runs.metrics import read_metrics
from flowcpc.train.settings.config import PretrainConfig
from flowcpc.train.settings.presets import PRESETS

TRAINED = [name for name, preset in PRESETS.items() if preset.pretrained]


def flowcpc(*words: object) -> Result:
    return CliRunner().invoke(main.main, [str(word) for word in words])


def trains(store: Path, run: Path, name: str, steps: int, changes: dict[str, object]) -> None:
    """Pretrain by the command; every loss is finite and the classes are those announced."""
    settings = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    result = flowcpc(
        "pretrain",
        store,
        run,
        "--preset",
        name,
        "--steps",
        steps,
        "--set",
        "log_every=1",
        *settings,
    )
    assert result.exit_code == 0, result.output
    config = PretrainConfig.from_json(json.loads((run / "config.json").read_text()))
    assert (
        config.identity()
        == pretrain_config(name, settings=[*settings[1::2], "log_every=1"]).identity()
    )
    others, own = (
        changes["batch_size"] - 1,
        config.num_segments if config.difficult_negatives else 1,
    )
    classes = others * config.num_segments + own
    assert re.search(rf"\b{classes} classes\b", result.stderr)
    losses = [line["loss"] for line in read_metrics(run) if "loss" in line]
    assert len(losses) == steps
    assert all(math.isfinite(loss) for loss in losses)


def test_the_baseline_of_initial_weights_is_not_trained(tmp_path: Path) -> None:
    result = flowcpc("pretrain", tmp_path / "store", tmp_path / "run", "--preset", "table5-random")
    assert result.exit_code == 2
    assert "nothing to pretrain" in result.stderr
    assert not (tmp_path / "run").exists()


def extracted(videos: Path, store: Path, *options: object) -> Path:
    """A store of flow and frames of some videos in the layout of UCF-101.

    The lists of the videos are in the folder beside theirs.
    """
    lists = ["--dataset", "ucf101", "--annotations", videos.parent / "annotations"]
    result = flowcpc(
        "extract-flow", videos, store, *lists, "--backend", "cpu", "--with-frames", *options
    )
    assert result.exit_code == 0, result.output
    return store


@pytest.fixture(scope="module")
def synthetic_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("presets")
    made = flowcpc(
        "synth",
        folder / "synth",
        "--groups",
        4,
        "--clips-per-group",
        1,
        "--frames",
        15,
        "--size",
        "36x48",
    )
    assert made.exit_code == 0, made.output
    return extracted(
        folder / "synth" / "videos",
        folder / "store",
        "--limit",
        26,
        "--size",
        "24x32",
        "--workers",
        0,
    )


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("table1-image", "table3-model2-lstm", "table4-difficult")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in TRAINED
    ],
)
def test_a_few_steps(name: str, synthetic_store: Path, tmp_path: Path) -> None:
    trains(
        synthetic_store, tmp_path / "run", name, 2, {"size": "16x16", "width": 2, "batch_size": 3}
    )


@pytest.fixture(scope="module")
def real_store(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flow and frames of 24 clips of UCF-101, four of each of six classes."""
    if not os.environ.get("FLOWCPC_PRESETS"):
        pytest.skip("every preset on real clips takes minutes; make presets does it")
    store = tmp_path_factory.mktemp("presets") / "store"
    return extracted(real_data / "ucf6" / "videos", store, "--limit", 24, "--size", "48x64")


@pytest.mark.parametrize("name", TRAINED)
def test_twenty_steps_on_real_clips(name: str, real_store: Path, tmp_path: Path) -> None:
    trains(real_store, tmp_path / "run", name, 20, {"size": "40x40", "width": 8, "batch_size": 4})
