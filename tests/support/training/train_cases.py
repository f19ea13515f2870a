"""A small store and small settings that the tests of the second stage share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.settings.config import PretrainConfig

# Several test processes share the cores. More threads would make small models many times slower.
torch.set_num_threads(1)

CLASSES = ("Down", "Right")
TRAIN_VIDEOS, TEST_VIDEOS = 8, 5
CONFIG = PretrainConfig(
    preset="test",
    num_segments=4,
    num_observed=3,
    num_flows=2,
    spacing=2,
    size=(16, 16),
    width=2,
    batch_size=4,
    steps=7,
    learning_rates=((0, 0.02), (4, 0.01)),
    checkpoint_every=3,
    log_every=2,
)

EVALUATION = EvaluationConfig(
    linear_steps=6,
    linear_learning_rates=((0, 0.1), (4, 0.01)),
    finetune_steps=6,
    finetune_learning_rates=((0, 0.02), (4, 0.01)),
    batch_size=3,
)
EVALUATION_WORDS = [  # the same on the command line
    "linear_steps=6",
    "linear_learning_rates=0:0.1,4:0.01",
    "finetune_steps=6",
    "finetune_learning_rates=0:0.02,4:0.01",
    "batch_size=3",
]


def small_store(
    tmp_path: Path,
    make_store: Callable[..., Path],
    *,
    lengths: Callable[[int], int] = lambda n: (7 * n) % 21 + 1,
    with_frames: bool = False,
) -> Path:
    """A store of 13 labelled videos, 18x20 px, in two classes.

    The classes differ in the direction of a moving blob. Video n has `lengths(n)` flows; by default
    1 to 15. So many videos are shorter than a sequence, and some are shorter than a segment.
    """
    rng = np.random.default_rng(0)
    videos, labels, groups, folds = {}, {}, {}, {}
    for n in range(TRAIN_VIDEOS + TEST_VIDEOS):
        name = f"v{n:02d}"
        flow = rng.normal(0, 0.2, (lengths(n), 2, 18, 20)).astype(np.float32)
        flow[:, n % 2, 4:14, 5:15] += 3
        videos[name], labels[name], groups[name] = flow, CLASSES[1 - n % 2], f"g{n}"
        folds[name] = {"fold1": "train" if n < TRAIN_VIDEOS else "test"}
    return make_store(
        tmp_path, videos, labels=labels, groups=groups, folds=folds, with_frames=with_frames
    )


class StopAfter:
    """A `should_stop` that becomes true when it is asked for the `count`-th time."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0
