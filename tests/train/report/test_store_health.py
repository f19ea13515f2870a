from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import commit_flow

from flowcpc.stores.flow_store import open_store
from flowcpc.train.report.runs import Run
from flowcpc.train.report.store_health import asked_strides, health
from flowcpc.train.settings.config import PretrainConfig

CONFIG = PretrainConfig(
    num_flows=2, num_segments=4, num_observed=3, spacing=2, width=2, size=(16, 16)
)
RUN = Run("run", Path("run"), CONFIG, 1, {}, pd.DataFrame(), pd.DataFrame())


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
    """A sequence has 8 flows at the smallest stride, 14 at the largest, and never crosses a cut."""
    store = open_store(make_store(tmp_path, {"long": np.zeros((14, 2, 16, 16), np.float32)}))
    commit_flow(store, "middling", np.zeros((9, 2, 16, 16), np.float32))
    commit_flow(store, "cut", np.zeros((15, 2, 16, 16), np.float32), cuts=(7,))
    (short,) = health(store, [RUN])["short"]
    assert (short["count"], short["names"]) == (1, [("cut", "7 flows")])
    assert "1 of 3 videos have fewer than the 8 flows" in short["summary"]
    assert "2 of 3 videos have fewer than the 14 flows" in short["note"]
