"""Unsupervised accuracy on videos that are not trained on."""

import math
from collections.abc import Callable
from typing import Any

import torch

from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.data.batches import SegmentReader, SequenceReader
from flowcpc.train.data.loader import loading
from flowcpc.train.data.splits import split_of
from flowcpc.train.model.cpc import ModelOne, ModelTwo
from flowcpc.train.model.loss import info_nce
from flowcpc.train.pretraining.distributed import Ranks
from flowcpc.train.pretraining.execution import forward_precision
from flowcpc.train.runs.metrics import HorizonMeans
from flowcpc.train.settings.config import PretrainConfig, named_seed


class HeldOut:
    """The fold's test videos, drawn as in training but the same segments every time.

    Several processes take whole batches in turn, so that each of them is compared with the negatives of a whole batch however many there are.

    Attributes
    ----------
    videos : int
        How many there are; none where the run trains on all videos.
    """

    def __init__(
        self, store: FlowStore, config: PretrainConfig, ranks: Ranks, *, workers: int
    ) -> None:
        found = (
            []
            if config.split == "all"
            else split_of(store.videos(), config.fold, "test")["video_id"].tolist()
        )
        self.videos = len(found)
        self._config = config
        self._ranks = ranks
        self._workers = workers
        self._batches = self.videos // config.batch_size
        if self._batches:
            self._segments = SegmentReader(store, found, config, ranks.device)
            self._reader = SequenceReader(
                self._segments, config, named_seed(config.seed, "held out")
            )

    def is_due(self, step: int) -> bool:
        """Return whether there is something to measure after `step` steps: every `validate_every`, and at the end."""
        return (
            bool(self._batches)
            and step > 0
            and (step % self._config.validate_every == 0 or step == self._config.steps)
        )

    def measure(
        self, model: ModelOne | ModelTwo, should_stop: Callable[[], bool]
    ) -> dict[str, Any] | None:
        """Return means over one pass over the videos, batch norm in eval mode; None when told to stop meanwhile.

        The model is as it was afterwards: in train mode, its statistics untouched.
        """
        config, ranks = self._config, self._ranks
        by_horizon = HorizonMeans(model.horizons, ranks.device)
        turns = range(
            0, self._batches, ranks.count
        )  # of all processes; a process may have nothing to do in the last one
        own = range(ranks.rank, self._batches, ranks.count)
        sums = torch.zeros(2 + by_horizon.count, dtype=torch.float64, device=ranks.device)
        ranks.same_buffers(model)
        model.eval()
        try:
            with torch.no_grad(), loading(self._reader.read, own, workers=self._workers) as loaded:
                for turn in turns:
                    if ranks.any(should_stop()):
                        return None
                    if turn + ranks.rank >= self._batches:
                        continue
                    segments = self._segments.to_device(next(loaded))
                    with forward_precision(config.precision, ranks.device):
                        predictions, latents = model(segments)
                    found = info_nce(
                        predictions,
                        latents,
                        model.positions,
                        difficult_negatives=config.difficult_negatives,
                    )
                    scalars = torch.stack([found.loss, found.accuracy])
                    sums += torch.cat([scalars, by_horizon(found.pair_accuracy)])
        finally:
            model.train()
        loss, accuracy, *horizons = (value / self._batches for value in ranks.sum(sums.tolist()))
        return {
            "held_out_loss": loss,
            "held_out_accuracy": accuracy,
            "held_out_horizon_accuracy": horizons,
            "held_out_information_bound": math.log(config.classes) - loss,
            "held_out_classes": config.classes,
            "held_out_videos": config.batch_size * self._batches,
        }
