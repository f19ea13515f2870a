"""Features of whole videos, cached as Parquet, so that modes without training take seconds."""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray

from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.embeddings import vectors_from_arrow, vectors_to_arrow
from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.data.batches import SegmentReader
from flowcpc.train.evaluation.classifiers.features import (
    Stopped,
    average_features,
    every_video_once,
    protocols,
)
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.evaluation.results import read_table, write_table
from flowcpc.train.model.encoder import Encoder

_VIDEOS_IN_A_FILE = 256  # at most so many are lost when the process is killed
_KEY = ["video_id", "generation"]
_Features = dict[tuple[str, str], NDArray[np.float32]]


class FeatureCache:
    """The features of videos by one encoder: evenly spread segments, averaged.

    `folder` holds the features of all encoders and stores; a generation identifies a video's flow.
    `identity` are JSON values that decide what the encoder is. `make_encoder` returns it on the
    device; it is called only if features are missing.
    """

    def __init__(
        self,
        folder: Path,
        identity: Any,
        make_encoder: Callable[[], Encoder],
        store: FlowStore,
        evaluation: EvaluationConfig,
        device: torch.device,
    ) -> None:
        # The device counts because a GPU computes in another precision.
        key = json.dumps([identity, evaluation.segments, device.type]).encode()
        self._folder = folder / hashlib.sha256(key).hexdigest()[:16]
        self._encoder = functools.cache(make_encoder)
        self._store, self._evaluation, self._device = store, evaluation, device

    def features(self, videos: pd.DataFrame, listener: Listener = SILENT) -> NDArray[np.float32]:
        """Return the features (V, D) of `videos` (video_id, generation), in their order.

        No other video is opened. Raises Stopped; what was computed by then is saved.
        """
        features = self._read()
        keys = list(videos[_KEY].itertuples(index=False, name=None))
        missing = videos[[key not in features for key in keys]]
        done = len(videos) - len(missing)
        listener.progress(done, len(videos), {})
        for first in range(0, len(missing), _VIDEOS_IN_A_FILE):
            part = missing[first : first + _VIDEOS_IN_A_FILE]
            features |= self._compute(part, done + first, len(videos), listener)
        return np.stack([features[key] for key in keys])

    def _compute(
        self, videos: pd.DataFrame, before: int, total: int, listener: Listener
    ) -> _Features:
        """Compute the features of `videos`, save and return them. Raises Stopped."""
        encoder, evaluation = self._encoder().eval().requires_grad_(False), self._evaluation
        ids = videos["video_id"].tolist()
        reader = SegmentReader(self._store, ids, encoder.config, self._device)
        uniform = protocols(evaluation.segments)[1]
        parts: list[NDArray[np.float32]] = []
        done, should_stop = before, False
        with torch.no_grad(), every_video_once(reader, uniform, 0, evaluation) as batches:
            for batch in batches:
                parts.append(average_features(encoder, reader.to_device(batch)).cpu().numpy())
                done += len(parts[-1])
                listener.progress(done, total, {})
                if should_stop := listener.should_stop():
                    break
        vectors = np.concatenate(parts)
        keys = videos[_KEY].head(len(vectors))
        name = hashlib.sha256(json.dumps(keys.to_numpy().tolist()).encode()).hexdigest()
        table = pa.Table.from_pandas(keys, preserve_index=False)
        table = table.append_column("feature", vectors_to_arrow(vectors))
        write_table(self._folder / f"{name[:16]}.parquet", table)
        if should_stop:
            raise Stopped
        return _by_key(table)

    def _read(self) -> _Features:
        """Return all saved features; damaged files are skipped."""
        features: _Features = {}
        for file in sorted(self._folder.glob("*.parquet")):
            table = read_table(file)
            features |= _by_key(table) if table is not None else {}
        return features


def _by_key(table: pa.Table) -> _Features:
    keys = zip(*(table[name].to_pylist() for name in _KEY), strict=True)
    return dict(zip(keys, vectors_from_arrow(table["feature"]), strict=True))
