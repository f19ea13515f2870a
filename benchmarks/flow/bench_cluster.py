"""The cost of distribution: memory and time per video of 13,320 empty videos, and Dask
against plain processes on real ones.

Run `python -m benchmarks.flow.bench_cluster`; `make bench` does. Writes
docs/benchmarks/flow/cluster.md.
"""

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from checkout import ROOT

from benchmarks.real_flow import spread
from benchmarks.record import make_parser, write_record
from benchmarks.timing import median_and_range
from flowcpc.pipeline.cluster.places import ExistingScheduler, LocalProcesses, Place
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.datasets.sources import read_dataset
from flowcpc.pipeline.extraction.extract import STORED, ExtractionSettings, Outcome
from flowcpc.pipeline.run import run_extraction
from flowcpc.stores.base.listener import Fields, Listener

Rounds = list[tuple[float, float]]  # seconds, and seconds of processors
DASK = str(Path(sys.executable).with_name("dask"))


def nothing(
    settings: ExtractionSettings, video: Video, on_pairs: object, *, should_stop: object
) -> Outcome:
    """Stand in for `extract_video`: take no time and store nothing."""
    return Outcome(video.video_id, STORED)


def megabytes(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclasses.dataclass
class Mark:
    """Progress of a run after so many videos: seconds, and MB of client and scheduler."""

    at: float
    client: float
    scheduler: float


def no_ops(folder: Path, few: int, many: int) -> tuple[Mark, Mark]:
    """Return the marks after few and many videos without work, on a scheduler and two workers."""
    (folder / "videos" / "A").mkdir(parents=True)
    (folder / "video").write_bytes(b"x")
    for number in range(many):
        os.link(folder / "video", folder / "videos" / "A" / f"v_{number:05d}.avi")
    file = folder / "scheduler.json"
    quiet = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": {**os.environ, "PYTHONPATH": str(ROOT)},
    }
    scheduler = [DASK, "scheduler", "--host", "127.0.0.1", "--port", "0"]
    daemons = [subprocess.Popen([*scheduler, "--scheduler-file", str(file)], **quiet)]
    marks: dict[int, Mark] = {}
    try:
        while not file.exists():
            time.sleep(0.1)
        worker = [DASK, "worker", "--scheduler-file", str(file), "--nthreads", "1"]
        worker += ["--local-directory", str(folder / "dask"), "--no-dashboard"]
        daemons += [subprocess.Popen(worker, **quiet) for _ in range(2)]

        class Marker(Listener):
            """Marks how far the run is."""

            def progress(self, done: int, total: int, fields: Fields) -> None:
                settled = int(str(fields["videos"]).partition("/")[0])
                if settled in (few, many) and settled not in marks:
                    marks[settled] = Mark(
                        time.perf_counter(), megabytes(os.getpid()), megabytes(daemons[0].pid)
                    )

        settings = ExtractionSettings(str(folder / "videos"), str(folder / "store"), 24, 32)
        found = read_dataset(folder / "videos", "folder").videos
        run_extraction(
            settings, found, ExistingScheduler(file=str(file)), extract=nothing, listener=Marker()
        )
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait()
    return marks[few], marks[many]


