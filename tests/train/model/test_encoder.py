import itertools

import pytest
import torch
from torch import nn

from flowcpc.train.model.encoder import Encoder, _StridedPointwise, build_norm
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
    """ResNet-18 (11,689,512) without its classifier (513,000).

    The first convolution has another number of input channels than 3.
    """
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


@pytest.mark.parametrize("channels", [2, 3, 4, 6, 8])
def test_a_strided_shortcut_equals_a_naive_sum_and_repeats_bit_for_bit(channels: int) -> None:
    """nn.Conv2d does neither for few channels in channels_last on processors without AVX-512."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, channels, 8, 8, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(2 * channels, channels, generator=generator)
    gradient = torch.randn(16, 2 * channels, 4, 4, generator=generator)

    strided, double = x[:, :, ::2, ::2].double(), weight.double()
    expected_x = torch.zeros_like(x, dtype=torch.float64)
    expected_x[:, :, ::2, ::2] = torch.einsum("bohw,oc->bchw", gradient.double(), double)
    expected = [
        torch.einsum("bchw,oc->bohw", strided, double),
        torch.einsum("bohw,bchw->oc", gradient.double(), strided)[:, :, None, None],
        expected_x,
    ]
    results = []
    for _ in range(10):
        layer = _StridedPointwise(channels, 2 * channels, 1, stride=2, bias=False)
        layer.weight.data.copy_(weight[:, :, None, None])
        layer.to(memory_format=torch.channels_last)
        inputs = x.clone().requires_grad_()
        output = layer(inputs)
        output.backward(gradient.contiguous(memory_format=torch.channels_last))
        results.append([output.detach(), layer.weight.grad, inputs.grad])
    for value, reference in zip(results[0], expected, strict=True):
        torch.testing.assert_close(value.double(), reference, rtol=1e-5, atol=1e-5)
    for again in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], again, strict=True))
