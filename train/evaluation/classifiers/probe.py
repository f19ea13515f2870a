"""Logistic regression on cached features: a linear probe in seconds."""

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

_PARTS = 5  # one of them is held out
_ITERATIONS = 10_000
Features = NDArray[np.float32]
Labels = NDArray[np.int64]


def hold_out(train: pd.DataFrame, seed: int) -> NDArray[np.bool_]:
    """Return which training videos (label, group) to hold out, bool (V,): a fifth of the groups.

    Groups of every class are held out; a video without group is a group of its own. No video is
    held out if a class has a single group.
    """
    groups = train["group"].fillna(train["video_id"])
    fewest = int(groups.groupby(train["label"]).nunique().min())
    held_out = np.zeros(len(train), bool)
    if fewest >= 2:
        draws = named_seed(seed, "hold out") % 2**32
        folds = StratifiedGroupKFold(min(_PARTS, fewest), shuffle=True, random_state=draws)
        _, rows = next(folds.split(held_out, train["label"], groups))
        held_out[rows] = True
    has_all_classes = set(train.loc[~held_out, "label"]) == set(train["label"])
    return held_out if has_all_classes else np.zeros(len(train), bool)


def build_probe(strength: float) -> Pipeline:
    """Return the classifier: standardised features, multinomial logistic regression."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=_ITERATIONS))


def choose_strength(
    features: Features, labels: Labels, held_out: NDArray[np.bool_], strengths: Sequence[float]
) -> float:
    """Return the best of `strengths` on the videos that are held out, (V,), by fits to the others.

    Of equals, return the smallest. Return the middle one if none is held out, or if the others are
    of one class, which happens with a few shuffled labels.
    """
    ordered, fitted = sorted(strengths), ~held_out
    if not held_out.any() or len(ordered) == 1 or len(set(labels[fitted])) < 2:
        return ordered[len(ordered) // 2]
    probes = [build_probe(one).fit(features[fitted], labels[fitted]) for one in ordered]
    scores = [probe.score(features[held_out], labels[held_out]) for probe in probes]
    return ordered[int(np.argmax(scores))]


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
