"""Runs and a store -> the parts of a report."""

import json
import math
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from flowcpc.stores.base.errors import DamagedStoreError, counted
from flowcpc.stores.base.listener import Listener
from flowcpc.stores.embeddings import read_embeddings
from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.evaluation.modes import MOTION, PRETRAINED, RANDOM
from flowcpc.train.report import accuracies, neighbours, store_health
from flowcpc.train.report.figures import Chart, Line, line_chart
from flowcpc.train.report.page import Bar, Row, Table, render
from flowcpc.train.report.runs import Run, foremost_predictions
from flowcpc.train.settings import paper
from flowcpc.train.settings.config import PretrainConfig


def page_of(runs: Sequence[Run], store: FlowStore | None, listener: Listener) -> str | None:
    """Return the report of `runs` as HTML; None when the listener stops it."""
    names = ", ".join(run.name for run in runs)
    commands = _commands(runs, store)
    absent: list[Any] = []  # a sentence, and the command that makes the part
    if store is None:
        absent = [("Embeddings and flow are in the store; name it:", commands["report"])]
    parts = {"maps": [], "searches": [], "no_maps": absent, "no_searches": [*absent]}
    for run in runs:
        if listener.should_stop():
            return None
        if store is None or run.config is None:
            continue
        try:
            rows, vectors = read_embeddings(store, run.path, level="video")
        except (FileNotFoundError, ValueError, DamagedStoreError) as error:
            for name in ("no_maps", "no_searches"):
                parts[name].append((f"{run.name}: {error}.", ""))  # which says what to do
            continue
        labelled = rows["label"].notna().to_numpy()
        rows, vectors = rows[labelled].reset_index(drop=True), vectors[labelled]
        listener.announce(f"placing the embeddings of {run.name}")
        if figure := neighbours.class_map(run, rows, vectors):
            parts["maps"].append(figure)
        else:
            parts["no_maps"].append((f"{run.name}: a map needs at least four labelled videos.", ""))
        if search := neighbours.search(store, run, rows, vectors):
            parts["searches"].append(search)
        else:
            reason = "neighbours need embeddings of both training and test videos."
            parts["no_searches"].append((f"{run.name}: {reason}", ""))
    trained = [(run, run.config) for run in runs if run.config is not None]
    return render(
        heading=names if len(names) <= 60 else f"{len(runs)} runs",
        lead=_lead(len(runs), len(trained), store),
        cards=[_card(run) for run in runs],
        comparison=_comparison(runs) if len(runs) > 1 else None,
        charts=_charts(runs),
        held_out=_held_out(runs),
        accuracies=accuracies.accuracy_tables(runs),
        remarks=_remarks(trained, store),
        recalls=accuracies.recall_table(runs),
        confusions=[one for run in runs if (one := _confusion(run)) is not None],
        health=store_health.health(store, runs) if store else None,
        strides=_strides(trained),
        settings=_settings(trained) if trained else None,
        differences=[_difference(run, config) for run, config in trained],
        numerics=[(run.name, json.dumps(run.numerics, indent=2)) for run, _ in trained],
        commands=commands,
        **parts,
    )


def _lead(runs: int, trained: int, store: FlowStore | None) -> str:
    lead = counted(trained, "run of pretraining")
    if trained < runs:
        lead += f" and {counted(runs - trained, 'folder')} of evaluations alone"
    return f"{lead}, with the store {store.path.resolve().name}." if store else f"{lead}."


def _commands(runs: Sequence[Run], store: FlowStore | None) -> dict[str, str]:
    """Return the commands that make the parts of a report."""
    paths = [shlex.quote(str(run.path)) for run in runs]
    where = shlex.quote(str(store.path)) if store is not None else "STORE"
    return {
        "pretrain": f"flowcpc pretrain {where} {paths[0]}",
        "evaluate": f"flowcpc evaluate {where} {paths[0]} --mode linear",
        "retrieval": f"flowcpc evaluate {where} {paths[0]} --mode retrieval",
        "report": f"flowcpc report {' '.join(paths)} --store {where}",
    }


