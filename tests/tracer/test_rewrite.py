"""Each rewrite: what it claims to change, what it must keep, and a near miss that it leaves alone."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import nn

from oplib.lowerings import LOWERINGS
from oplib.op import Op
from oplib.symbols import B, S
from tests.tracer import small_models, toy
from tests.tracer.small_models import each
from tests.tracer.toy import claims, linear
from tracer import assemble, rewrite
from tracer.boundaries import attention as attention_boundary
from tracer.match.claim import Matched
from tracer.rewrite import rewrites

RULES = {r.name: r for lowering in LOWERINGS for r in rewrites(lowering)}
AT = {
    "context": (
        {"b": 3, "s": 41, "p": 0},
        {"b": 1, "s": 130, "p": 67},
        {"b": 7, "s": 19, "p": 4099},
    ),
    "generation": (
        {"b": 3, "s": 1, "p": 3},
        {"b": 1, "s": 1, "p": 130},
        {"b": 17, "s": 1, "p": 4099},
    ),
}
PHASES = tuple(AT)


def ops(name: str, found: Matched) -> tuple[Op, ...]:
    return assemble.ops(found, small_models.weights(name))


def flops(found: Iterable[Op], at: dict) -> int:
    return sum(o.count * o.flops_at(**at) for o in found)


def moved(found: Iterable[Op], at: dict) -> int:
    return sum(o.count * o.bytes_at(**at) for o in found)


def weight(found: Iterable[Op]) -> int:
    return sum(o.get_weights() for o in found)


def before_and_after(
    name: str, phase: str, rule: str, *first: str
) -> tuple[tuple[Op, ...], tuple[Op, ...], int]:
    """The ops around one rewrite, after the rewrites `first`; and how often it fired."""
    found = small_models.matched(name, phase)
    for other in first:
        RULES[other].apply(found)
    found.sort()
    before = ops(name, found)
    fired = RULES[rule].apply(found)
    found.sort()
    return before, ops(name, found), fired


def test_every_rewrite_has_a_case_here():
    """A new rewrite comes with its claim and a near miss."""
    assert set(RULES) == {
        "absorb_mla",
        "append_cache_in_place",
        "copy_new_rows",
        "dense_experts_to_moe",
        "fuse_across_layers",
        "fuse_pointwise",
        "join_inputs_of_attention",
        "last_token_logits",
        "merge_parallel_linears",
        "skip_masked_keys",
        "surround_recurrences",
        "tabulate_positions",
        "widen_operands",
    }


def test_eager_rewrites_nothing():
    """As written is as written."""
    assert rewrites("eager") == []
    found = rewrite.lower(small_models.matched("llama", "context"), "eager")
    assert found.rewrites == []
    assert all(not c.rewrites for c in found.claims)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_rewrite_left_out_is_not_reported(rule):
    """`without` leaves one out, and only rewrites that fired are listed."""
    for name in ("llama", "deepseek_v3"):
        found = rewrite.lower(small_models.matched(name, "generation"), "serving", without=(rule,))
        assert rule not in found.rewrites
        assert all(rule not in c.rewrites for c in found.claims)


@pytest.mark.parametrize("name", each())
@pytest.mark.parametrize("phase", PHASES)
def test_no_rewrite_changes_the_weights(name, phase):
    """After each step of the serving lowering the weights are what they were."""
    found = small_models.matched(name, phase)
    expected = weight(ops(name, found))
    for rule in rewrites("serving"):
        rule.apply(found)
        found.sort()
        assert weight(ops(name, found)) == expected, rule.name


# merge_parallel_linears -------------------------------------------------------------------------


@pytest.mark.parametrize("name", each())
@pytest.mark.parametrize("phase", PHASES)
def test_merging_keeps_flops(name, phase):
    """One product with the sum of the columns."""
    before, after, _ = before_and_after(name, phase, "merge_parallel_linears")
    for at in AT[phase]:
        assert flops(after, at) == flops(before, at)
    assert sum(o.params["n"] * o.count for o in after if o.op == "gemm") == sum(
        o.params["n"] * o.count for o in before if o.op == "gemm"
    )


def test_merged_names():
    """q, k, v and gate, up get the names that engines use; the router stays apart from experts beside it."""
    _, after, fired = before_and_after("qwen3", "context", "merge_parallel_linears")
    names = {o.name: o.params["n"] for o in after if o.op == "gemm"}
    assert fired == 2
    assert names["self_attn.qkv_proj"] == (6 + 2 + 2) * 10
    assert names["mlp.gate_up_proj"] == 2 * 112


def test_fused_projections_stay_one():
    """A model that wrote qkv and gate_up as one layer has nothing to merge."""
    assert before_and_after("phi3", "context", "merge_parallel_linears")[2] == 0


def test_a_parallel_block_keeps_attention_and_mlp_apart():
    """Cohere feeds attention and MLP with one input: siblings merge, cousins do not."""
    _, after, _ = before_and_after("cohere", "context", "merge_parallel_linears")
    merged = [o for o in after if "merge_parallel_linears" in o.rewrites]
    assert sorted(o.params["n"] for o in merged) == sorted([(6 + 2 + 2) * 8, 2 * 112])


MERGE_MISSES = {
    "other input": lambda m, x: m.a(x) + m.b(x * 2),
    "one after the other": lambda m, x: m.b(m.a(x)),
    "other rows": lambda m, x: m.a(x) + m.b(x[:, :1]),
}


@pytest.mark.parametrize("name", sorted(MERGE_MISSES))
def test_products_of_different_inputs_do_not_merge(name):
    """Only one input makes one product."""
    found = toy.matched(MERGE_MISSES[name], a=linear(24), b=linear(24))
    assert RULES["merge_parallel_linears"].apply(found) == 0
    assert len(claims(found, "gemm")) == 2


def test_other_near_misses_of_merging():
    """One with a bias and one without; a narrow one beside a wide one; cousins."""
    biased = toy.matched(lambda m, x: m.a(x) + m.b(x), a=linear(24), b=linear(24, bias=True))
    narrow = toy.matched(lambda m, x: m.a(x).sum() + m.b(x), a=linear(3), b=linear(600))
    cousins = toy.matched(
        lambda m, x: m.a[0](x) + m.b[0](x), a=nn.Sequential(linear(24)), b=nn.Sequential(linear(24))
    )
    for found in (biased, narrow, cousins):
        assert RULES["merge_parallel_linears"].apply(found) == 0
    two = toy.matched(lambda m, x: m.a(x) + m.b(x), a=linear(24), b=linear(24))
    assert RULES["merge_parallel_linears"].apply(two) == 1


# absorb_mla -------------------------------------------------------------------------------------

LATENT = {"heads": 6, "rank": 20, "nope": 14, "rope": 6, "v": 18, "layers": 5}


def test_absorbing_changes_flops_as_stated():
    """Out: the expansion of all cached tokens. In: two products per head over the new ones, and a wider core."""
    before, after, fired = before_and_after("deepseek_v3", "generation", "absorb_mla")
    h, r, nope, rope, v, layers = LATENT.values()
    assert fired == 2  # one per kind of layer
    for at in AT["generation"]:
        b, keys = at["b"], at["p"] + 1
        removed = 2 * b * keys * r * h * (nope + v)
        queries_and_outputs = 2 * b * h * r * (nope + v)
        core = 2 * b * h * keys * ((r + rope + r) - (nope + rope + v))
        assert flops(after, at) - flops(before, at) == layers * (
            queries_and_outputs + core - removed
        )
    cores = [o for o in after if o.op == "generation_mla"]
    assert all(o.params["absorbed"] for o in cores)
    assert {
        (o.params["n"], o.params["k"]) for o in after if o.op == "bmm" and o.params["shared_b"]
    } == {(r, nope), (v, r)}
    assert not any("kv_b_proj" in o.name for o in after)


def test_absorbed_weights_are_split_to_the_byte():
    """The two products hold the expansion's weight between them."""
    before, after, _ = before_and_after("deepseek_v3", "generation", "absorb_mla")
    expansion = [o for o in before if o.name.endswith("kv_b_proj")]
    halves = [o for o in after if o.op == "bmm" and o.params["shared_b"]]
    assert weight(halves) == weight(expansion) == LATENT["layers"] * 2 * 20 * 6 * 32
    assert {o.weight_bytes for o in halves} == {2 * 20 * 6 * 14, 2 * 20 * 6 * 18}


