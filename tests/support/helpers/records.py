"""The folder of the real clips, and the line that a benchmark prints about its machine.

Imports only the standard library.
"""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_PACKAGES = (
    "numpy",
    "numba",
    "numba-cuda",
    "zarr",
    "torch",
    "opencv-contrib-python-headless",
    "opencv-python-headless",
)


def real_data_folder() -> Path:
    """Where the real clips are looked for; the folder may be absent."""
    return Path(os.environ.get("FLOWCPC_TEST_DATA", ROOT.parent / "shared" / "data"))


def machine_record() -> str:
    """One line for a benchmark's record: commit, processor, cores, versions of packages."""
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
    return (
        f"Commit {commit or 'unknown'}; {processor}, {os.cpu_count()} cores; {', '.join(versions)}."
    )