def _card(run: Run) -> dict[str, Any]:
    """Return a run in a few numbers: (what, value, values to compare it with)."""
    numbers = []
    verdict = ""
    ours, untrained, motion = (
        accuracies.best_linear(run, name) for name in (PRETRAINED, RANDOM, MOTION)
    )
    preset, config = run.paper, run.config
    if ours is not None:
        others = [f"untrained {untrained or 'not measured'}"]
        others += [f"motion statistics {motion}"] if motion else []
        others += [f"chance {100 * run.results['chance'].iloc[0]:.1f}"]
        if preset and "all" in preset.linear:
            others += [f"paper {preset.linear['all']:.1f} on UCF-101"]
        numbers.append(("linear layer, top-1", f"{ours} %", ", ".join(others)))
    if ours is not None and untrained is not None:
        videos = int(run.results["videos"].min())
        verdict = (
            f"{ours.mean - untrained.mean:+.1f} points relative to the untrained encoder, on "
            f"{counted(videos, 'video of the test split')}: the standard error of one accuracy is "
            f"at most {accuracies.sampling_error(videos):.1f} points."
        )
    accuracy = run.last("accuracy")
    if config is not None and accuracy is not None:
        chance = f"chance {100 / run.candidates:.1f} of {run.candidates}"
        words = f"{100 * accuracy:.1f} on training videos, {chance}"
        if preset is not None and preset.unsupervised is not None:
            words += f", paper {preset.unsupervised:.1f}"
        held_out = _percent(run, "held_out_accuracy")
        value = held_out if held_out == "-" else f"{held_out} %"
        numbers.append(("right segment picked, held-out videos", value, words))
    what = _description(config) if config else "evaluations that need no run"
    return {"run": run, "description": what, "numbers": numbers, "verdict": verdict}


def _description(config: PretrainConfig) -> str:
    named = {"consecutive": "consecutive", "variable": f"variable spacing 0-{config.spacing}"}
    spacing = named.get(config.selection, f"{config.selection} {config.spacing}")
    inputs = f"{config.num_flows} {'flows' if config.modality == 'flow' else 'images'}"
    model = f"{config.preset}: {config.model}, {config.context}"
    return f"{model}, {config.num_segments} segments of {inputs}, {spacing}"


def _percent(run: Run, metric: str) -> str:
    share = run.last(metric)
    return "-" if share is None else f"{100 * share:.1f}"


def _comparison(runs: Sequence[Run]) -> Table:
    columns = {"Run": "run", "Preset": "text", "Model": "text"}
    numbers = ["Steps", "Loss", "Picked, training", "Picked, held out", "Picked, chance"]
    numbers += ["Linear", "Untrained", "Motion statistics", "Chance", "Paper"]
    columns |= dict.fromkeys(numbers, "n")
    rows = []
    for run in runs:
        config, loss = run.config, run.last("loss")
        cells = (
            run.name,
            config.preset if config else "-",
            f"{config.model}, {config.context}" if config else "-",
            f"{run.step:,}" if config else "-",
            "-" if loss is None else f"{loss:.3f}",
            _percent(run, "accuracy"),
            _percent(run, "held_out_accuracy"),
            f"{100 / run.candidates:.1f}" if config else "-",
            *(accuracies.best_linear(run, name) or "-" for name in (PRETRAINED, RANDOM, MOTION)),
            "-" if run.results.empty else f"{100 * run.results['chance'].iloc[0]:.1f}",
            (run.paper and run.paper.linear.get("all")) or "-",
        )
        rows.append(Row(cells, run.colour))
    caption = "Accuracies in percent, mean ± standard deviation over seeds and folds."
    return Table("Runs side by side", caption, columns, rows, "compare")


def _charts(runs: Sequence[Run]) -> list[Chart]:
    """Return the charts of the metrics; those without a value are left out."""

    def lines(key: str, factor: float = 1, held_out: bool = False) -> list[Line]:
        tables = [(run, run.metrics.dropna(subset=key)) for run in runs if key in run.metrics]
        name = ", held out" if held_out else ""
        return [
            Line(f"{run.name}{name}", run.colour, table["step"], factor * table[key], held_out)
            for run, table in tables
        ]

    counts = sorted({run.candidates for run in runs if len(run.metrics)})
    loss = [*lines("loss"), *lines("held_out_loss", held_out=True)]
    picked = [*lines("accuracy", 100), *lines("held_out_accuracy", 100, held_out=True)]
    by_chance = {math.log(count): f"chance, log {count}" for count in counts}
    drawn = {100 / count: f"chance, 1 of {count}" for count in counts}
    charts = (
        line_chart("InfoNCE loss", "nats", loss, levels=by_chance),
        line_chart("Right segment picked", "%", picked, levels=drawn),
        line_chart("Learning rate", "", lines("learning_rate"), log=True),
        line_chart("Bound on mutual information", "nats", lines("information_bound")),
        line_chart("Effective rank of the latents", "directions", lines("effective_rank")),
        line_chart("Stride", "flows", lines("stride")),
        line_chart("Time of a step", "ms", lines("step_time", 1000)),
    )
    return [chart for chart in charts if chart is not None]


