import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import commit_flow
from checkout import ROOT
from embedding_cases import make_trained_run
from recorder import Recorder
from train_cases import CONFIG, TEST_VIDEOS, TRAIN_VIDEOS, StopAfter, small_store

from flowcpc.commands import console
from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.embeddings import read_embeddings
from flowcpc.stores.flow_store import open_store
from flowcpc.train.runs import embed
from flowcpc.train.runs.checkpoint import load_checkpoint, load_encoder, save_checkpoint
from flowcpc.train.runs.embed import embed_store

VIDEOS = TRAIN_VIDEOS + TEST_VIDEOS


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on such a store."""
    return make_trained_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def expected_vectors(flow: np.ndarray, spans: Sequence[tuple[int, int]], run: Path) -> np.ndarray:
    """Vectors of segments [start, stop) of one video; short ones repeat their last flow."""
    flow = flow - flow.mean(axis=(2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    segments = [
        flow[np.minimum(np.arange(start, start + CONFIG.num_flows), stop - 1)]
        for start, stop in spans
    ]
    stacks = torch.from_numpy(np.stack(segments)[..., 1:17, 2:18]).flatten(1, 2)
    with torch.no_grad():
        return load_encoder(run)(stacks).numpy()


def test_the_last_that_progress_says_is_that_all_is_done(store: Path, run: Path) -> None:
    listener = Recorder()
    embed_store(store, run, batch_size=1, listener=listener)
    done, total, fields = listener.calls[-1]
    assert done == total
    assert fields["videos"] == f"{VIDEOS}/{VIDEOS}"
    videos = [int(str(fields["videos"]).partition("/")[0]) for _, _, fields in listener.calls]
    assert videos == sorted(videos)


def test_embeddings_are_the_encoders(store: Path, run: Path) -> None:
    result = embed_store(store, run)
    rows, vectors = read_embeddings(store, run)
    assert (result.finished, result.videos, result.made) == (True, VIDEOS, VIDEOS)
    assert vectors.shape == (len(rows), CONFIG.latent_size)
    opened = open_store(store)
    for video in opened.videos().to_dict("records"):
        mine = (rows["video_id"] == video["video_id"]).to_numpy()
        starts, stops = rows["start"][mine].tolist(), rows["stop"][mine].tolist()
        count = -(-video["flows"] // 2)
        assert starts == [-1, *(min(2 * i, max(video["flows"] - 2, 0)) for i in range(count))]
        assert stops == [video["flows"], *(min(start + 2, video["flows"]) for start in starts[1:])]
        spans = list(zip(starts[1:], stops[1:], strict=True))
        expected = expected_vectors(opened.read_flow(video["video_id"]), spans, run)
        np.testing.assert_allclose(vectors[mine][1:], expected, atol=1e-5)
        np.testing.assert_allclose(vectors[mine][0], expected.mean(axis=0), atol=1e-5)
        assert set(rows["label"][mine]) == {video["label"]}
        assert set(rows["split"][mine]) == {video["fold1"]}
        assert set(rows["step"][mine]) == {7}


def test_no_segment_crosses_a_cut(store: Path, run: Path) -> None:
    """A video of shots of 3, 1 and 4 flows: what lies beyond a cut changes nothing."""
    opened = open_store(store)
    flow = np.random.default_rng(5).normal(0, 2, (10, 2, 18, 20)).astype(np.float32)
    commit_flow(opened, "cut", flow, cuts=(3, 5))
    embed_store(store, run)
    rows, vectors = read_embeddings(store, run, level="segment")
    mine = (rows["video_id"] == "cut").to_numpy()
    spans = list(zip(rows["start"][mine], rows["stop"][mine], strict=True))
    assert spans == [(0, 2), (1, 3), (4, 5), (6, 8), (8, 10)]
    np.testing.assert_allclose(
        vectors[mine], expected_vectors(opened.read_flow("cut"), spans, run), atol=1e-5
    )


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_any_batch_size_gives_the_same_values(store: Path, run: Path, size: int) -> None:
    embed_store(store, run)
    rows, vectors = read_embeddings(store, run)
    (path,) = (store / "embeddings").iterdir()
    (path / "_manifest.json").unlink()
    assert embed_store(store, run, batch_size=size).made == VIDEOS
    again, others = read_embeddings(store, run)
    assert again.equals(rows)
    np.testing.assert_allclose(others, vectors, atol=1e-5)


def test_splits_add_up_and_nothing_is_made_twice(store: Path, run: Path) -> None:
    listener = Recorder()
    assert embed_store(store, run, splits=["test"]).made == TEST_VIDEOS
    assert set(read_embeddings(store, run)[0]["split"]) == {"test"}
    path = embed_store(store, run, splits=["train", "test"]).path
    expected = contents(path)
    again = embed_store(store, run, listener=listener)
    assert (again.finished, again.made) == (True, 0)
    assert listener.said == [f"nothing to do: {VIDEOS} videos have their embeddings"]
    assert contents(path) == expected
    with pytest.raises(ValueError, match="no videos in the splits val of fold 1"):
        embed_store(store, run, splits=["val"])
    with pytest.raises(
        ValueError, match="splits must be some of train, val, test, got 'train,tset'"
    ):
        embed_store(store, run, splits=["train", "tset"])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        embed_store(store, run, batch_size=0)


@pytest.mark.parametrize("asked", [1, 2, 5])
def test_stopped_it_goes_on_to_the_same_bytes(store: Path, run: Path, asked: int) -> None:
    whole = embed_store(store, run)
    expected = contents(whole.path)
    for file in whole.path.iterdir():
        file.unlink()
    made = 0
    while not (result := embed_store(store, run, listener=Recorder(StopAfter(asked)))).finished:
        assert result.made == asked
        made += result.made
        with pytest.raises(ValueError, match="incomplete, because flowcpc embed"):
            read_embeddings(store, run)
    assert made + result.made == VIDEOS
    assert contents(whole.path) == expected


def test_a_split_that_is_whole_does_not_hide_one_that_was_stopped(store: Path, run: Path) -> None:
    assert not embed_store(store, run, listener=Recorder(StopAfter(5))).finished
    embed_store(store, run, splits=["test"])
    assert set(read_embeddings(store, run, split="test")[0]["split"]) == {"test"}
    with pytest.raises(ValueError, match=r"run has no embeddings of .*; run: flowcpc embed"):
        read_embeddings(store, run)
    embed_store(store, run)
    assert len(read_embeddings(store, run, level="video")[0]) == VIDEOS


def test_stopped_within_a_video_it_leaves_the_ones_before(store: Path, run: Path) -> None:
    opened = open_store(store)
    embed_store(store, run)
    commit_flow(opened, "long", np.ones((50, 2, 18, 20), np.float32), folds={"fold1": "train"})
    result = embed_store(store, run, batch_size=1, listener=Recorder(StopAfter(3)))
    assert (result.finished, result.made) == (False, 0)
    assert embed_store(store, run, batch_size=1, listener=Recorder(StopAfter(26))).made == 1


def test_only_what_changed_is_made_anew(store: Path, run: Path) -> None:
    embed_store(store, run)
    rows, vectors = read_embeddings(store, run)
    opened = open_store(store)
    commit_flow(opened, "v03", np.ones((5, 2, 18, 20), np.float32), folds={"fold1": "train"})
    with pytest.raises(ValueError, match="v03"):
        read_embeddings(store, run)
    assert embed_store(store, run).made == 1
    again, others = read_embeddings(store, run)
    same = (rows["video_id"] != "v03").to_numpy()
    np.testing.assert_array_equal(others[(again["video_id"] != "v03").to_numpy()], vectors[same])


def test_other_weights_make_everything_anew(store: Path, run: Path) -> None:
    embed_store(store, run)
    before = read_embeddings(store, run)[1]
    checkpoint = load_checkpoint(run)
    assert checkpoint is not None
    changed = {name: value * 1.5 for name, value in checkpoint.part("model").items()}
    dtypes = {name: value.dtype for name, value in checkpoint.part("model").items()}
    save_checkpoint(
        run,
        step=8,
        config=checkpoint.config,
        numerics=checkpoint.numerics,
        videos=checkpoint.videos,
        window=checkpoint.window,
        model={name: value.to(dtypes[name]) for name, value in changed.items()},
        momentum=checkpoint.part("momentum"),
    )
    listener = Recorder()
    assert embed_store(store, run, listener=listener).made == VIDEOS
    assert "held embeddings of other weights" in listener.said[0]
    rows, after = read_embeddings(store, run)
    assert set(rows["step"]) == {8}
    assert np.abs(after - before).max() > 1e-3


def test_an_embedding_that_is_no_number_is_not_written(
    store: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = embed.build_encoder

    def broken(checkpoint: object) -> torch.nn.Module:
        encoder = original(checkpoint)
        torch.nn.init.constant_(encoder.stem[0].weight, float("nan"))
        return encoder

    monkeypatch.setattr(embed, "build_encoder", broken)
    with pytest.raises(OperationError, match=r"the embedding of v\d\d is not finite"):
        embed_store(store, run)


def test_a_store_without_folds_and_labels(
    tmp_path: Path, make_store: Callable[..., Path], run: Path
) -> None:
    store = make_store(tmp_path / "other", {"a/b": np.zeros((3, 2, 18, 20), np.float32)})
    with pytest.raises(
        ValueError, match="has no fold1, so its videos are in no split; omit the splits"
    ):
        embed_store(store, run, splits=["train"])
    assert embed_store(store, run).made == 1
    rows, _ = read_embeddings(store, run)
    assert rows["video_id"].tolist() == ["a/b"] * 3
    assert rows["split"].isna().all()
    assert rows["label"].isna().all()


def test_a_store_that_cannot_be_written(
    store: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode: store not in (Path(path), *Path(path).parents) and access(path, mode),
    )
    listener = Recorder()
    result = embed_store(store, run, listener=listener)
    assert result.path.parent == run / "embeddings" / "store.flow"
    assert "is not writable" in listener.said[0]
    assert not (store / "embeddings").exists()
    assert len(read_embeddings(store, run, level="video")[0]) == VIDEOS


def start(store: Path, run: Path) -> "subprocess.Popen[str]":
    """The command as a process, on a single thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "embed",
        str(store),
        str(run),
        "--batch-size",
        "1",
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def long_store(tmp_path: Path, make_store: Callable[..., Path]) -> Path:
    """So long that a process can be met while it embeds."""
    return small_store(tmp_path / "long", make_store, lengths=lambda n: 300 + n)


