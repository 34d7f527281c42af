"""How the tables of this folder are checked: each row twice, with numbers and through symbols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from oplib.op import Op
from oplib.symbols import B, P, S, evaluate


def price_both_ways(name: str, params: dict[str, Any], dims: dict[str, int]) -> tuple[Any, Any]:
    """(FLOPs, bytes) from the dims as numbers; asserts that the expressions in symbols agree."""
    numbers = Op(op=name, name="row", params=params, dims=dims)
    cost = numbers.cost_at(b=0)
    workload = dict(zip("bsp", dims.values(), strict=False))
    given = {key: (B, S, P)[i] if i < 3 else value for i, (key, value) in enumerate(dims.items())}
    symbols = Op(op=name, name="row", params=params, dims=given)
    assert evaluate(symbols.flops, **workload) == pytest.approx(cost.flops, rel=1e-12)
    assert evaluate(symbols.bytes, **workload) == pytest.approx(cost.bytes, rel=1e-12)
    return cost.flops, cost.bytes


@pytest.fixture
def price() -> Callable[..., tuple[Any, Any]]:
    """`price_both_ways`, for the tables of one op kind."""
    return price_both_ways