def _held_out(runs: Sequence[Run]) -> str:
    counts = sorted({count for run in runs if (count := run.last("held_out_videos"))})
    if not counts:
        return "No held-out videos were measured."
    videos = " or ".join(f"{count:,.0f}" for count in counts)
    return f"Dots are held-out videos ({videos} of them), with batch norm in eval mode."


def _remarks(trained: Sequence[tuple[Run, PretrainConfig]], store: FlowStore | None) -> list[str]:
    remarks = []
    for run, config in trained:
        if config.split == "all":
            what = f"{run.name} was pretrained on the flow of the test videos, too"
            remarks.append(f"{what}: its results are transductive.")
        if run.paper is not None and len(run.results):
            data = paper.data_of(store, config.fold) if store else "the videos of STORE"
            remarks.append(f"The paper's numbers are for {paper.DATA}; {run.name} has {data}.")
    return remarks


def _confusion(run: Run) -> dict[str, Any] | None:
    """Return the predictions of a run: `counts` by class (rows) and predicted class (columns)."""
    predictions = foremost_predictions(run)
    if predictions is None:
        return None
    from sklearn.metrics import confusion_matrix  # takes a second to load

    table, origin = predictions
    classes = sorted(set(table["label"]) | set(table["predicted"]))
    counts = confusion_matrix(table["label"], table["predicted"], labels=classes)
    rows = []
    for place in np.flatnonzero(counts.sum(axis=1)):
        others = counts[place].copy()
        right, total = int(others[place]), int(others.sum())
        others[place] = 0
        mistaken = f"{classes[others.argmax()]} ({others.max()})" if others.any() else "-"
        share = 100 * right / total
        cells = (classes[place], Bar(f"{share:.0f} %", share), total, mistaken)
        rows.append((-share, classes[place], Row(cells)))
    ordered = [row for _, _, row in sorted(rows)]
    columns = {"Class": "text", "Right": "bar", "Of": "n", "Most often predicted instead": "text"}
    by_class = Table("Accuracy of each class", "Best class first.", columns, ordered, "tall")
    return {
        "run": run,
        "origin": origin,
        "classes": classes,
        "counts": counts.tolist(),
        "is_large": len(classes) > 26,  # needs the width of the page, has no space for numbers
        "table": by_class,
    }


def _strides(trained: Sequence[tuple[Run, PretrainConfig]]) -> Table | None:
    rows = []
    for run, config in trained:
        if "stride" in run.metrics:
            low, high = store_health.asked_strides(config)
            asked = f"{low}" if low == high else f"{low} to {high}"
            drawn = run.metrics["stride"].agg(["mean", "min", "max"])
            rows.append(Row((run.name, asked, *map("{:.2f}".format, drawn)), run.colour))
    columns = {"Run": "run", "Asked for": "text", "Mean": "n", "Minimum": "n", "Maximum": "n"}
    caption = "Flows from the start of a segment to the next, averaged over each metrics line."
    return Table("Strides used", caption, columns, rows) if rows else None


def _settings(trained: Sequence[tuple[Run, PretrainConfig]]) -> Table:
    values = [config.to_json() for _, config in trained]
    rows = []
    for name in values[0]:
        texts = [paper.written(name, one[name]) for one in values]
        rows.append(Row((name, *texts), style="differs" if len(set(texts)) > 1 else ""))
    rows.sort(key=lambda row: not row.style)
    caption = "All settings" + ("; those that differ come first." if len(trained) > 1 else "")
    columns = {"Setting": "text"} | {run.name: "text" for run, _ in trained}
    return Table("Settings", caption, columns, rows, "settings")


def _difference(run: Run, config: PretrainConfig) -> str:
    """Return a sentence that compares the settings of a run with those of its preset."""
    if run.paper is None:
        return f"{run.name} started from {config.preset}, for which the paper reports no numbers."
    if phrases := paper.differences(config, run.paper.config):
        return f"{run.name} differs from the paper's {config.preset}: {'; '.join(phrases)}."
    return f"{run.name} has the paper's settings of {config.preset}."
