"""A dense layer on an encoder, trained by SGD: alone on frozen features, or together with the encoder."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from flowcpc.stores.base.atomic import replace_file
from flowcpc.stores.base.errors import OperationError
from flowcpc.train.data.batches import SegmentReader
from flowcpc.train.evaluation.classifiers.features import (
    average_features,
    every_video_once,
    protocols,
    random_batches,
)
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.runs.tensors import (
    load_strictly,
    part_of,
    restore_momentum,
    sgd_momentum,
    tensors_to_bytes,
)
from flowcpc.train.settings.config import learning_rate, named_seed

_SAVE_EVERY = 500  # steps between states
_SHOW_EVERY = 20

# report(step, loss, accuracy): the last two stay None on most steps, because asking a GPU for a number waits for it.
Report = Callable[[int, float | None, float | None], None]


class Stopped(Exception):
    """`should_stop` said so; what was done is saved."""


class Classifier(nn.Module):
    """Dense layers on the averaged features of an encoder.

    Parameters
    ----------
    encoder : Encoder
    heads : tuple of str
        Several dense layers may share frozen features, each learning other labels: their gradients do not meet.
    classes : int
    seed : int
        Decides the initial weights of the dense layers.
    frozen : bool
        Whether the encoder stays as it is, in eval mode.
    dropout : float
        Probability of dropping a feature before the dense layers, in training.
    """

    def __init__(
        self,
        encoder: Encoder,
        heads: tuple[str, ...],
        classes: int,
        *,
        seed: int,
        frozen: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(not frozen)
        torch.manual_seed(named_seed(seed, "dense layer"))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(encoder.config.latent_size, classes) for name in heads}
        )
        self.frozen = frozen
        self.dropout = dropout

    def train(self, mode: bool = True) -> "Classifier":
        """Set the mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, segments: Tensor) -> dict[str, Tensor]:
        """Return scores (B, classes) by head for segments (B, T, planes, h, w)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = average_features(self.encoder, segments)  # (B, D)
        features = functional.dropout(features, self.dropout, self.training)
        return {name: head(features) for name, head in self.heads.items()}

    def learned(self) -> dict[str, Tensor]:
        """Return the tensors that training changes."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if not (self.frozen and name.startswith("encoder."))
        }


def train_classifier(
    classifier: Classifier,
    reader: SegmentReader,
    labels: Mapping[str, NDArray[np.int64]],
    evaluation: EvaluationConfig,
    *,
    seed: int,
    device: torch.device,
    file: Path,
    report: Report = lambda step, loss, accuracy: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train on random segments of the reader's videos, going on from the state in `file` where there is one.

    Every draw, dropout included, depends on (seed, step) alone, so that an interrupted training equals an uninterrupted one.

    Parameters
    ----------
    labels : mapping of str to int64 (V,)
        The label of every video, by head.

    Raises
    ------
    Stopped
        `should_stop` said so.
    OperationError
        The loss is no finite number.
    """
    frozen = classifier.frozen
    steps, rates = evaluation.training(frozen=frozen)
    parameters = {
        name: value for name, value in classifier.named_parameters() if value.requires_grad
    }
    optimizer = torch.optim.SGD(
        parameters.values(),
        lr=1,
        momentum=evaluation.momentum,
        weight_decay=evaluation.weight_decay,
    )
    first = _restore(file, classifier, optimizer, parameters) if file.is_file() else 0
    targets = {name: torch.from_numpy(values).to(device) for name, values in labels.items()}
    purpose = "linear" if frozen else "finetune"
    classifier.train()
    with random_batches(
        reader,
        named_seed(seed, purpose),
        evaluation.batch_size,
        evaluation.segments,
        range(first, steps),
    ) as batches:
        for done, batch in enumerate(batches, start=first + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(rates, done - 1)
            torch.manual_seed(named_seed(seed, purpose, "dropout", done))
            scores = classifier(reader.to_device(batch))
            videos = torch.from_numpy(batch.videos).to(device)
            losses = [
                functional.cross_entropy(scores[name], targets[name][videos]) for name in scores
            ]
            optimizer.zero_grad(set_to_none=True)
            torch.stack(losses).sum().backward()
            optimizer.step()
            loss = accuracy = None
            if done % _SHOW_EVERY == 0 or done == steps:
                loss = losses[0].item()
                name = next(iter(scores))
                accuracy = (
                    (scores[name].argmax(dim=1) == targets[name][videos]).float().mean().item()
                )
                if not np.isfinite(loss):
                    raise OperationError(
                        f"the loss at step {done} of {steps} is {loss}: the training has diverged; take a lower learning rate"
                    )
            report(done, loss, accuracy)
            stop = should_stop()
            if stop or done % _SAVE_EVERY == 0 or done == steps:
                _save(file, done, classifier, optimizer, parameters)
            if stop:
                raise Stopped


def predict_logits(
    classifier: Classifier,
    reader: SegmentReader,
    evaluation: EvaluationConfig,
    *,
    seed: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[tuple[str, str], NDArray[np.float32]]:
    """Return logits (videos, classes) by head and protocol, every video of the reader read once. Raises Stopped."""
    classifier.eval()
    logits: dict[tuple[str, str], NDArray[np.float32]] = {}
    for protocol in protocols(evaluation.segments):
        found: dict[str, list[Tensor]] = {name: [] for name in classifier.heads}
        with (
            torch.no_grad(),
            every_video_once(
                reader,
                protocol,
                named_seed(seed, "test"),
                evaluation.batch_size,
                evaluation.segments,
            ) as batches,
        ):
            for batch in batches:
                if should_stop():
                    raise Stopped
                for name, scores in classifier(reader.to_device(batch)).items():
                    found[name].append(scores.float().cpu())
        logits |= {(name, protocol): torch.cat(parts).numpy() for name, parts in found.items()}
    return logits


def _save(
    file: Path,
    step: int,
    classifier: Classifier,
    optimizer: torch.optim.SGD,
    parameters: Mapping[str, nn.Parameter],
) -> None:
    tensors = {f"model.{name}": value for name, value in classifier.learned().items()}
    tensors |= {
        f"momentum.{name}": value for name, value in sgd_momentum(optimizer, parameters).items()
    }
    replace_file(file, tensors_to_bytes({**tensors, "step": torch.tensor(step)}))


def _restore(
    file: Path,
    classifier: Classifier,
    optimizer: torch.optim.SGD,
    parameters: Mapping[str, nn.Parameter],
) -> int:
    """Return how many steps the state in `file` had done, and take it over; 0 where its bytes are damaged."""
    try:
        state = safetensors.torch.load(file.read_bytes())
    except safetensors.SafetensorError:
        return 0
    learned = part_of(state, "model")
    if classifier.frozen:
        learned |= {
            f"encoder.{name}": value for name, value in classifier.encoder.state_dict().items()
        }
    load_strictly(classifier, learned)
    restore_momentum(optimizer, parameters, part_of(state, "momentum"))
    return int(state["step"])
