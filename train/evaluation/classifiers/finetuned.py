"""A finetuned encoder and its dense layer in a file that loads without the run and the store."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch

from flowcpc.stores.base.atomic import replace_file
from flowcpc.train.evaluation.classifiers.classifier import Classifier
from flowcpc.train.evaluation.results import WEIGHTS
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.runs.checkpoint import reason_of
from flowcpc.train.runs.tensors import load_strictly, tensors_to_bytes
from flowcpc.train.settings.config import PretrainConfig


class Finetuned(NamedTuple):
    """A classifier on the CPU in eval mode, the label of every logit, and the store's numerics.

    For segments, float32 (B, T, planes, h, w), prepared as `classifier.encoder.config` says, the
    classifier returns a dict of one item: logits, float32 (B, classes).
    """

    classifier: Classifier
    classes: list[str]
    numerics: dict[str, Any]


def save_finetuned(
    folder: Path, classifier: Classifier, classes: Sequence[str], numerics: Mapping[str, Any]
) -> None:
    """Write the file into the folder of a unit; all but the tensors is JSON in its metadata."""
    about = {
        "config": classifier.encoder.config.to_json(),
        "heads": list(classifier.heads),
        "classes": list(classes),
        "numerics": dict(numerics),
    }
    metadata = {name: json.dumps(value) for name, value in about.items()}
    replace_file(folder / WEIGHTS, tensors_to_bytes(classifier.state_dict(), metadata))


def load_finetuned(folder: str | os.PathLike[str]) -> Finetuned:
    """Return what the mode `finetune` or `scratch` saved in the folder RUN/evaluate/<unit>.

    Nothing in the file is executed. Raises FileNotFoundError if there are no weights, ValueError
    if they are damaged, or if tensors are missing or unexpected.
    """
    path = Path(folder, WEIGHTS)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; make it with: flowcpc evaluate STORE RUN --mode finetune"
        )
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = {name: json.loads(value) for name, value in file.metadata().items()}
        encoder = Encoder(PretrainConfig.from_json(about["config"]))
        heads, classes = about["heads"], about["classes"]
        classifier = Classifier(encoder, heads, len(classes), seed=0, frozen=True)
        load_strictly(classifier, safetensors.torch.load_file(path))
        return Finetuned(classifier.eval(), classes, about["numerics"])
    except (ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{path} is not valid ({reason_of(error)}); evaluate again to replace it"
        ) from error
