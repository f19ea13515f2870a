import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import commit_flow
from checkout import ROOT
from embedding_cases import put_embeddings

from flowcpc.stores import embedding_parts
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.embedding_parts import MANIFEST, read_manifest, read_parts
from flowcpc.stores.embeddings import read_embeddings
from flowcpc.stores.flow_store import FlowStore, open_store

NAMES = list("abcdefghijkl")
VECTORS = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
FLOW = np.zeros((3, 2, 16, 16), np.float32)


@pytest.fixture
def store(tmp_path: Path, make_store: Callable[..., Path]) -> FlowStore:
    return open_store(make_store(tmp_path, dict.fromkeys(NAMES, FLOW)))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_bytes_in_whatever_order_they_came(store: FlowStore) -> None:
    folder = put_embeddings(store, "run", VECTORS)
    expected = contents(folder)
    assert 1 < len(expected) <= 17
    for path in folder.iterdir():
        path.unlink()
    order = np.random.default_rng(1).permutation(12)
    for some in np.array_split(order, 4):
        put_embeddings(store, "run", VECTORS[some], videos=[NAMES[n] for n in some], finish=False)
    put_embeddings(store, "run", VECTORS[order[:3]], videos=[NAMES[n] for n in order[:3]])
    assert contents(folder) == expected


def test_other_weights_replace_everything(store: FlowStore) -> None:
    put_embeddings(store, "run", VECTORS)
    folder = put_embeddings(store, "run", VECTORS[:1] + 1, weights="w2", videos=["d"])
    table = read_parts(folder, whole_videos=True)[1]
    assert table["video_id"].to_pylist() == ["d"]
    np.testing.assert_array_equal(table["embedding"].to_pylist(), VECTORS[:1] + 1)


@pytest.mark.parametrize("damage", [b"", b"x", None], ids=["empty", "other", "gone"])
def test_damage_is_refused_and_mended(store: FlowStore, damage: bytes | None) -> None:
    folder = put_embeddings(store, "run", VECTORS)
    expected = contents(folder)
    for name in sorted(expected):
        if damage is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(damage)
        with pytest.raises(DamagedStoreError, match="run flowcpc embed again"):
            read_parts(folder)
        put_embeddings(store, "run", VECTORS)
        assert contents(folder) == expected


def test_a_part_that_was_announced_is_the_one_before_or_the_one_that_comes(
    store: FlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between manifest and part: what was there counts, and the rest is made again."""
    put_embeddings(store, "run", VECTORS[:6], finish=False)
    folder = store.path / "embeddings" / "run-abc"

    def killed(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    before = read_parts(folder)[1]
    for n in range(12):
        with monkeypatch.context() as patch:
            patch.setattr(embedding_parts, "replace_file", killed)
            with pytest.raises(KeyboardInterrupt):
                put_embeddings(store, "run", VECTORS[[n]], videos=[NAMES[n]])
        assert read_parts(folder)[1].equals(before)
    put_embeddings(store, "run", VECTORS)
    np.testing.assert_array_equal(read_embeddings(store, "run", level="video")[1], VECTORS)


def test_videos_that_the_store_has_no_more_go(store: FlowStore, tmp_path: Path) -> None:
    folder = put_embeddings(store, "run", VECTORS)
    next((store.path / "commits").glob("*/h.json")).unlink()
    with pytest.raises(DamagedStoreError, match=r"such as h, .*; flowcpc verify says why"):
        read_embeddings(store, "run")
    put_embeddings(store, "run", VECTORS[:1])
    assert "h" not in read_embeddings(store, "run")[0]["video_id"].tolist()
    commit_flow(store, "h", FLOW)
    put_embeddings(store, "run", VECTORS)
    assert read_manifest(folder).finished


def test_two_writers_are_refused(store: FlowStore) -> None:
    folder = put_embeddings(store, "run", VECTORS)
    code = """
import sys
from pathlib import Path
from flowcpc.stores.embedding_parts import opened_parts
with opened_parts(Path(sys.argv[1]), {}, []):
    print("held", flush=True)
    sys.stdin.read()
"""
    about = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(
        about, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process is writing embeddings"):
            put_embeddings(store, "run", VECTORS)
        other.kill()
    put_embeddings(store, "run", VECTORS)


def test_a_manifest_of_another_format_is_made_anew(
    store: FlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(embedding_parts, "FORMAT_VERSION", 0)
        folder = put_embeddings(store, "run", VECTORS)
    with pytest.raises(DamagedStoreError, match="another format version"):
        read_manifest(folder)
    put_embeddings(store, "run", VECTORS)
    assert read_manifest(folder).finished
    assert (folder / MANIFEST).is_file()


def test_where_the_store_cannot_be_written_the_run_has_them(
    store: FlowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowcpc.stores.embeddings import embeddings_home

    monkeypatch.setattr(
        os, "access", lambda path, mode: store.path not in (Path(path), *Path(path).parents)
    )
    home = embeddings_home(store, tmp_path / "run")
    assert home == tmp_path / "run" / "embeddings" / store.path.name
