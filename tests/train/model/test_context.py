import pytest
import torch
from torch import nn

from flowcpc.train.model.context import (
    BatchDropout,
    Conv3DContext,
    LSTMContext,
    MaskedConv3DContext,
    TCAMContext,
    build_context,
    share_batch,
)
from flowcpc.train.settings.config import NORMS, PretrainConfig


def convolution_weights(module: nn.Module) -> list[tuple[int, ...]]:
    return [
        tuple(part.weight.shape)
        for part in module.modules()
        if isinstance(part, nn.Conv2d | nn.Conv3d)
    ]


@pytest.mark.parametrize(
    ("context", "shapes"),
    [
        (TCAMContext(512, 4, "bn", 0.5), [(512, 2048, 3, 3), (512, 512, 3, 3)]),
        (Conv3DContext(512, 4, "bn"), [(512, 512, 3, 3, 3), (512, 512, 2, 3, 3)]),
    ],
    ids=["tcam", "conv3d"],
)
def test_weights_of_the_papers_aggregators(
    context: nn.Module, shapes: list[tuple[int, ...]]
) -> None:
    assert convolution_weights(context) == shapes
    convolutions = [part for part in context.modules() if isinstance(part, nn.Conv2d | nn.Conv3d)]
    assert sum(p.numel() for layer in convolutions for p in layer.parameters()) == 11_796_480


def test_layers_of_tcam_are_in_the_order_of_the_specification() -> None:
    kinds = [type(layer) for layer in TCAMContext(4, 4, "bn", 0.5).layers]
    assert kinds == 2 * [nn.Conv2d, nn.ReLU, nn.BatchNorm2d, BatchDropout]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("map_size", [(1, 1), (2, 3), (7, 7)])
