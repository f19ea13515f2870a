"""How kernels for the processor are compiled, and where the machine code is kept.

Compiling takes seconds, so Numba keeps the result on disk and other processes load it. Numba itself notices only a change of the file that
holds a kernel; ours call one another across files, and a cluster's nodes share one home with different processors. So the folder's name is
made of every source file beside the kernel's, the versions and the processor: a process finds machine code that was made for exactly it, or
none.
"""

import contextlib
import functools
import hashlib
import importlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import FunctionCache
from numba.core.registry import cpu_target

_COMPLETE = "complete"


class _Cache(FunctionCache):
    """Numba's cache of a function, without which work goes on: a full disk or a torn file costs the compiling again."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function, or None where there is none that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a torn file can raise anything
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function if the disk takes it."""
        with contextlib.suppress(Exception):
            try:
                super().save_overload(sig, data)
            except OSError:
                raise
            except Exception:  # a torn index: begin a new one
                self.flush()
                super().save_overload(sig, data)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` at its first call: without the GIL, IEEE arithmetic, NumPy's rules of division.

    The machine code is kept on disk where a folder for it can be written, else it is made anew in every process.
    """
    compiled = numba.njit(nogil=True, error_model="numpy", fastmath=False, boundscheck=False)(
        function
    )
    folder = _cache_folder(function.__module__)
    if folder:
        before = numba.config.CACHE_DIR
        try:
            numba.config.CACHE_DIR = folder
            cache = _Cache(function)
        except (OSError, RuntimeError):  # full, or gone since it was made
            return compiled
        finally:
            numba.config.CACHE_DIR = before
        if cache.cache_path.startswith(
            folder
        ):  # Numba may have turned to another place, which knows one source file
            compiled._cache = cache
    return compiled


def inlined(function: Callable[..., Any]) -> Any:
    """Compile `function` as a part of each kernel that calls it; it is kept with them."""
    return numba.njit(
        nogil=True, error_model="numpy", fastmath=False, boundscheck=False, forceinline=True
    )(function)


def is_complete(module: str) -> bool:
    """Return whether an earlier process left the machine code of all kernels around `module`."""
    folder = _cache_folder(module)
    return bool(folder) and Path(folder, _COMPLETE).exists()


def mark_complete(module: str) -> None:
    """Note that all kernels around `module` were compiled and kept."""
    folder = _cache_folder(module)
    if folder:
        with contextlib.suppress(OSError):
            Path(folder, _COMPLETE).touch()


@functools.cache
def _cache_folder(module: str) -> str:
    """Return the folder for the code of `module`'s top package on this processor; empty if none is writable."""
    return _folder_for(_top_package(module))


def _top_package(module: str) -> Path:
    """Return the folder of `flowcpc.<stage>`: its kernels call one another across sub-folders."""
    top = ".".join(module.split(".")[:2])
    return Path(str(importlib.import_module(top).__file__)).parent


@functools.cache
def _folder_for(package: Path) -> str:
    made_of = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        made_of.update(source.read_bytes())
    target = cpu_target.target_context.codegen().magic_tuple()
    versions = numba.__version__, llvmlite.__version__, sys.version_info
    made_of.update(repr((versions, platform.machine(), target)).encode())
    base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(base).expanduser() / "flowcpc" / f"{package.name}-{made_of.hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter where nobody is at home
        return ""
    return str(folder) if os.access(folder, os.W_OK | os.X_OK) else ""
