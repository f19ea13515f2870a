from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from train_cases import CONFIG, StopAfter, small_store

from stores.embeddings import read_embeddings
from stores.flow_store import open_store
from train import embed
from train.checkpoint import load_encoder
from train.embed import embed_store
from train.loop import pretrain


@pytest.fixture
def store(tmp_path: Path, make_store: Callable[..., Path]) -> Path:
    return small_store(tmp_path, make_store)


@pytest.fixture
def run(store: Path, tmp_path: Path) -> Path:
    pretrain(store, tmp_path / "run", CONFIG)
    return tmp_path / "run"


def test_embeddings_are_the_encoders(store: Path, run: Path) -> None:
    result = embed_store(store, run)
    rows, vectors = read_embeddings(store, run)
    assert result.finished
    assert (result.rows, vectors.shape) == (len(rows), (len(rows), CONFIG.latent_size))
    opened = open_store(store)
    encoder = load_encoder(run)
    for video in opened.videos().to_dict("records"):
        mine = (rows["video_id"] == video["video_id"]).to_numpy()
        starts = rows["start"][mine].tolist()
        count = -(-video["flows"] // 2)
        assert starts == [-1, *(min(2 * i, max(video["flows"] - 2, 0)) for i in range(count))]
        flow = opened.read_flow(video["video_id"])
        flow = flow - flow.mean(axis=(2, 3), keepdims=True)
        segments = [flow[np.minimum([start, start + 1], len(flow) - 1)] for start in starts[1:]]
        stacks = torch.from_numpy(np.stack(segments)[..., 1:17, 2:18]).flatten(1, 2)
        with torch.no_grad():
            expected = encoder(stacks).numpy()
        np.testing.assert_allclose(vectors[mine][1:], expected, atol=1e-5)
        np.testing.assert_allclose(vectors[mine][0], expected.mean(axis=0), atol=1e-5)
        assert set(rows["label"][mine]) == {video["label"]}
        assert set(rows["split"][mine]) == {video["fold1"]}
        assert set(rows["step"][mine]) == {7}


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_any_batch_size_gives_the_same_values(
    store: Path, run: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_store(store, run)
    rows, vectors = read_embeddings(store, run)
    monkeypatch.setattr(embed, "_BATCH_SEGMENTS", size)
    embed_store(store, run)
    again, others = read_embeddings(store, run)
    assert again.equals(rows)
    np.testing.assert_allclose(others, vectors, atol=1e-5)


def test_some_splits(store: Path, run: Path) -> None:
    embed_store(store, run, splits=["test"])
    assert set(read_embeddings(store, run)[0]["split"]) == {"test"}
    with pytest.raises(ValueError, match="no videos in the splits val of fold 1"):
        embed_store(store, run, splits=["val"])


def test_stopped_it_leaves_what_was_there(store: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed_store(store, run, splits=["train"])
    before = read_embeddings(store, run)[1]
    monkeypatch.setattr(embed, "_BATCH_SEGMENTS", 4)
    result = embed_store(store, run, should_stop=StopAfter(2))
    assert (result.finished, result.path, result.rows) == (False, None, 0)
    np.testing.assert_array_equal(read_embeddings(store, run)[1], before)


def test_a_store_without_folds_and_labels(tmp_path: Path, make_store: Callable[..., Path], run: Path) -> None:
    store = make_store(tmp_path / "other", {"a/b": np.zeros((3, 2, 18, 20), np.float32)})
    assert embed_store(store, run).rows == 3
    rows, _ = read_embeddings(store, run)
    assert rows["video_id"].tolist() == ["a/b"] * 3
    assert rows["split"].isna().all()
    assert rows["label"].isna().all()
