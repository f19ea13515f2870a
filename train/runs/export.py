"""The encoder of a run as TorchScript or ONNX for other programs, verified before it is written."""

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowcpc.stores.base.atomic import replace_file
from flowcpc.stores.base.errors import OperationError
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.runs.checkpoint import build_encoder, require_checkpoint

_SUFFIXES = {"torchscript": ".pt", "onnx": ".onnx"}
FORMS = tuple(_SUFFIXES)
TOLERANCE = 1e-5
_TRACED_BATCH = 2
_COMPARED_BATCHES = (1, 3)  # neither is _TRACED_BATCH
_INPUT, _OUTPUT = "stacks", "latents"


def export_encoder(run_path: str | os.PathLike[str], out: Path, form: str) -> float:
    """Write the encoder of a run to `out` and return its largest difference on random input.

    The exported encoder takes `stacks`, float32 (n, 2N, h, w) for any n, and returns `latents`,
    float32 (n, D). The file holds the settings and the numerics of the flow, as JSON called
    flowcpc.json (TorchScript) or in the metadata (ONNX). `form` is "torchscript", or "onnx", which
    needs the packages onnx, onnxscript and onnxruntime.

    Raises ValueError if `form` is unknown or its packages are missing, `out` does not end in .pt or
    .onnx, as `form` requires, or the checkpoint of the run is not valid; FileNotFoundError if the
    run does not exist; OperationError if the difference is above 1e-5, relative if values are
    above 1. Then nothing was written.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    suffix = _SUFFIXES[form]
    if out.suffix.lower() != suffix:
        raise ValueError(f"{form} needs a name that ends in {suffix}, got {out}")
    checkpoint = require_checkpoint(run_path)
    encoder = build_encoder(checkpoint).requires_grad_(False)
    config = checkpoint.config.to_json()
    about = {"step": checkpoint.step, "config": config, "numerics": checkpoint.numerics}
    example = _random_stacks(encoder, _TRACED_BATCH)
    if form == "torchscript":
        data = _to_torchscript(encoder, example, about)
        exported = _load_torchscript(data)
    else:
        data = _to_onnx(encoder, example, about)
        exported = _load_onnx(data)
    difference = _largest_difference(encoder, exported)
    if not difference <= TOLERANCE:  # also if it is NaN
        raise OperationError(
            f"the exported encoder differs from the original by {difference:.2g}, at most "
            f"{TOLERANCE:g} is allowed; {out} was not written"
        )
    replace_file(out, data)
    return difference


def _random_stacks(encoder: Encoder, count: int) -> Tensor:
    config, generator = encoder.config, torch.Generator().manual_seed(count)
    return torch.randn((count, config.channels, *config.size), generator=generator)


def _largest_difference(
    encoder: Encoder, exported: Callable[[Tensor], NDArray[np.float32]]
) -> float:
    """Return the largest difference on several batches, relative if values are above 1."""
    differences = []
    for count in _COMPARED_BATCHES:
        stacks = _random_stacks(encoder, count)
        expected, latents = encoder(stacks).numpy(), exported(stacks)
        if latents.shape != expected.shape:
            raise OperationError(
                f"the exported encoder returns the shape {latents.shape} instead of "
                f"{expected.shape} for {count} stacks"
            )
        differences.append(np.abs(latents - expected).max() / max(1.0, np.abs(expected).max()))
    return float(np.max(differences))  # NaN if any is


def _to_torchscript(encoder: Encoder, example: Tensor, about: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with _quiet():  # deprecated in favour of torch.export, but C++ and older programs load it
        traced = torch.jit.trace(encoder, example, check_trace=False)
        torch.jit.save(traced, buffer, _extra_files={"flowcpc.json": json.dumps(about)})
    return buffer.getvalue()


def _load_torchscript(data: bytes) -> Callable[[Tensor], NDArray[np.float32]]:
    with _quiet():
        module = torch.jit.load(io.BytesIO(data), map_location="cpu")
    return lambda stacks: module(stacks).detach().numpy()


def _to_onnx(encoder: Encoder, example: Tensor, about: dict[str, Any]) -> bytes:
    try:
        import onnx
        import onnxruntime  # noqa: F401  (fail now, not after the export)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"{error.name} is not installed; pip install 'flowcpc[onnx]', or export to torchscript"
        ) from error

    with _quiet():
        program = torch.onnx.export(
            encoder,
            (example,),
            dynamo=True,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.metadata_props.append(onnx.StringStringEntryProto(key="flowcpc", value=json.dumps(about)))
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _load_onnx(data: bytes) -> Callable[[Tensor], NDArray[np.float32]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda stacks: session.run([_OUTPUT], {_INPUT: stacks.numpy()})[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what exporters print about themselves; the exported encoder is verified anyway."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
