"""A dense layer on an encoder, trained by SGD: on frozen features, or together with the encoder."""

from collections.abc import Mapping, Sequence
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
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.train.data.batches import SegmentReader
from flowcpc.train.evaluation.classifiers import features
from flowcpc.train.evaluation.classifiers.features import Stopped
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.runs import tensors
from flowcpc.train.settings.config import learning_rate, named_seed

_SAVE_EVERY = 500  # steps between states
_SHOW_EVERY = 20  # steps between losses: to ask a GPU for a number waits for it


class Classifier(nn.Module):
    """Dense layers, called `heads`, on the averaged features of an encoder.

    The heads share the features, and each learns its own labels; `seed` decides their initial
    weights. A `frozen` encoder is not trained and stays in eval mode.
    """

    def __init__(
        self, encoder: Encoder, heads: Sequence[str], classes: int, *, seed: int, frozen: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(not frozen)
        torch.manual_seed(named_seed(seed, "dense layer"))
        size = encoder.config.latent_size
        self.heads = nn.ModuleDict({name: nn.Linear(size, classes) for name in heads})
        self.frozen = frozen

    def train(self, mode: bool = True) -> "Classifier":
        """Set the mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, segments: Tensor, dropout: float = 0.0) -> dict[str, Tensor]:
        """Return scores (B, classes) by head for segments (B, T, planes, h, w).

        `dropout` is the probability of dropping a feature before the heads, in training.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            averaged = features.average_features(self.encoder, segments)  # (B, D)
        averaged = functional.dropout(averaged, dropout, self.training)
        return {name: head(averaged) for name, head in self.heads.items()}


def train_classifier(
    classifier: Classifier,
    reader: SegmentReader,
    targets: Mapping[str, NDArray[np.int64]],
    evaluation: EvaluationConfig,
    *,
    seed: int,
    file: Path,
    listener: Listener = SILENT,
) -> None:
    """Train on random segments of the reader's videos; resume from the state in `file` if any.

    `targets` has the class of every video, int64 (V,), by head. Every draw, dropout included,
    depends on (seed, step) only, so an interrupted training gives the same weights as an
    uninterrupted one. Raises Stopped, and OperationError if the loss is not finite.
    """
    frozen = classifier.frozen
    steps, rates = evaluation.training(frozen=frozen)
    purpose, dropout = ("linear", 0.0) if frozen else ("finetune", evaluation.dropout)
    device = next(classifier.parameters()).device
    trained = _trained_parameters(classifier).values()
    momentum, decay = evaluation.momentum, evaluation.weight_decay
    optimizer = torch.optim.SGD(trained, lr=1, momentum=momentum, weight_decay=decay)
    first = _restore(file, classifier, optimizer) if file.is_file() else 0
    labels = {name: torch.from_numpy(values).to(device) for name, values in targets.items()}
    shown_head = next(iter(labels))
    fields: dict[str, float | str] = {}
    draws = named_seed(seed, purpose)
    classifier.train()
    with features.random_batches(reader, draws, evaluation, range(first, steps)) as batches:
        for done, batch in enumerate(batches, start=first + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(rates, done - 1)
            torch.manual_seed(named_seed(seed, purpose, "dropout", done))
            scores = classifier(reader.to_device(batch), dropout)
            videos = torch.from_numpy(batch.segments.videos).to(device)
            right = {name: classes[videos] for name, classes in labels.items()}
            losses = {name: functional.cross_entropy(scores[name], right[name]) for name in scores}
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            if done % _SHOW_EVERY == 0 or done == steps:
                loss = losses[shown_head].item()
                if not np.isfinite(loss):
                    raise OperationError(
                        f"the loss at step {done} of {steps} is {loss}: the training diverged; "
                        "use a lower learning rate"
                    )
                is_right = scores[shown_head].argmax(dim=1) == right[shown_head]
                fields = {"loss": loss, "acc": is_right.float().mean().item()}
            listener.progress(done, steps, fields)
            should_stop = listener.should_stop()
            if should_stop or done % _SAVE_EVERY == 0 or done == steps:
                _save(file, done, classifier, optimizer)
            if should_stop:
                raise Stopped


@torch.no_grad()
def predict_logits(
    classifier: Classifier,
    reader: SegmentReader,
    evaluation: EvaluationConfig,
    *,
    seed: int,
    listener: Listener = SILENT,
) -> dict[tuple[str, str], NDArray[np.float32]]:
    """Return logits (videos, classes) by head and protocol. Raises Stopped."""
    classifier.eval()
    draws = named_seed(seed, "test")
    logits: dict[tuple[str, str], NDArray[np.float32]] = {}
    for protocol in features.protocols(evaluation.segments):
        parts: dict[str, list[Tensor]] = {name: [] for name in classifier.heads}
        with features.every_video_once(reader, protocol, draws, evaluation) as batches:
            for batch in batches:
                if listener.should_stop():
                    raise Stopped
                for name, scores in classifier(reader.to_device(batch)).items():
                    parts[name].append(scores.float().cpu())
        logits |= {(name, protocol): torch.cat(part).numpy() for name, part in parts.items()}
    return logits


def _trained_parameters(classifier: Classifier) -> dict[str, nn.Parameter]:
    return {name: value for name, value in classifier.named_parameters() if value.requires_grad}


def _save(file: Path, step: int, classifier: Classifier, optimizer: torch.optim.SGD) -> None:
    momentum = tensors.sgd_momentum(optimizer, _trained_parameters(classifier))
    state = {f"momentum.{name}": value for name, value in momentum.items()}
    for name, value in classifier.state_dict().items():
        if not (classifier.frozen and name.startswith("encoder.")):
            state[f"model.{name}"] = value
    replace_file(file, tensors.tensors_to_bytes({**state, "step": torch.tensor(step)}))


def _restore(file: Path, classifier: Classifier, optimizer: torch.optim.SGD) -> int:
    """Load the state in `file` and return its step; return 0 if the file is damaged."""
    trained = _trained_parameters(classifier)
    try:
        state = safetensors.torch.load(file.read_bytes())
    except safetensors.SafetensorError:
        return 0
    model = tensors.part_of(state, "model")
    if classifier.frozen:
        encoder = classifier.encoder.state_dict()
        model |= {f"encoder.{name}": value for name, value in encoder.items()}
    tensors.load_strictly(classifier, model)
    tensors.restore_momentum(optimizer, trained, tensors.part_of(state, "momentum"))
    return int(state["step"])
