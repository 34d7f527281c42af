"""What an operator makes of meta tensors is worked out once, and is what torch makes of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.tracer import small_models
from tracer import shape_memory
from tracer.cache import run
from tracer.passes import alone
from tracer.recorder import Recorder
from tracer.shape_memory import ShapeMemory

_aten = torch.ops.aten


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype, device="meta")


def looks(tensor):
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


@pytest.fixture
def counted(monkeypatch):
    """How many calls torch worked out: the fresh memory and its size."""
    fresh: dict = {}
    monkeypatch.setattr(shape_memory, "_made", fresh)
    return fresh


@pytest.mark.parametrize("name", small_models.each())
def test_a_pass_is_the_same(name):
    """Every tensor of a pass has the sizes, strides and dtype that it has without the memory."""
    model = small_models.traced(name).model
    seen = []
    for memory in (False, True, True):
        calls = []
        with alone(model):
            if memory:
                with ShapeMemory(), Recorder() as recorder:
                    run(model, meta(2, 37, dtype=torch.long))
            else:
                with Recorder() as recorder:
                    run(model, meta(2, 37, dtype=torch.long))
        for call in recorder.calls:
            calls.append((call.func, [looks(v) for v in call.values]))
        seen.append(calls)
    assert seen[0] == seen[1] == seen[2]


def test_a_second_call_is_remembered_and_is_a_tensor_of_its_own(counted):
    """Two results never share memory."""
    x, y = meta(3, 1), meta(4)
    with ShapeMemory():
        first, second = x * y, x * y
    assert len(counted) == 1
    assert looks(first) == looks(second)
    assert first.untyped_storage()._cdata != second.untyped_storage()._cdata


@pytest.mark.parametrize(
    ("one", "other"),
    [(lambda x: x * 2, lambda x: x * 2.0), (lambda x: x * 1, lambda x: x * True),
     (lambda x: x.sum(0), lambda x: x.sum(1)), (lambda x: x.sum(0), lambda x: x.sum(0, keepdim=True)),
     (lambda x: x + x, lambda x: x + x.t()), (lambda x: x.clone(), lambda x: x.t().clone())],
)  # fmt: skip
def test_calls_that_differ_are_told_apart(one, other, counted):
    """Numbers of two types, axes, and strides."""
    for call in (one, other, one):
        x = meta(3, 3, dtype=torch.long)
        with ShapeMemory():
            found = call(x)
        assert looks(found) == looks(call(x))
    assert len(counted) >= 2


def test_the_default_dtype_is_part_of_a_call(counted):
    """A whole number times a fraction has it."""
    x, before = meta(3, dtype=torch.long), torch.get_default_dtype()
    found = []
    try:
        for dtype in (torch.float32, torch.bfloat16):
            torch.set_default_dtype(dtype)
            with ShapeMemory():
                found.append((x * 0.5).dtype)
    finally:
        torch.set_default_dtype(before)
    assert found == [torch.float32, torch.bfloat16]
    assert counted


def test_what_is_no_new_tensor_is_not_remembered(counted):
    """Views, writes, composites that give back what they got, real data, and several results."""
    x, real = meta(4, 4), torch.ones(3)
    with ShapeMemory(), torch._C._AutoDispatchBelowAutograd():
        assert nn.functional.dropout(x, 0.5, training=False) is x
        x.view(16)
        x.add_(1)
        x.topk(2)
        assert (real + 1).tolist() == [2, 2, 2]
    assert not counted


def test_it_forgets_when_it_is_full(counted, monkeypatch):
    """Its size is bounded."""
    monkeypatch.setattr(shape_memory, "MOST", 3)
    with ShapeMemory():
        for n in range(1, 9):
            meta(n) + 1
    assert 0 < len(counted) <= 3
