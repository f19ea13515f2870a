"""An evaluation with killed processes and with truncated, incomplete or invalid weights."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from checkout import ROOT
from click.testing import CliRunner
from train_cases import EVALUATION_WORDS

from flowcpc.commands import main

SETTINGS = [word for setting in EVALUATION_WORDS for word in ("--set", setting)]


def replace_weights(run: Path, data: bytes) -> None:
    """Replace the weights and their checksum, as an attacker would."""
    meta = json.loads((run / "checkpoint.json").read_bytes())
    (run / meta["weights"]).write_bytes(data)
    meta["sha256"] = hashlib.sha256(data).hexdigest()
    (run / "checkpoint.json").write_text(json.dumps(meta))


def refused(store: Path, run: Path, *words: str, mode: str = "linear") -> None:
    result = CliRunner().invoke(
        main.main, ["evaluate", str(store), str(run), "--mode", mode, *SETTINGS]
    )
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(run.glob("evaluate/*/results.parquet"))


@pytest.mark.parametrize("mode", ["linear", "finetune", "knn"])
def test_partial_weights_are_refused_with_the_keys_named(store: Path, run: Path, mode: str) -> None:
    (file,) = run.glob("weights-*.safetensors")
    tensors = safetensors.torch.load(file.read_bytes())
    kept = tensors.pop("model.encoder.stem.0.weight")
    tensors["model.encoder.stem.9.weight"] = kept
    replace_weights(run, safetensors.torch.save(tensors))
    refused(store, run, "stem.0.weight is missing", "stem.9.weight is unexpected", mode=mode)


class Harmful:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_in_place_of_the_weights_is_refused_and_not_executed(
    store: Path, run: Path, tmp_path: Path
) -> None:
    harm = tmp_path / "harm"
    torch.save(Harmful(harm), tmp_path / "weights.pt")
    torch.load(tmp_path / "weights.pt", weights_only=False)
    assert harm.exists()  # this is what loading a pickle does
    harm.unlink()
    for data in ((tmp_path / "weights.pt").read_bytes(), pickle.dumps(Harmful(harm))):
        replace_weights(run, data)
        refused(store, run, "checkpoint.json cannot be used")
        assert not harm.exists()
    refused(store, tmp_path / "weights.pt", "holds no checkpoint of a run")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["linear", "scratch"])
def test_a_process_killed_at_any_moment_goes_on(
    store: Path, run: Path, mode: str, tmp_path: Path
) -> None:
    """After kill -9 in the second unit, the same command reads the first one.

    All results equal those of an undisturbed run.
    """
    command = [
        sys.executable, str(ROOT / "cli.py"), "evaluate", str(store), str(run),
        "--mode", mode, "--seeds", "0,1", *SETTINGS,
        "--set", "linear_steps=150", "--set", "finetune_steps=150",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while (
            not list(run.glob("evaluate/*-seed0/results.parquet")) and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        time.sleep(0.3)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not list(run.glob("evaluate/*-seed1/results.parquet"))
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=True
    )
    assert f"read the finished results in {run}/evaluate/{mode}-all-fold1-seed0" in done.stderr
    names = [f"{mode}-all-fold1-seed{seed}" for seed in (0, 1)]
    after = [pd.read_parquet(run / "evaluate" / name / "predictions.parquet") for name in names]
    (run / "evaluate").rename(tmp_path / "disturbed")
    subprocess.run(command, env=environment, capture_output=True, timeout=200, check=True)
    for name, found in zip(names, after, strict=True):
        pd.testing.assert_frame_equal(
            pd.read_parquet(run / "evaluate" / name / "predictions.parquet"), found
        )


@pytest.mark.slow
def test_sigterm_saves_and_exits_75(store: Path, run: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "evaluate",
        str(store),
        str(run),
        *SETTINGS,
        "--set",
        "linear_steps=100000",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (
            run / "evaluate" / "linear-all-fold1-seed0" / "state-pretrained.safetensors"
        ).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 75, stderr
    assert "run the same command to resume: flowcpc evaluate" in stderr
