from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from train_cases import CONFIG, small_store

from flowcpc.stores.flow_store import open_store
from flowcpc.train.data.splits import labelled_split
from flowcpc.train.evaluation.classifiers.probe import probe_shares
from flowcpc.train.evaluation.classifiers.retrieval import nearest, vote
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.evaluation.modes import MODES, PRETRAINED, SHUFFLED
from flowcpc.train.evaluation.unit import EncoderSource, EvaluationUnit


@pytest.fixture
def unit_of(tmp_path: Path, make_store: Callable[..., Path]) -> Callable[[int], EvaluationUnit]:
    """Returns the unit of a seed, with 30 copies of the training videos of a small store.

    A few labels could easily be shuffled into their old order.
    """
    store = open_store(small_store(tmp_path, make_store))
    train, test, missing = labelled_split(store, 1, allow_missing=False)
    many = train.loc[train.index.repeat(30)].reset_index(drop=True)
    return lambda seed: EvaluationUnit(
        MODES["probe"],
        None,
        1,
        seed,
        EncoderSource(CONFIG, None, "", tmp_path),
        EvaluationConfig(),
        store,
        torch.device("cpu"),
        train,
        test,
        missing,
        many,
    )


def shuffled_targets(unit: EvaluationUnit) -> np.ndarray:
    return unit.targets_by_head(PRETRAINED)[SHUFFLED]


def test_shuffled_labels_are_the_same_labels_of_other_videos(
    unit_of: Callable[[int], EvaluationUnit],
) -> None:
    shuffled = [shuffled_targets(unit_of(seed)) for seed in range(3)]
    labels = unit_of(0).targets
    for values in shuffled:
        np.testing.assert_array_equal(np.bincount(values), np.bincount(labels))
        assert 0.3 < (values == labels).mean() < 0.7
    assert not np.array_equal(shuffled[0], shuffled[1])
    np.testing.assert_array_equal(shuffled_targets(unit_of(0)), shuffled[0])


@pytest.mark.parametrize("classifier", ["probe", "knn"])
def test_shuffled_labels_fall_to_chance_where_labels_say_all(
    unit_of: Callable[[int], EvaluationUnit], classifier: str
) -> None:
    """Over 40 draws: one alone scatters widely, because test videos of a class look alike."""
    rng = np.random.default_rng(0)
    labels, wanted = unit_of(0).targets, np.tile([0, 1], 20)
    train, test = (
        (4 * values[:, None] + rng.normal(size=(len(values), 3))).astype(np.float32) - 2
        for values in (labels, wanted)
    )

    def accuracy(taught: np.ndarray) -> float:
        shares = (
            probe_shares(train, taught, test, 0.1, 2)
            if classifier == "probe"
            else vote(nearest(train, test, 5), taught, 2)
        )
        return balanced_accuracy_score(wanted, shares.argmax(axis=1))

    assert accuracy(labels) > 0.9
    found = [accuracy(shuffled_targets(unit_of(seed))) for seed in range(40)]
    assert abs(np.mean(found) - 0.5) <= 3 * np.std(found) / np.sqrt(40)
