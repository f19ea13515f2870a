"""A Dask cluster of real processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from builders import extraction_command

SIZE = (96, 128)


DASK = [str(Path(sys.executable).with_name("dask"))]


SLOW_AND_POISONED = """
import os, signal, time
import flowcpc.pipeline.extraction.extract

module = flowcpc.pipeline.extraction.extract
extract_video = getattr(module, "unpoisoned", module.extract_video)  # may be loaded twice
module.unpoisoned = extract_video

def extract(settings, video, on_pairs, **options):
    if "segfault" in video.video_id:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "exit" in video.video_id:
        os._exit(7)
    if "slow" in video.video_id:
        time.sleep(1)
    return extract_video(settings, video, on_pairs, **options)

module.extract_video = extract
"""


class Site:
    """A scheduler and workers, processes of the `dask` command, and an extraction on them."""

    def __init__(self, folder: Path, videos: Path) -> None:
        self.folder = folder
        self.videos = videos
        self.store = folder / "s"
        self.file = folder / "scheduler.json"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.preload = folder / "preload.py"
        self.preload.write_text(SLOW_AND_POISONED)
        self.start_scheduler("0")

    def start_scheduler(self, port: str, *further: str) -> None:
        words = [
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            port,
            "--scheduler-file",
            str(self.file),
            "--no-dashboard",
        ]
        self.file.unlink(missing_ok=True)
        self.scheduler = self._start([*words, *further])
        until(lambda: self.file.exists() and self.file.read_text().rstrip().endswith("}"))
        self.address = json.loads(self.file.read_text())["address"]

    def start_workers(self, count: int = 2) -> None:
        words = [
            "worker",
            self.address,
            "--nthreads",
            "1",
            "--local-directory",
            str(self.folder / "dask"),
        ]
        for _ in range(count):
            self.workers.append(
                self._start([*words, "--preload", str(self.preload), "--no-dashboard"])
            )

    def _start(self, words: list[str]) -> "subprocess.Popen[bytes]":
        output = open(self.folder / "dask.log", "ab")  # noqa: SIM115  (the process's)
        with output:
            return subprocess.Popen(
                [*DASK, *words],
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def extract(self, *further: str) -> "subprocess.Popen[str]":
        """The user's command, running."""
        where = ["--scheduler", self.address, *further]
        command = extraction_command(
            self.videos, self.store, *where, size="x".join(map(str, SIZE)), workers=None
        )
        return subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run_again(self) -> str:
        """Give the same command again and return what it said; it must end well."""
        process = self.extract()
        stderr = process.communicate(timeout=600)[1]
        assert process.returncode == 0, stderr
        assert "Traceback" not in stderr
        return stderr

    def live(self) -> set[int]:
        """Return the worker processes that have processed a video: their decoders wait for more."""
        workers = [pid for nanny in self.workers for pid in children(nanny.pid, "spawn_main")]
        return {pid for pid in workers if children(pid, "decoder_process")}

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def children(pid: int, word: str) -> list[int]:
    """Return the child processes whose command line contains `word`."""
    found = []
    with contextlib.suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                if word in Path(f"/proc/{child}/cmdline").read_text():
                    found.append(child)
    return found


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.01)
