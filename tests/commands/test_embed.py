"""`flowcpc embed` on video files: the same vectors as from a store, and nothing left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import write_class_folders
from checkout import ROOT
from click.testing import CliRunner, Result

import flowcpc as api
from flowcpc import video_embedding
from flowcpc.commands import main
from flowcpc.stores.base.listener import SILENT
from flowcpc.stores.base.locks import locked_if_free

SETTINGS = ["batch_size=4", "num_flows=2", "size=24x24", "width=2"]
SETTINGS += ["num_segments=4", "num_observed=3", "split=all"]
OPTIONS = ["--preset", "tiny", "--steps", "3"]
OPTIONS += [word for setting in SETTINGS for word in ("--set", setting)]


def flowcpc(*words: object) -> Result:
    return CliRunner().invoke(main.main, [str(word) for word in words])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `videos`, their store `s` and a run `run` on it."""
    folder = tmp_path_factory.mktemp("files")
    write_class_folders(folder / "videos", {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}, frames=9)
    for words in (
        (
            "extract-flow",
            folder / "videos",
            folder / "s",
            "--size",
            "24x32",
            "--workers",
            0,
            "--encoding",
            "int16",
        ),
        ("pretrain", folder / "s", folder / "run", *OPTIONS),
        ("embed", folder / "s", folder / "run"),
    ):
        result = flowcpc(*words)
        assert result.exit_code == 0, result.output
    return folder


def from_the_store(place: Path) -> dict[tuple[str, int], np.ndarray]:
    rows, vectors = api.read_embeddings(place / "s", place / "run")
    return dict(zip(zip(rows["video_id"], rows["start"], strict=True), vectors, strict=True))


