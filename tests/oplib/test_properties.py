"""Rules that hold for every op kind at every size."""

import sys

import numpy
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sympy.core.cache import clear_cache

from oplib.errors import InvalidInputError
from oplib.op import Op, kind, op_kinds
from oplib.symbols import B, P, S, evaluate, parse_expr

SIZES = (1, 2, 4, 8, 16)
FREE_TEXT = {"functions": "add+mul", "activation": "silu"}
each_kind = pytest.mark.parametrize("name", list(op_kinds()))
DIVIDED = (
    ("num_heads", "num_kv_heads"),
    ("num_v_heads", "num_k_heads"),
    ("num_heads", "n_groups"),
    ("num_experts", "top_k"),
)


def values(param):
    """A strategy for one parameter."""
    if param.type is bool:
        return st.booleans()
    if param.type is str:
        return st.sampled_from(param.allowed or (FREE_TEXT[param.name],))
    smallest = (0,) if param.minimum == 0 else ()
    return st.sampled_from((*smallest, *SIZES)).map(param.type)


@st.composite
def complete_params(draw, name):
    """Valid parameters of a kind."""
    params = {param.name: draw(values(param)) for param in kind(name).params}
    for heads, groups in DIVIDED:
        if params.get(groups) and heads in params:
            params[heads] *= params[groups]
    if name == "moe":
        params["num_experts"] *= params["ep_size"]
    if name == "mamba2":
        params["d_inner"] = params["num_heads"] * params["head_dim"]
    if params.get("window") and "chunk" in params:
        params["chunk"] = 0
    if params.get("index_source") == "shared" and "index_n_heads" in params:
        params |= {"index_n_heads": 0, "index_head_dim": 0}
    if params.get("cache_limit"):
        params["cache_limit"] += params.get("chunk", 0)
    try:
        return kind(name).complete(params)
    except InvalidInputError:  # a sparse attention that is neither plain nor latent
        assume(False)


def draw_case(data, name):
    """Parameters and dims of one op."""
    params = data.draw(complete_params(name))
    return params, {dim: data.draw(st.integers(1, 70)) for dim in kind(name).dims}


def price(name, params, dims):
    return kind(name).flops(params, dims), kind(name).bytes(params, dims)


@each_kind
@given(data=st.data())
def test_costs_are_never_negative(name, data):
    """Nothing runs for free but talking to oneself: bytes are positive, work is not negative."""
    params, dims = draw_case(data, name)
    flops, moved = price(name, params, dims)
    sent = kind(name).link_bytes(params, dims)
    assert flops >= 0
    assert moved > 0 or params.get("num_gpus") == 1
    assert (sent > 0) == (params.get("num_gpus", 1) > 1)


@each_kind
@given(data=st.data())
def test_costs_grow_in_each_dim(name, data):
    """More tokens or sequences never cost less. Where keys come in groups, the cached length is the exception:
    how far the first new token stands in its group decides what it sees, or whether it completes one."""
    params, dims = draw_case(data, name)
    before = price(name, params, dims)
    for dim in dims:
        grouped = params.get("chunk") or params.get("ratio", 1) > 1 or params.get("block")
        if dim == "p" and grouped:
            continue
        after = price(name, params, {**dims, dim: dims[dim] + data.draw(st.integers(1, 70))})
        assert all(new >= old * (1 - 1e-12) for new, old in zip(after, before, strict=True))


@each_kind
@given(data=st.data())
def test_symbols_text_and_arrays_agree_with_numbers(name, data):
    """One formula: as an expression, as its text read back, and on arrays."""
    params, dims = draw_case(data, name)
    names = dict(zip(dims, (B, S, P), strict=False))
    op = Op(op=name, name=name, params=params, dims=names)
    at = dict(zip("bsp", dims.values(), strict=False))
    flops, moved = price(name, params, dims)
    written = op.to_json()
    assert evaluate(parse_expr(written["flops"]), **at) == pytest.approx(flops, rel=1e-12)
    assert evaluate(parse_expr(written["bytes"]), **at) == pytest.approx(moved, rel=1e-12)
    assert Op.from_json(written) == op
    workloads = {"b": 0, "s": 0, "p": 0} | {key: numpy.array([n, n + 1]) for key, n in at.items()}
    assert op.flops_at(**workloads)[0] == pytest.approx(flops)
    assert op.bytes_at(**workloads)[0] == pytest.approx(moved)


SHARDED = {
    "context_attention": ("num_heads", "num_kv_heads"),
    "generation_attention": ("num_heads", "num_kv_heads"),
    "context_mla": ("num_heads",),
    "generation_mla": ("num_heads",),
    "sparse_attention": ("num_heads", "num_kv_heads"),
    "sparse_indexer": ("num_heads",),
    "gated_delta_rule": ("num_k_heads", "num_v_heads"),
    "mamba2": ("num_heads", "n_groups", "d_inner"),
    "mamba1": ("d_inner",),
    "causal_conv1d": ("channels",),
    "gemm": ("n",),
    "moe": ("intermediate_size",),
}
SHARED_INPUT = {"context_mla", "generation_mla", "sparse_attention", "sparse_indexer"} | {
    "gemm",
    "moe",
    "mamba1",
}


@pytest.mark.parametrize("name", sorted(SHARDED))
@given(data=st.data())
def test_shards_sum_to_the_whole(name, data):
    """Split over devices, work stays the same, and bytes too unless every shard reads a shared input."""
    params, dims = draw_case(data, name)
    shards = data.draw(st.sampled_from((2, 4)))
    whole = {**params, **{key: params[key] * shards for key in SHARDED[name]}}
    flops, moved = price(name, params, dims)
    whole_flops, whole_moved = price(name, whole, dims)
    assert flops * shards == whole_flops
    if name in SHARED_INPUT:
        assert moved * shards >= whole_moved * (1 - 1e-12)
    else:
        assert moved * shards == whole_moved


@pytest.mark.parametrize("name", [n for n in op_kinds() if "masking" in kind(n).table_columns])
@given(data=st.data())
def test_skipping_never_costs_more_than_computing(name, data):
    """What a mask leaves is a part of the rectangle."""
    params, dims = draw_case(data, name)
    skipped = price(name, {**params, "masking": "skipped"}, dims)
    computed = price(name, {**params, "masking": "computed"}, dims)
    assert skipped[0] <= computed[0]
    assert skipped[1] <= computed[1]


def test_writing_an_op_searches_for_no_relations():
    """sympy's own Min and Max look for relations between their arguments: 53,000 calls in place of 8,000."""
    params = {
        "num_heads": 32,
        "num_kv_heads": 8,
        "head_dim": 128,
        "v_head_dim": 128,
        "window": 128,
        "dtype": "bfloat16",
        "kv_dtype": "bfloat16",
    }
    op = Op(op="context_attention", name="a", params=params, dims={"b": B, "s": S, "p": P})
    op.to_json()  # imports what it needs
    clear_cache()
    calls = 0

    def count(_frame, event, _arg):
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        op.to_json()
    finally:
        sys.setprofile(before)
    assert 0 < calls < 20_000
