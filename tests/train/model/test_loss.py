import itertools
import math

import naive_train
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcpc.train.model.cpc import build_model
from flowcpc.train.model.loss import info_nce
from flowcpc.train.settings.config import PretrainConfig, count_classes


@settings(deadline=None)
@given(
    batch=st.integers(1, 3),
    before=st.integers(0, 2),
    behind=st.integers(1, 2),
    segments=st.integers(2, 5),
    seed=st.integers(0, 1000),
    difficult=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    data=st.data(),
)
def test_loss_and_gradient_equal_the_loops(
    batch: int,
    before: int,
    behind: int,
    segments: int,
    seed: int,
    difficult: bool,
    scale: float,
    data: st.DataObject,
) -> None:
    """Candidates of other processes come before and after those of this process.

    A segment may be predicted several times, as in a dense model.
    """
    positions = data.draw(st.lists(st.integers(0, segments - 1), min_size=1, max_size=6))
    rng = np.random.default_rng(seed)
    candidates = torch.tensor(
        rng.normal(size=(before + batch + behind, segments, 3)) * scale, requires_grad=True
    )
    predictions = torch.tensor(rng.normal(size=(batch, len(positions), 3)), requires_grad=True)
    loss, hits, classes = naive_train.info_nce(
        predictions, candidates, before, positions, difficult
    )
    gradients = torch.autograd.grad(loss, (predictions, candidates))

    low = [tensor.detach().float().requires_grad_() for tensor in (predictions, candidates)]
    found = info_nce(
        low[0],
        low[1][before : before + batch],
        positions,
        difficult_negatives=difficult,
        candidates=low[1],
        first=before,
    )
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-4, abs=1e-4)
    assert found.accuracy.item() == pytest.approx(hits.mean())
    np.testing.assert_allclose(found.pair_accuracy.numpy(), hits.mean(axis=0), rtol=1e-6)
    assert count_classes(len(candidates), segments, difficult) == classes
    for expected, gradient in zip(gradients, torch.autograd.grad(found.loss, low), strict=True):
        torch.testing.assert_close(gradient, expected.float(), rtol=1e-3, atol=1e-4)


def test_the_latents_are_the_candidates_unless_others_are_given() -> None:
    latents = torch.randn(3, 4, 5)
    alone = info_nce(latents[:, 2:], latents, [2, 3])
    given_too = info_nce(latents[:, 2:], latents, [2, 3], candidates=latents)
    assert all(torch.equal(a, b) for a, b in zip(alone, given_too, strict=True))


@pytest.mark.parametrize(
    ("split", "difficult"), list(itertools.product([(4,), (2, 2), (1, 3)], [False, True]))
)
def test_the_mean_over_processes_is_the_loss_of_the_whole_batch(
    split: tuple[int, ...], difficult: bool
) -> None:
    """Each process predicts for its own videos and compares with all of them.

    Weighted by the number of videos, the losses add up.
    """
    latents, predictions = torch.randn(4, 3, 6), torch.randn(4, 2, 6)
    whole = info_nce(predictions, latents, [1, 2], difficult_negatives=difficult)
    losses, first = [], 0
    for count in split:
        own = slice(first, first + count)
        found = info_nce(
            predictions[own],
            latents[own],
            [1, 2],
            difficult_negatives=difficult,
            candidates=latents,
            first=first,
        )
        losses.append(found.loss * count / 4)
        first += count
    torch.testing.assert_close(sum(losses), whole.loss)


@pytest.mark.parametrize(
    ("changes", "classes"),
    [
        ({}, 121),
        ({"difficult_negatives": True}, 128),
        ({"num_segments": 10}, 151),
        ({"num_segments": 10, "difficult_negatives": True}, 160),
        ({"num_segments": 10, "model": "model2", "context": "lstm", "num_observed": 1}, 151),
    ],
)
def test_classes_of_the_paper_and_the_loss_of_guessing(
    changes: dict[str, object], classes: int
) -> None:
    """At the paper's batch of 16; log(classes) is what scores that are all the same give."""
    config = PretrainConfig(width=1, num_flows=1, **changes)
    positions = build_model(config).positions
    latents = torch.randn(16, config.num_segments, 8)
    found = info_nce(
        torch.zeros(16, len(positions), 8),
        latents,
        positions,
        difficult_negatives=config.difficult_negatives,
    )
    assert config.classes == classes
    assert found.loss.item() == pytest.approx(math.log(classes), rel=1e-6)
    assert found.accuracy.item() == 0  # an encoder that says the same of all videos picks nothing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_masked_scores_leave_no_nan_in_the_gradient(dtype: torch.dtype, scale: float) -> None:
    latents = (scale * torch.randn(2, 5, 8)).to(dtype).requires_grad_()
    predictions = torch.randn(2, 3, 8).to(dtype).requires_grad_()
    found = info_nce(predictions, latents, [4, 3, 4])
    found.loss.backward()
    assert torch.isfinite(found.loss)
    for tensor in (latents, predictions):
        assert tensor.grad.dtype == dtype
        assert torch.isfinite(tensor.grad).all()


def test_nothing_is_detached_and_masked_latents_take_no_part() -> None:
    """The second video's prediction is zero.

    So the first video's observed segments count only as difficult negatives.
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


@pytest.mark.parametrize("first", [-1, 3])
def test_rows_that_are_not_among_the_candidates(first: int) -> None:
    latents = torch.randn(2, 3, 4)
    with pytest.raises(ValueError, match="are not within the 4 candidates"):
        info_nce(latents[:, 2:], latents, [2], candidates=torch.randn(4, 3, 4), first=first)
