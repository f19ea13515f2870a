"""The curve of a run as a picture, and several runs as one HTML page."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from flowcpc.stores.base.atomic import replace_file
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.flow_store import open_store
from flowcpc.train.report.parts import page_of
from flowcpc.train.report.runs import read_runs
from flowcpc.train.runs.checkpoint import require_checkpoint
from flowcpc.train.runs.metrics import read_metrics

_BLUE, _ORANGE = "#0072b2", "#d55e00"  # colour-blind readers can tell them apart


def draw_curve(run_path: str | os.PathLike[str]) -> Path:
    """Draw loss and unsupervised accuracy over the steps of a run and return RUN/curve.png.

    Raises FileNotFoundError when there is no run, ValueError when it has no metrics yet.
    """
    from matplotlib.figure import Figure  # takes most of a second to load

    run = Path(run_path)
    require_checkpoint(run)
    metrics = pd.DataFrame(read_metrics(run))
    if "loss" not in metrics:
        raise ValueError(f"{run} has no metrics yet; train it for at least log_every steps")
    trained = metrics.dropna(subset="loss")
    classes = int(trained["classes"].iloc[-1])
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for axes, values, chance, where, unit in (
        (loss, trained["loss"], math.log(classes), "log", "InfoNCE loss (nats)"),
        (accuracy, 100 * trained["accuracy"], 100 / classes, "1 of", "right segment picked (%)"),
    ):
        axes.plot(trained["step"], values, color=_BLUE, label="training videos")
        if axes is accuracy and "held_out_accuracy" in metrics:
            held_out = 100 * metrics["held_out_accuracy"]
            axes.plot(metrics["step"], held_out, "o", color=_ORANGE, label="held-out videos")
        axes.axhline(chance, color="0.5", linestyle="--", label=f"chance: {where} {classes}")
        axes.set(xlabel="step", ylabel=unit)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    replace_file(run / "curve.png", picture.getvalue())
    return run / "curve.png"


def write_report(
    run_paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    store_path: str | os.PathLike[str] | None = None,
    listener: Listener = SILENT,
) -> Path | None:
    """Write one self-contained HTML page about runs and return its path.

    It shows settings, curves, predictions class by class, and results next to those of the paper
    and of baselines without pretraining. With `store_path`, the store that the runs were evaluated
    on, it also shows a map of the embeddings, nearest neighbours and the health of the data. For
    every part that is absent it names the command that makes it. Returns None, and writes nothing,
    when the listener stops it. Raises ValueError if no run is given, if one is given twice or is
    damaged, or if `out` does not end in .html; FileNotFoundError if a folder holds neither a
    checkpoint nor results, or if there is no store.
    """
    path = Path(out)
    if path.suffix.lower() not in (".html", ".htm"):
        name = f"{path.stem or 'report'}.html"
        raise ValueError(f"{path} does not end in .html; a report is a web page, so name it {name}")
    if not run_paths:
        raise ValueError("no run is given; name at least one folder that pretrain wrote")
    store = open_store(store_path) if store_path is not None else None
    page = page_of(read_runs(run_paths), store, listener)
    if page is None:
        return None
    replace_file(path, page.encode())
    return path
