"""Compiles kernels for the CPU and keeps the machine code on disk for other processes.

Numba's own cache sees only changes of the file that holds a kernel, but kernels call one another
across files, and the nodes of a cluster share a home and have different processors. So the name of
our cache folder is a hash of all sources of a top package, the versions and the processor.
"""

import contextlib
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
from numba.core.caching import FunctionCache
from numba.core.registry import cpu_target

_COMPLETE = "complete"
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": False, "boundscheck": False}


class _Cache(FunctionCache):
    """Numba's cache of a function, made optional: on a full disk or a torn file, compile again."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with contextlib.suppress(Exception):  # a torn file can raise anything
            return super().load_overload(sig, target_context)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(Exception):
            try:
                super().save_overload(sig, data)
            except OSError:
                raise
            except Exception:  # a torn index: begin a new one
                self.flush()
                super().save_overload(sig, data)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` at its first call, without the GIL; keep its code on disk if possible."""
    compiled = numba.njit(**_OPTIONS)(function)
    if folder := _cache_folder(_top_package(function.__module__)):
        before = numba.config.CACHE_DIR
        try:
            numba.config.CACHE_DIR = folder
            cache = _Cache(function)
        except (OSError, RuntimeError):  # the disk is full, or the folder was deleted
            return compiled
        finally:
            numba.config.CACHE_DIR = before
        # Numba may have chosen another folder, which depends on one source file only.
        if cache.cache_path.startswith(folder):
            compiled._cache = cache
    return compiled


def inlined(function: Callable[..., Any]) -> Any:
    """Compile `function` as a part of each kernel that calls it."""
    return numba.njit(**_OPTIONS, forceinline=True)(function)


def is_complete(module: str) -> bool:
    """Return whether a process compiled all kernels of `module`'s top package and saved them."""
    folder = _cache_folder(_top_package(module))
    return bool(folder) and Path(folder, _COMPLETE).exists()


def mark_complete(module: str) -> None:
    """Note that all kernels of `module`'s top package are compiled and saved."""
    if folder := _cache_folder(_top_package(module)):
        with contextlib.suppress(OSError):
            Path(folder, _COMPLETE).touch()


def cache_key(package: Path) -> str:
    """Return 16 hex digits of all sources under `package`, the versions and the processor."""
    target = cpu_target.target_context.codegen().magic_tuple()
    versions = numba.__version__, llvmlite.__version__, sys.version_info
    digest = hashlib.sha256(repr((versions, platform.machine(), target)).encode())
    for source in sorted(package.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _top_package(module: str) -> Path:
    """Return the folder of flowcpc.<stage>, whose kernels call one another across folders."""
    return Path(str(sys.modules[".".join(module.split(".")[:2])].__file__)).parent


@functools.cache
def _cache_folder(package: Path) -> str:
    """Return the folder for the machine code of a package; empty if it cannot be written."""
    base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(base).expanduser() / "flowcpc" / f"{package.name}-{cache_key(package)}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError if the user has no home
        return ""
    return str(folder) if os.access(folder, os.W_OK | os.X_OK) else ""
