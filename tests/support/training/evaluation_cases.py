"""Evaluations of the small store, and what they wrote."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from train_cases import EVALUATION

from flowcpc.stores.embeddings import vectors_from_arrow
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.evaluation.evaluate import evaluate
from flowcpc.train.evaluation.scoring.scoreboard import Evaluation
from flowcpc.train.settings.presets import find_preset

TINY = dataclasses.replace(find_preset("tiny").config, num_flows=2, size=(16, 16), width=2)


def evaluated(
    store: Path,
    run: Path | None,
    mode: str = "linear",
    evaluation: EvaluationConfig = EVALUATION,
    **options: Any,
) -> Evaluation:
    return evaluate(store, run, mode=mode, evaluation=evaluation, **options)


def predictions(folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
    table = pq.read_table(folder / "predictions.parquet")
    return table.drop_columns(["logits"]).to_pandas(), vectors_from_arrow(table["logits"])


def logits_of(run: Path, name: str = "linear-all-fold1-seed0") -> np.ndarray:
    return predictions(run / "evaluate" / name)[1]
