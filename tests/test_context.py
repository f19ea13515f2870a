import pytest
import torch

from train.context import Conv3DContext


def test_weights_of_the_papers_aggregator() -> None:
    layers = Conv3DContext(512, 4).layers
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv3d)]
    assert [tuple(layer.weight.shape) for layer in convolutions] == [(512, 512, 3, 3, 3), (512, 512, 2, 3, 3)]
    assert sum(p.numel() for layer in convolutions for p in layer.parameters()) == 11_796_480


@pytest.mark.parametrize("num_observed", [3, 4, 6])
@pytest.mark.parametrize("map_size", [(1, 1), (2, 2), (7, 7)])
def test_shapes(num_observed: int, map_size: tuple[int, int]) -> None:
    context = Conv3DContext(6, num_observed)
    assert context(torch.randn(3, num_observed, 6, *map_size)).shape == (3, 6)


def test_time_goes_4_2_1_as_in_the_specification() -> None:
    context = Conv3DContext(4, 4)
    assert context.layers[:3](torch.randn(2, 4, 4, 5, 5)).shape == (2, 4, 2, 5, 5)


def test_every_observed_segment_and_their_order_matter() -> None:
    torch.manual_seed(0)
    context = Conv3DContext(4, 4).eval()
    features = torch.randn(1, 4, 4, 3, 3, requires_grad=True)
    context(features).sum().backward()
    assert (features.grad.abs().sum(dim=(0, 2, 3, 4)) > 0).all()
    with torch.no_grad():
        assert not torch.allclose(context(features), context(features.flip(1)))
