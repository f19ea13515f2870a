"""An evaluation: units of (mode, labels per class, fold, seed), each finished, read or gone on with."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from flowcpc.stores.base.listener import Progress
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.train.data.batches import choose_device
from flowcpc.train.data.splits import labelled_split, name_some, without_flow
from flowcpc.train.evaluation.classifiers.classifier import Stopped
from flowcpc.train.evaluation.config import SCHEDULES, EvaluationConfig, schedule_of
from flowcpc.train.evaluation.label_subsets import labelled_subset, read_labels
from flowcpc.train.evaluation.modes import (
    MODES,
    cost,
    predict_from_features,
    predict_from_motion,
    recall_rows,
    train_and_predict,
)
from flowcpc.train.evaluation.results import UnitFolder, read_table, write_table
from flowcpc.train.evaluation.scoreboard import Evaluation
from flowcpc.train.evaluation.scores import confusion, score_classes, score_predictions
from flowcpc.train.evaluation.task import Split, Subject, Task, Unit
from flowcpc.train.runs.checkpoint import check_numerics, require_checkpoint
from flowcpc.train.settings.config import PretrainConfig


class _Plan(NamedTuple):
    """A unit, and where its results are."""

    task: Task
    folder: UnitFolder
    steps: int


def evaluate(
    store_path: str | os.PathLike[str],
    run_path: str | os.PathLike[str] | None = None,
    *,
    mode: str = "linear",
    labels: Sequence[str] = ("all",),
    folds: Sequence[int] = (1,),
    seeds: Sequence[int] = (0,),
    out: str | os.PathLike[str] | None = None,
    encoder: PretrainConfig | None = None,
    evaluation: EvaluationConfig | None = None,
    allow_missing: bool = False,
    progress: Progress = lambda done, total, fields: None,
    announce: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Evaluate an encoder on action recognition, for every combination of labels per class, fold and seed.

    Eight random segments stand for a training video, their features averaged; a test video is read twice, as eight seeded random and as eight evenly
    spread segments, cropped at the centre (Lorre et al. 2019, section 4.1; spec cpc.md, Evaluation). Every test video counts exactly once. Nothing
    is chosen by looking at a test video: the state after the last step counts. Finished results are read; the same call goes on where it stopped.

    Parameters
    ----------
    run_path : path, optional
        A run; its results go to RUN/evaluate unless `out` is given. The modes `scratch` and `random` need none.
    mode : str
        A name of flowcpc.train.evaluation.modes.MODES. `linear`: a dense layer on the frozen encoder, beside one on an untrained encoder. `finetune`: encoder and dense
        layer together. `scratch`: the same from initial weights. `random`: a dense layer on an untrained encoder. `probe`: logistic regression on
        features made once. `knn`: votes of the nearest training videos. `retrieval`: whether one of the k nearest ones is of the same class.
    labels : sequence of str
        Labels per class, `all` or numbers.
    folds, seeds : sequence of int
        Splits of the data set, and what decides every draw.
    out : path, optional
        Folder of the results, which go to OUT/evaluate; a run evaluated on a second data set needs one.
    encoder : PretrainConfig, optional
        Settings of the encoder where there is no run.
    evaluation : EvaluationConfig, optional
        Settings of the evaluation. [default: the schedule that goes with the encoder's preset]
    allow_missing : bool
        Leave out test videos without flow and videos without label instead of refusing.

    Raises
    ------
    ValueError
        A test video is missing, a group is in both splits, the store's flow is not of the run's kind, options do not go together, or the folder
        of a unit has finished results on other test videos.
    FileNotFoundError
        There is no store, or no run.
    FileExistsError
        `out` is a file.
    """
    store = open_store(store_path)
    subject = _subject(store, mode, run_path, out, encoder)
    evaluation = evaluation or SCHEDULES[schedule_of(subject.config.preset)]
    counts = map(read_labels, labels)
    units = [
        Unit(mode, *chosen) for chosen in dict.fromkeys(itertools.product(counts, folds, seeds))
    ]
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed={seed} cannot be written down; take one from 0 to {2**63 - 1}")
    if not units:
        raise ValueError("labels, folds and seeds are lists of which each needs one value or more")
    plans = _plan(store, subject, evaluation, units, allow_missing, announce)
    done, total = 0, sum(plan.steps for plan in plans)
    tables = []
    try:
        for plan in plans:
            table = _finished(plan.task)
            if table is None:
                unit = plan.task.unit
                if wrong := plan.folder.begin():
                    announce(f"the results in {plan.folder.path} {wrong}, and are made again")
                announce(
                    f"{unit.name}: {len(plan.task.train)} training and {len(plan.task.test)} test videos of {len(plan.task.classes)} classes"
                )
                table = _run(plan, _Counter(progress, unit.name, done, total), should_stop)
            else:
                announce(f"read the finished results in {plan.folder.path}")
            tables.append(table)
            done += plan.steps
            progress(done, total, {"unit": plan.task.unit.name})
    except Stopped:
        return Evaluation(False, pd.DataFrame(), pd.DataFrame(), subject.folder)
    together = pd.concat(tables, ignore_index=True)
    return Evaluation(True, together, _beside(plans), subject.folder)


