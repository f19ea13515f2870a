"""Everything that decides an evaluation, in one frozen dataclass, with schedules by name."""

import dataclasses
import math

from flowcpc.train.settings.config import Schedule, Settings, check_schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Settings):
    """Settings of an evaluation; the defaults are the paper's (Lorre et al. 2019, section 4.3).

    Parameters
    ----------
    schedule : str
        The name of the schedule that the settings started from; a label.
    segments : int
        Number of segments that represent a video.
    batch_size : int
        Videos in a batch.
    linear_steps, linear_learning_rates
        Iterations and ((first step, rate), ...) of a dense layer on a frozen encoder.
    finetune_steps, finetune_learning_rates
        The same of encoder and dense layer together, from pretrained or initial weights.
    dropout : float
        Probability of dropping a feature before the dense layer when the encoder is trained too.
    momentum, weight_decay : float
        Of SGD.
    strengths : tuple of float
        Inverse regularisations C among which the probe chooses on held-out training videos.
    neighbours : int
        k of kNN.
    """

    schedule: str = "paper"
    segments: int = 8
    batch_size: int = 16
    linear_steps: int = 20_000
    linear_learning_rates: Schedule = ((0, 0.005), (10_000, 0.001))
    finetune_steps: int = 30_000
    finetune_learning_rates: Schedule = ((0, 0.01), (15_000, 0.005))
    dropout: float = 0.8
    momentum: float = 0.9
    weight_decay: float = 1e-4
    strengths: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)
    neighbours: int = 5

    def __post_init__(self) -> None:
        below_one = math.nextafter(1, 0)
        for name, least, most in (
            ("segments", 1, 10_000),
            ("batch_size", 1, 10_000),
            ("neighbours", 1, 10_000),
            ("linear_steps", 1, 10**9),
            ("finetune_steps", 1, 10**9),
            ("dropout", 0, below_one),
            ("momentum", 0, below_one),
            ("weight_decay", 0, math.inf),
        ):
            value = getattr(self, name)
            if not (least <= value <= most and math.isfinite(value)):
                limit = "below 1" if most == below_one else f"at most {most}"
                raise ValueError(f"{name} must be at least {least} and {limit}, got {value}")
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
