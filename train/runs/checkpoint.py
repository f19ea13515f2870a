"""A run on disk: safetensors weights and JSON, replaced atomically and loaded strictly.

```
RUN/config.json                   the settings
RUN/checkpoint.json               the state of the run; its weights file and that file's sha256
RUN/weights-<step>.safetensors    model.* and momentum.*
```
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import safetensors.torch
import torch
from torch import Tensor

from flowcpc.stores.base.atomic import TEMPORARY_SUFFIX, replace_file
from flowcpc.stores.base.locks import locked
from flowcpc.stores.layout import differing_values, find_store_above
from flowcpc.train.model.cpc import build_model
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.runs.metrics import Window
from flowcpc.train.runs.tensors import check_same_tensors, load_strictly, part_of, tensors_to_bytes
from flowcpc.train.settings.config import PretrainConfig

FORMAT_VERSION = 2
_CONFIG = "config.json"
_META = "checkpoint.json"
_WEIGHTS = "weights-{step}.safetensors"
_PACKAGES = ("torch", "numpy", "numba", "safetensors")


class CheckpointMeta(TypedDict):
    """The content of checkpoint.json."""

    format_version: int
    step: int
    weights: str  # name of the file
    sha256: str  # of the file
    window: list[float]
    config: dict[str, Any]
    numerics: dict[str, Any]
    videos: str
    versions: dict[str, str]  # of packages


@dataclass(frozen=True)
class Checkpoint:
    """A saved state of a run."""

    step: int  # iterations done
    config: PretrainConfig
    numerics: dict[str, Any]  # of the store that it was trained on
    videos: str  # digest of the videos that it was trained on (splits.digest_of_videos)
    window: list[float]  # sums of the metrics since their last line (metrics.Window)
    sha256: str  # of the weights file
    tensors: dict[str, Tensor]  # model.* and momentum.*, on the CPU

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with `prefix.`, without it."""
        return part_of(self.tensors, prefix)


def open_run(
    run: Path, config: PretrainConfig, numerics: Mapping[str, Any], videos: str
) -> Checkpoint | None:
    """Return the checkpoint of a run, or write the settings of a new run and return None.

    Before the first checkpoint nothing was learned, so other settings may take the folder over.
    `videos` is the digest of the training videos. Raises ValueError if the run has other settings
    (only `steps` may grow), flow of other numerics, or other videos; or if its checkpoint is lost.
    """
    checkpoint = load_checkpoint(run)
    if checkpoint is None:
        for path in run.glob(_WEIGHTS.format(step="*")):
            step = path.stem.rpartition("-")[2]
            if step.isdecimal() and int(step) > config.checkpoint_every:
                raise ValueError(
                    f"{run} holds {path.name} but no {_META}; restore that file, or use another "
                    "folder"
                )
        _write_json(run / _CONFIG, config.to_json())
        return None
    saved = checkpoint.config
    old, new = saved.to_json(), config.to_json()
    differing = [key for key in old if key not in ("preset", "steps") and old[key] != new[key]]
    if differing:
        both = "; ".join(f"{key} was {old[key]!r} and is now {new[key]!r}" for key in differing)
        raise ValueError(
            f"{run} was made with other settings: {both}; use the same ones, or another folder"
        )
    if config.steps < saved.steps:
        raise ValueError(
            f"{run} was made with steps={saved.steps}; steps may only grow, got {config.steps}"
        )
    check_numerics(checkpoint, numerics)
    if checkpoint.videos != videos:
        raise ValueError(
            f"{run} began with other videos than the store has now; "
            "use the store as it was, or another folder for a new run"
        )
    _write_json(run / _CONFIG, config.to_json())
    return checkpoint


@contextlib.contextmanager
def hold_run(run: Path) -> Iterator[None]:
    """Lock the folder of a run, made if missing, and remove files of a killed process.

    Raises ValueError if another process trains the run, FileExistsError if `run` is a file or a
    folder of something else.
    """
    if run.exists() and not run.is_dir():
        raise FileExistsError(f"{run} is a file; give a new folder for the run")
    run.mkdir(parents=True, exist_ok=True)
    others = (entry for entry in run.iterdir() if entry.suffix != TEMPORARY_SUFFIX)
    if not any((run / name).exists() for name in (_CONFIG, _META)) and any(others):
        raise FileExistsError(f"{run} holds something else than a run; give a new or empty folder")
    busy = f"{run} is being trained by another process; wait for it, or give another folder"
    with locked(run, busy=busy):
        for left in run.glob(f".*{TEMPORARY_SUFFIX}"):
            left.unlink(missing_ok=True)
        yield


def save_checkpoint(
    run: Path,
    *,
    step: int,
    config: PretrainConfig,
    numerics: Mapping[str, Any],
    videos: str,
    window: list[float],
    model: Mapping[str, Tensor],
    momentum: Mapping[str, Tensor],
) -> None:
    """Replace the run's checkpoint; a kill at any moment leaves the old one or the new one."""
    tensors = {f"model.{name}": value for name, value in model.items()}
    tensors |= {f"momentum.{name}": value for name, value in momentum.items()}
    data = tensors_to_bytes(tensors)
    weights = run / _WEIGHTS.format(step=step)
    replace_file(weights, data)
    meta: CheckpointMeta = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "weights": weights.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "window": window,
        "config": config.to_json(),
        "numerics": dict(numerics),
        "videos": videos,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    _write_json(run / _META, meta)
    for old in run.glob(_WEIGHTS.format(step="*")):
        if old != weights:
            old.unlink()


