"""Results on disk: a folder per unit of an evaluation, under the run or the folder that was named, as Parquet.

```
RUN/evaluate/linear-5-fold1-seed0/      mode, labels per class, fold, seed
    evaluation.json                     settings, and a hash of all that the results follow from
    results.parquet                     a row of accuracies per encoder and protocol; written last, so it says that the unit is finished
    predictions.parquet                 a row per test video, encoder and protocol, with logits
    classes.parquet, confusion.parquet  a row per class, and per pair of classes
RUN/evaluate/labels/                    which training videos keep their labels
RUN/evaluate/features/                  features of videos, made once
```
"""

import contextlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stores.atomic import replace_file

EVALUATE = "evaluate"
RESULTS = "results.parquet"
_ABOUT = "evaluation.json"


def read_results(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> pd.DataFrame:
    """Return all finished results under runs, and under folders that `flowcpc evaluate --out` wrote, one row each.

    Columns: run, preset, mode, encoder, protocol, labels_per_class, fold, seed, pretrain_steps, schedule, transductive, missing, videos, classes,
    chance, top1, top5, mean_class (shares in 0..1) and, of retrieval, r1, r5, r10, r20, r50; what a mode does not measure is NaN.

    Raises
    ------
    FileNotFoundError
        There are no results under one of `paths`.
    ValueError
        A file of them is damaged.
    """
    several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    tables = []
    for path in several:
        files = sorted(Path(path, EVALUATE).glob(f"*/{RESULTS}"))
        if not files:
            raise FileNotFoundError(f"{path} holds no results; make some with: flowcpc evaluate STORE {path}")
        tables += [_read(file) for file in files]
    return pd.concat(tables, ignore_index=True)


def _read(file: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} cannot be read ({error}); delete its folder and evaluate again") from error


class UnitFolder:
    """Where one unit of an evaluation leaves what it found, and, until it is finished, where it stands.

    Parameters
    ----------
    path : Path
    basis : mapping
        JSON values from which all results follow. What a folder holds that followed from others is removed.

    Attributes
    ----------
    path : Path
    replaced : bool
        Results that followed from something else were there.
    """

    def __init__(self, path: Path, basis: Mapping[str, Any]) -> None:
        self.path = path
        self.replaced = False
        about = path / _ABOUT
        written = json.loads(json.dumps(basis))
        with contextlib.suppress(FileNotFoundError, ValueError):
            if json.loads(about.read_bytes()) == written:
                return
        self.replaced = (path / RESULTS).exists()
        for pattern in ("*.parquet", "*.safetensors"):
            for old in path.glob(pattern):
                old.unlink(missing_ok=True)  # another process may evaluate the same
        replace_file(about, json.dumps(written, indent=2).encode())

    def results(self) -> pd.DataFrame | None:
        """Return the finished results, or None; damaged ones count as none, and are made again."""
        with contextlib.suppress(FileNotFoundError, pa.ArrowInvalid):
            return pd.read_parquet(self.path / RESULTS)
        return None

    def state(self, name: str) -> Path:
        """Return where the training of `name` keeps its state."""
        return self.path / f"state-{_file_name(name)}.safetensors"

    def part(self, name: str) -> Path:
        """Return where the predictions of `name` lie until the unit is finished."""
        return self.path / f"part-{_file_name(name)}.parquet"

    def finish(self, tables: Mapping[str, pa.Table], results: pd.DataFrame) -> None:
        """Write `tables` by name, and then `results`, which says that all is there; states and parts go."""
        for name, table in tables.items():
            write_table(self.path / f"{name}.parquet", table)
        write_table(self.path / RESULTS, pa.Table.from_pandas(results, preserve_index=False))
        for pattern in ("part-*.parquet", "state-*.safetensors"):
            for left in self.path.glob(pattern):
                left.unlink(missing_ok=True)


def write_table(path: Path, table: pa.Table) -> None:
    """Put `table` at `path` as Parquet, atomically."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    replace_file(path, buffer.getvalue())


def _file_name(name: str) -> str:
    return name.replace(" ", "-")
