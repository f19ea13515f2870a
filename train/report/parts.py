"""Runs and a store -> the parts of a report."""

import json
import shlex
from collections.abc import Callable, Sequence

import numpy as np

from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.plurals import counted
from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.evaluation.modes import MOTION, PRETRAINED, RANDOM
from flowcpc.train.report import accuracies, page, store_health
from flowcpc.train.report.charts import charts, classes_of
from flowcpc.train.report.figures import matrix
from flowcpc.train.report.runs import Run, foremost_predictions
from flowcpc.train.settings import paper
from flowcpc.train.settings.config import PretrainConfig
from flowcpc.train.settings.presets import Preset


def page_of(
    runs: Sequence[Run], store: FlowStore | None, announce: Callable[[str], None]
) -> page.Page:
    """Return everything that the report of `runs` shows."""
    presets = [paper.paper_of(run.config) if run.config else None for run in runs]
    commands = _commands(runs, store)
    maps, no_maps, searches, no_searches = _embeddings(runs, store, commands, announce)
    trained = [run for run in runs if run.config is not None]
    names = ", ".join(run.name for run in runs)
    return page.Page(
        heading=names if len(names) <= 60 else f"{len(runs)} runs",
        lead=_lead(runs, store),
        cards=[_card(number, run, presets[number]) for number, run in enumerate(runs)],
        comparison=_comparison(runs, presets) if len(runs) > 1 else None,
        charts=charts(runs),
        held_out=_held_out(runs),
        accuracies=accuracies.accuracies(runs, presets),
        remarks=_remarks(runs, presets, store),
        recalls=accuracies.recalls(runs),
        confusions=[
            one for number, run in enumerate(runs) if (one := _confusion(number, run)) is not None
        ],
        maps=maps,
        no_maps=no_maps,
        searches=searches,
        no_searches=no_searches,
        health=store_health.health(store, runs) if store is not None else None,
        strides=[
            found for number, run in enumerate(runs) if (found := _strides(number, run)) is not None
        ],
        settings_runs=[run.name for run in trained],
        settings=_settings([run.config for run in trained if run.config is not None]),
        differences=_differences(trained),
        numerics=[(run.name, json.dumps(run.numerics, indent=2)) for run in trained],
        commands=commands,
    )


def _lead(runs: Sequence[Run], store: FlowStore | None) -> str:
    trained = sum(run.config is not None for run in runs)
    what = f"{trained} pretraining {'run' if trained == 1 else 'runs'}"
    if trained < len(runs):
        what += f" and {len(runs) - trained} of evaluations alone"
    return (
        f"{what}, beside the store {store.path.resolve().name}."
        if store is not None
        else f"{what}."
    )


def _commands(runs: Sequence[Run], store: FlowStore | None) -> page.Commands:
    where = shlex.quote(str(store.path)) if store is not None else "STORE"
    run = shlex.quote(str(runs[0].path))
    return page.Commands(
        pretrain=f"flowcpc pretrain {where} {run}",
        evaluate=f"flowcpc evaluate {where} {run} --mode linear",
        retrieval=f"flowcpc evaluate {where} {run} --mode retrieval",
        report=f"flowcpc report {' '.join(shlex.quote(str(one.path)) for one in runs)} --store {where}",
    )


