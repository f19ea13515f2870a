"""ResNet-18 on stacked flow or images (He et al. 2016; Lorre et al. 2019, section 4.3)."""

import torch
from torch import Tensor, nn

from flowcpc.train.settings.config import PretrainConfig

_GROUPS = 32  # of group normalisation (Wu and He 2018)


class Encoder(nn.Module):
    """A segment of N flows or images, stacked in the channels, -> feature map and latent.

    At width 64 and ten flows it is ResNet-18 without its classifier: 11.23 M parameters. The
    `num_flows`, `modality`, `width`, `norm` and `latent` of `config` decide shapes and latents.
    """

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        width, norm = config.width, config.norm
        self.stem = nn.Sequential(
            nn.Conv2d(config.channels, width, 7, stride=2, padding=3, bias=False),
            build_norm(norm, width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stages = nn.Sequential(
            _stage(width, width, norm, stride=1),
            _stage(width, 2 * width, norm, stride=2),
            _stage(2 * width, 4 * width, norm, stride=2),
            _stage(4 * width, 8 * width, norm, stride=2, last_relu=False),
        )
        initialise(self)
        # channels_last is a few percent faster on a CPU; torch types this `to` for tensors only
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, stacks: Tensor) -> tuple[Tensor, Tensor]:
        """Return (feature maps (n, D, h', w'), latents z float32 (n, D)) of (n, planes, h, w).

        h' is about h / 32. The maps are after the last ReLU; z is the mean over space after or
        before it, as `config.latent` says.
        """
        before = self.stages(self.stem(stacks.contiguous(memory_format=torch.channels_last)))
        features = torch.relu(before)
        return features, pool(features if self.config.latent == "after-relu" else before)

    def forward(self, stacks: Tensor) -> Tensor:
        """Return latents z, float32 (n, D), of stacks (n, planes, h, w)."""
        return self.encode(stacks)[1]


class _StridedPointwise(nn.Conv2d):
    """A 1x1 convolution with a stride, computed on every stride-th point.

    The bits are those of nn.Conv2d. Its own backward pass is wrong and writes outside its memory
    for 4 input channels in channels_last on processors without AVX-512 (oneDNN 3.12, torch 2.13).
    """

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return nn.functional.conv2d(x[:, :, ::rows, ::columns], self.weight)


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels: int, norm: str, stride: int, relu: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False),
            build_norm(norm, channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            build_norm(norm, channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                _StridedPointwise(channels_in, channels, 1, stride=stride, bias=False),
                build_norm(norm, channels),
            )
        self.relu: nn.Module = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def _stage(
    channels_in: int, channels: int, norm: str, *, stride: int, last_relu: bool = True
) -> nn.Sequential:
    return nn.Sequential(
        _Block(channels_in, channels, norm, stride, relu=True),
        _Block(channels, channels, norm, 1, relu=last_relu),
    )


def pool(features: Tensor) -> Tensor:
    """Return the means over space, float32 (n, D), of feature maps (n, D, h', w')."""
    return features.mean(dim=(2, 3), dtype=torch.float32)


def build_norm(norm: str, channels: int) -> nn.Module:
    """Return a normalisation of maps (n, channels, h, w): `bn` batch, `gn` group, `ln` layer.

    At most 32 groups of at least two channels: one channel on a map of one point would be zero.
    """
    if norm == "bn":
        return nn.BatchNorm2d(channels)
    most = max(1, min(_GROUPS, channels // 2)) if norm == "gn" else 1
    return nn.GroupNorm(max(g for g in range(1, most + 1) if channels % g == 0), channels)


def initialise(module: nn.Module) -> None:
    """Draw the weights of all convolutions by fan-out (He et al. 2015), from torch's generator."""
    for part in module.modules():
        # On the device meta there is nothing to draw, and torch would load a second for it.
        if isinstance(part, nn.Conv2d | nn.Conv3d) and not part.weight.is_meta:
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
