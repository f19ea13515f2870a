import pytest
import torch

from flowcpc.train.runs.tensors import load_strictly, part_of, restore_momentum, sgd_momentum


def test_strict_loading_names_what_is_wrong_and_changes_nothing() -> None:
    module = torch.nn.Linear(2, 3)
    before = module.weight.clone()
    wrong = {"weight": torch.zeros(3, 4), "bais": torch.zeros(3)}
    with pytest.raises(
        ValueError, match=r"fit Linear: bias is missing; bais is unexpected; and 1 more; use"
    ):
        load_strictly(module, wrong)
    with pytest.raises(ValueError, match=r"weight is torch\.float64"):
        load_strictly(
            module, {"weight": torch.zeros(3, 2, dtype=torch.float64), "bias": torch.ones(3)}
        )
    assert torch.equal(module.weight, before)
    load_strictly(module, {"weight": torch.zeros(3, 2), "bias": torch.ones(3)})
    assert module.weight.abs().sum() == 0


def test_momentum_goes_on_where_it_was() -> None:
    def train(optimizer: torch.optim.SGD, parameter: torch.nn.Parameter, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            parameter.square().sum().backward()
            optimizer.step()

    whole, halves = (torch.nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2))
    train(torch.optim.SGD([whole], lr=0.1, momentum=0.9), whole, 4)
    first = torch.optim.SGD([halves], lr=0.1, momentum=0.9)
    train(first, halves, 2)
    second = torch.optim.SGD([halves], lr=0.1, momentum=0.9)
    restore_momentum(second, {"w": halves}, sgd_momentum(first, {"w": halves}))
    train(second, halves, 2)
    assert torch.equal(whole, halves)
    with pytest.raises(ValueError, match="do not fit the momentum of SGD: w is missing"):
        restore_momentum(second, {"w": halves}, {})
    assert sgd_momentum(torch.optim.SGD([halves], lr=0.1), {"w": halves}) == {}


def test_a_part_is_known_by_a_whole_word() -> None:
    a, b, c = torch.zeros(3)
    assert part_of({"model.x": a, "models.x": b, "x": c}, "model") == {"x": a}
