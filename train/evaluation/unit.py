"""A unit of an evaluation (mode x labels x fold x seed): its videos, labels and encoders."""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from flowcpc.stores.base.listener import Listener
from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.data.batches import SegmentReader
from flowcpc.train.evaluation.classifiers.features import estimate_statistics
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.evaluation.modes import PRETRAINED, RANDOM, SHUFFLED, Mode
from flowcpc.train.evaluation.results import UnitFolder, labels_text, unit_name
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.runs.checkpoint import Checkpoint, build_encoder
from flowcpc.train.settings.config import PretrainConfig, named_seed

# The settings of the pretraining that decide an encoder's input, shape and arithmetic.
_INPUT = ("modality", "num_flows", "framing", "size", "rescale_vectors")
ENCODER_SETTINGS = (*_INPUT, "width", "norm", "latent", "precision")


class EncoderSource(NamedTuple):
    """Where the evaluated encoder comes from, and the folder of the results."""

    config: PretrainConfig
    checkpoint: Checkpoint | None  # None without a run
    run: str  # its name, empty without a run
    folder: Path


@dataclass(frozen=True)
class EvaluationUnit:
    """A mode, labels per class, a fold and a seed. Its results are finished together."""

    mode: Mode
    labels: int | None  # training videos per class; None for all
    fold: int
    seed: int
    source: EncoderSource
    evaluation: EvaluationConfig
    store: FlowStore
    device: torch.device
    all_train: pd.DataFrame  # the labelled training videos of the fold
    test: pd.DataFrame
    missing: int  # test videos that were left out
    train: pd.DataFrame  # the training videos that keep their labels

    @property
    def name(self) -> str:
        """The name of the unit's folder."""
        return unit_name(self.mode.name, labels_text(self.labels), self.fold, self.seed)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The pretrained weights, None if the mode uses none."""
        return self.source.checkpoint if self.mode.needs_run else None

    @property
    def is_transductive(self) -> bool:
        """Whether the encoder was pretrained on the flow of the test videos."""
        config = self.source.config
        return self.checkpoint is not None and (config.split == "all" or config.fold != self.fold)

    @property
    def cost(self) -> int:
        """Steps of progress."""
        steps = len(self.train) + len(self.test)
        if self.mode.trains:
            steps, _ = self.evaluation.training(frozen=self.mode.frozen)
        return len(self.mode.encoders) * steps

    @functools.cached_property
    def folder(self) -> UnitFolder:
        """The folder of the results."""
        return UnitFolder(self.source.folder / self.name, self._basis())

    @functools.cached_property
    def classes(self) -> list[str]:
        """All labels of the fold, sorted."""
        return sorted(set(self.all_train["label"]) | set(self.test["label"]))

    @functools.cached_property
    def targets(self) -> NDArray[np.int64]:
        """The class of every video of `train`."""
        return np.searchsorted(np.array(self.classes), self.train["label"].to_numpy(str))

    def targets_by_head(self, encoder: str) -> dict[str, NDArray[np.int64]]:
        """Return what classifiers on an encoder learn: its targets, and for SHUFFLED shuffled ones.

        Shuffled targets are learned on the mode's first encoder only, and only if it is frozen.
        """
        targets = {encoder: self.targets}
        if self.mode.frozen and encoder == self.mode.encoders[0]:
            draws = named_seed(self.seed, "shuffled labels", self.fold)
            targets[SHUFFLED] = np.random.default_rng(draws).permutation(self.targets)
        return targets

    def reader(self, videos: pd.DataFrame) -> SegmentReader:
        """Return a reader of some videos."""
        ids = videos["video_id"].tolist()
        return SegmentReader(self.store, ids, self.source.config, self.device)

    def encoder(self, name: str, listener: Listener) -> Encoder:
        """Return an encoder on the device.

        PRETRAINED has the weights of the run, SCRATCH initial weights drawn by the seed, RANDOM the
        same with batch-norm statistics of all training videos. Raises Stopped.
        """
        if name == PRETRAINED:
            assert self.checkpoint is not None
            return build_encoder(self.checkpoint).to(self.device)
        torch.manual_seed(named_seed(self.seed, "initial weights"))
        encoder = Encoder(self.source.config).to(self.device)
        if name == RANDOM:
            draws = named_seed(self.seed, "statistics")
            reader = self.reader(self.all_train)
            estimate_statistics(encoder, reader, draws, self.evaluation, listener)
        return encoder

    def encoder_identity(self, name: str) -> list[Any]:
        """Return JSON values that decide what `encoder(name)` is."""
        if name == PRETRAINED:
            assert self.checkpoint is not None
            return [name, self.checkpoint.sha256, self._encoder_settings()]
        reading = [self.evaluation.batch_size, self.evaluation.segments]
        train = digest_of(self.all_train)
        return [name, self.seed, self._encoder_settings(), reading, train]

    def finished_results(self) -> pd.DataFrame | None:
        """Return the finished results; None if there are none.

        Names of run, preset and schedule may have changed since; they do not decide the results.
        """
        table = self.folder.results()
        return None if table is None else table.assign(**self.columns())

    def columns(self) -> dict[str, Any]:
        """Return the columns that identify the results of this unit."""
        return {
            "run": self.source.run,
            "preset": self.source.config.preset,
            "mode": self.mode.name,
            "labels_per_class": labels_text(self.labels),
            "fold": self.fold,
            "seed": self.seed,
            "pretrain_steps": self.checkpoint.step if self.checkpoint else 0,
            "schedule": self.evaluation.schedule,
            "transductive": self.is_transductive,
            "missing": self.missing,
        }

    def _basis(self) -> dict[str, Any]:
        """Return, as JSON values, everything that decides the results."""
        settings = self.evaluation.to_json()
        unit = {"mode": self.mode.name, "labels": labels_text(self.labels)}
        return {
            "unit": {**unit, "fold": self.fold, "seed": self.seed},
            "weights": self.checkpoint.sha256 if self.checkpoint else None,
            "encoder": self._encoder_settings(),
            "settings": {name: settings[name] for name in self.mode.settings},
            "train": digest_of(self.train),
            "all_train": digest_of(self.all_train),
            "test": digest_of(self.test),
        }

    def _encoder_settings(self) -> dict[str, Any]:
        settings = self.source.config.to_json()
        return {name: settings[name] for name in ENCODER_SETTINGS}


def digest_of(videos: pd.DataFrame) -> str:
    """Return a hash of the names, labels and flow generations of videos."""
    rows = videos[["video_id", "label", "generation"]].astype(str).to_numpy().tolist()
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