def _card(number: int, run: Run, preset: Preset | None) -> page.Card:
    numbers = []
    ours, untrained, motion = (
        accuracies.best_linear(run, name) for name in (PRETRAINED, RANDOM, MOTION)
    )
    if ours is not None:
        beside = [f"untrained {untrained}" if untrained else "untrained not measured"]
        beside += [f"motion statistics {motion}"] if motion else []
        beside += [f"chance {100 * float(run.results['chance'].iloc[0]):.1f}"]
        beside += (
            [f"paper {preset.linear['all']:.1f} on UCF-101"]
            if preset and "all" in preset.linear
            else []
        )
        numbers.append(page.Headline("linear layer, top-1", f"{ours} %", ", ".join(beside)))
    config = run.config
    trained, held_out = run.line("accuracy"), run.line("held_out_accuracy")
    if config is not None and trained is not None:
        chance = f"chance {100 / classes_of(run):.1f} of {classes_of(run)}"
        value = f"{100 * held_out['held_out_accuracy']:.1f} %" if held_out else "-"
        words = f"{100 * trained['accuracy']:.1f} on training videos, {chance}"
        if preset is not None and preset.unsupervised is not None:
            words += f", paper {preset.unsupervised:.1f}"
        numbers.append(page.Headline("right segment picked, held-out videos", value, words))
    return page.Card(
        name=run.name,
        colour=number,
        what="evaluations that need no run" if config is None else _what(config),
        step=run.step,
        steps=config.steps if config else 0,
        numbers=tuple(numbers),
        verdict=_verdict(ours, untrained, run),
    )


def _what(config: PretrainConfig) -> str:
    spacing = {
        "consecutive": "consecutive",
        "variable": f"variable spacing 0-{config.spacing}",
    }.get(config.selection, f"{config.selection} {config.spacing}")
    return (
        f"{config.preset}: {config.model}, {config.context}, {config.num_segments} segments of {config.num_flows} "
        f"{'flows' if config.modality == 'flow' else 'images'}, {spacing}"
    )


def _verdict(ours: accuracies.Number | None, untrained: accuracies.Number | None, run: Run) -> str:
    if ours is None or untrained is None:
        return ""
    videos = int(run.results["videos"].min())
    return (
        f"{ours.mean - untrained.mean:+.1f} points against the same encoder untrained, on {counted(videos, 'video')} of the test split, "
        f"whose choice alone moves an accuracy by about {accuracies.sampling_error(videos):.1f}."
    )


def _comparison(runs: Sequence[Run], presets: Sequence[Preset | None]) -> page.Comparison:
    columns = (
        "Run", "Preset", "Model", "Steps", "Loss", "Picked, training", "Picked, held out", "Picked, chance",
        "Linear", "Untrained", "Motion statistics", "Chance", "Paper, linear",
    )  # fmt: skip
    rows = []
    for run, preset in zip(runs, presets, strict=True):
        config = run.config
        about = ("-",) * 3
        if config is not None:
            about = (config.preset, f"{config.model}, {config.context}", f"{run.step:,}")
        loss, held_out = run.line("loss"), run.line("held_out_accuracy")
        chance = "-" if run.results.empty else f"{100 * float(run.results['chance'].iloc[0]):.1f}"
        rows.append(
            (
                run.name,
                *about,
                f"{loss['loss']:.3f}" if loss else "-",
                f"{100 * loss['accuracy']:.1f}" if loss else "-",
                f"{100 * held_out['held_out_accuracy']:.1f}" if held_out else "-",
                f"{100 / classes_of(run):.1f}" if config else "-",
                *(
                    str(accuracies.best_linear(run, name) or "-")
                    for name in (PRETRAINED, RANDOM, MOTION)
                ),
                chance,
                f"{preset.linear['all']:.1f}" if preset and "all" in preset.linear else "-",
            )
        )
    return page.Comparison(columns, 2, tuple(rows))


def _held_out(runs: Sequence[Run]) -> str:
    measured = [
        line["held_out_videos"]
        for run in runs
        if (line := run.line("held_out_accuracy")) and "held_out_videos" in line
    ]
    if not measured:
        return "Held-out videos were not measured."
    counts = " or ".join(f"{count:,}" for count in sorted(set(measured)))
    return f"Dots are held-out videos ({counts} of them), with batch norm in eval mode."


def _remarks(
    runs: Sequence[Run], presets: Sequence[Preset | None], store: FlowStore | None
) -> list[str]:
    remarks = []
    for run, preset in zip(runs, presets, strict=True):
        if run.config is None:
            continue
        if run.config.split == "all":
            remarks.append(
                f"{run.name} was pretrained on the test videos' flow too: its results are transductive."
            )
        if preset is not None and len(run.results):
            ours = (
                paper.data_of(store, run.config.fold) if store is not None else "what STORE holds"
            )
            remarks.append(f"The paper's numbers are for {paper.DATA}; {run.name} has {ours}.")
    return remarks


