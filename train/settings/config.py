"""The settings of a pretraining, in one frozen dataclass."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from flowcpc.stores.base.errors import nearest_name

Schedule = tuple[tuple[int, float], ...]  # ((first step, rate), ...)
Size = tuple[int, int]  # (height, width), px

# The models, and the contexts of each.
MODELS = {"model1": ("tcam", "conv3d", "lstm"), "model2": ("lstm", "masked-conv3d")}
MODALITIES = ("flow", "image")
NORMS = ("bn", "gn", "ln")
LATENTS = ("after-relu", "before-relu")
SELECTIONS = ("variable", "variable-gaps", "growing", "spaced", "consecutive", "overlap")
_CHOICES = {
    "model": tuple(MODELS),
    "modality": MODALITIES,
    "norm": NORMS,
    "latent": LATENTS,
    "selection": SELECTIONS,
    "framing": ("crop", "resize"),
    "negatives": ("local", "global"),
    "precision": ("auto", "float32", "bf16"),
    "split": ("train", "all"),
}
_RANGES: dict[str, tuple[float, float]] = {  # smallest and largest value
    **dict.fromkeys(("num_observed", "num_segments", "num_flows", "width", "fold"), (1, 10_000)),
    "spacing": (0, 10_000),
    "batch_size": (2, 10_000),  # the negatives are the other videos of the batch
    **dict.fromkeys(("steps", "checkpoint_every", "log_every", "validate_every"), (1, 10**9)),
    "seed": (0, 2**63 - 1),
    "weight_decay": (0, 1e9),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the dataclasses of settings have in common."""

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(Settings):
    """Settings of one run; the defaults are those of Lorre et al. 2019 (4.3, 5 and table 1)."""

    preset: str = "table1-flow"  # name of the preset that the settings started from
    # model1: one context from the first segments predicts each later one. model2: a context after
    # every segment predicts all later ones.
    model: str = "model1"
    # Network from segments to a context, one of MODELS[model].
    context: str = "conv3d"
    # flow, or image for the frames stored by extract-flow --with-frames.
    modality: str = "flow"
    # T segments of N flows (or images) make a sequence. The first `num_observed` are the context,
    # the rest is predicted; 1 for model 2, whose first context is after one segment.
    num_segments: int = 8
    num_observed: int = 4
    num_flows: int = 10
    # Distance of segment starts: consecutive N flows, spaced N + spacing, overlap N - spacing,
    # variable N + s with s uniform in 0..spacing, drawn for every sequence; variable-gaps draws s
    # for every gap, growing sorts these. A larger distance asks for predictions further away.
    selection: str = "variable"
    # Flows left out between segments: always (spaced), at most (variable, variable-gaps, growing);
    # flows that two neighbours share (overlap).
    spacing: int = 10
    # crop: one random crop of `size` for the context and another for every predicted segment.
    # resize: whole frames resized to `size`.
    framing: str = "crop"
    size: Size = (224, 224)  # height and width that the encoder sees, px
    rescale_vectors: bool = False  # with resize, scale u and v as the frame is scaled
    flip: bool = False  # mirror half of the sequences, with u negated
    # Channels of the encoder's first stage; latents have 8 * width. 64 is ResNet-18.
    width: int = 64
    norm: str = "bn"  # of encoder and context: bn batch, gn group, ln layer
    latent: str = "after-relu"  # latents are pooled after or before the encoder's last ReLU
    dropout: float = 0.5  # probability of dropping a feature in the context tcam
    difficult_negatives: bool = False  # a video's own other segments are negatives too
    # With several processes: local, from a process's own videos, or global, from the batch.
    negatives: str = "local"
    # Videos in a batch of all processes. Negatives come from the others, so more of them make the
    # task harder.
    batch_size: int = 16
    steps: int = 60_000  # iterations; they do not move the boundaries of `learning_rates`
    # The rate from each step on, counted from 0.
    learning_rates: Schedule = ((0, 0.01), (3_000, 0.005), (10_000, 0.001), (20_000, 0.0005))
    momentum: float = 0.9  # of SGD
    weight_decay: float = 1e-4  # of SGD
    # Of the forward pass: float32, bf16 (autocast; scores stay float32), or auto: bf16 on a GPU,
    # float32 on a CPU.
    precision: str = "auto"
    fold: int = 1  # its split decides which videos are trained on
    split: str = "train"  # or all, to pretrain on the test videos' flow too (transductive)
    seed: int = 0  # decides initial weights and every draw
    checkpoint_every: int = 1_000  # steps
    log_every: int = 20  # steps; a line of metrics is their mean
    validate_every: int = 5_000  # steps between measurements on held-out videos

    def __post_init__(self) -> None:
        check_numbers(self, _RANGES)
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name}={value!r} is unknown; {suggestion(value, choices)}")
        if self.context not in MODELS[self.model]:
            with_model = f"{', '.join(MODELS[self.model])} with model={self.model}"
            raise ValueError(f"context must be one of {with_model}, got {self.context!r}")
        if self.model == "model2" and self.num_observed != 1:
            raise ValueError(f"num_observed must be 1 with model=model2, got {self.num_observed}")
        if self.context == "conv3d" and self.num_observed < 3:
            raise ValueError(
                "num_observed must be at least 3 with context=conv3d, whose first convolution "
                f"spans three segments, got {self.num_observed}"
            )
        if self.num_segments <= self.num_observed:
            raise ValueError(
                f"num_segments must be at least {self.num_observed + 1}, one segment more than "
                f"num_observed={self.num_observed}, got {self.num_segments}"
            )
        if self.selection == "consecutive" and self.spacing:
            raise ValueError(
                f"selection=consecutive leaves no flows out: set spacing=0, got {self.spacing}"
            )
        if self.selection == "overlap" and not 0 < self.spacing < self.num_flows:
            raise ValueError(
                f"spacing must be 1 to {self.num_flows - 1} with selection=overlap and "
                f"num_flows={self.num_flows}, got {self.spacing}"
            )
        if min(self.size) < 1:
            raise ValueError(f"size must be height x width in px, such as 224x224, got {self.size}")
        if self.rescale_vectors and (self.framing != "resize" or self.modality != "flow"):
            raise ValueError(
                "rescale_vectors=true is for resized flow; set framing=resize and modality=flow"
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
        """Candidates of each prediction in one process, the right one included."""
        return self.classes_of(1)

    def share_of(self, ranks: int) -> int:
        """Return how many videos of a batch each of `ranks` processes has.

        Raises ValueError if the batch cannot be shared evenly.
        """
        if self.batch_size % ranks:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes, {ranks}, "
                f"got {self.batch_size}"
            )
        return self.batch_size // ranks

    def classes_of(self, ranks: int) -> int:
        """Return the candidates of each prediction when `ranks` processes share the batch.

        Raises ValueError if the batch cannot be shared so.
        """
        share = self.share_of(ranks)
        videos = share if self.negatives == "local" else self.batch_size
        if videos < 2:
            raise ValueError(
                f"negatives=local with batch_size={self.batch_size} leaves one video and no "
                f"negatives to each of {ranks} processes; set negatives=global, or batch_size to "
                f"{2 * ranks} or more"
            )
        return count_classes(videos, self.num_segments, self.difficult_negatives)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "PretrainConfig":
        """Return the settings in `values`. Raises ValueError naming missing and unknown ones."""
        names = {field.name for field in dataclasses.fields(PretrainConfig)}
        if wrong := sorted(names.symmetric_difference(values)):
            raise ValueError(
                f"the saved settings and this release differ in {', '.join(wrong)}; "
                "use the release that made the run"
            )
        rates = tuple((int(step), float(rate)) for step, rate in values["learning_rates"])
        return PretrainConfig(**{**values, "learning_rates": rates, "size": tuple(values["size"])})

    def identity(self) -> str:
        """Return 12 hex digits that name the settings other than `preset` and `steps`."""
        values = self.to_json()
        del values["preset"], values["steps"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return a hint for a user who wrote `name` instead of one of `known`."""
    nearest = nearest_name(name, known)
    return f"did you mean {nearest!r}?" if nearest else f"choose one of {', '.join(known)}"


def check_numbers(config: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raise ValueError naming a number outside of its range, for momentum and dropout [0, 1)."""
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
        if value > most:
            raise ValueError(f"{name} must be at most {most}, got {value}")
    for name in ("momentum", "dropout"):
        if not 0 <= (value := getattr(config, name)) < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


def check_schedule(name: str, schedule: Schedule) -> None:
    """Raise ValueError naming the setting unless steps rise from 0 and rates are above 0."""
    starts = [step for step, _ in schedule]
    if not schedule or starts[0] != 0 or starts != sorted(set(starts)):
        raise ValueError(f"the steps of {name} must begin at 0 and rise, got {starts}")
    rates = [rate for _, rate in schedule]
    if not all(0 < rate < float("inf") for rate in rates):
        raise ValueError(f"the rates of {name} must be above 0 and finite, got {rates}")


def count_classes(videos: int, segments: int, difficult_negatives: bool) -> int:
    """Return the candidates of a prediction in a batch, the right one included.

    >>> count_classes(16, 8, difficult_negatives=False), count_classes(16, 8, True)
    (121, 128)
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
