import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from loader_cases import same_size

from flowcpc.stores.base.errors import DamagedStoreError, OperationError
from flowcpc.train.data.loader import loading
from flowcpc.train.data.shared_memory import empty


def square(step: int) -> int:
    return step * step


def filled(step: int) -> dict[str, object]:
    """A batch whose tensor lies in a block, and which grows with the step."""
    tensor = empty((step + 1, 1000), np.dtype(np.int16))
    tensor.fill_(step)
    return {
        "step": step,
        "codes": tensor,
        "again": tensor,
        "part": tensor[:, :2],
        "small": torch.tensor([step]),
    }


@pytest.mark.parametrize("ahead", [0, 1, 5])
@pytest.mark.parametrize("workers", [0, 1, pytest.param(3, marks=pytest.mark.slow)])
def test_loading_changes_nothing_but_time(workers: int, ahead: int) -> None:
    with loading(square, range(7), workers=workers, ahead=ahead) as loaded:
        assert list(loaded) == [step * step for step in range(7)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_kept_stay_what_they_are(workers: int) -> None:
    with loading(filled, range(40), workers=workers) as loaded:
        batches = list(loaded)
    for step, batch in enumerate(batches):
        assert batch["step"] == step
        assert batch["codes"].shape == (step + 1, 1000)
        for name in ("codes", "again", "part", "small"):
            assert (batch[name] == step).all(), name


def test_blocks_are_used_again_once_nothing_sees_them() -> None:
    addresses = set()
    with loading(same_size, range(60), workers=2, ahead=4) as loaded:
        for step, batch in enumerate(loaded):
            assert (batch == step).all()
            addresses.add(batch.data_ptr())
    assert len(addresses) <= 8  # of two processes: what is ahead, in hand, and on its way back


def test_a_view_keeps_its_block() -> None:
    with loading(same_size, range(30), workers=1) as loaded:
        kept = [batch[500:, :3] for batch in loaded]
    assert [one.unique().tolist() for one in kept] == [[step] for step in range(30)]


def twice(step: int) -> dict[str, torch.Tensor]:
    tensor = same_size(step)
    return {"one": tensor, "other": tensor}


def test_a_block_that_a_batch_names_twice_is_used_again_when_neither_sees_it() -> None:
    with loading(twice, range(12), workers=1, ahead=0) as loaded:
        kept = [batch["one"] for batch in loaded]
    assert [one.unique().tolist() for one in kept] == [[step] for step in range(12)]


class Talkative(Exception):
    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


def failing(step: int) -> float:
    if step == 3:
        raise DamagedStoreError("flows [0, 5) of v are damaged")
    if step == 4:
        raise Talkative("this", "that")
    return 1 / (step - 2)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_exception_arrives_where_its_batch_is_asked_for(workers: int) -> None:
    for first, error, words in (
        (0, ZeroDivisionError, "division"),
        (3, DamagedStoreError, r"flows \[0, 5\) of v"),
    ):
        with loading(failing, range(first, 9), workers=workers, ahead=4) as loaded:
            if first == 0:
                assert [next(loaded), next(loaded)] == [-0.5, -1.0]
            with pytest.raises(error, match=words):
                next(loaded)


def test_an_exception_that_cannot_be_sent_arrives_in_words() -> None:
    with (
        loading(failing, [4], workers=1) as loaded,
        pytest.raises(OperationError, match="Talkative: this and that"),
    ):
        next(loaded)


def test_the_thread_ends_with_the_loop() -> None:
    began = threading.active_count()
    read: list[int] = []
    with loading(lambda step: read.append(step) or step, range(10**6), ahead=3) as loaded:
        assert next(loaded) == 0
        assert threading.active_count() == began + 1
    assert threading.active_count() == began
    assert len(read) <= 5


def pid_of(step: int) -> int:
    return os.getpid()


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def has_gone(pid: int) -> bool:
    """Whether a process is not there, after a while if need be."""
    for _ in range(600):
        if not is_there(pid):
            return True
        time.sleep(0.05)
    return False


def test_processes_end_with_the_loop() -> None:
    with loading(pid_of, range(10**6), workers=2) as loaded:
        pids = {next(loaded) for _ in range(6)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert all(has_gone(pid) for pid in pids)


def test_a_killed_process_is_named() -> None:
    with loading(pid_of, range(10**6), workers=2) as loaded:
        pid = next(loaded)
        os.kill(pid, signal.SIGKILL)
        words = (
            rf"a loader process \(pid {pid}\) was killed by SIGKILL "
            r"before it had read step \d; if the machine ran out"
        )
        with pytest.raises(OperationError, match=words):
            list(itertools.islice(loaded, 10))


def leave(step: int) -> int:
    os._exit(3)


def test_a_process_that_ends_is_named() -> None:
    with (
        loading(leave, range(3), workers=1) as loaded,
        pytest.raises(OperationError, match=r"ended \(3\) before"),
    ):
        next(loaded)


@pytest.mark.parametrize("arguments", [{"workers": -1}, {"ahead": -2}])
def test_negative_numbers_are_refused(arguments: dict[str, int]) -> None:
    ((name, value),) = arguments.items()
    with (
        pytest.raises(ValueError, match=f"{name} must be at least 0, got {value}"),
        loading(square, range(3), **arguments),
    ):
        pass


def threads(step: int) -> int:
    return torch.get_num_threads()


def test_a_process_has_one_thread() -> None:
    with loading(threads, range(2), workers=1) as loaded:
        assert list(loaded) == [1, 1]


LOOP = """
import os, signal, sys
import numpy as np
from loader_cases import same_size
from flowcpc.train.data.loader import loading

if __name__ == "__main__":
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: stopped.append(number))
    print("starting", flush=True)
    with loading(same_size, range(10**9), workers=2) as loaded:
        for step, batch in enumerate(loaded):
            assert (batch == step % 256).all()
            if step == 4:
                print("ready", flush=True)
            if stopped:
                break
    print("stopped by", *stopped)
"""


@contextlib.contextmanager
def running_loop(tmp_path: Path):
    """A running program, in a process group of its own, that loads in two processes.

    It loads until a signal comes.
    """
    (tmp_path / "program.py").write_text(LOOP)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support/training'}"}
    program = subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert program.stdout.readline() == "starting\n"
        yield program
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.communicate()


def of_group(group: int) -> list[int]:
    """Processes of a process group that are not zombies."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.getpgid(int(pid)) == group and is_there(int(pid)):
                found.append(int(pid))
    return found


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_all_reaches_the_loop_alone(tmp_path: Path, number: signal.Signals) -> None:
    with running_loop(tmp_path) as program:
        assert program.stdout.readline() == "ready\n"
        assert len(of_group(program.pid)) >= 4  # with the forkserver
        os.killpg(program.pid, number)
        out, err = program.communicate(timeout=60)
        assert (program.returncode, out, err) == (0, f"stopped by {int(number)}\n", "")
        assert all(has_gone(pid) for pid in of_group(program.pid))


def test_ctrl_c_while_processes_start(tmp_path: Path) -> None:
    with running_loop(tmp_path) as program:
        for _ in range(6):
            os.killpg(program.pid, signal.SIGINT)
            time.sleep(0.1)
        out, err = program.communicate(timeout=60)
        assert (program.returncode, err) == (0, "")
        assert out.splitlines()[-1].startswith("stopped by 2")


def test_nothing_is_left_of_a_killed_program(tmp_path: Path) -> None:
    with running_loop(tmp_path) as program:
        assert program.stdout.readline() == "ready\n"
        processes = of_group(program.pid)
        mapped = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in processes)
        assert "/memfd:flowcpc-batch" in mapped
        assert "/dev/shm" not in mapped  # where it would have a name that stays
        program.kill()
        program.communicate()
        assert all(has_gone(pid) for pid in processes)
