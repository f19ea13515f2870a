"""A store with killed writers, full and read-only disks, and two writers at once."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import FRAMES, assert_same_store, commit_flow, extraction_command, write_class_folders
from checkout import ROOT
from store_cases import FORMATS, NUMERICS, some_flow

from flowcpc.stores.flow_store import create_store, open_store
from flowcpc.stores.inspection.verify import EXTRA, verify
from flowcpc.stores.records import garbage
from flowcpc.stores.window_reader import WindowReader

# `make chaos` sets this to 200.
KILLS = int(os.environ.get("FLOWCPC_KILLS", "3"))

FORMS = (("zarr",), ("hdf5",), ("zarr", "with frames"))

WRITE = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from builders import FRAMES, commit_flow
from store_cases import NUMERICS, some_flow
from flowcpc.stores.flow_store import create_store
numerics = NUMERICS | (FRAMES if "with frames" in sys.argv else {})
store = create_store(sys.argv[1], numerics, sys.argv[2])
store.collect_garbage()
with store.in_use():
    print("writing", flush=True)
    for seed in range(40):
        if store.commit_of(f"v{seed}") is None:
            commit_flow(store, f"v{seed}", some_flow(20 + seed, seed))
store.consolidate()
"""


def with_cases() -> dict[str, str]:
    """Return an environment in which a process finds tests/support as this one does."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def run_writer(path: Path, form: tuple[str, ...], kill_after: float | None = None) -> bool:
    """Write a store and return whether the writer was killed before it ended.

    `kill_after` is in seconds from the start of writing.
    """
    command = [sys.executable, "-c", WRITE, str(path), *form]
    with subprocess.Popen(
        command, cwd=ROOT, env=with_cases(), stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        if kill_after is not None:
            time.sleep(kill_after)
            writer.kill()
    assert kill_after is not None or writer.returncode == 0
    return writer.returncode == -signal.SIGKILL


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "form",
    [pytest.param(form, marks=pytest.mark.slow) if "zarr" in form else form for form in FORMS],
    ids=" ".join,
)
def test_a_storm_of_kills_then_the_store_is_an_undisturbed_one(
    tmp_path: Path, form: tuple[str, ...]
) -> None:
    rng = random.Random(" ".join(form))
    began = time.monotonic()
    run_writer(tmp_path / "whole", form)
    needed = time.monotonic() - began
    kills = rounds = 0
    while kills < KILLS:
        target = tmp_path / f"s{rounds}"
        rounds += 1
        for _ in range(3):  # the same store is killed a few times before its last run
            kills += run_writer(target, form, rng.uniform(0, needed / 3))
            assert verify(open_store(target)).harmful == [], "whatever is committed is whole"
        run_writer(target, form)
        assert_same_store(tmp_path / "whole", target)
        assert garbage.find_leftovers(target) == []
        assert verify(open_store(target)).problems == []
        shutil.rmtree(target)
        assert rounds < 10 * KILLS, "the kills come too late"


@pytest.mark.slow
@pytest.mark.parametrize("array_format", FORMATS)
def test_two_extractions_at_once(tmp_path: Path, array_format: str) -> None:
    videos = write_class_folders(
        tmp_path / "videos", {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}, clips=4, frames=12
    )

    def extract(store: str) -> subprocess.Popen[bytes]:
        command = extraction_command(
            videos, tmp_path / store, "--format", array_format, size="24x32"
        )
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)

    both = [extract("s"), extract("s")]
    for process in (*both, extract("alone")):
        said = process.communicate()[1]
        assert process.returncode == 0, said
    store = open_store(tmp_path / "s")
    assert {problem.kind for problem in verify(store).problems} <= {EXTRA}
    assert_same_store(tmp_path / "s", tmp_path / "alone")
    again = extract("s")
    again.communicate()
    assert again.returncode == 0
    assert verify(store).problems == []


@pytest.mark.parametrize("array_format", FORMATS)
def test_an_error_after_the_record_is_in_place_keeps_the_flow(
    tmp_path: Path, array_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create_store(tmp_path / "s", NUMERICS, array_format)

    def broken(path: Path) -> None:
        if "commits" in path.parts:
            raise OSError(5, os.strerror(5))

    monkeypatch.setattr("flowcpc.stores.base.atomic.sync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        commit_flow(store, "v", some_flow(4))
    np.testing.assert_array_equal(store.read_codes("v"), store.encoding.encode(some_flow(4)))


@pytest.mark.parametrize("array_format", FORMATS)
def test_reads_may_come_in_pieces(
    tmp_path: Path, array_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create_store(tmp_path / "s", NUMERICS, array_format)
    commit_flow(store, "v", some_flow(30))
    whole, preadv = store.read_codes("v"), os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:1000]], offset)
    )
    np.testing.assert_array_equal(store.read_codes("v"), whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 2 MB large."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small tmpfs cannot be mounted here (it takes root)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


FILL = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from builders import FRAMES, commit_flow
from store_cases import NUMERICS, some_flow
from flowcpc.stores.flow_store import create_store
numerics = NUMERICS | (FRAMES if "with frames" in sys.argv else {})
store = create_store(sys.argv[1], numerics, sys.argv[2])
for seed in range(200):
    try:
        commit_flow(store, f"v{seed}", some_flow(60, seed))
    except OSError as error:
        print("stopped at", seed, error.strerror or error)
        break
"""


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_a_full_disk_keeps_what_was_committed(small_disk: Path, form: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", FILL, str(small_disk / "s"), *form]
    done = subprocess.run(
        command, cwd=ROOT, env=with_cases(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    committed = int(done.stdout.split()[2])
    assert "No space left" in done.stdout
    store = open_store(small_disk / "s")
    assert len(store.videos()) == committed > 5
    assert verify(store).harmful == []
    for seed in range(committed):
        np.testing.assert_array_equal(
            store.read_codes(f"v{seed}"), store.encoding.encode(some_flow(60, seed))
        )
    assert garbage.find_leftovers(store.path) == [], "what did not fit is gone"


@pytest.mark.parametrize("array_format", FORMATS)
def test_the_command_on_a_full_disk_says_so(
    small_disk: Path, tmp_path: Path, array_format: str
) -> None:
    videos = write_class_folders(tmp_path / "videos", {"Left": (-1.0, 0.0)}, clips=2, frames=12)
    (small_disk / "ballast").write_bytes(bytes(2 * 1024 * 1024 - 60 * 1024))
    command = extraction_command(videos, small_disk / "s", "--format", array_format, size="128x160")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_read_only_store_can_be_read_and_says_that_it_cannot_be_written(tmp_path: Path) -> None:
    videos = write_class_folders(tmp_path / "videos", {"Left": (-1.0, 0.0)}, clips=2)
    command = extraction_command(videos, tmp_path / "s", size="24x32")
    quietly = {"cwd": ROOT, "capture_output": True, "text": True, "check": False}
    assert subprocess.run([*command, "--limit", "1"], **quietly).returncode == 0
    same = str(tmp_path / "s")
    if subprocess.run(["mount", "--bind", same, same], capture_output=True, check=False).returncode:
        pytest.skip("a folder cannot be mounted read-only here (it takes root)")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", same], check=True)
        store = open_store(same)
        assert len(store.videos()) == 1
        assert store.read_flow("Left/v_Left_g01_c01").shape == (5, 2, 24, 32)
        assert verify(store).harmful == []
        refused = subprocess.run(command, **quietly)
        assert refused.returncode == 1
        assert "cannot be written (Read-only file system)" in refused.stderr
        assert "Traceback" not in refused.stderr
    finally:
        subprocess.run(["umount", "--lazy", same], check=True)


def read_elsewhere(reader: WindowReader) -> np.ndarray:
    return reader.read_windows(np.array([0, 1]), np.array([[0], [3]]), 5)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_reader_works_in_loader_processes(tmp_path: Path, method: str) -> None:
    store = create_store(tmp_path / "s", NUMERICS | FRAMES)
    for seed in range(2):
        commit_flow(store, f"v{seed}", some_flow(9, seed))
    readers = [WindowReader(store, ["v0", "v1"], frames=frames) for frames in (False, True)] * 2
    expected = [read_elsewhere(reader) for reader in readers]
    with multiprocessing.get_context(method).Pool(2) as pool:
        for found, wanted in zip(pool.map(read_elsewhere, readers), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_forked_process_is_refused(tmp_path: Path) -> None:
    store = create_store(tmp_path / "s", NUMERICS)
    commit_flow(store, "v", some_flow(9))
    reader = WindowReader(store, ["v"])
    child = os.fork()
    if child == 0:
        try:
            reader.read_windows(np.array([0]), np.array([[0]]), 5)
        except RuntimeError as error:
            os._exit(0 if "does not survive a fork" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
