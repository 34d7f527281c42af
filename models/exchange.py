"""What ranks send each other around the ops of a list, as ops of the communication kinds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from models.layout import Layout
from oplib.arithmetic import Amount
from oplib.dtypes import quant_mode
from oplib.op import Op

Around = tuple[list[Op], list[Op]]  # what is sent before and after an op


def collective_ops(ops: Sequence[Op], layout: Layout) -> list[Around]:
    """For each op of a phase, the collectives before and behind it."""
    found: list[Around] = [([], []) for _ in ops]
    if layout.group == 1:
        return found
    for members in _sums(ops):
        experts = [i for i in members if ops[i].parallel == "experts"]
        if experts and layout.dp > 1:
            for i in experts:
                found[i] = _between_groups(ops[i], layout)
            members = [i for i in members if i not in experts]
        if members and layout.tp > 1:
            last = ops[members[-1]]
            found[members[-1]][1].append(_op(last, "all_reduce", layout.tp, last.message))
    for i, op in enumerate(ops):
        if op.collective == "all_gather" and layout.tp > 1:
            found[i][1].append(_op(op, "all_gather", layout.tp, op.message))
    return found


def _sums(ops: Sequence[Op]) -> Iterator[list[int]]:
    """Places of the ops whose partial sums are summed up at once, the last of them being where that happens."""
    waiting: list[int] = []
    for i, op in enumerate(ops):
        if op.collective not in ("joined", "all_reduce"):
            continue
        if waiting and ops[waiting[0]].layer != op.layer:
            yield waiting
            waiting = []
        waiting.append(i)
        if op.collective == "all_reduce":
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _between_groups(op: Op, layout: Layout) -> Around:
    """Dispatch to the experts and combination of their results where groups have tokens of their own.

    Where each rank has whole experts (ep = tp * dp) tokens go to those that need them: each rank of a group sends its
    1/tp of the group's tokens, once to each of min(top_k, ep) ranks at most, and the group puts the results together.
    Otherwise ranks gather the tokens of all groups, and sum up and scatter the results.
    """
    tokens = op.message  # bytes of a group's tokens at the width of activations
    width = quant_mode(str(op.params["dtype"])).activation_bits
    sent_as = "fp8" if width <= 8 else str(_dtype(op))
    narrowed = tokens * Fraction(min(width, 16), 16) if width < 16 else tokens
    if width < 8:
        narrowed = tokens * Fraction(1, 2)
    if layout.moe_tp == 1:
        top_k = op.params["top_k"]
        assert isinstance(top_k, int), op.params
        copies = Fraction(min(top_k, layout.ep), layout.tp)
        before = [_op(op, "all_to_all", layout.group, narrowed * copies, "dispatch", sent_as)]
        after = [_op(op, "all_to_all", layout.group, tokens * copies, "combine")]
        if layout.tp > 1:
            after.append(_op(op, "all_gather", layout.tp, tokens))
        return before, after
    everyone = layout.dp * tokens
    before = [_op(op, "all_gather", layout.dp, layout.dp * narrowed, "dispatch", sent_as)]
    after = [_op(op, "reduce_scatter", layout.dp, everyone, "combine")]
    if layout.tp > 1:
        after.append(_op(op, "all_reduce", layout.tp, tokens))
    return before, after


def _op(op: Op, kind: str, gpus: int, size: Amount, what: str = "", dtype: str = "") -> Op:
    return Op(
        op=kind,
        name=f"{op.name}.{what or kind}",
        count=op.count,
        params={"num_gpus": gpus, "dtype": dtype or _dtype(op)},
        dims={"bytes": size},
        where=op.where,
        source=op.source,
        layer=op.layer,
    )


def _dtype(op: Op) -> str:
    """The dtype of activations: that of an op that is not quantised."""
    given = op.params.get("dtype")
    return str(given) if given in ("float32", "float16") else "bfloat16"


def hand_over(last: Op, size: Amount) -> Op:
    """The message from one pipeline stage to the next, behind its last op."""
    return Op(
        op="p2p",
        name="stage.p2p",
        params={"num_gpus": 2, "dtype": _dtype(last)},
        dims={"bytes": size},
        where=last.where,
    )