def processor_seconds(pids: set[int]) -> float:
    """Processor time that processes have used, all their threads together."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


class Watch(Listener):
    """Notes times and processor seconds when the workers are ready and when the last video ends."""

    def __init__(self) -> None:
        self.pids = {os.getpid()}
        self.ready = self.ended = (0.0, 0.0)

    def progress(self, done: int, total: int, fields: Fields) -> None:
        self.ended = time.perf_counter(), processor_seconds(self.pids)

    def show_lines(self, lines: Sequence[str]) -> None:
        pids = {int(line.split()[1].rstrip(":")) for line in lines}
        if pids - self.pids or self.ready == (0.0, 0.0):
            self.pids |= pids
            self.ready = time.perf_counter(), processor_seconds(self.pids)


def working_seconds(videos: Path, store: Path, place: Place) -> tuple[float, float]:
    """Seconds, and seconds of processors, from ready workers to the last commit."""
    found = read_dataset(videos, "folder").videos
    settings, watch = ExtractionSettings(str(videos), str(store), backend="cpu"), Watch()
    run_extraction(settings, found, place, listener=watch)
    wall, used = (ended - ready for ready, ended in zip(watch.ready, watch.ended, strict=True))
    return wall, used


def plain(folders: list[Path], store: Path) -> tuple[float, float]:
    """Return seconds of the slowest, and processor seconds of all, of processes without Dask.

    Each has one core and does not communicate.
    """
    cores = sorted(os.sched_getaffinity(0))
    code = (
        "import os, sys, benchmarks.flow.bench_cluster as b; "
        "from flowcpc.pipeline.cluster.places import InProcess; "
        "os.sched_setaffinity(0, {int(sys.argv[3])}); "
        "print(*b.working_seconds(b.Path(sys.argv[1]), b.Path(sys.argv[2]), InProcess()))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder), f"{store}-{n}", str(cores[n])],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n, folder in enumerate(folders)
    ]
    walls, used = zip(
        *(map(float, process.communicate()[0].split()) for process in running), strict=True
    )
    return max(walls), sum(used)


def against_processes(folder: Path, clips: int, rounds: int) -> tuple[Rounds, Rounds]:
    """Seconds, and seconds of processors, of Dask and of processes on the same clips, in turns.

    Every process has the same clips, so that none waits for another.
    """
    parts = []
    for part in ("a", "b"):
        (folder / part / "X").mkdir(parents=True)
        for number, clip in enumerate(spread(clips // 2)):
            shutil.copy(clip, folder / part / "X" / f"{part}{number}.avi")
        parts.append(folder / part)
    both = folder / "both"
    for part in parts:
        shutil.copytree(part / "X", both / part.name)
    dask, processes = [], []
    for turn in range(rounds):
        processes.append(plain(parts, folder / f"plain{turn}"))
        dask.append(working_seconds(both, folder / f"dask{turn}", LocalProcesses(2)))
    return dask, processes


def main() -> None:
    """Measure, print and record."""
    parser = make_parser(__doc__, "flow", few=1000, many=13_320, clips=6, rounds=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        few, many = no_ops(Path(name, "many"), arguments.few, arguments.many)
        print(few, many, flush=True)
        dask, processes = against_processes(Path(name), arguments.clips, arguments.rounds)
    print(json.dumps({"dask": dask, "processes": processes}))
    each = (many.at - few.at) / (arguments.many - arguments.few) * 1000
    (wall, used), (plain_wall, plain_used) = (
        list(zip(*rounds, strict=True)) for rounds in (dask, processes)
    )
    speed, cost = (
        statistics.median(ours) / statistics.median(theirs)
        for ours, theirs in ((plain_wall, wall), (used, plain_used))
    )
    write_record(
        arguments.out / "cluster.md",
        "Distribution",
        "`python -m benchmarks.flow.bench_cluster`.",
        f"- {arguments.many} videos that are nothing, through a scheduler and two workers started "
        f"by hand: {each:.1f} ms per video, so {2 * each:.1f} ms from one video's end on a worker "
        "to the next one's.\n"
        f"- Memory of the client {few.client:.0f} MB after {arguments.few} videos and "
        f"{many.client:.0f} MB after {arguments.many}; of the scheduler {few.scheduler:.0f} and "
        f"{many.scheduler:.0f} MB.\n"
        f"- {arguments.clips} UCF-101 clips at 256x342 on two cores, from ready workers to the "
        f"last commit, {arguments.rounds} rounds in turns: two processes that know nothing of each "
        f"other {median_and_range(plain_wall, 1)} s, Dask with two workers "
        f"{median_and_range(wall, 1)} s: {speed:.3f} of the processes' speed. Processor time: "
        f"{median_and_range(plain_used, 1)} s and {median_and_range(used, 1)} s with client and "
        f"scheduler, {cost - 1:+.1%}.",
    )


if __name__ == "__main__":
    main()
