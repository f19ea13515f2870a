"""Everything that decides an evaluation, in one frozen dataclass, with schedules by name."""

import dataclasses
import math

from flowcpc.train.settings.config import Schedule, Settings, check_numbers, check_schedule

_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("segments", "batch_size", "neighbours"), (1, 10_000)),
    **dict.fromkeys(("linear_steps", "finetune_steps"), (1, 10**9)),
    "weight_decay": (0, 1e9),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Settings):
    """Settings of an evaluation; the defaults are the paper's (Lorre et al. 2019, section 4.3)."""

    schedule: str = "paper"  # the name of the schedule that the settings started from; a label
    segments: int = 8  # that represent a video
    batch_size: int = 16  # videos
    linear_steps: int = 20_000  # of SGD of a dense layer on a frozen encoder
    linear_learning_rates: Schedule = ((0, 0.005), (10_000, 0.001))  # (first step, rate), ...
    finetune_steps: int = 30_000  # of encoder and dense layer together, from any weights
    finetune_learning_rates: Schedule = ((0, 0.01), (15_000, 0.005))
    dropout: float = 0.8  # of a feature before the dense layer when the encoder is trained too
    momentum: float = 0.9
    weight_decay: float = 1e-4
    # Inverse regularisations C; the probe chooses by cross-validation on training videos.
    strengths: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)
    neighbours: int = 5  # k of kNN

    def __post_init__(self) -> None:
        check_numbers(self, _RANGES)
        if not self.strengths or not all(0 < value < math.inf for value in self.strengths):
            raise ValueError(f"strengths must be numbers above 0, got {self.strengths}")
        for name in ("linear_learning_rates", "finetune_learning_rates"):
            check_schedule(name, getattr(self, name))

    def training(self, *, frozen: bool) -> tuple[int, Schedule]:
        """Return iterations and learning rates of SGD on a frozen or a trained encoder."""
        if frozen:
            return self.linear_steps, self.linear_learning_rates
        return self.finetune_steps, self.finetune_learning_rates


SCHEDULES = {
    "paper": EvaluationConfig(),
    "cpu": EvaluationConfig(  # for the preset `tiny`: some hundred small videos
        schedule="cpu",
        linear_steps=500,
        linear_learning_rates=((0, 0.05), (400, 0.01)),
        finetune_steps=500,
        finetune_learning_rates=((0, 0.02), (400, 0.005)),
        dropout=0.5,
    ),
}


def schedule_of(preset: str) -> str:
    """Return the name of the schedule that goes with a preset of the pretraining."""
    return "cpu" if preset == "tiny" else "paper"
