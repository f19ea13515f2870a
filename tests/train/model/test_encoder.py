import itertools

import pytest
import torch
from torch import nn

from flowcpc.train.model.encoder import Encoder, build_norm
from flowcpc.train.settings.config import LATENTS, NORMS, PretrainConfig
from flowcpc.train.settings.presets import PRESETS


@pytest.mark.parametrize(
    ("preset", "planes"),
    [
        ("table1-flow", 20),
        ("table2-flows-1", 2),
        ("table2-flows-3", 6),
        ("table4-easy", 20),
        ("table1-image", 30),
    ],
)
def test_parameters_of_the_papers_encoder(preset: str, planes: int) -> None:
    """ResNet-18 (11,689,512) without its classifier (513,000), and with another number of input channels than 3."""
    encoder = Encoder(PRESETS[preset].config)
    assert encoder.stem[0].weight.shape == (64, planes, 7, 7)
    assert (
        sum(p.numel() for p in encoder.parameters())
        == 11_689_512 - 513_000 + 64 * (planes - 3) * 7 * 7
    )
    assert (sum(p.numel() for p in encoder.parameters()) == 11_229_824) == (planes == 20)


def test_every_norm_has_the_same_parameters() -> None:
    names = [
        dict(Encoder(PretrainConfig(width=4, norm=norm)).named_parameters()).keys()
        for norm in NORMS
    ]
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize(
    ("crop", "map_size"), [((224, 224), (7, 7)), ((40, 56), (2, 2)), ((16, 16), (1, 1))]
)
@pytest.mark.parametrize("modality", ["flow", "image"])
def test_shapes(crop: tuple[int, int], map_size: tuple[int, int], modality: str) -> None:
    config = PretrainConfig(width=4, num_flows=2, size=crop, modality=modality)
    encoder = Encoder(config).eval()
    with torch.no_grad():
        features, latents = encoder.encode(torch.randn(2, {"flow": 4, "image": 6}[modality], *crop))
    assert features.shape == (2, config.latent_size, *map_size)
    torch.testing.assert_close(latents, features.flatten(2).mean(dim=2))


@pytest.mark.parametrize(("norm", "latent"), list(itertools.product(NORMS, LATENTS)))
def test_latents_are_pooled_before_or_after_the_last_relu(norm: str, latent: str) -> None:
    """The maps for the context come after it in both cases."""
    torch.manual_seed(0)
    encoder = Encoder(PretrainConfig(width=4, num_flows=1, norm=norm, latent=latent)).eval()
    stacks = torch.randn(3, 2, 64, 64)
    caught = []
    encoder.stages[-1][-1].register_forward_hook(
        lambda module, inputs, output: caught.append(output)
    )
    with torch.no_grad():
        features, latents = encoder.encode(stacks)
        assert torch.equal(encoder(stacks), latents)
    (before,) = caught[:1]
    assert (before < 0).any()
    torch.testing.assert_close(features, before.clamp(min=0))
    torch.testing.assert_close(
        latents, (features if latent == "after-relu" else before).mean(dim=(2, 3))
    )


@pytest.mark.parametrize(
    ("channels", "groups"), [(512, 32), (64, 32), (48, 24), (8, 4), (2, 1), (1, 1), (14, 7)]
)
def test_groups_of_group_norm(channels: int, groups: int) -> None:
    assert build_norm("gn", channels).num_groups == groups
    assert build_norm("ln", channels).num_groups == 1


@pytest.mark.parametrize("norm", ["gn", "ln"])
def test_without_batch_norm_a_segment_is_encoded_alone(norm: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(PretrainConfig(width=4, num_flows=1, norm=norm)).train()
    stacks = torch.randn(4, 2, 64, 64)
    together = encoder(stacks)
    alone = torch.cat([encoder(stack[None]) for stack in stacks])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together, encoder.eval()(stacks))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())


def test_the_seed_decides_the_weights() -> None:
    config = PretrainConfig(width=2, num_flows=1)
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(
            torch.cat([value.flatten() for value in Encoder(config).state_dict().values()])
        )
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize(("norm", "latent"), list(itertools.product(NORMS, LATENTS)))
def test_every_parameter_gets_a_gradient(norm: str, latent: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(PretrainConfig(width=2, num_flows=1, norm=norm, latent=latent))
    encoder(torch.randn(4, 2, 64, 64)).square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in encoder.parameters()
    )


def test_latents_are_float32_under_autocast() -> None:
    encoder = Encoder(PretrainConfig(width=4, num_flows=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, latents = encoder.encode(torch.randn(4, 2, 32, 32))
    assert (features.dtype, latents.dtype) == (torch.bfloat16, torch.float32)
