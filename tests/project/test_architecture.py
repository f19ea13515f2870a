"""The layout rules: who imports whom, what loads what, how large folders and modules may be.

Examples in docstrings are run here too.
"""

import ast
import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

ROOMS = ("commands", "pipeline", "stores", "train")
MAX_LINES = 350
FILES_PER_FOLDER = range(3, 10)
HEAVY = {"cv2", "dask", "distributed", "matplotlib", "numba", "pandas", "torch", "zarr"}

LIBRARY = [ROOT / "cli.py", *sorted((ROOT / "flowcpc").glob("*.py"))] + [
    path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))
]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
FOLDERS = sorted({path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")})
OTHER_FOLDERS = sorted(
    {
        folder
        for room in ("benchmarks", "docs", "tests")
        for path in (ROOT / room).rglob("*.*")
        if path.suffix != ".pyc"
        for folder in path.parents
        if folder.is_relative_to(ROOT / room)
    }
)


def _module_name(path: Path) -> str:
    """Return the name by which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    prefix = ("flowcpc",) if parts[0] in ROOMS else ()
    return ".".join((*prefix, *(parts[:-1] if parts[-1] == "__init__" else parts)))


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


MODULES = [_module_name(path) for path in LIBRARY]


def _imports(path: Path) -> set[str]:
    """Return the full names of all modules that the file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: name the package, not dots"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _loaded_by(*modules: str) -> set[str]:
    """Return the names in sys.modules after a fresh interpreter has imported `modules`."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.split())


def _modules_of(room: str) -> list[str]:
    return [name for name in MODULES if name.startswith(f"flowcpc.{room}")]


def test_import_contracts_hold() -> None:
    """The contracts in pyproject.toml, by import-linter."""
    command = Path(sys.executable).with_name("lint-imports")
    answer = subprocess.run(
        [command, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_only_the_start_files_import_the_commands() -> None:
    """Everything else can be used from Python without them."""
    importers = {
        _relative(path)
        for path in LIBRARY
        if path.parent != ROOT / "commands"
        and any(name.startswith("flowcpc.commands") for name in _imports(path))
    }
    assert importers == {"cli.py", "flowcpc/__main__.py"}


@pytest.mark.parametrize(
    "path",
    [path for path in LIBRARY if path.name == "__init__.py" and path.parent.name != "flowcpc"],
    ids=_module_name,
)
def test_init_holds_a_docstring_only(path: Path) -> None:
    (statement,) = ast.parse(path.read_text()).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Constant)
    assert isinstance(statement.value.value, str)


@pytest.mark.parametrize("room", ROOMS)
def test_the_package_reaches_each_room_by_a_link(room: str) -> None:
    link = ROOT / "flowcpc" / room
    assert link.is_symlink()
    assert os.readlink(link) == f"../{room}"
    assert (link / "__init__.py").samefile(ROOT / room / "__init__.py")


def test_the_package_holds_links_and_few_modules() -> None:
    files = {path.name for path in (ROOT / "flowcpc").iterdir()} - {"__pycache__"}
    assert (
        files - {*ROOMS, "__init__.py", "__main__.py", "extras.py", "video_embedding.py"} == set()
    )


@pytest.mark.parametrize("folder", FOLDERS, ids=_relative)
def test_a_folder_holds_three_to_nine_modules(folder: Path) -> None:
    assert (folder / "__init__.py").is_file()
    modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    has_subfolders = any(other.parent == folder for other in FOLDERS)
    assert len(modules) in FILES_PER_FOLDER or (has_subfolders and not modules), modules


@pytest.mark.parametrize("folder", OTHER_FOLDERS, ids=_relative)
def test_a_folder_beside_the_library_shows_three_to_nine_files(folder: Path) -> None:
    """Of docs, benchmarks and tests; one with folders in it may hold fewer."""
    files = [path.name for path in folder.iterdir() if path.is_file()]
    has_subfolders = any(other.parent == folder for other in OTHER_FOLDERS)
    assert len(files) in FILES_PER_FOLDER or (has_subfolders and len(files) < 3), files


@pytest.mark.parametrize("path", [*LIBRARY, *BENCHMARKS, *TESTS], ids=_relative)
def test_a_module_is_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{lines} lines; split it (at most {MAX_LINES})"


@pytest.mark.parametrize("path", LIBRARY, ids=_relative)
def test_a_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_tests_mirror_the_rooms() -> None:
    """A folder of tests for each folder of modules, and no package that could shadow one."""
    folders = {_relative(path.parent).removeprefix("tests/") for path in TESTS}
    mirrors = {folder for folder in folders if folder.partition("/")[0] in ROOMS}
    assert mirrors <= {_relative(folder) for folder in FOLDERS}
    assert {folder.partition("/")[0] for folder in folders - mirrors} <= {
        "project",
        "scenarios",
        "support",
        "tests",  # conftest.py
    }
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_names_of_test_modules_are_unique_where_tests_import_by_name() -> None:
    """Tests import the modules of tests/support by their bare names."""
    names = [path.stem for path in (ROOT / "tests" / "support").rglob("*.py")]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("modules", "never"),
    [
        (["flowcpc.commands.main"], HEAVY),
        (["flowcpc"], HEAVY),
        (_modules_of("pipeline"), {"torch", "flowcpc.train"}),
        (["flowcpc.pipeline.repair", "flowcpc.pipeline.run"], {"dask", "distributed"}),
        (["flowcpc.pipeline.decoding.decoder_process"], {"dask", "distributed", "numba", "torch"}),
        (_modules_of("train"), {"cv2", "dask", "distributed", "flowcpc.pipeline"}),
        (
            _modules_of("stores"),
            {"cv2", "dask", "distributed", "torch", "flowcpc.pipeline", "flowcpc.train"},
        ),
        (["flowcpc.stores.base.listener"], HEAVY),
    ],
    ids=["commands", "flowcpc", "pipeline", "run", "decoder", "train", "stores", "listener"],
)
def test_import_does_not_load(modules: list[str], never: set[str]) -> None:
    assert not _loaded_by(*modules) & never


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_docstring_examples_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
