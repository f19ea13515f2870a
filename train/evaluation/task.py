"""What one unit of an evaluation works on: videos, labels, encoders."""

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

from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.data.batches import SegmentReader
from flowcpc.train.evaluation.classifiers.classifier import Stopped
from flowcpc.train.evaluation.classifiers.features import estimate_statistics
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.evaluation.results import EVALUATE
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.runs.checkpoint import Checkpoint, build_encoder
from flowcpc.train.settings.config import PretrainConfig, named_seed

PRETRAINED, RANDOM, SCRATCH = "pretrained", "random", "scratch"
SHUFFLED, MOTION = "shuffled labels", "motion statistics"

# What of the pretraining's settings decides an encoder's shape, what it sees and how it computes.
SEEN = (
    "modality",
    "num_flows",
    "framing",
    "size",
    "rescale_vectors",
    "width",
    "norm",
    "latent",
    "precision",
)


class Unit(NamedTuple):
    """One evaluation: its results stand or fall together."""

    mode: str
    labels: str
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.mode}-{self.labels}-fold{self.fold}-seed{self.seed}"


@dataclass(frozen=True)
class Subject:
    """Whose encoder is evaluated, and where results go.

    Attributes
    ----------
    config : PretrainConfig
    checkpoint : Checkpoint or None
        None where nothing was pretrained.
    path : Path
        The folder that was named for the results, or the run.
    run : str
        The run's name; empty where there is none.
    """

    config: PretrainConfig
    checkpoint: Checkpoint | None
    path: Path
    run: str

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.path / EVALUATE

    def transductive(self, fold: int) -> bool:
        """Return whether the flow of the fold's test videos was pretrained on."""
        return self.checkpoint is not None and (
            self.config.split == "all" or self.config.fold != fold
        )

    def shape(self) -> dict[str, Any]:
        """Return, as JSON values, what decides an encoder's shape, what it sees and how it computes."""
        values = self.config.to_json()
        return {name: values[name] for name in SEEN}


class Split(NamedTuple):
    """The videos of a fold, and how many test videos were left out."""

    train: pd.DataFrame
    test: pd.DataFrame
    missing: int


@dataclass(frozen=True)
class Task:
    """All that a unit needs.

    Attributes
    ----------
    split : Split
        All videos of the fold.
    train : DataFrame
        The training videos that keep their labels.
    """

    unit: Unit
    subject: Subject
    evaluation: EvaluationConfig
    store: FlowStore
    split: Split
    train: pd.DataFrame
    device: torch.device

    @property
    def test(self) -> pd.DataFrame:
        """All test videos."""
        return self.split.test

    @functools.cached_property
    def classes(self) -> list[str]:
        """All labels of the fold, sorted."""
        return sorted(set(self.split.train["label"]) | set(self.test["label"]))

    @functools.cached_property
    def labels(self) -> NDArray[np.int64]:
        """The class of every video of `train`."""
        return np.searchsorted(np.array(self.classes), self.train["label"].to_numpy(str))

    @functools.cached_property
    def shuffled_labels(self) -> NDArray[np.int64]:
        """The same labels, dealt to the videos at random."""
        generator = np.random.default_rng(
            named_seed(self.unit.seed, "shuffled labels", self.unit.fold)
        )
        return generator.permutation(self.labels)

    def reader(self, videos: pd.DataFrame) -> SegmentReader:
        """Return a reader of some videos."""
        return SegmentReader(
            self.store, videos["video_id"].tolist(), self.subject.config, self.device
        )

    def encoder(self, name: str, should_stop: Any) -> Encoder:
        """Return an encoder on the device: of the run, or with initial weights that the seed draws.

        PRETRAINED has the run's weights, SCRATCH initial ones, RANDOM initial ones and batch-norm statistics of all training videos. Raises Stopped.
        """
        if name == PRETRAINED:
            assert self.subject.checkpoint is not None
            return build_encoder(self.subject.checkpoint).to(self.device)
        seed, evaluation = self.unit.seed, self.evaluation
        torch.manual_seed(named_seed(seed, "initial weights"))
        encoder = Encoder(self.subject.config).to(self.device)
        if name == RANDOM and not estimate_statistics(
            encoder,
            self.reader(self.split.train),
            named_seed(seed, "statistics"),
            evaluation.batch_size,
            evaluation.segments,
            should_stop,
        ):
            raise Stopped
        return encoder

    def identity_of(self, name: str) -> list[Any]:
        """Return JSON values that decide what `encoder(name)` is."""
        shape = self.subject.shape()
        if name == PRETRAINED:
            assert self.subject.checkpoint is not None
            return [name, self.subject.checkpoint.sha256, shape]
        settings = [self.evaluation.batch_size, self.evaluation.segments]
        return [name, self.unit.seed, shape, settings, digest_of(self.split.train)]

    def basis(self, settings: tuple[str, ...], *, pretrained: bool) -> dict[str, Any]:
        """Return, as JSON values, all that the unit's results follow from; of the settings those named, and the weights if `pretrained`."""
        values = self.evaluation.to_json()
        checkpoint = self.subject.checkpoint if pretrained else None
        return {
            "unit": self.unit._asdict(),
            "weights": checkpoint.sha256 if checkpoint else None,
            "encoder": self.subject.shape(),
            "settings": {name: values[name] for name in settings},
            "train": digest_of(self.train),
            "all_train": digest_of(self.split.train),
            "test": digest_of(self.test),
        }


def digest_of(videos: pd.DataFrame) -> str:
    """Return a hash of which videos these are, their labels and their flow."""
    rows = videos[["video_id", "label", "generation"]].astype(str).to_numpy().tolist()
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
