"""How much memory this process takes, as Linux tells it."""

import contextlib
from pathlib import Path


def peak_bytes() -> int:
    """Return the most memory that this process has held since `forget_peak`, or since it began, bytes resident."""
    return _status_bytes("VmHWM:")


def forget_peak() -> None:
    """Let `peak_bytes` begin anew, where the kernel can do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def data_bytes() -> int:
    """Return the private memory that this process has asked for and not given back, bytes: what RLIMIT_DATA limits."""
    return _status_bytes("VmData:")


def _status_bytes(name: str) -> int:
    # Not getrusage: its peak begins with that of the process which started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0
