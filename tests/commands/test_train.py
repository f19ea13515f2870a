"""Pretraining as a user starts, stops and kills it."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from checkout import ROOT
from click.testing import CliRunner
from loop_cases import assert_same_run

from flowcpc.commands import console, main, train
from flowcpc.train.pretraining import loop
from flowcpc.train.pretraining.execution import Execution
from flowcpc.train.pretraining.training_run import PretrainResult
from flowcpc.train.runs.checkpoint import load_checkpoint, require_checkpoint
from flowcpc.train.settings.config import PretrainConfig

KILLS = int(os.environ.get("FLOWCPC_TRAINING_KILLS", "2"))
SETTINGS = [
    "num_segments=4",
    "num_observed=3",
    "num_flows=2",
    "size=16x16",
    "width=2",
    "batch_size=4",
    "checkpoint_every=3",
    "log_every=2",
]
SMALL = ["--preset", "tiny", *(word for setting in SETTINGS for word in ("--set", setting))]


def start(store: Path, run: Path, *words: object) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "pretrain",
        str(store),
        str(run),
        *SMALL,
        *map(str, words),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_for_step(run: Path, step: int) -> None:
    """Until the run's checkpoint is at `step` or behind it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = load_checkpoint(run)
        if found is not None and found.step >= step:
            return
        time.sleep(0.05)
    raise TimeoutError(f"{run} has not reached step {step}")


@pytest.mark.slow
def test_killed_at_random_moments_the_run_becomes_the_undisturbed_one(
    store: Path, tmp_path: Path
) -> None:
    last = 20 + 30 * KILLS
    steps = ["--steps", last, "--set", "validate_every=7", "--tensorboard"]
    moments = random.Random(0)
    reached = 0
    for _ in range(KILLS):
        process = start(store, tmp_path / "killed", *steps)
        wait_for_step(tmp_path / "killed", reached + 3)
        time.sleep(moments.random() / 4)
        process.kill()
        process.communicate()
        reached = require_checkpoint(tmp_path / "killed").step
    assert reached < last, "the last kill came too late to test anything"
    for name in ("killed", "calm"):
        process = start(store, tmp_path / name, *steps)
        out, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
        assert f"step {last} of {last}" in out
    assert_same_run(tmp_path / "calm", tmp_path / "killed")
    assert not list((tmp_path / "killed").glob(".*.tmp"))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, console.PREEMPTED),
        pytest.param(signal.SIGINT, console.INTERRUPTED, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_leaves(
    store: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start(
        store, tmp_path / "run", "--steps", 100_000, "--set", "validate_every=2"
    )  # mostly measuring
    wait_for_step(tmp_path / "run", 3)
    process.send_signal(number)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert "stopped early; run the same command to resume: flowcpc pretrain" in said
    step = require_checkpoint(tmp_path / "run").step
    assert step >= 3
    (answer,) = [
        line for line in again(store, tmp_path / "run", step + 1).splitlines() if "resumed" in line
    ]
    assert answer == f"resumed from step {step}"


def again(store: Path, run: Path, steps: int) -> str:
    """Return the output of the same command up to `steps`, in a copy: steps may only grow."""
    process = start(store, run, "--steps", 100_000, "--set", "validate_every=2")
    wait_for_step(run, steps)
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=60)
    assert process.returncode == console.PREEMPTED, said
    return said


@pytest.mark.slow
def test_a_second_ctrl_c_ends_it(store: Path, tmp_path: Path) -> None:
    process = start(store, tmp_path / "run", "--steps", 100_000)
    wait_for_step(tmp_path / "run", 3)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == console.INTERRUPTED
    assert require_checkpoint(tmp_path / "run").step >= 3


def test_options_reach_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[object, ...]] = []

    def pretrain(*words: object, **named: object) -> PretrainResult:
        called.append(words)
        return PretrainResult(False, 0, 1, 0.0, 0.0, 2, 0.5, None, 2)

    monkeypatch.setattr(loop, "pretrain", pretrain)
    (tmp_path / "settings.yaml").write_text("preset: tiny\nbatch_size: 8\n")
    words = [
        "--config",
        tmp_path / "settings.yaml",
        "--set",
        "seed=3",
        "--steps",
        9,
        "--gamma",
        0.5,
    ]
    words += [
        "--workers",
        2,
        "--compile",
        "--cuda-graphs",
        "--tensorboard",
        "--wandb",
        "--modality",
        "flow",
    ]
    result = CliRunner().invoke(main.main, ["pretrain", "S", "R", *map(str, words)])
    assert result.exit_code == console.PREEMPTED  # as a process that stops with another one
    ((store, run, config, execution),) = called
    assert (store, run) == (Path("S"), Path("R"))
    assert execution == Execution(
        workers=2, compile=True, cuda_graphs=True, tensorboard=True, wandb=True
    )
    assert isinstance(config, PretrainConfig)
    assert (config.preset, config.batch_size, config.seed, config.steps) == ("tiny", 8, 3, 9)
    assert config.learning_rates[1][1] == config.learning_rates[0][1] * 0.5


def test_every_command_is_listed() -> None:
    listed = {command.name for command in train.COMMANDS}
    assert listed == {"pretrain", "presets"}
    assert all(isinstance(main.main.commands[name], click.Command) for name in listed)


def test_a_run_goes_on_with_its_own_settings(store: Path, tmp_path: Path) -> None:
    for words in ([*SMALL, "--steps", "2"], ["--steps", "3"]):
        result = CliRunner().invoke(
            main.main, ["pretrain", str(store), str(tmp_path / "run"), *words]
        )
        assert result.exit_code == 0, result.output
    assert "using settings from" in result.stderr
    assert "step 3 of 3" in result.stdout
    (tmp_path / "run" / "metrics.jsonl").unlink()
    result = CliRunner().invoke(main.main, ["pretrain", str(store), str(tmp_path / "run")])
    assert result.exit_code == 0, "a run without its metrics is a run"
