"""A run looked at: its curve as a picture, and several runs as one HTML page."""

import io
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from flowcpc.stores.base.atomic import replace_file
from flowcpc.stores.flow_store import open_store
from flowcpc.train.report.page import render
from flowcpc.train.report.parts import page_of
from flowcpc.train.report.runs import read_runs
from flowcpc.train.runs.checkpoint import require_checkpoint
from flowcpc.train.runs.metrics import read_metrics

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
    accuracy.plot(
        steps, [100 * line["accuracy"] for line in trained], color=_BLUE, label="training videos"
    )
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


def write_report(
    run_paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    store_path: str | os.PathLike[str] | None = None,
    announce: Callable[[str], None] = lambda message: None,
) -> Path:
    """Write one self-contained HTML page about runs, and of the store that they were evaluated on, and return its path.

    It shows what is there: settings, curves, results beside the paper's and beside what needs no pretraining, predictions class by class; with
    `store_path` a map of the embeddings, nearest neighbours and the data's health too. What is absent is named with the command that makes it.

    Raises
    ------
    ValueError
        No run is named, one twice, a run is damaged, or `out` does not end in .html.
    FileNotFoundError
        A folder holds neither a checkpoint nor results, or there is no store.
    """
    path = Path(out)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            f"{path} does not end in .html, but a page is what is written; name it {path.stem or 'report'}.html"
        )
    if not run_paths:
        raise ValueError("no run is named; name at least one folder that pretrain wrote")
    store = open_store(store_path) if store_path is not None else None
    runs = read_runs(run_paths)
    page = page_of(runs, store, announce)
    replace_file(path, render(page).encode())
    return path
