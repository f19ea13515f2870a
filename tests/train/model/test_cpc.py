import dataclasses
import itertools
import re

import pytest
import torch
from checkout import ROOT
from torch import nn

from flowcpc.train.model.context import share_batch
from flowcpc.train.model.cpc import ModelOne, ModelTwo, build_model
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.model.loss import info_nce
from flowcpc.train.settings.config import LATENTS, MODELS, NORMS, PretrainConfig

KINDS = [(model, context) for model, contexts in MODELS.items() for context in contexts]


def settings(model: str, context: str, **changes: object) -> PretrainConfig:
    small = PretrainConfig(
        model=model,
        context=context,
        num_segments=6,
        num_observed=4 if model == "model1" else 1,
        num_flows=2,
        width=2,
        size=(32, 32),
    )
    return dataclasses.replace(small, **changes)


def seeded(config: PretrainConfig) -> ModelOne | ModelTwo:
    torch.manual_seed(3)
    return build_model(config)


@pytest.mark.parametrize(("model", "context"), KINDS)
@pytest.mark.parametrize(("norm", "latent"), list(itertools.product(NORMS, LATENTS)))
@pytest.mark.parametrize("modality", ["flow", "image"])
def test_shapes(model: str, context: str, norm: str, latent: str, modality: str) -> None:
    config = settings(model, context, norm=norm, latent=latent, modality=modality)
    built = seeded(config)
    predictions, latents = built(torch.randn(3, 6, config.channels, 32, 32))
    count = {"model1": 2, "model2": 15}[model]
    assert predictions.shape == (3, count, 16)
    assert latents.shape == (3, 6, 16)
    assert len(built.positions) == len(built.horizons) == count
    assert built.predictors.bias is None
    loss = info_nce(predictions, latents, built.positions).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in built.parameters())


def test_pairs_of_model_one() -> None:
    model = build_model(settings("model1", "lstm", num_segments=8))
    assert isinstance(model, ModelOne)
    assert (model.positions, model.horizons) == ((4, 5, 6, 7), (1, 2, 3, 4))


@pytest.mark.parametrize(("segments", "pairs"), [(2, 1), (8, 28), (10, 45)])
def test_pairs_of_model_two(segments: int, pairs: int) -> None:
    """Every context predicts every later segment: pair (t, k) predicts segment t + k, from 0."""
    model = build_model(settings("model2", "lstm", num_segments=segments))
    assert isinstance(model, ModelTwo)
    assert len(model.positions) == pairs
    contexts = [
        position - horizon
        for position, horizon in zip(model.positions, model.horizons, strict=True)
    ]
    expected = [(t, k) for t in range(segments - 1) for k in range(1, segments - t)]
    assert sorted(zip(contexts, model.horizons, strict=True)) == expected