def test_files_give_what_their_store_gives(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "e.parquet"
    result = flowcpc(
        "embed", place / "videos", "--weights", place / "run", "--out", out, "--workers", 0
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    table = pd.read_parquet(out)
    expected = from_the_store(place)
    assert list(zip(table["video_id"], table["start"], strict=True)) == list(expected)
    for vector, wanted in zip(table["embedding"], expected.values(), strict=True):
        np.testing.assert_array_equal(vector, wanted)
    assert set(table["path"]) == {f"{name}.avi" for name in table["video_id"]}
    assert [path.name for path in out.parent.iterdir()] == ["e.parquet"]


def test_files_for_an_encoder_of_images(place: Path, tmp_path: Path) -> None:
    store, run, out = tmp_path / "s", tmp_path / "run", tmp_path / "out" / "e.parquet"
    for words in (
        (
            "extract-flow",
            place / "videos",
            store,
            "--size",
            "24x32",
            "--workers",
            0,
            "--with-frames",
        ),
        ("pretrain", store, run, *OPTIONS, "--set", "modality=image"),
        ("embed", store, run),
        ("embed", place / "videos", "--weights", run, "--out", out, "--workers", 0),
    ):
        result = flowcpc(*words)
        assert result.exit_code == 0, result.output
    table = pd.read_parquet(out)
    rows, vectors = api.read_embeddings(store, run)
    assert table["video_id"].tolist() == rows["video_id"].tolist()
    np.testing.assert_array_equal(np.stack(table["embedding"]), vectors)
    assert [path.name for path in out.parent.iterdir()] == ["e.parquet"]


def test_some_files_and_a_broken_one(place: Path, tmp_path: Path) -> None:
    one, two = sorted((place / "videos" / "Left").iterdir())[:2]
    (tmp_path / "broken.avi").write_bytes(b"RIFF")
    for path in (one, two):
        shutil.copy(path, tmp_path)
    out = tmp_path / "e.parquet"
    result = flowcpc(
        "embed", *sorted(tmp_path.glob("*.avi")), "--weights", place / "run", "--out", out
    )
    assert result.exit_code == 3, result.output
    assert [line.partition("\t")[0] for line in result.stdout.splitlines()] == [
        str(tmp_path / "broken.avi")
    ]
    assert "1 of 3 videos could not be embedded" in result.stderr
    table = pd.read_parquet(out)
    assert table["video_id"].unique().tolist() == [one.stem, two.stem]
    expected = from_the_store(place)
    for name, start, vector in zip(
        table["video_id"], table["start"], table["embedding"], strict=True
    ):
        np.testing.assert_array_equal(vector, expected[f"Left/{name}", start])
    out.unlink()
    result = flowcpc("embed", tmp_path / "broken.avi", "--weights", place / "run", "--out", out)
    assert (result.exit_code, result.stdout.partition("\t")[0]) == (1, str(tmp_path / "broken.avi"))
    assert not out.exists()


def test_what_cannot_work_is_refused_before_any_flow(place: Path, tmp_path: Path) -> None:
    run = place / "run"
    for words, sentence in (
        ((place / "s",), "got 1 path; write flowcpc embed STORE RUN"),
        (
            (place / "s", run, "--out", tmp_path / "x"),
            "--out is for video files",
        ),
        ((place / "s", run, "--workers", 0), "--workers is for video files"),
        (
            (place / "s", run, "--splits", "train,tset"),
            "splits must be some of train, val, test, got 'train,tset'",
        ),
        ((place / "videos", "--weights", run, "--splits", "test"), "video files have no splits"),
        ((place / "nowhere", "--weights", run), "nowhere does not exist"),
        ((place / "videos", "--weights", place), "holds no checkpoint of a run"),
        ((place / "videos", "--weights", run, "--out", place / "s" / "x"), "lies in the store"),
    ):
        result = flowcpc("embed", *words)
        assert result.exit_code == 2, result.output
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_input_is_written_over(place: Path, tmp_path: Path) -> None:
    video = shutil.copy(sorted((place / "videos" / "Left").iterdir())[0], tmp_path / "v.parquet")
    (tmp_path / "link.parquet").symlink_to(video)
    (tmp_path / "report.html").write_bytes(b"a page")
    before = video.read_bytes()
    for out, sentence in (
        (video, "is one of the videos; give --out another name"),
        (tmp_path / "link.parquet", "is one of the videos"),
        (
            tmp_path / "report.html",
            "must end in .parquet; name it report.parquet",
        ),
    ):
        result = flowcpc("embed", video, "--weights", place / "run", "--out", out)
        assert result.exit_code == 2, result.output
        assert sentence in result.stderr
    assert video.read_bytes() == before
    assert (tmp_path / "report.html").read_bytes() == b"a page"


def test_many_videos_are_foreseen_and_need_room(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_embedding, "MANY_VIDEOS", 2)
    words = (
        "embed",
        place / "videos",
        "--weights",
        place / "run",
        "--out",
        tmp_path / "e.parquet",
        "--workers",
        0,
    )
    result = flowcpc(*words)
    assert result.exit_code == 0, result.output
    assert "about 48 pairs of frames" in result.stderr
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    result = flowcpc(*words)
    assert result.exit_code == 1
    assert "give --work-dir on another disk" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


def start(place: Path, videos: Path, out: Path, workers: int = 0) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "embed",
        str(videos),
        "--weights",
        str(place / "run"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command += ["--out", str(out), "--workers", str(workers)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, env=environment, start_new_session=True)


def wait_for_flow(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while (
        not list(folder.glob(".flowcpc-embed-*/store/commits/*/*.json"))
        and time.monotonic() < deadline
    ):
        time.sleep(0.002)


@pytest.fixture(scope="module")
def long_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    return write_class_folders(
        folder, {"Left": (-1.0, 0.0), "Right": (1.0, 0.0)}, clips=4, frames=60
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [(signal.SIGTERM, 75, 0), (signal.SIGINT, 130, 0), (signal.SIGINT, 130, 2)],
)
def test_a_signal_leaves_nothing(
    place: Path, long_videos: Path, tmp_path: Path, number: int, code: int, workers: int
) -> None:
    """To the whole group, as a terminal's Ctrl-C is."""
    process = start(place, long_videos, tmp_path / "e.parquet", workers)
    wait_for_flow(tmp_path)
    os.killpg(process.pid, number)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == code, stderr
    assert "run the same command to resume: flowcpc embed" in stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_is_in_use_until_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = []

    def rmtree(path: Path) -> None:
        for folder in (path, path.parent):
            with locked_if_free(folder) as is_free:
                free.append(is_free)
        path.rmdir()

    monkeypatch.setattr(video_embedding.shutil, "rmtree", rmtree)
    with video_embedding._scratch_folder(tmp_path, SILENT):
        pass
    assert free == [False, False], "another command must not remove it too"
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_command_left_goes_with_the_next(
    place: Path, long_videos: Path, tmp_path: Path
) -> None:
    process = start(place, long_videos, tmp_path / "e.parquet")
    wait_for_flow(tmp_path)
    (left,) = tmp_path.iterdir()
    process.send_signal(signal.SIGSTOP)  # it is alive, and does not end before the next one
    video = sorted((place / "videos" / "Left").iterdir())[0]
    words = ("embed", video, "--weights", place / "run", "--out", tmp_path / "other.parquet")
    assert flowcpc(*words).exit_code == 0
    assert left.exists()  # its command is alive
    process.kill()
    process.communicate()
    result = flowcpc(*words)
    assert result.exit_code == 0
    assert f"removing {left}" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["other.parquet"]
