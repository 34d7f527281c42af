"""A product of operands that the model casts to a wider dtype runs in that dtype: a router in float32, say.

The op list says of a product in which mode its weight is stored, and engines multiply in it. A compiled run casts the
weight in each step, by a kernel of its own, and multiplies what it was cast to: work stays the same, its rate and its
bytes are those of the wider dtype. The cast of the tokens joins what made them. Weights that a checkpoint quantises
are left alone. Source: the kernels of compiled layers of DeepSeek-V3 and Nemotron 3 on an H100, torch 2.11.0, whose
names say f32 and ffma (docs/alignment.json).
"""

from __future__ import annotations

from torch import fx

from oplib.dtypes import STORAGE_BITS
from tracer.match.claim import Claim, Matched
from tracer.match.gemm import weight_form
from tracer.match.pointwise import measure
from tracer.match.targets import CASTS, base_name, is_view
from tracer.rewrite import rewrite


@rewrite("widen_operands", lowerings=("torch",), order=40)
def widen_operands(matched: Matched) -> int:
    """Give the product the dtype of its operands, and each of their casts a claim."""
    fired = 0
    for claim in list(matched.of("gemm")):
        form = weight_form(matched.flow, claim.anchor)
        if form is None:
            continue
        weight = claim.anchor.args[form[1]]
        wide = matched.flow.dtype(weight)
        stored = matched.flow.dtype(claim.parameters[0])
        if claim.params["dtype"] != stored or STORAGE_BITS[wide] <= STORAGE_BITS[stored]:
            continue
        _split(matched, claim)
        claim.inputs = [claim.anchor.args[form[0]]]
        claim.params["dtype"] = wide
        claim.rewrites.append("widen_operands")
        fired += 1
    return fired


def _split(matched: Matched, claim: Claim) -> None:
    """Take the casts out of a product's nodes. It goes on to hold its weight, as it is stored."""
    casts = [n for n in claim.nodes if _is_cast(n)]
    claim.nodes = [n for n in claim.nodes if n not in casts]
    for node in casts:
        own = Claim(
            kind="pointwise", params={}, dims={}, nodes=[node], anchor=node, rewrites=["widen_operands"]
        )  # fmt: skip
        measure(matched.flow, own)
        own.parameters = []
        matched.claims.append(own)


def _is_cast(node: fx.Node) -> bool:
    return node.op == "call_function" and base_name(node) in CASTS and not is_view(node)
