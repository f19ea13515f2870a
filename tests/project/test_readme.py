"""The Python examples of the README and docs run, on a small data set under the README's names."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from checkout import ROOT
from click.testing import CliRunner

import flowcpc
from flowcpc.commands import main

DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] + [
    path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))
]
SMALL_RUN = ["--preset", "tiny", "--steps", "4"]
for setting in ("batch_size=4", "num_flows=2", "size=32x32", "width=4"):
    SMALL_RUN += ["--set", setting]


def run(*words: object) -> None:
    result = CliRunner().invoke(main.main, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ucf101.flow and runs/conv3d, made by the README's commands from `synth`."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        clips = ["--groups", 4, "--clips-per-group", 1, "--frames", 15, "--size", "48x64"]
        run("synth", "synth", *clips)
        lists = ["--dataset", "ucf101", "--annotations", "synth/annotations"]
        small = ["--size", "32x32", "--workers", 0, "--limit", 26, "--with-frames"]
        run("extract-flow", "synth/videos", "ucf101.flow", *lists, *small)
        run("pretrain", "ucf101.flow", "runs/conv3d", *SMALL_RUN)
        labels = ["--labels-per-class", "all,2", "--folds", 1, "--seeds", "0,1"]
        linear = ["--mode", "linear", *labels, "--set", "linear_steps=4"]
        run("evaluate", "ucf101.flow", "runs/conv3d", *linear)
        finetune = ["--mode", "finetune", "--set", "finetune_steps=2"]
        run("evaluate", "ucf101.flow", "runs/conv3d", *finetune)
        run("embed", "ucf101.flow", "runs/conv3d")
    return folder


def python_blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def test_the_readme_s_pandas_examples_run(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    blocks = python_blocks("README.md")
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert len(names["videos"]) == 26
    assert names["flow"].shape == (10, 2, 32, 32)
    assert names["vectors"].shape[1] == 32
    assert set(names["results"]["encoder"]) == {
        "pretrained",
        "random",
        "shuffled labels",
        "motion statistics",
    }
    assert "TranslateLeft" in capsys.readouterr().out


def test_the_store_page_s_plain_zarr_example_runs(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    (block,) = python_blocks("docs/stores/store.md")
    (path, *_) = sorted(Path("ucf101.flow/flow").glob("*/*"))
    names: dict[str, object] = {}
    exec(re.sub(r'"ucf101\.flow/flow/[^"]*"', repr(str(path)), block), names)
    assert names["flow"].shape == (10, 2, 32, 32)


def test_the_embeddings_page_s_example_runs(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    block = python_blocks("docs/stores/embeddings.md")[0]
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["vectors"].shape == (len(names["rows"]), 32)
    assert set(names["rows"]["split"]) == {"test"}


def test_the_recipes_run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of docs/stores/recipes.md, in order, as a reader would paste them."""
    monkeypatch.chdir(workplace)
    page = (ROOT / "docs/stores/recipes.md").read_text()
    broken = {
        "video_id": "v_Broken",
        "path": "v_Broken.avi",
        "label": "X",
        "group": None,
        "folds": {},
    }
    flowcpc.open_store("ucf101.flow").record_failure(
        {**broken, "kind": "file", "reason": "the file is empty", "attempts": 1}
    )
    answers: list[str] = []
    names: dict[str, Any] = {}
    for language, block in re.findall(r"```(python|sh)\n(.*?)```", page, re.DOTALL):
        if language == "python":
            exec(block, names)
        else:
            words = shlex.split(block)
            assert words[:2] == ["flowcpc", "query"]
            result = CliRunner().invoke(main.main, words[1:])
            assert result.exit_code == 0, result.output
            answers.append(result.stdout)
    assert re.findall(r"^## (\d+)\.", page, re.MULTILINE) == [str(n) for n in range(1, 11)]
    videos = names["videos"]
    static, clipped, missing, nearest, cuts, chosen = answers
    assert rows(static) == (names["segments"]["magnitude"] < 0.05).sum()
    assert rows(clipped) == (videos["clip_rate"] > 0).sum()
    assert "the file is empty" in missing
    assert rows(nearest) == 5
    assert "v_RotateClockwise_g01_c01" not in nearest
    assert rows(cuts) == (store_shots(videos) > 1).sum()
    assert chosen == ""
    segments = pd.read_parquet("segments.parquet")
    assert 0 < len(segments) < len(names["segments"])
    assert (segments["stop"] - segments["start"] == 10).all()
    assert set(names["fastest"].index) == set(videos["label"])
    assert len(names["disagree"]) == 0
    assert (
        names["drift"].loc["TranslateRight", "mean_u"]
        > names["drift"].loc["TranslateLeft", "mean_u"]
    )
    assert (names["cost"]["kb_per_flow"] > 0).all()
    assert names["frame"].shape == names["flow_picture"].shape == (32, 32, 3)
    assert Path("frame.png").is_file()


def test_the_evaluation_page_s_examples_run(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    names: dict[str, Any] = {"segments": torch.zeros(3, 8, 4, 32, 32)}
    for block in python_blocks("docs/training/evaluation.md"):
        exec(block, names)
    assert names["logits"].shape == (3, len(names["classes"]))
    results = names["results"]
    assert set(results["labels_per_class"]) == {"all", "2"}
    assert len(results) == 2 * 2 * 7 + 3
    assert capsys.readouterr().out.count("motion statistics") >= 2


def rows(answer: str) -> int:
    """Number of rows of a table that `flowcpc query` printed."""
    return 0 if answer.endswith("no rows\n") else len(answer.splitlines()) - 1


def store_shots(videos: pd.DataFrame) -> "pd.Series[int]":
    """Number of shots of every video of the store that the recipes name."""
    shots = flowcpc.open_store("ucf101.flow").shots()
    assert set(shots["video_id"]) == set(videos["video_id"])
    return shots.groupby("video_id").size()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_a_document_names_exists(document: str) -> None:
    """Paths of modules, tests, benchmarks and pages, in backticks."""
    text = (ROOT / document).read_text()
    rooms = r"(?:benchmarks|commands|docs|flowcpc|pipeline|stores|tests|train)"
    paths = set(re.findall(rf"`({rooms}/[\w/.]*[\w/])`", text))
    absent = {path for path in paths if not (ROOT / path).exists()}
    modules = set(re.findall(r"`(flowcpc(?:\.\w+)+)`", text))
    absent |= {name for name in modules if not _can_be_imported(name)}
    assert not absent, f"{document} names {sorted(absent)}"


def _can_be_imported(name: str) -> bool:
    """Return whether `name` is a module of the package, or a name in one."""
    path = ROOT / "/".join(name.split(".")[1:])
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ImportError:
        return False
