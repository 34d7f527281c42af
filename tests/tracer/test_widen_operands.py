"""Products whose operands the model casts: in float32 after the rewrite, and near misses that stay as they are."""

from __future__ import annotations

import pytest

from tests.tracer import small_models
from tests.tracer.test_rewrite import RULES, before_and_after, flops, weight


def test_a_router_that_casts_its_operands_multiplies_in_float32():
    """DeepSeek's router, 8 experts of 48 features: the stored weight is cast in each step, and so are the tokens."""
    before, after, fired = before_and_after("deepseek_v3", "context", "widen_operands")
    assert fired == 1  # the one layer with experts that stands for three
    product = [o for o in after if o.op == "gemm" and "widen_operands" in o.rewrites]
    assert [(o.name, o.params["dtype"], o.count) for o in product] == [("mlp.gate", "float32", 3)]
    assert product[0].weight_bytes == 2 * 8 * 48  # as it is stored
    at = {"b": 3, "s": 41, "p": 0}
    assert product[0].bytes_at(**at) == 4 * (8 * 48 + 3 * 41 * (48 + 8))
    casts = [o for o in after if o.op == "pointwise" and "widen_operands" in o.rewrites]
    found = sorted((o.dims_at(**at)["read"], o.dims_at(**at)["written"]) for o in casts)
    assert found == [(2 * 8 * 48, 4 * 8 * 48), (2 * 3 * 41 * 48, 4 * 3 * 41 * 48)]
    assert weight(after) == weight(before)
    assert flops(after, at) == flops(before, at)
    written = next(o for o in before if o.name == "mlp.gate")
    assert written.params["dtype"] == "bfloat16"


def test_tokens_in_float32_join_what_made_them():
    """After fusion one cluster is left beside the norm: the cast of the weight, which no token passes through."""
    _, before, _ = before_and_after("deepseek_v3", "context", "fuse_pointwise")
    _, after, _ = before_and_after("deepseek_v3", "context", "fuse_pointwise", "widen_operands")
    more = [o for o in after if o.op == "pointwise" and "widen_operands" in o.rewrites]
    assert len(more) == 2
    assert sum(o.op == "pointwise" for o in after) == sum(o.op == "pointwise" for o in before) + 1
    assert any("fuse_pointwise" in o.rewrites for o in more)


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gpt_oss"])
def test_operands_that_nobody_casts_stay(name):
    """Near miss: a product in the dtype of its weight, a router whose result alone is cast."""
    _, _, fired = before_and_after(name, "context", "widen_operands")
    assert fired == 0


def test_a_quantised_weight_stays_what_a_checkpoint_makes_of_it():
    """Near miss: what multiplies in fp8 is not cast to float32."""
    found = small_models.matched("deepseek_v3", "context")
    for claim in found.of("gemm"):
        claim.params["dtype"] = "fp8"
    assert RULES["widen_operands"].apply(found) == 0


def test_a_product_reads_what_its_tokens_were_cast_to():
    found = small_models.matched("deepseek_v3", "context")
    assert RULES["widen_operands"].apply(found) == 1
    product = next(c for c in found.of("gemm") if "widen_operands" in c.rewrites)
    assert [found.flow.dtype(node) for node in product.inputs] == ["float32"]