@pytest.mark.parametrize(("model", "context"), KINDS)
def test_a_prediction_is_the_head_of_its_horizon_on_its_context(model: str, context: str) -> None:
    built = seeded(settings(model, context)).eval()
    heads = built.predictors.weight.view(-1, 16, 16)  # W_1, W_2, ...
    contexts = []
    built.context.register_forward_hook(lambda module, inputs, output: contexts.append(output))
    with torch.no_grad():
        predictions, _ = built(torch.randn(3, 6, 4, 32, 32))
        (found,) = contexts
        for p, (position, horizon) in enumerate(zip(built.positions, built.horizons, strict=True)):
            seen = (
                found
                if context in ("tcam", "conv3d")
                else found[:, position - horizon if model == "model2" else -1]
            )
            torch.testing.assert_close(
                predictions[:, p], seen @ heads[horizon - 1].T, rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize(("model", "context"), KINDS)
def test_latents_are_the_encoders(model: str, context: str) -> None:
    built = seeded(settings(model, context)).eval()
    segments = torch.randn(3, 6, 4, 32, 32)
    with torch.no_grad():
        _, latents = built(segments)
        for t in range(6):
            torch.testing.assert_close(
                latents[:, t], built.encoder(segments[:, t]), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize(("model", "context"), KINDS)
@pytest.mark.parametrize("norm", NORMS)
def test_no_prediction_sees_what_it_predicts(model: str, context: str, norm: str) -> None:
    """A prediction has no gradient for its target and for any segment after its context.

    It has a gradient for every segment that it may see.
    """
    built = seeded(settings(model, context, norm=norm)).eval()
    segments = torch.randn(1, 6, 4, 64, 64, requires_grad=True)
    predictions, _ = built(segments)
    for p, (position, horizon) in enumerate(zip(built.positions, built.horizons, strict=True)):
        (gradient,) = torch.autograd.grad(
            predictions[:, p].square().sum(), segments, retain_graph=True
        )
        seen = torch.nonzero(gradient.abs().sum(dim=(0, 2, 3, 4))).flatten().tolist()
        assert seen == list(range(position - horizon + 1 if model == "model2" else 4))


def test_an_untrained_encoder_of_the_same_seed_is_where_training_began() -> None:
    for kind, norm in itertools.product(KINDS, NORMS):
        config = settings(*kind, norm=norm)
        model = seeded(config)
        torch.manual_seed(3)
        for name, value in Encoder(config).state_dict().items():
            assert torch.equal(value, model.encoder.state_dict()[name]), name


@pytest.mark.parametrize(("model", "context"), KINDS)
def test_the_same_seed_gives_the_same_bits(model: str, context: str) -> None:
    segments = torch.randn(4, 6, 4, 32, 32)
    found = []
    for _ in range(2):
        built = seeded(settings(model, context))
        torch.manual_seed(11)
        predictions, latents = built(segments)
        info_nce(predictions, latents, built.positions).loss.backward()
        found.append([predictions, latents, *(parameter.grad for parameter in built.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("context", ["tcam", "conv3d"])
def test_two_processes_compute_what_one_does(context: str) -> None:
    """Each has half of the batch and its rows' dropout; layer norm treats each row by itself."""
    model = seeded(settings("model1", context, norm="ln", width=4))
    segments = torch.randn(4, 6, 4, 64, 64)
    torch.manual_seed(9)
    whole, _ = model(segments)
    halves = []
    for first in (0, 2):
        share_batch(model, first, 4)
        torch.manual_seed(9)
        halves.append(model(segments[first : first + 2])[0])
    torch.testing.assert_close(torch.cat(halves), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "context", "norm"),
    [
        (*kind, norm)
        if (kind[1], norm) == ("conv3d", "gn")
        else pytest.param(*kind, norm, marks=pytest.mark.slow)
        for kind in KINDS
        for norm in ("bn", "gn")
    ],
)
def test_torch_compile_sees_the_whole_step(model: str, context: str, norm: str) -> None:
    """No graph breaks, in bf16 too, and the same numbers."""
    built = seeded(settings(model, context, norm=norm))
    segments = torch.randn(3, 6, 4, 32, 32)

    def step(segments: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predictions, latents = built(segments)
        assert latents.dtype == torch.float32
        return info_nce(predictions, latents, built.positions).loss

    torch.compiler.reset()  # else it gives up after some models
    compiled = torch.compile(step, backend="eager", fullgraph=True)
    torch.manual_seed(1)
    expected = step(segments)
    torch.manual_seed(1)
    found = compiled(segments)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in built.parameters())


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        ("tcam", {"context": "conv3d"}),
        ("tcam", {"context": "lstm"}),
        ("tcam", {"dropout": 0.1}),
        ("tcam", {"norm": "gn"}),
        ("tcam", {"norm": "ln"}),
        ("tcam", {"latent": "before-relu"}),
        ("tcam", {"num_observed": 3}),
        ("tcam", {"difficult_negatives": True}),
        ("lstm", {"model": "model2", "num_observed": 1}),
        ("lstm", {"latent": "before-relu"}),
        ("lstm", {"modality": "image"}),
        ("lstm", {"width": 3}),
    ],
)
def test_every_setting_of_the_model_has_an_effect(base: str, changes: dict[str, object]) -> None:
    found = []
    for config in (
        settings("model1", base),
        dataclasses.replace(settings("model1", base), **changes),
    ):
        model = seeded(config)
        torch.manual_seed(2)
        segments = torch.randn(3, 6, config.channels, 64, 64)
        predictions, latents = model(segments)
        loss = info_nce(
            predictions,
            1e-3 * latents,
            model.positions,
            difficult_negatives=config.difficult_negatives,
        ).loss
        found.append(loss.item())
    assert found[0] != found[1]


def test_weights_are_in_the_layout_that_convolutions_prefer() -> None:
    """Feature maps leave the encoder as channels_last.

    Their stack in a context is then channels_last_3d.
    """
    for kind in KINDS:
        model = seeded(settings(*kind))
        for part in model.modules():
            if isinstance(part, nn.Conv2d):
                assert part.weight.is_contiguous(memory_format=torch.channels_last)
            if isinstance(part, nn.Conv3d):
                assert part.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_parameters_on_the_page_are_what_its_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / "docs/training/models.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(block, {})
    table = re.search(
        r"\| encoder \| context \| predictors \| together \|\n\|[-|:]+\|\n(.*?)\n\n",
        page,
        re.DOTALL,
    )
    assert table is not None
    assert table[1].splitlines() == capsys.readouterr().out.splitlines()
