"""The contrastive loss, a pure function."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class InfoNCE(NamedTuple):
    """What `info_nce` returns, float32.

    Accuracy is the share of predictions that score their own latent above all others; a tie is a
    miss.
    """

    loss: Tensor  # (), mean softmax cross-entropy over all predictions, nats
    accuracy: Tensor  # ()
    pair_accuracy: Tensor  # (P,), of each prediction of a sequence


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

    Scores are dot products in float32 without normalisation or temperature (Lorre et al. 2019,
    section 3). Uniform scores give a loss of log(classes); log(classes) - loss is a lower bound of
    the mutual information of context and latent.

    Parameters
    ----------
    predictions, latents : (B, P, D), (B, T, D)
    positions : sequence of int, length P
        The segment in 0..T-1 that each prediction is about; one may occur several times.
    difficult_negatives : bool
        Whether the other segments of a video count among its negatives.
    candidates : (C, T, D), optional
        Latents of the batch of all processes; rows first .. first + B - 1 are the videos of
        `predictions`, else ValueError. [default: `latents`]
    """
    if candidates is None:
        candidates = latents
    batch, (total, segments) = len(predictions), candidates.shape[:2]
    if not 0 <= first <= total - batch:
        raise ValueError(
            f"rows {first} to {first + batch - 1} are not within the {total} candidates; "
            "give those of all processes"
        )
    on_device = _on_device if torch.compiler.is_compiling() else _once_on_device
    target = on_device(tuple(positions), predictions.device)  # (P,)
    video = torch.arange(first, first + batch, device=predictions.device)  # (B,)
    # bf16 scores of hundreds of candidates would tie, so the scores leave autocast
    with torch.autocast(predictions.device.type, enabled=False):
        # (B, P, C, T)
        scores = torch.einsum("bpd,ctd->bpct", predictions.float(), candidates.float())
    if not difficult_negatives:
        same_video = video[:, None] == torch.arange(total, device=scores.device)  # (B, C)
        other_segment = target[:, None] != torch.arange(segments, device=scores.device)  # (P, T)
        own = same_video[:, None, :, None] & other_segment[None, :, None, :]
        scores = scores.masked_fill(own, -torch.inf)
    scores = scores.flatten(2)  # (B, P, C*T)
    right = video[:, None] * segments + target  # (B, P)
    loss = functional.cross_entropy(scores.flatten(0, 1), right.flatten())
    with torch.no_grad():
        at_least = (scores >= scores.gather(2, right[..., None])).sum(dim=2)
        hits = (at_least == 1).float()  # (B, P)
    return InfoNCE(loss, hits.mean(), hits.mean(dim=0))


def _on_device(positions: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(positions, device=device)


# A copy at every step would wait for a GPU. torch.compile keeps constants itself, and warns of
# caches.
_once_on_device = functools.lru_cache(maxsize=16)(_on_device)
