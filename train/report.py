"""Pictures of a run."""

import io
import math
import os
from pathlib import Path

from matplotlib.figure import Figure

from stores.atomic import replace_file
from train.checkpoint import require_checkpoint
from train.metrics import read_metrics

_BLUE, _ORANGE = "#0072b2", "#d55e00"  # told apart by colour-blind readers too


def draw_curve(run_path: str | os.PathLike[str]) -> Path:
    """Draw loss and unsupervised accuracy over the steps of a run, with the levels of guessing; returns RUN/curve.png.

    Raises FileNotFoundError when there is no run, ValueError when it has no metrics yet.
    """
    run = Path(run_path)
    require_checkpoint(run)
    metrics = read_metrics(run)
    trained = [line for line in metrics if "loss" in line]
    if not trained:
        raise ValueError(f"{run} has no metrics yet; train it for at least log_every steps")
    classes = trained[-1]["classes"]  # what predictions were really compared with
    steps = [line["step"] for line in trained]
    held_out = [line for line in metrics if line.get("held_out_accuracy") is not None]

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(steps, [line["loss"] for line in trained], color=_BLUE, label="training videos")
    loss.axhline(math.log(classes), color="0.5", linestyle="--", label=f"guessing: log {classes}")
    loss.set(xlabel="step", ylabel="InfoNCE loss (nats)")
    accuracy.plot(steps, [100 * line["accuracy"] for line in trained], color=_BLUE, label="training videos")
    if held_out:
        accuracy.plot(
            [line["step"] for line in held_out],
            [100 * line["held_out_accuracy"] for line in held_out],
            color=_ORANGE,
            marker="o",
            linestyle="none",
            label="held-out videos",
        )
    accuracy.axhline(100 / classes, color="0.5", linestyle="--", label=f"guessing: 1 of {classes}")
    accuracy.set(xlabel="step", ylabel="right segment picked (%)")
    for axes in (loss, accuracy):
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    path = run / "curve.png"
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    replace_file(path, picture.getvalue())
    return path
