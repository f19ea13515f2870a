"""Videos that nobody should trust, by the real command: each costs itself and nothing else."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from builders import assert_same_store, write_class_folders, write_video
from checkout import ROOT
from hostile import Opened, decoder_of, has_ended, playlists, write_external_mov, write_huge
from textures import moving_texture

from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.decoding import decoder as decoder_module
from flowcpc.pipeline.extraction.extract import ExtractionSettings, extract_video
from flowcpc.pipeline.run import TRIES
from flowcpc.stores.flow_store import create_store, open_store

SIZE = "96x128"  # large enough that frames wait for the solver, and a decoder is met at its work
CLASSES = {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}
# What FFmpeg does with a file when nothing holds it back.
UNGUARDED = "import cv2, sys; print(cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG).read()[0])"
WIDE_OPEN = "enable_drefs;1|use_absolute_path;1|safe;0|protocol_whitelist;file"


def command(videos: Path, store: Path, *words: object) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "cli.py"),
        "extract-flow",
        *map(str, (videos, store, "--size", SIZE, *words)),
    ]


def run(videos: Path, store: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(videos, store, *words), capture_output=True, text=True, timeout=240, check=False
    )


def listed(folder: Path, names: Iterable[str]) -> Path:
    """Write a list for --dataset csv, which takes files of any name."""
    pd.DataFrame({"path": list(names), "label": "X"}).to_csv(folder / "list.csv", index=False)
    return folder / "list.csv"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A readable video beside those of a data set, and none of them."""
    path = tmp_path / "videos" / "secret.mov"
    path.parent.mkdir()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for step in range(5):
        writer.write(np.full((48, 64, 3), 40 * step, np.uint8))
    writer.release()
    return path


def test_no_file_makes_ffmpeg_open_another(secret: Path, tmp_path: Path) -> None:
    videos, contents = secret.parent, playlists(secret)
    for name, content in contents.items():
        (videos / name.replace(".", "_") / name).parent.mkdir()
        (videos / name.replace(".", "_") / name).write_bytes(content)
    write_external_mov(videos / "external.mov", secret)
    write_video(videos / "good.avi", moving_texture(4, 24, 32, step=(1, 0)))
    paths = [f"{name.replace('.', '_')}/{name}" for name in contents]
    lists = listed(tmp_path, [*paths, "external.mov", "good.avi"])
    opened = Opened(secret)
    result = run(videos, tmp_path / "s", "--dataset", "csv", "--annotations", lists, "--workers", 0)
    assert not opened, "the secret was opened"
    opened.close()
    assert result.returncode == 3, result.stderr
    store = open_store(tmp_path / "s")
    reasons = store.failures().set_index("video_id")["reason"].to_dict()
    assert reasons.keys() == {os.path.splitext(path)[0] for path in [*paths, "external.mov"]}
    assert all("can be decoded" in reason for reason in reasons.values())
    assert store.videos()["video_id"].tolist() == ["good"]
    assert set(store.failures()["kind"]) == {"file"}


@pytest.mark.parametrize("name", ["hls.m3u8", "concat.avi", "external.mov"])
def test_these_files_would_open_the_secret(secret: Path, tmp_path: Path, name: str) -> None:
    """The test above can fail: without our options FFmpeg does what these files ask for."""
    path = secret.with_name(name)
    if name == "external.mov":
        write_external_mov(path, secret)
    else:
        path.write_bytes(playlists(secret)[name])
    opened = Opened(secret)
    environment = {**os.environ, "OPENCV_FFMPEG_CAPTURE_OPTIONS": WIDE_OPEN}
    unguarded = [sys.executable, "-c", UNGUARDED, str(path)]
    answer = subprocess.run(unguarded, env=environment, capture_output=True, text=True, check=True)
    assert opened
    opened.close()
    assert answer.stdout == "True\n"


def test_a_name_that_reads_like_a_protocol_is_a_file(
    secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "v.avi", moving_texture(4, 24, 32, step=(1, 0))).rename(
        tmp_path / "file:v.avi"
    )
    lists = listed(tmp_path, [f"concat:{secret.name}", "file:v.avi"])
    (tmp_path / secret.name).write_bytes(secret.read_bytes())
    result = run(
        Path("."), tmp_path / "s", "--dataset", "csv", "--annotations", lists, "--workers", 0
    )
    assert result.stdout == "concat:secret\tthe file does not exist\n"
    assert open_store(tmp_path / "s").videos()["video_id"].tolist() == ["file:v"]


def test_a_pipe_in_a_list_is_a_row_and_the_rest_is_done(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "good.avi", moving_texture(4, 24, 32, step=(1, 0)))
    os.mkfifo(tmp_path / "videos" / "pipe.avi")
    lists = listed(tmp_path, ["pipe.avi", "good.avi"])
    result = run(
        tmp_path / "videos",
        tmp_path / "s",
        "--dataset",
        "csv",
        "--annotations",
        lists,
        "--workers",
        0,
    )
    assert (result.returncode, result.stdout) == (
        3,
        "pipe\tis no regular file (a pipe, a socket or a device)\n",
    )
    assert open_store(tmp_path / "s").videos()["video_id"].tolist() == ["good"]


