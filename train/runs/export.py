"""The encoder of a run as a file that other programs load: TorchScript or ONNX, compared with the original before it is written."""

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
from flowcpc.train.runs.checkpoint import Checkpoint, build_encoder, require_checkpoint

_SUFFIXES = {"torchscript": ".pt", "onnx": ".onnx"}
FORMS = tuple(_SUFFIXES)
TOLERANCE = 1e-5
_TRIED_BATCHES = (1, 3)  # neither is the size that it is traced with
_INPUT, _OUTPUT = "stacks", "latents"
_About = dict[str, Any]


def export_encoder(run_path: str | os.PathLike[str], out: Path, form: str) -> float:
    """Write the encoder of a run to `out` and return by how much it differs from the original on random input, at most.

    What is written takes `stacks`, float32 (n, 2N, h, w), for any n, and gives `latents`, float32 (n, D). Settings and numerics of the flow are
    inside, as JSON called flowcpc.json (TorchScript) or in the metadata (ONNX).

    Parameters
    ----------
    form : str
        "torchscript", or "onnx", which needs the packages onnx, onnxscript and onnxruntime.

    Raises
    ------
    ValueError
        `form` is unknown or its packages are absent; `out` does not end in .pt or .onnx, as `form` asks for, which no file of a run does; the
        run's checkpoint cannot be used.
    FileNotFoundError
        There is no run.
    OperationError
        The difference is above 1e-5, relative where values are above 1; nothing was written.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r} is unknown; choose one of {', '.join(FORMS)}")
    suffix = _SUFFIXES[form]
    if out.suffix.lower() != suffix:
        raise ValueError(
            f"{out} does not end in {suffix}, but {form} is what is written; name it {out.stem}{suffix}"
        )
    checkpoint = require_checkpoint(run_path)
    encoder = build_encoder(checkpoint).requires_grad_(False)
    about = {
        "step": checkpoint.step,
        "config": checkpoint.config.to_json(),
        "numerics": checkpoint.numerics,
    }
    make, load = (
        (_to_torchscript, _load_torchscript) if form == "torchscript" else (_to_onnx, _load_onnx)
    )
    data = make(encoder, _random_stacks(checkpoint, 2), about)
    difference = _compare(checkpoint, encoder, load(data))
    if not difference <= TOLERANCE:  # NaN is not small either
        raise OperationError(
            f"the exported encoder differs from the original by {difference:.2g} and {TOLERANCE:g} is allowed; nothing was written to {out}"
        )
    replace_file(out, data)
    return difference


def _random_stacks(checkpoint: Checkpoint, count: int) -> Tensor:
    config = checkpoint.config
    generator = torch.Generator().manual_seed(count)
    return torch.randn((count, config.channels, *config.size), generator=generator)


def _compare(
    checkpoint: Checkpoint, encoder: Encoder, exported: Callable[[Tensor], NDArray[np.float32]]
) -> float:
    """Return the largest difference over batches of several sizes, relative to the largest value where that is above 1."""
    differences = []
    for count in _TRIED_BATCHES:
        stacks = _random_stacks(checkpoint, count)
        with torch.no_grad():
            wanted = encoder(stacks).numpy()
        found = exported(stacks)
        if found.shape != wanted.shape:
            raise OperationError(
                f"the exported encoder gives {found.shape} instead of {wanted.shape} for {count} stacks"
            )
        differences.append(
            float(np.abs(found - wanted).max() / max(1.0, float(np.abs(wanted).max())))
        )
    return max(differences)


def _to_torchscript(encoder: Encoder, example: Tensor, about: _About) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # torch.export is to follow it, but TorchScript is what C++ and older programs load.
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        traced = torch.jit.trace(encoder, example, check_trace=False)
        torch.jit.save(traced, buffer, _extra_files={"flowcpc.json": json.dumps(about)})
    return buffer.getvalue()


def _load_torchscript(data: bytes) -> Callable[[Tensor], NDArray[np.float32]]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        module = torch.jit.load(io.BytesIO(data), map_location="cpu")

    def run(stacks: Tensor) -> NDArray[np.float32]:
        with torch.no_grad():
            latents: NDArray[np.float32] = module(stacks).numpy()
        return latents

    return run


def _to_onnx(encoder: Encoder, example: Tensor, about: _About) -> bytes:
    try:
        import onnx
        import onnxruntime  # noqa: F401  (asked for now, not after minutes of work)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"{error.name} is not installed; pip install 'flowcpc[onnx]', or export to torchscript"
        ) from error

    with _quiet():  # of what the exporter says about itself; what it made is compared below
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _load_onnx(data: bytes) -> Callable[[Tensor], NDArray[np.float32]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(stacks: Tensor) -> NDArray[np.float32]:
        latents: NDArray[np.float32] = session.run([_OUTPUT], {_INPUT: stacks.numpy()})[0]
        return latents

    return run
