"""Run the rows of a table of the paper and compare the results with its numbers."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.base.listener import SILENT, Listener, PartOfListener
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.train.data.splits import labelled_split
from flowcpc.train.evaluation import evaluate
from flowcpc.train.evaluation.config import SCHEDULES, EvaluationConfig
from flowcpc.train.evaluation.modes import MOTION, PRETRAINED, RANDOM
from flowcpc.train.evaluation.unit import ENCODER_SETTINGS
from flowcpc.train.pretraining import loop
from flowcpc.train.pretraining.execution import Execution
from flowcpc.train.reproduction.markdown import to_markdown
from flowcpc.train.reproduction.paper_tables import UNSUPERVISED, Column
from flowcpc.train.reproduction.plan import TableRow, make_plan
from flowcpc.train.reproduction.summary import (
    Measurement,
    compare,
    summarise_rows,
    units_written,
    write_reproduction,
)
from flowcpc.train.runs.metrics import read_metrics

_WEIGHT = 1000  # of a stage in the progress: pretrainings and evaluations count the same


@dataclass(frozen=True)
class Reproduction:
    """The state of a table.

    Attributes
    ----------
    finished : bool
        False when the listener stopped the call; the same call resumes.
    table : DataFrame
        One row per row and column of the table: table, scale, preset, measure, labels_per_class;
        ours and std (mean and standard deviation over units), units; in_training (unsupervised
        accuracy on training videos); the baselines random, motion and chance; paper; run; reason
        (why a row is incomplete). Accuracies are shares in 0..1.
    findings : DataFrame
        The findings as `flowcpc.train.reproduction.summary.compare` returns them; empty for the
        tables 1 to 5.
    text : str
        The same as Markdown, with what differs from the paper.
    failed : tuple of (str, str)
        Incomplete rows and the reasons.
    path : Path
        The Markdown file; Parquet files are next to it.
    """

    finished: bool
    table: pd.DataFrame
    findings: pd.DataFrame
    text: str
    failed: tuple[tuple[str, str], ...]
    path: Path


def reproduce(
    store_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    table: int | str,
    scale: str = "paper",
    folds: Sequence[int] = (1,),
    seeds: Sequence[int] = (0,),
    changes: Mapping[str, Any] = {},
    evaluation: EvaluationConfig | None = None,
    allow_missing: bool = False,
    execution: Execution = Execution(),
    listener: Listener = SILENT,
) -> Reproduction:
    """Run all rows of a table of the paper, or resume them, and compare them with its numbers.

    Every row is pretrained and evaluated once per fold and seed, in OUT/<preset>-fold<F>-seed<S>;
    rows with the same settings share a run, across tables too. When a row fails, its reason is
    kept and the others continue. OUT/table<N>-<scale>.md and .parquet (of the findings
    OUT/findings-<scale>.md, .parquet and -cells.parquet) are written anew after every row.

    Parameters
    ----------
    table : int or str
        1 to 5, or `findings`: the pairs of rows that the paper's findings compare.
    scale : str
        `paper`, or `cpu` (flowcpc.train.reproduction.plan.cpu_scale).
    folds, seeds : sequence of int
        Splits of the data set; seeds of the initial weights and of every draw.
    changes : mapping
        Settings of PretrainConfig that replace those of every row.
    evaluation : EvaluationConfig, optional
        Settings of every evaluation. [default: those of the scale]
    allow_missing : bool
        Leave out test videos without flow and videos without label instead of refusing.
    execution : Execution
        How every pretraining is executed.

    Raises
    ------
    ValueError
        A name, number or setting is not valid, or a fold cannot be evaluated.
    FileNotFoundError
        There is no store.
    """
    store = open_store(store_path)
    plan = make_plan(store, table, scale=scale, folds=folds, seeds=seeds, changes=changes)
    evaluation = evaluation or SCHEDULES[scale]
    for fold in folds:
        labelled_split(store, fold, allow_missing=allow_missing)
    path = Path(out, f"{plan.table.stem}-{scale}.md")
    written = units_written(path)
    measurements: list[Measurement] = []
    reasons = {row.name: [row.refused] for row in plan.rows if row.refused}
    for (reason,) in reasons.values():
        listener.announce(reason)

    def fail(row: TableRow, what: str, reason: object) -> None:
        reasons.setdefault(row.name, []).append(f"{what}: {reason}")
        listener.announce(f"{row.name}, {what}: {reason}")

    def write(finished: bool) -> Reproduction:
        failed = {name: "; ".join(several) for name, several in reasons.items()}
        rows = summarise_rows(plan, measurements, failed)
        findings = compare(plan, measurements, failed)
        text = to_markdown(plan, store, rows, findings, failed, evaluation)
        # Until it is finished again, an incomplete table does not replace a more complete one.
        if finished or (measurements and rows["units"].sum() >= written):
            write_reproduction(path, text, rows, findings)
        return Reproduction(finished, rows, findings, text, tuple(failed.items()), path)

    stages = [(row, *unit) for row in plan.rows if not row.refused for unit in plan.units]
    for number, (row, fold, seed) in enumerate(stages):
        columns = plan.columns(row)
        unit = _RowUnit(
            store=store,
            path=Path(out, row.folder(fold, seed)),
            row=row,
            fold=fold,
            seed=seed,
            evaluation=evaluation,
            allow_missing=allow_missing,
            execution=execution,
            stages=1 + len(columns),
            listener=_part(listener, number, len(stages), {"row": row.name}),
        )
        name = f"fold {fold}, seed {seed}"
        try:
            if not unit.pretrain():
                return write(finished=False)
        except (ValueError, OperationError) as error:
            fail(row, name, error)
            continue
        for place, column in enumerate(columns):
            try:
                measured = unit.measure(1 + place, column)
            except (ValueError, OperationError) as error:
                fail(row, f"{column.title}, {name}", error)
                continue
            if measured is None:
                return write(finished=False)
            measurements.append(measured)
            if math.isnan(measured.ours):
                reason = "no held-out videos, or fewer than a batch; set a smaller batch_size"
                fail(row, f"{column.title}, {name}", reason)
        write(finished=False)
    return write(finished=True)


def _part(
    listener: Listener, number: int, parts: int, fields: Mapping[str, str] = {}
) -> PartOfListener:
    start = _WEIGHT * number
    return PartOfListener(listener, start, start + _WEIGHT, _WEIGHT * parts, fields)


@dataclass(frozen=True)
class _RowUnit:
    """A row in one fold with one seed; `path` is the folder of its run or of its results."""

    store: FlowStore
    path: Path
    row: TableRow
    fold: int
    seed: int
    evaluation: EvaluationConfig
    allow_missing: bool
    execution: Execution
    stages: int
    listener: Listener

    def pretrain(self) -> bool:
        """Return whether the run is finished; initial weights need none."""
        if not self.row.preset.pretrained:
            return True
        self.listener.announce(f"{self.row.name}: pretraining in {self.path}")
        config = self.row.at(self.fold, self.seed)
        return loop.pretrain(
            self.store.path,
            self.path,
            config,
            execution=self.execution,
            listener=_part(self.listener, 0, self.stages),
        ).finished

    def measure(self, stage: int, column: Column) -> Measurement | None:
        """Return the measurement of a column; None when told to stop."""
        unsupervised = column.mode == UNSUPERVISED
        shares = self._unsupervised() if unsupervised else self._accuracy(stage, column)
        if shares is None:
            return None
        cell = Measurement(self.row.name, *column, self.fold, self.seed, shares["chance"])
        return cell._replace(**shares)

    def _accuracy(self, stage: int, column: Column) -> dict[str, Any] | None:
        """Evaluate the encoder; return its accuracy and those of the baselines."""
        encoder = None
        if not self.row.preset.pretrained:
            config = self.row.at(self.fold, self.seed)
            seen = {name: getattr(config, name) for name in (*ENCODER_SETTINGS, "seed")}
            encoder = dataclasses.replace(self.row.preset.config, **seen)
        result = evaluate.evaluate(
            self.store.path,
            self.path if encoder is None else None,
            mode=self.row.mode(column),
            labels=(None if column.labels == "all" else int(column.labels),),
            folds=(self.fold,),
            seeds=(self.seed,),
            out=None if encoder is None else self.path,
            encoder=encoder,
            evaluation=self.evaluation,
            allow_missing=self.allow_missing,
            listener=_part(self.listener, stage, self.stages),
        )
        if not result.finished:
            return None
        table = result.table.set_index("encoder")
        top1 = table.loc[table["protocol"].str.startswith("uniform"), "top1"]
        motion = table.loc[table.index == MOTION, "top1"]
        return {
            "ours": float(top1.get(PRETRAINED, top1.iloc[0])),
            "chance": float(table["chance"].iloc[0]),
            "random": float(top1.get(RANDOM, math.nan)),
            "motion": float(motion.iloc[0]) if len(motion) else math.nan,
        }

    def _unsupervised(self) -> dict[str, Any]:
        """Return the accuracies at the last step: earlier ones are of other weights."""
        last: dict[str, Any] = {}
        for line in read_metrics(self.path):
            if line["step"] == self.row.config.steps:
                last |= {key: value for key, value in line.items() if value is not None}
        if "accuracy" not in last:
            raise OperationError(
                f"{self.path} lacks the metrics of its last step; delete the folder to train it "
                "again"
            )
        return {
            "ours": last.get("held_out_accuracy", math.nan),
            "chance": 1 / last.get("classes", self.row.config.classes),
            "in_training": last["accuracy"],
        }
