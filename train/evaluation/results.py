"""Results on disk: a folder per unit of an evaluation, as Parquet.

```
RUN/evaluate/linear-5-fold1-seed0/      mode, labels per class, fold, seed
    evaluation.json                     everything that decides the results; SHA-256 of every file
    results.parquet                     a row of accuracies per encoder and protocol; written last,
                                        so it marks the unit as finished
    predictions.parquet                 a row per test video, encoder and protocol, with logits
    classes.parquet, confusion.parquet  a row per class, and per pair of classes
    weights.safetensors                 of `finetune` and `scratch` (classifiers.finetuned)
RUN/evaluate/labels/                    the training videos that keep their labels
RUN/evaluate/features/                  cached features of videos
```
The hashes detect lost, damaged and replaced files of a finished unit. Tables that have no hash
(labels, features, parts of an unfinished unit) rely on Parquet's checksums of pages.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from flowcpc.stores.base.atomic import replace_file, sha256_of_file

EVALUATE = "evaluate"
RESULTS = "results.parquet"
PREDICTIONS = "predictions.parquet"
WEIGHTS = "weights.safetensors"
_ABOUT = "evaluation.json"
_HASHES = "tables"  # in evaluation.json: name -> SHA-256 of each file of a finished unit


def labels_text(labels: int | None) -> str:
    """Return labels per class as folders and tables have them: a number, or all."""
    return "all" if labels is None else str(labels)


def unit_name(mode: str, labels: str, fold: int, seed: int) -> str:
    """Return the name of the folder of a unit; `labels` as in the results, all or a number."""
    return f"{mode}-{labels}-fold{fold}-seed{seed}"


def read_results(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> pd.DataFrame:
    """Return the finished results in runs and in OUT folders of `flowcpc evaluate`, one row each.

    Columns: path (as given, because two runs may have the same name), run, preset, mode, encoder,
    protocol, labels_per_class, fold, seed, pretrain_steps, schedule, transductive, missing, videos,
    classes, chance, top1, top5, mean_class (shares in 0..1) and, for retrieval, r1, r5, r10, r20,
    r50. What a mode does not measure is NaN. `pretrain_steps` is 0 for the modes `scratch` and
    `random`, which use no pretrained weights. Raises FileNotFoundError if one of `paths` has no
    results, ValueError if a file of results is damaged or was changed.
    """
    tables = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        files = sorted(Path(path, EVALUATE).glob(f"*/{RESULTS}"))
        if not files:
            create = f"create them with: flowcpc evaluate STORE {path}"
            raise FileNotFoundError(f"{path} has no finished results; {create}")
        for file in files:
            table = read_table(file) if _is_unchanged(file.parent, [RESULTS]) else None
            if table is None:
                again = "run its evaluation again to replace it"
                raise ValueError(f"{file} is damaged or was changed; {again}")
            rows = table.to_pandas()
            rows.insert(0, "path", os.fspath(path))
            tables.append(rows)
    return pd.concat(tables, ignore_index=True)


def check_same_videos(folder: Path, test: Iterable[str], store: Path) -> None:
    """Raise ValueError rather than replace finished results of `folder` on other test videos."""
    table = read_table(folder / PREDICTIONS) if (folder / RESULTS).exists() else None
    if table is None or "video_id" not in table.column_names:
        return
    tested, wanted = set(table["video_id"].to_pylist()), set(test)
    if tested != wanted:
        raise ValueError(
            f"{folder} has finished results on {len(tested)} test videos, and "
            f"{len(tested & wanted)} of them are among the {len(wanted)} test videos of {store}; "
            "give --out another folder for the new results, or delete that folder"
        )


class UnitFolder:
    """The folder of one unit: finished results, or the state of an unfinished unit.

    `basis` are the JSON values that decide the results; results of another basis are not valid.
    Creating the object changes nothing on disk.
    """

    def __init__(self, path: Path, basis: Mapping[str, Any]) -> None:
        self.path = path
        self._basis = json.loads(json.dumps(basis))

    def results(self) -> pd.DataFrame | None:
        """Return the finished results; None if there are none, or a file is lost or changed."""
        valid = self._has_same_basis() and _is_unchanged(self.path)
        table = read_table(self.path / RESULTS) if valid else None
        return None if table is None else table.to_pandas()

    def begin(self) -> str:
        """Remove what has another basis; return why finished results are replaced, if any were."""
        finished = self.path / RESULTS
        is_replaced = finished.exists()
        if self._has_same_basis():
            return "are damaged or were changed" if is_replaced and self.results() is None else ""
        # Remove the results first: the other files without them are merely unfinished. Missing
        # files are no error, because another process may evaluate the same unit.
        for old in (finished, *self.path.glob("*.parquet"), *self.path.glob("*.safetensors")):
            old.unlink(missing_ok=True)
        self._write_about(self._basis)
        return "have other weights, settings or videos" if is_replaced else ""

    def state(self, encoder: str) -> Path:
        """Return the file of an unfinished training."""
        return self.path / f"state-{encoder}.safetensors"

    def part(self, encoder: str) -> Path:
        """Return the file of the predictions of an encoder while the unit is unfinished."""
        return self.path / f"part-{encoder}.parquet"

    def finish(self, tables: Mapping[str, pa.Table], results: pd.DataFrame) -> None:
        """Write `tables` by name, the hashes of all files, and then the results; remove states."""
        files = {f"{name}.parquet": _to_parquet(table) for name, table in tables.items()}
        files[RESULTS] = _to_parquet(pa.Table.from_pandas(results, preserve_index=False))
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        if (self.path / WEIGHTS).exists():
            hashes[WEIGHTS] = sha256_of_file(self.path / WEIGHTS)
        last = files.pop(RESULTS)
        for name, data in files.items():
            replace_file(self.path / name, data)
        self._write_about({**self._basis, _HASHES: hashes})
        replace_file(self.path / RESULTS, last)
        for old in (*self.path.glob("part-*.parquet"), *self.path.glob("state-*.safetensors")):
            old.unlink(missing_ok=True)

    def _has_same_basis(self) -> bool:
        about = _read_about(self.path)
        about.pop(_HASHES, None)
        return about == self._basis

    def _write_about(self, about: Mapping[str, Any]) -> None:
        replace_file(self.path / _ABOUT, json.dumps(about, indent=2).encode())


def write_table(path: Path, table: pa.Table) -> None:
    """Write `table` to `path` as Parquet, atomically."""
    replace_file(path, _to_parquet(table))


def read_table(path: Path) -> pa.Table | None:
    """Return the table that `write_table` wrote; None if the file is missing or damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    # pyarrow raises one or the other for damaged bytes.
    with contextlib.suppress(pa.ArrowException, OSError):
        return pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    return None


def _to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    return buffer.getvalue()


def _read_about(folder: Path) -> dict[str, Any]:
    """Return evaluation.json; empty if it is missing or damaged."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        about = json.loads((folder / _ABOUT).read_bytes())
        return about if isinstance(about, dict) else {}
    return {}


def _is_unchanged(folder: Path, names: Sequence[str] | None = None) -> bool:
    """Return whether all files, or `names`, have their hashes; earlier versions wrote none."""
    hashes = _read_about(folder).get(_HASHES, {})
    return isinstance(hashes, dict) and all(
        (folder / name).is_file() and sha256_of_file(folder / name) == value
        for name, value in hashes.items()
        if names is None or name in names
    )
