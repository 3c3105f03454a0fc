"""Dropout zeroes its share, scales up the rest, and draws from torch's global generator alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from encoder.dropout import Dropout, dropped, quicken


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_its_share_is_zeroed_and_the_mean_stays(share: float) -> None:
    torch.manual_seed(3)
    found = dropped(torch.ones(1001, 997), share)
    assert float((found == 0).double().mean()) == pytest.approx(share, abs=2e-3)
    assert float(found.double().mean()) == pytest.approx(1.0, abs=5e-3)
    assert len(found.unique()) == 2
    by_row, by_column = (found == 0).double().mean(dim=1), (found == 0).double().mean(dim=0)
    spread = (share * (1 - share) / 1000) ** 0.5
    assert float(by_row.std()) == pytest.approx(spread, rel=0.15)
    assert float(by_column.std()) == pytest.approx(spread, rel=0.15)


def test_neighbours_that_share_a_draw_are_zeroed_independently() -> None:
    torch.manual_seed(4)
    zeroed = (dropped(torch.ones(40_000, 4), 0.5) == 0).double()
    for first in range(4):
        for second in range(first):
            assert float((zeroed[:, first] * zeroed[:, second]).mean()) == pytest.approx(0.25, abs=0.01)


def test_the_gradient_is_that_of_what_was_kept() -> None:
    values = torch.randn(7, 5, requires_grad=True)
    found = dropped(values, 0.4)
    found.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad * values, found)


def test_the_same_seed_zeroes_the_same_elements_and_evaluation_none() -> None:
    values, module = torch.randn(50, 3), Dropout(0.3)
    torch.manual_seed(1)
    first = module(values)
    torch.manual_seed(1)
    assert torch.equal(module(values), first)
    assert not torch.equal(module(values), first)
    assert torch.equal(module.eval()(values), values)
    assert torch.equal(dropped(values, 0.0), values)
    assert torch.equal(dropped(values, 1.0), torch.zeros(50, 3))


def test_every_dropout_of_a_model_is_replaced_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.4), nn.AlphaDropout(0.1)))
    names = [name for name, _ in model.named_parameters()]
    quicken(model)
    assert [module.p for module in model.modules() if isinstance(module, Dropout)] == [0.2, 0.4]
    assert type(model[2][1]) is nn.AlphaDropout
    assert [name for name, _ in model.named_parameters()] == names
