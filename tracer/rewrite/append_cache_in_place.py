"""Caches are appended to in place instead of copied: the new rows' bytes are part of the op that reads the cache."""

from __future__ import annotations

from tracer.match import targets
from tracer.match.claim import Claim, Matched
from tracer.rewrite import rewrite


@rewrite("append_cache_in_place", lowerings=("torch", "serving"), order=45)
def append_cache_in_place(matched: Matched) -> int:
    """Pointwise claims that only join new rows to a cache, or write a state back, become free."""
    gone = [c for c in matched.of("pointwise") if _appends(matched, c)]
    for claim in gone:
        matched.claims.remove(claim)
        matched.free.update(dict.fromkeys(claim.nodes, "cache append"))
    return len(gone)


def _appends(matched: Matched, claim: Claim) -> bool:
    node = claim.anchor
    if targets.base_name(node) == "cat":
        return any(value.op == "placeholder" for value in node.args[0])
    return (
        targets.base_name(node) == "copy_" and matched.flow.root(node.args[0]).op == "placeholder"
    )
