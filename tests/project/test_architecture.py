"""The rules of the house: who imports whom, what loads what, how large a module may be; docstring examples hold."""

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "stores", "train")
TOP_MODULES = (
    "cli",
    "cli_embed",
    "cli_evaluate",
    "cli_extract",
    "cli_report",
    "cli_stores",
    "cli_train",
    "console",
    "flowcpc",
)
MAX_LINES = 350

LIBRARY = sorted(
    [ROOT / f"{name}.py" for name in TOP_MODULES]
    + [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
)
TESTS = sorted((ROOT / "tests").glob("*.py"))


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = [_module_name(path) for path in LIBRARY]


def _imports(path: Path) -> set[str]:
    """Return the full names of all modules that the file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{path.name}, line {node.lineno}: relative import; name the package"
            )
            found.add(node.module or "")
    return found


def _importers(name: str) -> set[str]:
    """Return the modules of the project that import the top-level package or module `name`."""
    return {
        _module_name(path)
        for path in LIBRARY
        if any(found.partition(".")[0] == name for found in _imports(path))
    }


def _loaded_by(*modules: str) -> set[str]:
    """Return the top-level names in sys.modules after a fresh interpreter has imported `modules`."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.split())


def _modules_of(package: str) -> list[str]:
    return [name for name in MODULES if name.partition(".")[0] == package]


def test_import_contracts_hold() -> None:
    """The contracts in pyproject.toml, by import-linter."""
    command = Path(sys.executable).with_name("lint-imports")
    answer = subprocess.run(
        [command, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("imported", "allowed"),
    [
        ("zarr", {"flowcpc.stores.video.zarr_arrays"}),
        ("dask", {"flowcpc.pipeline.cluster.dask_hub"}),
        ("dask_jobqueue", {"flowcpc.pipeline.cluster.dask_hub"}),
        ("distributed", {"flowcpc.pipeline.cluster.dask_hub"}),
        (
            "console",
            {
                "cli",
                "cli_embed",
                "cli_evaluate",
                "cli_extract",
                "cli_report",
                "cli_stores",
                "cli_train",
            },
        ),
        ("cli_stores", {"cli", "cli_extract"}),
        ("cli_embed", {"cli"}),
        ("cli_evaluate", {"cli"}),
        ("cli_extract", {"cli"}),
        ("cli_train", {"cli"}),
        ("cli_report", {"cli"}),
        ("cli", {"flowcpc"}),
        ("flowcpc", set()),
    ],
)
def test_one_file_imports(imported: str, allowed: set[str]) -> None:
    assert _importers(imported) <= allowed


def test_console_knows_stores_at_most() -> None:
    assert not _imports(ROOT / "console.py") & {*_modules_of("pipeline"), *_modules_of("train")}


@pytest.mark.parametrize(
    "path", [path for path in LIBRARY if path.name == "__init__.py"], ids=_module_name
)
def test_init_holds_a_docstring_only(path: Path) -> None:
    (statement,) = ast.parse(path.read_text()).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Constant)
    assert isinstance(statement.value.value, str)


@pytest.mark.parametrize("path", [*LIBRARY, *TESTS], ids=_module_name)
def test_module_is_one_room(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, (
        f"{path.relative_to(ROOT)} has {lines} lines; split it (at most {MAX_LINES})"
    )


@pytest.mark.parametrize("path", LIBRARY, ids=_module_name)
def test_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), (
        f"{path.relative_to(ROOT)} has no docstring"
    )


def test_tests_are_flat() -> None:
    assert [
        path.relative_to(ROOT)
        for path in (ROOT / "tests").rglob("*.py")
        if path.parent != ROOT / "tests"
    ] == []
    assert not (ROOT / "tests" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("modules", "never"),
    [
        (["cli"], {"cv2", "dask", "distributed", "matplotlib", "numba", "pandas", "torch", "zarr"}),
        (
            ["flowcpc"],
            {"cv2", "dask", "distributed", "matplotlib", "numba", "pandas", "torch", "zarr"},
        ),
        (["flowcpc.pipeline.cluster.dask_hub"], {"torch", "train"}),
        (_modules_of("pipeline"), {"torch", "train"}),
        (["flowcpc.pipeline.repair", "flowcpc.pipeline.run"], {"dask", "distributed"}),
        (_modules_of("train"), {"cv2", "dask", "distributed", "pipeline"}),
        (_modules_of("stores"), {"cv2", "dask", "distributed", "pipeline", "torch", "train"}),
    ],
    ids=[
        "cli",
        "flowcpc",
        "flowcpc.pipeline.cluster.dask_hub",
        "pipeline",
        "flowcpc.pipeline.run",
        "train",
        "stores",
    ],
)
def test_import_does_not_load(modules: list[str], never: set[str]) -> None:
    assert not _loaded_by(*modules) & never


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
