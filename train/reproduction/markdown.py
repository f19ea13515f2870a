"""A table of the paper as Markdown: ours beside the paper's, beside what needs no pretraining, and what differs."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from flowcpc.stores.base.plurals import counted
from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.evaluation.config import SCHEDULES, EvaluationConfig
from flowcpc.train.reproduction.paper_tables import UNSUPERVISED, Column
from flowcpc.train.reproduction.plan import Plan
from flowcpc.train.settings import paper


def to_markdown(
    plan: Plan,
    store: FlowStore,
    table: pd.DataFrame,
    findings: pd.DataFrame,
    failed: Mapping[str, str],
    evaluation: EvaluationConfig,
) -> str:
    """Return a table and findings, as flowcpc.train.reproduction.summary makes them, for a person."""
    lines = [f"# {plan.table.heading.capitalize()} of {paper.PAPER}: {plan.table.title}", ""]
    folds, seeds = (len(set(values)) for values in zip(*plan.units, strict=True))
    over = f"{counted(folds, 'fold')} x {counted(seeds, 'seed')}"
    spread = f", mean ± standard deviation over {over}" if len(plan.units) > 1 else ""
    lines += [
        f"Accuracies in percent{spread}; `untrained` is the same encoder with its initial weights.",
        "",
    ]
    if len(findings):
        lines += [*_findings(findings), ""]
    for column in plan.table.columns:
        rows = table[
            (table["measure"] == column.mode) & (table["labels_per_class"] == column.labels)
        ]
        if len(rows):
            lines += [f"## {column.title.capitalize()}", "", *_column(column, rows), ""]
            # The rows of the findings are of several tables, so only pairs of them are alike.
            order = "" if len(findings) else _order(rows)
            lines += [order, ""] if order else []
    lines += [
        "## What differs",
        "",
        f"- Data: the paper has {paper.DATA}; here {paper.data_of(store, plan.units[0][0])}.",
    ]
    lines += [f"- Scale `{plan.scale}`{_scale_words(plan)}"]
    lines += _differences(plan)
    if changed := paper.differences(evaluation, SCHEDULES[plan.scale]):
        lines.append(f"- Every evaluation has {', '.join(changed)}.")
    if any(column.mode == UNSUPERVISED for column in plan.table.columns):
        lines.append(
            "- Unsupervised accuracy is that on held-out videos with batch norm in eval mode; that on training videos stands in brackets. "
            "The paper does not say which of them it gives."
        )
    if failed:
        lines += ["", "## Rows that are not whole", ""]
        lines += [f"- {name}: {_escaped(reason)}" for name, reason in failed.items()]
    return "\n".join(lines) + "\n"


def _findings(findings: pd.DataFrame) -> list[str]:
    lines = [
        "| the paper found | difference, points | asked for | the paper's | seeds and folds | holds |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in findings.to_dict("records"):
        known = row["units"] > 0
        difference = (
            f"{row['higher']:.1%} - {row['lower']:.1%} = {_points(row['difference'], row['std'])}"
            if known
            else "-"
        )
        asked = f"{row['asked']:g}" if row["asked"] else "-"
        agree = f"{row['agree']} of {row['units']}" if known else "-"
        cells = (row["finding"], difference, asked, _points(row["paper"]), agree, _verdict(row))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _verdict(row: Mapping[Hashable, Any]) -> str:
    """Return whether a finding holds, and whether that is beyond the standard error of the mean over units."""
    if not row["units"]:
        return str(row["reason"])
    verdict = "yes" if row["holds"] else "no"
    away = abs(row["difference"] - row["asked"])
    if row["units"] > 1 and away <= row["std"] / row["units"] ** 0.5:
        return f"{verdict}, within its standard error"
    return verdict


def _points(points: float, deviation: float = np.nan) -> str:
    if np.isnan(points):
        return "-"
    return f"{points:+.1f}" + ("" if np.isnan(deviation) else f" ± {deviation:.1f}")


def _column(column: Column, rows: pd.DataFrame) -> list[str]:
    names = ["row", "paper", "ours"]
    names += [] if column.mode == UNSUPERVISED else ["untrained", "motion statistics"]
    names += ["chance"]
    lines = [f"| {' | '.join(names)} |", f"|---|{'---:|' * (len(names) - 1)}"]
    for row in rows.to_dict("records"):
        ours = _percent(row["ours"], row["std"])
        if column.mode == UNSUPERVISED and not np.isnan(row["in_training"]):
            ours += f" ({_percent(row['in_training'])})"
        cells = [str(row["preset"]), _percent(row["paper"]), ours]
        cells += (
            []
            if column.mode == UNSUPERVISED
            else [_percent(row["random"]), _percent(row["motion"])]
        )
        lines.append(f"| {' | '.join([*cells, _percent(row['chance'])])} |")
    return lines


def _order(rows: pd.DataFrame) -> str:
    """Return a sentence that sets the order of the rows beside the paper's."""
    known = rows[rows["ours"].notna()]
    if len(known) < 2:
        return ""
    theirs, ours = (
        known.sort_values(name, ascending=False)["preset"].to_list() for name in ("paper", "ours")
    )
    same = "the same" if theirs == ours else "not the same"
    return f"Best first, the paper: {', '.join(theirs)}; ours: {', '.join(ours)}: {same} order."


def _differences(plan: Plan) -> list[str]:
    """Return what the rows have other than their presets: what all of them share first."""
    found = {
        row.name: paper.differences(row.config, row.preset.config)
        for row in plan.rows
        if not row.refused
    }
    common = [
        phrase
        for phrase in next(iter(found.values()), [])
        if all(phrase in phrases for phrases in found.values())
    ]
    lines = [f"- All rows: {'; '.join(common)}."] if common else []
    for row in plan.rows:
        if row.refused:
            continue
        own = [phrase for phrase in found[row.name] if phrase not in common]
        lines += [f"- {row.name}: {'; '.join(own)}."] if own else []
        if row.shared != row.name:
            lines.append(f"- {row.name} has the settings of {row.shared} here and shares its run.")
    if not any(found.values()):
        lines.append("- All rows have the paper's settings.")
    return lines


def _scale_words(plan: Plan) -> str:
    if plan.scale == "paper":
        return ": steps, size, width and batch are the paper's unless the next lines say otherwise."
    return ": a smaller encoder, input and schedule, the same for all rows; segments and spacings shrink with the length of the videos."


def _percent(share: float | None, deviation: float | None = None) -> str:
    if share is None or np.isnan(share):
        return "-"
    return f"{100 * share:.1f}" + (
        "" if deviation is None or np.isnan(deviation) else f" ± {100 * deviation:.1f}"
    )


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_<>|[]" else letter for letter in text)
