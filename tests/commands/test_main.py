"""Commands as a user types them: what they print, where, and with which exit code."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from builders import write_class_folders, write_video
from checkout import ROOT
from command_cases import SMALL, flowcpc, refused
from textures import moving_texture

from flowcpc.commands import main
from flowcpc.stores import layout
from flowcpc.stores.records import record_file


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "videos", {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)})


def test_every_command_has_help_and_stands_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for name, command in main.main.commands.items():
        assert command.help, name
        assert re.search(rf"flowcpc {name}\b", readme), f"README does not mention flowcpc {name}"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"
        assert flowcpc(name, "--help").exit_code == 0


def test_python_cli_and_module_and_script_are_the_same(tmp_path: Path) -> None:
    commands = [[sys.executable, str(ROOT / "cli.py")], [sys.executable, "-m", "flowcpc"]]
    outputs = [
        subprocess.run(
            [*command, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout
        for command in commands
    ]
    assert "extract-flow" in outputs[0]
    assert len({re.sub(r"Usage: .*? \[OPT", "", out) for out in outputs}) == 1


def test_stores_that_cannot_be_opened(videos: Path, tmp_path: Path) -> None:
    refused(flowcpc("info", tmp_path / "nowhere"), "is not a flowcpc store")
    flowcpc("extract-flow", videos, tmp_path / "s", "--limit", 1, *SMALL)
    file = tmp_path / "s" / layout.STORE_FILE
    record_file.write_record(file, {**record_file.read_record(file), "format_version": 4})
    refused(flowcpc("info", tmp_path / "s"), "has format version 4", "this release reads 3")
    refused(flowcpc("extract-flow", videos, tmp_path / "s", *SMALL), "has format version 4")


def test_a_store_that_lost_its_store_file_says_how_to_get_it_back(
    videos: Path, tmp_path: Path
) -> None:
    for name in ("s", "other"):
        flowcpc("extract-flow", videos, tmp_path / name, "--limit", 1, *SMALL)
    (tmp_path / "s" / layout.STORE_FILE).unlink()
    for words in (
        ["info", tmp_path / "s"],
        ["verify", tmp_path / "s"],
        ["extract-flow", videos, tmp_path / "s", *SMALL],
    ):
        refused(
            flowcpc(*words),
            "store.json is missing",
            "made with the same options",
        )
    shutil.copy(tmp_path / "other" / layout.STORE_FILE, tmp_path / "s")
    assert flowcpc("verify", tmp_path / "s").exit_code == 0


def test_no_output_is_written_into_a_store(videos: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    flowcpc("extract-flow", videos, store, "--limit", 1, *SMALL)
    (tmp_path / "link").symlink_to(store / "index")
    before = sorted((path, path.stat().st_mtime_ns) for path in store.rglob("*"))
    for out in (store / "store.json", store / "new" / "x", tmp_path / "link" / "x", store):
        for words in (
            ["query", store, "SELECT 1", "--out", out],
            ["show", store, "--out", out],
            ["export", store, out, "--layout", "tsn"],
            ["pretrain", store, out],
            ["synth", out],
        ):
            refused(flowcpc(*words), "lies in the store", "give a path outside of it")
    assert sorted((path, path.stat().st_mtime_ns) for path in store.rglob("*")) == before


def test_paths_that_cannot_be_written_or_read(videos: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    flowcpc("extract-flow", videos, store, "--limit", 1, *SMALL)
    refused(flowcpc("info", ""), "the path is empty")
    refused(flowcpc("query", store, "SELECT 1", "--out", ""), "the path is empty")
    refused(
        flowcpc("query", store, "SELECT 1", "--out", tmp_path),
        f"{tmp_path} is a folder; give the name of a file",
    )
    refused(
        flowcpc("show", store, "--out", tmp_path / "b.jpg"),
        "b.jpg",
        ".png (a sheet) or .gif or .webp (motion)",
    )
    (tmp_path / "afile").touch()
    for words in (
        ["extract-flow", videos, tmp_path / "afile" / "x", *SMALL],
        ["info", tmp_path / "afile" / "x"],
    ):
        refused(flowcpc(*words), str(tmp_path / "afile" / "x"))


def test_a_name_that_is_not_utf_8_is_one_sentence(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "X" / "v.avi", moving_texture(3, 24, 32, step=(1, 0)))
    (tmp_path / "flows" / "v").mkdir(parents=True)
    (tmp_path / "flows" / "v" / "flow_x_00001.jpg").touch()
    os.rename(
        tmp_path / "videos" / "X" / "v.avi", os.fsencode(tmp_path / "videos" / "X") + b"/\xff.avi"
    )
    os.rename(tmp_path / "flows" / "v", os.fsencode(tmp_path / "flows") + b"/\xff")
    refused(
        flowcpc("extract-flow", tmp_path / "videos", tmp_path / "s", *SMALL),
        r"b'X/\xff.avi' is not UTF-8; rename it",
    )
    refused(
        flowcpc("import", tmp_path / "flows", tmp_path / "s", "--layout", "tsn"),
        r"b'\xff' is not UTF-8; rename it",
    )


def test_show_draws_a_sheet(videos: Path, tmp_path: Path) -> None:
    flowcpc("extract-flow", videos, tmp_path / "s", *SMALL)
    assert flowcpc("show", tmp_path / "s", "--out", tmp_path / "sheet.png").exit_code == 0
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    refused(
        flowcpc("show", tmp_path / "s", "Left/v_Left_g01_c02", "--out", tmp_path / "x.png"),
        "did you mean",
    )


def test_pretrain_refuses_what_cannot_work(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    flow = np.zeros((30, 2, 48, 64), np.float32)
    names = [f"v{n}" for n in range(4)]
    store = make_store(
        tmp_path, dict.fromkeys(names, flow), folds={name: {"fold1": "train"} for name in names}
    )
    run = tmp_path / "run"
    refused(flowcpc("pretrain", tmp_path / "nowhere", run), "is not a flowcpc store")
    refused(flowcpc("pretrain", store, run, "--preset", "tinny"), "tinny", "tiny")
    refused(
        flowcpc("pretrain", store, run, "--preset", "tiny", "--set", "batchsize=4"),
        "batchsize",
        "batch_size",
    )
    refused(
        flowcpc("pretrain", store, run, "--preset", "tiny", "--set", "batch_size=x"),
        "batch_size",
        "x",
    )
    refused(
        flowcpc("pretrain", store, run, "--preset", "tiny", "--set", "batch_size=16"), "16", "4"
    )
    refused(
        flowcpc("pretrain", store, run, "--preset", "table1-flow", "--set", "batch_size=4"),
        "224x224",
        "48x64",
    )
    refused(flowcpc("evaluate", store, run), "run")
    refused(flowcpc("embed", store, run), "run")


@pytest.mark.parametrize(
    ("command", "option", "module", "constant"),
    [
        ("import", "layout", "flowcpc.pipeline.exchange.layouts", "LAYOUTS"),
        ("export", "layout", "flowcpc.pipeline.exchange.layouts", "LAYOUTS"),
        ("evaluate", "mode", "flowcpc.train.evaluation.modes", "MODES"),
        ("export-encoder", "form", "flowcpc.train.runs.export", "FORMS"),
        ("import", "encoding", "flowcpc.stores.encoding", "ENCODINGS"),
    ],
)
def test_choices_of_an_option_are_those_of_the_code(
    command: str, option: str, module: str, constant: str
) -> None:
    """Where a command cannot import the constant, because its module takes seconds to load."""
    (parameter,) = (each for each in main.main.commands[command].params if each.name == option)
    assert set(parameter.type.choices) == set(getattr(importlib.import_module(module), constant))


@pytest.mark.parametrize("command", main.main.commands.values(), ids=main.main.commands)
def test_help_fits_80_columns(command: click.Command) -> None:
    result = flowcpc(command.name, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
