"""The predictions of a unit for all test videos: by training, from features, from motion alone."""

import functools
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from flowcpc.stores.base.listener import Listener, PartOfListener
from flowcpc.stores.embeddings import vectors_to_arrow
from flowcpc.train.evaluation.classifiers import retrieval
from flowcpc.train.evaluation.classifiers.classifier import (
    Classifier,
    predict_logits,
    train_classifier,
)
from flowcpc.train.evaluation.classifiers.feature_cache import FeatureCache
from flowcpc.train.evaluation.classifiers.features import protocols
from flowcpc.train.evaluation.classifiers.finetuned import save_finetuned
from flowcpc.train.evaluation.classifiers.motion_statistics import forest_shares, motion_statistics
from flowcpc.train.evaluation.classifiers.probe import (
    choose_strength,
    cross_validation_parts,
    probe_shares,
)
from flowcpc.train.evaluation.classifiers.retrieval import Floats, Integers
from flowcpc.train.evaluation.modes import MOTION
from flowcpc.train.evaluation.unit import EvaluationUnit

WHOLE = "whole video"  # the protocol of motion statistics
_NAMED_NEIGHBOURS = 10


def predict_by_training(unit: EvaluationUnit, name: str, listener: Listener) -> pa.Table:
    """Return the predictions of a dense layer on the encoder `name`, trained by SGD.

    A frozen encoder of the mode's first name gets a second layer that learns shuffled labels from
    the same features, which costs nothing. An encoder that is trained too is saved with its layer
    in the unit's folder. Raises Stopped.
    """
    evaluation, frozen = unit.evaluation, unit.mode.frozen
    targets, encoder = unit.targets_by_head(name), unit.encoder(name, listener)
    classifier = Classifier(
        encoder, list(targets), len(unit.classes), seed=unit.seed, frozen=frozen
    ).to(unit.device)
    reader, state = unit.reader(unit.train), unit.folder.state(name)
    train_classifier(
        classifier, reader, targets, evaluation, seed=unit.seed, file=state, listener=listener
    )
    if not frozen:
        save_finetuned(unit.folder.path, classifier, unit.classes, unit.store.numerics)
    reader = unit.reader(unit.test)
    logits = predict_logits(classifier, reader, evaluation, seed=unit.seed, listener=listener)
    return pa.concat_tables(
        _with_scores(unit, head, protocol, scores) for (head, protocol), scores in logits.items()
    )


def predict_from_features(unit: EvaluationUnit, name: str, listener: Listener) -> pa.Table:
    """Return the predictions of the mode `probe`, `knn` or `retrieval` for one encoder.

    The mode's first encoder is also evaluated with shuffled labels. Test videos are opened only
    after everything is chosen. Raises Stopped.
    """
    evaluation = unit.evaluation
    folder, identity = unit.source.folder / "features", unit.encoder_identity(name)
    make_encoder = functools.partial(unit.encoder, name, listener)
    cache = FeatureCache(folder, identity, make_encoder, unit.store, evaluation, unit.device)
    count, total = len(unit.train), len(unit.train) + len(unit.test)
    train = cache.features(unit.train, PartOfListener(listener, 0, count, total))
    heads = unit.targets_by_head(name)
    if unit.mode.name == "probe":
        parts = cross_validation_parts(unit.train, unit.seed)
        strengths = {
            head: choose_strength(train, targets, parts, evaluation.strengths)
            for head, targets in heads.items()
        }
    test = cache.features(unit.test, PartOfListener(listener, count, total, total))
    protocol = protocols(evaluation.segments)[1]
    tables = []
    for head, targets in heads.items():
        if unit.mode.name == "retrieval":
            tables.append(_with_neighbours(unit, head, protocol, train, targets, test))
            continue
        if unit.mode.name == "knn":
            neighbours = retrieval.nearest(train, test, evaluation.neighbours)
            shares = retrieval.vote(neighbours, targets, len(unit.classes))
        else:
            shares = probe_shares(train, targets, test, strengths[head], len(unit.classes))
        tables.append(_with_scores(unit, head, protocol, shares))
    return pa.concat_tables(tables)


def predict_from_motion(unit: EvaluationUnit) -> pa.Table:
    """Return predictions from motion statistics: by a forest, or in `retrieval` by neighbours."""
    ids = [*unit.train["video_id"], *unit.test["video_id"]]
    values = motion_statistics(unit.store, ids).to_numpy()
    train, test = values[: len(unit.train)], values[len(unit.train) :]
    if unit.mode.name == "retrieval":
        mean, spread = train.mean(axis=0), np.maximum(train.std(axis=0), 1e-9)
        train, test = (train - mean) / spread, (test - mean) / spread
        return _with_neighbours(unit, MOTION, WHOLE, train, unit.targets, test)
    shares = forest_shares(train, unit.targets, test, len(unit.classes))
    return _with_scores(unit, MOTION, WHOLE, shares)


def _with_scores(
    unit: EvaluationUnit, encoder: str, protocol: str, scores: NDArray[np.float32]
) -> pa.Table:
    """Return a row per test video with the predicted class and the scores (n, classes)."""
    predicted = [unit.classes[best] for best in scores.argmax(axis=1)]
    table = _rows(unit, encoder, protocol, predicted=predicted)
    return table.append_column("logits", vectors_to_arrow(scores))


def _with_neighbours(
    unit: EvaluationUnit, encoder: str, protocol: str, train: Floats, labels: Integers, test: Floats
) -> pa.Table:
    """Return a row per test video with its nearest training videos and the first right one."""
    neighbours = retrieval.nearest(train, test, retrieval.RANKS[-1])
    wanted = np.searchsorted(np.array(unit.classes), unit.test["label"].to_numpy(str))
    ids = unit.train["video_id"].to_numpy()
    found = {
        "predicted": [unit.classes[label] for label in labels[neighbours[:, 0]]],
        "first_right": retrieval.rank_of_first(neighbours, labels, wanted),
        "neighbours": [ids[rows].tolist() for rows in neighbours[:, :_NAMED_NEIGHBOURS]],
    }
    return _rows(unit, encoder, protocol, **found)


def _rows(unit: EvaluationUnit, encoder: str, protocol: str, **columns: Any) -> pa.Table:
    rows: pd.DataFrame = unit.test[["video_id", "label"]].assign(
        encoder=encoder, protocol=protocol, fold=unit.fold, seed=unit.seed, **columns
    )
    return pa.Table.from_pandas(rows, preserve_index=False)