@pytest.mark.parametrize("num_observed", [1, 3, 4, 6])
def test_shapes_of_aggregators(num_observed: int, map_size: tuple[int, int], norm: str) -> None:
    features = torch.randn(3, num_observed, 6, *map_size)
    assert TCAMContext(6, num_observed, norm, 0.5)(features).shape == (3, 6)
    if num_observed >= 3:
        assert Conv3DContext(6, num_observed, norm)(features).shape == (3, 6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("segments", [1, 7])
def test_shapes_of_a_context_per_segment(segments: int, norm: str) -> None:
    assert MaskedConv3DContext(6, norm)(torch.randn(3, segments, 6, 2, 3)).shape == (3, segments, 6)
    assert LSTMContext(6)(torch.randn(3, segments, 6)).shape == (3, segments, 6)


def test_conv3d_is_its_layers_one_by_one() -> None:
    """Conv3d, BN, ReLU (T 4 -> 2), Conv3d (T -> 1), mean over space."""
    context = Conv3DContext(4, 4, "bn").train()
    features = torch.randn(2, 4, 4, 5, 5)
    norm = nn.BatchNorm3d(4)
    first = context.first(features.transpose(1, 2))
    assert first.shape == (2, 4, 2, 5, 5)
    last = context.second(torch.relu(norm(first)))
    assert last.shape == (2, 4, 1, 5, 5)
    torch.testing.assert_close(context(features), last.mean(dim=(2, 3, 4)))
    torch.testing.assert_close(context.norm.running_var, norm.running_var)


def test_the_masked_one_is_its_layers_one_by_one() -> None:
    """Every output of a causal convolution is a sum over the last three segments."""
    context = MaskedConv3DContext(4, "bn").eval()
    features = torch.randn(2, 6, 4, 5, 5)

    def causal(
        convolution: nn.Conv3d, norm: nn.Module, maps: torch.Tensor, dilation: int
    ) -> torch.Tensor:
        out = []
        for t in range(maps.shape[1]):
            total = torch.zeros_like(maps[:, 0])
            for back in range(3):
                seen = t - (2 - back) * dilation
                if seen >= 0:
                    total = total + nn.functional.conv2d(
                        maps[:, seen], convolution.weight[:, :, back], padding=1
                    )
            out.append(torch.relu(norm(total)))
        return torch.stack(out, dim=1)

    with torch.no_grad():
        maps = causal(context.first, context.first_norm, features, 1)
        maps = causal(context.second, context.second_norm, maps, 2)
        torch.testing.assert_close(context(features), maps.mean(dim=(3, 4)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_the_masked_one_sees_seven_segments_and_none_to_come(norm: str) -> None:
    torch.manual_seed(0)
    context = MaskedConv3DContext(4, norm).eval()
    for t in range(10):
        features = torch.randn(2, 10, 4, 5, 5, requires_grad=True)
        context(features)[:, t].square().sum().backward()
        seen = features.grad.abs().sum(dim=(0, 2, 3, 4))
        assert torch.nonzero(seen).flatten().tolist() == list(range(max(t - 6, 0), t + 1))


def test_the_lstm_is_torchs() -> None:
    context, torchs = LSTMContext(6), nn.LSTM(6, 6, batch_first=True)
    torchs.load_state_dict(
        {f"{name}_l0": value for name, value in context.cell.state_dict().items()}
    )
    latents = torch.randn(3, 5, 6)
    torch.testing.assert_close(context(latents), torchs(latents)[0])
    assert sum(p.numel() for p in LSTMContext(512).parameters()) == 2_101_248


def test_the_lstm_sees_no_latent_to_come() -> None:
    for t in range(5):
        latents = torch.randn(2, 5, 6, requires_grad=True)
        LSTMContext(6)(latents)[:, t].sum().backward()
        assert torch.nonzero(latents.grad.abs().sum(dim=(0, 2))).flatten().tolist() == list(
            range(t + 1)
        )


@pytest.mark.parametrize(
    "context", [TCAMContext(4, 4, "gn", 0.5), Conv3DContext(4, 4, "gn")], ids=["tcam", "conv3d"]
)
def test_every_observed_segment_and_their_order_matter(context: nn.Module) -> None:
    torch.manual_seed(0)
    context.eval()
    features = torch.randn(1, 4, 4, 3, 3, requires_grad=True)
    context(features).square().sum().backward()
    assert (features.grad.abs().sum(dim=(0, 2, 3, 4)) > 0).all()
    with torch.no_grad():
        assert not torch.allclose(context(features), context(features.flip(1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_is_the_same_for_any_number_of_processes(dtype: torch.dtype) -> None:
    x = torch.randn(8, 3, 5, 5).to(memory_format=torch.channels_last)

    def dropped(rows: slice, first: int | None) -> torch.Tensor:
        dropout = nn.Sequential(BatchDropout(0.3))
        if first is not None:
            share_batch(dropout, first, 8)
        torch.manual_seed(7)
        return dropout(x[rows].to(dtype))

    whole = dropped(slice(None), None)
    assert whole.dtype == dtype
    assert whole.is_contiguous(memory_format=torch.channels_last)
    for count in (1, 2, 4):
        size = 8 // count
        parts = [dropped(slice(first, first + size), first) for first in range(0, 8, size)]
        assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(whole == 0, dropped(slice(None), 0).float() == 0)
    torch.manual_seed(8)
    assert not torch.equal(BatchDropout(0.3)(x), whole)


def test_dropout_keeps_the_mean_and_drops_as_many_as_it_says() -> None:
    torch.manual_seed(0)
    out = BatchDropout(0.3)(torch.ones(40, 10, 10, 10))
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    torch.testing.assert_close(out.max(), torch.tensor(1 / 0.7))


@pytest.mark.parametrize("dropout", [BatchDropout(0.3).eval(), BatchDropout(0.0).train()])
def test_dropout_that_does_nothing_draws_nothing(dropout: BatchDropout) -> None:
    before = torch.get_rng_state()
    x = torch.randn(2, 3)
    after = torch.get_rng_state()
    assert torch.equal(dropout(x), x)
    assert torch.equal(torch.get_rng_state(), after)
    assert not torch.equal(before, after)


@pytest.mark.parametrize(
    ("model", "context", "kind"),
    [
        ("model1", "tcam", TCAMContext),
        ("model1", "conv3d", Conv3DContext),
        ("model1", "lstm", LSTMContext),
        ("model2", "lstm", LSTMContext),
        ("model2", "masked-conv3d", MaskedConv3DContext),
    ],
)
def test_the_settings_choose_the_context(model: str, context: str, kind: type[nn.Module]) -> None:
    observed = 4 if model == "model1" else 1
    config = PretrainConfig(
        model=model, context=context, num_observed=observed, width=1, norm="ln", dropout=0.25
    )
    built = build_context(config)
    assert type(built) is kind
    assert not any(isinstance(part, nn.BatchNorm2d) for part in built.modules())
    assert {part.probability for part in built.modules() if isinstance(part, BatchDropout)} <= {
        0.25
    }
