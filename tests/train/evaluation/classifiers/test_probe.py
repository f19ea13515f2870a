"""The probe on cached features is scikit-learn's and chooses without the test videos."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from train_cases import EVALUATION, small_store

from flowcpc.stores.embeddings import vectors_from_arrow
from flowcpc.stores.flow_store import open_store
from flowcpc.stores.window_reader import WindowReader
from flowcpc.train.evaluation import predictions
from flowcpc.train.evaluation.classifiers import probe
from flowcpc.train.evaluation.classifiers.probe import choose_strength, cross_validation_parts
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.evaluation.evaluate import evaluate


@pytest.fixture
def store(tmp_path: Path, make_store: Callable[..., Path]) -> Path:
    return small_store(tmp_path, make_store, lengths=lambda n: 12 + n)


def cached(run: Path, store: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Videos with label and split, and features of the pretrained encoder (the oldest ones)."""
    folder = min(
        (run / "evaluate" / "features").iterdir(),
        key=lambda path: min(f.stat().st_mtime_ns for f in path.iterdir()),
    )
    tables = [pq.read_table(file) for file in folder.glob("*.parquet")]
    rows = pd.concat(
        [table.drop_columns(["feature"]).to_pandas() for table in tables], ignore_index=True
    )
    vectors = np.concatenate([vectors_from_arrow(table["feature"]) for table in tables])
    videos = open_store(store).videos()[["video_id", "generation", "label", "fold1"]]
    return rows.merge(videos, on=["video_id", "generation"], validate="1:1"), vectors


@pytest.mark.parametrize(
    ("mode", "settings", "theirs"),
    [
        (
            "probe",
            {"strengths": (0.1,)},
            make_pipeline(StandardScaler(), LogisticRegression(C=0.1)),
        ),
        ("knn", {"neighbours": 3}, KNeighborsClassifier(3, metric="cosine", algorithm="brute")),
    ],
)
def test_results_equal_scikit_learn_s_on_the_same_features(
    store: Path, run: Path, mode: str, settings: dict[str, Any], theirs: Any
) -> None:
    table = evaluate(store, run, mode=mode, evaluation=EvaluationConfig(**settings)).table
    rows, vectors = cached(run, store)
    train, test = (rows["fold1"] == split for split in ("train", "test"))
    predicted = theirs.fit(vectors[train], rows.loc[train, "label"]).predict(vectors[test])
    mine = pd.read_parquet(run / "evaluate" / f"{mode}-all-fold1-seed0" / "predictions.parquet")
    mine = (
        mine[mine["encoder"] == "pretrained"].set_index("video_id").loc[rows.loc[test, "video_id"]]
    )
    assert mine["predicted"].tolist() == predicted.tolist()
    (found,) = table.loc[table["encoder"] == "pretrained", "top1"]
    assert found == accuracy_score(rows.loc[test, "label"], predicted)


def test_a_search_never_opens_a_test_video(
    store: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only training videos are opened until the strength is chosen."""
    videos = open_store(store).videos().set_index("video_id")
    opened: list[str] = []
    before_choice: list[set[str]] = []
    reader, choose = WindowReader.__init__, probe.choose_strength

    def spy_reader(
        self: WindowReader, store: Any, video_ids: Any, *args: Any, **options: Any
    ) -> None:
        opened.extend(video_ids)
        reader(self, store, video_ids, *args, **options)

    def spy_choice(features: np.ndarray, *args: Any) -> Any:
        before_choice.append(set(videos.loc[opened, "fold1"]))
        assert len(features) == (videos["fold1"] == "train").sum()
        count = len(opened)
        found = choose(features, *args)
        assert len(opened) == count
        return found

    monkeypatch.setattr(WindowReader, "__init__", spy_reader)
    monkeypatch.setattr(predictions, "choose_strength", spy_choice)
    # The pretrained encoder with true and shuffled labels; then the untrained encoder, after test
    # videos were opened for the first one.
    evaluate(store, run, mode="probe", evaluation=EVALUATION)
    assert before_choice[:2] == [{"train"}] * 2
    assert len(before_choice) == 3
    assert set(videos.loc[opened, "fold1"]) == {"train", "test"}


def test_every_part_has_whole_groups_of_every_class() -> None:
    rows = [
        (f"v{c}{g}{n}", label, f"g{g}")
        for c, label in enumerate("AB")
        for g in range(10)
        for n in range(3)
    ]
    train = pd.DataFrame(rows, columns=["video_id", "label", "group"])
    draws = set()
    for seed in range(4):
        parts = cross_validation_parts(train, seed)
        assert train.assign(part=parts).groupby("group")["part"].nunique().eq(1).all()
        counts = train.groupby([parts, "label"])["group"].nunique()
        assert counts.tolist() == [2] * 10  # five parts, two groups of each class
        draws.add(tuple(parts))
    assert len(draws) > 1
    alone = train.assign(group=None)
    assert np.bincount(cross_validation_parts(alone, 0)).tolist() == [12] * 5
    two = train[train["group"].isin(["g0", "g1"])]
    assert set(cross_validation_parts(two, 0)) == {0, 1}
    single = train[train["group"] == "g0"]
    assert not cross_validation_parts(single, 0).any()


def test_the_strength_that_is_right_most_often_over_all_parts_is_chosen() -> None:
    """One informative feature among forty of noise: a weak regularisation fits the noise."""
    rng = np.random.default_rng(1)
    labels, parts = np.tile([0, 1], 30), np.repeat(np.arange(5), 12)
    features = rng.normal(size=(60, 40)).astype(np.float32)
    features[:, 0] += 2 * labels
    choice = choose_strength(features, labels, parts, [1e2, 1e-2])
    scores = {
        C: cross_val_score(
            make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=10_000)),
            features,
            labels,
            cv=PredefinedSplit(parts),
        ).mean()
        for C in (1e-2, 1e2)
    }
    assert scores[1e-2] != scores[1e2]
    assert choice == max(scores, key=scores.get)


def test_where_nothing_can_be_compared_the_middle_strength_is_taken() -> None:
    features = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    labels, one_part = np.tile([0, 1], 30), np.zeros(60, np.int64)
    assert choose_strength(features, labels, one_part, [1.0, 0.1, 10.0]) == 1.0
    few, parts = np.array([0, 1, 1, 0]), np.array([0, 1, 1, 0])  # one class beside each part
    assert choose_strength(features[:4], few, parts, [1, 2, 3]) == 2
