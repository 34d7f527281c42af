"""OpList: totals, and the three shapes of JSON it is read from."""

import json

import pytest

from oplib.cost import Cost
from oplib.errors import OpListFormatError
from oplib.op import Op
from oplib.oplist import Layer, OpList, read_op_list
from oplib.symbols import B, P, S

GEMM = Op(
    op="gemm",
    name="q_proj",
    count=2,
    params={"n": 4, "k": 5, "dtype": "bfloat16"},
    dims={"m": B * S},
    weight_bytes=40,
)
ATTENTION = Op(
    op="context_attention",
    name="attention",
    params={
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "v_head_dim": 8,
        "window": 4,
        "dtype": "bfloat16",
        "kv_dtype": "bfloat16",
    },
    dims={"b": B, "s": S, "p": P},
)
OPS = OpList(lowering="serving", phases={"context": (GEMM, ATTENTION), "generation": (GEMM,)})


def test_totals():
    """Two gemms of 2·6·4·5 and 2·(30 + 20 + 24) bytes, and the windowed row of context_attention."""
    total = OPS.totals("context", b=2, s=3, p=5)
    assert total == Cost(flops=2 * 240 + 3072, bytes=2 * 148 + 1920, weight_bytes=80)
    assert OPS.totals("generation", b=2).flops == 2 * 80


def test_unknown_phase():
    """The error lists the phases at hand."""
    with pytest.raises(OpListFormatError, match=r"'prefill'.*context, generation"):
        OPS.totals("prefill", b=1)


def test_round_trip_in_all_shapes(tmp_path):
    """The object, a report around it, the old object without schema, and a file of either."""
    data = json.loads(json.dumps(OPS.to_json()))
    bare = {key: value for key, value in data.items() if key != "schema"}
    for shape in (data, bare, {"schema": 1, "op_list": data}, {"schema": 1, "op_list": bare}):
        assert OpList.from_json(shape) == OPS
        path = tmp_path / "ops.json"
        path.write_text(json.dumps(shape))
        assert read_op_list(path) == OPS


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"schema": 2, "lowering": "serving", "phases": {}},
        {"schema": True, "lowering": "serving", "phases": {}},
        {"op_list": OPS.to_json()},
        {"schema": 1, "op_list": None},
        {"schema": 1, "op_list": {**OPS.to_json(), "schema": 2}},
        {"schema": 1, "phases": {}},
        {"schema": 1, "lowering": "fast", "phases": {}},
        {"schema": 1, "lowering": ["serving"], "phases": {}},
        {"schema": 1, "lowering": "serving"},
        {"schema": 1, "lowering": "serving", "phases": {"prefill": []}},
        {"schema": 1, "lowering": "serving", "phases": {"context": {}}},
        {"schema": 1, "lowering": "serving", "phases": {"context": [{}]}},
    ],
)
def test_damaged_lists_are_refused(data):
    """Every wrong shape is an OpListFormatError."""
    with pytest.raises(OpListFormatError):
        OpList.from_json(data)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, "\x00"])
def test_files_that_are_no_op_list(tmp_path, text):
    """A bad file is an OpListFormatError that names it."""
    path = tmp_path / "ops.json"
    path.write_text(text)
    with pytest.raises(OpListFormatError, match=r"ops\.json"):
        read_op_list(path)


def test_missing_and_binary_files(tmp_path):
    """So is a missing file, and one that is not text."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    for name in ("missing", "binary"):
        with pytest.raises(OpListFormatError, match=name):
            read_op_list(tmp_path / name)


def test_layer_round_trip():
    """`cls` is `class` in JSON."""
    layer = Layer(
        stack="model.layers", cls="DecoderLayer", representative=1, count=2, indices=(1, 3)
    )
    data = json.loads(json.dumps(layer.to_json()))
    assert data["class"] == "DecoderLayer"
    assert Layer.from_json(data) == layer
    for damaged in (None, {}, {**data, "indices": 3}, {**data, "count": "many"}):
        with pytest.raises(OpListFormatError):
            Layer.from_json(damaged)
