"""Results on disk: a folder per unit of an evaluation, under the run or the folder that was named, as Parquet.

```
RUN/evaluate/linear-5-fold1-seed0/      mode, labels per class, fold, seed
    evaluation.json                     settings, a hash of all that the results follow from, and the SHA-256 of every file below
    results.parquet                     a row of accuracies per encoder and protocol; written last, so it says that the unit is finished
    predictions.parquet                 a row per test video, encoder and protocol, with logits
    classes.parquet, confusion.parquet  a row per class, and per pair of classes
    weights.safetensors                 of `finetune` and `scratch`: encoder and dense layer, flowcpc.train.evaluation.classifiers.finetuned
RUN/evaluate/labels/                    which training videos keep their labels
RUN/evaluate/features/                  features of videos, made once
```
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

from flowcpc.stores.base.atomic import replace_file
from flowcpc.stores.base.hashing import sha256_of_file

EVALUATE = "evaluate"
RESULTS = "results.parquet"
WEIGHTS = "weights.safetensors"
_ABOUT = "evaluation.json"
_TABLES = (
    "tables"  # of evaluation.json: the hash of each, and of the weights, once the unit is finished
)


def read_results(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> pd.DataFrame:
    """Return all finished results under runs, and under folders that `flowcpc evaluate --out` wrote, one row each.

    Columns: path (as it was given: two runs may have one name), run, preset, mode, encoder, protocol, labels_per_class, fold, seed, pretrain_steps,
    schedule, transductive, missing, videos, classes, chance, top1, top5, mean_class (shares in 0..1) and, of retrieval,
    r1, r5, r10, r20, r50; what a mode does not measure is NaN. `pretrain_steps` is 0 for the modes `scratch` and `random`, which use no pretrained
    weights.

    Raises
    ------
    FileNotFoundError
        There are no results under one of `paths`.
    ValueError
        A file of them is damaged, or not the one that was written.
    """
    several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    tables = []
    for path in several:
        files = sorted(Path(path, EVALUATE).glob(f"*/{RESULTS}"))
        if not files:
            raise FileNotFoundError(
                f"{path} holds no results; make some with: flowcpc evaluate STORE {path}"
            )
        for file in files:
            hashes = _hashes_of(file.parent)
            whole = hashes is not None and (
                RESULTS not in hashes or _has_hash(file, hashes[RESULTS])
            )
            table = read_table(file) if whole else None
            if table is None:
                raise ValueError(
                    f"{file} is damaged, or was changed; run its evaluation again, which makes it anew"
                )
            found = table.to_pandas()
            found.insert(0, "path", os.fspath(path))
            tables.append(found)
    return pd.concat(tables, ignore_index=True)


class UnitFolder:
    """Where one unit of an evaluation leaves what it found, and, until it is finished, where it stands.

    Making one changes nothing on disk.

    Parameters
    ----------
    path : Path
    basis : mapping
        JSON values from which all results follow.
    """

    def __init__(self, path: Path, basis: Mapping[str, Any]) -> None:
        self.path = path
        self._basis = json.loads(json.dumps(basis))

    def results(self) -> pd.DataFrame | None:
        """Return the finished results that followed from the basis, or None: also where one of the files is lost, is damaged or was changed."""
        hashes = _hashes_of(self.path) if self._fits() else None
        whole = hashes is not None and all(
            _has_hash(self.path / name, value) for name, value in hashes.items()
        )
        table = read_table(self.path / RESULTS) if whole else None
        return None if table is None else table.to_pandas()

    def refuse_other_videos(self, test: Iterable[str], store: Path) -> None:
        """Raise ValueError where the finished results, whatever they followed from, are of other test videos than `test`: they are work on another
        data set, which to replace would lose.
        """
        table = (
            read_table(self.path / "predictions.parquet")
            if (self.path / RESULTS).exists()
            else None
        )
        if table is None or "video_id" not in table.column_names:
            return
        tested, asked = set(table["video_id"].to_pylist()), set(test)
        if tested != asked:
            raise ValueError(
                f"{self.path} holds finished results on {len(tested)} test videos, of which {len(tested & asked)} are among the {len(asked)} "
                f"of {store}; give --out another folder for these results, or delete that folder"
            )

    def begin(self) -> str:
        """Get ready for making the results: what followed from another basis is removed. Returns what is wrong with finished ones that were there."""
        finished = self.path / RESULTS
        replaced = finished.exists()
        if self._fits():
            return "are damaged, or were changed" if replaced and self.results() is None else ""
        # First, because the rest without it is unfinished, and it without the rest would not be. Another process may evaluate the same.
        finished.unlink(missing_ok=True)
        for pattern in ("*.parquet", "*.safetensors"):
            for old in self.path.glob(pattern):
                old.unlink(missing_ok=True)
        replace_file(self.path / _ABOUT, json.dumps(self._basis, indent=2).encode())
        return "were of other weights, settings or videos" if replaced else ""

    def _fits(self) -> bool:
        about = _read_about(self.path)
        return (
            about is not None
            and {name: value for name, value in about.items() if name != _TABLES} == self._basis
        )

    def state(self, name: str) -> Path:
        """Return where the training of `name` keeps its state."""
        return self.path / f"state-{_file_name(name)}.safetensors"

    def part(self, name: str) -> Path:
        """Return where the predictions of `name` lie until the unit is finished."""
        return self.path / f"part-{_file_name(name)}.parquet"

    def finish(self, tables: Mapping[str, pa.Table], results: pd.DataFrame) -> None:
        """Write `tables` by name, and then `results`, which says that all is there, the weights too; states and parts go."""
        files = {f"{name}.parquet": _to_parquet(table) for name, table in tables.items()}
        last = _to_parquet(pa.Table.from_pandas(results, preserve_index=False))
        for name, data in files.items():
            replace_file(self.path / name, data)
        # Before the results: without them nothing is finished, and they are never there without their hash.
        hashes = {
            name: hashlib.sha256(data).hexdigest()
            for name, data in {**files, RESULTS: last}.items()
        }
        if (self.path / WEIGHTS).exists():
            hashes[WEIGHTS] = sha256_of_file(self.path / WEIGHTS)
        replace_file(
            self.path / _ABOUT, json.dumps({**self._basis, _TABLES: hashes}, indent=2).encode()
        )
        replace_file(self.path / RESULTS, last)
        for pattern in ("part-*.parquet", "state-*.safetensors"):
            for left in self.path.glob(pattern):
                left.unlink(missing_ok=True)


def write_table(path: Path, table: pa.Table) -> None:
    """Put `table` at `path` as Parquet, atomically."""
    replace_file(path, _to_parquet(table))


def read_table(path: Path) -> pa.Table | None:
    """Return what `write_table` put at `path`; None where there is nothing, or its bytes are damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    # Of damaged bytes pyarrow says either; a file that cannot be opened at all is another matter.
    with contextlib.suppress(pa.ArrowException, OSError):
        return pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    return None


def _to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    return buffer.getvalue()


def _read_about(folder: Path) -> dict[str, Any] | None:
    """Return what a unit says about itself; None where that is absent or damaged."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        about = json.loads((folder / _ABOUT).read_bytes())
        return about if isinstance(about, dict) else None
    return None


def _hashes_of(folder: Path) -> dict[str, Any] | None:
    """Return the hash of every file that a unit was finished with, by name; empty in results of earlier versions, None where it is damaged."""
    hashes = (_read_about(folder) or {}).get(_TABLES, {})
    return hashes if isinstance(hashes, dict) else None


def _has_hash(file: Path, value: object) -> bool:
    return file.is_file() and sha256_of_file(file) == value


def _file_name(name: str) -> str:
    return name.replace(" ", "-")
