"""Pipeline stages: which layers each has, and how often each op occurs there.

Layers are dealt in order of execution, each stage as many as any other or one more. The surplus goes to the stages
before the last, from the back: the last has the norm and the logits on top, the first the embedding. The slowest stage
decides the rate of the pipeline. What is outside the layers is where the model's pipeline plan puts it, else on the
side of the layers on which it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from models.exchange import hand_over
from models.layout import Layout
from models.local_weights import weight_formula
from oplib.arithmetic import Amount
from oplib.errors import InvalidInputError
from oplib.op import Op
from oplib.oplist import Layer

Phases = dict[str, tuple[Op, ...]]


def stages(
    phases: Mapping[str, Sequence[Op]],
    layout: Layout,
    layers: Sequence[Layer],
    *,
    hidden: Mapping[str, Amount],
) -> Iterator[Phases]:
    """The ops of each stage, phase by phase; stages hand on `hidden` bytes."""
    if layout.pp == 1:
        yield {phase: tuple(ops) for phase, ops in phases.items()}
        return
    dealt = deal(layers, layout.pp)
    for number, held in enumerate(dealt):
        yield {
            phase: (
                *_stage(ops, layers, held, first=number == 0, last=number == layout.pp - 1),
                *([] if number == layout.pp - 1 else [hand_over(ops[-1], hidden[phase])]),
            )
            for phase, ops in phases.items()
        }


def deal(layers: Sequence[Layer], pp: int) -> list[dict[str, int]]:
    """For each stage, how many layers of each representative it has, by the representative's id."""
    order = _in_order(layers)
    if not 1 <= pp <= len(order):
        raise InvalidInputError(
            f"pp {pp} asks for more stages than the {len(order)} layers.",
            f"Allowed: 1 to {len(order)}." if order else "The report has no layers to deal.",
        )
    sizes = [len(order) // pp] * pp
    for behind in range(2, len(order) % pp + 2):
        sizes[-behind] += 1
    found, at = [], 0
    for size in sizes:
        held: dict[str, int] = {}
        for name in order[at : at + size]:
            held[name] = held.get(name, 0) + 1
        found.append(held)
        at += size
    return found


def identity(layer: Layer) -> str:
    """What `layer` of an op is: the stack and its representative."""
    return f"{layer.stack}.{layer.representative}"


def _in_order(layers: Sequence[Layer]) -> list[str]:
    """The representative of each layer, in order of execution: stack by stack, then by index."""
    stacks = list(dict.fromkeys(layer.stack for layer in layers))
    places = sorted(
        (stacks.index(layer.stack), index, identity(layer))
        for layer in layers
        for index in layer.indices
    )
    return [name for _, _, name in places]


def _stage(
    ops: Sequence[Op],
    layers: Sequence[Layer],
    held: Mapping[str, int],
    *,
    first: bool,
    last: bool,
) -> Iterator[Op]:
    counts = {identity(layer): layer.count for layer in layers}
    inside = [i for i, op in enumerate(ops) if op.layer]
    last_inside = max(inside, default=-1)
    taken: list[Op] = []
    for run in _runs(ops, counts):
        op = ops[run[0]]
        if op.layer:
            taken += _occurrences([ops[i] for i in run], counts[op.layer], held.get(op.layer, 0))
        elif first if _before(op, run[0] < last_inside) else last:
            taken += [ops[i] for i in run]
    yield from (_holding(op, taken) for op in taken)


def _before(op: Op, position: bool) -> bool:
    """Whether an op outside the layers is on the first stage: where its model puts it, else where it runs."""
    return op.stage == "first" if op.stage else position


def _runs(ops: Sequence[Op], counts: Mapping[str, int]) -> Iterator[list[int]]:
    """Places of ops that stand for the same occurrences: one op, or neighbours that hold parts of shared weights."""
    run: list[int] = []
    for i, op in enumerate(ops):
        run.append(i)
        if not op.layer or sum(ops[j].count for j in run) % counts.get(op.layer, 1) == 0:
            yield run
            run = []
    if run:
        yield run


def _occurrences(run: Sequence[Op], count: int, held: int) -> Iterator[Op]:
    """`held` of `count` layers: those that hold a shared weight first."""
    left = sum(op.count for op in run) // count * held
    for op in run:
        taken = min(op.count, left)
        left -= taken
        if taken:
            yield replace(op, count=taken)


def _holding(op: Op, ops: Sequence[Op]) -> Op:
    """A tied weight whose holder is on another stage is held here as well."""
    if not op.params.get("tied") or op.layer:
        return op
    if any(other is not op and other.weight_bytes and _same_table(op, other) for other in ops):
        return op
    return replace(op, weight_bytes=weight_formula(op.op, op.params))


def _same_table(op: Op, other: Op) -> bool:
    def sizes(one: Op) -> set[object]:
        names = ("n", "k") if one.op == "gemm" else ("num_embeddings", "embedding_dim")
        return {one.params.get(name) for name in names}

    return other.op in ("gemm", "embedding") and sizes(op) == sizes(other)
