"""The dense layer that SGD trains equals scikit-learn's; logits do not depend on the batch."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from train_cases import CONFIG, small_store

from flowcpc.stores.flow_store import open_store
from flowcpc.train.data.batches import SegmentReader
from flowcpc.train.evaluation.classifiers.classifier import (
    Classifier,
    predict_logits,
    train_classifier,
)
from flowcpc.train.evaluation.classifiers.features import (
    average_features,
    estimate_statistics,
    every_video_once,
)
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.model.encoder import Encoder

CPU = torch.device("cpu")
ONE_BATCH = EvaluationConfig(batch_size=13, segments=1)
# Videos as long as a segment and as large as a crop: their features are always the same.
WHOLE = dataclasses.replace(CONFIG, size=(18, 20), num_flows=3)
LABELS = np.array(
    [1, 0, 2, 1, 0, 2, 2, 1, 0, 0, 1, 2, 2]
)  # three classes that the motion does not tell apart


@pytest.fixture
def reader(tmp_path: Path, make_store: Callable[..., Path]) -> SegmentReader:
    store = open_store(small_store(tmp_path, make_store, lengths=lambda n: 3))
    return SegmentReader(store, store.videos()["video_id"].tolist(), WHOLE, CPU)


@pytest.fixture
def encoder(reader: SegmentReader) -> Encoder:
    """Untrained, with statistics that scale its features: otherwise SGD converges slowly."""
    torch.manual_seed(0)
    encoder = Encoder(WHOLE)
    estimate_statistics(encoder, reader, 0, ONE_BATCH)
    return encoder


def features_of(reader: SegmentReader, encoder: Encoder) -> np.ndarray:
    with torch.no_grad(), every_video_once(reader, "uniform1", 0, ONE_BATCH) as batches:
        (batch,) = batches
        return average_features(encoder, reader.to_device(batch)).numpy()


def test_a_trained_dense_layer_is_scikit_learn_s_logistic_regression(
    reader: SegmentReader, encoder: Encoder, tmp_path: Path
) -> None:
    """SGD reaches the minimum of cross-entropy with weight decay, which includes the bias."""
    decay = 0.02
    evaluation = EvaluationConfig(
        segments=1,
        batch_size=13,
        linear_steps=800,
        linear_learning_rates=((0, 0.1),),
        weight_decay=decay,
    )
    classifier = Classifier(encoder, ("head", "other"), 3, seed=0, frozen=True)
    labels = {"head": LABELS, "other": LABELS[::-1].copy()}
    train_classifier(classifier, reader, labels, evaluation, seed=0, file=tmp_path / "state")
    found = predict_logits(classifier, reader, evaluation, seed=0)
    features = features_of(reader, encoder)
    augmented = np.concatenate([features, np.ones((13, 1))], axis=1)
    for head, values in labels.items():
        theirs = LogisticRegression(
            C=1 / (13 * decay), fit_intercept=False, tol=1e-8, max_iter=10_000
        )
        expected = theirs.fit(augmented, values).decision_function(augmented)
        assert np.ptp(expected) > 0.5  # something was learned
        for protocol in ("random1", "uniform1"):
            np.testing.assert_allclose(found[head, protocol], expected, atol=2e-3)


def test_a_frozen_encoder_stays_in_eval_mode(encoder: Encoder) -> None:
    """Otherwise a training loop of a user would change the statistics of its batch norm."""
    classifier = Classifier(encoder, ("head",), 3, seed=0, frozen=True)
    assert classifier.train().training
    assert not any(part.training for part in encoder.modules())
    assert all(
        part.training
        for part in Classifier(encoder, ("head",), 3, seed=0, frozen=False).train().modules()
    )


@pytest.mark.parametrize("batch_size", [1, 4, 13])
def test_logits_do_not_depend_on_the_batch(
    reader: SegmentReader, encoder: Encoder, batch_size: int
) -> None:
    classifier = Classifier(encoder, ("head",), 3, seed=0, frozen=False)
    expected = predict_logits(classifier, reader, EvaluationConfig(batch_size=5), seed=0)
    found = predict_logits(classifier, reader, EvaluationConfig(batch_size=batch_size), seed=0)
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, atol=1e-5)
