"""How settings of finetuning do on videos of the train split that are held out by groups; the test
split is never opened.

python -m benchmarks.training.finetune_held_out STORE RUN SEED [KEY=VALUE ...]

Prints a row of docs/training/evaluation.md: top-1 (uniform8) of finetune and scratch, each with all
labels and with 5 per class, and the losses that training began and ended with.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np

from flowcpc.commands.settings import with_settings
from flowcpc.stores.base.listener import Fields, Listener
from flowcpc.stores.flow_store import open_store
from flowcpc.train.data.batches import choose_device
from flowcpc.train.data.splits import labelled_split
from flowcpc.train.evaluation.classifiers.probe import cross_validation_parts
from flowcpc.train.evaluation.config import SCHEDULES
from flowcpc.train.evaluation.label_subsets import choose_labelled
from flowcpc.train.evaluation.modes import MODES
from flowcpc.train.evaluation.predictions import predict_by_training
from flowcpc.train.evaluation.scoring.scores import score_predictions
from flowcpc.train.evaluation.unit import EncoderSource, EvaluationUnit
from flowcpc.train.runs.checkpoint import require_checkpoint


class Losses(Listener):
    """Collects the losses that training shows."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def progress(self, done: int, total: int, fields: Fields) -> None:
        """Add a loss that is new."""
        if "loss" in fields and fields["loss"] not in self.losses[-1:]:
            self.losses.append(float(fields["loss"]))


def held_out_accuracy(unit: EvaluationUnit) -> tuple[float, float, float]:
    """Return top-1 on the held-out videos, and the means of the first and the last losses shown."""
    listener = Losses()
    unit.folder.begin()
    rows = predict_by_training(unit, unit.mode.encoders[0], listener).to_pandas()
    losses = listener.losses
    scores = score_predictions(rows, unit.classes, {}).set_index("protocol")
    return (
        float(scores.loc["uniform8", "top1"]),
        float(np.mean(losses[:3])),
        float(np.mean(losses[-3:])),
    )


def main() -> None:
    """Train, and print the row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store")
    parser.add_argument("run")
    parser.add_argument("seed", type=int)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    store, checkpoint = open_store(arguments.store), require_checkpoint(arguments.run)
    config, seed = with_settings(SCHEDULES["cpu"], arguments.settings), arguments.seed
    train = labelled_split(store, 1, allow_missing=False)[0]
    held = cross_validation_parts(train, seed) == 0  # a fifth of the groups
    kept, judged = (train[chosen].reset_index(drop=True) for chosen in (~held, held))
    cells, losses = [], []
    for mode, labels in itertools.product(("finetune", "scratch"), (None, 5)):
        labelled = kept
        if labels is not None:
            labelled, _ = choose_labelled(kept, labels, seed=seed, fold=1)
        with tempfile.TemporaryDirectory() as folder:
            unit = EvaluationUnit(
                MODES[mode],
                labels,
                1,
                seed,
                EncoderSource(
                    checkpoint.config, checkpoint, Path(arguments.run).name, Path(folder)
                ),
                config,
                store,
                choose_device(),
                kept,
                judged,
                0,
                labelled,
            )
            share, first, last = held_out_accuracy(unit)
        cells.append(f"{share:.1%}")
        losses.append(f"{first:.2f} -> {last:.2f}")
    name = f"{', '.join(arguments.settings) or 'cpu'}, seed {seed}"
    print("|", " | ".join([name, *cells, f"{len(judged)} clips", ", ".join(losses)]))


if __name__ == "__main__":
    main()