def test_a_context_pass_is_not_absorbed():
    """Many new tokens run on expanded heads; plain heads have nothing to absorb."""
    assert before_and_after("deepseek_v3", "context", "absorb_mla")[2] == 0
    assert before_and_after("llama", "generation", "absorb_mla")[2] == 0


# dense_experts_to_moe ---------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_routed_experts_do_the_chosen_share(phase):
    """FLOPs of the experts fall by num_experts / top_k = 5 / 2; the other ops stay."""
    before, after, fired = before_and_after("llama4", phase, "dense_experts_to_moe")
    assert fired == 2  # both MoE layers have a structure of their own: chunked and full attention
    for at in AT[phase]:
        dense = flops([o for o in before if o.op == "bmm" and o.params["shared_b"]], at)
        routed = flops([o for o in after if o.op == "moe"], at)
        assert routed * 5 == dense * 2
        assert flops(before, at) - flops(after, at) == dense - routed
    (params,) = {tuple(sorted(o.params.items(), key=str)) for o in after if o.op == "moe"}
    assert dict(params)["num_experts"] == 5
    assert dict(params)["top_k"] == 2
    assert dict(params)["intermediate_size"] == 58


def test_two_stacks_without_a_selection_are_no_moe():
    """Near miss: every matrix is used by every token."""

    def body(m, x):
        tokens = x.reshape(1, -1, 24).expand(5, -1, -1)
        gate, up = torch.bmm(tokens, m.a).chunk(2, -1)
        return torch.bmm(gate * up, m.b).sum(0)

    found = toy.matched(body, a=toy.parameter(5, 24, 14), b=toy.parameter(5, 7, 24))
    assert RULES["dense_experts_to_moe"].apply(found) == 0
    assert len(claims(found, "bmm")) == 2


