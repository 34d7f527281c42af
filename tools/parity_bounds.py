"""Why two bounds of one op differ by more than 3 %: rules over the pair and the numbers of the GPU."""

from __future__ import annotations

from parity_pairs import Pair

UNEXPLAINED = "unexplained"


def bound_cause(pair: Pair) -> str:
    """The cause, in a few words."""
    ratio = pair.sol_ours / pair.sol_theirs
    kinds = {line.kind for line in pair.lines}
    if pair.block:
        return "parts with their intermediate results against a module"
    if kinds == {"embedding"} and ratio > 1:
        return "theirs counts the rows written, ours also the rows and ids read"
    if kinds == {"moe"} and ratio < 1 and _all_experts(pair):
        return "theirs reads every expert, ours those that the tokens choose"
    if kinds & {"mamba2", "conv1d", "gated delta rule"}:
        what = "leaves the state out" if ratio > 1 else "is a measured row"
        return f"theirs {what}"
    return UNEXPLAINED


def _all_experts(pair: Pair) -> bool:
    """Whether every weight of the layer alone accounts for the reference's bound, or more than ours has of it."""
    (cost,) = {id(cost): cost for cost in pair.costs}.values()
    return cost.op.weight_bytes > 0 and pair.sol_theirs > pair.sol_ours
