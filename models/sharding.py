"""From the op list of a whole model to the lists of its ranks: local sizes, local weights, and what ranks send.

`shard` gives one list per pipeline stage; all ranks of a stage run the same list. In a local list `b` is the batch of
one attention-data-parallel group: `dp` groups together serve `b * dp` sequences. Routed experts see the tokens of all
groups, so their m has the factor `dp`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from models.exchange import collective_ops
from models.layout import Layout, divisors
from models.local_weights import weight_formula
from models.stages import stages
from oplib.arithmetic import Amount
from oplib.dtypes import quant_mode
from oplib.errors import InvalidInputError
from oplib.op import Op
from oplib.oplist import Layer, OpList
from oplib.params import Params, ParamValue
from oplib.spelled import Term, light


def shard(op_list: OpList, layout: Layout, layers: Sequence[Layer]) -> tuple[OpList, ...]:
    """The op list of a rank of each pipeline stage, in the order of the stages.

    `layers` are those of the report, for the deal of layers to stages; they may be empty where `pp` is 1. Raises
    InvalidInputError where a size does not divide, with the sizes that do.
    """
    split_phases = {
        phase: list(_with_collectives(ops, layout)) for phase, ops in op_list.phases.items()
    }
    hidden = {phase: _hidden(ops) for phase, ops in op_list.phases.items()}
    return tuple(
        OpList(lowering=op_list.lowering, phases=phases)
        for phases in stages(split_phases, layout, layers, hidden=hidden)
    )


def _hidden(ops: Sequence[Op]) -> Amount:
    """Bytes of the hidden states between layers: of the last sum that returns to them."""
    sums = [op.message for op in ops if op.layer and op.collective in ("joined", "all_reduce")]
    return sums[-1] if sums else 0


def _with_collectives(ops: Sequence[Op], layout: Layout) -> Iterator[Op]:
    following = collective_ops(ops, layout)
    for op, (before, after) in zip(ops, following, strict=True):
        yield from before
        yield local(op, layout)
        yield from after


def local(op: Op, layout: Layout) -> Op:
    """The part of an op that one rank runs: its parameters, dims and weight bytes."""
    if op.parallel == "experts":
        return _local_experts(op, layout)
    if layout.tp == 1 or not op.shards:
        return _plain(op)
    sizes: dict[str, Amount] = {}
    whole = {**op.params, **light(op.dims), "weight_bytes": op.weight_bytes}
    for name, dealt in op.shards.items():
        sizes[name] = whole[name]
        for parts, size in light(dealt).items():
            sizes[name] -= size - size * Fraction(share(op, parts, layout.tp), parts)
    return _resized(op, sizes)


def share(op: Op, parts: int, tp: int) -> int:
    """How many of `parts` equal parts a rank gets, at most; fewer than ranks are held by several of them.

    Key/value heads and groups may be fewer than ranks and are repeated then, query and state heads may not. Rows of a
    vocabulary are padded to a multiple of `tp`; nothing else is.
    """
    if parts % tp == 0:
        return parts // tp
    padded = op.parallel == "vocabulary" or op.collective == "all_gather"
    most = max(n for dealt in op.shards.values() for n in dealt)
    shared = tp % parts == 0 and not (op.parallel == "heads" and parts == most)
    if padded or shared:
        return -(-parts // tp)
    raise InvalidInputError(
        f"tp {tp} does not divide the {parts} {_what(op)} of {op.op} {op.layer + '.' if op.layer else ''}{op.name}.",
        f"Sizes that do: {', '.join(map(str, divisors(parts)[:16]))}.",
    )


def _what(op: Op) -> str:
    return {"heads": "heads", "column": "output parts", "row": "input parts"}.get(
        op.parallel, "parts"
    )


def _local_experts(op: Op, layout: Layout) -> Op:
    """Whole experts dealt to `ep` ranks, the features inside each to `moe_tp`; tokens of all groups come in."""
    experts, inner = op.params["num_experts"], op.params["intermediate_size"]
    assert isinstance(experts, int), op.params
    assert isinstance(inner, int), op.params
    if layout.ep > 1 and op.shards and "num_experts" not in op.shards:
        raise InvalidInputError(
            f"ep {layout.ep}: the model's expert-parallel plan deals no experts of {op.layer}.{op.name}.",
            "Use ep 1, and tp to split each expert.",
        )
    if experts % layout.ep:
        raise InvalidInputError(
            f"ep {layout.ep} does not divide the {experts} experts of {op.layer}.{op.name}.",
            f"Sizes that do: {', '.join(map(str, divisors(experts)[:16]))}.",
        )
    if inner % layout.moe_tp:
        raise InvalidInputError(
            f"moe_tp {layout.moe_tp} (tp * dp / ep) does not divide the {inner} inner features of the experts of "
            f"{op.layer}.{op.name}.",
            "Raise ep, or lower tp or dp.",
        )
    params: dict[str, ParamValue] = {
        **op.params,
        "ep_size": layout.ep,
        "intermediate_size": inner // layout.moe_tp,
    }
    _check_blocks(op, params)
    weight = op.weight_bytes
    if weight:
        weight += weight_formula(op.op, params) - weight_formula(op.op, op.params)
    return replace(
        _plain(op),
        params=params,
        dims={**light(op.dims), "m": light(op.dims)["m"] * layout.dp},
        weight_bytes=weight,
    )


def _resized(op: Op, sizes: Mapping[str, Amount]) -> Op:
    params: dict[str, ParamValue] = {
        name: _whole(op, name, sizes[name]) if name in sizes else value
        for name, value in op.params.items()
    }
    _check_blocks(op, params)
    dims = {name: sizes.get(name, dim) for name, dim in light(op.dims).items()}
    weight = op.weight_bytes
    if weight and op.op in ("gemm", "embedding"):
        weight = _local_weight(op, params)
    elif "weight_bytes" in sizes:
        weight = int(-(-sizes["weight_bytes"] // 1))
    return replace(_plain(op), params=params, dims=dims, weight_bytes=weight)


def _local_weight(op: Op, params: Params) -> int:
    """Weight bytes of a gemm or an embedding with the sizes of a rank; of one that holds no more than the bias of a
    tied weight, the bias of its output features.
    """
    whole = weight_formula(op.op, op.params)
    if op.weight_bytes >= whole:
        return op.weight_bytes + weight_formula(op.op, params) - whole
    n, before = params.get("n"), op.params.get("n")
    if not isinstance(n, int) or not isinstance(before, int):
        return op.weight_bytes
    return -(-op.weight_bytes * n // before)


def _check_blocks(op: Op, params: Params) -> None:
    """A block of a weight has one scale and is never cut; engines refuse what would cut it."""
    mode = quant_mode(str(op.params["dtype"])) if op.op in ("gemm", "moe") else None
    if mode is None or mode.scales != "block":
        return
    block = params["group_size"] or mode.group
    assert isinstance(block, int), op.params
    for name in ("n", "k", "intermediate_size"):
        size, before = params.get(name), op.params.get(name)
        if (
            isinstance(size, int)
            and isinstance(before, int)
            and size % block
            and before % block == 0
        ):
            raise InvalidInputError(
                f"{op.op} {op.layer + '.' if op.layer else ''}{op.name} would have {name} = {size} on a rank, which "
                f"cuts the {block} x {block} blocks of its {mode.name} weight.",
                "Split it over fewer ranks, or raise ep.",
            )


def _whole(op: Op, name: str, size: Amount) -> int:
    if isinstance(size, Term) or size != int(size):
        raise InvalidInputError(
            f"{op.op} {op.name!r} would have {name} = {size} on a rank.",
            "Its shards do not add up to whole numbers; trace the model again.",
        )
    return int(size)


def _plain(op: Op) -> Op:
    """An op that is already local: nothing of it is left to deal."""
    return replace(op, shards={}, collective="", message=0)
