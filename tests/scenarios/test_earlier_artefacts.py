"""Stores, runs, results and embeddings of an earlier version can be read and continued.

tests/support/artefacts has what commit c816d8c made, and what it read from that; make_artefacts.py
beside it says how. What is read from the files must be identical. What is computed from them
is compared within rounding, which differs between processors.
"""

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from checkout import ROOT

import flowcpc

ARTEFACTS = ROOT / "tests" / "support" / "artefacts"
LISTED = ("--dataset", "ucf101", "--annotations", "lists")
SIZED = ("--size", "24x32", "--workers", "0", "--backend", "cpu")
IN_CSV = ("--dataset", "csv", "--annotations", "list.csv", "--format", "hdf5", "--with-frames")
SHAPED = ("--short-side", "24", "--encoding", "int16", "--workers", "0", "--backend", "cpu")
# The commands that made the stores; the same again have nothing to do.
EXTRACT = {
    "zarr.flow": ("extract-flow", "videos", "zarr.flow", *LISTED, *SIZED),
    "hdf5.flow": ("extract-flow", "videos", "hdf5.flow", *IN_CSV, *SHAPED),
}
RESUME = ("pretrain", "zarr.flow", "run", "--steps", "8")
# The settings that each mode was evaluated with.
EVALUATED = {
    "linear": ("--set", "linear_steps=6"),
    "finetune": ("--set", "finetune_steps=3"),
    "probe": (),
    "knn": ("--set", "neighbours=3"),
    "retrieval": (),
}
SQL = """SELECT v.label, v.fold1, count(*) AS segments, round(avg(s.magnitude), 6) AS magnitude
FROM segments s JOIN videos v USING (video_id) GROUP BY ALL ORDER BY ALL"""
OF_EMBEDDINGS = "SELECT run, split, count(*) AS n FROM embeddings GROUP BY ALL ORDER BY ALL"
QUERIES = (SQL, OF_EMBEDDINGS)
TABLES = ("videos", "shots", "segments", "frames", "failures")
TIMES = ("step_time", "data_time", "samples_per_second")
# Runs commands, each in a folder and with the exit code that it has to end with, in one process,
# since each alone would load torch anew.
SEVERAL = """
import json, os, runpy, sys
cli, top = sys.argv[1], os.getcwd()
for folder, code, arguments in json.loads(sys.argv[2]):
    os.chdir(os.path.join(top, folder))
    sys.argv = [cli, *arguments]
    found = 0
    try:
        runpy.run_path(cli, run_name="__main__")
    except SystemExit as end:
        found = end.code or 0
    if found != code:
        sys.exit(f"{arguments} ended with {found} instead of {code}")
"""
# As in make_artefacts.py, which says why.
NUMERICS = {"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "SSE41"}
ROUNDING = 1e-4


# -- what is read; make_artefacts.py had the earlier version read the same, by these functions


def read_everything(folder: Path) -> dict[str, Any]:
    """Return as JSON values what is read from the artefacts in `folder`."""
    store = flowcpc.open_store(folder / "zarr.flow")
    found = {
        "stores": {name: read_store(folder / name) for name in EXTRACT},
        "queries": {sql: rows_of(flowcpc.query(store, sql)) for sql in QUERIES},
        "embeddings": {level: read_embeddings(folder, level) for level in ("video", "segment")},
        "results": rows_of(flowcpc.read_results(folder / "run").drop(columns="path")),
        "predictions": {mode: read_predictions(folder, mode) for mode in EVALUATED},
        "encoder": encoded(folder / "run"),
    }
    # As it would be read from a file.
    as_json: dict[str, Any] = json.loads(json.dumps(found))
    return as_json


def read_store(path: Path) -> dict[str, Any]:
    """Return what a store says of itself, its tables, and hashes of its codes, flow and frames."""
    store = flowcpc.open_store(path)
    names = store.videos()["video_id"].tolist()
    return {
        "array_format": store.array_format,
        "numerics": store.numerics,
        "digest": store.digest,
        "is_indexed": store.is_indexed(),
        "codes": {name: hash_of(store.read_codes(name)) for name in names},
        "flow": {name: hash_of(store.read_flow(name)) for name in names},
        "part of flow": {name: hash_of(store.read_flow(name, 3, 8)) for name in names},
        "frames": {name: hash_of(store.read_frames(name)) for name in names if store.has_frames},
        "tables": read_tables(path),
    }


def read_tables(path: Path) -> dict[str, Any]:
    """Return all tables of a store; of the long ones a hash of every column."""
    store = flowcpc.open_store(path)
    tables = {name: getattr(store, name)() for name in TABLES}
    short = {name: rows_of(tables[name]) for name in ("videos", "shots", "failures")}
    return {**short, **{name: columns_of(tables[name]) for name in ("segments", "frames")}}


def read_embeddings(folder: Path, level: str) -> dict[str, Any]:
    """Return the rows of the run's embeddings, a hash of the vectors, and the first of these."""
    rows, vectors = flowcpc.read_embeddings(folder / "zarr.flow", folder / "run", level=level)
    test, of_test = flowcpc.read_embeddings(folder / "zarr.flow", "run", split="test", level=level)
    return {
        "rows": rows_of(rows) if level == "video" else columns_of(rows),
        "vectors": hash_of(vectors),
        "first": plain(vectors[0].tolist()),
        "test": [len(test), hash_of(of_test)],
    }


def read_predictions(folder: Path, mode: str) -> dict[str, Any]:
    """Return the predictions of an evaluation of the run, and a hash of their logits."""
    rows, logits = flowcpc.read_predictions(folder / "run" / "evaluate" / f"{mode}-all-fold1-seed0")
    return {"rows": rows_of(rows), "logits": hash_of(logits)}


def read_resumed(folder: Path) -> dict[str, Any]:
    """Return the metrics of the run but its times, and what its encoder gives."""
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    metrics = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
    return {"metrics": metrics, "encoder": encoded(folder / "run")}


def encoded(run: Path) -> Any:
    """Return what the encoder of a run gives for stacks of flow that a formula makes."""
    import torch

    encoder = flowcpc.load_encoder(run)
    shape = (3, encoder.config.channels, *encoder.config.size)
    stacks = np.sin(np.arange(math.prod(shape)) ** 1.5).reshape(shape).astype(np.float32)
    with torch.no_grad():
        return plain(encoder(torch.from_numpy(stacks)).tolist())


def hash_of(array: np.ndarray[Any, Any]) -> str:
    """Return the type and shape of an array and the SHA-256 of its bytes."""
    data = np.ascontiguousarray(array)
    return f"{data.dtype.str} {data.shape} {hashlib.sha256(data.tobytes()).hexdigest()}"


def rows_of(table: pd.DataFrame) -> dict[str, Any]:
    """Return the columns and rows of a table as JSON values."""
    columns = [plain(table[name].tolist()) for name in table]
    return {"columns": list(table), "rows": [list(row) for row in zip(*columns, strict=True)]}


def columns_of(table: pd.DataFrame) -> dict[str, Any]:
    """Return for each column of a table how many values it has, and their SHA-256."""
    texts = {name: json.dumps(plain(table[name].tolist())).encode() for name in table}
    return {name: [len(table), hashlib.sha256(text).hexdigest()] for name, text in texts.items()}


def plain(value: Any) -> Any:
    """Return JSON values: numbers with six digits, and None for whatever stands for nothing."""
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(part) for part in value]
    if pd.isna(value):
        return None
    return float(f"{value:.6g}") if isinstance(value, float) else value


