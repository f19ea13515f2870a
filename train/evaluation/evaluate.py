"""An evaluation: units of mode x labels x fold x seed. Each is read, resumed or computed."""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from flowcpc.stores.base.listener import SILENT, Listener, PartOfListener
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.train.data.batches import choose_device
from flowcpc.train.data.splits import labelled_split, name_some, without_flow
from flowcpc.train.evaluation import predictions
from flowcpc.train.evaluation.classifiers.features import Stopped
from flowcpc.train.evaluation.config import SCHEDULES, EvaluationConfig, schedule_of
from flowcpc.train.evaluation.label_subsets import labelled_subset
from flowcpc.train.evaluation.modes import MODES, RANDOM, SCRATCH, Mode
from flowcpc.train.evaluation.results import (
    EVALUATE,
    PREDICTIONS,
    check_same_videos,
    labels_text,
    read_table,
    write_table,
)
from flowcpc.train.evaluation.scoring.scoreboard import NOTHING, Evaluation
from flowcpc.train.evaluation.scoring.scores import confusion, score_classes, score_predictions
from flowcpc.train.evaluation.scoring.uncertainty import HIT_COLUMNS, hits_of
from flowcpc.train.evaluation.unit import EncoderSource, EvaluationUnit
from flowcpc.train.runs.checkpoint import check_numerics, require_checkpoint
from flowcpc.train.settings.config import PretrainConfig


def evaluate(
    store_path: str | os.PathLike[str],
    run_path: str | os.PathLike[str] | None = None,
    *,
    mode: str = "linear",
    labels: Sequence[int | None] = (None,),
    folds: Sequence[int] = (1,),
    seeds: Sequence[int] = (0,),
    out: str | os.PathLike[str] | None = None,
    encoder: PretrainConfig | None = None,
    evaluation: EvaluationConfig | None = None,
    allow_missing: bool = False,
    listener: Listener = SILENT,
) -> Evaluation:
    """Evaluate an encoder on action recognition, for each combination of labels, fold and seed.

    A training video is represented by the averaged features of eight random segments. A test video
    is read twice, as eight seeded random and as eight evenly spread segments, cropped at the centre
    (Lorre et al. 2019, section 4.1). Every test video counts exactly once. Nothing is chosen by
    looking at a test video: the state after the last step counts. Finished results are read, and a
    later call resumes what was interrupted.

    Parameters
    ----------
    run_path, out : path, optional
        A run; results go to OUT/evaluate. [default: RUN/evaluate] A run that is evaluated on a
        second data set needs `out`, and so do the modes `scratch` and `random` without a run.
    mode : str
        A name of flowcpc.train.evaluation.modes.MODES. `linear` and the modes on features also
        evaluate an untrained encoder.
    labels, folds, seeds : sequence
        Labelled training videos per class (None for all); splits of the data set; seeds of draws.
    encoder, evaluation : PretrainConfig and EvaluationConfig, optional
        Settings of the encoder, if there is no run, and of the evaluation. [default: the schedule
        that goes with the encoder's preset]
    allow_missing : bool
        Omit test videos without flow and videos without label instead of refusing.

    Raises ValueError if a test video is missing, a group is in both splits, the store's numerics
    differ from the run's, options do not go together, or a unit has finished results on other test
    videos; FileNotFoundError without the store or the run; FileExistsError if `out` is a file.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if not (labels and folds and seeds):
        raise ValueError("labels, folds and seeds must have at least one value each")
    if wrong := [count for count in labels if count is not None and count < 1]:
        raise ValueError(f"labels per class must be at least 1, or all, got {wrong[0]}")
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**63]:
        raise ValueError(f"seed must be at least 0 and at most {2**63 - 1}, got {wrong[0]}")
    store = open_store(store_path)
    source = _open_source(store, MODES[mode], run_path, out, encoder)
    evaluation = evaluation or SCHEDULES[schedule_of(source.config.preset)]
    combinations = list(dict.fromkeys(itertools.product(labels, folds, seeds)))
    splits = {fold: labelled_split(store, fold, allow_missing=allow_missing) for fold in folds}
    device = choose_device()
    units = []
    for count, fold, seed in combinations:
        about = (MODES[mode], count, fold, seed, source, evaluation, store, device)
        units.append(EvaluationUnit(*about, *splits[fold], train=splits[fold][0]))
    units = _with_labels(units, listener)
    done, total = 0, sum(unit.cost for unit in units)
    tables = []
    try:
        for unit in units:
            part = PartOfListener(listener, done, done + unit.cost, total, {"unit": unit.name})
            tables.append(_read_or_compute(unit, part))
            done += unit.cost
            listener.progress(done, total, {"unit": unit.name})
    except Stopped:
        return Evaluation(False, NOTHING, NOTHING, source.folder)
    table = pd.concat(tables, ignore_index=True)
    beside = list(_baselines_of_other_modes(units))
    baselines = pd.concat([rows for _, rows in beside] or [NOTHING], ignore_index=True)
    hits = pd.concat([_hits(unit) for unit in [*units, *(other for other, _ in beside)]])
    return Evaluation(True, table, baselines, source.folder, hits)


def _open_source(
    store: FlowStore,
    mode: Mode,
    run_path: str | os.PathLike[str] | None,
    out: str | os.PathLike[str] | None,
    encoder: PretrainConfig | None,
) -> EncoderSource:
    """Return the source of the encoder: a run, or the settings of an untrained encoder."""
    if out is not None and Path(out).is_file():
        raise FileExistsError(f"{out} is a file; give a folder for the results")
    if run_path is not None:
        if encoder is not None:
            raise ValueError("a run has its own encoder; omit encoder (--preset), or omit the run")
        checkpoint = require_checkpoint(run_path)
        check_numerics(checkpoint, store.numerics)
        folder = Path(run_path if out is None else out, EVALUATE)
        return EncoderSource(checkpoint.config, checkpoint, Path(run_path).resolve().name, folder)
    if mode.needs_run:
        raise ValueError(f"mode {mode.name} evaluates a pretrained encoder; give its RUN")
    if out is None or encoder is None:
        raise ValueError(
            f"mode {mode.name} without RUN needs the encoder's settings (--preset) and a folder for"
            " the results (--out)"
        )
    return EncoderSource(encoder, None, "", Path(out, EVALUATE))


def _with_labels(units: Sequence[EvaluationUnit], listener: Listener) -> list[EvaluationUnit]:
    """Return the units with the labels that they keep; first check what could make one fail."""
    for unit in {unit.fold: unit for unit in units}.values():
        for remark in _unusual(unit):
            listener.announce(remark)
    source, checkpoint = units[0].source, units[0].checkpoint
    if checkpoint and checkpoint.step < source.config.steps:
        at = f"step {checkpoint.step} of {source.config.steps}"
        listener.announce(f"{source.run} is at {at}: its pretraining is not finished")
    for unit in units:
        check_same_videos(source.folder / unit.name, unit.test["video_id"], unit.store.path)
    labelled = []
    for unit in units:
        folder, draws = source.folder / "labels", {"seed": unit.seed, "fold": unit.fold}
        train, remarks = labelled_subset(folder, unit.train, unit.labels, **draws)
        neighbours = unit.evaluation.neighbours
        if unit.mode.name == "knn" and neighbours > len(train):
            remarks.append(f"neighbours={neighbours}, so all {len(train)} training videos vote")
        for remark in remarks:
            listener.announce(f"{unit.name}: {remark}")
        labelled.append(dataclasses.replace(unit, train=train))
    return labelled


def _unusual(unit: EvaluationUnit) -> Iterator[str]:
    """Yield what is unusual about the videos of the unit's fold."""
    if absent := without_flow(unit.store, unit.fold, "train"):
        what = f"{len(absent)} training videos of fold {unit.fold} have no flow"
        yield f"{what} and are not used: {name_some(absent)}"
    if unit.missing:
        what = f"{unit.missing} test videos are missing and left out"
        yield f"{what}: this is not the accuracy on fold {unit.fold}"
    if unit.is_transductive:
        what = f"the run was pretrained on the flow of fold {unit.fold}'s test videos too"
        yield f"{what}: its results are transductive"


