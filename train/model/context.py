"""Segments -> contexts, from which both models predict (Lorre et al. 2019, section 3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowcpc.train.model.encoder import build_norm, initialise, pool
from flowcpc.train.settings.config import PretrainConfig


class BatchDropout(nn.Module):
    """Dropout whose mask is a function of (seed, step, place in the batch of all processes).

    In training it draws the mask of the whole batch from torch's generator, which the training loop
    seeds at every step, and uses its own rows. `probability`, in [0, 1), is that of dropping a
    feature. What is kept grows by 1 / (1 - probability).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        # First row and number of rows in all; None: the whole batch is here.
        self.rows: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return x (n, ...) with some of its features at zero; in eval mode x itself."""
        if not self.training or self.probability == 0:
            return x
        first, total = (0, len(x)) if self.rows is None else self.rows
        # float32 whatever x is, so that the mask is the same.
        draws = torch.rand(total, *x.shape[1:], device=x.device)
        keep = draws[first : first + len(x)] >= self.probability
        return x * keep / (1 - self.probability)


def share_batch(model: nn.Module, first: int, total: int) -> None:
    """Tell every BatchDropout of `model` that its batch begins at row `first` of `total` rows."""
    for module in model.modules():
        if isinstance(module, BatchDropout):
            module.rows = first, total


class TCAMContext(nn.Module):
    """Aggregates the observed segments, stacked in the channels, with two 2-D convolutions.

    It is T-CAM of Wei et al. 2018, with dropout after each convolution. `channels` is D, and
    `num_observed` is m, the segments in the context. With four segments of 512 channels the two
    convolutions hold 11,796,480 weights.
    """

    def __init__(self, channels: int, num_observed: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(num_observed * channels, channels, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            build_norm(norm, channels),
            BatchDropout(dropout),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            build_norm(norm, channels),
            BatchDropout(dropout),
        )
        initialise(self)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: Tensor) -> Tensor:
        """Return contexts c, float32 (B, D), of feature maps (B, m, D, h', w')."""
        # (B, m*D, h', w'); unlike flatten, it stays channels_last.
        return pool(self.layers(torch.cat(features.unbind(dim=1), dim=1)))


class Conv3DContext(nn.Module):
    """Aggregates the feature maps of all observed segments with two 3-D convolutions.

    The first spans three segments, the second the rest of num_observed >= 3; the mean over space
    follows. With four segments of 512 channels the two hold 11,796,480 weights.
    """

    def __init__(self, channels: int, num_observed: int, norm: str) -> None:
        super().__init__()
        self.first = nn.Conv3d(channels, channels, 3, padding=(0, 1, 1), bias=False)
        self.norm = build_norm(norm, channels)
        kernel = (num_observed - 2, 3, 3)
        self.second = nn.Conv3d(channels, channels, kernel, padding=(0, 1, 1), bias=False)
        initialise(self)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, features: Tensor) -> Tensor:
        """Return contexts c, float32 (B, D), of feature maps (B, m, D, h', w')."""
        # (B, D, m, h', w'), channels_last_3d where the maps are channels_last
        x = features.transpose(1, 2)
        x = torch.relu(_each_segment(self.norm, self.first(x)))  # (B, D, m - 2, h', w')
        return pool(self.second(x).squeeze(2))


class MaskedConv3DContext(nn.Module):
    """A context after every segment from two 3-D convolutions that look back only.

    Both span three segments, the second with dilation 2: c_t sees segments t - 6 to t.
    """

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.first = nn.Conv3d(channels, channels, 3, padding=(0, 1, 1), bias=False)
        self.first_norm = build_norm(norm, channels)
        self.second = nn.Conv3d(
            channels, channels, 3, padding=(0, 1, 1), dilation=(2, 1, 1), bias=False
        )
        self.second_norm = build_norm(norm, channels)
        initialise(self)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, features: Tensor) -> Tensor:
        """Return contexts c, float32 (B, n, D), one after each segment of (B, n, D, h', w')."""
        x = features.transpose(1, 2)  # (B, D, n, h', w')
        x = torch.relu(_each_segment(self.first_norm, self.first(_after_zeros(x, 2))))
        x = torch.relu(_each_segment(self.second_norm, self.second(_after_zeros(x, 4))))
        return x.mean(dim=(3, 4), dtype=torch.float32).transpose(1, 2)


class LSTMContext(nn.Module):
    """A context after every segment: the hidden states of an LSTM of one layer on latents.

    nn.LSTM computes the same, but torch.compile cannot see into it. `channels` is D, of the latents
    and of the hidden state.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(channels, channels)

    def forward(self, latents: Tensor) -> Tensor:
        """Return contexts c (B, n, D), one after each segment of latents (B, n, D)."""
        hidden = memory = torch.zeros_like(latents[:, 0])
        states = []
        for latent in latents.unbind(dim=1):
            hidden, memory = self.cell(latent, (hidden, memory))
            states.append(hidden)
        return torch.stack(states, dim=1)


def build_context(config: PretrainConfig) -> nn.Module:
    """Return the context that `config` names; torch's global generator draws its weights."""
    size = config.latent_size
    if config.context == "lstm":
        return LSTMContext(size)
    if config.context == "tcam":
        return TCAMContext(size, config.num_observed, config.norm, config.dropout)
    if config.context == "conv3d":
        return Conv3DContext(size, config.num_observed, config.norm)
    return MaskedConv3DContext(size, config.norm)


def _each_segment(norm: nn.Module, x: Tensor) -> Tensor:
    """Return x (B, D, n, h', w') after `norm` of the map of each segment.

    Batch norm of all maps together gives the same. Group and layer norm of several segments
    together would tell a context about later segments.
    """
    maps: Tensor = norm(x.transpose(1, 2).flatten(0, 1))  # a view where x is channels_last_3d
    return maps.unflatten(0, (len(x), -1)).transpose(1, 2)


def _after_zeros(x: Tensor, count: int) -> Tensor:
    """Return x (B, D, n, h', w') behind `count` segments of zeros."""
    return functional.pad(x, (0, 0, 0, 0, count, 0))
