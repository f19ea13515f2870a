"""Logistic regression on features that were made once: a linear probe in seconds, beside the faithful one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from flowcpc.train.settings.config import named_seed

_PARTS = 5  # one of which is held out
_ITERATIONS = 10_000


class Choice(NamedTuple):
    """What a search found.

    Attributes
    ----------
    strength : float
        The inverse regularisation C that told held-out training videos apart best; the smallest of equals.
    held_out : int
        Training videos that were held out; 0 when no search was possible.
    """

    strength: float
    held_out: int


def hold_out(train: pd.DataFrame, seed: int) -> NDArray[np.bool_]:
    """Return which training videos (label, group) are held out for a choice, bool (V,): a fifth of the groups of every class.

    A group is on one side only; a video without group is a group of its own. None is held out where a class has a single group.
    """
    groups = train["group"].fillna(train["video_id"])
    fewest = int(groups.groupby(train["label"]).nunique().min())
    held = np.zeros(len(train), bool)
    if fewest >= 2:
        parts = StratifiedGroupKFold(
            min(_PARTS, fewest), shuffle=True, random_state=named_seed(seed, "hold out") % 2**32
        )
        held[next(iter(parts.split(np.zeros(len(train)), train["label"], groups)))[1]] = True
    kept = set(train.loc[~held, "label"])
    return held if kept == set(train["label"]) else np.zeros(len(train), bool)


def build_probe(strength: float) -> Pipeline:
    """Return the classifier: standardised features, multinomial logistic regression."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=_ITERATIONS))


def choose_strength(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    held: NDArray[np.bool_],
    strengths: Sequence[float],
) -> Choice:
    """Return the best of `strengths` on the training videos that are `held` out, (V,), by fits to the others.

    The middle one where none is held out, or the others are of one class, as few shuffled labels may be.
    """
    ordered = sorted(strengths)
    if not held.any() or len(ordered) == 1 or len(set(labels[~held])) < 2:
        return Choice(ordered[len(ordered) // 2], 0)
    scores = [
        accuracy_score(
            labels[held], build_probe(C).fit(features[~held], labels[~held]).predict(features[held])
        )
        for C in ordered
    ]
    return Choice(ordered[int(np.argmax(scores))], int(held.sum()))


def probe_shares(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    test: NDArray[np.float32],
    strength: float,
    num_classes: int,
) -> NDArray[np.float32]:
    """Return the probabilities (n, classes) that a probe of the training features gives to the rows of `test`."""
    probe = build_probe(strength).fit(features, labels)
    shares = np.zeros((len(test), num_classes), np.float32)
    shares[:, probe.classes_] = probe.predict_proba(test)
    return shares