# skip_masked_keys -------------------------------------------------------------------------------

MASKED = (
    "context_attention",
    "generation_attention",
    "context_mla",
    "generation_mla",
    "sparse_attention",
    "sparse_indexer",
)


@pytest.mark.parametrize("name", each())
@pytest.mark.parametrize("phase", PHASES)
def test_skipping_only_lowers(name, phase):
    """FLOPs of each attention stay or fall; no other op changes."""
    before, after, _ = before_and_after(name, phase, "skip_masked_keys")
    assert [o.name for o in after] == [o.name for o in before]
    for old, new in zip(before, after, strict=True):
        assert (old.op in MASKED) == ("skip_masked_keys" in new.rewrites)
        for at in AT[phase]:
            assert new.flops_at(**at) <= old.flops_at(**at)
            if old.op not in MASKED:
                assert new.flops_at(**at) == old.flops_at(**at)
                assert new.bytes_at(**at) == old.bytes_at(**at)


def test_a_causal_prompt_is_a_triangle():
    """s(s+1)/2 pairs instead of s²."""
    before, after, _ = before_and_after("llama", "context", "skip_masked_keys")
    at = {"b": 2, "s": 9, "p": 0}
    pairs = [
        next(o for o in found if o.op == "context_attention").flops_at(**at)
        for found in (before, after)
    ]
    assert pairs == [2 * 2 * 6 * 81 * 20, 2 * 2 * 6 * 45 * 20]


def test_attention_in_both_directions_stays():
    """Near miss: nothing is masked."""

    def body(m, x):
        q = x.unflatten(-1, (3, 8)).transpose(1, 2)
        return attention_boundary.attention(m, q, q, q, None, is_causal=False)[0].flatten(2)

    found = toy.matched(body)
    assert RULES["skip_masked_keys"].apply(found) == 0
    assert claims(found, "context_attention")[0].params["masking"] == "computed"


