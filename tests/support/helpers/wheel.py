"""Build the wheel that users install, from a copy of the working tree."""

import shutil
import subprocess
import sys
from pathlib import Path

from records import ROOT

_SOURCES = ("flowcpc", "commands", "pipeline", "stores", "train", "pyproject.toml", "README.md")


def build_wheel(folder: Path) -> Path:
    """Build the wheel in `folder`, offline and with the setuptools installed here."""
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (*_SOURCES, *(["LICENSE"] if (ROOT / "LICENSE").exists() else [])):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
        else:
            source.mkdir(exist_ok=True)
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
