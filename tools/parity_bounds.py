"""Why two bounds of one op differ by more than 3 %: rules over the pair and the numbers of the GPU."""

from __future__ import annotations

from parity_pairs import CLOSE, Pair
from parity_reasons import place

from oplib.dtypes import quant_mode
from perfdb.speed_of_light import sides_ms
from perfdb.systems import System

UNEXPLAINED = "unexplained"
WIDTH = 2  # bytes of an activation


def bound_cause(pair: Pair, system: System) -> str:
    """The cause, in a few words."""
    ratio = pair.sol_ours / pair.sol_theirs
    kinds = {line.kind for line in pair.lines}
    if pair.block:
        return "parts, with what they hand on, against a module"
    if kinds == {"embedding"} and ratio > 1:
        return "theirs counts the rows written, ours also the rows and ids read"
    if kinds == {"moe"} and (cause := _experts(pair, system)):
        return cause
    if kinds == {"gemm"} and _narrow_output(pair, system):
        return "theirs writes the output as narrow as the weight, ours in 16 bit"
    if kinds == {"all_reduce"} and abs(ratio * _ring(pair) - 1) < CLOSE:
        return f"theirs sends {_ring(pair):.3g} messages round a ring, ours one: the switch adds up"
    if kinds == {"all_to_all"} and ratio < 1:
        return "theirs gathers and scatters the tokens of all ranks, ours sends each where it is needed"
    if kinds & {"mamba2", "conv1d", "gated delta rule"}:
        return (
            "theirs leaves states out" if ratio > 1 else "theirs is a measured row in this mode too"
        )
    return UNEXPLAINED


def _ring(pair: Pair) -> float:
    """Times a message that each of n ranks sends in a ring: 2 (n - 1) / n."""
    ranks = pair.lines[0].dim("gpus")
    assert isinstance(ranks, int)
    return 2 * (ranks - 1) / ranks


def _experts(pair: Pair, system: System) -> str:
    """Whether an expert read for each choice of a token, up to all, takes the reference's bound, with or without what
    ours moves; or a token moved for each choice of it."""
    cost = pair.costs[0]
    p, m = cost.op.params, place(cost, pair)["m"]
    choices, experts = m * float(p["top_k"] or 0), float(p["num_experts"] or 0)
    per_ms = system.memory_bandwidth.base / 1e3 / pair.repetitions
    read = cost.op.weight_bytes * min(choices / experts, 1.0) / per_ms
    if pair.sol_ours < pair.sol_theirs and read <= pair.sol_theirs * (1 + CLOSE):
        if pair.sol_theirs <= read + pair.sol_ours and read > pair.sol_ours / 2:
            return "theirs reads an expert for each choice of a token, up to all; ours those chosen at least once"
        moved = choices * float(p["hidden_size"] or 0) * 2 * WIDTH / per_ms
        if moved <= pair.sol_theirs <= moved + read + pair.sol_ours:
            return "theirs moves a token in and out once for each expert that it chose, ours once"
    return ""


def _narrow_output(pair: Pair, system: System) -> bool:
    """Whether an output as narrow as the weight gives the reference's bound."""
    cost = pair.costs[0]
    mode, dims = quant_mode(str(cost.op.params["dtype"])), place(cost, pair)
    n = cost.op.params["n"]
    assert isinstance(n, int)
    spared = dims["m"] * n * (mode.output_bits - mode.weight_bits) / 8
    compute, memory = sides_ms(cost.op.kind, cost.op.params, dims, system)
    narrow = float(memory) - spared / system.memory_bandwidth.base * 1e3
    return abs(max(float(compute), narrow) * pair.repetitions / pair.sol_theirs - 1) < CLOSE
