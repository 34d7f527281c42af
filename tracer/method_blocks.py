"""A method with one block of its statements replaced by a call.

Some models write a recurrence out in the middle of a forward pass, as a loop over tokens or blocks that would unroll
into thousands of calls. The block becomes a call of a boundary; the statements around it stay as they are, at the
lines where they stand in the file.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A statement of a method, the names it assigns, and the expressions that the call in its place gets."""

    statement: ast.stmt
    assigned: tuple[str, ...]
    arguments: tuple[str, ...]


Find = Callable[[ast.FunctionDef], Block | None]


@functools.cache
def with_call(method: Callable, find: Find, call: Callable) -> Callable | None:
    """`method` with `assigned = call(*arguments)` where `find` sees its block; None where it sees none.

    Methods that are decorated or close over names (`super()`) are left alone.
    """
    if not isinstance(method, FunctionType) or method.__closure__:
        return None
    lines, first = inspect.getsourcelines(method)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef) or function.decorator_list:
        return None
    block = find(function)
    if block is None:
        return None
    text = f"{', '.join(block.assigned)} = _call({', '.join(block.arguments)})"
    (new,) = ast.parse(text).body
    for node in ast.walk(new):
        ast.copy_location(node, block.statement)
    _Replace(block.statement, new).visit(tree)
    function.args.kwonlyargs.append(ast.arg(arg="_call"))
    function.args.kw_defaults.append(ast.Name(id="_call", ctx=ast.Load()))
    ast.increment_lineno(ast.fix_missing_locations(tree), first - 1)
    made: dict[str, Callable] = {"_call": call}
    code = compile(tree, inspect.getsourcefile(method) or "<unknown>", "exec", dont_inherit=True)
    exec(code, method.__globals__, made)
    return made[function.name]


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.stmt, new: ast.stmt) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)
