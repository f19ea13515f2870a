import math

import naive_train
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.loss import info_nce


@settings(deadline=None)
@given(
    batch=st.integers(2, 4),
    segments=st.integers(2, 5),
    seed=st.integers(0, 1000),
    difficult=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    data=st.data(),
)
def test_loss_equals_the_loops(
    batch: int, segments: int, seed: int, difficult: bool, scale: float, data: st.DataObject
) -> None:
    # more predictions than segments, and twice the same one, as a dense model makes
    positions = data.draw(st.lists(st.integers(0, segments - 1), min_size=1, max_size=6))
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(batch, segments, 3)) * scale
    predictions = rng.normal(size=(batch, len(positions), 3))
    found = info_nce(
        torch.tensor(predictions, dtype=torch.float32),
        torch.tensor(latents, dtype=torch.float32),
        positions,
        difficult_negatives=difficult,
    )
    loss, hits, classes = naive_train.info_nce(predictions, latents, positions, difficult)
    assert found.loss.item() == pytest.approx(loss, rel=1e-4, abs=1e-4)
    assert found.accuracy.item() == pytest.approx(hits.mean())
    np.testing.assert_allclose(found.horizon_accuracy.numpy(), hits.mean(axis=0), rtol=1e-6)
    assert found.classes == classes


@pytest.mark.parametrize(
    ("segments", "difficult", "classes"), [(8, False, 121), (8, True, 128), (10, False, 151), (10, True, 160)]
)
def test_classes_of_the_paper_and_the_loss_of_guessing(segments: int, difficult: bool, classes: int) -> None:
    found = info_nce(torch.zeros(16, 4, 5), torch.randn(16, segments, 5), range(4, 8), difficult_negatives=difficult)
    assert found.classes == classes
    assert found.loss.item() == pytest.approx(math.log(classes), rel=1e-6)


def test_nothing_is_detached_and_masked_latents_take_no_part() -> None:
    """With the second video's prediction at zero, the first video's observed segments matter only as difficult
    negatives.
    """
    for difficult in (False, True):
        latents = torch.randn(2, 3, 4, requires_grad=True)
        predictions = torch.randn(2, 1, 4) * torch.tensor([1.0, 0.0])[:, None, None]
        predictions.requires_grad_()
        info_nce(predictions, latents, [2], difficult_negatives=difficult).loss.backward()
        assert (predictions.grad != 0).all()
        assert (latents.grad[0, 2] != 0).all()
        assert (latents.grad[1] != 0).all()
        assert bool((latents.grad[0, :2] != 0).all()) == difficult


def test_scores_are_float32_under_autocast() -> None:
    latents = torch.randn(4, 3, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = info_nce(latents[:, 2:] * 8, latents, [2])
    assert low.loss.dtype == torch.float32
    assert low.loss.item() == info_nce(latents[:, 2:] * 8, latents, [2]).loss.item()


def test_a_perfect_prediction_is_always_right() -> None:
    latents = torch.eye(12).view(3, 4, 12)
    found = info_nce(100 * latents[:, 2:], latents, [2, 3])
    assert found.accuracy.item() == 1
    assert found.loss.item() == pytest.approx(0, abs=1e-6)
