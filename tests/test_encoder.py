import pytest
import torch

from train.config import PretrainConfig, preset
from train.encoder import Encoder


def test_parameters_of_the_papers_encoder() -> None:
    """ResNet-18 (11,689,512) without its classifier (513,000), and with 20 input channels instead of 3."""
    encoder = Encoder(preset("table1-flow"))
    assert sum(p.numel() for p in encoder.parameters()) == 11_689_512 - 513_000 + 64 * 17 * 7 * 7 == 11_229_824
    assert encoder.stem[0].weight.shape == (64, 20, 7, 7)


@pytest.mark.parametrize(("crop", "map_size"), [((224, 224), (7, 7)), ((40, 56), (2, 2)), ((16, 16), (1, 1))])
def test_shapes(crop: tuple[int, int], map_size: tuple[int, int]) -> None:
    config = PretrainConfig(width=4, num_flows=2, size=crop)
    encoder = Encoder(config).eval()
    stacks = torch.randn(2, 4, *crop)
    with torch.no_grad():
        features = encoder.features(stacks)
        latents = encoder(stacks)
    assert features.shape == (2, config.latent_size, *map_size)
    assert (features >= 0).all()
    torch.testing.assert_close(latents, features.flatten(2).mean(dim=2))


def test_the_seed_decides_the_weights() -> None:
    config = PretrainConfig(width=2, num_flows=1)
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(torch.cat([value.flatten() for value in Encoder(config).state_dict().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_every_parameter_gets_a_gradient() -> None:
    encoder = Encoder(PretrainConfig(width=2, num_flows=1))
    encoder(torch.randn(4, 2, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())
