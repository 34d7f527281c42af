"""What stands around a recurrence, or a convolution over a state, runs in kernels of its own under torch.

Each enters a compiled run as one operator, which the compiler does not look into. It gets ready values: the decay out
of its logarithm, keys and queries repeated for the heads that share them. A prompt's scan leaves a new state, which is
copied into the cache, as are the last inputs of a convolution; a step moves the window of inputs on in two kernels, one
that joins old and new ones and one that writes them back over what the first read. The step of a scan writes its state
over itself. Engines do all of it inside their kernels. Bytes grow by those of the kernels; work and weights stay the
same. Source: the kernels of compiled layers of Mamba 2, Nemotron 3, Falcon-H1 and Qwen3.5 on an H100, torch 2.11.0.
"""

from __future__ import annotations

from torch import fx

from tracer.match import targets
from tracer.match.claim import Claim, Matched
from tracer.match.pointwise import measure
from tracer.rewrite import rewrite

#: Recurrences that are one operator in a compiled run, as attention is; others are compiled with what is around them.
OPERATORS = ("gated_delta_rule", "mamba2")


@rewrite("surround_recurrences", lowerings=("torch",), order=75)
def surround_recurrences(matched: Matched) -> int:
    """A pointwise claim for each kernel that readies a recurrence's values or moves a state on."""
    added = [made for c in matched.of(*OPERATORS) for made in _apart(matched, c)]
    added += [made for c in matched.of("causal_conv1d") for made in _moved_on(matched, c)]
    added += _left_over(matched)
    matched.claims += added
    return len(added)


def _apart(matched: Matched, claim: Claim) -> list[Claim]:
    """Take out of a recurrence what readies its values and, after a prompt, what copies its state."""
    copies = [n for n in claim.nodes if targets.base_name(n) == "copy_"]
    ready = [n for n in claim.nodes if _moves_data(n) and n not in (claim.anchor, *copies)]
    parts = [[n] for n in copies if claim.params["phase"] == "context"]
    parts += _connected(matched, ready)
    gone = {n for part in parts for n in part}
    claim.nodes = [n for n in claim.nodes if n not in gone]
    return [_kernel(matched, part) for part in parts]


def _moved_on(matched: Matched, claim: Claim) -> list[Claim]:
    """The two kernels that move the state of a convolution on; the operator hides them, so they hold no nodes."""
    x, state = claim.anchor.args[0], claim.anchor.args[3]
    if state is None:
        return []
    window, new = matched.flow.bytes(state), matched.flow.bytes(x)
    module = matched.flow.origin(claim.anchor).module
    return [
        Claim(
            kind="pointwise", name=f"{module}.{what}", nodes=[], anchor=claim.anchor, inputs=[state],
            params={"functions": what, "dtype": matched.flow.dtype(state)},
            dims={"read": read, "written": window}, rewrites=["surround_recurrences"],
            axes=dict.fromkeys(("read", "written"), claim.axes["channels"]),
        )
        for what, read in (("cat", window + new), ("copy", window))
    ]  # fmt: skip


def _left_over(matched: Matched) -> list[Claim]:
    """Copies into the cache of what no pointwise work makes: a prompt's last inputs, a state that was cast."""
    owner, found = matched.owner, []
    for node, group in list(matched.free.items()):
        if group != "cache append" or targets.base_name(node) != "copy_":
            continue
        source = matched.flow.source(node.args[1])
        made = owner.get(source)
        if source in matched.free if made is None else _leaves(made):
            del matched.free[node]
            found.append(_kernel(matched, [node]))
    return found


def _leaves(made: Claim) -> bool:
    """Whether an op leaves its result for a copy: the step of a recurrence writes its state itself."""
    return made.kind == "gemm" or (made.kind in OPERATORS and made.params["phase"] == "context")


def _moves_data(node: fx.Node) -> bool:
    return targets.is_pointwise(node) and not targets.is_view(node)


def _connected(matched: Matched, nodes: list[fx.Node]) -> list[list[fx.Node]]:
    """Nodes that feed each other, through views or not, together."""
    parts: list[list[fx.Node]] = []
    for node in sorted(nodes, key=matched.flow.position):
        sources = {matched.flow.source(value) for value in node.all_input_nodes}
        joined = [part for part in parts if not sources.isdisjoint(part)]
        parts = [part for part in parts if part not in joined]
        parts.append([*(n for part in joined for n in part), node])
    return parts


def _kernel(matched: Matched, nodes: list[fx.Node]) -> Claim:
    claim = Claim(
        kind="pointwise", params={}, dims={}, nodes=nodes, anchor=nodes[-1], rewrites=["surround_recurrences"]
    )  # fmt: skip
    measure(matched.flow, claim)
    claim.parameters = []  # the recurrence holds them
    if targets.base_name(claim.anchor) == "copy_":
        claim.dims = dict.fromkeys(("read", "written"), matched.flow.bytes(claim.anchor.args[0]))
    return claim
