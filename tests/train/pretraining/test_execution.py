import dataclasses
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkout import ROOT
from train_cases import CONFIG, small_store

from flowcpc.train.pretraining import execution
from flowcpc.train.pretraining.distributed import Ranks
from flowcpc.train.pretraining.execution import Execution, check_execution, uses_bf16
from flowcpc.train.pretraining.loop import pretrain
from flowcpc.train.runs.checkpoint import require_checkpoint

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)

COMPILED = """
import torch
from flowcpc.train.pretraining.execution import Execution, compiled
layers = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
numbers = torch.randn(5, 4)
torch.testing.assert_close(compiled(layers, Execution(compile=True))(numbers), layers(numbers))
"""


def test_plain_execution_works_everywhere() -> None:
    check_execution(Execution(), CONFIG, ALONE)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"cuda_graphs": True},
            "--cuda-graphs needs an NVIDIA GPU, and this is a cpu; leave it out",
        ),
        ({"compile": True}, r"--compile needs a C\+\+ compiler .*install one or leave it out"),
        (
            {"tensorboard": True},
            r"--tensorboard needs .* pip install 'flowcpc\[tensorboard\]'",
        ),
        ({"wandb": True}, r"pip install 'flowcpc\[wandb\]'"),
    ],
)
def test_what_this_machine_cannot_do_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, bool], words: str
) -> None:
    monkeypatch.setattr(execution.shutil, "which", lambda name: None)
    monkeypatch.setattr(execution.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=words):
        check_execution(Execution(**asked), CONFIG, ALONE)


def test_cuda_graphs_are_for_one_process() -> None:
    with pytest.raises(ValueError, match="is for one process, and there are 2"):
        check_execution(Execution(cuda_graphs=True), CONFIG, Ranks(0, 2, torch.device("cuda", 0)))


def test_bf16_on_a_cpu_is_refused_for_maps_of_one_point() -> None:
    config = dataclasses.replace(CONFIG, precision="bf16")
    with pytest.raises(ValueError, match="precision=bf16 needs a size above 16x16 on a CPU"):
        check_execution(Execution(), config, ALONE)
    check_execution(Execution(), dataclasses.replace(config, size=(16, 18)), ALONE)


def test_a_number_of_workers() -> None:
    with pytest.raises(ValueError, match="workers must be at least 0, got -1"):
        Execution(workers=-1)


def test_bf16_where_it_is_asked_for() -> None:
    assert [uses_bf16(name, CPU) for name in ("auto", "float32", "bf16")] == [False, False, True]


def test_a_refusal_leaves_no_folder(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    store = small_store(tmp_path, make_store)
    with pytest.raises(ValueError, match="--cuda-graphs"):
        pretrain(store, tmp_path / "run", CONFIG, Execution(cuda_graphs=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_loader_processes_change_nothing(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    store = small_store(tmp_path, make_store)
    config = dataclasses.replace(CONFIG, steps=4)
    pretrain(store, tmp_path / "thread", config)
    pretrain(store, tmp_path / "processes", config, Execution(workers=2))
    a, b = (require_checkpoint(tmp_path / name).tensors for name in ("thread", "processes"))
    assert all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_code_computes_the_same(tmp_path: Path) -> None:
    """In a process of its own: the compiler starts processes and keeps a cache."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    answer = subprocess.run(
        [sys.executable, "-c", COMPILED],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=280,
    )
    assert answer.returncode == 0, answer.stderr


def test_the_checkpoint_of_a_compiled_model_has_plain_names(
    tmp_path: Path, make_store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend "eager" traces the model as the compiler does.

    It saves the minutes that code generation takes.
    """
    monkeypatch.setattr(
        execution.torch, "compile", functools.partial(torch.compile, backend="eager")
    )
    monkeypatch.setattr(execution.shutil, "which", lambda name: f"/bin/{name}")
    store = small_store(tmp_path, make_store)
    pretrain(store, tmp_path / "compiled", CONFIG, Execution(compile=True))
    pretrain(store, tmp_path / "plain", CONFIG)
    a, b = (require_checkpoint(tmp_path / name) for name in ("compiled", "plain"))
    assert a.tensors.keys() == b.tensors.keys()
    for name, value in a.tensors.items():
        torch.testing.assert_close(value, b.tensors[name], rtol=1e-2, atol=1e-2, msg=name)


def test_more_workers_than_cores_can_feed_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--workers must be at most \d+ on \d+ cores, got 9999"):
        check_execution(Execution(workers=9999), CONFIG, ALONE)
