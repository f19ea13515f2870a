"""Contrastive predictive coding for video: model 1 (Lorre et al. 2019, section 3)."""

import torch
from torch import Tensor, nn

from train.config import PretrainConfig
from train.context import Conv3DContext
from train.encoder import Encoder, pool


class ModelOne(nn.Module):
    """One context from the observed segments, and a linear prediction of each later latent from it.

    Attributes
    ----------
    positions : tuple of int
        The segment that each of the P predictions is about.
    """

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        size = config.latent_size
        self.positions = tuple(range(config.num_observed, config.num_segments))
        self.horizons = tuple(range(1, config.num_predicted + 1))
        self.encoder = Encoder(config)  # first, so that an encoder drawn alone from the same seed is the same
        self.context = Conv3DContext(size, config.num_observed)
        self.predictors = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in self.positions)

    def forward(self, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Return (predictions (B, P, D), latents (B, T, D)) of segments (B, T, 2N, h, w) in px."""
        features = self.encoder.features(segments.flatten(0, 1))  # (B*T, D, h', w')
        latents = pool(features).unflatten(0, segments.shape[:2])  # (B, T, D)
        observed = features.unflatten(0, segments.shape[:2])[:, : self.positions[0]]  # (B, m, D, h', w')
        context = self.context(observed)  # (B, D)
        predictions = torch.stack([predict(context) for predict in self.predictors], dim=1)  # (B, P, D)
        return predictions, latents


def build_model(config: PretrainConfig) -> ModelOne:
    return ModelOne(config)
