"""Each matcher: one match with its numbers, and one near miss that becomes a primitive with its reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from oplib.symbols import B, S, evaluate
from tests.tracer import toy
from tests.tracer.toy import WIDTH, claims, heads, linear, parameter, reasons
from tracer import rewrite
from tracer.match import matchers


def test_every_matcher_has_a_case_here():
    """A new matcher comes with a match and a near miss, here or in one of the files next to this one."""
    assert set(matchers()) == {
        "attention",
        "block_selection",
        "bmm",
        "causal_conv1d",
        "compressed_attention",
        "conv1d",
        "dense_experts_routing",
        "einsum",
        "embedding",
        "gated_delta_rule",
        "gemm",
        "grouped_gemm",
        "grouped_routing",
        "linear_attention",
        "mamba1",
        "mamba2",
        "mlstm",
        "moe",
        "pointwise",
        "rg_lru",
        "sdpa",
        "sparse_indexer",
        "wkv",
        "written_attention",
    }


# gemm -------------------------------------------------------------------------------------------

GEMMS = {
    "linear": (lambda m, x: m.part(x), linear(13), {"n": 13, "k": WIDTH, "bias": False}),
    "biased": (lambda m, x: m.part(x), linear(13, bias=True), {"n": 13, "k": WIDTH, "bias": True}),
    "matmul": (lambda m, x: x @ m.part, parameter(WIDTH, 13), {"n": 13, "k": WIDTH, "bias": False}),
    "mm": (lambda m, x: torch.mm(x.reshape(-1, WIDTH), m.part), parameter(WIDTH, 13), {"n": 13, "k": WIDTH}),
    "transposed": (lambda m, x: x @ m.part.t(), parameter(13, WIDTH), {"n": 13, "k": WIDTH}),
    "widened": (lambda m, x: nn.functional.linear(x.float(), m.part.float()), parameter(13, WIDTH), {"n": 13}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(GEMMS))
def test_gemm(name):
    """Every spelling of a product with one parameter is a gemm over b*s rows that owns the parameter."""
    body, part, params = GEMMS[name]
    found = toy.matched(body, part=part)
    (claim,) = claims(found, "gemm")
    assert {key: claim.params[key] for key in params} == params
    assert claim.dims["m"] == B * S
    assert len(claim.parameters) == (2 if claim.params["bias"] else 1)
    assert not found.primitives


def test_addmm_is_a_gemm_with_bias():
    """addmm(bias, x, w)."""
    found = toy.matched(
        lambda m, x: torch.addmm(m.bias, x.reshape(-1, WIDTH), m.part),
        part=parameter(WIDTH, 13),
        bias=parameter(13),
    )
    (claim,) = claims(found, "gemm")
    assert (claim.params["n"], claim.params["k"], claim.params["bias"]) == (13, WIDTH, True)


def test_a_linear_layer_over_computed_weights_is_no_gemm():
    """A weight that depends on the token data is read as an activation, once for all tokens."""
    found = toy.matched(
        lambda m, x: nn.functional.linear(x, m.part * x.mean()), part=parameter(13, WIDTH)
    )
    assert not claims(found, "gemm")
    (claim,) = claims(found, "bmm")
    assert (claim.params["n"], claim.params["k"], claim.params["shared_b"]) == (13, WIDTH, False)
    assert claim.dims == {"batch": 1, "m": B * S}
    assert not claim.parameters


def test_a_weight_that_two_parameters_make_is_no_gemm():
    """A low-rank weight put together on the fly is not a stored parameter: two products, one of them of parameters."""
    found = toy.matched(
        lambda m, x: nn.functional.linear(x, m.left @ m.right),
        left=parameter(13, 5),
        right=parameter(5, WIDTH),
    )
    assert not claims(found, "gemm")
    products = [(c.dims["m"], c.params["n"], c.params["k"]) for c in claims(found, "bmm")]
    assert products == [(13, WIDTH, 5), (B * S, 13, WIDTH)]
    assert not found.primitives


# bmm and einsum ---------------------------------------------------------------------------------


def test_bmm_of_two_activations():
    """Scores written by hand: lengths are dims, the head size stays a parameter."""

    def body(_m, x):
        q = heads(x, 3)
        return (q @ q.transpose(2, 3)).sum(-1)

    (claim,) = claims(toy.matched(body), "bmm")
    assert (claim.dims["batch"], claim.dims["m"], claim.dims["n"]) == (3 * B, S, S)
    assert claim.params["k"] == 8
    assert not claim.params["shared_b"]


def test_bmm_with_a_stack_of_matrices():
    """One matrix per expert: the stack is the parameter."""
    found = toy.matched(
        lambda m, x: torch.bmm(x.reshape(1, -1, WIDTH).expand(5, -1, -1), m.part),
        part=parameter(5, WIDTH, 7),
    )
    (claim,) = claims(found, "bmm")
    assert (claim.dims["batch"], claim.dims["m"], claim.params["n"], claim.params["k"]) == (
        5,
        B * S,
        7,
        WIDTH,
    )
    assert claim.params["shared_b"]
    assert len(claim.parameters) == 1


def test_a_product_with_a_vector_is_no_bmm():
    """matmul with a factor of one dimension is refused with its dimensions."""
    found = toy.matched(lambda _m, x: x @ x[0, 0])
    assert not claims(found, "bmm")
    assert "factors of 3 and 1 dimensions" in reasons(found)


@pytest.mark.parametrize(
    ("equation", "dims"),
    [
        ("bsd,btd->bst", {"batch": B, "m": S, "n": S, "k": WIDTH}),
        ("bsd,btd->sbt", {"batch": B, "m": S, "n": S, "k": WIDTH}),
        ("bsd,cte->bscte", None),
    ],
)
def test_einsum(equation, dims):
    """Shared letters are the batch, vanishing ones k; without a vanishing letter it is an outer product and no bmm."""
    found = toy.matched(lambda _m, x: torch.einsum(equation, x, x))
    if dims is None:
        assert not claims(found, "bmm")
        return
    (claim,) = claims(found, "bmm")
    assert {**claim.dims, **{k: v for k, v in claim.params.items() if k in dims}} == dims


def test_einsum_over_dots():
    """Dimensions behind dots are named from the right; one matrix per head is the batch."""
    found = toy.matched(
        lambda m, x: torch.einsum("...hi,hij->...hj", x.view(*x.shape[:-1], 3, 8), m.part),
        part=parameter(3, 8, 5),
    )
    (claim,) = claims(found, "bmm")
    assert claim.dims == {"batch": 3, "m": B * S}
    assert (claim.params["n"], claim.params["k"], claim.params["shared_b"]) == (5, 8, True)


def test_einsum_without_a_sum_is_pointwise():
    """An outer product of channels multiplies per element."""
    found = toy.matched(lambda _m, x: torch.einsum("...i,...j->...ij", x[..., :2], x[..., :2]))
    assert not claims(found, "bmm")
    assert not found.primitives


@pytest.mark.parametrize("name", ["tensordot", "inner"])
def test_composites_are_the_products_they_are_made_of(name):
    """Products under other names are recorded as matrix products, which torch's counter sees."""
    bodies = {
        "tensordot": lambda m, x: torch.tensordot(x, m.part, 1),
        "inner": lambda m, x: torch.inner(x, m.part),
    }
    found = toy.matched(bodies[name], part=parameter(WIDTH, WIDTH))
    (claim,) = claims(found, "gemm")
    assert (claim.params["n"], claim.params["k"]) == (WIDTH, WIDTH)
    assert not found.primitives


