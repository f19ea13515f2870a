"""Everything that decides an evaluation, in one frozen dataclass: the paper's schedules, and ones for a CPU."""

import dataclasses

from flowcpc.train.settings.config import Schedule, Settings, check_schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Settings):
    """Settings of an evaluation; the defaults are the paper's (Lorre et al. 2019, section 4.3; spec cpc.md, Evaluation).

    Parameters
    ----------
    schedule : str
        The name that the settings started from; a label.
    segments : int
        Segments that stand for a video.
    batch_size : int
        Videos in a batch.
    linear_steps, linear_learning_rates
        Of the dense layer on a frozen encoder: iterations, and ((first step, rate), ...).
    finetune_steps, finetune_learning_rates
        Of encoder and dense layer together, from pretrained weights or from scratch.
    dropout : float
        Probability of dropping a feature before the dense layer while the encoder is trained too.
    momentum, weight_decay : float
        Of SGD.
    strengths : tuple of float
        Inverse regularisations C that the probe on cached features chooses from, on a hold-out of the training videos.
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
        most = dict.fromkeys(("segments", "batch_size", "neighbours"), 10_000)
        most |= dict.fromkeys(("linear_steps", "finetune_steps"), 10**9)
        for name, limit in most.items():
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is too small; take 1 or more")
            if getattr(self, name) > limit:
                raise ValueError(
                    f"{name}={getattr(self, name):.3g} is too large to be meant; take {limit} or less"
                )
        for name in ("dropout", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name}={getattr(self, name)} is not within 0..1; take 0 or more and less than 1"
                )
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay={self.weight_decay} is no weight; take 0 or more")
        if not self.strengths or not all(0 < value < float("inf") for value in self.strengths):
            raise ValueError(
                f"strengths={self.strengths} has to hold numbers above 0, such as 0.01,0.1"
            )
        for name in ("linear_learning_rates", "finetune_learning_rates"):
            check_schedule(name, getattr(self, name))

    def training(self, *, frozen: bool) -> tuple[int, Schedule]:
        """Return iterations and learning rates of the SGD on a frozen encoder, or of the one that trains the encoder too."""
        if frozen:
            return self.linear_steps, self.linear_learning_rates
        return self.finetune_steps, self.finetune_learning_rates


SCHEDULES = {
    "paper": EvaluationConfig(),
    "cpu": EvaluationConfig(  # for what the preset `tiny` pretrains: some hundred small videos
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
