"""Tracing over sizes that are symbols: slow, and right for every size; used where two concrete traces do not settle it.

The symbols live in a `ShapeEnv` of ours and are shared by all inputs, so that no equality has to be guarded. A
branch that the sizes decide is taken at the hint and recorded as a guard.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import sympy
import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from oplib.errors import UnsupportedModelError
from oplib.symbols import B, P, S


class SymbolicSizes:
    """Symbols b, s and p for one trace, and their translation to plain sympy."""

    def __init__(self, phase: str, hints: Mapping[str, int]) -> None:
        self.env = ShapeEnv()
        self._hints = hints
        self.values: dict[str, int | torch.SymInt] = {name: self._symbol(name) for name in hints}
        if phase == "generation":
            self.values["s"] = 1
        pairs = ((self.values["b"], B), (self.values["s"], S), (self.values["p"], P))
        self.symbols = {v.node.expr: e for v, e in pairs if isinstance(v, torch.SymInt)}

    def _symbol(self, name: str) -> torch.SymInt:
        source = ConstantSource(name)
        symbol = self.env.create_symbol(self._hints[name], source, dynamic_dim=DimDynamic.DYNAMIC)
        return self.env.create_symintnode(symbol, hint=self._hints[name], source=source)

    @contextlib.contextmanager
    def mode(self) -> Iterator[None]:
        """Fake tensors over these symbols. Their result cache is off: keys of symbolic shapes cost more than
        they save. Composites of torch take symbols in Python only.
        """
        mode = FakeTensorMode(shape_env=self.env, allow_non_fake_inputs=True)
        mode.cache_enabled = False
        with enable_python_dispatcher(), mode:
            yield

    def expr(self, size: int | torch.SymInt) -> sympy.Expr:
        """A traced size as plain sympy over b, s, p."""
        if not isinstance(size, torch.SymInt):
            return sympy.Integer(int(size))
        return _translate(size.node.expr, self.symbols)

    def guards(self) -> tuple[str, ...]:
        """The conditions on b, s and p that the taken branches rest on; raises where they hold at one size alone."""
        found = [g.expr.xreplace(self.symbols) for g in self.env.guards]
        pinned = [str(e) for e in found if isinstance(e, sympy.Eq) and _is_one_size(e)]
        if pinned:
            raise UnsupportedModelError(
                f"its forward pass takes a branch that holds where {' and '.join(sorted(set(pinned)))} alone.",
                hint="A graph of such a branch says nothing about other lengths; see tracer/symbolic.py.",
            )
        return tuple(sorted(set(map(str, found))))


def _is_one_size(equality: sympy.Eq) -> bool:
    """Whether it sets a size, or a sum or product of sizes, to a number or to another one."""
    left, right = equality.args
    return (left - right).is_polynomial(B, S, P)


_FUNCTIONS = {
    "FloorDiv": lambda a, b: sympy.floor(a / b),
    "CleanDiv": lambda a, b: a / b,
    "CeilDiv": lambda a, b: sympy.ceiling(a / b),
    "IntTrueDiv": lambda a, b: a / b,
    "Mod": sympy.Mod,
    "PythonMod": sympy.Mod,
    "ModularIndexing": lambda a, b, c: sympy.Mod(sympy.floor(a / b), c),
    "Max": sympy.Max,
    "Min": sympy.Min,
    "CeilToInt": sympy.ceiling,
    "FloorToInt": sympy.floor,
    "TruncToInt": sympy.floor,
    "ToFloat": lambda a: a,
}


def _translate(expr: sympy.Basic, symbols: dict[sympy.Symbol, sympy.Expr]) -> sympy.Expr:
    if not expr.args:
        return symbols.get(expr, expr)
    arguments = [_translate(a, symbols) for a in expr.args]
    function = _FUNCTIONS.get(type(expr).__name__)
    return function(*arguments) if function else expr.func(*arguments)
