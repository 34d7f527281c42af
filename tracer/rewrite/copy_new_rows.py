"""Rows that a product leaves for the cache are copied into it by a kernel of their own.

A compiled run writes new keys and values behind the cached ones. Where pointwise work makes them, rotary embeddings
say, that work writes them there; where a product does, as it does the values, a copy follows. Engines do it within the
kernel that turns the keys. Bytes grow by those of the rows, read and written; work and weights stay the same. Source:
the kernels of compiled layers on an H100, torch 2.11.0, docs/alignment.md.
"""

from __future__ import annotations

from torch import fx

from oplib.symbols import P
from tracer.match import targets
from tracer.match.claim import Claim, Matched
from tracer.match.pointwise import measure
from tracer.rewrite import rewrite


@rewrite("copy_new_rows", lowerings=("torch",), order=75)
def copy_new_rows(matched: Matched) -> int:
    """A pointwise claim of the rows' bytes for each append whose rows no pointwise work makes."""
    owner, count = matched.owner, 0
    for node, group in list(matched.free.items()):
        if group != "cache append" or targets.base_name(node) != "cat":
            continue
        rows = [value for value in node.args[0] if value.op != "placeholder"]
        if not matched.flow.bytes(node).has(P):  # a window of inputs that a convolution keeps
            continue
        made = [owner.get(matched.flow.source(value)) for value in rows]
        if len(rows) == 1 and made[0] is not None and made[0].kind != "pointwise":
            del matched.free[node]
            matched.claims.append(_copy(matched, node, rows[0]))
            count += 1
    return count


def _copy(matched: Matched, node: fx.Node, rows: fx.Node) -> Claim:
    claim = Claim(
        kind="pointwise", params={}, dims={}, nodes=[node], anchor=node, rewrites=["copy_new_rows"]
    )
    measure(matched.flow, claim)
    moved = matched.flow.bytes(rows)
    claim.dims = {"read": moved, "written": moved}
    claim.axes = dict.fromkeys(claim.dims, (rows, 1))
    return claim
