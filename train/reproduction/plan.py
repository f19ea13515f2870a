"""A table of the paper at a scale and on a store: the runs and evaluations that it needs."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.data.splits import fold_column
from flowcpc.train.reproduction import paper_tables
from flowcpc.train.reproduction.paper_tables import TABLES, UNSUPERVISED, Column
from flowcpc.train.settings.config import PretrainConfig
from flowcpc.train.settings.presets import PRESETS, Preset, find_preset

SCALES = ("paper", "cpu")
# The scale `cpu` takes the encoder and the steps of the preset `tiny`, but not its learning rate:
# that is for synthetic clips and collapses the latents of real ones (docs/results.md).
_TINY = PRESETS["tiny"].config
_CPU_RATES = ((0, 0.003), (800, 0.0006))
_CPU_SHARE = 0.9  # of the shorter side of a frame that the encoder sees, in multiples of 8 px
_PAPER_SPAN = 150  # flows in the paper's widest selection: eight segments and seven gaps of ten


@dataclass(frozen=True)
class TableRow:
    """A row of a table as it is run."""

    preset: Preset  # has the paper's numbers
    config: PretrainConfig  # at the scale of the plan
    shared: str  # the first preset with the same settings, whose runs the row shares
    refused: str = ""  # why the row cannot be run

    @property
    def name(self) -> str:
        """The name of the preset."""
        return self.preset.config.preset

    def folder(self, fold: int, seed: int) -> str:
        """Return the name of the folder of a run."""
        return f"{self.shared}-fold{fold}-seed{seed}"

    def at(self, fold: int, seed: int) -> PretrainConfig:
        """Return the settings of a run."""
        return dataclasses.replace(self.config, preset=self.shared, fold=fold, seed=seed)

    def paper(self, column: Column) -> float | None:
        """Return the paper's accuracy in percent, or None where it gives none."""
        if column.mode == UNSUPERVISED:
            return self.preset.unsupervised
        numbers = self.preset.linear if column.mode == paper_tables.LINEAR else self.preset.finetune
        return numbers.get(column.labels)

    def mode(self, column: Column) -> str:
        """Return the mode of evaluation that measures a column; initial weights have their own."""
        without_run = {paper_tables.LINEAR: "random", paper_tables.FINETUNE: "scratch"}
        return column.mode if self.preset.pretrained else without_run[column.mode]