def load_checkpoint(run: str | os.PathLike[str]) -> Checkpoint | None:
    """Return the checkpoint of a run, or None when it has none yet.

    Nothing in the files is executed. Raises ValueError if they are damaged, of another format
    version, or hold other tensors than the settings make.
    """
    path = Path(run, _META)
    if not path.is_file():
        return None
    try:
        return _load(path)
    except (ValueError, KeyError, TypeError, OSError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be used ({reason_of(error)}); restore the run, or train it again"
        ) from error


def _load(path: Path) -> Checkpoint:
    meta: CheckpointMeta = json.loads(path.read_bytes())
    if not isinstance(meta, dict):
        raise ValueError("it is no JSON object")
    if (version := meta["format_version"]) != FORMAT_VERSION:
        raise ValueError(f"format version {version}, this release reads {FORMAT_VERSION}")
    if (weights := meta["weights"]) != _WEIGHTS.format(step=meta["step"]):
        raise ValueError(f"{weights} are not the weights of step {meta['step']}")
    data = path.with_name(weights).read_bytes()
    if hashlib.sha256(data).hexdigest() != meta["sha256"]:
        raise ValueError(f"{weights} does not fit its checksum")
    config, tensors = PretrainConfig.from_json(meta["config"]), safetensors.torch.load(data)
    with torch.device("meta"):  # shapes without values: no memory, and no draw
        model = build_model(config)
    expected = {f"model.{name}": value for name, value in model.state_dict().items()}
    if config.momentum:
        expected |= {f"momentum.{name}": value for name, value in model.named_parameters()}
    check_same_tensors(expected, tensors, "the settings")
    _check_kinds(meta, len(Window(model.horizons, torch.device("cpu")).values()))
    values = meta["numerics"], meta["videos"], meta["window"], meta["sha256"]
    return Checkpoint(meta["step"], config, *values, tensors)


def _check_kinds(meta: CheckpointMeta, sums: int) -> None:
    """Raise ValueError naming a value that training or an evaluation would stumble over later."""
    window: Any = meta["window"]
    numbers = isinstance(window, list) and all(type(value) in (int, float) for value in window)
    for name, right, rule in (
        ("step", type(meta["step"]) is int, "a whole number"),
        ("numerics", isinstance(meta["numerics"], dict), "an object of names and values"),
        ("videos", isinstance(meta["videos"], str), "a text"),
        ("window", numbers and len(window) == sums, f"a list of {sums} numbers"),
    ):
        if not right:
            raise ValueError(f"{name} is not {rule}")


def reason_of(error: Exception) -> str:
    """Return for the user what made a saved file unusable."""
    match error:
        case json.JSONDecodeError() | UnicodeDecodeError():
            return "it is no JSON"
        case KeyError():
            return f"it lacks {error.args[0]}"
        case FileNotFoundError():
            return f"{Path(error.filename).name} does not exist"
        case OSError():
            return f"{Path(error.filename).name}: {(error.strerror or 'it cannot be read').lower()}"
        case safetensors.SafetensorError():
            return f"the weights are damaged: {error}"
        case TypeError() | AttributeError():
            return "a value in it has the wrong type"
    return str(error)


def require_checkpoint(run: str | os.PathLike[str]) -> Checkpoint:
    """Return the checkpoint of a run.

    Raises FileNotFoundError if it has none, ValueError as `load_checkpoint`.
    """
    checkpoint = load_checkpoint(run)
    if checkpoint is None:
        raise FileNotFoundError(f"{run} holds no checkpoint of a run; {where_a_run_is(Path(run))}")
    return checkpoint


def where_a_run_is(path: Path) -> str:
    """Return a hint for the user whose `path` holds no run."""
    if find_store_above(path) is not None:
        return "it is a store, or a part of one: give the folder that flowcpc pretrain wrote"
    if path.is_file() or (path.is_dir() and not (path / _CONFIG).exists() and any(path.iterdir())):
        return "it is something else: give the folder that flowcpc pretrain wrote"
    return f"make one with: flowcpc pretrain STORE {path}"


def load_encoder(run: str | os.PathLike[str]) -> Encoder:
    """Return the trained encoder of a run, on the CPU and in eval mode; its settings are `.config`.

    Raises FileNotFoundError if there is no checkpoint, ValueError if it is damaged.
    """
    return build_encoder(require_checkpoint(run))


def build_encoder(checkpoint: Checkpoint) -> Encoder:
    """Return the encoder of a checkpoint, on the CPU and in eval mode."""
    encoder = Encoder(checkpoint.config)
    load_strictly(encoder, checkpoint.part("model.encoder"))
    return encoder.eval()


def check_numerics(checkpoint: Checkpoint, numerics: Mapping[str, Any]) -> None:
    """Raise ValueError naming every difference between the run's numerics and a store's.

    A run on flow does not mind whether frames are stored too.
    """
    differences = [
        f"{name} was {trained!r} and is {here!r} in this store"
        for name, trained, here in differing_values(checkpoint.numerics, dict(numerics))
        if name.partition(".")[0] != "frames" or checkpoint.config.modality == "image"
    ]
    if differences:
        raise ValueError(
            f"the run was trained on other flow: {'; '.join(differences)}; "
            "use a store of the same numerics, or a new run"
        )


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    replace_file(path, json.dumps(value, indent=2).encode())
