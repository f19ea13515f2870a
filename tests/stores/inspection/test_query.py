import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import commit_flow
from click.testing import CliRunner, Result
from embedding_cases import put_embeddings
from store_cases import NUMERICS, failure, some_flow

import flowcpc
from flowcpc.commands import main
from flowcpc.stores.flow_store import FlowStore, create_store


@pytest.fixture
def store(tmp_path: Path) -> FlowStore:
    store = create_store(tmp_path / "s.flow", NUMERICS)
    for seed, name in enumerate("abc"):
        commit_flow(store, name, some_flow(5 + 10 * seed, seed), label="XYX"[seed])
    store.record_failure(failure("broken", "is empty"))
    return store


def run(store: FlowStore, sql: str, *words: object) -> Result:
    return CliRunner().invoke(main.main, ["query", str(store.path), sql, *map(str, words)])


def test_tables_answer_with_and_without_an_index(store: FlowStore) -> None:
    sql = "SELECT label, count(*) AS n, sum(flows)::INT AS flows FROM videos GROUP BY 1 ORDER BY 1"
    expected = [["X", 2, 30], ["Y", 1, 15]]
    assert flowcpc.query(store, sql).values.tolist() == expected
    store.consolidate()
    assert flowcpc.query(store, sql).values.tolist() == expected
    commit_flow(store, "d", some_flow(1), label="Z")
    assert flowcpc.query(store, sql).values.tolist() == [*expected, ["Z", 1, 1]]


def test_every_table_can_be_joined(store: FlowStore) -> None:
    sql = """
        SELECT v.video_id, count(DISTINCT s.segment) AS segments,
            count(DISTINCT f.frame) AS frames, count(DISTINCT shot.shot) AS shots
        FROM Videos v JOIN segments s USING (video_id) JOIN frames f USING (video_id)
            JOIN shots shot USING (video_id)
        GROUP BY 1 ORDER BY 1
    """
    assert flowcpc.query(store, sql).values.tolist() == [
        ["a", 1, 5, 1],
        ["b", 2, 15, 1],
        ["c", 3, 25, 1],
    ]
    assert flowcpc.query(store, "SELECT reason FROM failures")["reason"].tolist() == ["is empty"]