@dataclass(frozen=True)
class TablePlan:
    """A table, its rows, and the `units` (fold, seed) in which each row is run."""

    table: paper_tables.PaperTable
    scale: str
    rows: tuple[TableRow, ...]
    units: tuple[tuple[int, int], ...]

    def columns(self, row: TableRow) -> tuple[Column, ...]:
        """Return the columns in which a row has a number."""
        compared = [side.column for side in self.table.sides if side.preset == row.name]
        columns = [one for one in self.table.columns if one in compared or not self.table.findings]
        return tuple(column for column in columns if row.paper(column) is not None)

    def runs(self) -> dict[str, tuple[TableRow, int, int]]:
        """Return the runs, (row, fold, seed) by folder; rows with the same settings share one."""
        return {
            row.folder(fold, seed): (row, fold, seed)
            for row in self.rows
            for fold, seed in self.units
            if row.preset.pretrained and not row.refused
        }

    def to_text(self) -> str:
        """Return the plan as lines for a person: the runs, evaluations and numbers of steps."""
        runs, units = self.runs(), len(self.units)
        steps = sum(row.config.steps for row, _, _ in runs.values())
        lines = [f"{self.table.heading} of the paper, {self.table.title}; scale {self.scale}"]
        for row in self.rows:
            if row.refused:
                lines.append(f"  {row.name}: cannot be run: {row.refused}")
                continue
            columns = [column for column in self.columns(row) if column.mode != UNSUPERVISED]
            modes = ", ".join(f"{row.mode(column)} ({column.labels})" for column in columns)
            pretraining = f"{units} x {row.config.steps:,} steps of pretraining"
            if row.shared != row.name:
                pretraining = f"the run of {row.shared}"
            elif not row.preset.pretrained:
                pretraining = "no pretraining"
            evaluations = f"{units} x {modes}" if modes else "unsupervised accuracy alone"
            lines.append(f"  {row.name}: {pretraining}; {evaluations}")
        folds, seeds = (sorted(set(values)) for values in zip(*self.units, strict=True))
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
) -> TablePlan:
    """Return the plan of a table with the videos of `store`.

    `table` is 1 to 5, or `findings`: the pairs of rows that the paper's findings compare. `scale`
    is `paper` or `cpu` (`cpu_scale`). Every row is run in all `folds`, the splits of the data set,
    with all `seeds`, of the initial weights and of every draw. `changes` are settings of
    PretrainConfig that replace those of every row. Raises ValueError for a name, number or setting
    that is not valid, and for a fold that the store does not have.
    """
    if str(table) not in TABLES:
        raise ValueError(f"there is no table {table}; choose one of {', '.join(TABLES)}")
    if scale not in SCALES:
        raise ValueError(f"scale={scale!r} is unknown; choose one of {', '.join(SCALES)}")
    for name, values in (("folds", folds), ("seeds", seeds)):
        if not values:
            raise ValueError(f"no {name} are given; give at least one, as {name}=1")
        if (key := name.removesuffix("s")) in changes:
            raise ValueError(f"--set {key}=... would apply to all runs; give --{name} instead")
    videos = store.videos()
    batch = min(int((videos[fold_column(videos, fold)] == "train").sum()) for fold in folds)

    def settings(preset: Preset) -> PretrainConfig:
        config = preset.config
        config = cpu_scale(config, store, batch) if scale == "cpu" else config
        return dataclasses.replace(config, **changes)

    shared: dict[str, str] = {}
    for name, preset in PRESETS.items():  # of all tables: they share runs, too
        if preset.pretrained and name != "tiny":
            with contextlib.suppress(ValueError):  # changes may not suit the rows of other tables
                shared.setdefault(settings(preset).identity(), name)
    no_frames = f"{store.path} has no frames, which a run on images needs"
    no_frames += "; extract with --with-frames into a new store"
    rows = []
    for name in TABLES[str(table)].presets:
        preset = find_preset(name)
        try:
            config = settings(preset)
            for seed in seeds:
                dataclasses.replace(config, seed=seed)  # refuses one that no run can have
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        refused = no_frames if config.modality == "image" and not store.has_frames else ""
        owner = shared[config.identity()] if preset.pretrained else name
        rows.append(TableRow(preset, config, owner, refused))
    units = tuple((fold, seed) for fold in dict.fromkeys(folds) for seed in dict.fromkeys(seeds))
    return TablePlan(TABLES[str(table)], scale, tuple(rows), units)


def cpu_scale(config: PretrainConfig, store: FlowStore, most: int) -> PretrainConfig:
    """Return settings of the paper reduced for a CPU; all rows of a table change alike.

    The encoder sees nine tenths of the shorter side of the frames; its width and the steps are
    those of `tiny`. Flows per segment and spacing are multiplied by the store's median video over
    the 150 flows of the paper's widest selection, at most 1, so rows may become the same. A batch
    has at most `most` videos.
    """
    videos = store.videos()
    median = float(videos["flows"].median()) if len(videos) else 0.0
    share = min(1.0, median / _PAPER_SPAN)
    side = min(store.size) if store.size else store.short_side or 1
    side = max(8 * int(_CPU_SHARE * side / 8), min(side, 8))
    flows = max(1, round(share * config.num_flows))
    spacing = max(1, round(share * config.spacing)) if config.spacing else 0
    selection = config.selection
    if selection == "overlap":
        spacing = min(spacing, flows - 1)
        selection = selection if spacing else "consecutive"
    tiny = ("width", "steps", "checkpoint_every", "log_every")
    return dataclasses.replace(
        config,
        num_flows=flows,
        spacing=spacing,
        selection=selection,
        size=(side, side),
        batch_size=max(2, min(config.batch_size, most)),
        learning_rates=_CPU_RATES,
        validate_every=_TINY.steps,
        **{name: getattr(_TINY, name) for name in tiny},
    )
