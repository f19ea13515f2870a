"""Tensors by name: strict comparison and copy, parts, bytes, and the momentum of SGD."""

from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor, nn

_NAMED = 2  # tensors that a sentence names


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into the parameters and buffers of `module`.

    Raises ValueError, and changes nothing, unless names, shapes and dtypes are the same.
    """
    state = module.state_dict()
    check_same_tensors(state, tensors, type(module).__name__)
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(value)


def check_same_tensors(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str
) -> None:
    """Raise ValueError naming the first tensors that differ in name, shape or dtype."""
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    wrong += [f"{name} is unexpected" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        a, b = expected[name], found[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            kinds = (f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in (b, a))
            wrong.append(f"{name} is {' instead of '.join(kinds)}")
    if wrong:
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise ValueError(
            f"the saved tensors do not fit {where}: {'; '.join(wrong[:_NAMED])}{more}; "
            "use the settings that made them"
        )


def sgd_momentum(optimizer: torch.optim.SGD, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the momentum of every named parameter; nothing when the optimizer keeps none."""
    if not optimizer.param_groups[0]["momentum"]:
        return {}
    return {name: optimizer.state[one]["momentum_buffer"] for name, one in parameters.items()}


def restore_momentum(
    optimizer: torch.optim.SGD, parameters: Mapping[str, Tensor], momentum: Mapping[str, Tensor]
) -> None:
    """Restore what `sgd_momentum` returned. Raises ValueError if it does not fit the parameters."""
    expected = parameters if optimizer.param_groups[0]["momentum"] else {}
    check_same_tensors(expected, momentum, "the momentum of SGD")
    for name, value in momentum.items():
        buffer = torch.empty_like(parameters[name]).copy_(value).detach()
        optimizer.state[parameters[name]]["momentum_buffer"] = buffer


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix.`, without it."""
    start = len(prefix) + 1
    return {name[start:]: one for name, one in tensors.items() if name.startswith(f"{prefix}.")}


def tensors_to_bytes(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return `tensors`, from any device, as a safetensors file with `metadata` in its header."""
    own = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    data: bytes = safetensors.torch.save(own, dict(metadata) if metadata else None)
    return data
