import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flowcpc.stores.flow_store import open_store
from flowcpc.train.report.neighbours import class_map, search
from flowcpc.train.report.runs import Run

RUN = Run("run", Path("run"), None, 1, {}, pd.DataFrame(), pd.DataFrame())


def test_neighbours_are_the_training_videos_of_largest_cosine(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    names = [f"v{n}" for n in range(9)]
    flow = np.zeros((3, 2, 16, 16), np.float32)
    store = open_store(make_store(tmp_path, dict.fromkeys(names, flow)))
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    splits, labels = ["train"] * 6 + ["test"] * 3, list("abcabcabc")
    rows = pd.DataFrame({"video_id": names, "split": splits, "label": labels})
    found = search(store, RUN, rows, vectors)
    assert found is not None
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.argsort(-(unit[6:] @ unit[:6].T), axis=1)[:, :5]
    assert [[video["video_id"] for video in neighbours] for _, *neighbours in found["queries"]] == [
        [names[place] for place in row] for row in order
    ]
    right = [labels[row[0]] == labels[6 + test] for test, row in enumerate(order)]
    assert found["first_right"] == pytest.approx(np.mean(right))
    assert found["chance"] == pytest.approx(1 / 3)
    for (query, *neighbours), row in zip(found["queries"], order, strict=True):
        right = [labels[place] == query["label"] for place in row]
        assert [video["right"] for video in neighbours] == right
    assert search(store, RUN, rows.assign(split="train"), vectors) is None


def test_a_map_has_ten_classes_at_most_and_test_videos_where_there_are_some() -> None:
    rows = pd.DataFrame(
        {"label": [f"c{n // 4:02d}" for n in range(48)], "split": ["train", "test"] * 24}
    )
    vectors = np.random.default_rng(0).normal(size=(48, 8)).astype(np.float32)
    figure = class_map(RUN, rows, vectors)
    assert figure is not None
    classes = re.findall("<title>(.*?)</title>", figure.svg)
    assert (classes[0], classes[-1], len(classes)) == ("c00", "c11", 10)
    assert figure.unit == "t-SNE of 20 test videos of 10 of 12 classes."
    assert class_map(RUN, rows[:3].assign(split="train"), vectors[:3]) is None
