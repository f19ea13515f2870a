"""What the units of a table come to: means over folds and seeds, and the paper's findings judged pair by pair."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from flowcpc.stores.base.atomic import replace_file
from flowcpc.train.reproduction.paper_tables import Finding, Side
from flowcpc.train.reproduction.plan import Plan

_SHARES = ("ours", "in_training", "random", "motion", "chance")
_UNIT = ["fold", "seed"]


def summarise_rows(
    plan: Plan, values: Sequence[Mapping[str, object]], failed: Mapping[str, str]
) -> pd.DataFrame:
    """Return one row per row and column of a table, with means over units; `flowcpc.train.reproduction.reproduce.Reproduction.table`.

    `values` has a row per unit: preset, mode, labels, fold, seed, ours, and what stands beside; `failed` the reasons of rows that are not whole.
    """
    rows = []
    measured = _measured(values)
    for row in plan.rows:
        for column in plan.columns(row):
            kept = measured[(measured["preset"] == row.name) & (measured["mode"] == column.mode)]
            kept = kept[kept["labels"] == column.labels]
            means = {name: pd.to_numeric(kept[name]).mean() for name in _SHARES}
            theirs = row.paper(column)
            rows.append(
                {
                    "table": plan.table.name,
                    "scale": plan.scale,
                    "preset": row.name,
                    "measure": column.mode,
                    "labels_per_class": column.labels,
                    **means,
                    "std": pd.to_numeric(kept["ours"]).std(),
                    "units": int(kept["ours"].notna().sum()),
                    "paper": theirs / 100 if theirs is not None else None,
                    "run": row.shared,
                    "reason": failed.get(row.name, "" if len(kept) else "not run yet"),
                }
            )
    return pd.DataFrame(rows)


def compare(
    plan: Plan, values: Sequence[Mapping[str, object]], failed: Mapping[str, str]
) -> pd.DataFrame:
    """Return one row per finding of a table; none where the table has no findings.

    Both sides of a finding are taken in the same fold with the same seed. Columns: finding; higher, lower (shares, means over those units);
    difference and std (points; over units), units, agree (units in which the finding holds by itself), asked (points), paper (points), holds
    (whether the mean difference is what was asked for; None without units), and reason where there are no units.
    """
    measured = _measured(values)
    rows = []
    for finding in plan.table.findings:
        high, low = (_side(measured, side) for side in (finding.higher, finding.lower))
        pairs = pd.concat({"higher": high, "lower": low}, axis=1).dropna()
        # Shares of videos differ by whole videos: what is less than that is rounding of floats, which may not decide a tie.
        points = (100 * (pairs["higher"] - pairs["lower"])).round(9) + 0.0
        difference = round(float(points.mean()), 9) + 0.0
        lacking = [side.preset for side in (finding.higher, finding.lower) if side.preset in failed]
        rows.append(
            {
                "finding": finding.claim,
                "higher": pairs["higher"].mean(),
                "lower": pairs["lower"].mean(),
                "difference": difference,
                "std": points.std(),
                "units": len(pairs),
                "agree": sum(_holds(finding, one) for one in points),
                "asked": finding.points,
                "paper": _paper(plan, finding),
                "holds": _holds(finding, difference) if len(pairs) else None,
                "reason": ""
                if len(pairs)
                else f"{' and '.join(lacking)} failed"
                if lacking
                else "not run yet",
            }
        )
    return pd.DataFrame(rows)


def units_written(path: Path) -> int:
    """Return how many units the tables beside the Markdown `path` have in all; 0 where there are none, or damaged ones."""
    cells = _cells_beside(path)
    with contextlib.suppress(OSError, ValueError, KeyError):
        return int(
            pd.read_parquet(cells if cells.exists() else path.with_suffix(".parquet"))[
                "units"
            ].sum()
        )
    return 0


def write_reproduction(path: Path, text: str, table: pd.DataFrame, findings: pd.DataFrame) -> None:
    """Write the Markdown `path` and the tables beside it; the text last, so that it is never newer than they are."""
    tables = {path.with_suffix(".parquet"): table}
    if len(findings):
        tables = {path.with_suffix(".parquet"): findings, _cells_beside(path): table}
    for file, rows in tables.items():
        data = io.BytesIO()
        rows.to_parquet(data, index=False)
        replace_file(file, data.getvalue())
    replace_file(path, text.encode())


def _cells_beside(path: Path) -> Path:
    """Return where the accuracies lie that findings, which have the plain name, were judged by."""
    return path.with_name(f"{path.stem}-cells.parquet")


def _measured(values: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(list(values), columns=["preset", "mode", "labels", *_UNIT, *_SHARES])


def _side(measured: pd.DataFrame, side: Side) -> "pd.Series[float]":
    """Return the shares of one side of a finding, indexed by unit."""
    kept = measured[(measured["preset"] == side.preset) & (measured["mode"] == side.column.mode)]
    kept = kept[kept["labels"] == side.column.labels].set_index(_UNIT)
    return pd.to_numeric(kept["random" if side.untrained else "ours"])


def _holds(finding: Finding, points: float) -> bool:
    return points >= finding.points if finding.or_equal or finding.points else points > 0


def _paper(plan: Plan, finding: Finding) -> float:
    """Return the paper's difference in points; that of initial weights is its table 5's baseline."""
    rows = {row.name: row for row in plan.rows}
    numbers = [
        (rows["table5-random"] if side.untrained else rows[side.preset]).paper(side.column)
        for side in (finding.higher, finding.lower)
    ]
    high, low = (np.nan if number is None else number for number in numbers)
    return float(high - low)
