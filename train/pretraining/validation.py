"""Unsupervised accuracy on videos that are not trained on."""

import math
from collections.abc import Mapping

import pandas as pd
import torch

from flowcpc.stores.base.listener import Listener
from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.data.batches import SegmentReader, SequenceReader
from flowcpc.train.data.loader import loading
from flowcpc.train.data.splits import split_of
from flowcpc.train.model.cpc import ModelOne, ModelTwo
from flowcpc.train.model.loss import info_nce
from flowcpc.train.pretraining.distributed import Ranks
from flowcpc.train.pretraining.execution import forward_precision
from flowcpc.train.runs.metrics import MetricsLine, NceSums
from flowcpc.train.settings.config import PretrainConfig, named_seed


class HeldOut:
    """Measures the fold's test videos: sampled as in training, the same segments every time.

    Several processes take whole batches in turn, so every prediction is compared with the negatives
    of a whole batch. `videos` is their number; 0 if the run trains on all videos.
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
        self._config, self._ranks, self._workers = config, ranks, workers
        self._batches = self.videos // config.batch_size
        if self._batches:
            seed = named_seed(config.seed, "held out")
            self._segments = SegmentReader(store, video_ids, config, ranks.device, tables)
            self._reader = SequenceReader(self._segments, config, seed)

    def is_due(self, step: int) -> bool:
        """Return whether to measure after `step` steps: every `validate_every`, and at the end."""
        is_time = step % self._config.validate_every == 0 or step == self._config.steps
        return bool(self._batches) and step > 0 and is_time

    def measure(
        self, model: ModelOne | ModelTwo, step: int, listener: Listener
    ) -> MetricsLine | None:
        """Return means over one pass over the videos, batch norm in eval mode; None if stopped.

        Afterwards the model is in train mode again, its statistics unchanged.
        """
        config, ranks = self._config, self._ranks
        difficult = config.difficult_negatives
        sums = NceSums(model.horizons, ranks.device)
        own_batches = range(ranks.rank, self._batches, ranks.count)
        ranks.same_buffers(model)
        model.eval()
        try:
            read = self._reader.read
            with torch.no_grad(), loading(read, own_batches, workers=self._workers) as batches:
                for turn in range(0, self._batches, ranks.count):
                    if ranks.any(listener.should_stop()):
                        return None
                    if turn + ranks.rank >= self._batches:  # this process has none in the last turn
                        continue
                    segments = self._segments.to_device(next(batches))
                    with forward_precision(config.precision, ranks.device):
                        predictions, latents = model(segments)
                    nce = info_nce(
                        predictions, latents, model.positions, difficult_negatives=difficult
                    )
                    sums.add(nce)
        finally:
            model.train()
        totals = ranks.sum(sums.values.tolist())
        loss, accuracy, *horizons = (total / self._batches for total in totals)
        return {
            "step": step,
            "held_out_loss": loss,
            "held_out_accuracy": accuracy,
            "held_out_horizon_accuracy": horizons,
            "held_out_information_bound": math.log(config.classes) - loss,
            "held_out_classes": config.classes,
            "held_out_videos": config.batch_size * self._batches,
        }
