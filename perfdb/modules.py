"""Modules: sets of ops of a list that one row of a table stands for, and the op that may take their place in a price.

An op list has the parts of an attention module side by side; some tables measured such a module as a whole. Which sets
are one is read off the list: around an op of a module kind's `cores`, all ops of its layer that come from inside the
same module of the model. They are taken for the module where its parts do the same products. Pointwise work among them
is inside; a product that is none of its parts stays an op beside it. The list itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oplib.arithmetic import Amount
from oplib.errors import InvalidInputError
from oplib.kind import OpKind, Part
from oplib.op import Op
from oplib.params import Params
from oplib.registry import op_kinds
from oplib.spelled import light

#: A workload at which the work of a set is compared: no size divides another, and every selection leaves keys out.
_AT = {"b": 3, "s": 7, "p": 1_000_003}
#: Relative deviation of an estimate that says no more than a stated efficiency does.
VAGUE = 0.5
_PRODUCTS = ("gemm", "bmm")
_WITHIN = ("pointwise",)  # what a module does beside its parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """`op` stands for the ops at `parts`, places in the list in ascending order; it occurs as often as each of them."""

    op: Op
    parts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The modules that may stand for one set of ops of a list, those with most parts in front; none where the set is
    no module, which `reason` says. `path` is the module of the model, `kind` the module kind that was tried."""

    path: str
    layer: str
    kind: str
    found: tuple[Module, ...]
    reason: str = ""


def module_kinds(phase: str) -> list[OpKind]:
    """The kinds that stand for several ops of a phase."""
    return [kind for kind in op_kinds().values() if kind.phase == phase]


def find_modules(ops: Sequence[Op], phase: str) -> list[Candidates]:
    """Every set of the ops of a phase that a module kind might stand for; no two sets share an op."""
    found = []
    for kind in module_kinds(phase):
        for op in ops:
            if op.op in kind.cores and op.where:
                found.append(_candidates(kind, op, ops))
    return found


def _candidates(kind: OpKind, core: Op, ops: Sequence[Op]) -> Candidates:
    path = core.where[0]
    inside = [i for i, op in enumerate(ops) if op.layer == core.layer and _within(op, path)]
    modules: list[Module] = []
    reason = ""
    try:
        if {ops[i].count for i in inside} != {core.count}:
            raise InvalidInputError("Its ops do not occur equally often.")
        for params in kind.recognise([ops[i] for i in inside]):
            modules += _standing(kind, params, core, ops, inside)
        if not modules:
            raise InvalidInputError("Its linear layers do other work than those of the module.")
    except InvalidInputError as error:
        reason = error.message
    return Candidates(
        path=path, layer=core.layer, kind=kind.name, found=tuple(modules), reason=reason
    )


def _within(op: Op, path: str) -> bool:
    """Whether the op comes from inside a module of the model, and sends nothing."""
    inside = all(where == path or where.startswith(f"{path}.") for where in op.where)
    return inside and bool(op.where) and op.kind.role != "communication"


def _standing(
    kind: OpKind, params: Params, core: Op, ops: Sequence[Op], inside: Sequence[int]
) -> Iterator[Module]:
    """The module with these parameters where, by one of its ways, its parts are ops of the set, or all of them."""
    dims = core.dims_at(**_AT)
    for way in kind.ways(params, dims):
        if (taken := _taken(way, ops, inside)) is not None:
            yield Module(op=_op(kind, params, core, [ops[i] for i in taken]), parts=tuple(taken))
            return


def _taken(way: Sequence[Part], ops: Sequence[Op], inside: Sequence[int]) -> list[int] | None:
    """The places of the ops that the parts are, pointwise ones included; None where no such ops are.

    Products may be merged or apart: what has to agree is the work of all with sums of one length. Products of the
    module's own input may be left over, what they make then comes from outside: the first of them where parts have that
    input too, else any.
    """
    wanted: dict[tuple[str, Amount], Amount] = {}
    others: dict[str, int] = {}
    for one in way:
        if one.kind.name in _PRODUCTS:
            key = (one.kind.name, one.params["k"])
            work = one.kind.flops(one.params, one.dims) * one.times
            wanted[key] = wanted.get(key, 0) + work
        else:
            others[one.kind.name] = others.get(one.kind.name, 0) + 1
    entry = next((_key(ops[i]) for i in inside if ops[i].op in _PRODUCTS), None)
    taken = []
    for i in reversed(inside):  # what is left over comes first
        op, key = ops[i], _key(ops[i])
        if wanted.get(key):
            wanted[key] -= op.flops_at(**_AT)
        elif key == entry:
            continue
        elif op.op in others:
            others[op.op] -= 1
        elif op.op not in _WITHIN:
            return None
        taken.append(i)
    return None if any((*wanted.values(), *others.values())) else sorted(taken)


def _key(op: Op) -> tuple[str, Amount]:
    return op.op, op.params.get("k")


def _op(kind: OpKind, params: Params, core: Op, parts: Sequence[Op]) -> Op:
    path = core.where[0]
    return Op(
        op=kind.name,
        name=path.removeprefix(f"{core.layer}."),
        count=core.count,
        params=params,
        dims=dict(light(core.dims)),
        weight_bytes=sum(op.weight_bytes for op in parts),
        where=(path,),
        source=core.source,
        layer=core.layer,
    )
