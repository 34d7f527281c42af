"""Record the ATen calls of a forward pass, and make a graph of them.

A dispatch mode below autograd sees operators as the model calls them (`linear`, `softmax`, the boundaries), before
composites decompose: the level that `make_fx` calls pre-dispatch. It runs over plain meta tensors, or over fake ones
where a model asks for values. One pass of DeepSeek-V3 takes 20 ms on one core; `make_fx` on fake tensors took 150 ms.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from oplib.errors import UnsupportedModelError
from tracer.masks import Masks
from tracer.provenance import NOWHERE, Origin, model_line
from tracer.sizes import Different
from tracer.tensors import tensors

_aten = torch.ops.aten
_VALUES = frozenset(
    [_aten._local_scalar_dense.default, _aten.item.default, _aten.is_nonzero.default]
)
_ALL = frozenset([_aten._is_all_true.default, _aten.all.default])
#: No work: what fake tensors ask themselves, and values that Python asks for.
_QUERIES = _VALUES | {torch.ops.prim.device.default}
#: Composites that are nothing but products of matrices: recorded as the products that they are made of.
_COMPOSITES = frozenset(
    getattr(_aten, name).default
    for name in ("inner", "kron", "linalg_matrix_power", "matrix_power", "tensordot")
)
#: Calls of one pass. Deep models of many small layers make 40,000; a loop over the tokens of a long workload, millions.
MOST_CALLS = 150_000
#: Elements of a tensor with data that a call may read: tables of long sequences belong on fake tensors.
MOST_REAL = 2**20


@dataclass(frozen=True, slots=True)
class Call:
    """One operator call. `out` is what it returned, `values` its tensors as they were then."""

    func: torch._ops.OpOverload
    args: tuple[Any, ...]  # tensors, plain values, and lists of them
    kwargs: dict[str, Any]
    out: Any  # a tensor, or a list or tuple of tensors
    values: tuple[torch.Tensor, ...]
    origin: Origin


def too_many_calls(line: str) -> UnsupportedModelError:
    """The error for a pass that would never end: most of its calls come from `line`."""
    return UnsupportedModelError(
        f"a forward pass makes over {MOST_CALLS} operator calls, most of them at "
        f"{line or 'lines outside the model'}: it loops in Python, over the tokens or as often as the config says.",
        hint="Such a loop needs a boundary, see tracer/boundaries/.",
    )


def _is_large_and_real(tensor: torch.Tensor) -> bool:
    return tensor.is_cpu and tensor.numel() > MOST_REAL and not isinstance(tensor, FakeTensor)


def _is_long(given: Any) -> bool:
    """Whether it is a list that no later step works with."""
    return isinstance(given, list | tuple) and len(given) > MOST_REAL


def busiest_line(calls: Sequence[Call]) -> str:
    """The source line that made most of the calls."""
    return Counter(c.origin.source for c in calls).most_common(1)[0][0] if calls else ""


class EndlessError(Exception):
    """A pass that only counts its calls made too many of them."""


class RealDataError(RuntimeError):
    """A pass that is to run on sizes alone computes on many real values."""


class CallCount(TorchDispatchMode):
    """Counts the operator calls made inside it; EndlessError where they are more than `most`."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self.calls, self._most = 0, most

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.calls += 1
        if self._most is not None and self.calls > self._most:
            raise EndlessError
        return func(*args, **(kwargs or {}))


class Answers(TorchDispatchMode):
    """Answers every value that Python asks of a tensor with zero or False (no padding, no end reached), and whether
    all elements are true with True (checks hold); masks that no choice between scores has made select all. `asked` are
    the lines that asked, each with its answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()
        self._all_true: list[torch.Tensor] = []
        self._masks = Masks()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func not in _VALUES:
            whole = self._masks.whole(func, args)
            if whole is not None:
                self.asked.add(f"{model_line()} all selected")
            out = func(*(whole or args), **(kwargs or {}))
            self._masks.follow(func, args, out)
            if func in _ALL:
                self._all_true.append(out)
            return out
        answer: bool | float = 0.0 if args[0].dtype.is_floating_point else 0
        if func is _aten.is_nonzero.default or args[0].dtype == torch.bool:
            answer = any(args[0] is t for t in self._all_true)
        self.asked.add(f"{model_line()} {answer}")
        return answer


class _Literals(TorchFunctionMode):
    """Keeps what `torch.tensor` was given on the tensor it makes, as `literal`: on meta that holds no values."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.tensor:
            given = args[0] if args else (kwargs or {})["data"]
            if not _is_long(given) and next(tensors([given]), None) is None:
                out.literal = given
        return out


