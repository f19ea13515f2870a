"""The modes of an evaluation: which encoders each compares, and what it predicts for the test videos."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from flowcpc.stores.embeddings import vectors_to_arrow
from flowcpc.train.evaluation.classifiers.classifier import (
    Classifier,
    Report,
    predict_logits,
    train_classifier,
)
from flowcpc.train.evaluation.classifiers.feature_cache import FeatureCache
from flowcpc.train.evaluation.classifiers.features import protocols
from flowcpc.train.evaluation.classifiers.finetuned import save_finetuned
from flowcpc.train.evaluation.classifiers.motion_statistics import (
    STATISTICS,
    forest_shares,
    motion_statistics,
)
from flowcpc.train.evaluation.classifiers.probe import choose_strength, hold_out, probe_shares
from flowcpc.train.evaluation.classifiers.retrieval import RANKS, nearest, rank_of_first, vote
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.evaluation.results import UnitFolder
from flowcpc.train.evaluation.task import MOTION, PRETRAINED, RANDOM, SCRATCH, SHUFFLED, Task

WHOLE = "whole video"  # the protocol of motion statistics
_NAMED_NEIGHBOURS = 10
_READING = ("segments", "batch_size")
_SGD = (*_READING, "momentum", "weight_decay")
Vectors = NDArray[np.float32] | NDArray[np.float64]


class Mode(NamedTuple):
    """What a mode does.

    Attributes
    ----------
    encoders : tuple of str
        Which are compared.
    settings : tuple of str
        Which settings of EvaluationConfig decide its results.
    trains : bool
        Whether it trains by SGD; otherwise it works on features that are made once.
    frozen : bool
        Whether the encoder stays as it is.
    """

    encoders: tuple[str, ...]
    settings: tuple[str, ...]
    trains: bool
    frozen: bool

    @property
    def needs_run(self) -> bool:
        """Whether it evaluates pretrained weights."""
        return PRETRAINED in self.encoders


_LINEAR = (*_SGD, "linear_steps", "linear_learning_rates")
_FINETUNE = (*_SGD, "finetune_steps", "finetune_learning_rates", "dropout")
MODES = {
    "linear": Mode((PRETRAINED, RANDOM), _LINEAR, True, True),
    "finetune": Mode((PRETRAINED,), _FINETUNE, True, False),
    "scratch": Mode((SCRATCH,), _FINETUNE, True, False),
    "random": Mode((RANDOM,), _LINEAR, True, True),
    "probe": Mode((PRETRAINED, RANDOM), (*_READING, "strengths"), False, True),
    "knn": Mode((PRETRAINED, RANDOM), (*_READING, "neighbours"), False, True),
    "retrieval": Mode((PRETRAINED, RANDOM), _READING, False, True),
}


def cost(mode: str, evaluation: EvaluationConfig, videos: int) -> int:
    """Return how many steps of progress a unit of `mode` on so many videos has."""
    encoders, trains = MODES[mode].encoders, MODES[mode].trains
    return len(encoders) * (evaluation.training(frozen=MODES[mode].frozen)[0] if trains else videos)


def train_and_predict(
    task: Task, name: str, folder: UnitFolder, report: Report, should_stop: Callable[[], bool]
) -> pa.Table:
    """Return the predictions of a dense layer on the encoder `name`, trained by SGD.

    On a frozen encoder of the mode's first name a second layer learns shuffled labels from the same features, which costs nothing. An encoder that
    was trained too is kept in the unit's folder, with its layer.
    """
    mode = MODES[task.unit.mode]
    labels = {name: task.labels}
    if mode.frozen and name == mode.encoders[0]:
        labels[SHUFFLED] = task.shuffled_labels
    seed, evaluation = task.unit.seed, task.evaluation
    encoder = task.encoder(name, should_stop)
    dropout = 0.0 if mode.frozen else evaluation.dropout
    classifier = Classifier(
        encoder, tuple(labels), len(task.classes), seed=seed, frozen=mode.frozen, dropout=dropout
    ).to(task.device)
    train_classifier(
        classifier,
        task.reader(task.train),
        labels,
        evaluation,
        seed=seed,
        device=task.device,
        file=folder.state(name),
        report=report,
        should_stop=should_stop,
    )
    if not mode.frozen:
        save_finetuned(folder.path, classifier, task.classes, task.store.numerics)
    logits = predict_logits(
        classifier, task.reader(task.test), evaluation, seed=seed, should_stop=should_stop
    )
    return pa.concat_tables(
        prediction_rows(task, head, protocol, scores) for (head, protocol), scores in logits.items()
    )


def predict_from_features(
    task: Task, name: str, report: Callable[[int], None], should_stop: Callable[[], bool]
) -> pa.Table:
    """Return the predictions of the mode `probe`, `knn` or `retrieval` for one encoder, beside those from shuffled labels for the mode's first one.

    The test videos are opened after everything is chosen.
    """
    cache = FeatureCache(
        task.subject.folder / "features",
        task.identity_of(name),
        lambda: task.encoder(name, should_stop).eval().requires_grad_(False),
        task.evaluation,
        task.device,
    )
    train = cache.features(task.store, task.train, report=report, should_stop=should_stop)
    labels = {name: task.labels}
    if name == MODES[task.unit.mode].encoders[0]:
        labels[SHUFFLED] = task.shuffled_labels
    held = hold_out(task.train, task.unit.seed)
    choices = {
        head: choose_strength(train, values, held, task.evaluation.strengths).strength
        if task.unit.mode == "probe"
        else 0
        for head, values in labels.items()
    }
    before = len(task.train)
    test = cache.features(
        task.store, task.test, report=lambda done: report(before + done), should_stop=should_stop
    )
    return pa.concat_tables(
        _from_vectors(task, head, train, values, test, choices[head])
        for head, values in labels.items()
    )


def predict_from_motion(task: Task) -> pa.Table:
    """Return the predictions from motion statistics alone: by a random forest, or in the mode `retrieval` by nearest neighbours."""
    table = motion_statistics(task.store, [*task.train["video_id"], *task.test["video_id"]])
    values = table[list(STATISTICS)].to_numpy(np.float64)
    train, test = values[: len(task.train)], values[len(task.train) :]
    if task.unit.mode == "retrieval":
        spread = np.maximum(train.std(axis=0), 1e-9)
        scaled = [(part - train.mean(axis=0)) / spread for part in (train, test)]
        return _neighbour_rows(task, MOTION, WHOLE, scaled[0], task.labels, scaled[1])
    return prediction_rows(
        task, MOTION, WHOLE, forest_shares(train, task.labels, test, len(task.classes))
    )


def prediction_rows(
    task: Task, encoder: str, protocol: str, logits: NDArray[np.float32]
) -> pa.Table:
    """Return the predictions for all test videos as rows: video_id, label, encoder, protocol, fold, seed, predicted, logits."""
    rows = _rows(task, encoder, protocol)
    rows["predicted"] = [task.classes[best] for best in logits.argmax(axis=1)]
    return pa.Table.from_pandas(rows, preserve_index=False).append_column(
        "logits", vectors_to_arrow(logits)
    )


def recall_rows(task: Task, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return one row per encoder and protocol of the mode `retrieval`: videos, classes, chance, r1 ... r50."""
    found = []
    for (encoder, protocol), rows in predictions.groupby(["encoder", "protocol"], sort=False):
        shares = {f"r{k}": float(rows["first_right"].between(1, k).mean()) for k in RANKS}
        about = {
            "encoder": encoder,
            "protocol": protocol,
            "videos": len(rows),
            "classes": len(task.classes),
        }
        found.append({**about, "chance": 1 / len(task.classes), **shares})
    return pd.DataFrame(found)


