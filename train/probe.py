"""Linear classification: a dense layer on the frozen encoder, beside the same layer on an untrained one."""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from stores.atomic import replace_file
from stores.embeddings import vectors_to_arrow
from stores.flow_store import FlowStore, open_store
from stores.progress import Progress
from train.batches import HostBatch, SegmentReader, choose_device
from train.checkpoint import (
    Checkpoint,
    build_encoder,
    check_numerics,
    load_strictly,
    part_of,
    require_checkpoint,
    restore_momentum,
    sgd_momentum,
    tensors_to_bytes,
    write_json,
)
from train.config import EVALUATION_SEGMENTS, PretrainConfig, learning_rate, named_seed
from train.encoder import Encoder
from train.features import average_features, estimate_statistics, read_random
from train.loader import loading
from train.scores import PROTOCOLS, score_predictions
from train.selection import random_segments, uniform_segments
from train.splits import labelled_split

PRETRAINED, RANDOM = "pretrained", "random"
AIM_POINTS = 5  # less than this above an untrained encoder shows little
_SAVE_EVERY = 500  # steps between states of the dense layer
_SHOW_EVERY = 20


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
        return f"{shown.to_string(index=False)}\n\n{self._verdict()}"

    def _verdict(self) -> str:
        """Return a sentence that says plainly whether pretraining was worth it."""
        rows = self.table[self.table["protocol"] == "uniform8"].set_index("encoder")
        top1 = rows["top1"]
        points = 100 * float(top1[PRETRAINED] - top1[RANDOM])
        # Of a difference between two shares of n videos, taken as independent.
        error = 100 * float(np.sqrt((top1 * (1 - top1) / rows["videos"]).sum()))
        verdict = "reached" if points >= AIM_POINTS else "NOT reached"
        doubt = " The difference is within its standard error." if abs(points) <= error else ""
        times = float(top1[PRETRAINED]) / float(self.table["chance"].iloc[0])
        return (
            f"pretrained - random encoder (uniform8): {points:+.1f} points (standard error {error:.1f}); "
            f"the aim of {AIM_POINTS:+d} points is {verdict}. Pretrained is {times:.1f} times chance.{doubt}"
        )


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
    _begin(folder, _fingerprint(checkpoint, train, test))
    if missing:
        announce(f"{missing} test videos are missing and left out: this is not the accuracy on fold {fold}")
    if config.split == "all" or config.fold != fold:
        announce("the run was pretrained on the flow of the test videos too: its results are transductive")
    results = folder / "results.parquet"
    if results.is_file():
        with contextlib.suppress(pa.ArrowInvalid):  # damaged results are made again
            table = pd.read_parquet(results)
            announce(f"read the finished results in {folder}")
            return LinearResult(True, table, folder)

    task = _make_task(store, config, train, test, seed)
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
        if not estimate_statistics(encoder, task.train, named_seed(task.seed, "statistics"), should_stop):
            raise _Stopped
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
    parameters = dict(dense.named_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=1, momentum=config.momentum, weight_decay=config.weight_decay)
    first = 0
    if file.is_file():
        state = safetensors.torch.load(file.read_bytes())
        first = int(state["step"])
        load_strictly(dense, part_of(state, "dense"))
        restore_momentum(optimizer, parameters, part_of(state, "momentum"))

    def save(step: int) -> None:
        tensors = {f"dense.{name}": value for name, value in dense.state_dict().items()}
        tensors |= {f"momentum.{name}": value for name, value in sgd_momentum(optimizer, parameters).items()}
        replace_file(file, tensors_to_bytes({**tensors, "step": torch.tensor(step)}))

    labels = torch.from_numpy(task.train_labels).to(task.device)
    read = functools.partial(read_random, task.train, named_seed(task.seed, "linear"), config.linear_batch_size)
    with loading(read, range(first, config.linear_steps)) as loaded:
        for done, batch in enumerate(loaded, start=first + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config.linear_learning_rates, done - 1)
            scores = dense(average_features(encoder, task.train.to_device(batch)))  # (B, classes)
            right = labels[torch.from_numpy(batch.videos).to(task.device)]
            loss = functional.cross_entropy(scores, right)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            counted(done, loss, scores, right)
            stop = should_stop()
            if stop or done % _SAVE_EVERY == 0 or done == config.linear_steps:
                save(done)
            if stop:
                raise _Stopped
    return dense


