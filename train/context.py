"""Observed segments -> one context."""

from torch import Tensor, nn

from train.encoder import initialise


class Conv3DContext(nn.Module):
    """Aggregates the feature maps of all observed segments with two 3-D convolutions (spec cpc.md, Model 1, Conv3D).

    The first spans three segments, the second what it leaves; then comes the mean over space. With four segments of 512 channels the two hold
    11,796,480 weights.

    Parameters
    ----------
    channels : int
        D.
    num_observed : int
        Segments in the context, at least 3.
    """

    def __init__(self, channels: int, num_observed: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=(0, 1, 1), bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, channels, (num_observed - 2, 3, 3), padding=(0, 1, 1), bias=False),
        )
        initialise(self)

    def forward(self, features: Tensor) -> Tensor:
        """Return contexts c (B, D) of feature maps (B, num_observed, D, h', w')."""
        out: Tensor = self.layers(features.transpose(1, 2))  # (B, D, 1, h', w')
        return out.mean(dim=(2, 3, 4))
