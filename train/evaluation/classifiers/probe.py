"""Logistic regression on cached features: a linear probe in seconds."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from flowcpc.train.settings.config import named_seed

PARTS = 5  # each is held out once
_ITERATIONS = 10_000
Features = NDArray[np.float32]
Labels = NDArray[np.int64]


def cross_validation_parts(train: pd.DataFrame, seed: int) -> Labels:
    """Return in which of five parts each training video (label, group) is held out, int64 (V,).

    A part has whole groups, and about a fifth of the videos of every class; a video without group
    is a group of its own. There are fewer parts if a class has fewer groups, and only the part 0
    if it has one: then no class can be recognised without its own videos.
    """
    groups = train["group"].fillna(train["video_id"])
    count = min(PARTS, int(groups.groupby(train["label"]).nunique().min()))
    parts = np.zeros(len(train), np.int64)
    if count >= 2:
        draws = named_seed(seed, "hold out") % 2**32
        folds = StratifiedGroupKFold(count, shuffle=True, random_state=draws)
        for part, (_, rows) in enumerate(folds.split(parts, train["label"], groups)):
            parts[rows] = part
    return parts


def build_probe(strength: float) -> Pipeline:
    """Return the classifier: standardised features, multinomial logistic regression."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=_ITERATIONS))


def choose_strength(
    features: Features, labels: Labels, parts: Labels, strengths: Sequence[float]
) -> float:
    """Return the best of `strengths` by cross-validation over `parts`, (V,).

    The best is right on most videos when each part is predicted by a fit to the others. Of equals,
    return the smallest. Return the middle one if there is nothing to compare: a single part, or
    no part whose others have two classes, which happens with a few shuffled labels.
    """
    ordered = sorted(strengths)
    held_out = [parts == part for part in np.unique(parts)]
    held_out = [rows for rows in held_out if len(set(labels[~rows])) > 1]
    if not held_out or len(ordered) == 1:
        return ordered[len(ordered) // 2]
    right = np.zeros(len(ordered))
    for rows, (place, one) in itertools.product(held_out, enumerate(ordered)):
        probe = build_probe(one).fit(features[~rows], labels[~rows])
        right[place] += np.sum(probe.predict(features[rows]) == labels[rows])
    return ordered[int(np.argmax(right))]


def probe_shares(
    features: Features, labels: Labels, test: Features, strength: float, num_classes: int
) -> NDArray[np.float32]:
    """Return the probabilities (n, classes) of a probe of the training features for `test`."""
    return class_shares(build_probe(strength).fit(features, labels), test, num_classes)


def class_shares(classifier: Any, test: Any, num_classes: int) -> NDArray[np.float32]:
    """Return probabilities (n, classes) by a scikit-learn classifier that may lack some classes."""
    shares = np.zeros((len(test), num_classes), np.float32)
    shares[:, classifier.classes_] = classifier.predict_proba(test)
    return shares
