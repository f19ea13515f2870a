from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import commit_flow

from flowcpc.stores.flow_store import open_store
from flowcpc.train.report.runs import Run
from flowcpc.train.report.store_health import asked_strides, class_map, health, neighbours
from flowcpc.train.settings.config import PretrainConfig

CONFIG = PretrainConfig(
    num_flows=2, num_segments=4, num_observed=3, spacing=2, width=2, size=(16, 16)
)
RUN = Run("run", Path("run"), CONFIG, 1, {}, [], pd.DataFrame())


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("consecutive", (2, 2)),
        ("variable", (2, 4)),
        ("growing", (2, 4)),
        ("spaced", (4, 4)),
        ("overlap", (1, 1)),
    ],
)
def test_strides_that_a_selection_asks_for(selection: str, expected: tuple[int, int]) -> None:
    spacing = 1 if selection == "overlap" else 0 if selection == "consecutive" else 2
    config = PretrainConfig(**{**vars(CONFIG), "selection": selection, "spacing": spacing})
    assert asked_strides(config) == expected
    assert config.shortest_span == config.num_flows + (config.num_segments - 1) * expected[0]


def test_health_measures_videos_between_their_cuts(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    """A sequence takes 8 flows at the smallest stride and 14 at the largest, and never crosses a cut."""
    store = open_store(make_store(tmp_path, {"long": np.zeros((14, 2, 16, 16), np.float32)}))
    commit_flow(store, "middling", np.zeros((9, 2, 16, 16), np.float32))
    commit_flow(store, "cut", np.zeros((15, 2, 16, 16), np.float32), cuts=(7,))
    (short,) = health(store, [RUN]).short
    assert (short.span, short.widest, short.narrowed) == (8, 14, 2)
    assert short.names.some == (("cut", "7 flows"),)


def test_neighbours_are_the_training_videos_of_largest_cosine(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    names = [f"v{n}" for n in range(9)]
    flow = np.zeros((3, 2, 16, 16), np.float32)
    store = open_store(make_store(tmp_path, dict.fromkeys(names, flow)))
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    splits, labels = ["train"] * 6 + ["test"] * 3, list("abcabcabc")
    rows = pd.DataFrame({"video_id": names, "split": splits, "label": labels})
    search = neighbours(store, rows, vectors)
    assert search is not None
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.argsort(-(unit[6:] @ unit[:6].T), axis=1)[:, :5]
    assert [[video.video_id for video in one.found] for one in search.queries] == [
        [names[place] for place in row] for row in order
    ]
    right = [labels[row[0]] == labels[6 + test] for test, row in enumerate(order)]
    assert search.first_right == pytest.approx(np.mean(right))
    assert search.chance == pytest.approx(1 / 3)
    for one, row in zip(search.queries, order, strict=True):
        assert [video.right for video in one.found] == [
            labels[place] == one.query.label for place in row
        ]
    assert neighbours(store, rows.assign(split="train"), vectors) is None


def test_a_map_has_ten_classes_at_most_and_test_videos_where_there_are_some() -> None:
    rows = pd.DataFrame(
        {"label": [f"c{n // 4:02d}" for n in range(48)], "split": ["train", "test"] * 24}
    )
    vectors = np.random.default_rng(0).normal(size=(48, 8)).astype(np.float32)
    figure = class_map(rows, vectors)
    assert figure is not None
    assert (figure.classes[0], figure.classes[-1], len(figure.classes)) == ("c00", "c11", 10)
    assert len(figure.points) == 20
    assert figure.summary == "t-SNE of 20 test videos of 10 of 12 classes."
    assert class_map(rows[:3].assign(split="train"), vectors[:3]) is None