@pytest.mark.slow
def test_a_memory_hog_is_a_row_and_the_rest_is_done(tmp_path: Path) -> None:
    videos = write_class_folders(tmp_path / "videos", CLASSES, clips=1)
    write_huge(videos / "Left" / "huge.avi")
    result = run(videos, tmp_path / "s", "--memory-limit", "256M", "--workers", 1)
    assert result.returncode == 3
    name, reason = result.stdout.strip().split("\t")
    assert name == "Left/huge"
    assert reason.startswith("needs more memory to decode than the limit of 256M")
    assert len(open_store(tmp_path / "s").videos()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGSEGV, 0),
        (signal.SIGSEGV, 2),
        (signal.SIGSTOP, 0),
        (signal.SIGSTOP, 2),
    ],
)
def test_a_decoder_that_dies_or_hangs_costs_one_video(
    tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    words, options = {
        signal.SIGSEGV: ("its decoder was killed by SIGSEGV after", ()),
        signal.SIGSTOP: ("took longer than the time limit of 12 s", ("--time-limit", "12")),
    }[number]
    videos = write_class_folders(tmp_path / "videos", CLASSES, clips=1)
    poisonous = write_video(videos / "Left" / "long.avi", moving_texture(200, 24, 32, step=(1, 0)))
    whole = command(videos, tmp_path / "s", "--workers", workers, *options)
    with subprocess.Popen(
        whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for _ in range(
            1 if number == signal.SIGSTOP else TRIES
        ):  # what takes too long would take it again
            decoder = decoder_of(poisonous)
            os.kill(decoder, number)
            assert number == signal.SIGSTOP or has_ended(decoder)
        stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 3, stderr
    (line,) = stdout.splitlines()
    assert line.startswith(f"Left/long\t{words}")
    store = open_store(tmp_path / "s")
    assert store.failures()["kind"].tolist() == ["machine"]
    assert len(store.videos()) == 2
    assert run(videos, tmp_path / "s", "--workers", 0).returncode == 0, (
        "a failure of the machine is tried again"
    )
    run(videos, tmp_path / "calm", "--workers", 0)
    assert_same_store(tmp_path / "s", tmp_path / "calm")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_sigterm_drops_the_video_in_hand(tmp_path: Path, number: signal.Signals) -> None:
    """Even while its decoder hangs: nothing is recorded, and the exit code asks for a requeue."""
    videos = write_class_folders(tmp_path / "videos", CLASSES, clips=1)
    in_hand = write_video(videos / "Left" / "long.avi", moving_texture(200, 24, 32, step=(1, 0)))
    whole = command(videos, tmp_path / "s", "--workers", 0)
    with subprocess.Popen(
        whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        os.kill(decoder_of(in_hand), signal.SIGSTOP)
        process.send_signal(number)
        stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 75, stderr
    store = open_store(tmp_path / "s")
    assert set(store.failures()["kind"]) == {"pending"}
    assert len(store.videos()) == 0
    assert list((tmp_path / "s" / "flow").glob("*/*")) == []
    assert run(videos, tmp_path / "s", "--workers", 0).returncode == 0


def test_a_decoder_that_sends_nonsense_fails_one_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that a file has taken over might."""
    nonsense = (
        "import json, struct, sys\n"
        "def say(header, frames=b''):\n"
        "    text = json.dumps(header).encode()\n"
        "    sys.stdout.buffer.write(struct.pack('<II', len(text), len(frames)) + text + frames)\n"
        "    sys.stdout.buffer.flush()\n"
        "sys.stdin.readline()\n"
        "sizes = {'source_height': 24, 'source_width': 32, 'height': 24, 'width': 32}\n"
        "say({'Opened': {'header_frames': 3, 'fps': 25.0, **sizes}})\n"
        "say({'Frames': {'number': 1000000, 'jpegs': []}}, b'x')\n"
        "sys.stdin.readline()\n"
    )
    videos = write_class_folders(tmp_path / "videos", CLASSES, clips=1)
    store, path = tmp_path / "s", "Left/v_Left_g01_c01.avi"
    settings = ExtractionSettings(str(videos), str(store), 24, 32)
    create_store(settings.store, settings.numerics())
    decoder_module.end_idle_decoders()
    monkeypatch.setattr(decoder_module, "COMMAND", (sys.executable, "-c", nonsense))
    outcome = extract_video(settings, Video("left", path, "Left", None, {}))
    assert outcome.reason.startswith("its decoder sent 1 bytes for 1000000 frames")
    monkeypatch.undo()
    assert extract_video(settings, Video("left", path, "Left", None, {})).flows == 5