class Recorder(TorchDispatchMode):
    """Keeps every operator call made inside it, each with the origin that `locate` gives.

    With the calls of an earlier pass as `expected`, raises `Different` at the first operator that differs. `asked` are
    the tensors whose values Python asked for.
    """

    def __init__(
        self, locate: Callable[[], Origin] = lambda: NOWHERE, expected: Sequence[Call] | None = None
    ) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.asked: list[torch.Tensor] = []
        self._locate, self._expected = locate, expected
        self._literals = _Literals()
        self._below_autograd: Any = None  # a guard object of torch

    def __enter__(self) -> Recorder:
        self._below_autograd = torch._C._AutoDispatchBelowAutograd()
        self._literals.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._literals.__exit__(*error)
        self._below_autograd = None

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _QUERIES:
            if func in _VALUES:
                self.asked.append(args[0])
            return func(*args, **kwargs)
        if (
            func is _aten.detach_.default
        ):  # the end of `torch.tensor`, which fake tensors do not take
            return args[0]
        if func in _COMPOSITES:
            return self._decomposed(func, args, kwargs)
        self._check(func)
        if any(isinstance(a, torch.Tensor) and _is_large_and_real(a) for a in args):
            raise RealDataError(f"{func} computes on real data at {model_line()}")
        if len(self.calls) > MOST_CALLS:
            raise too_many_calls(busiest_line(self.calls[-1000:]))
        if torch.Tag.inplace_view in func.tags:
            self._keep_shape(args[0])
        out = func(*args, **kwargs)
        self.calls.append(Call(func, args, kwargs, out, tuple(tensors(out)), self._locate()))
        return out

    def _check(self, func: torch._ops.OpOverload) -> None:
        at = len(self.calls)
        if self._expected is None:
            return
        if at >= len(self._expected) or self._expected[at].func is not func:
            raise Different(f"call {at} is {func}, another operator than at the other workload")

    def _decomposed(
        self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """What a composite returns, its parts recorded in its place."""
        super().__enter__()
        try:
            return func.decompose(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)

    def _keep_shape(self, tensor: torch.Tensor) -> None:
        """Before a tensor changes its shape in place: earlier results keep the one they had."""
        for i, call in enumerate(self.calls):
            if any(v is tensor for v in call.values):
                values = tuple(v.detach() if v is tensor else v for v in call.values)
                self.calls[i] = Call(
                    call.func, call.args, call.kwargs, call.out, values, call.origin
                )


def graph(
    calls: Sequence[Call],
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[torch.Tensor],
    parameters: Mapping[int, tuple[str, torch.nn.Parameter]],
) -> tuple[fx.Graph, dict[str, tuple[str, torch.nn.Parameter]]]:
    """The graph of recorded calls, and the name and parameter behind each of its `get_attr` nodes that has one.

    `parameters` are known by the id of the tensor. Every node holds its tensor in `meta["val"]` and its `Origin` in
    `meta["origin"]`. A call that writes in place takes the place of what it wrote; a symbolic size among its arguments
    is the number it stood for.
    """
    result = fx.Graph()
    nodes: dict[int, fx.Node] = {}
    found: dict[str, tuple[str, torch.nn.Parameter]] = {}

    def make(op: str, target: Any, args: tuple, kwargs: dict, name: str, value: Any) -> fx.Node:
        node = result.create_node(op, target, args, kwargs, name)
        node.meta["val"] = value
        return node

    def reference(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) not in nodes:
                nodes[id(value)] = attribute(value)
            return nodes[id(value)]
        if isinstance(value, list | tuple):
            return type(value)(reference(v) for v in value)
        return value.node.hint if isinstance(value, torch.SymInt) else value

    def attribute(tensor: torch.Tensor) -> fx.Node:
        if id(tensor) not in parameters:
            return make("get_attr", "constant", (), {}, "constant", tensor)
        path, parameter = parameters[id(tensor)]
        node = make("get_attr", path, (), {}, path.replace(".", "_"), tensor)
        found[node.name] = (path, parameter)
        return node

    for name, tensor in inputs.items():
        nodes[id(tensor)] = make("placeholder", name, (), {}, name, tensor)
    for call in calls:
        args = tuple(reference(a) for a in call.args)
        kwargs = {key: reference(v) for key, v in call.kwargs.items()}
        single = isinstance(call.out, torch.Tensor)
        value = call.values[0] if single and call.values else call.values or call.out
        node = make(
            "call_function", call.func, args, kwargs, call.func.overloadpacket.__name__, value
        )
        node.meta["origin"] = call.origin
        if single:
            nodes[id(call.out)] = node
        elif isinstance(call.out, list | tuple):
            for i, part in enumerate(call.out):
                if isinstance(part, torch.Tensor):
                    nodes[id(part)] = make(
                        "call_function", operator.getitem, (node, i), {}, "getitem", part
                    )
                    nodes[id(part)].meta["origin"] = call.origin
    result.output(tuple(reference(v) for v in outputs))
    return result, found
