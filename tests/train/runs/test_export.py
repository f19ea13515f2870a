import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from click.testing import CliRunner, Result
from embedding_cases import make_trained_run
from train_cases import CONFIG

from flowcpc.commands import main
from flowcpc.stores.base.errors import OperationError
from flowcpc.train.runs import export
from flowcpc.train.runs.checkpoint import load_encoder
from flowcpc.train.runs.export import FORMS, export_encoder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_trained_run(tmp_path_factory.mktemp("export"))


def flowcpc(*words: object) -> Result:
    return CliRunner().invoke(main.main, [str(word) for word in words])


@pytest.mark.parametrize("form", FORMS)
def test_it_gives_what_the_encoder_gives_for_any_batch(
    run: Path, tmp_path: Path, form: str
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxscript")
    result = flowcpc("export-encoder", run, tmp_path / f"out.{_suffix(form)}", "--to", form)
    assert result.exit_code == 0, result.output
    assert re.search(
        r"wrote .*out\.\w+; on random input it differs from the encoder by \S+ at most",
        result.stderr,
    )
    data = (tmp_path / f"out.{_suffix(form)}").read_bytes()
    exported = (export._load_torchscript if form == "torchscript" else export._load_onnx)(data)
    encoder = load_encoder(run)
    for count in (1, 2, 7):
        stacks = torch.randn(
            count, CONFIG.channels, *CONFIG.size, generator=torch.Generator().manual_seed(count)
        )
        with torch.no_grad():
            expected = encoder(stacks).numpy()
        np.testing.assert_allclose(exported(stacks), expected, atol=1e-5)
        assert exported(stacks).shape == (count, CONFIG.latent_size)


@pytest.mark.parametrize("form", FORMS)
def test_the_documented_code_loads_it_without_flowcpc(run: Path, tmp_path: Path, form: str) -> None:
    """The blocks of docs/stores/embeddings.md, in a process that has never heard of flowcpc."""
    if form == "onnx":
        pytest.importorskip("onnxscript")
    page = (ROOT / "docs/stores/embeddings.md").read_text()
    (block,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        if f"encoder.{_suffix(form)}" in code
    ]
    export_encoder(run, tmp_path / f"encoder.{_suffix(form)}", form)
    ending = (
        "assert not {'flowcpc', 'train', 'stores'} & {n.partition('.')[0] for n in sys.modules}"
    )
    ending += "\nprint(tuple(latents.shape), about['step'], about['config']['num_flows'])"
    answer = subprocess.run(
        [sys.executable, "-I", "-c", f"{block}\nimport sys\n{ending}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == f"(1, {CONFIG.latent_size}) {CONFIG.steps} {CONFIG.num_flows}"


def _suffix(form: str) -> str:
    return {"torchscript": "pt", "onnx": "onnx"}[form]


def test_one_that_differs_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = export._load_torchscript
    monkeypatch.setattr(
        export, "_load_torchscript", lambda data: lambda stacks: original(data)(stacks) + 2e-5
    )
    (tmp_path / "out.pt").write_bytes(b"before")
    with pytest.raises(
        OperationError, match=r"differs from the original by 2e-05, at most 1e-05 is allowed"
    ):
        export_encoder(run, tmp_path / "out.pt", "torchscript")
    assert (tmp_path / "out.pt").read_bytes() == b"before"


def test_what_cannot_be_done_is_one_sentence(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert flowcpc("export-encoder", tmp_path, tmp_path / "out.onnx", "--to", "onnx").exit_code == 2
    assert flowcpc("export-encoder", run, tmp_path / "out.pt").exit_code == 2
    with pytest.raises(ValueError, match="form must be one of torchscript, onnx, got 'tflite'"):
        export_encoder(run, tmp_path / "out.pt", "tflite")
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = flowcpc("export-encoder", run, tmp_path / "out.onnx", "--to", "onnx")
    assert result.exit_code == 2
    assert (
        "onnx is not installed; pip install 'flowcpc[onnx]', or export to torchscript"
        in result.stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_only_files_of_the_form_are_written(run: Path) -> None:
    """No file of a run ends so: not its weights either."""
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    for name in (f"weights-{CONFIG.steps}.safetensors", "config.json", "encoder.onnx", "encoder"):
        result = flowcpc("export-encoder", run, run / name, "--to", "torchscript")
        assert result.exit_code == 2, result.output
        assert f"torchscript needs a name that ends in .pt, got {run / name}" in result.stderr
    assert before == {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
