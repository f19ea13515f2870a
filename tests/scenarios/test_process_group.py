"""Signals to all processes of a command at once, as Ctrl-C in a terminal and a queue send them."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from builders import assert_same_store, extraction_command, write_class_folders

from flowcpc.commands import console
from flowcpc.stores.flow_store import open_store

# `make chaos` sets this to 30.
SIGNALS = int(os.environ.get("FLOWCPC_SIGNALS", "6"))


def listens(pid: int) -> bool:
    """Whether a process has a handler for SIGUSR1, or is over."""
    try:
        caught = re.search(
            r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE
        )
    except FileNotFoundError:
        return True
    return caught is None or bool(int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1)


def run_group(
    command: list[str], number: int | None = None, delay: float = 0.0
) -> tuple[int, str, float]:
    """Run a command as a process group; signal all of it `delay` seconds after it began to listen.

    Returns its exit code, stderr, and how long it listened.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not listens(process.pid) and process.poll() is None:
        time.sleep(0.005)
    began = time.monotonic()
    if number is not None:
        time.sleep(delay)
        if process.poll() is None:
            os.killpg(process.pid, number)
    try:
        stderr = process.communicate(timeout=240)[1]  # a first run compiles
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, stderr, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_whole_group_is_asked_to_stop_at_any_moment(tmp_path: Path) -> None:
    """Only our own messages are printed, whenever it comes, and the command can be resumed."""
    videos = write_class_folders(
        tmp_path / "videos", {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}, clips=4, frames=40
    )
    calm = extraction_command(videos, tmp_path / "calm", size="48x64", workers=2)
    code, stderr, seconds = run_group(calm)
    assert (code, "Traceback" in stderr) == (0, False), stderr
    expected = {
        signal.SIGINT: console.INTERRUPTED,
        signal.SIGTERM: console.PREEMPTED,
        signal.SIGUSR1: console.PREEMPTED,
    }
    for count in range(SIGNALS):
        number, stopped = list(expected.items())[count % len(expected)]
        delay = seconds * count / SIGNALS
        store = tmp_path / f"s{count}"
        command = extraction_command(videos, store, size="48x64", workers=2)
        code, stderr, _ = run_group(command, number, delay)
        when = f"{signal.Signals(number).name} after {delay:.2f} s: {stderr}"
        assert "Traceback" not in stderr, when
        assert not re.search(r"\bERROR\b|Exception|leaked|Warning", stderr), when
        done = (store / "store.json").exists() and len(open_store(store).videos()) == 8
        assert code == stopped or (code == 0 and done), when
        assert count or code == stopped, "the first signal came too late to test anything"
        assert code == 0 or "run the same command to resume: flowcpc extract-flow" in stderr, when
        if count % 3 == 1:
            assert run_group(command)[0] == 0
            assert_same_store(store, tmp_path / "calm")
