"""ResNet-18 on stacked flow (He et al. 2016; Lorre et al. 2019, section 4.3)."""

import torch
from torch import Tensor, nn

from train.config import PretrainConfig


class Encoder(nn.Module):
    """A segment of N flows, stacked in the channels, -> feature map and latent.

    At width 64 and N = 10 it is ResNet-18 without its classifier: 11.23 M parameters.

    Attributes
    ----------
    config : PretrainConfig
        Its `num_flows` and `width` decide the shape.
    """

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.stem = nn.Sequential(
            nn.Conv2d(config.channels, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stages = nn.Sequential(
            _stage(width, width, stride=1),
            _stage(width, 2 * width, stride=2),
            _stage(2 * width, 4 * width, stride=2),
            _stage(4 * width, 8 * width, stride=2),
        )
        initialise(self)
        # channels_last took a few percent less CPU time on one core; torch declares this form of `to` for tensors only
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, stacks: Tensor) -> Tensor:
        """Return feature maps (n, D, h', w') of stacks (n, 2N, h, w) in px, after the last ReLU; h' is about h / 32."""
        features: Tensor = self.stages(self.stem(stacks.contiguous(memory_format=torch.channels_last)))
        return features

    def forward(self, stacks: Tensor) -> Tensor:
        """Return latents z (n, D) of stacks (n, 2N, h, w) in px: the feature maps' means over space."""
        return pool(self.features(stacks))


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def _stage(channels_in: int, channels: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(_Block(channels_in, channels, stride), _Block(channels, channels, 1))


def pool(features: Tensor) -> Tensor:
    """Return the means (n, D) of feature maps (n, D, h', w') over space."""
    return features.mean(dim=(2, 3))


def initialise(module: nn.Module) -> None:
    """Draw the weights of all convolutions as He et al. (2015) do for ReLU, by fan-out; torch's global generator draws."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
