"""Run the rows of a table of the paper and compare the results with its numbers."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.base.listener import SILENT, Listener, PartOfListener
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.train.data.splits import labelled_split
from flowcpc.train.evaluation import evaluate
from flowcpc.train.evaluation.classifiers.features import Stopped
from flowcpc.train.evaluation.config import SCHEDULES, EvaluationConfig
from flowcpc.train.evaluation.modes import MOTION, PRETRAINED, RANDOM
from flowcpc.train.evaluation.unit import ENCODER_SETTINGS
from flowcpc.train.pretraining import loop
from flowcpc.train.pretraining.execution import Execution
from flowcpc.train.reproduction import summary
from flowcpc.train.reproduction.markdown import to_markdown
from flowcpc.train.reproduction.paper_tables import UNSUPERVISED, Column
from flowcpc.train.reproduction.plan import TablePlan, TableRow, make_plan
from flowcpc.train.runs.metrics import read_metrics
from flowcpc.train.settings.config import PretrainConfig

_WEIGHT = 1000  # of a stage in the progress: pretrainings and evaluations count the same


class Reproduction(NamedTuple):
    """The state of a table. Unless it is finished, the listener stopped; the same call resumes.

    `table` has a row per row and column of the table: table, scale, preset, measure,
    labels_per_class; ours and std (mean and standard deviation over units), units; in_training
    (unsupervised accuracy on training videos); the baselines random, motion and chance; paper; run;
    reason (why a row is incomplete). Accuracies are shares in 0..1.
    """

    finished: bool
    table: pd.DataFrame
    findings: pd.DataFrame  # as `summary.compare` returns them; empty for the tables 1 to 5
    text: str  # the same as Markdown, with what differs from the paper
    failed: tuple[tuple[str, str], ...]  # incomplete rows and the reasons
    path: Path  # the Markdown file; Parquet files are next to it


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

    `table`, `scale`, `folds`, `seeds` and `changes` are those of
    `flowcpc.train.reproduction.plan.make_plan`; `evaluation` are the settings of every evaluation
    (default: those of the scale); `allow_missing` leaves out test videos without flow and videos
    without label instead of refusing; `execution` is how every pretraining is executed.

    Raises ValueError for a name, number or setting that is not valid, and for a fold that cannot be
    evaluated; FileNotFoundError if there is no store.
    """
    store = open_store(store_path)
    plan = make_plan(store, table, scale=scale, folds=folds, seeds=seeds, changes=changes)
    for fold in folds:
        labelled_split(store, fold, allow_missing=allow_missing)
    evaluation = evaluation or SCHEDULES[scale]
    work = _TableRun(store, plan, Path(out), evaluation, allow_missing, execution, listener)
    units = [(row, *unit) for row in plan.rows if not row.refused for unit in plan.units]
    try:
        for number, (row, fold, seed) in enumerate(units):
            work.run(row, fold, seed, _part(listener, number, len(units), {"row": row.name}))
            work.write(finished=False)
    except Stopped:
        return work.write(finished=False)
    return work.write(finished=True)


def _part(
    listener: Listener, number: int, parts: int, fields: Mapping[str, str] = {}
) -> PartOfListener:
    start = _WEIGHT * number
    return PartOfListener(listener, start, start + _WEIGHT, _WEIGHT * parts, fields)


