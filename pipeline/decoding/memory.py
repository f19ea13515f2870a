"""Memory use of this process, from Linux's /proc."""

import contextlib
from pathlib import Path


def peak_bytes() -> int:
    """Return the peak of resident memory since `forget_peak`, or since the process began."""
    return _status_bytes("VmHWM")


def forget_peak() -> None:
    """Reset `peak_bytes`, if the kernel allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def data_bytes() -> int:
    """Return the allocated private memory, which RLIMIT_DATA limits."""
    return _status_bytes("VmData")


def _status_bytes(name: str) -> int:
    # Not getrusage, whose peak starts at that of the parent process.
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields.get(name, "0").split()[0]) * 1024
