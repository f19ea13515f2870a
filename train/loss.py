"""The contrastive loss, a pure function."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class InfoNCE(NamedTuple):
    """What `info_nce` returns.

    Attributes
    ----------
    loss : float32 ()
        Mean softmax cross-entropy over all predictions, in nats.
    accuracy : float32 ()
        Share of predictions that score their own latent highest.
    pair_accuracy : float32 (P,)
        The same for each prediction of a sequence.
    classes : int
        Candidates of each prediction, the right one included.
    """

    loss: Tensor
    accuracy: Tensor
    pair_accuracy: Tensor
    classes: int


def info_nce(
    predictions: Tensor,
    latents: Tensor,
    positions: Sequence[int],
    *,
    difficult_negatives: bool = False,
    candidates: Tensor | None = None,
    first: int = 0,
) -> InfoNCE:
    """Return loss and accuracies of telling each predicted latent from all others of the batch.

    Scores are plain dot products in float32: no normalisation, no temperature, nothing detached (Lorre et al. 2019, section 3; spec cpc.md, Loss).
    Uniform scores give a loss of log(classes); log(classes) - loss bounds the mutual information of context and latent from below.

    Parameters
    ----------
    predictions : (B, P, D)
    latents : (B, T, D)
    positions : sequence of int, length P
        The segment in 0..T-1 that each prediction is about.
    difficult_negatives : bool
        Whether the other segments of a video count among its negatives: (B-1) T + T classes with them, (B-1) T + 1 without.
    """
    batch, segments = latents.shape[:2]
    candidates = latents if candidates is None else candidates
    every = torch.arange(len(candidates), device=latents.device)
    video = every[first : first + batch]
    position = torch.as_tensor(positions, device=latents.device)  # (P,)
    # bf16 scores of hundreds of candidates would tie, so the scores leave autocast
    with torch.autocast(latents.device.type, enabled=False):
        scores = torch.einsum("bpd,ctd->bpct", predictions.float(), candidates.float())  # (B, P, B, T)
    if not difficult_negatives:
        same_video = video[:, None, None, None] == every[None, None, :, None]
        other_segment = position[None, :, None, None] != torch.arange(segments, device=latents.device)
        scores = scores.masked_fill(same_video & other_segment, -torch.inf)
    scores = scores.flatten(2)  # (B, P, B*T)
    right = video[:, None] * segments + position  # (B, P)
    loss = functional.cross_entropy(scores.flatten(0, 1), right.flatten())
    hits = (scores.argmax(dim=2) == right).float()  # (B, P)
    classes = (len(candidates) - 1) * segments + (segments if difficult_negatives else 1)
    return InfoNCE(loss, hits.mean(), hits.mean(dim=0), classes)