def _confusion(number: int, run: Run) -> page.Confusion | None:
    predictions = foremost_predictions(run)
    if predictions is None:
        return None
    from sklearn.metrics import confusion_matrix  # takes a second to load

    table, where = predictions
    classes = sorted(set(table["label"]) | set(table["predicted"]))
    counts = confusion_matrix(
        table["label"], table["predicted"], labels=classes
    )  # (right, predicted)
    rows = []
    for place in np.flatnonzero(counts.sum(axis=1)):
        own, total = counts[place], int(counts[place].sum())
        others = own.copy()
        others[place] = 0
        mistaken = f"{classes[int(others.argmax())]} ({int(others.max())})" if others.any() else ""
        rows.append(page.ClassRow(classes[place], float(own[place] / total), total, mistaken))
    rows.sort(key=lambda row: (-row.share, row.label))
    return page.Confusion(run.name, number, where, matrix(classes, counts), tuple(rows))


def _embeddings(
    runs: Sequence[Run],
    store: FlowStore | None,
    commands: page.Commands,
    announce: Callable[[str], None],
) -> tuple[
    list[page.RunMap], list[tuple[str, str]], list[page.RunSearch], list[tuple[str, str]]
]:  # maps, why not, searches, why not
    maps, searches = list[page.RunMap](), list[page.RunSearch]()
    if store is None:
        sentence = "Embeddings and flow are in the store; name it:"
        return maps, [(sentence, commands.report)], searches, [(sentence, commands.report)]
    no_maps, no_searches = list[tuple[str, str]](), list[tuple[str, str]]()
    for number, run in enumerate(runs):
        if run.config is None:
            continue
        try:
            found = store_health.whole_videos(store, run)
        except (
            FileNotFoundError,
            ValueError,
            DamagedStoreError,
        ) as error:  # whose sentence says what to do
            no_maps.append((f"{run.name}: {error}.", ""))
            no_searches.append(no_maps[-1])
            continue
        announce(f"placing the embeddings of {run.name}")
        figure = store_health.class_map(*found)
        if figure is None:
            no_maps.append(
                (f"{run.name}: fewer than four labelled videos are too few for a map.", "")
            )
        else:
            maps.append(page.RunMap(run.name, number, figure))
        search = store_health.neighbours(store, *found)
        if search is None:
            no_searches.append(
                (f"{run.name}: neighbours need embeddings of both training and test videos.", "")
            )
        else:
            searches.append(page.RunSearch(run.name, number, search))
    return maps, no_maps, searches, no_searches


def _strides(number: int, run: Run) -> page.Strides | None:
    values = [line["stride"] for line in run.metrics if "stride" in line]
    if not values or run.config is None:
        return None
    low, high = store_health.asked_strides(run.config)
    asked = f"{low}" if low == high else f"{low} to {high}"
    return page.Strides(run.name, number, asked, float(np.mean(values)), min(values), max(values))


def _settings(configs: Sequence[PretrainConfig]) -> list[page.Setting]:
    if not configs:
        return []
    values = [config.to_json() for config in configs]
    rows = []
    for name in values[0]:
        texts = tuple(paper.written(name, one[name]) for one in values)
        rows.append(page.Setting(name, texts, len(set(texts)) > 1))
    return sorted(rows, key=lambda row: not row.differs)


def _differences(runs: Sequence[Run]) -> list[str]:
    sentences = []
    for run in runs:
        assert run.config is not None
        preset = paper.paper_of(run.config)
        if preset is None:
            sentences.append(
                f"{run.name} started from {run.config.preset}, of which the paper has no numbers."
            )
        elif found := paper.differences(run.config, preset.config):
            sentences.append(
                f"{run.name} differs from the paper's {run.config.preset}: {'; '.join(found)}."
            )
        else:
            sentences.append(f"{run.name} has the paper's settings of {run.config.preset}.")
    return sentences
