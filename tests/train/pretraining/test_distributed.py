import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkout import ROOT
from loop_cases import assert_same_run
from recorder import Recorder
from train_cases import CONFIG, StopAfter
from two_ranks import GRADIENT_CASES, gradient_config, gradients

from flowcpc.train.pretraining.distributed import Ranks, is_main_process, joined, rivals_of
from flowcpc.train.pretraining.loop import pretrain
from flowcpc.train.runs.checkpoint import require_checkpoint
from flowcpc.train.runs.metrics import read_metrics

CPU = torch.device("cpu")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]


def two_processes(*words: object) -> subprocess.CompletedProcess[str]:
    """Run Python's `words` in two processes that know of each other."""
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support/helpers'}",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [*TORCHRUN, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
        timeout=240,
    )


def test_two_processes_compute_the_gradient_of_one(tmp_path: Path) -> None:
    answer = two_processes(ROOT / "tests/support/training/two_ranks.py", "exchange", tmp_path)
    assert answer.returncode == 0, answer.stderr
    for case in GRADIENT_CASES:
        loss, expected = gradients(gradient_config(case), case, Ranks(0, 1, CPU))
        for rank in range(2):
            found = torch.load(tmp_path / f"{case}-{rank}.pt")
            assert found["loss"] == pytest.approx(loss, abs=1e-6)
            assert found["gradients"].keys() == expected.keys()
            for name, value in expected.items():
                atol = 1e-6 * max(1.0, value.abs().max().item())
                torch.testing.assert_close(
                    found["gradients"][name], value, rtol=0, atol=atol, msg=f"{case} {name}"
                )


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_the_run_goes_on_bit_for_bit(
    store: Path, tmp_path: Path
) -> None:
    for job in ("train", "stop", "go_on"):
        answer = two_processes(ROOT / "tests/support/training/two_ranks.py", job, tmp_path)
        assert answer.returncode == 0, answer.stderr
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    lines = read_metrics(tmp_path / "whole")
    assert [line["step"] for line in lines] == [2, 4, 6, 7, 7]
    assert {line["classes"] for line in lines if "classes" in line} == {
        5
    }  # one other video of four segments, and one
    assert lines[0]["bytes_per_step"] == 4 * 4 * 2 * 2 * 16 * 16
    assert lines[-1]["held_out_videos"] == 4


@pytest.mark.slow
def test_a_killed_process_takes_the_other_along(store: Path, tmp_path: Path) -> None:
    answer = two_processes(ROOT / "tests/support/training/two_ranks.py", "die", tmp_path)
    assert answer.returncode != 0
    assert require_checkpoint(tmp_path / "dead").step == 3


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(store: Path, tmp_path: Path) -> None:
    """Begun alone, gone on with two processes through the command line, against all of it alone."""
    config = dataclasses.replace(CONFIG, norm="gn", negatives="global")
    pretrain(store, tmp_path / "whole", config)
    pretrain(store, tmp_path / "parts", config, listener=Recorder(stop=StopAfter(4)))
    words = [
        word for name, value in settings_of(config).items() for word in ("--set", f"{name}={value}")
    ]
    answer = two_processes(
        "-m", "flowcpc", "pretrain", store, tmp_path / "parts", "--preset", "tiny", *words
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("resumed from step 4") == 1
    assert (
        answer.stderr.count(
            "2 processes share each batch of 4; negatives come from the whole batch"
        )
        == 1
    )
    assert "13 classes" in answer.stderr
    assert answer.stdout.count("step 7 of 7") == 1
    for a, b in zip(
        read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "parts"), strict=True
    ):
        assert a["step"] == b["step"]
        for name in ("loss", "held_out_loss", "stride", "bytes_per_step"):
            if name in a:
                assert b[name] == pytest.approx(a[name], rel=1e-2), (a["step"], name)


def settings_of(config: object) -> dict[str, str]:
    """Values as --set reads them, apart from the preset's name."""
    written = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, bool):
            value = str(value).lower()
        elif field.name == "size":
            value = "x".join(map(str, value))
        elif isinstance(value, tuple):
            value = ",".join(f"{step}:{rate}" for step, rate in value)
        written[field.name] = value
    del written["preset"]
    return written


def test_alone_everything_is_what_it_was() -> None:
    with joined() as ranks:
        assert (ranks.rank, ranks.count, ranks.is_main, is_main_process()) == (0, 1, True, True)
        model, latents = torch.nn.Linear(2, 2), torch.randn(2, 3, 4)
        assert ranks.together(model) is model
        assert ranks.gather(latents) is latents
        assert (ranks.any(True), ranks.any(False)) == (True, False)
        assert ranks.mean([1.5, 2]) == [1.5, 2]
        assert ranks.main_first(lambda: 5) == 5


def test_who_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "x",
    }.items():
        monkeypatch.setenv(name, value)
    assert is_main_process()  # a WORLD_SIZE that a cluster sets for its own purposes is no torchrun
    monkeypatch.setenv("MASTER_PORT", "1")
    assert not is_main_process()


def test_what_predictions_are_compared_with() -> None:
    local, of_all = CONFIG, dataclasses.replace(CONFIG, negatives="global")
    ranks = Ranks(1, 2, CPU)
    assert rivals_of(local, ranks) == (Ranks(0, 1, CPU), 5)
    assert rivals_of(dataclasses.replace(local, difficult_negatives=True), ranks)[1] == 8
    assert rivals_of(of_all, ranks) == (ranks, 13)
    with pytest.raises(
        ValueError, match="batch_size must be a multiple of the number of processes, 3, got 4"
    ):
        rivals_of(of_all, Ranks(0, 3, CPU))
    with pytest.raises(ValueError, match=r"batch_size=4 .* 4 processes; set negatives=global"):
        rivals_of(local, Ranks(0, 4, CPU))
    assert rivals_of(of_all, Ranks(3, 4, CPU))[1] == 13