def _read_or_compute(unit: EvaluationUnit, listener: Listener) -> pd.DataFrame:
    """Return the results of a unit. Raises Stopped."""
    table = unit.finished_results()
    if table is not None:
        listener.announce(f"read the finished results in {unit.folder.path}")
        return table
    if reason := unit.folder.begin():
        listener.announce(f"the results in {unit.folder.path} {reason}; they are made again")
    videos = f"{len(unit.train)} training and {len(unit.test)} test videos"
    listener.announce(f"{unit.name}: {videos} of {len(unit.classes)} classes")
    return _compute(unit, listener)


def _compute(unit: EvaluationUnit, listener: Listener) -> pd.DataFrame:
    """Compute a unit, write everything to its folder and return the results. Raises Stopped."""
    predict = predictions.predict_from_features
    if unit.mode.trains:
        predict = predictions.predict_by_training
    cost = unit.cost // len(unit.mode.encoders)
    parts = []
    for number, name in enumerate(unit.mode.encoders):
        start, fields = number * cost, {"encoder": name}
        part = PartOfListener(listener, start, start + cost, unit.cost, fields)
        table = read_table(unit.folder.part(name))
        if table is None:
            table = predict(unit, name, part)
            write_table(unit.folder.part(name), table)
        parts.append(table)
    table = pa.concat_tables([*parts, predictions.predict_from_motion(unit)])
    rows = table.to_pandas()
    results = score_predictions(rows, unit.classes, unit.columns())
    tables = {"predictions": table}
    for name, score in (("classes", score_classes), ("confusion", confusion)):
        tables[name] = pa.Table.from_pandas(score(rows, unit.classes), preserve_index=False)
    unit.folder.finish(tables, results)
    return results


def _baselines_of_other_modes(
    units: Sequence[EvaluationUnit],
) -> Iterator[tuple[EvaluationUnit, pd.DataFrame]]:
    """Yield the results of untrained encoders that other modes have for the same units."""
    for unit, name in itertools.product(units, ("linear", "random", "scratch")):
        other = dataclasses.replace(unit, mode=MODES[name])
        if name != unit.mode.name and (table := other.finished_results()) is not None:
            yield other, table[table["encoder"].isin([RANDOM, SCRATCH])]


def _hits(unit: EvaluationUnit) -> pd.DataFrame:
    """Return whether each test video of a finished unit was predicted right."""
    table = read_table(unit.folder.path / PREDICTIONS)
    if table is None:
        return NOTHING
    about = {"mode": unit.mode.name, "labels_per_class": labels_text(unit.labels)}
    groups = unit.test.set_index("video_id")["group"]
    return hits_of(table.select(HIT_COLUMNS).to_pandas(), groups).assign(**about)
