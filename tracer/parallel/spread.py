"""How the values of one phase lie on tensor-parallel ranks, and which products must be split for that.

Every linear layer over whole values begins as column-parallel. Where an operator then needs values that no rank has (a
norm over the whole width, a choice among experts), the products that it came out of are kept whole, and the pass runs
again, until nothing is asked for that is not there.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from torch import fx

from tracer.match import targets
from tracer.match.flow import Flow, Role
from tracer.match.gemm import weight_form
from tracer.parallel import calculations, products  # noqa: F401 - register their rules
from tracer.parallel.linears import Place, feature_axis, is_linear, is_stack, places
from tracer.parallel.plan import Plan
from tracer.parallel.rules import States, apply, shape
from tracer.parallel.state import Partial, Piece, Split, State, joined

MOST_PASSES = 64


class Spread:
    """The states of the values of a trace; `columns`, `rows` and `batches` say how its products are split.

    `kept` are products that stay whole whatever the graph allows. `ends` gives what follows a product: "all_reduce",
    "all_gather", or "joined" where a later one's reduction takes its partial sums along. `reasons` says where each
    product that is kept whole was needed so.
    """

    def __init__(self, flow: Flow, plan: Plan, kept: Collection[Place] = ()) -> None:
        self.flow, self.plan = flow, plan
        self.unknown: set[str] = set()
        self.kept = frozenset(kept)
        self.columns: set[fx.Node] = set()
        self.gathered: set[fx.Node] = set()
        self.sliced_rows: set[fx.Node] = set()
        self.whole_ranges: dict[fx.Node, list[tuple[int, int]]] = defaultdict(list)
        self.reasons: dict[fx.Node, str] = {}
        self.linears = [n for n in flow.nodes if is_linear(flow, n)]
        self.linear_nodes = frozenset(self.linears)
        self.feature_axis = {n: feature_axis(flow, n) for n in self.linears}
        self.places = places(self.linears, self.module)
        for node in self.linears:
            stays = plan.keeps_whole(self.module(node)) or self.places[node] in self.kept
            if self.features(node) > 1 and not stays:
                self.columns.add(node)
        self.stacks = {n for n in flow.nodes if is_stack(flow, n)}
        self._data = [
            (n, n.all_input_nodes)
            for n in flow.nodes
            if flow.role[n] is Role.DATA or targets.base_name(n) == "getitem"
        ]
        begins = {n for n, _ in self._data if targets.base_name(n) in ("embedding", "experts")}
        self._starts = begins | self.linear_nodes | self.stacks
        self._settle()

    def module(self, node: fx.Node) -> str:
        """The module path of a node."""
        return self.flow.origin(node).module

    def features(self, node: fx.Node) -> int:
        """Output features of a product with a weight, or entries of a stack of matrices."""
        return shape(node)[self.feature_axis.get(node, 0)]

    # one pass ------------------------------------------------------------------------------------

    def _settle(self) -> None:
        for _ in range(MOST_PASSES):
            self._pass()
            blamed = self._blamed or self._better_whole
            if not blamed:
                break
            for (node, low, high), reason in blamed.items():
                self._keep_whole(node, low, high, reason)
        self._end()

    def _pass(self) -> None:
        self.states: dict[fx.Node, States] = {}
        self.rows: dict[fx.Node, Split] = {}
        self.batches: dict[fx.Node, tuple[str, Split]] = {}
        self.dealt: set[fx.Node] = set()
        self.reductions: dict[fx.Node, frozenset[fx.Node]] = {}
        self.limits: dict[fx.Node, set[tuple[int, int, int]]] = defaultdict(set)
        self._blamed: dict[tuple[fx.Node, int, int], str] = {}
        self._better_whole: dict[tuple[fx.Node, int, int], str] = {}
        self._rests: dict[fx.Node, frozenset[fx.Node]] = {}
        self._summed_for_good: frozenset[fx.Node] = frozenset()
        states = self.states
        for node, inputs in self._data:
            if node in self._starts or any(states.get(value) for value in inputs):
                state = apply(self, node)
                if state and not (isinstance(state, list) and not any(state)):
                    states[node] = state
            if self._rests and states.get(node) is None:
                self._carry_rest(node)

    def _keep_whole(self, node: fx.Node, low: int, high: int, reason: str) -> None:
        """A whole product, or a range of its features, is on every rank from here on."""
        if node in self.stacks:
            self.stacks.discard(node)
        if node not in self.columns:
            return
        self.reasons.setdefault(node, reason)
        ranges = self.whole_ranges[node]
        ranges.append((low, high))
        covered = 0
        for start, stop in sorted(ranges):
            covered = max(covered, stop) if start <= covered else covered
        if covered < self.features(node):
            return
        if self.plan.is_column(self.module(node)) and node not in self.gathered:
            self.gathered.add(
                node
            )  # the plan splits it all the same, and so its parts are collected
            self.whole_ranges.pop(node)
        else:
            self.columns.discard(node)
            if self.plan.is_row(self.module(node)):
                self.sliced_rows.add(node)

    def _end(self) -> None:
        """What is still in parts when the pass ends."""
        output = self.flow.trace.graph.output_node()
        state = self.of(output.args[0][0])
        self.logits = state.sources if isinstance(state, Split) else frozenset()
        if self.logits:
            self.gathered |= self.logits
            self._pass()
        for value in output.args[0]:
            self.reduce(value)
        self.ends: dict[fx.Node, str] = dict.fromkeys(self.gathered, "all_gather")
        last = {
            m for makers in self.reductions.values() for m in [max(makers, key=self.flow.position)]
        }
        every = {m for makers in self.reductions.values() for m in makers}
        self.ends |= {m: "all_reduce" if m in last else "joined" for m in every}

    # what rules ask ------------------------------------------------------------------------------

    def all_of(self, node: fx.Node) -> States:
        """The state of a value, or of each of several results."""
        return self.states.get(node)

    def of(self, node: fx.Node) -> State:
        """The state of a value."""
        found = self.states.get(node)
        return None if isinstance(found, list) else found

    def takes_slice(self, node: fx.Node) -> bool:
        """Whether a product sums over its rank's slice of whole input features: the plan says so."""
        return node in self.sliced_rows or (
            node not in self.columns and self.plan.is_row(self.module(node))
        )

    def is_vocabulary(self, node: fx.Node) -> bool:
        """Whether a look-up is of token ids in a table that is dealt by rows."""
        return self.flow.is_of_ids(node) and self.flow.parameter(node.args[0]) is not None

    def blame(self, state: State, node: fx.Node) -> State:
        """Where a value is needed whole, what it came out of is kept whole from the next pass on. Gives the state of
        what the node makes until then: whole.
        """
        where = f"{targets.base_name(node)} in {self.module(node) or 'the model'}"
        for piece in state.pieces if isinstance(state, Split) else ():
            for source in (*piece.sources, *piece.repeats):
                self._blamed.setdefault(source, where)
        return None

    def blame_all(self, states: Iterable[State], node: fx.Node) -> State:
        """As `blame`, for several values."""
        for state in states:
            self.blame(state, node)
        return None

    def needs_whole(self, value: fx.Node, node: fx.Node) -> None:
        """The node reads all of a value."""
        state = self.states.get(value)
        for one in state if isinstance(state, list) else [state]:
            if isinstance(one, Split):
                self.blame(one, node)
            elif isinstance(one, Partial):
                self.reduce(value)

    def reduce(self, value: fx.Node) -> None:
        """Partial sums become the value, before the node reads it."""
        state = self.of(value)
        if isinstance(state, Partial):
            self.reductions[value] = frozenset(state.makers)
            self._rests[value] = state.columns
            self.states[value] = None

    def merge(self, sums: Sequence[Partial]) -> Partial:
        """The partial sums of a sum."""
        makers = tuple(dict.fromkeys(m for s in sums for m in s.makers))
        return Partial(makers, frozenset().union(*(s.columns for s in sums)))

    def of_stacks(self, state: Split) -> tuple[fx.Node, ...]:
        """The last product over a stack of matrices that a value came out of, if it came out of nothing else."""
        sources = state.sources
        if not sources or not sources <= self.stacks:
            return ()
        found = [n for n in self.batches if n in self.stacks_of(sources)]
        return (max(found, key=self.flow.position),) if found else ()

    def stacks_of(self, sources: frozenset[fx.Node]) -> set[fx.Node]:
        """Products over stacks that run along the same batch."""
        return {
            n
            for n, (_, s) in self.batches.items()
            if s.sources & sources and is_stack(self.flow, n)
        }

    def memory(self, node: fx.Node, state: Split) -> None:
        """What lies in the memory of a node after a write."""
        self.states[self.flow.root(node)] = state
        self.states[node] = state

    def constrain(self, state: Split) -> None:
        """From here on the pieces are dealt in so many parts: what they came out of is, too."""
        for piece in state.pieces:
            for node, low, high in piece.sources:
                self.limits[node].add((low, high, piece.units))

    def unless_whole(self, state: Split) -> State:
        """None where every piece of a value is on each rank."""
        return None if all(self._is_whole(p) for p in state.pieces) else state

    def _is_whole(self, piece: Piece) -> bool:
        return any(
            start <= low and high <= stop
            for node, low, high in piece.sources
            for start, stop in self.whole_ranges.get(node, ())
        )

    def clash(self, summed: Partial, dealt: Split, node: fx.Node) -> None:
        """Partial sums meet a dealt value: the products behind one of them are better whole, those with less weight."""
        self._summed_for_good |= summed.columns
        behind = [summed.columns & self.columns, dealt.sources & self.columns]
        if all(behind):
            where = f"{targets.base_name(node)} in {self.module(node) or 'the model'}"
            for source in min(behind, key=lambda nodes: sum(self._weight(n) for n in nodes)):
                self._better_whole.setdefault((source, 0, self.features(source)), where)

    def _weight(self, node: fx.Node) -> int:
        form = weight_form(self.flow, node)
        return math.prod(shape(node.args[form[1]])) if form else 0

    def sliced(self, value: fx.Node, node: fx.Node, axis: int) -> None:
        """A whole value is read in slices. One that was just summed up for that is better split from the start."""
        if (
            value.op != "call_function"
            or not 0 <= axis < len(shape(value))
            or shape(value)[axis] == 1
        ):
            return
        for source in self._rests.get(value, frozenset()) - self._summed_for_good:
            where = f"slices in {self.module(node) or 'the model'}"
            self._better_whole.setdefault((source, 0, self.features(source)), where)

    def _carry_rest(self, node: fx.Node) -> None:
        """That a value was just summed up stays known through what is done to each of its elements alone."""
        if node in self.linear_nodes or not any(v in self._rests for v in node.all_input_nodes):
            return
        role, none = self.flow.role, frozenset([node])
        data = {self._rests.get(v, none) for v in self.flow.inputs[node] if role[v] is Role.DATA}
        if len(data) == 1 and none not in data:
            self._rests[node] = data.pop()

    def together(self, node: fx.Node, values: Sequence[tuple[fx.Node, State]]) -> State:
        """Values whose elements meet as one, placed on the axes of the result: dealt along the axis that any is."""
        found: Split | None = None
        for value, state in values:
            if isinstance(state, Partial):
                self.reduce(value)
            elif isinstance(state, Split):
                both = state if found is None else joined(found, state)
                if both is None:
                    return self.blame_all([s for _, s in values], node)
                found = both
        if found is not None:
            for value, state in values:
                if state is None:
                    self.sliced(value, node, found.axis - len(shape(node)) + len(shape(value)))
        return found

    def broadcast(self, node: fx.Node, values: Sequence[tuple[fx.Node, State]]) -> State:
        """As `together` for values that repeat along the axes that they lack."""
        made = shape(node)
        placed: list[tuple[fx.Node, State]] = []
        for value, state in values:
            if isinstance(state, Split):
                axis = state.axis + len(made) - len(shape(value))
                if shape(value)[state.axis] == 1 and made[axis] > 1:
                    self.blame(state, node)
                    continue
                state = state.at(axis)
            placed.append((value, state))
        return self.together(node, placed)

    # results -------------------------------------------------------------------------------------

    def parts(self, state: Split) -> dict[int, int]:
        """Elements of the split axis by the number of equal parts they are dealt in; 1 is on every rank."""
        found: dict[int, int] = defaultdict(int)
        for piece in state.pieces:
            for units, size in self._parts(piece):
                found[units] += size
        return dict(sorted(found.items()))

    def _parts(self, piece: Piece) -> list[tuple[int, int]]:
        options = [self._of_range(piece, *source) for source in piece.sources]
        if not options:
            return [(piece.units, piece.size)]
        return min(options, key=lambda parts: sum(units for units, _ in parts))

    def _of_range(self, piece: Piece, node: fx.Node, low: int, high: int) -> list[tuple[int, int]]:
        whole_ranges = self.whole_ranges.get(node, ())
        cuts = {low, high}
        for start, stop in (*((a, b) for a, b, _ in self.limits[node]), *whole_ranges):
            cuts |= {min(max(start, low), high), min(max(stop, low), high)}
        ordered = sorted(cuts)
        found = []
        for start, stop in itertools.pairwise(ordered):
            size = (stop - start) * piece.size // (high - low)
            grains = [
                (b - a) // units for a, b, units in self.limits[node] if a <= start and stop <= b
            ]
            units = max(1, (stop - start) // math.lcm(1, *grains))
            if any(a <= start and stop <= b for a, b in whole_ranges):
                units = 1
            found.append((min(units, max(size, 1)), size))
        return found

    def way(self, node: fx.Node) -> str:
        """How a linear layer is split: "row", "column", "column, gathered", "rows of tokens" or "" for not at all."""
        if node in self.rows:
            return "row"
        if node in self.batches:
            return "rows of tokens"
        if node in self.columns:
            return "column, gathered" if node in self.gathered else "column"
        return ""

    def portions(self, node: fx.Node) -> dict[int, int]:
        """Features of a linear layer's weight by the number of parts they are dealt in."""
        if node in self.rows:
            return self.row_parts(node)
        return self.column_parts(node) if node in self.columns and node not in self.batches else {}

    def agrees(self, node: fx.Node) -> bool:
        """Whether a linear layer is split as the plan says."""
        module, way = self.module(node), self.way(node)
        if self.plan.gathers(module):
            return way == "column, gathered" or node in self.logits
        if self.plan.is_column(module):
            return way == "column"
        return way == "row" if self.plan.is_row(module) else way == ""

    def row_parts(self, node: fx.Node) -> dict[int, int]:
        """Input features of a row-parallel product by the number of parts they are dealt in."""
        state = self.rows[node]
        form = weight_form(self.flow, node)
        assert form is not None, node
        grain = shape(node.args[form[0]])[state.axis] // state.size
        return {units: size * grain for units, size in self.parts(state).items()}

    def column_parts(self, node: fx.Node) -> dict[int, int]:
        """Output features of a column-parallel product by the number of parts they are dealt in."""
        width = self.features(node)
        return self.parts(Split(0, (Piece(width, width, ((node, 0, width),)),)))
