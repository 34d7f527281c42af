"""Products of positions: ops as written, where the FLOP counter sees them too, and free as run."""

from __future__ import annotations

import torch

from tests.tracer import toy
from tests.tracer.toy import WIDTH, claims
from tracer.match.claim import Matched
from tracer.rewrite import lower


def angles(_model: toy.Toy, x: torch.Tensor) -> torch.Tensor:
    """Rotary angles as the product of a column of frequencies with a row of positions."""
    frequencies = torch.arange(WIDTH, device=x.device).float()[None, :, None]
    positions = torch.arange(x.shape[1], device=x.device).float()[None, None, :]
    return x * (frequencies @ positions).transpose(1, 2).cos().to(x.dtype)


def scores(_model: toy.Toy, x: torch.Tensor) -> torch.Tensor:
    """A product that token data enters."""
    return x @ x.transpose(1, 2)


def outer(_model: toy.Toy, x: torch.Tensor) -> torch.Tensor:
    """An outer product sums over nothing, and no counter counts it."""
    positions = torch.arange(x.shape[1], device=x.device).float()
    frequencies = torch.arange(WIDTH, device=x.device).float()
    return x * torch.einsum("i,j->ij", positions, frequencies).cos().to(x.dtype)


def held(found: Matched) -> int:
    """Nodes in claims, free groups and primitives together."""
    return sum(len(c.nodes) for c in found.claims) + len(found.free) + len(found.primitives)


def test_a_product_of_positions_is_an_op_as_written_and_free_as_run():
    """2 * WIDTH * s FLOPs under `eager`, none under the other lowerings, and no node is lost."""
    for lowering in ("torch", "serving"):
        found = toy.matched(angles)
        (claim,) = claims(found, "bmm")
        assert claim.params["k"] == 1
        assert not claim.params["shared_b"]
        lower(found, lowering)
        assert not claims(found, "bmm")
        assert "tabulate_positions" in found.rewrites
        assert found.free[claim.anchor] == "position and mask arithmetic"
        assert held(found) == len(found.flow.nodes)


def test_a_product_of_token_data_stays():
    """The near miss."""
    found = lower(toy.matched(scores), "serving")
    assert len(claims(found, "bmm")) == 1
    assert "tabulate_positions" not in found.rewrites


def test_an_outer_product_of_positions_is_free_as_written():
    """It is mathematics per element, like the sines that follow it."""
    found = toy.matched(outer)
    assert not claims(found, "bmm")
    assert not found.primitives
