"""The serving envelope: its limits hold, and the points asked of an op enclose all that its workloads give."""

import numpy
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from oplib.op import Op
from oplib.symbols import B, P, S, parse_expr
from tracer.envelope import MOST_SEQUENCES, MOST_TOKENS, Envelope, points

PHASES = ("context", "generation")
CACHE = parse_expr("147456*b*p")
GEMM = {"n": 64, "k": 32, "dtype": "bfloat16"}
HEADS = {
    "num_heads": 8,
    "num_kv_heads": 2,
    "head_dim": 64,
    "v_head_dim": 64,
    "dtype": "bfloat16",
    "kv_dtype": "bfloat16",
}
OPS = (
    Op(op="gemm", name="all", params=GEMM, dims={"m": B * S}),
    Op(op="gemm", name="last", params=GEMM, dims={"m": B}),
    Op(op="gemm", name="cached", params=GEMM, dims={"m": B * (S + P)}),
    Op(op="gemm", name="fixed", params=GEMM, dims={"m": sympy.Integer(7)}),
    Op(op="context_attention", name="attention", params=HEADS, dims={"b": B, "s": S, "p": P}),
    Op(
        op="pointwise",
        name="norm",
        params={"functions": "mul", "dtype": "bfloat16"},
        dims={"read": 64 * B * S + 128 * S, "written": 64 * B * S},
    ),
    Op(op="bmm", name="bmm", params=GEMM, dims={"batch": 8 * B, "m": S}),
)

envelopes = st.builds(
    Envelope,
    positions=st.integers(1, 2**20),
    cache=st.sampled_from([CACHE, parse_expr("0"), parse_expr("10000*b*(p + 7)")]),
    capacity=st.sampled_from([8e10, 1e9, 1.0]),
)


@settings(max_examples=40, deadline=None)
@given(envelope=envelopes, phase=st.sampled_from(PHASES))
def test_workloads_stay_within_the_limits(envelope, phase):
    at = envelope.workloads(phase)
    b, s, p = at["b"], at["s"], at["p"]
    assert len(b) >= 1
    assert len({*zip(b, s, p, strict=True)}) == len(b)
    assert (b * s <= MOST_TOKENS).all()
    assert (b <= MOST_SEQUENCES).all()
    assert (s >= 1).all()
    assert (p >= 0).all()
    assert (s + p <= envelope.positions).all()
    assert (s == 1).all() or phase == "context"


@settings(max_examples=40, deadline=None)
@given(envelope=envelopes, phase=st.sampled_from(PHASES), op=st.sampled_from(OPS))
def test_points_enclose_every_workload(envelope, phase, op):
    """Rows at the points make each workload interpolable: none lies beyond them in any dim. No point is dearer than
    the dearest workload."""
    at = envelope.workloads(phase)
    asked, sizes = points(op, at), op.dims_at(**at)
    for name in op.dims:
        assert asked[name].min() == numpy.min(sizes[name])
        assert asked[name].max() == numpy.max(sizes[name])
    moved = op.kind.bytes(op.params, {k: v.astype(float) for k, v in asked.items()})
    assert numpy.max(moved) <= numpy.max(op.kind.bytes(op.params, sizes)) * (1 + 1e-9)


def test_points_are_those_of_the_kinds_grid():
    """Powers of 2 for a product, no matter how many workloads give sizes between them."""
    envelope = Envelope(positions=40960, cache=CACHE, capacity=1.41e11)
    at = envelope.workloads("context")
    assert points(OPS[0], at)["m"].tolist() == [2**i for i in range(7, 15)]
    attention = points(OPS[4], at)
    assert set(attention["b"].tolist()) == {1, 2, 4, 8, 16, 128}
    assert len(attention["b"]) < len(at["b"])
    tokens = attention["b"] * attention["s"]
    assert tokens.max() == MOST_TOKENS


def test_a_cache_that_does_not_fit_is_not_asked():
    """One sequence of 8192 tokens fits 1.3 GB; two do not."""
    at = Envelope(positions=8192, cache=CACHE, capacity=1.3e9).workloads("generation")
    assert (at["b"] * (at["p"] + 1)).max() == 8192


@pytest.mark.parametrize("positions", [1, 5, 127, 128, 129])
def test_short_models_have_short_workloads(positions):
    envelope = Envelope(positions=positions, cache=CACHE, capacity=1e11)
    assert envelope.workloads("context")["s"].max() == positions
    assert envelope.workloads("generation")["p"].max() == positions - 1
