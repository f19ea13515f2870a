import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from train_cases import small_store

from flowcpc.stores.flow_store import open_store
from flowcpc.train.evaluation.config import SCHEDULES
from flowcpc.train.reproduction.markdown import to_markdown
from flowcpc.train.reproduction.paper_tables import FINDINGS, Side
from flowcpc.train.reproduction.plan import TablePlan, make_plan
from flowcpc.train.reproduction.summary import (
    Measurement,
    compare,
    summarise_rows,
    write_reproduction,
)
from flowcpc.train.settings.presets import PRESETS


@pytest.fixture
def plan(tmp_path: Path, make_store: Callable[..., Path]) -> TablePlan:
    return make_plan(
        open_store(small_store(tmp_path, make_store)), "findings", scale="cpu", seeds=(0, 1, 2)
    )


def value(side: Side, seed: int, ours: float, random: float = np.nan) -> Measurement:
    return Measurement(side.preset, *side.column, 1, seed, chance=0.1, ours=ours, random=random)


def test_the_paper_s_own_numbers_have_all_of_its_findings(plan: TablePlan) -> None:
    """Each finding, judged by the numbers of the paper alone."""
    values = []
    for row in plan.rows:
        for column in plan.columns(row):
            numbers = row.paper(column)
            untrained = PRESETS["table5-random"].linear.get("all")
            assert numbers is not None
            assert untrained is not None
            values += [
                value(Side(row.name, column), seed, numbers / 100, untrained / 100)
                for seed in (0, 1, 2)
            ]
    found = compare(plan, values, {})
    assert found["holds"].tolist() == [True] * 5
    assert found["agree"].tolist() == [3] * 5
    np.testing.assert_allclose(found["difference"], found["paper"])
    np.testing.assert_allclose(
        found["paper"], [55.4 - 21.1, 55.4 - 14.5, 44.6 - 40.9, 90.3 - 33.7, 49.5 - 41.8]
    )


def test_a_difference_is_taken_within_units_that_have_both_sides(plan: TablePlan) -> None:
    flow, image = FINDINGS[1].higher, FINDINGS[1].lower
    values = [value(flow, 0, 0.5, 0.45), value(flow, 1, 0.7, 0.5), value(flow, 2, 0.1, 0.3)]
    values += [value(image, 0, 0.4), value(image, 1, 0.8)]
    found = compare(plan, values, {}).set_index("finding")
    modality = found.loc["flow beats images"]
    assert (modality["units"], modality["agree"], modality["holds"]) == (2, 1, False)
    assert modality["difference"] == pytest.approx(0)
    assert modality["std"] == pytest.approx(np.std([10, -10], ddof=1))
    untrained = found.loc["pretraining beats initial weights"]
    assert untrained["difference"] == pytest.approx(np.mean([5, 20, -20]))
    assert (untrained["units"], untrained["agree"], untrained["holds"]) == (3, 1, False)


@pytest.mark.parametrize(
    ("place", "difference", "holds"),
    [
        (0, 10.5, True),
        (0, 9.5, False),
        (1, 0.5, True),
        (1, 0.0, False),
        (2, 0.0, True),
        (2, -0.5, False),
    ],
)
def test_what_each_finding_asks_for(
    plan: TablePlan, place: int, difference: float, holds: bool
) -> None:
    finding = FINDINGS[place]
    high, low = finding.higher, finding.lower
    values = [value(high, 0, 0.5, 0.5 - difference / 100)]
    values += [] if low.untrained else [value(low, 0, 0.5 - difference / 100)]
    assert compare(plan, values, {}).loc[place, "holds"] is holds


def test_what_floats_round_does_not_decide(plan: TablePlan) -> None:
    high, low = FINDINGS[2].higher, FINDINGS[2].lower
    equal = [value(high, seed, share) for seed, share in enumerate((0.1, 0.2, 0.3))]
    equal += [value(low, seed, share) for seed, share in enumerate((0.3, 0.1, 0.2))]
    ten = [value(FINDINGS[0].higher, 0, 0.3, 0.2)]
    found = compare(plan, equal + ten, {})
    assert (found.loc[2, "difference"], found.loc[2, "holds"]) == (0.0, True)
    assert (found.loc[0, "difference"], found.loc[0, "holds"], found.loc[0, "agree"]) == (
        10.0,
        True,
        1,
    )


def test_a_finding_that_cannot_be_judged_names_the_row(plan: TablePlan) -> None:
    found = compare(plan, [], {"table1-image": "no frames"})
    assert found.loc[1, "reason"] == "table1-image failed"
    assert found.loc[2, "reason"] == "not run yet"


def test_the_text_says_what_holds_and_how_sure_that_is(plan: TablePlan, tmp_path: Path) -> None:
    flow, image = FINDINGS[1].higher, FINDINGS[1].lower
    values = [value(flow, seed, 0.5 + 0.1 * seed, 0.2) for seed in (0, 1, 2)]
    values += [value(image, 0, 0.5), value(image, 1, 0.5), value(image, 2, 0.9)]
    table, findings = summarise_rows(plan, values, {}), compare(plan, values, {})
    store = open_store(tmp_path / "store.flow")
    text = to_markdown(plan, store, table, findings, {}, SCHEDULES[plan.scale])
    pretraining = "60.0% - 20.0% = +40.0 ± 10.0 | 10 | +34.3 | 3 of 3 | yes"
    assert f"| pretraining beats initial weights | {pretraining} |" in text
    modality = "60.0% - 63.3% = -3.3 ± 15.3 | - | +40.9 | 1 of 3 | no, within its standard error"
    assert f"| flow beats images | {modality} |" in text
    assert "| variable spacing is no worse than none | - | - | +3.7 | - | not run yet |" in text
    assert text.startswith("# Findings of Lorre et al. 2019")
    assert "standard deviation over 1 fold x 3 seeds" in text
    assert "Best first" not in text

    write_reproduction(tmp_path / "findings-cpu.md", text, table, findings)
    assert (tmp_path / "findings-cpu.md").read_text() == text
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "findings-cpu.parquet"), findings)
    cells = pd.read_parquet(tmp_path / "findings-cpu-cells.parquet")
    assert cells["preset"].tolist() == table["preset"].tolist()


def test_a_numbered_table_has_no_findings(plan: TablePlan) -> None:
    assert compare(
        dataclasses.replace(plan, table=dataclasses.replace(plan.table, findings=())), [], {}
    ).empty