def _from_vectors(
    task: Task,
    head: str,
    train: NDArray[np.float32],
    labels: NDArray[np.int64],
    test: NDArray[np.float32],
    strength: float,
) -> pa.Table:
    uniform = protocols(task.evaluation.segments)[1]
    if task.unit.mode == "retrieval":
        return _neighbour_rows(task, head, uniform, train, labels, test)
    if task.unit.mode == "knn":
        shares = vote(nearest(train, test, task.evaluation.neighbours), labels, len(task.classes))
    else:
        shares = probe_shares(train, labels, test, strength, len(task.classes))
    return prediction_rows(task, head, uniform, shares)


def _neighbour_rows(
    task: Task, head: str, protocol: str, train: Vectors, labels: NDArray[np.int64], test: Vectors
) -> pa.Table:
    neighbours = nearest(train, test, RANKS[-1])
    rows = _rows(task, head, protocol)
    rows["predicted"] = [task.classes[label] for label in labels[neighbours[:, 0]]]
    wanted = np.searchsorted(np.array(task.classes), task.test["label"].to_numpy(str))
    rows["first_right"] = rank_of_first(neighbours, labels, wanted)
    names = task.train["video_id"].to_numpy()
    rows["neighbours"] = [names[found].tolist() for found in neighbours[:, :_NAMED_NEIGHBOURS]]
    return pa.Table.from_pandas(rows, preserve_index=False)


def _rows(task: Task, encoder: str, protocol: str) -> pd.DataFrame:
    rows = task.test[["video_id", "label"]].copy()
    rows["encoder"], rows["protocol"], rows["fold"], rows["seed"] = (
        encoder,
        protocol,
        task.unit.fold,
        task.unit.seed,
    )
    return rows