def _test_logits(
    task: _Task, encoder: Encoder, dense: nn.Linear, protocol: str, should_stop: Callable[[], bool]
) -> NDArray[np.float32]:
    """Return logits (videos, classes) of every test video, each read once."""
    reader = task.test
    videos = np.arange(len(reader.flows))
    counts = {"num_segments": EVALUATION_SEGMENTS, "num_flows": task.config.num_flows}
    if protocol == "random8":
        segments = random_segments(reader.shots, videos, seed=named_seed(task.seed, "test"), step=0, **counts)
    else:
        segments = uniform_segments(reader.shots, videos, **counts)
    edges = np.linspace(0, len(videos), -(-len(videos) // task.config.linear_batch_size) + 1).astype(int).tolist()

    def read(rows: slice) -> HostBatch:
        part = segments.part(rows)
        return reader.read(part, reader.center_corners(part.videos, part.starts))

    logits = []
    with torch.no_grad(), loading(read, itertools.starmap(slice, itertools.pairwise(edges))) as loaded:
        for batch in loaded:
            if should_stop():
                raise _Stopped
            logits.append(dense(average_features(encoder, reader.to_device(batch))).cpu())
    return torch.cat(logits).numpy()


class _Counter:
    """Progress over both encoders: the second one begins where the first ended."""

    def __init__(self, progress: Progress, encoder: str, before: int, total: int) -> None:
        self._progress = progress
        self._before = before
        self._total = total
        self._fields: dict[str, float | str] = {"encoder": encoder}

    def __call__(self, done: int, loss: Tensor, scores: Tensor, right: Tensor) -> None:
        if done % _SHOW_EVERY == 0:  # asking a GPU for a number waits for it
            hits = (scores.argmax(dim=1) == right).float()
            self._fields |= {"loss": loss.item(), "acc": hits.mean().item()}
        self._progress(self._before + done, self._total, self._fields)


def _make_task(store: FlowStore, config: PretrainConfig, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> _Task:
    classes = sorted(set(train["label"]) | set(test["label"]))
    number = {label: place for place, label in enumerate(classes)}
    device = choose_device()
    train_reader, test_reader = (
        SegmentReader(store, rows["video_id"].tolist(), config, device) for rows in (train, test)
    )
    labels = np.array([number[label] for label in train["label"]], np.int64)
    return _Task(train_reader, test_reader, labels, test, classes, config, seed, device)


def _fingerprint(checkpoint: Checkpoint, train: pd.DataFrame, test: pd.DataFrame) -> str:
    """Return a hash of all that decides the results, beside fold and seed: weights, settings and videos."""
    columns = ["video_id", "label", "generation"]
    videos = [rows[columns].astype(str).to_numpy().tolist() for rows in (train, test)]
    value = json.dumps([checkpoint.sha256, checkpoint.config.to_json(), videos])
    return hashlib.sha256(value.encode()).hexdigest()


def _begin(folder: Path, fingerprint: str) -> None:
    """Make sure that what `folder` holds was computed from the same things, and remove it otherwise."""
    file = folder / "evaluation.json"
    if file.is_file() and json.loads(file.read_bytes())["fingerprint"] == fingerprint:
        return
    for pattern in ("*.parquet", "*.safetensors"):
        for old in folder.glob(pattern):
            old.unlink()
    write_json(file, {"fingerprint": fingerprint})


def _write_table(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    replace_file(path, buffer.getvalue())
