"""The numbers of a table: means over folds and seeds, and the findings judged pair by pair."""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from flowcpc.stores.base.atomic import replace_file
from flowcpc.train.reproduction.paper_tables import PaperFinding, Side
from flowcpc.train.reproduction.plan import TablePlan

_SHARES = ["ours", "in_training", "random", "motion", "chance"]


class Measurement(NamedTuple):
    """A cell of a table in one unit: accuracies in 0..1, NaN where one was not measured."""

    preset: str
    mode: str
    labels: str
    fold: int
    seed: int
    chance: float  # like `random` and `motion`, a baseline of `ours`
    ours: float = math.nan
    in_training: float = math.nan  # unsupervised, on training videos
    random: float = math.nan
    motion: float = math.nan


def summarise_rows(
    plan: TablePlan, measurements: Sequence[Measurement], failed: Mapping[str, str]
) -> pd.DataFrame:
    """Return `Reproduction.table`: a row per row and column of a table, with means over units.

    `failed` maps the presets of rows that are incomplete to the reasons.
    """
    measured, rows = _as_table(measurements), []
    for row in plan.rows:
        for column in plan.columns(row):
            cell = _cell(measured, Side(row.name, column))
            found = {
                "table": plan.table.name,
                "scale": plan.scale,
                "preset": row.name,
                "measure": column.mode,
                "labels_per_class": column.labels,
                **cell[_SHARES].mean().to_dict(),
                "std": cell["ours"].std(),
                "units": int(cell["ours"].count()),
                "paper": (row.paper(column) or math.nan) / 100,
                "run": row.shared,
                "reason": failed.get(row.name, "" if len(cell) else "not run yet"),
            }
            rows.append(found)
    return pd.DataFrame(rows)


def compare(
    plan: TablePlan, measurements: Sequence[Measurement], failed: Mapping[str, str]
) -> pd.DataFrame:
    """Return a row per finding of a table; empty where the table has none.

    Both sides of a finding are compared in the same fold with the same seed. Columns: finding;
    higher and lower (means over those units, shares in 0..1); difference and std (over units, in
    points); units; agree (units in which the finding holds); asked and paper (points); holds
    (whether it holds for the mean difference; None without units); reason (why there are no units).
    """
    measured = _as_table(measurements)
    rows = []
    for finding in plan.table.findings:
        sides = {"higher": finding.higher, "lower": finding.lower}
        cells = {
            name: _cell(measured, side)["random" if side.untrained else "ours"]
            for name, side in sides.items()
        }
        pairs = pd.DataFrame(cells).dropna()
        # Shares differ by whole videos: anything smaller is rounding and must not decide a tie.
        points = (100 * (pairs["higher"] - pairs["lower"])).round(9) + 0.0
        difference = round(float(points.mean()), 9) + 0.0
        lacking = " and ".join(side.preset for side in sides.values() if side.preset in failed)
        reason = f"{lacking} failed" if lacking else "not run yet"
        found = {
            "finding": finding.claim,
            "higher": pairs["higher"].mean(),
            "lower": pairs["lower"].mean(),
            "difference": difference,
            "std": points.std(),
            "units": len(pairs),
            "agree": sum(_holds(finding, one) for one in points),
            "asked": finding.points,
            "paper": _paper_points(plan, finding),
            "holds": _holds(finding, difference) if len(pairs) else None,
            "reason": "" if len(pairs) else reason,
        }
        rows.append(found)
    return pd.DataFrame(rows)


def units_written(path: Path) -> int:
    """Return the units in the tables next to the Markdown `path`; 0 where none can be read."""
    cells = _cells_path(path)
    with contextlib.suppress(OSError, ValueError, KeyError):
        table = pd.read_parquet(cells if cells.exists() else path.with_suffix(".parquet"))
        return int(table["units"].sum())
    return 0


def write_reproduction(path: Path, text: str, table: pd.DataFrame, findings: pd.DataFrame) -> None:
    """Write the tables next to the Markdown `path`, then the text, which never precedes them."""
    tables = {path.with_suffix(".parquet"): table}
    if len(findings):
        tables = {path.with_suffix(".parquet"): findings, _cells_path(path): table}
    for file, rows in tables.items():
        data = io.BytesIO()
        rows.to_parquet(data, index=False)
        replace_file(file, data.getvalue())
    replace_file(path, text.encode())


def _cells_path(path: Path) -> Path:
    """Return the path of the accuracies that findings, which have the plain name, compare."""
    return path.with_name(f"{path.stem}-cells.parquet")


def _as_table(measurements: Sequence[Measurement]) -> pd.DataFrame:
    table = pd.DataFrame(list(measurements), columns=list(Measurement._fields))
    return table.astype(dict.fromkeys(_SHARES, float)).set_index(["fold", "seed"])


def _cell(measured: pd.DataFrame, side: Side) -> pd.DataFrame:
    """Return the measurements of a cell, indexed by unit."""
    keys = {"preset": side.preset, "mode": side.column.mode, "labels": side.column.labels}
    return measured[(measured[list(keys)] == pd.Series(keys)).all(axis=1)]


def _holds(finding: PaperFinding, points: float) -> bool:
    return points >= finding.points if finding.or_equal or finding.points else points > 0


def _paper_points(plan: TablePlan, finding: PaperFinding) -> float:
    """Return the paper's difference; its untrained encoder is in table 5 alone."""
    rows = {row.name: row for row in plan.rows}
    higher, lower = (
        rows["table5-random" if side.untrained else side.preset].paper(side.column)
        for side in (finding.higher, finding.lower)
    )
    return math.nan if higher is None or lower is None else higher - lower