# append_cache_in_place --------------------------------------------------------------------------


def test_appending_removes_the_copies_of_the_cache():
    """Two joins per attention layer go; their nodes are free, by name."""
    found = small_models.matched("llama", "generation")
    total = len(found.claims)
    assert RULES["append_cache_in_place"].apply(found) == 2
    assert len(found.claims) == total - 2
    assert list(found.free.values()).count("cache append") == 2


def test_joining_two_activations_stays():
    """Near miss: a cat whose parts both come out of this pass."""
    found = toy.matched(lambda _m, x: torch.cat([x, x * 2], -1))
    total = len(found.claims)
    assert RULES["append_cache_in_place"].apply(found) == 0
    assert len(found.claims) == total


# copy_new_rows ----------------------------------------------------------------------------------


def test_values_that_a_product_leaves_are_copied_into_the_cache():
    """Llama's values come straight from their product: 2 heads of 10 in two bytes; its keys are turned first."""
    before, after, fired = before_and_after(
        "llama", "generation", "copy_new_rows", "append_cache_in_place", "fuse_pointwise"
    )
    assert fired == 1  # the one layer that stands for all
    added = [o for o in after if "copy_new_rows" in o.rewrites]
    assert [o.op for o in added] == ["pointwise"]
    at = {"b": 3, "s": 1, "p": 23}
    assert added[0].count == 5
    assert added[0].dims_at(**at) == {"read": 3 * 2 * 10 * 2, "written": 3 * 2 * 10 * 2}
    assert weight(after) == weight(before)
    assert flops(after, at) == flops(before, at)


def test_rows_that_pointwise_work_makes_are_written_by_it():
    """Near miss: each of DeepSeek's cached rows passes through a norm or a rotation."""
    _, _, fired = before_and_after(
        "deepseek_v3", "generation", "copy_new_rows", "append_cache_in_place", "fuse_pointwise"
    )
    assert fired == 0


# last_token_logits ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", each())
def test_the_head_runs_over_one_token_per_sequence(name):
    """Its rows are b, and so are those of what follows it; weights and everything before stay."""
    before, after, fired = before_and_after(name, "context", "last_token_logits")
    assert fired == 1
    heads = [o for o in after if o.op == "gemm" and "last_token_logits" in o.rewrites]
    assert [o.dims["m"] for o in heads] == [B]
    at = {"b": 3, "s": 41, "p": 5}
    head = 2 * heads[0].params["n"] * heads[0].params["k"]
    assert flops(before, at) - flops(after, at) == head * 3 * 40


def test_generation_has_one_token_already():
    """Near miss: nothing to leave out; and logits that no product made."""
    assert before_and_after("llama", "generation", "last_token_logits")[2] == 0
    assert (
        RULES["last_token_logits"].apply(toy.matched(lambda m, x: m.a(x).cumsum(-1), a=linear(24)))
        == 0
    )


# tabulate_positions -----------------------------------------------------------------------------


def test_positions_times_frequencies_are_looked_up():
    """A product that no token data enters is made once: free, by name."""

    def body(_m, x):
        positions = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
        return x + positions[:, None] @ torch.ones(1, 24, device=x.device, dtype=x.dtype)

    found = toy.matched(body)
    (product,) = claims(found, "bmm")
    assert RULES["tabulate_positions"].apply(found) == 1
    assert not claims(found, "bmm")
    assert found.free[product.anchor] == "position and mask arithmetic"


def test_products_of_token_data_stay():
    """Near miss: scores written by hand."""
    found = toy.matched(lambda _m, x: (x @ x.transpose(1, 2)).sum(-1))
    assert RULES["tabulate_positions"].apply(found) == 0
    assert len(claims(found, "bmm")) == 1