@pytest.mark.parametrize(
    ("dtype", "name"), [("int8", "int8"), ("uint16", "int16"), ("float8_e4m3fn", "fp8")]
)
def test_casts_to_any_dtype(dtype, name):
    """Rounding to a narrow dtype is memory-bound work in the dtype it makes."""
    found = toy.matched(lambda _m, x: x.to(getattr(torch, dtype)))
    (claim,) = (c for c in claims(found, "pointwise") if "to" in c.params["functions"])
    assert claim.params["dtype"] == name


@pytest.mark.parametrize(
    ("equation", "reason"),
    [
        ("bsd,bte->bst", "sums over one factor alone"),
        ("bsd,bsd,bsd->bs", "not a product of two factors"),
    ],
)
def test_einsum_near_misses(equation, reason):
    """What is not a plain product of two factors is refused with its equation."""
    operands = [None] * len(equation.split(","))
    found = toy.matched(lambda _m, x: torch.einsum(equation, *(x for _ in operands)))
    assert not claims(found, "bmm")
    assert reason in reasons(found)


# embedding, pointwise, free ---------------------------------------------------------------------


def test_embedding():
    """Rows are tokens; the table is the parameter."""
    (claim,) = claims(toy.matched(lambda _m, x: x), "embedding")
    assert (claim.params["num_embeddings"], claim.params["embedding_dim"]) == (
        toy.VOCABULARY,
        WIDTH,
    )
    assert claim.dims["m"] == B * S
    assert len(claim.parameters) == 1


def test_a_table_made_of_data_is_no_embedding():
    """Looking up in activations is refused."""
    found = toy.matched(lambda _m, x: nn.functional.embedding((x[..., 0] > 0).long(), x[0]))
    assert len(claims(found, "embedding")) == 1
    assert "the table is not a parameter" in reasons(found)


def test_pointwise_reads_and_writes_each_tensor_once():
    """x * x + w reads x and w and writes one result, 2 bytes an element."""
    found = toy.matched(lambda m, x: x * m.part, part=parameter(WIDTH))
    (claim,) = claims(found, "pointwise")
    assert claim.dims["read"] == 2 * B * S * WIDTH + 2 * WIDTH
    assert claim.dims["written"] == 2 * B * S * WIDTH
    square = claims(toy.matched(lambda _m, x: x * x), "pointwise")[0]
    assert square.dims["read"] == square.dims["written"] == 2 * B * S * WIDTH


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda _m, x: x + x[:, :1].expand_as(x), id="broadcast"),
        pytest.param(lambda _m, x: x[..., :12] * x[..., 12:], id="halves"),
        pytest.param(lambda _m, x: x * 2 + x, id="itself"),
        pytest.param(
            lambda _m, x: x * 2 + torch.cat([x[..., 12:], x[..., :12]], -1),
            id="rotary",
        ),
    ],
)
def test_views_of_one_tensor_are_one_read(body):
    """Slices, broadcasts and rotations of x inside one kernel read x once."""
    found = toy.matched(body)
    rewrite.lower(found, "torch")
    reads = sum(evaluate(c.dims["read"], b=3, s=5, p=0) for c in claims(found, "pointwise"))
    assert reads == 2 * 3 * 5 * WIDTH


def test_sorting_is_not_pointwise():
    """Near miss: an operator that is neither tagged pointwise nor listed."""
    found = toy.matched(lambda _m, x: x.sort(-1).values)
    assert "no op computes aten.sort" in reasons(found)


def test_view_and_constants_are_free():
    """Views, constants and masks cost nothing and are named."""

    def body(_m, x):
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        return x.transpose(1, 2).reshape(x.shape[0], -1) + mask.sum()

    found = toy.matched(body)
    assert {"view", "constant", "position and mask arithmetic"} <= set(found.free.values())
