"""A table of the paper as Markdown: its numbers, ours, the baselines, and what differs."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flowcpc.stores.base.errors import counted
from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.evaluation.config import SCHEDULES, EvaluationConfig
from flowcpc.train.reproduction.paper_tables import UNSUPERVISED, Column
from flowcpc.train.reproduction.plan import TablePlan
from flowcpc.train.settings import paper

_SCALES = {
    "paper": "steps, size, width and batch are the paper's unless the next lines name others",
    "cpu": "a smaller encoder, input and schedule, the same for all rows; segments and spacings "
    "shrink with the length of the videos",
}


def to_markdown(
    plan: TablePlan,
    store: FlowStore,
    table: pd.DataFrame,
    findings: pd.DataFrame,
    failed: Mapping[str, str],
    evaluation: EvaluationConfig,
) -> str:
    """Return what `summarise_rows` and `compare` return as text for a person."""
    folds, seeds = (len(set(values)) for values in zip(*plan.units, strict=True))
    over = f"{counted(folds, 'fold')} x {counted(seeds, 'seed')}"
    spread = f", mean ± standard deviation over {over}" if len(plan.units) > 1 else ""
    lines = [
        f"# {plan.table.heading.capitalize()} of {paper.PAPER}: {plan.table.title}",
        "",
        f"Accuracies in percent{spread}; `untrained` is the same encoder with its initial weights.",
        "",
    ]
    if len(findings):
        lines += [*_findings(findings), ""]
    for column in plan.table.columns:
        rows = table[table["measure"] == column.mode]
        rows = rows[rows["labels_per_class"] == column.labels]
        if len(rows):
            lines += [f"## {column.title.capitalize()}", "", *_column(column, rows), ""]
        if not len(findings):  # whose rows are of several tables and have no order
            lines += _order(rows)
    lines += [
        "## What differs",
        "",
        f"- Data: the paper has {paper.DATA}; here {paper.data_of(store, plan.units[0][0])}.",
        f"- Scale `{plan.scale}`: {_SCALES[plan.scale]}.",
        *_differences(plan),
    ]
    if changed := paper.differences(evaluation, SCHEDULES[plan.scale]):
        lines.append(f"- Every evaluation has {', '.join(changed)}.")
    if any(column.mode == UNSUPERVISED for column in plan.table.columns):
        lines.append(
            "- Unsupervised accuracy is measured on held-out videos, with batch norm in eval mode; "
            "in brackets on training videos. The paper does not say which of them it reports."
        )
    if failed:
        lines += ["", "## Incomplete rows", ""]
        lines += [f"- {name}: {_escaped(reason)}" for name, reason in failed.items()]
    return "\n".join(lines) + "\n"


def _lines(headings: Sequence[str], aligned: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table of Markdown; `aligned` has a letter per column, l or r."""
    rule = "|".join({"l": "---", "r": "---:"}[letter] for letter in aligned)
    cells = (" | ".join(row) for row in (headings, *rows))
    head, *body = (f"| {line} |" for line in cells)
    return [head, f"|{rule}|", *body]


def _findings(findings: pd.DataFrame) -> list[str]:
    headings = "the paper found|difference, points|asked for|the paper's|seeds and folds|holds"
    rows = []
    for row in findings.to_dict("records"):
        difference = agree = "-"
        if row["units"]:
            points = _number(row["difference"], row["std"], "+")
            difference = f"{row['higher']:.1%} - {row['lower']:.1%} = {points}"
            agree = f"{row['agree']} of {row['units']}"
        asked = f"{row['asked']:g}" if row["asked"] else "-"
        paper_points = _number(row["paper"], sign="+")
        rows.append((row["finding"], difference, asked, paper_points, agree, _verdict(row)))
    return _lines(headings.split("|"), "lrrrrl", rows)


def _verdict(row: Mapping[Hashable, Any]) -> str:
    """Return whether a finding holds, and whether that is within one standard error."""
    if not row["units"]:
        return str(row["reason"])
    verdict = "yes" if row["holds"] else "no"
    away = abs(row["difference"] - row["asked"])
    doubtful = row["units"] > 1 and away <= row["std"] / row["units"] ** 0.5
    return f"{verdict}, within its standard error" if doubtful else verdict


def _column(column: Column, rows: pd.DataFrame) -> list[str]:
    baselines = {"untrained": "random", "motion statistics": "motion", "chance": "chance"}
    if column.mode == UNSUPERVISED:
        baselines = {"chance": "chance"}
    lines = []
    for row in rows.to_dict("records"):
        ours = _number(100 * row["ours"], 100 * row["std"])
        if not np.isnan(row["in_training"]):
            ours += f" ({_number(100 * row['in_training'])})"
        shares = (_number(100 * row[name]) for name in baselines.values())
        lines.append((str(row["preset"]), _number(100 * row["paper"]), ours, *shares))
    headings = ("row", "paper", "ours", *baselines)
    return _lines(headings, "l" + "r" * (len(headings) - 1), lines)


def _order(rows: pd.DataFrame) -> list[str]:
    """Return a sentence that compares the order of the rows with the paper's."""
    known = rows[rows["ours"].notna()]
    if len(known) < 2:
        return []
    theirs, ours = (
        ", ".join(known.sort_values(name, ascending=False)["preset"]) for name in ("paper", "ours")
    )
    same = "the same" if theirs == ours else "not the same"
    return [f"Best first, the paper: {theirs}; ours: {ours}: {same} order.", ""]


def _differences(plan: TablePlan) -> list[str]:
    """Return what differs between the rows and their presets; first what all rows share."""
    rows = [row for row in plan.rows if not row.refused]
    phrases = [paper.differences(row.config, row.preset.config) for row in rows]
    common = [one for one in (phrases or [[]])[0] if all(one in others for others in phrases)]
    lines = [f"- All rows: {'; '.join(common)}."] if common else []
    for row, of_row in zip(rows, phrases, strict=True):
        single = [phrase for phrase in of_row if phrase not in common]
        lines += [f"- {row.name}: {'; '.join(single)}."] if single else []
        if row.shared != row.name:
            lines.append(f"- {row.name} has the settings of {row.shared} here and shares its run.")
    if not any(phrases):
        lines.append("- All rows have the paper's settings.")
    return lines


def _number(value: float, deviation: float = np.nan, sign: str = "") -> str:
    if np.isnan(value):
        return "-"
    return f"{value:{sign}.1f}" + ("" if np.isnan(deviation) else f" ± {deviation:.1f}")


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_<>|[]" else letter for letter in text)
