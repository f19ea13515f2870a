"""Contrastive predictive coding for video: models 1 and 2 (Lorre et al. 2019, section 3)."""

import torch
from torch import Tensor, nn

from flowcpc.train.model.context import build_context
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.settings.config import PretrainConfig


class _Model(nn.Module):
    """What both models share: encoder, context, and a linear prediction for every distance ahead.

    The P predictions of a sequence are about the segments `positions`, in 0..T-1, which are
    `horizons` segments ahead of their contexts, from 1.
    """

    positions: tuple[int, ...]
    horizons: tuple[int, ...]

    def __init__(self, config: PretrainConfig, furthest: int) -> None:
        super().__init__()
        size = config.latent_size
        self._from_latents = config.context == "lstm"
        # The encoder is first, so that one drawn alone from the same seed is the same.
        self.encoder = Encoder(config)
        self.context = build_context(config)
        # W_1 .. W_furthest, one below the other
        self.predictors = nn.Linear(size, furthest * size, bias=False)
        self._furthest = furthest

    def _encode(self, segments: Tensor, observed: int) -> tuple[Tensor, Tensor]:
        """Return (context of the first `observed` segments, latents float32 (B, T, D))."""
        batch = segments.shape[:2]
        # (B*T, D, h', w'), (B*T, D)
        features, latents = self.encoder.encode(segments.flatten(0, 1))
        latents = latents.unflatten(0, batch)
        seen = latents if self._from_latents else features.unflatten(0, batch)
        return self.context(seen[:, :observed]), latents

    def _predict(self, contexts: Tensor) -> Tensor:
        """Return predictions (..., furthest, D) for every distance ahead of contexts (..., D)."""
        predictions: Tensor = self.predictors(contexts)
        return predictions.unflatten(-1, (self._furthest, -1))


class ModelOne(_Model):
    """One context from the first m segments, and from it a prediction of each later latent."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__(config, config.num_predicted)
        self._observed = config.num_observed
        self.positions = tuple(range(config.num_observed, config.num_segments))
        self.horizons = tuple(range(1, config.num_predicted + 1))

    def forward(self, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Return (predictions (B, P, D), latents float32 (B, T, D)) of segments, P = T - m.

        `segments` is (B, T, planes, h, w).
        """
        context, latents = self._encode(segments, self._observed)
        if self._from_latents:
            context = context[:, -1]
        return self._predict(context), latents


class ModelTwo(_Model):
    """A context after every segment but the last, and from each a prediction of all later latents.

    A head W_k serves all contexts. Predictions are sorted by distance ahead, then by context.
    """

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__(config, config.num_segments - 1)
        total = config.num_segments
        pairs = [(k, t + k) for k in range(1, total) for t in range(total - k)]
        self.horizons, self.positions = (tuple(column) for column in zip(*pairs, strict=True))

    def forward(self, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Return (predictions (B, P, D), latents float32 (B, T, D)), P = T (T - 1) / 2.

        `segments` is (B, T, planes, h, w).
        """
        contexts, latents = self._encode(segments, self._furthest)
        # One product for all heads also predicts beyond the last segment; it is still cheaper.
        every = self._predict(contexts)  # (B, T - 1, T - 1, D)
        kept = [every[:, : self._furthest - k, k] for k in range(self._furthest)]
        return torch.cat(kept, dim=1), latents


def build_model(config: PretrainConfig) -> ModelOne | ModelTwo:
    """Return the model that `config` names; torch's global generator draws its weights."""
    return ModelOne(config) if config.model == "model1" else ModelTwo(config)
