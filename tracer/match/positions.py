"""Values made of positions alone, computed: a mask says which keys a query sees, and that shows in its numbers only.

A recorded graph holds the calls of position arithmetic and no numbers. `Positions` runs those calls on the CPU at a
workload of few queries over many cached tokens: sizes among the arguments that are expressions of b, s and p take
their values there.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx

from oplib.symbols import evaluate
from tracer.match.flow import Flow, Role

#: Few queries over a cache longer than windows are, and lengths that part chunks from windows, of whole blocks.
QUERIES, CACHED = 4, (128 * 1031, 128 * 517, 128 * 263, 128 * 131, 128 * 65, 128 * 33)
#: Where a value has an axis of heads as well, and where nothing is cached.
SHORTER, UNCACHED = 16, 1024
#: A trace this short is computed at its own lengths.
_SHORT_TRACE = 1 << 21
#: A length may stand beside a traced one: the last position, one past the end.
MOST_OFFSET = 64
#: An additive mask takes at least this from a score; one that carries a bias as well takes what no bias does.
HIDDEN, NEVER = -9999.0, -1e30
_MOST_ELEMENTS = 1 << 25


class Unknown(Exception):
    """A value that the recorded calls do not determine."""


class TooLarge(Unknown):
    """A value that has more elements than are worth computing."""


class Positions:
    """Evaluates nodes of one trace that neither token data nor parameters enter."""

    def __init__(self, flow: Flow, queries: int, cached: int) -> None:
        self.flow = flow
        self.at = {"b": 1, "s": queries, "p": cached}
        self._values: dict[tuple[fx.Node, int], Any] = {}  # Any: a tensor, or several
        self._drawn: set[fx.Node] = set()

    def value(self, node: fx.Node) -> torch.Tensor:
        """The tensor at `at`. Contents that the trace does not hold (buffers on meta) are drawn twice: a result that
        they change is `Unknown`.
        """
        return self._settled(node, lambda value: value)

    def hidden(self, node: fx.Node, sign: int = 1, limit: float = HIDDEN) -> torch.Tensor:
        """Where an additive term hides a key, whatever else it adds."""
        return self._settled(node, lambda value: sign * value <= limit)

    def bends(self, node: fx.Node) -> bool:
        """Whether an additive term adds something other than 0 to a score that it does not hide."""
        value = self._run(node, 0)
        return bool(((value != 0) & (value.abs() < -NEVER) & (value > HIDDEN)).any())

    def _settled(
        self, node: fx.Node, answer: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        first = answer(self._run(node, 0))
        if node in self._drawn and not torch.equal(first, answer(self._run(node, 1))):
            raise Unknown(f"{node.name} rests on values that a trace on sizes alone does not hold")
        return first

    def _run(self, node: fx.Node, draw: int) -> Any:
        if (node, draw) not in self._values:
            for needed in self._order(node, draw):
                self._values[needed, draw] = self._call(needed, draw)
                if any(i in self._drawn for i in self.flow.inputs[needed]):
                    self._drawn.add(needed)
        return self._values[node, draw]

    def _order(self, node: fx.Node, draw: int) -> list[fx.Node]:
        """The nodes to compute first, each once, in order of execution."""
        needed: set[fx.Node] = set()
        stack = [node]
        while stack:
            current = stack.pop()
            if current in needed or (current, draw) in self._values:
                continue
            if self.flow.role[current] is not Role.POSITION:
                raise Unknown(f"{current.name} holds token data or parameters")
            needed.add(current)
            stack.extend(self.flow.inputs[current])
        return sorted(needed, key=self.flow.position)

    def _call(self, node: fx.Node, draw: int) -> Any:
        if node.op == "placeholder":
            return torch.zeros(self._resized(tuple(node.meta["val"].shape)), dtype=torch.long)
        if node.op == "get_attr":
            return self._content(node, draw)
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: self._value(n, draw))
        args, kwargs = self._resized(args), {k: self._resized(v) for k, v in kwargs.items()}
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        try:
            made = node.target(*args, **kwargs)
        except (RuntimeError, TypeError, IndexError, ValueError) as error:
            raise Unknown(f"{node.name} does not run at other sizes: {error}") from error
        if isinstance(made, torch.Tensor) and made.numel() > _MOST_ELEMENTS:
            raise TooLarge(f"{node.name} is too large to compute")
        return made

    def _value(self, node: fx.Node, draw: int) -> Any:
        if (node, draw) not in self._values:
            raise Unknown(f"{node.name} is written in place")
        return self._values[node, draw]

    def _content(self, node: fx.Node, draw: int) -> torch.Tensor:
        tensor = node.meta["val"]
        if tensor.device.type == "cpu" and type(tensor) in (torch.Tensor, torch.nn.Parameter):
            return tensor
        if (literal := getattr(tensor, "literal", None)) is not None:
            return torch.tensor(literal, dtype=tensor.dtype)
        self._drawn.add(node)
        generator = torch.Generator().manual_seed(draw)
        drawn = torch.rand(self._resized(tuple(tensor.shape)), generator=generator)
        return (
            (drawn > 0.5).to(tensor.dtype)
            if not tensor.is_floating_point()
            else drawn.to(tensor.dtype)
        )

    def _resized(self, value: Any) -> Any:
        """Arguments with traced lengths in place of which those of `at` stand."""
        if isinstance(value, list | tuple):
            return type(value)(self._resized(v) for v in value)
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if isinstance(value, bool) or not isinstance(value, int):
            return value
        found = self.flow.trace.expr(value)
        if found.free_symbols:
            return int(evaluate(found, **self.at))
        traced, at = self.flow.trace.traced_at, self.at
        for names in ("ps", "p", "s"):
            offset = abs(value) - sum(traced[n] for n in names)
            if abs(offset) <= MOST_OFFSET and traced["p"] > 1000 * MOST_OFFSET:
                length = offset + sum(at[n] for n in names)
                return length if value > 0 else -length
        return value


@functools.lru_cache(maxsize=2)
def positions(flow: Flow, queries: int, cached: int) -> Positions:
    """The evaluator of a trace, made once while the trace is looked at."""
    return Positions(flow, queries, cached)


#: A mask at a workload: true where it hides a key, broadcast over (..., new, keys).
Mask = Callable[[Positions], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visibility:
    """Which keys a query sees: none after it (`causal`), the last `window`, those of its own `chunk`; 0: all."""

    causal: bool
    window: int = 0
    chunk: int = 0


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Values of this size take longer to share among threads than to compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def visibility(flow: Flow, masks: list[Mask], *, new: sympy.Expr, keys: sympy.Expr) -> Visibility:
    """What the masks of one attention leave `new` queries to see of `keys` keys.

    A pattern that is neither window nor chunk hides for us only what causality hides; one that differs from head to
    head, what it hides in every head. A single query tells one from the other at several lengths only.
    """
    if not masks:
        return Visibility(causal=new == 1)
    for points in _points(flow, cached=keys != new):
        with contextlib.suppress(TooLarge):
            return _visible([positions(flow, *point) for point in points], masks, new, keys)
    raise TooLarge("its masks are too large to compute")


def _points(flow: Flow, *, cached: bool) -> Iterator[list[tuple[int, int]]]:
    """Queries and cached tokens to compute masks at, longest first."""
    s, p = flow.trace.traced_at["s"], flow.trace.traced_at["p"]
    one = flow.trace.phase == "generation"
    if s * (s + p) <= _SHORT_TRACE:
        yield [(s, p), (s, p - p // 4)] if one else [(s, p)]
    elif cached:
        yield [(1 if one else QUERIES, length) for length in CACHED]
        yield [(1 if one else QUERIES, length // SHORTER) for length in CACHED]
    else:
        yield [(1, UNCACHED - 1) if one else (UNCACHED, 0)]


def _visible(
    points: list[Positions], masks: list[Mask], new: sympy.Expr, keys: sympy.Expr
) -> Visibility:
    first: list[tuple[int, int]] = []
    for at in points:
        queries, tokens = (int(evaluate(size, **at.at)) for size in (new, keys))
        found = _first_seen(at, masks, queries, tokens - queries)
        if found is None:
            return Visibility(causal=False)
        first += found
        if not any(start for _, start in first):
            return Visibility(causal=True)
        if queries > 1 and len({own - start for own, start in first}) == 1:
            break
    widths = {own - start + 1 for own, start in first if start}
    if len(widths) == 1 and all(start or own < min(widths) for own, start in first):
        return Visibility(causal=True, window=widths.pop())
    chunk = math.gcd(*(start for _, start in first))
    if chunk and all(start == own // chunk * chunk for own, start in first):
        return Visibility(causal=True, chunk=chunk)
    return Visibility(causal=True)


def _first_seen(
    at: Positions, masks: list[Mask], new: int, cached: int
) -> list[tuple[int, int]] | None:
    """For each query its position and the first key it sees, 0 where it does not see every key from there to itself;
    None where one sees a key after itself.
    """
    seen = torch.ones(new, new + cached, dtype=torch.bool)
    for mask in masks:
        hidden = mask(at)
        if hidden.dim() > 2:
            hidden = hidden.reshape(-1, *hidden.shape[-2:]).all(0)
        try:
            seen = seen & ~hidden
        except RuntimeError as error:
            raise Unknown(f"a mask of {tuple(hidden.shape)} for {new} queries") from error
    own = torch.arange(new)[:, None] + cached
    key = torch.arange(new + cached)[None, :]
    if seen.shape != (new, new + cached) or not bool((seen <= (key <= own)).all()):
        return None
    start = seen.int().argmax(1, keepdim=True)
    start = torch.where(((key >= start) & (key <= own) == seen).all(1, keepdim=True), start, 0)
    return [(int(o), int(f)) for o, f in zip(own, start, strict=True)]


@_one_thread()
def is_bias(flow: Flow, term: fx.Node, *, new: sympy.Expr) -> bool:
    """Whether a term made of positions is more than a mask. One that cannot be computed is taken for a bias."""
    queries, cached = list(_points(flow, cached=True))[-1][-1]
    try:
        return positions(flow, queries if new != 1 else 1, cached).bends(term)
    except Unknown:
        return True
