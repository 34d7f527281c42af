"""Dataflow of one trace: what each node depends on, what feeds it, how large it is.

A recording keeps in-place operators, so a value can change after the node that made it. `Flow.inputs` therefore
holds, for each node, its tensor arguments and every earlier in-place write to memory that an argument shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

import sympy
import torch
from torch import fx

from oplib.symbols import P
from tracer.match import targets
from tracer.provenance import Origin, origin
from tracer.prune import Pruning
from tracer.trace import Trace


class Role(Enum):
    """What a value is made of: token data, parameters alone, or neither (positions, masks, constants)."""

    POSITION = 0
    PARAMETER = 1
    DATA = 2


class Flow:
    """The nodes of a trace with their true inputs, users, roles and sizes."""

    def __init__(self, trace: Trace, pruning: Pruning) -> None:
        self.trace = trace
        self.pruning = pruning
        self.nodes = [n for n in trace.graph.nodes if n.op == "call_function"]
        self.inputs: dict[fx.Node, tuple[fx.Node, ...]] = {}
        self.users: dict[fx.Node, list[fx.Node]] = {n: [] for n in trace.graph.nodes}
        self.role: dict[fx.Node, Role] = {}
        self._of_ids: set[fx.Node] = set()
        self._root: dict[fx.Node, fx.Node] = {}
        self._order = {n: i for i, n in enumerate(trace.graph.nodes)}
        self._link()
        self.alive = self._alive()

    def _link(self) -> None:
        writers: dict[fx.Node, list[fx.Node]] = {}
        ids = next(iter(self.trace.graph.nodes))
        for node in self.trace.graph.nodes:
            arguments = node.all_input_nodes
            if targets.takes_form(node):
                arguments = arguments[:1]
            shared = [w for a in arguments for w in writers.get(self.root(a), ())]
            inputs = tuple(dict.fromkeys([*arguments, *shared]))
            self.inputs[node] = inputs
            for source in inputs:
                self.users[source].append(node)
            for target in targets.mutated(node):
                writers.setdefault(self.root(target), []).append(node)
                self._root[node] = self.root(target)
            if (
                node is ids
                or _holds_integers(node)
                or (not self._of_ids.isdisjoint(inputs) and not targets.is_constant(node))
            ):
                self._of_ids.add(node)
            self.role[node] = self._role_of(node, inputs, ids)

    def _role_of(self, node: fx.Node, inputs: tuple[fx.Node, ...], ids: fx.Node) -> Role:
        if node.op == "placeholder":
            return Role.POSITION if node is ids or _holds_integers(node) else Role.DATA
        if node.op == "get_attr":
            return Role.PARAMETER if node.name in self.trace.parameters else Role.POSITION
        tensors = [self.role[i] for i in inputs if not targets.is_shape_arithmetic(i)]
        if targets.base_name(node) in targets.LOOKUPS and (
            Role.PARAMETER in tensors or self._features(node)
        ):
            return Role.DATA
        return max(tensors, key=lambda role: role.value, default=Role.POSITION)

    def _features(self, node: fx.Node) -> bool:
        """Whether a look-up by token id gives numbers of a table that the module holds: a frozen embedding."""
        made = node.meta["val"]
        return (
            node in self._of_ids
            and made.is_floating_point()
            and any(self.root(i).op == "get_attr" for i in node.all_input_nodes)
        )

    def is_of_ids(self, node: fx.Node) -> bool:
        """Whether a value is made of token ids."""
        return node in self._of_ids

    def _alive(self) -> set[fx.Node]:
        """Nodes that the output depends on. A write to memory that lives on is alive though nothing reads it."""
        stack = [n for n in self.trace.graph.nodes if n.op == "output"]
        writes = [n for n in self.nodes if targets.mutated(n)]
        stack += [n for n in writes if self.root(n).op in ("get_attr", "placeholder")]
        alive: set[fx.Node] = set()
        while stack:
            while stack:
                node = stack.pop()
                if node not in alive:
                    alive.add(node)
                    stack.extend(self.inputs[node])
            stack = [n for n in writes if n not in alive and self.root(n) in alive]
        return alive

    def root(self, node: fx.Node) -> fx.Node:
        """The node whose memory this one shares: views lead back to it, in-place operators to what they write."""
        if node in self._root:
            return self._root[node]
        found = node
        if node.op == "call_function" and targets.is_view(node) and node.all_input_nodes:
            found = self.root(node.all_input_nodes[0])
        self._root[node] = found
        return found

    def source(self, node: fx.Node) -> fx.Node:
        """Back through views and casts of parameters to the node that made the values."""
        while node.op == "call_function" and targets.is_view(node) and node.all_input_nodes:
            node = node.all_input_nodes[0]
        return node

    def origin(self, node: fx.Node) -> Origin:
        """Module, class, file and line of a node."""
        return origin(node)

    def position(self, node: fx.Node) -> int:
        """The place of a node in the order of execution."""
        return self._order[node]

    def shape(self, node: fx.Node) -> tuple[sympy.Expr, ...]:
        """The sizes of the node's tensor, as expressions of b, s, p."""
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{node.name} holds no tensor but {type(value).__name__}")
        return tuple(self.trace.expr(size) for size in value.shape)

    def numel(self, node: fx.Node) -> sympy.Expr:
        """Elements of the node's tensor (of all its tensors, for a node with several results)."""
        value = node.meta.get("val")
        if isinstance(value, list | tuple):
            sizes = [
                sympy.Mul(*(self.trace.expr(s) for s in v.shape))
                for v in value
                if isinstance(v, torch.Tensor)
            ]
            return sympy.Add(*sizes)
        return sympy.Mul(*self.shape(node)) if isinstance(value, torch.Tensor) else sympy.Integer(0)

    def bytes(self, node: fx.Node) -> sympy.Expr:
        """Bytes of the node's tensor."""
        value = node.meta.get("val")
        if isinstance(value, list | tuple):
            value = next((v for v in value if isinstance(v, torch.Tensor)), None)
        return (
            self.numel(node) * value.dtype.itemsize
            if isinstance(value, torch.Tensor)
            else sympy.Integer(0)
        )

    def dtype(self, node: fx.Node) -> str:
        """The node's dtype without `torch.`."""
        return str(node.meta["val"].dtype).removeprefix("torch.")

    def ancestors(self, nodes: list[fx.Node], stop) -> Iterator[fx.Node]:
        """Nodes that `nodes` depend on, themselves included, not entering those for which `stop` is true."""
        stack, seen = list(nodes), set()
        while stack:
            node = stack.pop()
            if node in seen or node.op != "call_function" or stop(node):
                continue
            seen.add(node)
            yield node
            stack.extend(self.inputs[node])

    def cached_lengths(self, nodes: Iterable[fx.Node]) -> set[sympy.Expr]:
        """The lengths of the caches that give the values which these nodes read their size in p."""
        return self._lengths([v for node in nodes for v in self.inputs[node]])

    def cache_lengths(self, keys: fx.Node) -> set[sympy.Expr]:
        """The lengths of the caches that these keys, cached and new ones, are joined out of."""
        return self._lengths([keys])

    def _lengths(self, stack: list[fx.Node]) -> set[sympy.Expr]:
        found: set[sympy.Expr] = set()
        seen = set()
        while stack:
            node = stack.pop()
            if node in seen or not isinstance(node.meta.get("val"), torch.Tensor):
                continue
            seen.add(node)
            if any(size.has(P) for size in self.shape(node)):
                if node.op == "placeholder" and self.role[node] is Role.DATA:
                    found.add(self.trace.windows.get(node.target, P))
                stack.extend(self.inputs[node])
        return found

    def descendants(self, node: fx.Node) -> set[fx.Node]:
        """Nodes that depend on a node, itself included."""
        found: set[fx.Node] = set()
        stack = [node]
        while stack:
            current = stack.pop()
            if current not in found:
                found.add(current)
                stack.extend(self.users[current])
        return found

    def readers(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        """Nodes that read the values of `nodes`, through views or not; the output of the graph included."""
        found: set[fx.Node] = set()
        stack = [user for node in nodes for user in self.users[node]]
        while stack:
            user = stack.pop()
            if user.op == "call_function" and targets.is_view(user):
                stack.extend(self.users[user])
            elif not targets.is_shape_arithmetic(user):
                found.add(user)
        return found

    def parameter(self, node: fx.Node) -> tuple[fx.Node, list[fx.Node]] | None:
        """The parameter behind a value made of one parameter alone, and the nodes in between; None for other values."""
        chain: list[fx.Node] = []
        while node.op == "call_function" and self.role[node] is Role.PARAMETER:
            if not (targets.is_view(node) or targets.is_pointwise(node)):
                return None
            tensors = [i for i in self.inputs[node] if not targets.is_shape_arithmetic(i)]
            if len(tensors) != 1:
                return None
            chain.append(node)
            node = tensors[0]
        return (node, chain) if node.name in self.trace.parameters else None

    def owned(self, node: fx.Node) -> tuple[fx.Node, list[fx.Node]] | None:
        """As `parameter`, with those of the nodes in between that nothing else reads."""
        found = self.parameter(node)
        return found and (found[0], [n for n in found[1] if len(self.users[n]) == 1])


def _holds_integers(node: fx.Node) -> bool:
    """Whether a node is a cache of token ids or positions: they are what they were when they were given."""
    value = node.meta.get("val")
    return (
        node.op == "placeholder"
        and isinstance(value, torch.Tensor)
        and not (value.is_floating_point() or value.is_complex())
    )
