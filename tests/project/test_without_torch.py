"""Extraction and the commands on stores work without the extra `train`; the others name it."""

import json
import subprocess
import sys

import pytest
from builders import write_class_folders
from checkout import ROOT

EXTRA = ("torch", "safetensors", "sklearn", "jinja2")
PROGRAM = f"""
import contextlib, io, json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRA!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from flowcpc.commands.main import main
answers = []
for words in json.loads(sys.argv[1]):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(sys.__stderr__):
        try:
            main(words)
        except SystemExit as exit_:
            answers.append((exit_.code or 0, err.getvalue()))
import flowcpc
try:
    flowcpc.load_encoder
except ModuleNotFoundError as error:
    answers.append((1, str(error)))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """(exit code, stderr) of each command, and of `flowcpc.load_encoder`."""
    folder = tmp_path_factory.mktemp("without")
    classes = {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}
    videos = write_class_folders(folder / "videos", classes, clips=1)
    store, run = str(folder / "store"), str(folder / "run")
    commands = {
        "extract-flow": [str(videos), store, "--size", "24x32", "--workers", "0"],
        "info": [store],
        "status": [store],
        "verify": [store],
        "query": [store, "SELECT count(*) FROM videos"],
        "show": [store, "--out", str(folder / "flow.png")],
        "export": [store, str(folder / "flows"), "--layout", "tsn"],
        "pretrain": [store, run, "--preset", "tiny"],
        "evaluate": [store, run],
        "embed": [store, run],
        "report": [run, "--out", str(folder / "page.html")],
    }
    words = [[name, *further] for name, further in commands.items()]
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return dict(zip([*commands, "load_encoder"], json.loads(answer.stdout), strict=True))


@pytest.mark.parametrize(
    "command", ["extract-flow", "info", "status", "verify", "query", "show", "export"]
)
def test_extraction_and_stores_need_no_torch(
    answers: dict[str, tuple[int, str]], command: str
) -> None:
    code, err = answers[command]
    assert code == 0, err


@pytest.mark.parametrize("command", ["pretrain", "evaluate", "embed", "report", "load_encoder"])
def test_training_names_the_extra(answers: dict[str, tuple[int, str]], command: str) -> None:
    code, err = answers[command]
    assert code == 1, err
    assert "is not installed" in err
    assert "pip install 'flowcpc[train]'" in err
    assert "Traceback" not in err
