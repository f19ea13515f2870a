import naive_train
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowcpc.train.data.pixels import decode_planes, dequantise, mirror, resize


def test_components_and_their_means() -> None:
    codes = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2, 1, 1)  # u0 v0 u1 v1
    levels = torch.arange(256, dtype=torch.float32) * 10
    means = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    for decode in (dequantise, decode_planes):
        assert decode(codes, means, levels).flatten().tolist() == [-1.0, 8.0, 17.0, 26.0]


@given(seed=st.integers(0, 2**32 - 1), planes=st.integers(1, 5), pixels=st.integers(1, 40))
def test_one_pass_gives_the_bits_of_three(seed: int, planes: int, pixels: int) -> None:
    rng = np.random.default_rng(seed)
    codes = torch.from_numpy(rng.integers(0, 256, (1, planes, 1, 2, pixels, 1)).astype(np.uint8))
    means = torch.from_numpy(rng.normal(0, 2, (1, planes, 1, 2)).astype(np.float32))
    levels = torch.from_numpy(rng.normal(0, 9, 256).astype(np.float32))
    assert torch.equal(decode_planes(codes, means, levels), dequantise(codes, means, levels))


@given(
    seed=st.integers(0, 2**32 - 1),
    before=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    size=st.tuples(
        st.integers(1, 20), st.integers(2, 20)
    ),  # one column is more than torch's kernel can do
)
def test_resizing_equals_the_loops(
    seed: int, before: tuple[int, int], size: tuple[int, int]
) -> None:
    frames = np.random.default_rng(seed).normal(0, 3, (1, 2, 1, 2, *before)).astype(np.float32)
    found = resize(torch.from_numpy(frames.copy()), size, rescale_vectors=False)
    np.testing.assert_allclose(found.numpy(), naive_train.resized(frames, size), atol=1e-4)


def test_vectors_are_rescaled_with_their_own_side() -> None:
    flow = resize(torch.ones(1, 1, 1, 2, 4, 10), (8, 5), rescale_vectors=True)
    assert flow[0, 0, 0, 0].unique().tolist() == [0.5]
    assert flow[0, 0, 0, 1].unique().tolist() == [2.0]


@pytest.mark.parametrize("flips", [[False, False, False], [True, False, True], [True, True, True]])
def test_mirroring(flips: list[bool]) -> None:
    flow = torch.randn(3, 2, 2, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    before = flow.clone()
    mirror(flow, np.array(flips))
    for b, flipped in enumerate(flips):
        expected = (
            naive_train.mirrored(before[b].flatten(1, 2).numpy())
            if flipped
            else before[b].flatten(1, 2).numpy()
        )
        np.testing.assert_array_equal(flow[b].flatten(1, 2).numpy(), expected)
    mirror(flow, np.array(flips))
    assert torch.equal(flow, before)
