"""Where the machine code of the kernels is kept, tried with processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

from flowcpc.stores.base.compiled import cache_key

SOLVE = """
import numpy as np
from flowcpc.pipeline.tvl1.solver import compute_flow, prepare
said = []
prepare("cpu", said.append)
frames = np.arange(2 * 16 * 16, dtype=np.uint8).reshape(2, 16, 16)
print(len(said), compute_flow(frames, backend="cpu", threads=1).sum())
"""

# One small kernel, where it does not matter which; it takes a second to compile.
CHECKSUM = """
from flowcpc.stores.codec.checksums import crc32c, crc32c_of
print(crc32c_of(bytes(range(256)) * 4), sum(crc32c.stats.cache_hits.values()))
"""


def run(program: str, **environment: str) -> list[str]:
    """The words that a process prints which runs `program`.

    The solver's: how often it spoke of compiling, and the sum of a flow. The checksum's: itself,
    and how often the kernel was loaded.
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb?")}


@pytest.mark.slow
def test_a_second_process_loads_what_the_first_one_compiled(tmp_path: Path) -> None:
    first = run(SOLVE, NUMBA_CACHE_DIR=str(tmp_path))
    kept = files(tmp_path)
    assert kept
    second = run(SOLVE, NUMBA_CACHE_DIR=str(tmp_path))
    assert files(tmp_path) == kept
    assert (first[0], second[0]) == ("2", "0")
    assert first[1] == second[1]


@pytest.mark.parametrize("suffix", [".nbc", ".nbi"])
def test_torn_files_are_made_anew(suffix: str, tmp_path: Path) -> None:
    expected = run(CHECKSUM, NUMBA_CACHE_DIR=str(tmp_path))[0]
    torn = list(tmp_path.rglob(f"*{suffix}"))
    assert torn
    for path in torn:
        path.write_bytes(path.read_bytes()[:50])
    assert run(CHECKSUM, NUMBA_CACHE_DIR=str(tmp_path)) == [expected, "0"]
    kept = files(tmp_path)
    assert run(CHECKSUM, NUMBA_CACHE_DIR=str(tmp_path)) == [expected, "1"]
    assert files(tmp_path) == kept


def test_another_processor_has_a_folder_of_its_own(tmp_path: Path) -> None:
    run(CHECKSUM, NUMBA_CACHE_DIR=str(tmp_path))
    run(CHECKSUM, NUMBA_CACHE_DIR=str(tmp_path), NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="")
    assert len(list((tmp_path / "flowcpc").iterdir())) == 2


@pytest.mark.parametrize(
    "folder", ["/proc/nowhere", pytest.param("/dev/null", marks=pytest.mark.slow)]
)
def test_without_a_folder_every_process_compiles(folder: str) -> None:
    assert [run(CHECKSUM, NUMBA_CACHE_DIR=folder)[1] for _ in range(2)] == ["0", "0"]


def test_a_kernel_in_another_folder_changes_the_key_and_other_files_do_not(tmp_path: Path) -> None:
    package = tmp_path / "stores"
    for name in ("codec/kernel.py", "video/other.py"):
        (package / name).parent.mkdir(parents=True)
        (package / name).write_text("first = 1")
    key = cache_key(package)
    (tmp_path / "train.py").write_text("elsewhere = 1")
    (package / "notes.txt").write_text("no source")
    assert cache_key(package) == key
    (package / "video" / "other.py").write_text("second = 2")
    assert cache_key(package) != key


def test_the_code_of_a_kernel_is_filed_under_its_top_package() -> None:
    """The file that holds the kernel lies deeper, and Numba would look at it alone."""
    from flowcpc.stores.codec.window_kernel import read_window

    package = Path(sys.modules["flowcpc.stores"].__file__ or "").parent
    assert f"/flowcpc/stores-{cache_key(package)}/" in f"{read_window.stats.cache_path}/"
