"""How kernels for the processor are compiled, and where the machine code is kept.

Compiling takes seconds, so Numba keeps the result on disk and other processes load it. Numba itself notices only a change of the file that
holds a kernel; ours call one another across files, and a cluster's nodes share one home with different processors. So the folder's name is
made of every source file here, the versions and the processor: a process finds machine code that was made for exactly it, or none.
"""

import functools
import hashlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.registry import cpu_target


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` at its first call: without the GIL, IEEE arithmetic, NumPy's rules of division.

    The machine code is kept on disk where a folder for it can be written, else it is made anew in every process.
    """
    options = {"nogil": True, "error_model": "numpy", "fastmath": False, "boundscheck": False}
    folder = _cache_folder()
    before = numba.config.CACHE_DIR
    try:
        if folder:
            numba.config.CACHE_DIR = folder
        compiled = numba.njit(cache=bool(folder), **options)(function)
    finally:
        numba.config.CACHE_DIR = before
    return compiled


def kept_on_disk() -> bool:
    """Return whether an earlier process left the machine code of these kernels for this one to load."""
    folder = _cache_folder()
    return bool(folder) and any(Path(folder).rglob("*.nbc"))


@functools.cache
def _cache_folder() -> str:
    """The folder for this code, these versions and this processor; empty where none can be written."""
    made_of = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        made_of.update(source.read_bytes())
    target = cpu_target.target_context.codegen().magic_tuple()
    made_of.update(
        repr((numba.__version__, llvmlite.__version__, sys.version_info, platform.machine(), target)).encode()
    )
    base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(base).expanduser() / "flowcpc" / f"tvl1-{made_of.hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter where nobody is at home
        return ""
    return str(folder) if os.access(folder, os.W_OK | os.X_OK) else ""
