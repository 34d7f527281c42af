"""Latent attention in generation runs on the latent itself: the key expansion moves onto the queries, the value
expansion behind the attention. One product over all cached tokens becomes two small ones over the new tokens;
weights stay the same. Source: DeepSeek-V2, arXiv:2405.04434v5, section 2.1.2.
"""

from __future__ import annotations

from torch import fx

from tracer.match import targets
from tracer.match.attention import latent
from tracer.match.claim import Claim, Matched
from tracer.rewrite import rewrite


@rewrite("absorb_mla", lowerings=("serving",), order=10)
def absorb_mla(matched: Matched) -> int:
    """Replace (expansion, attention) by (bmm, absorbed attention, bmm)."""
    cores = list(matched.of("generation_mla"))
    cores += [c for c in matched.of("sparse_attention") if c.params.get("kv_lora_rank")]
    fired = 0
    for core in cores:
        if not core.params["absorbed"]:
            fired += _absorb(matched, core)
    return fired


def _absorb(matched: Matched, core: Claim) -> int:
    found = latent(matched.flow, core.inputs[1], core.inputs[2])
    expansion = matched.owner.get(found.expansion) if found else None
    if found is None or expansion is None or expansion.kind != "gemm":
        return 0
    rank, nope = core.params["kv_lora_rank"], core.params["qk_nope_head_dim"]
    value = core.params["v_head_dim"]
    before = _projection(
        matched, core, expansion, "key", n=rank, k=nope, share=(nope, nope + value)
    )
    before.nodes = list(expansion.nodes)
    after = _projection(
        matched, core, expansion, "value", n=value, k=rank, share=(value, nope + value)
    )
    assembly = _assembly(matched, core, found.expansion)
    core.params["absorbed"] = True
    core.rewrites.append("absorb_mla")
    core.nodes = [*assembly, *core.nodes]
    gone = set(assembly)
    matched.claims = [
        c
        for c in matched.claims
        if c is not expansion and not (c.nodes and gone.issuperset(c.nodes))
    ]
    at = matched.claims.index(core)
    matched.claims[at : at + 1] = [before, core, after]
    return 1


def _projection(
    matched: Matched,
    core: Claim,
    expansion: Claim,
    what: str,
    *,
    n: int,
    k: int,
    share: tuple[int, int],
) -> Claim:
    """One half of the expansion, as a product per head over the new tokens."""
    return Claim(
        kind="bmm",
        params={"n": n, "k": k, "dtype": expansion.params["dtype"], "shared_b": True},
        dims={"batch": core.params["num_heads"], "m": core.dims["b"] * core.dims["s"]},
        nodes=[],
        anchor=core.anchor,
        parameters=expansion.parameters,
        name=f"{matched.flow.origin(core.anchor).module}.absorbed_{what}_proj",
        rewrites=["absorb_mla"],
        share=share,
        axes={"batch": core.axes["num_heads"]},
    )


def _assembly(matched: Matched, core: Claim, expansion: fx.Node) -> list[fx.Node]:
    """Pointwise nodes that put expanded keys and values together: they vanish with the expansion."""
    flow, owner = matched.flow, matched.owner
    above = set(flow.ancestors(list(flow.inputs[core.anchor]), stop=lambda n: n is expansion))
    below = flow.descendants(expansion) & above
    keys = flow.root(core.inputs[1])
    below |= {n for n in above if targets.mutated(n) and flow.root(n) is keys}
    return [
        n
        for n in flow.nodes
        if n in below and (c := owner.get(n)) is not None and c.kind == "pointwise"
    ]
