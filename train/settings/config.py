"""Everything that decides a run, in one frozen dataclass."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from flowcpc.stores.base.errors import nearest_name

Schedule = tuple[tuple[int, float], ...]  # ((first step, rate), ...)
Size = tuple[int, int]  # (height, width), px

MODELS = {
    "model1": ("tcam", "conv3d", "lstm"),
    "model2": ("lstm", "masked-conv3d"),
}  # and the contexts of each
MODALITIES = ("flow", "image")
NORMS = ("bn", "gn", "ln")
LATENTS = ("after-relu", "before-relu")
SELECTIONS = ("variable", "variable-gaps", "growing", "spaced", "consecutive", "overlap")
FRAMINGS = ("crop", "resize")
NEGATIVES = ("local", "global")
PRECISIONS = ("auto", "float32", "bf16")
SPLITS = ("train", "all")
_MOST = 10_000
_MOST_STEPS = 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the dataclasses of settings have in common."""

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(Settings):
    """Settings of one run; the defaults are the paper's (Lorre et al. 2019, sections 4.3 and 5) with model 1 and Conv3D.

    Parameters
    ----------
    preset : str
        The name that the settings started from; a label.
    model : str
        `model1`: one context from the first segments predicts each later one. `model2`: a context after every segment predicts all later ones.
    context : str
        What turns segments into a context: `tcam`, `conv3d` or `lstm` for model 1, `lstm` or `masked-conv3d` for model 2.
    modality : str
        `flow`, or `image` for the frames that extract-flow stored with --with-frames.
    num_segments, num_observed, num_flows : int
        T segments of N flows (or images) make a sequence; the first `num_observed` are the context, the rest is predicted. 1 for model 2, whose
        contexts begin after one segment.
    selection : str
        How far apart segments start: `consecutive` N flows, `spaced` N + spacing, `overlap` N - spacing, `variable` N + s with s drawn uniformly
        from 0..spacing for every sequence; `variable-gaps` draws an s for every gap, `growing` sorts these. A larger spacing asks for predictions
        further away.
    spacing : int
        Flows left out between segments: always (`spaced`), at most (`variable`, `variable-gaps`, `growing`); flows that two neighbours share
        (`overlap`).
    framing : str
        `crop`: one random place of `size` for the context, another for every predicted segment. `resize`: whole frames brought to `size`.
    size : (int, int)
        Height and width that the encoder sees, px.
    rescale_vectors : bool
        With `resize`, scale u and v as the frame is scaled.
    flip : bool
        Mirror half of the sequences, with u negated.
    width : int
        Channels of the encoder's first stage; latents have 8 * width. 64 is ResNet-18.
    norm : str
        Normalisation of the encoder and of the context: `bn` batch, `gn` group, `ln` layer.
    latent : str
        Whether latents are pooled `after-relu` or `before-relu`, the encoder's last one.
    dropout : float
        Probability of dropping a feature in the context `tcam`.
    difficult_negatives : bool
        Let a video's own other segments be negatives too.
    negatives : str
        Over several processes: `local`, those of a process's own videos, or `global`, those of the whole batch.
    batch_size : int
        Videos in a batch, of all processes together; negatives come from the others, so more make the task harder.
    steps : int
        Iterations. The schedule's boundaries stay where they are: fewer steps cut it off, more go on at its last rate.
    learning_rates : ((first step, rate), ...)
        The rate from each step on, counted from 0.
    momentum, weight_decay : float
        Of SGD.
    precision : str
        Of the forward pass: `float32`, `bf16` (autocast; scores stay float32), or `auto`: bf16 on a GPU, float32 on a CPU.
    fold : int
        Whose split decides which videos are trained on.
    split : str
        `train`, or `all` to pretrain on the test videos' flow too (transductive).
    seed : int
        Decides initial weights and every draw.
    checkpoint_every, log_every, validate_every : int
        Steps between checkpoints, between lines of metrics (a line holds means since the line before), and between measurements on held-out
        videos.
    """

    preset: str = "table1-flow"
    model: str = "model1"
    context: str = "conv3d"
    modality: str = "flow"
    num_segments: int = 8
    num_observed: int = 4
    num_flows: int = 10
    selection: str = "variable"
    spacing: int = 10
    framing: str = "crop"
    size: Size = (224, 224)
    rescale_vectors: bool = False
    flip: bool = False
    width: int = 64
    norm: str = "bn"
    latent: str = "after-relu"
    dropout: float = 0.5
    difficult_negatives: bool = False
    negatives: str = "local"
    batch_size: int = 16
    steps: int = 60_000
    learning_rates: Schedule = ((0, 0.01), (3_000, 0.005), (10_000, 0.001), (20_000, 0.0005))
    momentum: float = 0.9
    weight_decay: float = 1e-4
    precision: str = "auto"
    fold: int = 1
    split: str = "train"
    seed: int = 0
    checkpoint_every: int = 1_000
    log_every: int = 20
    validate_every: int = 5_000

    def __post_init__(self) -> None:
        for name in (
            "num_flows",
            "width",
            "steps",
            "fold",
            "checkpoint_every",
            "log_every",
            "validate_every",
        ):
            _at_least(name, getattr(self, name), 1)
        _at_least(
            "batch_size", self.batch_size, 2, "the negatives are the other videos of the batch"
        )
        _one_of("model", self.model, tuple(MODELS))
        if self.context not in MODELS[self.model]:
            raise ValueError(
                f"context={self.context!r} does not go with model={self.model}; choose one of {', '.join(MODELS[self.model])}"
            )
        if self.model == "model2" and self.num_observed != 1:
            raise ValueError(
                f"num_observed={self.num_observed} does not go with model=model2, whose contexts begin after one segment; set num_observed=1"
            )
        if self.context == "conv3d":
            _at_least(
                "num_observed",
                self.num_observed,
                3,
                "the first 3-D convolution spans three segments",
            )
        _at_least("num_observed", self.num_observed, 1)
        reason = "at least one segment has to be left for the prediction"
        _at_least("num_segments", self.num_segments, self.num_observed + 1, reason)
        for name in ("spacing", "seed", "weight_decay", "momentum", "dropout"):
            _at_least(name, getattr(self, name), 0)
        for name in ("num_segments", "num_flows", "spacing", "width", "batch_size"):
            if getattr(self, name) > _MOST:
                raise ValueError(
                    f"{name}={getattr(self, name)} is too large to be meant; take {_MOST} or less"
                )
        for name, most in (("steps", _MOST_STEPS), ("seed", 2**63 - 1)):
            if getattr(self, name) > most:
                raise ValueError(
                    f"{name}={getattr(self, name):.3g} is too large to be meant; take {most} or less"
                )
        for name, why in (("momentum", "never forget a gradient"), ("dropout", "leave nothing")):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name}={getattr(self, name)} would {why}; take less than 1")
        _one_of("modality", self.modality, MODALITIES)
        _one_of("norm", self.norm, NORMS)
        _one_of("latent", self.latent, LATENTS)
        _one_of("selection", self.selection, SELECTIONS)
        _one_of("framing", self.framing, FRAMINGS)
        _one_of("negatives", self.negatives, NEGATIVES)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("split", self.split, SPLITS)
        if self.selection == "consecutive" and self.spacing:
            raise ValueError(
                f"selection=consecutive leaves no flows out, but spacing={self.spacing}; set spacing=0, or selection=spaced"
            )
        if self.selection == "overlap" and not 0 < self.spacing < self.num_flows:
            raise ValueError(
                f"selection=overlap shares spacing={self.spacing} of num_flows={self.num_flows} flows; take 1 to {self.num_flows - 1}"
            )
        if min(self.size) < 1:
            raise ValueError(
                f"size={self.size} is not (height, width) in px; write for example 224x224"
            )
        if self.rescale_vectors and (self.framing != "resize" or self.modality != "flow"):
            raise ValueError(
                "rescale_vectors=true is for flow that is resized; set framing=resize, or rescale_vectors=false"
            )
        check_schedule("learning_rates", self.learning_rates)

    @property
    def num_predicted(self) -> int:
        """Segments to predict, P."""
        return self.num_segments - self.num_observed

    @property
    def channels(self) -> int:
        """Planes of a stacked segment: u and v of N flows, or three colours of N images."""
        return (2 if self.modality == "flow" else 3) * self.num_flows

    @property
    def shortest_span(self) -> int:
        """Flows that a sequence covers with the smallest stride that `selection` allows."""
        spacing = {"spaced": self.spacing, "overlap": -self.spacing}.get(self.selection, 0)
        return self.num_segments * self.num_flows + (self.num_segments - 1) * spacing

    @property
    def latent_size(self) -> int:
        """Length D of a latent z."""
        return 8 * self.width

    @property
    def classes(self) -> int:
        """How many candidates each prediction is compared with, the right one included."""
        return self.classes_of(1)

    def share_of(self, ranks: int) -> int:
        """Return how many videos of a batch each of `ranks` processes has. Raises ValueError where the batch cannot be shared evenly."""
        if self.batch_size % ranks:
            raise ValueError(
                f"batch_size={self.batch_size} cannot be shared evenly by {ranks} processes; "
                f"set batch_size to a multiple of {ranks}, or start another number of processes"
            )
        return self.batch_size // ranks

    def classes_of(self, ranks: int) -> int:
        """Return the same where `ranks` processes share the batch: with local negatives each has only its own videos.

        Raises ValueError when the batch cannot be shared so.
        """
        share = self.share_of(ranks)
        videos = share if self.negatives == "local" else self.batch_size
        if videos < 2:
            raise ValueError(
                f"negatives=local leaves one video of batch_size={self.batch_size} to each of {ranks} processes, and nothing to tell it from; "
                f"set negatives=global, or batch_size to {2 * ranks} or more"
            )
        return count_classes(videos, self.num_segments, self.difficult_negatives)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "PretrainConfig":
        """Return the settings that `values` holds; all keys must be there. Raises ValueError naming those that are not."""
        wrong = sorted(set(_FIELDS).symmetric_difference(values))
        if wrong:
            raise ValueError(
                f"the saved settings and this release differ in {', '.join(wrong)}; use the release that made the run"
            )
        rates = tuple((int(step), float(rate)) for step, rate in values["learning_rates"])
        return PretrainConfig(**{**values, "learning_rates": rates, "size": tuple(values["size"])})

    def identity(self) -> str:
        """Return 12 hex digits that name the settings, apart from the preset's name and how long the run is."""
        values = {
            name: value for name, value in self.to_json().items() if name not in ("preset", "steps")
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


_FIELDS = tuple(field.name for field in dataclasses.fields(PretrainConfig))


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return words that help whoever wrote `name` where one of `known` is meant."""
    nearest = nearest_name(name, known)
    return f"did you mean {nearest!r}?" if nearest else f"there are {', '.join(known)}"


def _at_least(name: str, value: float, least: float, why: str = "") -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name}={value} is not a finite number; take one")
    if not value >= least:
        raise ValueError(
            f"{name}={value} is too small{f' ({why})' if why else ''}; take {least} or more"
        )


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; {suggestion(value, known)}")


def check_schedule(name: str, schedule: Schedule) -> None:
    """Raise ValueError naming the setting unless `schedule` begins at step 0, goes on and has rates above 0."""
    starts = [step for step, _ in schedule]
    if not schedule or starts[0] != 0 or starts != sorted(set(starts)):
        raise ValueError(
            f"{name} begins at steps {starts}; the first has to be 0 and each later than the one before"
        )
    if not all(0 < rate < float("inf") for _, rate in schedule):
        raise ValueError(
            f"{name} has the rates {[rate for _, rate in schedule]}; every one has to be above 0"
        )


def count_classes(videos: int, segments: int, difficult_negatives: bool) -> int:
    """Return how many candidates a prediction is compared with in a batch of videos of so many segments each, the right one included.

    >>> [count_classes(16, segments, difficult) for segments in (8, 10) for difficult in (False, True)]
    [121, 128, 151, 160]
    """
    return (videos - 1) * segments + (segments if difficult_negatives else 1)


def learning_rate(schedule: Schedule, step: int) -> float:
    """Return the rate of the 0-based `step`: the last one that begins at or before it.

    >>> [learning_rate(((0, 0.1), (3, 0.01)), step) for step in (0, 2, 3, 9)]
    [0.1, 0.1, 0.01, 0.01]
    """
    return [rate for begin, rate in schedule if begin <= step][-1]


def named_seed(seed: int, *names: object) -> int:
    """Return a seed of 63 bits for one purpose of a run; other names give unrelated draws."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
