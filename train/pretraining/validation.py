"""Unsupervised accuracy on videos that are not trained on."""

import math
from collections.abc import Callable, Mapping

import pandas as pd
import torch

from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.data.batches import SegmentReader, SequenceReader
from flowcpc.train.data.loader import loading
from flowcpc.train.data.splits import split_of
from flowcpc.train.model.cpc import ModelOne, ModelTwo
from flowcpc.train.model.loss import info_nce
from flowcpc.train.pretraining.distributed import Ranks
from flowcpc.train.pretraining.execution import forward_precision
from flowcpc.train.runs.metrics import HorizonMeans, MetricsLine
from flowcpc.train.settings.config import PretrainConfig, named_seed


class HeldOut:
    """Measures the fold's test videos: sampled as in training, the same segments every time.

    Several processes take whole batches in turn, so every prediction is compared with the negatives
    of a whole batch.

    Attributes
    ----------
    videos : int
        How many there are; 0 if the run trains on all videos.
    """

    def __init__(
        self,
        store: FlowStore,
        config: PretrainConfig,
        ranks: Ranks,
        tables: Mapping[str, pd.DataFrame],
        *,
        workers: int,
    ) -> None:
        video_ids: list[str] = []
        if config.split != "all":
            video_ids = split_of(tables["videos"], config.fold, "test")["video_id"].tolist()
        self.videos = len(video_ids)
        self._config = config
        self._ranks = ranks
        self._workers = workers
        self._batches = self.videos // config.batch_size
        if self._batches:
            self._segments = SegmentReader(store, video_ids, config, ranks.device, tables)
            self._reader = SequenceReader(
                self._segments, config, named_seed(config.seed, "held out")
            )

    def is_due(self, step: int) -> bool:
        """Return whether to measure after `step` steps: every `validate_every`, and at the end."""
        return (
            bool(self._batches)
            and step > 0
            and (step % self._config.validate_every == 0 or step == self._config.steps)
        )

    def measure(
        self, model: ModelOne | ModelTwo, step: int, should_stop: Callable[[], bool]
    ) -> MetricsLine | None:
        """Return means over one pass over the videos, batch norm in eval mode; None if stopped.

        Afterwards the model is in train mode again, its statistics unchanged.
        """
        config, ranks = self._config, self._ranks
        by_horizon = HorizonMeans(model.horizons, ranks.device)
        turns = range(0, self._batches, ranks.count)  # in the last one some processes have no batch
        own_batches = range(ranks.rank, self._batches, ranks.count)
        sums = torch.zeros(2 + by_horizon.count, dtype=torch.float64, device=ranks.device)
        ranks.same_buffers(model)
        model.eval()
        try:
            read = self._reader.read
            with torch.no_grad(), loading(read, own_batches, workers=self._workers) as batches:
                for turn in turns:
                    if ranks.any(should_stop()):
                        return None
                    if turn + ranks.rank >= self._batches:
                        continue
                    segments = self._segments.to_device(next(batches))
                    with forward_precision(config.precision, ranks.device):
                        predictions, latents = model(segments)
                    nce = info_nce(
                        predictions,
                        latents,
                        model.positions,
                        difficult_negatives=config.difficult_negatives,
                    )
                    scalars = torch.stack([nce.loss, nce.accuracy])
                    sums += torch.cat([scalars, by_horizon(nce.pair_accuracy)])
        finally:
            model.train()
        loss, accuracy, *horizons = (value / self._batches for value in ranks.sum(sums.tolist()))
        return {
            "step": step,
            "held_out_loss": loss,
            "held_out_accuracy": accuracy,
            "held_out_horizon_accuracy": horizons,
            "held_out_information_bound": math.log(config.classes) - loss,
            "held_out_classes": config.classes,
            "held_out_videos": config.batch_size * self._batches,
        }
