"""Recurrent scans: Mamba 2, Mamba 1 and the gated delta rule, chunked over many tokens or one step at a time."""

from __future__ import annotations

from torch import fx

from tracer.match import matcher, targets
from tracer.match.claim import Claim, Result
from tracer.match.flow import Flow
from tracer.match.gemm import weight_form


def _state_dtype(node: fx.Node) -> str:
    return str(node.meta["val"][1].dtype).removeprefix("torch.")


def scan_claim(
    flow: Flow, node: fx.Node, kind: str, params: dict, batch, new, inputs: list[fx.Node],
    axes: dict[str, tuple[fx.Node, int]],
) -> Claim:  # fmt: skip
    """The scan, the write of its state back into the cache, and the parameters that only it uses."""
    nodes, parameters = [node], []
    for argument in node.all_input_nodes:
        if found := flow.parameter(argument):
            parameters.append(found[0])
            nodes += found[1]
    for user in [*node.users, *(u for n in node.users for u in n.users)]:
        if targets.base_name(user) == "copy_":
            nodes.append(user)
    params = {**params, "phase": flow.trace.phase, "state_dtype": _state_dtype(node)}
    return Claim(kind=kind, params=params, dims={"b": batch, "s": new}, nodes=nodes, anchor=node, inputs=inputs,
                 parameters=list(dict.fromkeys(parameters)), axes=axes)  # fmt: skip


@matcher("mamba2", "trace_model.mamba2_scan")
def mamba2(flow: Flow, node: fx.Node, _taken) -> Result:
    """x (B,S,H,P), B and C (B,S,G,N)."""
    x, _, _, b, _, _, _, chunk_size = node.args
    batch, new, heads, head_dim = flow.shape(x)
    groups, state = flow.shape(b)[-2:]
    params = {
        "d_inner": int(heads * head_dim),
        "d_state": int(state),
        "num_heads": int(heads),
        "head_dim": int(head_dim),
        "n_groups": int(groups),
        "chunk_size": chunk_size or 1,
        "dtype": flow.dtype(b),
    }
    axes = {"num_heads": (x, 2), "d_inner": (x, 2), "n_groups": (b, 2)}
    return scan_claim(flow, node, "mamba2", params, batch, new, [x], axes)


@matcher("mamba1", "trace_model.mamba1_scan")
def mamba1(flow: Flow, node: fx.Node, _taken) -> Result:
    """x (B,C,S), A (C,N); dt comes out of a low-rank linear layer."""
    x, dt, a = node.args[:3]
    batch, channels, new = flow.shape(x)
    weights = (
        n.args[form[1]]
        for n in flow.ancestors([dt], stop=lambda _: False)
        if (form := weight_form(flow, n)) is not None
    )
    weight = next(weights, None)
    params = {
        "d_inner": int(channels),
        "d_state": int(flow.shape(a)[-1]),
        "dt_rank": int(flow.shape(weight)[-1]) if weight is not None else 0,
        "dtype": flow.dtype(x),
    }
    return scan_claim(flow, node, "mamba1", params, batch, new, [x], {"d_inner": (x, 1)})


@matcher("gated_delta_rule", "trace_model.gated_delta_rule")
def gated_delta_rule(flow: Flow, node: fx.Node, _taken) -> Result:
    """q, k (B,S,K,D), v (B,S,H,V); the decay has one value per head (GDN) or per channel (KDA)."""
    _, _, value, g, _, _, chunk_size = node.args
    batch, new, heads, width = flow.shape(value)
    found = [_unrepeated(flow, node, x) for x in node.args[:2]]
    query, key = (x for x, _ in found)
    params = {
        "num_k_heads": int(flow.shape(key)[2]),
        "num_v_heads": int(heads),
        "head_k_dim": int(flow.shape(key)[3]),
        "head_v_dim": int(width),
        "chunk_size": chunk_size or 1,
        "gate": "channel" if len(flow.shape(g)) == 4 else "scalar",
        "dtype": flow.dtype(value),
    }
    axes = {"num_v_heads": (value, 2), "num_k_heads": (key, 2)}
    inputs = [query, key, value]
    claim = scan_claim(flow, node, "gated_delta_rule", params, batch, new, inputs, axes)
    claim.nodes = [*(n for _, chain in found for n in chain), *claim.nodes]
    return claim


def _unrepeated(flow: Flow, scan: fx.Node, x: fx.Node) -> tuple[fx.Node, list[fx.Node]]:
    """Queries or keys before each head is repeated for several value heads (dim 2), and the node that repeats them.

    Scans read a shared head once; versions of a model that repeat heads ahead of the scan run the same work.
    """
    if (
        targets.full_name(x) == "aten.repeat_interleave"
        and flow.users[x] == [scan]
        and x.args[2:] == (2,)
    ):
        return x.args[0], [x]
    return x, []
