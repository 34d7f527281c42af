"""The recorder keeps the calls that `make_fx` keeps at the pre-dispatch level, in-place writes and views included."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from tracer.recorder import Recorder, graph
from tracer.sizes import Different


def norm_and_mlp(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Composites that must stay whole, and several results."""
    a, b = nn.functional.linear(torch.softmax(x, -1), weight).chunk(2, dim=-1)
    return torch.nn.functional.silu(a) * b


def writes_in_place(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A write through a view, and a change of shape in place."""
    y = x.clone()
    y[:, 1:].mul_(2.0)
    y.unsqueeze_(0)
    return y.sum(-1) @ weight[:1, :3].t()


def constants(x: torch.Tensor, _weight: torch.Tensor) -> torch.Tensor:
    """Tensors that come from nowhere."""
    steps = torch.arange(x.shape[-1], device=x.device)
    return torch.where(steps > 2, x, torch.zeros((), device=x.device))


def record(function, *inputs: torch.Tensor, expected=None) -> tuple[list, torch.Tensor]:
    """The calls of a function, and its result."""
    with torch.no_grad(), Recorder(expected=expected) as recorder:
        out = function(*inputs)
    return recorder.calls, out


def on_meta(rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of the functions above."""
    return torch.empty(rows, 4, device="meta"), torch.empty(8, 4, device="meta")


def edges(found: torch.fx.Graph) -> list:
    """Each call: its operator, its shape, and which earlier calls it reads, in order. Aliases count as what they are
    an alias of.
    """
    place: dict[torch.fx.Node, object] = {}
    calls = []
    for node in found.nodes:
        if node.target is torch.ops.aten.detach.default:
            place[node] = place[node.args[0]]
        elif node.op == "call_function" and node.target is not torch._C._set_grad_enabled:
            read = [place[i] for i in node.all_input_nodes]
            place[node] = len(calls)
            calls.append((str(node.target), shape(node.meta["val"]), read))
        else:
            place[node] = node.op
    return calls


def shape(value):
    """The shapes of a node's value."""
    return (
        tuple(value.shape) if isinstance(value, torch.Tensor) else [tuple(v.shape) for v in value]
    )


@pytest.mark.parametrize("function", [norm_and_mlp, writes_in_place, constants])
def test_the_graph_is_that_of_make_fx(function):
    inputs = on_meta()
    calls, out = record(function, *inputs)
    ours, _ = graph(calls, dict(zip("xw", inputs, strict=True)), [out], {})
    with torch.no_grad():
        theirs = make_fx(function, pre_dispatch=True, tracing_mode="fake")(*inputs).graph
    assert edges(ours) == edges(theirs)


def test_parameters_are_found_by_identity():
    layer = nn.Linear(4, 5, device="meta")
    x = torch.empty(2, 4, device="meta")
    calls, out = record(layer, x)
    names = {id(p): (name, p) for name, p in layer.named_parameters()}
    found, parameters = graph(calls, {"x": x}, [out], names)
    assert sorted(name for name, _ in parameters.values()) == ["bias", "weight"]
    assert {n.name for n in found.find_nodes(op="get_attr")} == set(parameters)


def test_a_tensor_keeps_the_shape_it_had():
    calls, _ = record(writes_in_place, *on_meta())
    clone = next(c for c in calls if c.func is torch.ops.aten.clone.default)
    assert clone.values[0].shape == (3, 4)
    assert clone.out.shape == (1, 3, 4)


def test_another_operator_stops_the_second_pass():
    def branches(x: torch.Tensor) -> torch.Tensor:
        return x.relu() if x.shape[0] > 5 else x.sigmoid()

    short, long = on_meta(3)[0], on_meta(9)[0]
    calls, _ = record(branches, short)
    with pytest.raises(Different, match="relu"):
        record(branches, long, expected=calls)
    assert len(record(branches, on_meta(4)[0], expected=calls)[0]) == len(calls)
