"""The record of a benchmark: a page under docs/benchmarks/ that names the machine.

Imports only the standard library: some benchmarks run where little is installed.
"""

import argparse
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from checkout import ROOT

_PACKAGES = (
    "numpy",
    "numba",
    "numba-cuda",
    "zarr",
    "torch",
    "opencv-contrib-python-headless",
    "opencv-python-headless",
)


def make_parser(doc: str | None, folder: str, **counts: int) -> argparse.ArgumentParser:
    """A parser with `--out`, the folder of the record, and an option for each of the `counts`.

    `folder` is the record's folder in docs/benchmarks/; a count's value is its default.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = ROOT / "docs" / "benchmarks" / folder
    help_text = f"folder of the record  [default: {out.relative_to(ROOT)}]"
    parser.add_argument("--out", type=Path, default=out, help=help_text)
    for name, default in counts.items():
        help_text = f"[default: {default}]"
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help_text)
    return parser


def table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    head = list(columns)
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def write_record(path: Path, title: str, *parts: str) -> None:
    """Print a page and write it: title, parts as paragraphs, machine."""
    text = "\n\n".join([f"# {title}", *parts, machine_record()]) + "\n"
    print(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def machine_record() -> str:
    """Commit, processor, cores and versions of packages, in one line.

    With FLOWCPC_SHARED_MACHINE set, the line says that other work ran beside.
    """
    git = ["git", "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:
        commit = ""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    versions = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    shared = "; other work ran on it" if os.environ.get("FLOWCPC_SHARED_MACHINE") else ""
    return (
        f"Commit {commit or 'unknown'}; {processor}, {os.cpu_count()} cores{shared}; "
        f"{', '.join(versions)}."
    )