def test_embeddings_are_vectors_for_duckdb(store: FlowStore) -> None:
    vectors = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.9, 0.1, 0, 0]], np.float32)
    put_embeddings(store, "run", vectors)
    near = """
        SELECT other.video_id FROM embeddings other, embeddings self
        WHERE self.video_id = 'a' AND other.video_id <> 'a' AND self.start = -1 AND other.start = -1
        ORDER BY array_cosine_distance(self.embedding, other.embedding)
    """
    assert flowcpc.query(store, near)["video_id"].tolist() == ["c", "b"]
    put_embeddings(store, "wide", np.eye(3, 6, dtype=np.float32))
    assert flowcpc.query(store, "SELECT count(*) AS n FROM embeddings_6")["n"].tolist() == [6]
    result = run(store, near)
    assert result.exit_code == 2
    assert "embeddings_4, embeddings_6" in result.output


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT x FROM videos", 'column "x" not found'),
        ("SELECT x FROM videos", "videos has video_id"),
        ("SELECT * FROM clips", "the tables are videos, shots, segments, frames, failures"),
        ("SELEC 1", "syntax error"),
        ("", "takes one SELECT"),
        ("SELECT 1; SELECT 2", "takes one SELECT"),
        ("DROP TABLE videos", "takes one SELECT"),
        ("COPY videos TO 'out.csv'", "takes one SELECT"),
        ("ATTACH 'other.db'", "takes one SELECT"),
        ("INSTALL httpfs", "takes one SELECT"),
        ("SET enable_external_access = true", "takes one SELECT"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled by configuration"),
        ("SELECT * FROM read_text('/etc/passwd')", "disabled by configuration"),
        ("SELECT * FROM '/etc/passwd'", "does not exist"),
        ("SELECT * FROM store", "does not exist"),
        ("SELECT * FROM embeddings", "embeddings are made by: flowcpc embed STORE RUN"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(store: FlowStore, sql: str, words: str) -> None:
    result = run(store, sql)
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output
    assert len(result.output.splitlines()) == 1


def test_forms(store: FlowStore, tmp_path: Path) -> None:
    sql = "SELECT video_id, CAST(NULL AS DOUBLE) AS nothing, 1/3 AS third FROM videos ORDER BY 1"
    table = run(store, sql)
    assert table.exit_code == 0
    assert table.stdout.split() == [
        "video_id",
        "nothing",
        "third",
        *["a", "-", "0.333333", "b", "-", "0.333333", "c", "-", "0.333333"],
    ]
    assert pd.read_csv(io.StringIO(run(store, sql, "--as", "csv").stdout)).shape == (3, 3)
    assert run(store, sql, "--as", "parquet", "--out", tmp_path / "out.parquet").exit_code == 0
    assert pd.read_parquet(tmp_path / "out.parquet")["video_id"].tolist() == ["a", "b", "c"]
    assert run(store, "SELECT * FROM videos WHERE false").stdout.endswith("no rows\n")


def test_tables_can_be_shown(store: FlowStore) -> None:
    for sql in ("SHOW TABLES", " show  all tables; "):
        assert flowcpc.query(store, sql)["name"].tolist() == [
            "videos",
            "shots",
            "segments",
            "frames",
            "failures",
        ]
    put_embeddings(store, "run", np.eye(1, 4, dtype=np.float32))
    assert "embeddings" in run(store, "SHOW TABLES").stdout


def test_the_form_follows_from_the_name_and_may_not_contradict_it(
    store: FlowStore, tmp_path: Path
) -> None:
    sql = "SELECT video_id FROM videos ORDER BY 1"
    for name in ("out.parquet", "OUT.CSV", "out.txt"):
        assert run(store, sql, "--out", tmp_path / name).exit_code == 0
    assert pd.read_parquet(tmp_path / "out.parquet")["video_id"].tolist() == ["a", "b", "c"]
    assert (tmp_path / "OUT.CSV").read_text() == "video_id\na\nb\nc\n"
    assert (tmp_path / "out.txt").read_text().split() == ["video_id", "a", "b", "c"]
    for name, form in (("x.csv", "parquet"), ("x.parquet", "table")):
        result = run(store, sql, "--as", form, "--out", tmp_path / name)
        assert result.exit_code == 2
        assert f"--as {form}" in result.output
    assert not list(tmp_path.glob("x.*"))


def test_a_long_table_is_cut_and_says_so(store: FlowStore) -> None:
    result = run(store, "SELECT * FROM range(1500)")
    assert "1000 of 1500 rows; --as csv writes all" in result.stderr
    assert len(run(store, "SELECT * FROM range(1500)", "--as", "csv").stdout.splitlines()) == 1501


def test_whole_numbers_keep_their_digits(store: FlowStore) -> None:
    """Sums, and columns in which some rows have nothing, hold what no float can."""
    large = 2**53 + 1
    for name, value in (("x", large), ("y", None), ("broken", 0)):
        store.record_failure({**failure(name, "is empty"), "source_mtime_ns": value})
    columns = "source_mtime_ns AS m, source_mtime_ns AS m"
    sql = f"SELECT {columns} FROM failures WHERE video_id IN ('x', 'y') ORDER BY video_id"
    for _ in range(2):
        assert run(store, sql, "--as", "csv").stdout.splitlines()[1:] == [f"{large},{large}", ","]
        assert run(store, sql).stdout.split()[-4:] == [str(large), str(large), "-", "-"]
        both = "failures FULL JOIN videos USING (video_id)"
        total = f"SELECT sum(source_mtime_ns) AS s, sum(flows) AS f FROM {both}"
        assert run(store, total, "--as", "csv").stdout.splitlines()[1] == f"{large},45"
        assert flowcpc.query(store, "SELECT 2.5::DECIMAL(5,0) AS d, 1e30::HUGEINT AS h")[
            "h"
        ].tolist() == [1e30]
        store.consolidate()
