from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from train_cases import small_store

from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.train.reproduction.paper_tables import FINDINGS, TABLES, UNSUPERVISED
from flowcpc.train.reproduction.plan import cpu_scale, make_plan
from flowcpc.train.settings.presets import PRESETS

NUMBERED = {name: table for name, table in TABLES.items() if name != "findings"}


@pytest.fixture
def store(tmp_path: Path, make_store: Callable[..., Path]) -> FlowStore:
    return open_store(small_store(tmp_path, make_store))


def long_store(tmp_path: Path, make_store: Callable[..., Path], flows: int) -> FlowStore:
    """Three videos of so many flows, of 40x50 px."""
    videos = {f"v{n}": np.zeros((flows, 2, 40, 50), np.float32) for n in range(3)}
    return open_store(
        make_store(tmp_path, videos, folds={name: {"fold1": "train"} for name in videos})
    )


def test_every_preset_of_the_paper_is_a_row_of_its_table_and_every_number_a_cell(
    store: FlowStore,
) -> None:
    rows = [name for table in NUMBERED.values() for name in table.presets]
    assert sorted(rows) == sorted(name for name in PRESETS if name != "tiny")
    assert all(
        name.startswith(f"{table.stem}-") for table in NUMBERED.values() for name in table.presets
    )
    cells = 0
    for number in NUMBERED:
        plan = make_plan(store, number)
        cells += sum(len(plan.columns(row)) for row in plan.rows)
    numbers = [
        [preset.unsupervised] * (preset.unsupervised is not None) for preset in PRESETS.values()
    ]
    assert cells == sum(map(len, numbers)) + sum(
        len(one.linear) + len(one.finetune) for one in PRESETS.values()
    )


def test_the_findings_fill_only_the_cells_that_they_compare(store: FlowStore) -> None:
    plan = make_plan(store, "findings", seeds=(0, 1))
    cells = {(row.name, column) for row in plan.rows for column in plan.columns(row)}
    assert cells == {side[:2] for one in FINDINGS for side in (one.higher, one.lower)}
    # Table 5's Conv3D is table 1's flow, initial weights need no run, and images need frames.
    assert len(plan.runs()) == 2 * 5


def test_the_paper_s_own_scale_is_the_presets(store: FlowStore) -> None:
    for row in make_plan(store, 3).rows:
        assert row.config == PRESETS[row.name].config


def test_rows_with_the_same_settings_share_a_run_across_tables(store: FlowStore) -> None:
    plans = {number: make_plan(store, number, seeds=(0, 1)) for number in (1, 3, 5)}
    names = {row.name: row.folder(1, 0) for plan in plans.values() for row in plan.rows}
    assert (
        names["table1-flow"]
        == names["table3-model1-conv3d"]
        == names["table5-conv3d"]
        == "table1-flow-fold1-seed0"
    )
    assert names["table3-model2-lstm"] == "table3-model2-lstm-fold1-seed0"
    assert len(plans[3].runs()) == 8
    assert {row.name for row, _, _ in plans[5].runs().values()} == {"table5-tcam", "table5-conv3d"}


@pytest.mark.parametrize("number", TABLES)
def test_the_cpu_s_scale_keeps_what_a_table_compares(store: FlowStore, number: int) -> None:
    same, kept = (
        ("steps", "size", "width", "batch_size", "learning_rates"),
        ("model", "context", "framing", "modality"),
    )
    rows = make_plan(store, number, scale="cpu").rows
    for name in same:
        assert len({getattr(row.config, name) for row in rows}) == 1, name
    for row in rows:
        for name in (*kept, "difficult_negatives", "num_segments", "num_observed"):
            assert getattr(row.config, name) == getattr(PRESETS[row.name].config, name)
        assert max(row.config.size) <= min(store.size or (0,))
        assert row.config.batch_size <= 8