def _subject(
    store: FlowStore,
    mode: str,
    run_path: str | os.PathLike[str] | None,
    out: str | os.PathLike[str] | None,
    encoder: PretrainConfig | None,
) -> Subject:
    """Return whose encoder is evaluated."""
    if mode not in MODES:
        raise ValueError(f"there is no mode {mode!r}; choose one of {', '.join(MODES)}")
    if out is not None and Path(out).is_file():
        raise FileExistsError(f"{out} is a file; give a folder for the results")
    if run_path is not None:
        if encoder is not None:
            raise ValueError("a run has its own settings; leave out --preset, or leave out RUN")
        checkpoint = require_checkpoint(run_path)
        check_numerics(checkpoint, store.numerics)
        run = Path(run_path)
        return Subject(
            checkpoint.config, checkpoint, run if out is None else Path(out), run.resolve().name
        )
    if MODES[mode].needs_run:
        raise ValueError(f"--mode {mode} evaluates a pretrained encoder; give its RUN")
    if out is None or encoder is None:
        raise ValueError(
            f"--mode {mode} without RUN needs a folder for the results and settings of the encoder; give --out and --preset"
        )
    return Subject(encoder, None, Path(out), "")


def _plan(
    store: FlowStore,
    subject: Subject,
    evaluation: EvaluationConfig,
    units: Sequence[Unit],
    allow_missing: bool,
    announce: Callable[[str], None],
) -> list[_Plan]:
    """Return all units, after looking at everything that could make one of them fail."""
    device = choose_device()
    folds = dict.fromkeys(unit.fold for unit in units)
    splits = {
        fold: Split(*labelled_split(store, fold, allow_missing=allow_missing)) for fold in folds
    }
    for fold, split in splits.items():
        if lost := without_flow(store, fold, "train"):
            announce(
                f"{len(lost)} training videos of fold {fold} have no flow and teach nothing: {name_some(lost)}"
            )
        if split.missing:
            announce(
                f"test videos that are missing and left out: {split.missing}; this is not the accuracy on fold {fold}"
            )
        if MODES[units[0].mode].needs_run and subject.transductive(fold):
            announce(
                f"the run was pretrained on the flow of fold {fold}'s test videos too: its results are transductive"
            )
    checkpoint = subject.checkpoint
    if checkpoint and MODES[units[0].mode].needs_run and checkpoint.step < subject.config.steps:
        announce(
            f"{subject.run} stands at step {checkpoint.step} of {subject.config.steps}: the pretraining is not finished"
        )
    for unit in units:
        UnitFolder(subject.folder / unit.name, {}).refuse_other_videos(
            splits[unit.fold].test["video_id"], store.path
        )
    plans = []
    for unit in units:
        train, remarks = labelled_subset(
            subject.folder / "labels",
            splits[unit.fold].train,
            unit.labels,
            seed=unit.seed,
            fold=unit.fold,
        )
        for remark in remarks:
            announce(f"{unit.name}: {remark}")
        if unit.mode == "knn" and evaluation.neighbours > len(train):
            announce(
                f"{unit.name}: neighbours={evaluation.neighbours}, so all {len(train)} training videos vote"
            )
        task = Task(unit, subject, evaluation, store, splits[unit.fold], train, device)
        plans.append(
            _Plan(task, _folder_of(task), cost(unit.mode, evaluation, len(train) + len(task.test)))
        )
    return plans


