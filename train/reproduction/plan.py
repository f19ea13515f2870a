"""A table of the paper at a scale and on a store: the runs and evaluations that fill it."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.data.splits import fold_column
from flowcpc.train.reproduction.paper_tables import (
    FINETUNE,
    LINEAR,
    TABLES,
    UNSUPERVISED,
    Column,
    Table,
)
from flowcpc.train.settings.config import PretrainConfig
from flowcpc.train.settings.presets import PRESETS, Preset, find_preset

SCALES = ("paper", "cpu")
# At the scale `cpu`: encoder and steps of the preset `tiny`. Its rate, for synthetic clips, collapses the latents of real ones (docs/results.md).
_TINY = PRESETS["tiny"].config
_CPU_RATES = ((0, 0.003), (800, 0.0006))
_CPU_SHARE = 0.9  # of a frame's shorter side that the encoder sees, in whole eighths of px
_PAPER_SPAN = (
    150  # flows that the paper's widest selection spans: eight segments of ten, seven gaps of ten
)


@dataclass(frozen=True)
class Row:
    """A row of a table as it is run here.

    Attributes
    ----------
    preset : Preset
        With the paper's numbers.
    config : PretrainConfig
        Its settings at the scale asked for, for the first fold and seed.
    shared : str
        The first preset that has the same settings at this scale, whose run this row uses too; its own name where there is none.
    refused : str
        Why the row cannot be run; empty where it can.
    """

    preset: Preset
    config: PretrainConfig
    shared: str
    refused: str = ""

    @property
    def name(self) -> str:
        """Of the preset."""
        return self.preset.config.preset

    def folder(self, fold: int, seed: int) -> str:
        """Return what the folder of its run is called."""
        return f"{self.shared}-fold{fold}-seed{seed}"

    def at(self, fold: int, seed: int) -> PretrainConfig:
        """Return the settings of its run in one fold with one seed."""
        return dataclasses.replace(self.config, preset=self.shared, fold=fold, seed=seed)

    def paper(self, column: Column) -> float | None:
        """Return the paper's accuracy in percent."""
        if column.mode == UNSUPERVISED:
            return self.preset.unsupervised
        numbers = self.preset.linear if column.mode == LINEAR else self.preset.finetune
        return numbers.get(column.labels)

    def mode(self, column: Column) -> str:
        """Return the mode of evaluation that measures a column: initial weights have modes of their own."""
        return (
            column.mode
            if self.preset.pretrained
            else {LINEAR: "random", FINETUNE: "scratch"}[column.mode]
        )


@dataclass(frozen=True)
class Plan:
    """A table and what fills it: a row per preset; every row in each of `units` (fold, seed)."""

    table: Table
    scale: str
    rows: tuple[Row, ...]
    units: tuple[tuple[int, int], ...]

    def columns(self, row: Row) -> tuple[Column, ...]:
        """Return the columns that a row has."""
        return tuple(
            column
            for column in self.table.columns
            if row.paper(column) is not None and self.table.compares(row.name, column)
        )

    def runs(self) -> dict[str, tuple[Row, int, int]]:
        """Return the pretrainings by the folder they go to, each once: row, fold, seed."""
        return {
            row.folder(fold, seed): (row, fold, seed)
            for row in self.rows
            for fold, seed in self.units
            if row.preset.pretrained and not row.refused
        }

    def to_text(self) -> str:
        """Return the plan as lines for a person: what would be run, and how many steps that is."""
        runs = self.runs()
        steps = sum(row.config.steps for row, _, _ in runs.values())
        lines = [f"{self.table.heading} of the paper, {self.table.title}; scale {self.scale}"]
        for row in self.rows:
            config, columns = row.config, self.columns(row)
            modes = ", ".join(
                dict.fromkeys(
                    f"{row.mode(one)} ({one.labels})" for one in columns if one.mode != UNSUPERVISED
                )
            )
            if row.refused:
                lines.append(f"  {row.name}: cannot be run: {row.refused}")
                continue
            pretraining = (
                f"{len(self.units)} x {config.steps:,} steps of pretraining"
                if row.preset.pretrained
                else "no pretraining"
            )
            pretraining = pretraining if row.shared == row.name else f"the run of {row.shared}"
            evaluations = f"{len(self.units)} x {modes}" if modes else "unsupervised accuracy alone"
            lines.append(f"  {row.name}: {pretraining}; {evaluations}")
        folds, seeds = (sorted({unit[place] for unit in self.units}) for place in (0, 1))
        lines.append(f"folds {', '.join(map(str, folds))}; seeds {', '.join(map(str, seeds))}")
        lines.append(f"{len(runs)} runs, {steps:,} steps of pretraining in all")
        return "\n".join(lines)