def test_the_cpu_s_scale_shrinks_with_the_videos(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    variable, overlap = PRESETS["table1-flow"].config, PRESETS["table4-easy"].config
    long = long_store(tmp_path / "long", make_store, 160)
    assert (cpu_scale(variable, long, 16).num_flows, cpu_scale(variable, long, 16).spacing) == (
        10,
        10,
    )
    half = long_store(tmp_path / "half", make_store, 75)
    assert (cpu_scale(variable, half, 16).num_flows, cpu_scale(variable, half, 16).spacing) == (
        5,
        5,
    )
    assert (cpu_scale(overlap, half, 16).num_flows, cpu_scale(overlap, half, 16).spacing) == (5, 2)
    short = long_store(tmp_path / "short", make_store, 9)
    assert (cpu_scale(variable, short, 16).num_flows, cpu_scale(variable, short, 16).spacing) == (
        1,
        1,
    )
    assert (cpu_scale(overlap, short, 16).selection, cpu_scale(overlap, short, 16).spacing) == (
        "consecutive",
        0,
    )
    assert cpu_scale(variable, short, 16).size == (32, 32)


def test_rows_on_images_need_frames(store: FlowStore) -> None:
    plan = make_plan(store, 1)
    refused = {row.name: row.refused for row in plan.rows}
    assert "has no frames" in refused["table1-image"]
    assert "--with-frames" in refused["table1-image"]
    assert refused["table1-flow"] == ""
    assert list(plan.runs()) == ["table1-flow-fold1-seed0"]
    assert "table1-image: cannot be run" in plan.to_text()


def test_a_plan_says_how_many_steps_it_has(store: FlowStore) -> None:
    text = make_plan(store, 4, seeds=(0, 1, 2), changes={"steps": 500}).to_text()
    assert "6 runs, 3,000 steps of pretraining in all" in text
    assert "table4-difficult: 3 x 500 steps of pretraining; 3 x linear (all)" in text
    assert "seeds 0, 1, 2" in text
    text = make_plan(store, 5).to_text()
    assert (
        "table5-random: no pretraining; 1 x random (all), random (18), random (5), scratch (all)"
        in text
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": 6}, "no table 6"),
        ({"scale": "gpu"}, "scale='gpu' is unknown; choose one of paper, cpu"),
        ({"folds": (2,)}, "fold=2 was asked for, but the store has the folds 1"),
        ({"seeds": ()}, "no seeds are given"),
        ({"changes": {"seed": 3}}, "give --seeds"),
        ({"changes": {"fold": 2}}, "give --folds"),
        ({"seeds": (0, 2**70)}, "table3-model1-lstm: seed must be at most"),
        (
            {"table": 2, "changes": {"spacing": 12, "selection": "consecutive"}},
            "table2-spacing-0: ",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(
    store: FlowStore, options: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        make_plan(store, **{"table": 3, **options})


def test_what_rows_of_other_tables_cannot_be_given_concerns_them_alone(store: FlowStore) -> None:
    """Table 4 shares five flows of a segment with the next, which five flows do not allow."""
    assert {row.config.num_flows for row in make_plan(store, 3, changes={"num_flows": 5}).rows} == {
        5
    }
    with pytest.raises(ValueError, match="table4-easy: "):
        make_plan(store, 4, changes={"num_flows": 5})


def test_the_batch_is_what_the_smallest_fold_allows(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    videos = {f"v{n}": np.zeros((9, 2, 40, 50), np.float32) for n in range(6)}
    folds = {
        name: {"fold1": "train", "fold2": "test" if n < 3 else "train"}
        for n, name in enumerate(videos)
    }
    made = open_store(make_store(tmp_path, videos, folds=folds))
    assert {row.config.batch_size for row in make_plan(made, 3, scale="cpu").rows} == {6}
    assert {
        row.config.batch_size for row in make_plan(made, 3, scale="cpu", folds=(1, 2)).rows
    } == {3}


def test_rows_of_unsupervised_accuracy_alone_are_planned_in_words(store: FlowStore) -> None:
    assert (
        "table4-easy: 1 x 60,000 steps of pretraining; unsupervised accuracy alone"
        in make_plan(store, "findings").to_text()
    )


def test_only_tables_one_and_four_show_unsupervised_accuracy() -> None:
    assert [
        n
        for n, table in NUMBERED.items()
        if any(column.mode == UNSUPERVISED for column in table.columns)
    ] == ["1", "4"]
