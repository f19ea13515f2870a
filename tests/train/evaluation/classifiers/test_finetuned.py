"""The saved weights of finetuning give the same logits that the evaluation saved."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from train_cases import CLASSES, CONFIG, EVALUATION

from flowcpc.stores.flow_store import open_store
from flowcpc.train.data.batches import SegmentReader
from flowcpc.train.evaluation.classifiers.classifier import predict_logits
from flowcpc.train.evaluation.classifiers.finetuned import load_finetuned
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.evaluation.evaluate import evaluate
from flowcpc.train.pretraining.loop import pretrain


@pytest.fixture
def unit(store: Path, tmp_path: Path) -> Path:
    """The folder of a finetuned run, away from the run."""
    pretrain(store, tmp_path / "run", CONFIG)
    evaluate(store, tmp_path / "run", mode="finetune", evaluation=EVALUATION)
    return (tmp_path / "run" / "evaluate" / "finetune-all-fold1-seed0").rename(
        tmp_path / "elsewhere"
    )


def test_they_predict_what_the_evaluation_predicted(store: Path, unit: Path) -> None:
    found = load_finetuned(unit)
    assert found.classes == list(CLASSES)
    assert found.numerics == open_store(store).numerics
    assert not any(part.training for part in found.classifier.modules())
    written = pd.read_parquet(unit / "predictions.parquet").query(
        "protocol == 'uniform8' and encoder == 'pretrained'"
    )
    reader = SegmentReader(
        open_store(store),
        written["video_id"].tolist(),
        found.classifier.encoder.config,
        torch.device("cpu"),
    )
    logits = predict_logits(found.classifier, reader, EvaluationConfig(batch_size=3), seed=0)
    np.testing.assert_allclose(
        logits["pretrained", "uniform8"], np.stack(written["logits"]), atol=1e-6
    )


def test_they_load_strictly_and_execute_nothing(unit: Path, tmp_path: Path) -> None:
    file = unit / "weights.safetensors"
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = safetensors.torch.load_file(file)
    tensors["encoder.stem.9.weight"] = tensors.pop("encoder.stem.0.weight")
    safetensors.torch.save_file(tensors, file, metadata)
    with pytest.raises(
        ValueError, match=r"stem\.0\.weight is missing; encoder\.stem\.9\.weight is unexpected"
    ):
        load_finetuned(unit)
    safetensors.torch.save_file(tensors, file)
    with pytest.raises(ValueError, match=r"is not valid .* evaluate again to replace it"):
        load_finetuned(unit)
    file.write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match="is not valid"):
        load_finetuned(unit)
    with pytest.raises(FileNotFoundError, match="flowcpc evaluate STORE RUN --mode finetune"):
        load_finetuned(tmp_path)
