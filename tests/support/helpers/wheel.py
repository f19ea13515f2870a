"""Build the wheel that users install, from a copy of the working tree."""

import shutil
import subprocess
import sys
from pathlib import Path

from checkout import ROOT

_FOLDERS = ("flowcpc", "commands", "pipeline", "stores", "train")
_FILES = ("pyproject.toml", "README.md", "LICENSE")


def build_wheel(folder: Path) -> Path:
    """Build the wheel in `folder`, offline and with the setuptools installed here."""
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in _FOLDERS:
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in _FILES:
        shutil.copy(ROOT / name, source)
    code = "from setuptools.build_meta import build_wheel; print(build_wheel('..'))"
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return folder / answer.stdout.splitlines()[-1]
