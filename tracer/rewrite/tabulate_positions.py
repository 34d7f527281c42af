"""Rotary angles come out of a table: products of positions with frequencies are made once, not in every pass.
FLOPs fall by those of the products; weights stay the same.
"""

from __future__ import annotations

from tracer.match.claim import Matched
from tracer.match.flow import Role
from tracer.rewrite import rewrite


@rewrite("tabulate_positions", lowerings=("torch", "serving"), order=5)
def tabulate_positions(matched: Matched) -> int:
    """Products that no token data enters become free, like the rest of the position arithmetic."""
    gone = [c for c in matched.of("bmm") if matched.flow.role[c.anchor] is Role.POSITION]
    for claim in gone:
        matched.claims.remove(claim)
        matched.free.update(dict.fromkeys(claim.nodes, "position and mask arithmetic"))
    return len(gone)
