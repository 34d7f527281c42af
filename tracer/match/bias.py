"""What is added to attention scores beside a mask, and which values the tokens enter."""

from __future__ import annotations

import functools

from torch import fx

from tracer.match import targets
from tracer.match.flow import Flow, Role


def bias_of(flow: Flow, terms: list[fx.Node]) -> str:
    """`content` where the tokens enter a term, `relative` where parameters do and tokens do not, `alibi` where it is
    made of positions and numbers alone, `none` without one.
    """
    if any(term in of_tokens(flow) for term in terms):
        return "content"
    if any(flow.role[term] is not Role.POSITION for term in terms):
        return "relative"
    return "alibi" if terms else "none"


@functools.lru_cache(maxsize=4)
def of_tokens(flow: Flow) -> frozenset[fx.Node]:
    """Nodes whose values depend on the tokens or on the cache, and not on their number alone."""
    found: set[fx.Node] = set()
    written: set[fx.Node] = set()
    for node in flow.trace.graph.nodes:
        reads = any(i in found for i in flow.inputs[node])
        if node.op == "placeholder" or (reads and not targets.is_constant(node)):
            found.add(node)
            written.update(flow.root(target) for target in targets.mutated(node))
    return frozenset(found | {n for n in flow.nodes if flow.root(n) in written})