# -- helpers of the tests


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """What the earlier version read from the artefacts, and what it made of them."""
    found: dict[str, Any] = json.loads((ARTEFACTS / "expected.json").read_text())
    return found


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with copies of the artefacts, called by what was done to them, and `log`.

    `read` was only read. `again` had all commands again that made it but pretrain; `anew` had them
    with new folders for what comes out; `resumed` has the run that went on.
    """
    top = tmp_path_factory.mktemp("earlier")
    for name in ("read", "again", "anew", "resumed"):
        with tarfile.open(ARTEFACTS / "earlier.tar.xz") as tar:
            tar.extractall(top / name, filter="data")
    commands: list[tuple[str, int, Sequence[str]]] = []
    for store, command in EXTRACT.items():  # one video is broken, hence the code 3
        commands.append(("again", 0, ("verify", store)))
        commands.append(("again", 3, command))
        commands.append(("anew", 3, [f"new-{w}" if w == store else w for w in command]))
    for mode, settings in EVALUATED.items():
        command = ("evaluate", "zarr.flow", "run", "--mode", mode, *settings)
        commands.append(("again", 0, command))
        commands.append(("anew", 0, (*command, "--out", "new")))
    commands.append(("again", 0, ("embed", "zarr.flow", "run")))
    commands.append(("resumed", 0, RESUME))
    environment = {**os.environ, **NUMERICS, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SEVERAL, str(ROOT / "cli.py"), json.dumps(commands)]
    done = subprocess.run(command, cwd=top, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (top / "log").write_text(done.stderr)
    return top


def files_in(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below `folder` but locks and what says who is at work."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def differences(expected: Any, found: Any, rounding: float = 0.0, where: str = "") -> list[str]:
    """Return where two JSON values differ, floats by more than `rounding` of 1 or the larger."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        pairs = [(key, expected[key], found[key]) for key in expected]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = [(n, *both) for n, both in enumerate(zip(expected, found, strict=True))]
    elif rounding and isinstance(expected, float) and isinstance(found, float):
        near = math.isclose(expected, found, rel_tol=rounding, abs_tol=rounding)
        return [] if near else [f"{where}: {expected} was expected, {found} found"]
    else:
        return [] if expected == found else [f"{where}: {expected} was expected, {found} found"]
    return [text for key, *both in pairs for text in differences(*both, rounding, f"{where}/{key}")]