# fusion -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", each())
@pytest.mark.parametrize("phase", PHASES)
def test_fusing_never_moves_more(name, phase):
    """Bytes fall or stay in every fusion; FLOPs stay, and ops other than pointwise are untouched."""
    for rule, first in (
        ("fuse_pointwise", ()),
        ("join_inputs_of_attention", ("append_cache_in_place", "fuse_pointwise")),
        ("fuse_across_layers", ("append_cache_in_place", "fuse_pointwise")),
    ):
        before, after, _ = before_and_after(name, phase, rule, *first)
        for at in AT[phase]:
            assert moved(after, at) <= moved(before, at), rule
            assert flops(after, at) == flops(before, at)
        kinds = [
            [(o.name, o.dims) for o in found if o.op != "pointwise"] for found in (before, after)
        ]
        assert kinds[0] == kinds[1]


def test_neighbours_fuse_to_what_goes_in_and_out():
    """Three operators, one kernel: x in, result out."""
    found = toy.matched(lambda _m, x: torch.tanh(x * 2) + 1)
    assert RULES["fuse_pointwise"].apply(found) == 1
    (claim,) = claims(found, "pointwise")
    assert claim.dims["read"] == claim.dims["written"] == 2 * B * S * 24
    assert claim.params["functions"] == "add+mul+tanh"


def test_pointwise_work_on_both_sides_of_a_product_stays_apart():
    """Near miss: the product lies between, even where a residual leads around it."""
    found = toy.matched(lambda m, x: torch.tanh(m.a(h := x * 2)) + h, a=linear(24))
    RULES["fuse_pointwise"].apply(found)
    assert [c.params["functions"] for c in claims(found, "pointwise")] == ["mul", "add+tanh"]


def attended(prepare_keys, **parts):
    """Queries times the table, keys as `prepare_keys(model, x, table)` makes them, and attention over both."""

    def body(m, x):
        q, k = (
            y.unflatten(-1, (3, 8)).transpose(1, 2) for y in (m.a(x) * m.table, prepare_keys(m, x))
        )
        return attention_boundary.attention(m, q, k, k, None, is_causal=False)[0].flatten(2)

    found = toy.matched(body, a=linear(24), b=linear(24), table=toy.parameter(24), **parts)
    RULES["fuse_pointwise"].apply(found)
    return found


def test_queries_and_keys_are_turned_by_one_kernel():
    """Both read one table: it is read once, q and k in, q and k out."""
    found = attended(lambda m, x: m.b(x) * m.table)
    assert len(claims(found, "pointwise")) == 2
    assert RULES["join_inputs_of_attention"].apply(found) == 1
    (claim,) = claims(found, "pointwise")
    assert claim.dims == {"read": 2 * 2 * B * S * 24 + 2 * 24, "written": 2 * 2 * B * S * 24}


def test_inputs_of_attention_with_nothing_in_common_stay_apart():
    """Near misses: another product and no table in common; what an op between the two reads."""
    apart = attended(lambda m, x: torch.tanh(m.b(x)))
    assert RULES["join_inputs_of_attention"].apply(apart) == 0
    between = attended(lambda m, x: m.c(m.b(x) * m.table), c=linear(24))
    assert RULES["join_inputs_of_attention"].apply(between) == 0
    assert len(claims(between, "pointwise")) == 2


def test_layers_join_where_there_are_several():
    """The last addition of a layer runs with the first norm of the next: llama's two kernels per layer and phase."""
    _, after, fired = before_and_after(
        "llama", "context", "fuse_across_layers", "append_cache_in_place", "fuse_pointwise"
    )
    assert fired == 1
    joined = [o for o in after if "fuse_across_layers" in o.rewrites]
    assert [o.count for o in joined] == [5]
    # in: the hidden state, the MLP's output, the norm's weight; out: the sum and the normed sum
    at = {"b": 1, "s": 1, "p": 0}
    assert joined[0].dims_at(**at) == {"read": 3 * 2 * 48, "written": 2 * 2 * 48}


def test_a_single_layer_has_no_next():
    """Near miss: a layer of which there is one."""
    found = small_models.matched("qwen3_moe", "context")
    RULES["append_cache_in_place"].apply(found)
    RULES["fuse_pointwise"].apply(found)
    assert (
        RULES["fuse_across_layers"].apply(found) == 1
    )  # the four MoE layers; not the single dense one
