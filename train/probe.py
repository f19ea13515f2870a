"""Linear classification: a dense layer on the frozen encoder, beside the same layer on an untrained one."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from stores.atomic import replace_file
from stores.embeddings import vectors_to_arrow
from stores.flow_store import FlowStore, open_store
from train.batches import HostBatch, SegmentReader, choose_device, prefetch
from train.checkpoint import (
    Checkpoint,
    build_encoder,
    check_numerics,
    load_strictly,
    require_checkpoint,
    tensors_to_bytes,
    write_json,
)
from train.config import EVALUATION_SEGMENTS, PretrainConfig, learning_rate, named_seed
from train.encoder import Encoder
from train.scores import PROTOCOLS, score_predictions
from train.selection import random_starts, uniform_starts, videos_in_turn
from train.splits import labelled_split

PRETRAINED, RANDOM = "pretrained", "random"
_SAVE_EVERY = 500  # steps between states of the dense layer
_STATISTICS_BATCHES = 200  # enough for batch norm's means: 25,600 segments at the paper's batch size

Progress = Callable[[int, int, Mapping[str, float | str]], None]


@dataclass(frozen=True)
class LinearResult:
    """What a linear evaluation found.

    Attributes
    ----------
    finished : bool
        False when `should_stop` ended the call early; the same call again goes on.
    table : DataFrame
        One row per encoder (pretrained, random) and protocol (random8, uniform8): top1, top5, mean_class (shares in 0..1), videos, classes, chance.
        Empty until finished.
    path : Path
        The folder of results.parquet and predictions.parquet.
    """

    finished: bool
    table: pd.DataFrame
    path: Path

    def to_text(self) -> str:
        """Return the table as lines for a person, in percent."""
        shown = self.table[["encoder", "protocol", "top1", "top5", "mean_class", "chance", "videos"]].copy()
        for name in ("top1", "top5", "mean_class", "chance"):
            shown[name] = shown[name].map("{:.1%}".format)
        return shown.to_string(index=False)


class _Task(NamedTuple):
    """What both encoders are evaluated on."""

    train: SegmentReader
    test: SegmentReader
    train_labels: NDArray[np.int64]
    test_rows: pd.DataFrame
    classes: list[str]
    config: PretrainConfig
    seed: int
    device: torch.device


class _Stopped(Exception):
    """`should_stop` said so; what was done is saved."""


def evaluate_linear(
    store_path: str | os.PathLike[str],
    run_path: str | os.PathLike[str],
    *,
    fold: int = 1,
    seed: int = 0,
    allow_missing: bool = False,
    progress: Progress = lambda done, total, fields: None,
    announce: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> LinearResult:
    """Train a dense layer on a run's frozen encoder, and one on an untrained encoder, and test both on one fold.

    Eight random segments stand for a training video, their features averaged; a test video is read twice, as eight seeded random and as eight evenly
    spread segments, cropped at the centre (Lorre et al. 2019, section 4.1; spec cpc.md, Evaluation). Every test video counts exactly once. The
    untrained encoder has the pretraining's initial weights and batch-norm statistics of the training videos. Results go to
    RUN/evaluate/linear-fold<F>-seed<S>; the same call again goes on where it stopped, and reads them when they are finished.

    Parameters
    ----------
    fold : int
        Which split of the data set; batches and schedule are the run's `linear_*` settings.
    seed : int
        Decides every draw of the evaluation.
    allow_missing : bool
        Leave out test videos without flow and videos without label instead of refusing.

    Raises
    ------
    ValueError
        Test videos are missing, a group is in both splits, or the store's flow is not of the run's kind.
    FileNotFoundError
        There is no store, or no run.
    """
    store = open_store(store_path)
    checkpoint = require_checkpoint(run_path)
    check_numerics(checkpoint, store.numerics)
    config = checkpoint.config
    train, test, missing = labelled_split(store, fold, allow_missing=allow_missing)
    folder = Path(run_path, "evaluate", f"linear-fold{fold}-seed{seed}")
    _begin(folder, _fingerprint(checkpoint, train, test, fold, seed))
    results = folder / "results.parquet"
    if results.is_file():
        announce(f"read the finished results in {folder}")
        return LinearResult(True, pd.read_parquet(results), folder)

    task = _make_task(store, config, train, test, seed)
    if missing:
        announce(f"{missing} test videos are missing and left out: this is not the accuracy on fold {fold}")
    if config.split == "all":
        announce("the run was pretrained on the flow of the test videos too: its results are transductive")
    announce(f"{len(train)} training and {len(test)} test videos of {len(task.classes)} classes in fold {fold}")
    predictions = []
    try:
        for number, name in enumerate((PRETRAINED, RANDOM)):
            file = folder / f"predictions-{name}.parquet"
            if not file.is_file():
                counted = _Counter(progress, name, number * config.linear_steps, 2 * config.linear_steps)
                encoder = build_encoder(checkpoint) if name == PRETRAINED else None
                _write_table(file, _evaluate_encoder(task, name, encoder, folder, counted, should_stop))
            predictions.append(pq.read_table(file))
    except _Stopped:
        return LinearResult(False, pd.DataFrame(), folder)

    together = pa.concat_tables(predictions)
    _write_table(folder / "predictions.parquet", together)
    about = {"run": Path(run_path).resolve().name, "mode": "linear", "fold": fold, "seed": seed}
    about |= {"pretrain_steps": checkpoint.step, "missing": missing}
    table = score_predictions(together.to_pandas(), task.classes, about)
    _write_table(results, pa.Table.from_pandas(table, preserve_index=False))  # last: it says that all is there
    for name in (PRETRAINED, RANDOM):
        (folder / f"predictions-{name}.parquet").unlink()
        (folder / f"dense-{name}.safetensors").unlink(missing_ok=True)
    return LinearResult(True, table, folder)


def _evaluate_encoder(
    task: _Task,
    name: str,
    encoder: Encoder | None,
    folder: Path,
    counted: "_Counter",
    should_stop: Callable[[], bool],
) -> pa.Table:
    """Return the predictions of one encoder (an untrained one when None) for every test video and protocol."""
    if encoder is None:
        torch.manual_seed(named_seed(task.config.seed, "initial weights"))
        encoder = Encoder(task.config).to(task.device)
        _estimate_statistics(task, encoder, should_stop)
    encoder = encoder.to(task.device).eval().requires_grad_(False)
    dense = _train_dense(task, encoder, folder / f"dense-{name}.safetensors", counted, should_stop)
    tables = []
    for protocol in PROTOCOLS:
        logits = _test_logits(task, encoder, dense, protocol, should_stop)
        rows = task.test_rows[["video_id", "label"]].assign(encoder=name, protocol=protocol)
        rows["predicted"] = [task.classes[best] for best in logits.argmax(axis=1)]
        table = pa.Table.from_pandas(rows, preserve_index=False)
        tables.append(table.append_column("logits", vectors_to_arrow(logits)))
    return pa.concat_tables(tables)


def _train_dense(
    task: _Task, encoder: Encoder, file: Path, counted: "_Counter", should_stop: Callable[[], bool]
) -> nn.Linear:
    """Train the dense layer on averaged features of random segments, going on from `file` when it is there."""
    config = task.config
    torch.manual_seed(named_seed(task.seed, "dense layer"))
    dense = nn.Linear(config.latent_size, len(task.classes)).to(task.device)
    optimizer = torch.optim.SGD(dense.parameters(), lr=1.0, momentum=config.momentum, weight_decay=config.weight_decay)
    momentum = nn.Linear(config.latent_size, len(task.classes)).to(task.device).requires_grad_(False)  # a place to load into
    first = _load_dense(file, dense, momentum)
    if first and config.momentum:
        for parameter, buffer in zip(dense.parameters(), momentum.parameters(), strict=True):
            optimizer.state[parameter]["momentum_buffer"] = buffer.clone()
    labels = torch.from_numpy(task.train_labels).to(task.device)
    seed = named_seed(task.seed, "linear")

    def read(step: int) -> HostBatch:
        return _read_random(task.train, seed, step, config.linear_batch_size)

    with contextlib.closing(prefetch(read, range(first, config.linear_steps))) as loaded:
        for done, batch in enumerate(loaded, start=first + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config.linear_learning_rates, done - 1)
            features = _average_features(encoder, task.train.to_device(batch))
            scores = dense(features)  # (B, classes)
            right = labels[torch.from_numpy(batch.videos).to(task.device)]
            loss = functional.cross_entropy(scores, right)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            stop = should_stop()
            if stop or done % _SAVE_EVERY == 0:
                _save_dense(file, done, dense, optimizer)
            if stop:
                raise _Stopped
            counted(done, loss, scores, right)
    return dense
