"""Op: validated where it is made, priced at a workload, the same after JSON."""

import copy
import json
import pickle

import numpy
import pytest
import sympy

from oplib.cost import Cost
from oplib.errors import InvalidInputError, OpListFormatError, UnknownOpKindError
from oplib.op import Op
from oplib.symbols import B, P, S

GEMM = {"n": 4, "k": 5, "dtype": "bfloat16"}


def gemm(**changes):
    fields = {"op": "gemm", "name": "q_proj", "count": 3, "params": GEMM, "dims": {"m": B * S}}
    return Op(**{**fields, "weight_bytes": 40, **changes})


def test_defaults_are_filled_in():
    """Two spellings of one op are equal."""
    explicit = gemm(params={**GEMM, "bias": False, "tied": False})
    assert gemm() == explicit
    assert gemm().params["bias"] is False


def test_one_occurrence_and_all():
    """flops and bytes are of one occurrence; cost and weights multiply by count."""
    op = gemm()
    assert op.flops == 40 * B * S
    assert op.bytes == 18 * B * S + 40
    assert op.flops_at(b=2, s=3) == 240
    assert op.bytes_at(b=2, s=3) == 148
    assert op.scale_factor == 3
    assert op.get_weights() == 120
    assert op.cost_at(b=2, s=3) == Cost(flops=720, bytes=444, weight_bytes=120)


def test_arrays_of_workloads():
    """One call prices many workloads."""
    assert gemm().flops_at(b=numpy.array([1, 2]), s=3).tolist() == [120, 240]


@pytest.mark.parametrize(
    ("dim", "axes"),
    [
        (B * S, ("x",)),
        (8 * B * S + 2, ("x",)),
        (B**2 * S**2 + B * S, ("x",)),
        (B * (S + 1) - B, ("x",)),
        (sympy.Min(B * S, 8), ("x",)),
        (B, ("b",)),
        (B * (S + 1), ("b", "s")),
        (B + S, ("b", "s")),
        (B * S + P, ("b", "s", "p")),
        (B * P, ("b", "p")),
        (sympy.Integer(7), ()),
    ],
)
def test_axes(dim, axes):
    """b and s count as one axis only where they occur as b*s."""
    assert gemm(dims={"m": dim}).axes == axes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": {"n": 4, "k": 5}}, "gemm needs the parameter dtype"),
        ({"params": {**GEMM, "heads": 2}}, "gemm has no parameter heads"),
        ({"params": {**GEMM, "n": 4.0}}, "n of gemm is 4.0, a float"),
        ({"params": {**GEMM, "n": True}}, "n of gemm is True, a bool"),
        ({"params": {**GEMM, "n": 0}}, "n of gemm is 0.* at least 1"),
        ({"params": {**GEMM, "dtype": "bf16"}}, "'bf16'.* Allowed: float32"),
        ({"params": {**GEMM, "bias": 1}}, "bias of gemm is 1, a int"),
        ({"dims": {}}, "got the dims none.* takes m"),
        ({"dims": {"m": B, "n": S}}, "got the dims m, n"),
        ({"count": -1}, "count -1"),
        ({"weight_bytes": -1}, "weight_bytes -1"),
    ],
)
def test_bad_ops_are_refused(changes, message):
    """The message has the values and what is allowed."""
    with pytest.raises(InvalidInputError, match=message):
        gemm(**changes)


def test_unknown_kind_lists_the_known():
    """An unknown name is an error with the choices."""
    with pytest.raises(UnknownOpKindError, match=r"'linear'.*gemm"):
        gemm(op="linear")


def test_frozen():
    """An op does not change."""
    with pytest.raises(AttributeError):
        gemm().count = 2


def test_json_round_trip():
    """What to_json writes, from_json reads; the text is plain JSON."""
    op = gemm(where=("model.layers.0.q_proj",), source="m.py:3", rewrites=("merge",), layer="l.0")
    text = json.dumps(op.to_json())
    assert Op.from_json(json.loads(text)) == op
    assert json.loads(text)["axes"] == ["x"]
    assert json.loads(text)["flops"] == "40*b*s"


def test_copies():
    """Ops travel between processes."""
    assert copy.deepcopy(gemm()) == gemm()
    assert pickle.loads(pickle.dumps(gemm())) == gemm()


@pytest.mark.parametrize(
    "damage",
    [
        {"op": 3},
        {"op": "linear"},
        {"name": None},
        {"count": "3"},
        {"count": True},
        {"params": []},
        {"params": {}},
        {"dims": {"m": "b*q"}},
        {"dims": {"m": None}},
        {"dims": "b"},
        {"where": "x"},
        {"where": [1]},
        {"weight_bytes": 1.5},
        {"rewrites": None},
    ],
)
def test_damaged_json_is_refused(damage):
    """Every wrong field is an OpListFormatError, never another exception."""
    with pytest.raises(OpListFormatError):
        Op.from_json({**gemm().to_json(), **damage})


@pytest.mark.parametrize("data", [None, [], "op", 3])
def test_an_op_is_an_object(data):
    """Anything else is refused."""
    with pytest.raises(OpListFormatError, match="An op is an object"):
        Op.from_json(data)