def make_plan(
    store: FlowStore,
    table: int | str,
    *,
    scale: str = "paper",
    folds: Sequence[int] = (1,),
    seeds: Sequence[int] = (0,),
    changes: Mapping[str, Any] = {},
) -> Plan:
    """Return what fills a table (flowcpc.train.reproduction.paper_tables.TABLES) with the videos of `store`; `changes` are settings of PretrainConfig put into every row.

    Raises ValueError when a name, a number or a setting cannot be taken, or the store has no such fold.
    """
    if str(table) not in TABLES:
        raise ValueError(
            f"the paper has no table {table} of this kind; choose one of {', '.join(TABLES)}"
        )
    if scale not in SCALES:
        raise ValueError(f"scale={scale!r} is unknown; choose one of {', '.join(SCALES)}")
    for name, values in (("folds", folds), ("seeds", seeds)):
        if not values:
            raise ValueError(f"no {name} are given; give at least one, as {name}=1")
    for key, option in (("fold", "--folds"), ("seed", "--seeds")):
        if key in changes:
            raise ValueError(
                f"--set {key}=... would be the same for all runs of a row; give {option}"
            )
    videos = store.videos()
    for fold in folds:
        fold_column(videos, fold)
    asked = TABLES[str(table)]
    batch = min(_training_videos(videos, fold) for fold in folds)
    seen: dict[str, str] = {}
    # Runs of other tables are found again where the settings are the same, so all presets are looked through.
    for name, preset in PRESETS.items():
        if preset.pretrained and name != "tiny":
            # What other tables' rows cannot be given concerns them alone.
            with contextlib.suppress(ValueError):
                seen.setdefault(
                    _settings_of(preset.config, store, scale, changes, batch).identity(), name
                )
    rows = []
    for name in asked.presets:
        preset = find_preset(name)
        try:
            config = _settings_of(preset.config, store, scale, changes, batch)
            for seed in seeds:  # one that no run can have is refused before the first run
                dataclasses.replace(config, seed=seed)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        refused = ""
        if config.modality == "image" and not store.has_frames:
            refused = f"{store.path} has no frames, which a run on images needs; extract with --with-frames into a new store"
        shared = seen[config.identity()] if preset.pretrained else name
        rows.append(Row(preset, config, shared, refused))
    units = tuple((fold, seed) for fold in dict.fromkeys(folds) for seed in dict.fromkeys(seeds))
    return Plan(asked, scale, tuple(rows), units)


def _settings_of(
    config: PretrainConfig, store: FlowStore, scale: str, changes: Mapping[str, Any], batch: int
) -> PretrainConfig:
    small = cpu_scale(config, store, batch) if scale == "cpu" else config
    return dataclasses.replace(small, **changes)


def _training_videos(videos: pd.DataFrame, fold: int) -> int:
    return int((videos[fold_column(videos, fold)] == "train").sum())


def cpu_scale(config: PretrainConfig, store: FlowStore, most: int) -> PretrainConfig:
    """Return settings of the paper brought to the size of a store and of a CPU: what a table compares stays, all rows change alike.

    Input: nine tenths of the frames' shorter side. Encoder and steps: those of `tiny`; smaller rates. Flows per segment and spacing shrink as the
    store's median video is shorter than the 150 flows that the paper's widest selection spans, rounded, so rows may become the same. Batch: at
    most `most` videos, those that every fold has for training.
    """
    videos = store.videos()
    median = float(videos["flows"].median()) if len(videos) else 0.0
    share = min(1.0, median / _PAPER_SPAN)
    side = min(store.height, store.width) if store.height and store.width else store.short_side or 1
    side = max(8 * int(_CPU_SHARE * side / 8), min(side, 8))
    flows = max(1, round(share * config.num_flows))
    spacing = max(1, round(share * config.spacing)) if config.spacing else 0
    selection = config.selection
    if selection == "overlap":
        spacing = min(spacing, flows - 1)
        selection = selection if spacing else "consecutive"
    return dataclasses.replace(
        config,
        num_flows=flows,
        spacing=spacing,
        selection=selection,
        size=(side, side),
        width=_TINY.width,
        batch_size=max(2, min(config.batch_size, most)),
        steps=_TINY.steps,
        learning_rates=_CPU_RATES,
        checkpoint_every=_TINY.checkpoint_every,
        log_every=_TINY.log_every,
        validate_every=_TINY.steps,
    )
