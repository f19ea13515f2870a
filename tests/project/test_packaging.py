"""Declared, pinned and conda requirements agree with each other and with what the code imports."""

import ast
import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONDA_NAMES = {
    "dask-core": "dask",
    "matplotlib-base": "matplotlib",
    "python-duckdb": "duckdb",
    "pytorch": "torch",
}


def _named(requirements: Iterable[str]) -> dict[str, Requirement]:
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in requirements}


DECLARED = _named(PROJECT["project"]["dependencies"])
TEST_EXTRA = _named(PROJECT["project"]["optional-dependencies"]["test"])
BENCH_EXTRA = _named(PROJECT["project"]["optional-dependencies"]["bench"])
ONNX_EXTRA = _named(PROJECT["project"]["optional-dependencies"]["onnx"])
SLURM_EXTRA = _named(PROJECT["project"]["optional-dependencies"]["slurm"])
TENSORBOARD_EXTRA = _named(PROJECT["project"]["optional-dependencies"]["tensorboard"])
WANDB_EXTRA = _named(PROJECT["project"]["optional-dependencies"]["wandb"])
TRAIN_EXTRA = _named(PROJECT["project"]["optional-dependencies"]["train"])
TESTED = DECLARED | TRAIN_EXTRA | SLURM_EXTRA | TENSORBOARD_EXTRA | TEST_EXTRA
GPU_EXTRA = _named(PROJECT["project"]["optional-dependencies"]["gpu"])


def _pins() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return _named(line for line in lines if line and not line.startswith("#"))


@functools.cache
def _imported_modules(file: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules.add((node.module or "").partition(".")[0])
    return modules


_installed_distributions = functools.cache(importlib.metadata.packages_distributions)


def _imported_distributions(files: Iterable[Path]) -> dict[str, set[str]]:
    """Map each third-party module that `files` import, in functions too, to its distributions."""
    ours = {"flowcpc", "benchmarks"}
    ours |= {path.stem for path in (ROOT / "tests" / "support").rglob("*.py")}
    modules = set().union(*map(_imported_modules, files))
    installed = _installed_distributions()
    return {
        module: {canonicalize_name(name) for name in installed.get(module, [module])}
        for module in modules - ours - sys.stdlib_module_names
    }


def _undeclared(folders: Iterable[str], declared: Iterable[str]) -> list[str]:
    """Return the modules that `folders` import and none of `declared` installs."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    imported = _imported_distributions(files)
    return sorted(module for module, names in imported.items() if not names & set(declared))


def test_every_file_of_a_package_that_is_no_module_is_listed() -> None:
    """A wheel holds modules, and of other files those that are named."""
    listed = PROJECT["tool"]["setuptools"]["package-data"]
    others: dict[str, set[str]] = {}
    for room in ("commands", "pipeline", "stores", "train"):
        for path in (ROOT / room).rglob("*.*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                package = ".".join(("flowcpc", *path.relative_to(ROOT).parts[:-1]))
                others.setdefault(package, set()).add(path.name)
    assert others == {package: set(files) for package, files in listed.items()}


def test_extraction_needs_the_required_dependencies_only() -> None:
    folders = ("flowcpc", "commands", "pipeline", "stores")
    assert not _undeclared(folders, DECLARED | SLURM_EXTRA)


def test_training_needs_the_extra_train() -> None:
    """torch imports tensorboard, to write its files."""
    assert not _undeclared(["train"], DECLARED | TRAIN_EXTRA | ONNX_EXTRA | WANDB_EXTRA)


def test_no_dependency_is_declared_that_is_not_imported() -> None:
    folders = ("flowcpc", "commands", "pipeline", "stores", "train")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    imported = set().union(*_imported_distributions(files).values())
    declared = DECLARED | TRAIN_EXTRA | ONNX_EXTRA | SLURM_EXTRA | WANDB_EXTRA
    assert not declared.keys() - imported


def test_tests_and_benchmarks_import_only_what_the_extras_install() -> None:
    declared = DECLARED | TRAIN_EXTRA | TENSORBOARD_EXTRA | TEST_EXTRA | BENCH_EXTRA
    assert not _undeclared(["tests", "benchmarks"], declared | SLURM_EXTRA)


def test_pins_are_exact_and_within_the_declared_ranges() -> None:
    pins = _pins()
    for name, pin in pins.items():
        assert re.fullmatch(r"==[0-9][0-9A-Za-z.]*", str(pin.specifier)), (
            f"{pin} is no exact pin that every index has"
        )
        declared = TESTED.get(name)
        assert declared is None or str(pin.specifier).removeprefix("==") in declared.specifier, (
            f"{pin} is outside {declared}"
        )
    assert not TESTED.keys() - pins.keys()


def _further_requirements(distribution: str, extras: frozenset[str]) -> list[Requirement]:
    """Return what an installed distribution requires here.

    The CUDA libraries that some builds of torch need are left out.
    """
    stated = [Requirement(text) for text in importlib.metadata.requires(distribution) or []]
    return [
        requirement
        for requirement in stated
        if requirement.marker is None
        or any(requirement.marker.evaluate({"extra": extra}) for extra in extras | {""})
        if not canonicalize_name(requirement.name).startswith(("nvidia-", "cuda-", "triton"))
    ]


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="requirements.txt was made for Python 3.11"
)
def test_pins_are_the_whole_tested_set_and_nothing_else() -> None:
    reached: set[tuple[str, frozenset[str]]] = set()
    waiting = [*TESTED.values()]
    while waiting:
        requirement = waiting.pop()
        extras = frozenset(requirement.extras)
        key = (canonicalize_name(requirement.name), extras)
        if key not in reached:
            reached.add(key)
            waiting.extend(_further_requirements(key[0], extras))
    assert set(_pins()) == {name for name, _ in reached}


def test_installed_versions_are_within_the_declared_ranges() -> None:
    for name, requirement in TESTED.items():
        assert Version(importlib.metadata.version(name)).base_version in requirement.specifier


def test_conda_environment_has_the_names_and_bounds_of_pyproject() -> None:
    """Compares the text only: to solve it needs the conda channels, which may be unreachable."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    entries = environment["dependencies"]
    conda = _named(entry for entry in entries if isinstance(entry, str))
    (from_pip,) = [entry["pip"] for entry in entries if isinstance(entry, dict)]
    assert str(conda.pop("python").specifier) == PROJECT["project"]["requires-python"]
    assert conda.pop("pip").specifier == ""
    assert list(_named(from_pip)) == ["opencv-contrib-python-headless"]
    found = {
        CONDA_NAMES.get(name, name): str(entry.specifier)
        for name, entry in (conda | _named(from_pip)).items()
    }
    assert found == {name: str(entry.specifier) for name, entry in (TESTED | GPU_EXTRA).items()}


def test_conda_sections_are_marked_and_have_content() -> None:
    text = (ROOT / "environment.yml").read_text()
    parts = re.split(r"^  # (\w+).*\n", text.partition("dependencies:\n")[2], flags=re.MULTILINE)
    assert parts[1::2] == ["run", "train", "gpu", "cluster", "test"]
    assert all(part.startswith("  - ") for part in parts[2::2])


def test_public_ci_runs_make_test_on_every_declared_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["test"]
    assert {"test", "test-all"} <= set(re.findall(r"[\w-]+", job["steps"][-1]["run"]))
    declared = [text.rpartition(" ")[2] for text in PROJECT["project"]["classifiers"]]
    assert job["strategy"]["matrix"]["python"] == [text for text in declared if "3." in text]


def test_pre_commit_runs_what_make_lint_runs() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook["entry"].partition(" --")[0] for hook in repository["hooks"]]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    lines = [line.removeprefix("\t$(BIN)/") for line in lint[1].splitlines()]
    assert hooks == [re.split(r" --| \.", line)[0] for line in lines]


