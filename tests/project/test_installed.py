"""A wheel installs one name, and a user's own files named like our folders never shadow it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from builders import write_class_folders
from wheel import build_wheel

HOSTILE = ("train.py", "cli.py", "stores.py", "console.py", "commands.py", "pipeline/__init__.py")
SCRIPT = """\
import sys
import flowcpc
assert flowcpc.__file__.startswith({installed!r}), flowcpc.__file__
print(flowcpc.open_store.__module__, flowcpc.load_encoder.__module__)
assert not {{"train", "cli", "stores", "console", "commands", "pipeline"}} & sys.modules.keys()
"""
RESOLVED = ["flowcpc.stores.flow_store", "flowcpc.train.runs.checkpoint"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the wheel, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", folder, wheel], check=True)
    return folder


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A working folder whose modules end every process that imports one of them."""
    for name in HOSTILE:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"raise SystemExit({'imported ' + name!r})\n")
    return tmp_path


def run(installed: Path, folder: Path, *words: object, stdin: str | None = None) -> str:
    """Run a command in `folder` with the installed package; return its stdout."""
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        list(map(str, words)),
        cwd=folder,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_a_wheel_holds_flowcpc_alone_and_all_of_its_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"flowcpc"}
    package = Path(__file__).parents[2] / "flowcpc"
    files = {
        f"flowcpc/{path.relative_to(package).as_posix()}"
        for room in (package, *(path for path in package.iterdir() if path.is_symlink()))
        for path in room.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in names if name.startswith("flowcpc/")} == files
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {"flowcpc/train/report/page.html", "flowcpc/train/report/page.css"} <= files


def test_a_script_resolves_every_name(installed: Path, hostile: Path) -> None:
    (hostile / "script.py").write_text(SCRIPT.format(installed=str(installed)))
    assert run(installed, hostile, sys.executable, "script.py").split() == RESOLVED


@pytest.mark.slow
def test_a_notebook_kernel_resolves_every_name(installed: Path, hostile: Path) -> None:
    """A kernel, like `python -c`, has '' in front of sys.path: the working folder."""
    code = "import sys\nassert sys.path[0] == ''\n" + SCRIPT.format(installed=str(installed))
    assert run(installed, hostile, sys.executable, "-c", code).split() == RESOLVED


def test_both_ways_to_start_a_command(installed: Path, hostile: Path) -> None:
    for start in ([installed / "bin" / "flowcpc"], [sys.executable, "-m", "flowcpc"]):
        assert "extract-flow" in run(installed, hostile, *start, "--help")


@pytest.mark.slow
def test_extraction_and_training_in_such_a_folder(installed: Path, hostile: Path) -> None:
    """Dask workers, decoder processes, torchrun and loader processes are not shadowed either."""
    videos = write_class_folders(hostile / "videos", {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)})
    command = [sys.executable, "-m", "flowcpc"]
    size = ["--size", "24x32", "--workers", 1, "--backend", "opencv"]
    run(installed, hostile, *command, "extract-flow", videos, "store", *size)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 1]
    settings = ["batch_size=4", "num_flows=1", "size=24x24", "width=2"]
    settings += ["num_segments=4", "num_observed=3", "split=all"]
    run(
        installed,
        hostile,
        *[*torchrun, "--standalone", "-m", "flowcpc", "pretrain", "store", "run"],
        *["--preset", "tiny", "--steps", 2, "--workers", 1],
        *[word for setting in settings for word in ("--set", setting)],
    )
    assert (hostile / "run" / "config.json").is_file()
