"""Table look-up by token id."""

from __future__ import annotations

from torch import fx

from tracer.match import matcher
from tracer.match.claim import Claim, Refusal, Result
from tracer.match.flow import Flow


@matcher("embedding", "aten.embedding")
def embedding(flow: Flow, node: fx.Node, _taken) -> Result:
    """`embedding` of a parameter."""
    found = flow.parameter(node.args[0])
    if found is None:
        return Refusal(node=node, op="embedding", reason="the table is not a parameter")
    rows, width = (int(s) for s in flow.shape(node.args[0]))
    return Claim(
        kind="embedding",
        params={"num_embeddings": rows, "embedding_dim": width, "dtype": flow.dtype(found[0])},
        dims={"m": flow.numel(node.args[1])},
        nodes=[*found[1], node],
        anchor=node,
        inputs=[],
        parameters=[found[0]],
    )