def test_citation_agrees_with_pyproject() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in PROJECT["project"]["authors"]
    ]


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("make test")


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    # A make that runs these tests hands its own flags down; they are not meant for this one.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON")
    }
    return subprocess.run(
        [make, *arguments], cwd=folder, capture_output=True, text=True, env=environment, check=False
    )


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    listed = _make(ROOT, "help").stdout.splitlines()
    assert [line.split()[1] for line in listed] == phony.split()
    assert {"demo", "test", "lint", "bench", "clean"} <= set(phony.split())


@pytest.fixture
def makefile_alone(tmp_path: Path) -> Path:
    """A folder in which nothing is set up yet."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_make_refuses_an_old_python_in_one_sentence(makefile_alone: Path) -> None:
    old = makefile_alone / "python3.9"
    old.write_text(
        f"#!/bin/sh\nexec {sys.executable} "
        '-c "import sys; sys.version_info = (3, 9, 2); exec(sys.argv[1])" "$2"\n'
    )
    old.chmod(0o755)
    answer = _make(makefile_alone, f"PYTHON={old}", "lint")
    said = [line for line in answer.stderr.splitlines() if not line.startswith("make")]
    assert answer.returncode != 0
    (sentence,) = said
    for word in (str(old), "Python 3.9", "3.11 or newer", "make PYTHON=python3.12 test"):
        assert word in sentence
    assert not (makefile_alone / ".venv").exists()


def test_make_names_a_python_that_is_not_there(makefile_alone: Path) -> None:
    answer = _make(makefile_alone, "PYTHON=python-of-nowhere", "lint")
    assert answer.returncode != 0
    assert "python-of-nowhere was not found" in answer.stderr
    assert not (makefile_alone / ".venv").exists()


def test_make_bench_says_when_there_is_no_benchmark(makefile_alone: Path) -> None:
    ready = makefile_alone / ".venv" / "ready"
    ready.parent.mkdir()
    ready.touch()
    answer = _make(makefile_alone, "bench")
    assert answer.returncode != 0
    assert "There is no benchmarks/*/bench_*.py to run." in answer.stderr


def test_shared_files_name_no_machine_paths() -> None:
    for name in ("Makefile", "requirements.txt", "environment.yml", "pyproject.toml", ".ci/run"):
        assert not re.search(r"/(home|root|tmp|opt|mnt)/", (ROOT / name).read_text()), name