# -- tests


def test_everything_is_read_as_the_earlier_version_read_it(
    after: Path, expected: dict[str, Any]
) -> None:
    """Codes, flow, frames, tables, results and embeddings; the encoder within rounding."""
    before = files_in(after / "read")
    found = read_everything(after / "read")
    for name in ("encoder", "queries"):  # these are computed
        assert differences(expected[name], found.pop(name), ROUNDING, name) == []
    assert differences({name: expected[name] for name in found}, found) == []
    assert files_in(after / "read") == before


@pytest.mark.parametrize("name", EXTRACT)
def test_the_tables_follow_from_the_earlier_records(
    after: Path, tmp_path: Path, expected: dict[str, Any], name: str
) -> None:
    """Without the index the tables are built anew from commits and failures, and are the same."""
    store = shutil.copytree(after / "read" / name, tmp_path / name)
    shutil.rmtree(store / "index")
    assert not flowcpc.open_store(store).is_indexed()
    assert differences(expected["stores"][name]["tables"], read_tables(store)) == []


def test_nothing_is_left_to_do(after: Path) -> None:
    """verify finds no damage; extract-flow, every mode of evaluate and embed find all done."""
    log = (after / "log").read_text()
    for name in EXTRACT:
        videos = len(flowcpc.open_store(after / "read" / name).videos())
        assert f"0 to do, {videos} stored already" in log
        assert re.search(f"^{name}: {videos} videos, .* 0 files damaged or missing$", log, re.M)
    for mode in EVALUATED:
        folder = f"run/evaluate/{mode}-all-fold1-seed0"
        assert f"read the finished results in {folder}" in log
    assert "made again" not in log
    assert "nothing to do: 12 videos have their embeddings" in log
    assert files_in(after / "again") == files_in(after / "read")


@pytest.mark.parametrize("name", EXTRACT)
def test_flow_is_computed_as_earlier(after: Path, name: str) -> None:
    """The same videos give the same flow in a new store; hardly a value may differ by rounding."""
    earlier = flowcpc.open_store(after / "read" / name)
    new = flowcpc.open_store(after / "anew" / f"new-{name}")
    assert new.numerics == earlier.numerics
    for video in earlier.videos()["video_id"]:
        codes = [store.read_codes(video).astype(int) for store in (earlier, new)]
        assert (codes[0] != codes[1]).mean() < 0.01


@pytest.mark.parametrize("mode", EVALUATED)
def test_an_evaluation_gives_what_it_gave_earlier(after: Path, mode: str) -> None:
    """Made anew, it has the same rows, and the same logits within rounding."""
    name = f"evaluate/{mode}-all-fold1-seed0"
    earlier, logits = flowcpc.read_predictions(after / "read" / "run" / name)
    new, new_logits = flowcpc.read_predictions(after / "anew" / "new" / name)
    pd.testing.assert_frame_equal(new, earlier)
    np.testing.assert_allclose(new_logits, logits, rtol=ROUNDING, atol=ROUNDING)


def test_an_earlier_run_goes_on(after: Path, expected: dict[str, Any]) -> None:
    """Resumed where it stood, its metrics and its encoder are those of the earlier version."""
    before, metrics = (after / name / "run" / "metrics.jsonl" for name in ("read", "resumed"))
    assert metrics.read_text().startswith(before.read_text())
    assert differences(expected["resumed"], read_resumed(after / "resumed"), ROUNDING) == []