def _folder_of(task: Task) -> UnitFolder:
    """Return where the results of a unit are."""
    mode = MODES[task.unit.mode]
    return UnitFolder(
        task.subject.folder / task.unit.name, task.basis(mode.settings, pretrained=mode.needs_run)
    )


def _finished(task: Task) -> pd.DataFrame | None:
    """Return the finished results of a unit, under the names that run, preset and schedule have now: no result follows from them."""
    table = _folder_of(task).results()
    return None if table is None else table.assign(**_about(task))


def _run(plan: _Plan, counter: "_Counter", should_stop: Callable[[], bool]) -> pd.DataFrame:
    """Return the results of a unit, after writing all that it found."""
    task, folder = plan.task, plan.folder
    mode = MODES[task.unit.mode]
    each = plan.steps // len(mode.encoders)
    parts = []
    for number, name in enumerate(mode.encoders):
        counter.begin(name, number * each)
        found = read_table(folder.part(name))
        if found is None:
            if mode.trains:
                found = train_and_predict(task, name, folder, counter, should_stop)
            else:
                found = predict_from_features(task, name, counter, should_stop)
            write_table(folder.part(name), found)
        parts.append(found)
    predictions = pa.concat_tables([*parts, predict_from_motion(task)])
    rows = predictions.to_pandas()
    tables = {
        "predictions": predictions,
        "classes": pa.Table.from_pandas(score_classes(rows, task.classes), preserve_index=False),
        "confusion": pa.Table.from_pandas(confusion(rows, task.classes), preserve_index=False),
    }
    about = _about(task)
    if task.unit.mode == "retrieval":
        results = recall_rows(task, rows)
        results = pd.concat([pd.DataFrame([about] * len(results)), results], axis=1)
    else:
        results = score_predictions(rows, task.classes, about)
    folder.finish(tables, results)
    return results


def _about(task: Task) -> dict[str, Any]:
    """Return the columns that say whose results these are."""
    subject, unit = task.subject, task.unit
    return {
        "run": subject.run,
        "preset": subject.config.preset,
        "mode": unit.mode,
        "labels_per_class": unit.labels,
        "fold": unit.fold,
        "seed": unit.seed,
        "pretrain_steps": subject.checkpoint.step
        if subject.checkpoint and MODES[unit.mode].needs_run
        else 0,
        "schedule": task.evaluation.schedule,
        "transductive": MODES[unit.mode].needs_run and subject.transductive(unit.fold),
        "missing": task.split.missing,
    }


def _beside(plans: Sequence[_Plan]) -> pd.DataFrame:
    """Return the untrained encoders that other modes evaluated for the same units: with the same settings, on the same videos."""
    found = []
    for task, mode in itertools.product(
        (plan.task for plan in plans), ("linear", "random", "scratch")
    ):
        other = dataclasses.replace(task, unit=task.unit._replace(mode=mode))
        table = _finished(other) if mode != task.unit.mode else None
        if table is not None:
            found.append(table[table["encoder"].isin(["random", "scratch"])])
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


class _Counter:
    """Progress over all units: each begins where the one before ended."""

    def __init__(self, progress: Progress, unit: str, before: int, total: int) -> None:
        self._progress = progress
        self._start = self._before = before
        self._total = total
        self._fields: dict[str, float | str] = {"unit": unit}

    def begin(self, encoder: str, offset: int) -> None:
        """Go on to another encoder, `offset` steps into the unit."""
        self._before = self._start + offset
        self._fields |= {"encoder": encoder}

    def __call__(self, done: int, loss: float | None = None, accuracy: float | None = None) -> None:
        if loss is not None and accuracy is not None:
            self._fields |= {"loss": loss, "acc": accuracy}
        self._progress(self._before + done, self._total, self._fields)
