"""Features of whole videos, kept as Parquet, so that what needs no training of the encoder takes seconds."""

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

from flowcpc.stores.embeddings import vectors_from_arrow, vectors_to_arrow
from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.data.batches import SegmentReader
from flowcpc.train.evaluation.classifiers.classifier import Stopped
from flowcpc.train.evaluation.classifiers.features import (
    average_features,
    every_video_once,
    protocols,
)
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.evaluation.results import read_table, write_table
from flowcpc.train.model.encoder import Encoder

_VIDEOS_IN_A_PART = 256  # a kill costs no more
_KEY = ["video_id", "generation"]


class FeatureCache:
    """The features of videos by one encoder: evenly spread segments, averaged.

    Parameters
    ----------
    folder : Path
        Below which features lie, of any encoder and store: a video's flow is known by its generation.
    identity : object
        JSON values that decide what the encoder is.
    make_encoder : callable
        Returns the encoder, frozen, on the device; asked for only when features are missing.
    """

    def __init__(
        self,
        folder: Path,
        identity: Any,
        make_encoder: Callable[[], Encoder],
        evaluation: EvaluationConfig,
        device: torch.device,
    ) -> None:
        # A GPU computes in another precision.
        decisive = [identity, evaluation.segments, device.type]
        digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
        self._folder = folder / digest[:16]
        self._make_encoder = make_encoder
        self._encoder: Encoder | None = None
        self._evaluation = evaluation
        self._device = device

    def features(
        self,
        store: FlowStore,
        videos: pd.DataFrame,
        *,
        report: Callable[[int], None] = lambda done: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> NDArray[np.float32]:
        """Return the features (V, D) of `videos` (video_id, generation), in their order; no other video is opened.

        Raises Stopped when told to stop; what was made until then is kept.
        """
        known, vectors = self._read()
        place = {key: row for row, key in enumerate(known)}
        keys = list(videos[_KEY].itertuples(index=False, name=None))
        missing = videos[[key not in place for key in keys]].reset_index(drop=True)
        done = len(videos) - len(missing)
        report(done)
        for first in range(0, len(missing), _VIDEOS_IN_A_PART):
            part = missing[first : first + _VIDEOS_IN_A_PART]
            self._make(store, part, done + first, report, should_stop)
        if len(missing):
            known, vectors = self._read()
            place = {key: row for row, key in enumerate(known)}
        return vectors[[place[key] for key in keys]]

    def _make(
        self,
        store: FlowStore,
        videos: pd.DataFrame,
        before: int,
        report: Callable[[int], None],
        should_stop: Callable[[], bool],
    ) -> None:
        if self._encoder is None:
            self._encoder = self._make_encoder()
        encoder, evaluation = self._encoder, self._evaluation
        reader = SegmentReader(store, videos["video_id"].tolist(), encoder.config, self._device)
        found: list[NDArray[np.float32]] = []
        stop = False
        uniform = protocols(evaluation.segments)[1]
        with (
            torch.no_grad(),
            every_video_once(
                reader, uniform, 0, evaluation.batch_size, evaluation.segments
            ) as batches,
        ):
            for batch in batches:
                found.append(
                    average_features(encoder, reader.to_device(batch)).float().cpu().numpy()
                )
                report(before + sum(map(len, found)))
                if stop := should_stop():
                    break
        vectors = np.concatenate(found)
        made = videos[_KEY].head(len(vectors))
        table = pa.Table.from_pandas(made, preserve_index=False).append_column(
            "feature", vectors_to_arrow(vectors)
        )
        name = hashlib.sha256(json.dumps(made.to_numpy().tolist()).encode()).hexdigest()
        write_table(self._folder / f"{name[:16]}.parquet", table)
        if stop:
            raise Stopped

    def _read(self) -> tuple[list[tuple[str, str]], NDArray[np.float32]]:
        """Return the (video_id, generation) of what is there, and the features; a damaged part counts as none."""
        tables = []
        for file in sorted(self._folder.glob("*.parquet")):
            table = read_table(file)
            if table is not None:
                tables.append(table)
        if not tables:
            return [], np.empty((0, 0), np.float32)
        table = pa.concat_tables(tables)
        keys = list(zip(*(table[name].to_pylist() for name in _KEY), strict=True))
        return keys, vectors_from_arrow(table["feature"])