def wait_for_a_part(store: Path, more_than: int) -> None:
    deadline = time.monotonic() + 120
    while (
        len(list(store.glob("embeddings/*/part-*.parquet"))) <= more_than
        and time.monotonic() < deadline
    ):
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_at_any_time_it_goes_on_to_the_same_bytes(long_store: Path, run: Path) -> None:
    for already in (0, 3):
        process = start(long_store, run)
        wait_for_a_part(long_store, already)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    there = len(list(long_store.glob("embeddings/*/part-*.parquet")))
    result = embed_store(long_store, run, batch_size=1)
    assert there > 0
    assert 0 < result.made < VIDEOS
    expected = contents(result.path)
    for file in result.path.iterdir():
        file.unlink()
    embed_store(long_store, run, batch_size=1)
    assert contents(result.path) == expected


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 75),
        pytest.param(signal.SIGUSR1, 75, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_says_how_to_go_on(
    long_store: Path, run: Path, number: int, code: int
) -> None:
    process = start(long_store, run)
    wait_for_a_part(long_store, 0)
    process.send_signal(number)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == code, stderr
    assert code in (console.PREEMPTED, console.INTERRUPTED)
    assert "run the same command to resume: flowcpc embed" in stderr
    assert 0 < embed_store(long_store, run).made < VIDEOS