@dataclasses.dataclass
class _TableRun:
    """What is measured of the rows of a table, and why some of them are incomplete."""

    store: FlowStore
    plan: TablePlan
    out: Path
    evaluation: EvaluationConfig
    allow_missing: bool
    execution: Execution
    listener: Listener

    def __post_init__(self) -> None:
        self.path = self.out / f"{self.plan.table.stem}-{self.plan.scale}.md"
        self.written = summary.units_written(self.path)
        self.measurements: list[summary.Measurement] = []
        self.reasons = {row.name: [row.refused] for row in self.plan.rows if row.refused}
        for (reason,) in self.reasons.values():
            self.listener.announce(reason)

    def run(self, row: TableRow, fold: int, seed: int, listener: Listener) -> None:
        """Pretrain and evaluate a row, and keep the reasons of what fails. Raises Stopped."""
        columns, unit = self.plan.columns(row), f"fold {fold}, seed {seed}"
        path, config = self.out / row.folder(fold, seed), row.at(fold, seed)
        parts = [_part(listener, number, 1 + len(columns)) for number in range(1 + len(columns))]
        try:
            if row.preset.pretrained:
                listener.announce(f"{row.name}: pretraining in {path}")
                options: Any = {"execution": self.execution, "listener": parts[0]}
                if not loop.pretrain(self.store.path, path, config, **options).finished:
                    raise Stopped
        except (ValueError, OperationError) as error:
            return self._fail(row, unit, error)
        for column, part in zip(columns, parts[1:], strict=True):
            what = f"{column.title}, {unit}"
            try:
                if column.mode == UNSUPERVISED:
                    shares = _unsupervised(path, config)
                else:
                    shares = self._evaluate(row, path, config, column, part)
            except (ValueError, OperationError) as error:
                self._fail(row, what, error)
                continue
            self.measurements.append(summary.Measurement(row.name, *column, fold, seed, **shares))
            if math.isnan(shares["ours"]):
                reason = "no held-out videos, or fewer than a batch; set a smaller batch_size"
                self._fail(row, what, reason)

    def write(self, finished: bool) -> Reproduction:
        """Return and write the state; unfinished, it replaces no table that is more complete."""
        failed = {name: "; ".join(several) for name, several in self.reasons.items()}
        rows = summary.summarise_rows(self.plan, self.measurements, failed)
        findings = summary.compare(self.plan, self.measurements, failed)
        text = to_markdown(self.plan, self.store, rows, findings, failed, self.evaluation)
        if finished or (self.measurements and rows["units"].sum() >= self.written):
            summary.write_reproduction(self.path, text, rows, findings)
        return Reproduction(finished, rows, findings, text, tuple(failed.items()), self.path)

    def _fail(self, row: TableRow, what: str, reason: object) -> None:
        self.reasons.setdefault(row.name, []).append(f"{what}: {reason}")
        self.listener.announce(f"{row.name}, {what}: {reason}")

    def _evaluate(
        self, row: TableRow, path: Path, config: PretrainConfig, column: Column, listener: Listener
    ) -> dict[str, Any]:
        """Return the accuracy of an encoder and those of its baselines."""
        source: dict[str, Any] = {"run_path": path}
        if not row.preset.pretrained:
            seen = {name: getattr(config, name) for name in (*ENCODER_SETTINGS, "seed")}
            source = {"out": path, "encoder": dataclasses.replace(row.preset.config, **seen)}
        result = evaluate.evaluate(
            self.store.path,
            **source,
            mode=row.mode(column),
            labels=(None if column.labels == "all" else int(column.labels),),
            folds=(config.fold,),
            seeds=(config.seed,),
            evaluation=self.evaluation,
            allow_missing=self.allow_missing,
            listener=listener,
        )
        if not result.finished:
            raise Stopped
        table = result.table.set_index("encoder")
        top1 = table.loc[table["protocol"].str.startswith("uniform"), "top1"]
        motion = table.loc[table.index == MOTION, "top1"]
        return {
            "ours": float(top1.get(PRETRAINED, top1.iloc[0])),
            "chance": float(table["chance"].iloc[0]),
            "random": float(top1.get(RANDOM, math.nan)),
            "motion": float(motion.iloc[0]) if len(motion) else math.nan,
        }


def _unsupervised(run: Path, config: PretrainConfig) -> dict[str, Any]:
    """Return the accuracies at the last step: earlier ones are of other weights."""
    last: dict[str, Any] = {}
    for line in read_metrics(run):
        if line["step"] == config.steps:
            last |= {key: value for key, value in line.items() if value is not None}
    if "accuracy" not in last:
        raise OperationError(
            f"{run} lacks the metrics of its last step; delete the folder to train it again"
        )
    return {
        "ours": last.get("held_out_accuracy", math.nan),
        "chance": 1 / last.get("classes", config.classes),
        "in_training": last["accuracy"],
    }
