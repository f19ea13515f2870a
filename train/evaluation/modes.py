"""The modes of an evaluation: which encoders each compares, and which settings decide its results.

This module imports nothing heavy, so that the command line can list the modes.
"""

from typing import NamedTuple

PRETRAINED, RANDOM, SCRATCH = "pretrained", "random", "scratch"  # encoders
SHUFFLED, MOTION = "shuffled labels", "motion statistics"  # baselines on an encoder, without one


class Mode(NamedTuple):
    """What a mode does."""

    name: str
    description: str
    encoders: tuple[str, ...]  # that are compared
    settings: tuple[str, ...]  # of EvaluationConfig that decide the results
    trains: bool  # by SGD; the other modes work on features that are computed once
    frozen: bool  # the encoder is not trained

    @property
    def needs_run(self) -> bool:
        """Whether pretrained weights are evaluated."""
        return PRETRAINED in self.encoders


def labels_in_words(labels: str) -> str:
    """Return labels per class, all or a number, as sentences and headings have them."""
    return "all labels" if labels == "all" else f"{labels} labels per class"


_BOTH = (PRETRAINED, RANDOM)
_READING = ("segments", "batch_size")
_SGD = (*_READING, "momentum", "weight_decay")
_LINEAR = (*_SGD, "linear_steps", "linear_learning_rates")
_FINETUNE = (*_SGD, "finetune_steps", "finetune_learning_rates", "dropout")
_PROBE, _KNN = (*_READING, "strengths"), (*_READING, "neighbours")
_REGRESSION = "logistic regression on features that are computed once (seconds)"
_RECALL = "whether one of the 1, 5, 10, 20, 50 nearest training videos is of the same class"
_ALL = (
    Mode("linear", "a dense layer on the frozen encoder", _BOTH, _LINEAR, True, True),
    Mode("finetune", "encoder and dense layer together", (PRETRAINED,), _FINETUNE, True, False),
    Mode("scratch", "the same from initial weights", (SCRATCH,), _FINETUNE, True, False),
    Mode("random", "a dense layer on an untrained encoder", (RANDOM,), _LINEAR, True, True),
    Mode("probe", _REGRESSION, _BOTH, _PROBE, False, True),
    Mode("knn", "votes of the nearest training videos", _BOTH, _KNN, False, True),
    Mode("retrieval", _RECALL, _BOTH, _READING, False, True),
)
MODES = {mode.name: mode for mode in _ALL}
