"""A table of the paper, run row by row and put beside the paper's numbers; killed at any moment, the same call goes on."""

import dataclasses
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
from flowcpc.train.evaluation.unit import ENCODER_SETTINGS
from flowcpc.train.pretraining import loop
from flowcpc.train.pretraining.execution import Execution
from flowcpc.train.reproduction.markdown import to_markdown
from flowcpc.train.reproduction.paper_tables import UNSUPERVISED, Column
from flowcpc.train.reproduction.plan import Plan, Row, make_plan
from flowcpc.train.reproduction.summary import (
    compare,
    summarise_rows,
    units_written,
    write_reproduction,
)
from flowcpc.train.runs.metrics import read_metrics

_WEIGHT = 1000  # of a task in the progress: they are of different kinds, so each counts the same


@dataclass(frozen=True)
class Reproduction:
    """How a table stands.

    Attributes
    ----------
    finished : bool
        False when `should_stop` ended the call early; the same call again goes on.
    table : DataFrame
        One row per row and column of the paper's table: table, scale, preset, measure, labels_per_class, ours and std (over units), units,
        in_training (unsupervised accuracy on training videos), random, motion and chance (what stands beside), paper: all shares in 0..1; run, and
        reason where ours is not whole.
    findings : DataFrame
        What the paper found, pair by pair (flowcpc.train.reproduction.summary.compare); empty for tables 1 to 5.
    text : str
        The same as Markdown, with what differs from the paper.
    failed : tuple of (str, str)
        Rows without all of their numbers, and why.
    path : Path
        The Markdown; Parquet lies beside it.
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
    """Run, or go on with, all rows of a table of the paper and put them beside its numbers.

    Every row is pretrained and evaluated once per fold and seed, in OUT/<preset>-fold<F>-seed<S>; rows and tables with the same settings share a run.
    What fails (a training diverges, a number of labels is not to be had) keeps its reason, and the others go on. OUT/table<N>-<scale>.md and .parquet
    (for the findings OUT/findings-<scale>.md, .parquet and -cells.parquet) are written anew after every row.

    Parameters
    ----------
    table : int or str
        1 to 5, or `findings`: the pairs of rows that the paper's findings compare.
    scale : str
        `paper`, or `cpu` (flowcpc.train.reproduction.plan.cpu_scale).
    folds, seeds : sequence of int
        Splits of the data set; what decides initial weights and every draw, of pretraining and evaluation both.
    changes : mapping
        Settings of PretrainConfig that are changed in every row.
    evaluation : EvaluationConfig, optional
        Settings of every evaluation. [default: those of the scale]
    allow_missing : bool
        Leave out test videos without flow and videos without label instead of refusing.
    execution : Execution
        How every pretraining is executed.

    Raises
    ------
    ValueError
        A name, number or setting cannot be taken, or a fold cannot be evaluated.
    FileNotFoundError
        There is no store.
    """
    store = open_store(store_path)
    plan = make_plan(store, table, scale=scale, folds=folds, seeds=seeds, changes=changes)
    evaluation = evaluation or SCHEDULES[scale]
    for fold in folds:
        labelled_split(store, fold, allow_missing=allow_missing)
    folder = Path(out)
    path = folder / f"{plan.table.stem}-{scale}.md"
    tasks = [(row, fold, seed) for row in plan.rows for fold, seed in plan.units]
    values: list[dict[str, object]] = []
    failed = {row.name: [row.refused] for row in plan.rows if row.refused}
    for (reason,) in failed.values():
        listener.announce(reason)
    written = units_written(path)

    def fail(row: Row, what: str, error: Exception | str) -> None:
        failed.setdefault(row.name, []).append(f"{what}: {error}")
        listener.announce(f"{row.name}, {what}: {error}")

    def stands(finished: bool) -> Reproduction:
        reasons = {name: "; ".join(several) for name, several in failed.items()}
        found, findings = summarise_rows(plan, values, reasons), compare(plan, values, reasons)
        text = to_markdown(plan, store, found, findings, reasons, evaluation)
        # On the way a finished table is not replaced by one that has only come so far again.
        if finished or (values and found["units"].sum() >= written):
            write_reproduction(path, text, found, findings)
        return Reproduction(finished, found, findings, text, tuple(reasons.items()), path)

    for number, (row, fold, seed) in enumerate(tasks):
        if row.refused:
            continue
        start = _WEIGHT * number
        part = PartOfListener(
            listener, start, start + _WEIGHT, _WEIGHT * len(tasks), {"row": row.name}
        )
        where = f"fold {fold}, seed {seed}"
        task = _Task(
            store,
            folder,
            plan,
            row,
            fold,
            seed,
            evaluation,
            allow_missing,
            execution,
            part,
        )
        try:
            if not task.pretrain():
                return stands(finished=False)
        except (ValueError, OperationError) as error:
            fail(row, where, error)
            continue
        for place, column in enumerate(plan.columns(row)):
            try:
                found = task.measure(place, column)
            except (ValueError, OperationError) as error:
                fail(row, f"{column.title}, {where}", error)
                continue
            if found is None:
                return stands(finished=False)
            values.append(found)
            if "ours" not in found:
                fail(
                    row,
                    f"{column.title}, {where}",
                    "there are no held-out videos, or they do not fill a batch; set batch_size smaller",
                )
        stands(finished=False)
    return stands(finished=True)


@dataclass(frozen=True)
class _Task:
    """One row in one fold with one seed."""

    store: FlowStore
    out: Path
    plan: Plan
    row: Row
    fold: int
    seed: int
    evaluation: EvaluationConfig
    allow_missing: bool
    execution: Execution
    listener: Listener

    @property
    def path(self) -> Path:
        """Where the run, or the results of initial weights, go."""
        return self.out / self.row.folder(self.fold, self.seed)

    def pretrain(self) -> bool:
        """Return whether the run is finished; False when told to stop. Initial weights need none."""
        if not self.row.preset.pretrained:
            return True
        self.listener.announce(f"{self.row.name}: pretraining in {self.path}")
        result = loop.pretrain(
            self.store.path,
            self.path,
            self.row.at(self.fold, self.seed),
            execution=self.execution,
            listener=self._part(0),
        )
        return result.finished

    def measure(self, place: int, column: Column) -> dict[str, object] | None:
        """Return the value of the column at `place` and what stands beside it; None when told to stop."""
        found = (
            self._unsupervised() if column.mode == UNSUPERVISED else self._accuracy(place, column)
        )
        about = {"preset": self.row.name, "mode": column.mode, "labels": column.labels}
        return None if found is None else {**about, "fold": self.fold, "seed": self.seed, **found}

    def _accuracy(self, place: int, column: Column) -> dict[str, float] | None:
        mode = self.row.mode(column)
        encoder = None
        if not self.row.preset.pretrained:
            config = self.row.at(self.fold, self.seed)
            seen = {name: getattr(config, name) for name in (*ENCODER_SETTINGS, "seed")}
            encoder = dataclasses.replace(self.row.preset.config, **seen)
        result = evaluate.evaluate(
            self.store.path,
            self.path if self.row.preset.pretrained else None,
            mode=mode,
            labels=(None if column.labels == "all" else int(column.labels),),
            folds=(self.fold,),
            seeds=(self.seed,),
            out=None if self.row.preset.pretrained else self.path,
            encoder=encoder,
            evaluation=self.evaluation,
            allow_missing=self.allow_missing,
            listener=self._part(1 + place),
        )
        if not result.finished:
            return None
        table = result.table
        uniform = table[table["protocol"].str.startswith("uniform")].set_index("encoder")["top1"]
        found = {
            "ours": float(uniform.get("pretrained", uniform.iloc[0])),
            "chance": float(table["chance"].iloc[0]),
        }
        if "random" in uniform:
            found["random"] = float(uniform["random"])
        motion = table.loc[table["encoder"] == "motion statistics", "top1"]
        if len(motion):
            found["motion"] = float(motion.iloc[0])
        return found

    def _unsupervised(self) -> dict[str, float]:
        # Only what was measured at the last step counts: a line of an earlier one is of other weights.
        last = [line for line in read_metrics(self.path) if line["step"] == self.row.config.steps]
        trained = next((line for line in last if "loss" in line), None)
        if trained is None:
            raise OperationError(
                f"{self.path} lacks the metrics of its last step; delete the folder to train it again"
            )
        held_out = next(
            (line for line in reversed(last) if line.get("held_out_accuracy") is not None), None
        )
        found = {
            "chance": 1 / trained.get("classes", self.row.config.classes),
            "in_training": trained["accuracy"],
        }
        return {**found, "ours": held_out["held_out_accuracy"]} if held_out else found

    def _part(self, stage: int) -> Listener:
        stages = 1 + len(self.plan.columns(self.row))
        start = _WEIGHT * stage
        return PartOfListener(self.listener, start, start + _WEIGHT, _WEIGHT * stages)
