"""Commands as a user types them: what they print, where, and with which exit code."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from builders import write_class_folders, write_video
from command_cases import SMALL, flowcpc, refused
from records import ROOT
from textures import moving_texture

from flowcpc.commands import console, main
from flowcpc.stores import layout
from flowcpc.stores.flow_store import open_store
from flowcpc.stores.records import record_file

CLASSES = {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "videos", CLASSES)


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


def test_extraction_then_again_then_info(videos: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    first = flowcpc("extract-flow", videos, store, *SMALL)
    assert first.exit_code == 0, first.output
    assert first.stdout == ""
    assert f"stored 6 videos in {store} (30 pairs" in first.stderr
    again = flowcpc("extract-flow", videos, store, *SMALL)
    assert again.exit_code == 0
    assert f"nothing to do: the flow of all 6 videos is in {store}" in again.stderr
    text = flowcpc("info", store)
    assert "videos     6 with 30 flows" in text.stdout
    assert re.search(r"^Left +3", text.stdout, re.MULTILINE)
    values = json.loads(flowcpc("info", store, "--json").stdout)
    assert (values["videos"], values["flows"], values["failures"]) == (6, 30, 0)


def test_failures_give_exit_code_3_and_a_table_on_stdout(videos: Path, tmp_path: Path) -> None:
    (videos / "Left" / "broken.avi").write_bytes(b"")
    for _ in range(2):
        result = flowcpc("extract-flow", videos, tmp_path / "s", *SMALL)
        assert result.exit_code == console.DONE_IN_PART
        assert result.stdout == "Left/broken\tthe file is empty (0 bytes)\n"
        assert "1 of 7 videos have no flow" in result.stderr
    assert len(open_store(tmp_path / "s").videos()) == 6


def test_a_source_that_became_unusable_gives_exit_code_3(videos: Path, tmp_path: Path) -> None:
    flowcpc("extract-flow", videos, tmp_path / "s", *SMALL)
    (videos / "Left" / "v_Left_g01_c01.avi").write_bytes(b"")
    for _ in range(2):
        result = flowcpc("extract-flow", videos, tmp_path / "s", *SMALL)
        assert result.exit_code == console.DONE_IN_PART
        assert result.stdout == "Left/v_Left_g01_c01\tthe file is empty (0 bytes)\n"
        assert (
            "1 video changed and cannot be used any more; the store keeps their earlier flow"
            in result.stderr
        )
        assert "nothing to do" not in result.stderr


def test_a_list_that_names_absent_videos(videos: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Left\n2 Right\n")
    (lists / "trainlist01.txt").write_text(
        "Left/v_Left_g01_c01.avi 1\nRight/v_Right_g07_c01.avi 2\n"
    )
    result = flowcpc(
        "extract-flow",
        videos,
        tmp_path / "s",
        "--dataset",
        "ucf101",
        "--annotations",
        lists,
        *SMALL,
    )
    assert result.exit_code == console.DONE_IN_PART
    assert result.stdout == "v_Right_g07_c01\tthe file does not exist\n"
    (row,) = open_store(tmp_path / "s").failures().to_dict("records")
    assert (row["video_id"], row["label"], row["fold1"], row["kind"]) == (
        "v_Right_g07_c01",
        "Right",
        "train",
        "missing",
    )


def test_limit_takes_a_balanced_part_and_a_larger_one_adds(videos: Path, tmp_path: Path) -> None:
    for limit, new in ((2, 2), (4, 2)):
        assert (
            f"stored {new} videos"
            in flowcpc("extract-flow", videos, tmp_path / "s", "--limit", limit, *SMALL).stderr
        )
        assert open_store(tmp_path / "s").videos()["label"].value_counts().to_dict() == {
            "Left": limit // 2,
            "Right": limit // 2,
        }


def test_wrong_input_to_extract_flow(videos: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    refused(flowcpc("extract-flow", tmp_path / "nowhere", store), "does not exist")
    (tmp_path / "empty").mkdir()
    refused(flowcpc("extract-flow", tmp_path / "empty", store), "holds no video file")
    refused(flowcpc("extract-flow", videos, store, "--dataset", "ucf101"), "needs --annotations")
    refused(flowcpc("extract-flow", videos, store, "--size", "big"), "'big' is not HxW")
    refused(flowcpc("extract-flow", videos, store, "--size", "8x8"), "height and width", "8x8")
    for size in ("4", "4T", "-1G", "G", "1.5G"):
        refused(
            flowcpc("extract-flow", videos, store, "--memory-limit", size),
            f"{size!r} is not a size",
            "500M or 4G",
        )
    refused(
        flowcpc("extract-flow", videos, store, "--memory-limit", "100M"),
        "memory limit",
        "100M",
        "256M",
    )
    refused(flowcpc("extract-flow", videos, store, "--time-limit", "0"), "time limit", "got 0")
    refused(flowcpc("extract-flow", videos, videos, *SMALL), "exists and is not a flowcpc store")
    refused(
        flowcpc("extract-flow", videos, videos / "Left" / "v_Left_g01_c01.avi", *SMALL),
        "exists and is not a flowcpc store",
    )
    assert not store.exists()


def test_other_size_into_the_same_store(videos: Path, tmp_path: Path) -> None:
    flowcpc("extract-flow", videos, tmp_path / "s", "--limit", 1, *SMALL)
    result = flowcpc(
        "extract-flow", videos, tmp_path / "s", "--size", "32x32", "--encoding", "int16"
    )
    refused(
        result,
        "encoding is 'companded8' in the store and 'int16' here",
        "height is 24 in the store and 32 here",
    )
    refused(
        flowcpc("extract-flow", videos, tmp_path / "s", "--short-side", 24),
        "size is '--size 24x32' in the store and '--short-side 24' here",
    )


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


def test_sigterm_saves_and_exits_75(tmp_path: Path) -> None:
    videos = write_class_folders(tmp_path / "videos", CLASSES, clips=4, frames=30)
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "extract-flow",
        str(videos),
        str(tmp_path / "s"),
        *SMALL,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "s").glob("commits/*/*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == console.PREEMPTED, stderr
    assert "run the same command to resume: flowcpc extract-flow" in stderr
    stored = len(open_store(tmp_path / "s").videos())
    assert 0 < stored < 8
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert f"stored {8 - stored} videos" in done.stderr


def test_odd_names_survive_the_way_through(tmp_path: Path) -> None:
    names = ["-dash", "naïve видео 動画 (1) #2;&", "a'b\"c", ".hidden[1]"]
    for name in names:
        write_video(
            tmp_path / "videos" / "X" / "v.avi", moving_texture(3, 24, 32, step=(1, 0))
        ).rename(tmp_path / "videos" / "X" / f"{name}.avi")
    assert flowcpc("extract-flow", tmp_path / "videos", tmp_path / "s", *SMALL).exit_code == 0
    store = open_store(tmp_path / "s")
    assert sorted(store.videos()["video_id"]) == sorted(f"X/{name}" for name in names)
    for video_id in store.videos()["video_id"]:
        assert store.read_flow(video_id).shape == (2, 2, 24, 32)


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
