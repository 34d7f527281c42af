"""How ops are split, read off plan and graph: one model of each family, and graphs written for one rule each."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from models.layout import Layout
from models.sharding import shard
from oplib.errors import InvalidInputError
from oplib.op import Op
from oplib.oplist import Layer, OpList
from tests.tracer import small_models, toy
from tracer import analysis
from tracer.boundaries import attention, gated_delta_rule
from tracer.parallel import notes, spreads
from tracer.parallel.plan import Plan
from tracer.parallel.spread import Spread
from tracer.parallel.state import Piece, Split, joined, reshaped, section

#: Sizes without a common divisor, or blocks of a quantised weight that any split would cut.
INDIVISIBLE = {"kimi_linear", "mixtral_fp8", "qwen3_5_moe", "qwen3_next"}
#: Fields of a small Llama that another type has not.
PLACED = {"model_type", "head_dim"}


def of(name: str, lowering: str = "serving") -> dict[str, dict]:
    """The ops of a context by name: those of the last layer that has one of that name."""
    return {
        op["name"]: op for op in small_models.report(name, lowering)["op_list"]["phases"]["context"]
    }


def split(name: str, op: str, lowering: str = "serving") -> tuple[str, dict, str]:
    found = of(name, lowering)[op]
    return found["parallel"], found["shards"], found["collective"]


@pytest.mark.parametrize("lowering", ["eager", "torch", "serving"])
def test_a_dense_layer(lowering):
    """6 heads of 10 over 2: column, heads, row; column, row; table and logits by rows. The same in all lowerings."""
    if lowering == "serving":
        assert split("llama", "self_attn.qkv_proj") == ("column", {"n": {"6": 60, "2": 40}}, "")
    else:
        assert split("llama", "self_attn.q_proj", lowering) == ("column", {"n": {"6": 60}}, "")
        assert split("llama", "self_attn.k_proj", lowering) == ("column", {"n": {"2": 20}}, "")
    heads = {"num_heads": {"6": 6}, "num_kv_heads": {"2": 2}}
    assert split("llama", "self_attn.attention", lowering) == ("heads", heads, "")
    assert split("llama", "self_attn.o_proj", lowering) == ("row", {"k": {"6": 60}}, "all_reduce")
    assert split("llama", "mlp.down_proj", lowering) == ("row", {"k": {"112": 112}}, "all_reduce")
    table = {"num_embeddings": {"173": 173}}
    assert split("llama", "model.embed_tokens", lowering) == ("vocabulary", table, "all_reduce")
    assert split("llama", "lm_head", lowering) == ("column", {"n": {"173": 173}}, "all_gather")
    assert of("llama", lowering)["lm_head"]["message"] == (
        "346*b*s" if lowering == "eager" else "346*b"
    )


def test_fused_projections_are_cut_where_the_model_cuts_them():
    assert split("phi3", "self_attn.qkv_proj") == ("column", {"n": {"6": 48, "2": 32}}, "")
    assert split("phi3", "mlp.gate_up_proj") == ("column", {"n": {"112": 224}}, "")


def test_parallel_branches_are_summed_at_once():
    assert split("cohere", "self_attn.o_proj")[2] == "joined"
    assert split("cohere", "mlp.down_proj")[2] == "all_reduce"


def test_latents_stay_whole_and_heads_are_split():
    ops = of("deepseek_v3")
    whole = [op for name, op in ops.items() if "a_proj" in name and op["op"] == "gemm"]
    assert whole
    assert all(op["parallel"] == "" and not op["shards"] for op in whole)
    assert split("deepseek_v3", "self_attn.q_b_proj")[:2] == ("column", {"n": {"6": 120}})
    assert split("deepseek_v3", "self_attn.kv_b_proj")[:2] == ("column", {"n": {"6": 192}})
    assert split("deepseek_v3", "self_attn.mla")[:2] == ("heads", {"num_heads": {"6": 6}})
    absorbed = [
        op
        for op in small_models.report("deepseek_v3")["op_list"]["phases"]["generation"]
        if "absorbed" in op["name"]
    ]
    assert len(absorbed) == 4
    for op in absorbed:
        assert op["shards"] == {"batch": {"6": 6}, "weight_bytes": {"6": op["weight_bytes"]}}


def test_experts_and_their_router():
    assert split("deepseek_v3", "mlp.gate") == ("", {}, "")
    shards = {"num_experts": {"8": 8}, "intermediate_size": {"26": 26}}
    assert split("deepseek_v3", "mlp.experts") == ("experts", shards, "joined")
    assert split("deepseek_v3", "mlp.shared_experts.down_proj")[2] == "all_reduce"
    assert split("qwen3_moe", "mlp.experts")[2] == "all_reduce"


def test_experts_written_as_products_are_experts():
    moe = of("llama4")["feed_forward.experts"]
    assert (moe["op"], moe["parallel"], moe["collective"]) == ("moe", "experts", "joined")


def test_a_gate_of_one_value_is_whole():
    assert split("qwen3_5_moe", "mlp.shared_expert_gate") == ("", {}, "")


def test_scans_are_split_by_heads_and_groups():
    """8 heads of 12 in 2 groups of state 18: the group norm behind the scan keeps groups together."""
    ops = of("nemotron_h")
    conv, scan, into = (
        next(op for name, op in ops.items() if name.endswith(end))
        for end in ("causal_conv1d", "mamba2", "in_proj")
    )
    assert conv["shards"]["channels"] == {"2": 168}
    assert scan["shards"]["num_heads"] == {"2": 8}
    assert scan["shards"]["n_groups"] == {"2": 2}
    assert scan["shards"]["weight_bytes"] == {"2": scan["weight_bytes"]}
    assert into["shards"] == {"n": {"2": 264, "8": 8}}


def test_delta_rules_are_split_by_key_and_value_heads():
    ops = of("qwen3_next")
    assert ops["linear_attn.in_proj_qkvz+in_proj_ba"]["shards"] == {"n": {"3": 162}}
    rule = next(op for name, op in ops.items() if name.endswith("gated_delta_rule"))
    assert rule["parallel"] == "heads"
    assert rule["shards"] == {"num_v_heads": {"3": 6}, "num_k_heads": {"3": 3}}


def test_a_low_rank_gate_is_split_at_its_second_product():
    """Its narrow product is whole: summing it up to slice it again would be one more message."""
    assert split("kimi_linear", "self_attn.forget_gate.f_a_proj") == ("", {}, "")
    assert split("kimi_linear", "self_attn.forget_gate.f_b_proj") == (
        "column",
        {"n": {"5": 40}},
        "",
    )


def test_pointwise_bytes_follow_their_values():
    op = of("llama")["mlp.act_fn+mlp"]
    assert op["shards"] == {
        "read": {"112": op["dims"]["read"]},
        "written": {"112": op["dims"]["written"]},
    }
    assert of("llama")["input_layernorm"]["parallel"] == ""


@pytest.mark.parametrize("name", small_models.each(sorted(small_models.SMALL)))
def test_both_phases_split_their_weights_alike(name):
    found = []
    for ops in small_models.report(name)["op_list"]["phases"].values():
        gemms = [op for op in ops if op["op"] == "gemm"]
        found.append(
            {
                (op["layer"], op["name"]): {k: v for k, v in op["shards"].items() if k != "m"}
                for op in gemms
            }
        )
    context, generation = found
    assert {k: generation[k] for k in context.keys() & generation.keys()} == {
        k: context[k] for k in context.keys() & generation.keys()
    }


def on_a_rank(name: str, lowering: str) -> tuple[int, list[tuple[str, Op, Op]]] | None:
    """The first tp that divides, and each op whole and on a rank, with its phase; None where none divides."""
    report = small_models.report(name, lowering)
    whole = OpList.from_json(report)
    layers = [Layer.from_json(layer) for layer in report["layers"]]
    for tp in (2, 3, 5):
        try:
            (local,) = shard(whole, Layout(tp=tp), layers)
        except InvalidInputError:
            continue
        found = []
        for phase, ops in whole.phases.items():
            mine = [op for op in local.ops(phase) if op.kind.role != "communication"]
            found += [(phase, op, part) for op, part in zip(ops, mine, strict=True)]
        return tp, found
    return None


@pytest.mark.parametrize("name", small_models.each(sorted(small_models.SMALL)))
def test_ranks_share_the_work(name):
    """At the first tp that divides, what is split is that much less work, exactly; what is not split stays."""
    found = on_a_rank(name, "serving")
    assert (found is None) == (name in INDIVISIBLE)
    at = {"b": 3, "s": 64, "p": 64}
    tp, ops = found or (1, [])
    for _, op, part in ops:
        padded = op.collective == "all_gather" or op.parallel == "vocabulary"
        if op.parallel and not padded and op.op != "pointwise" and _all_dealt(op, tp):
            assert tp * part.flops_at(**at) == op.flops_at(**at), op.name
        elif not op.parallel:
            assert (part.params, part.dims) == (op.params, op.dims)


@pytest.mark.parametrize("name", small_models.each(sorted(small_models.SMALL)))
def test_a_rank_moves_no_less_than_nothing_and_no_more_than_all(name):
    """Sizes of each op of a rank under the torch lowering, whose rewrites add ops, over few and many cached tokens."""
    found = on_a_rank(name, "torch")
    assert found or name in INDIVISIBLE | {"llama4"}  # whose 5 experts are a product each
    _, ops = found or (1, [])
    for at in ({"b": 3, "s": 41, "p": 500}, {"b": 2, "s": 64, "p": 1}):
        for phase, op, part in ops:
            if op.op == "pointwise":
                sizes = op.dims_at(**at)
                for dim, size in part.dims_at(**at).items():
                    assert 0 <= size <= sizes[dim] + _ROUNDED, (op.name, phase, dim)


_ROUNDED = 1e-6  # sizes that are shares of bytes


def _all_dealt(op: Op, tp: int) -> bool:
    """Whether the size that the work follows is dealt as a whole, in a number of parts that divides."""
    sizes = {**op.params, **op.dims}
    return all(
        sum(dealt.values()) == sizes[name] and all(parts % tp == 0 for parts in dealt)
        for name, dealt in op.shards.items()
        if name != "weight_bytes"
    )


# the algebra of pieces ---------------------------------------------------------------------------


def split_of(*sizes: int, axis: int = 2, units: int | None = None) -> Split:
    return Split(axis, tuple(Piece(n, units or n) for n in sizes))


def test_features_become_heads_and_come_back():
    features = split_of(60)
    heads = reshaped(features, (3, 5, 60), (3, 5, 6, 10))
    assert heads == Split(2, (Piece(6, 6),))
    assert reshaped(heads, (3, 5, 6, 10), (15, 60)) == Split(1, (Piece(6, 6),))


def test_heads_joined_with_the_batch_keep_their_place():
    heads = split_of(6, axis=1)
    merged = reshaped(heads, (3, 6, 5, 10), (18, 5, 10))
    assert merged == Split(0, (Piece(6, 6),), outer=3)
    assert reshaped(merged, (18, 5, 10), (3, 6, 5, 10)) == heads


def test_pieces_that_a_head_would_straddle_are_torn():
    assert reshaped(split_of(25, 35), (3, 5, 60), (3, 5, 6, 10)) is None


def test_a_section_cuts_pieces():
    assert section(split_of(6, axis=2), 0, 20, 60) == Split(2, (Piece(2, 2),))
    assert section(split_of(6, axis=2), 0, 25, 60) is None


def test_two_values_as_one_have_the_pieces_of_both():
    assert joined(split_of(60), split_of(20, 40)) == split_of(20, 40)
    assert joined(split_of(60, units=6), split_of(60)) == split_of(60, units=6)
    assert joined(split_of(60), split_of(60, axis=1)) is None


# plan and graph ----------------------------------------------------------------------------------


def normed(model: toy.Toy, x: torch.Tensor) -> torch.Tensor:
    """A norm over the whole width between two linear layers."""
    h = model.up(x)
    return x + model.down(h * h.pow(2).mean(-1, keepdim=True))


def spread_of(body: toy.Body, styles: dict[str, str] | None = None, **parts: nn.Module) -> Spread:
    flow = toy.matched(body, **parts).flow
    return spreads({"context": flow}, Plan(styles=styles or {}))["context"]


def ways(spread: Spread) -> dict[str, tuple[str, str]]:
    return {spread.module(n): (spread.way(n), spread.ends.get(n, "")) for n in spread.linears}


def parts() -> dict[str, nn.Module]:
    return {"up": toy.linear(40), "down": toy.linear(toy.WIDTH, 40)}


def test_a_norm_over_the_width_keeps_a_product_whole():
    found = ways(spread_of(normed, **parts()))
    assert found == {"up": ("", ""), "down": ("column, gathered", "all_gather")}


def test_the_plan_splits_it_and_collects():
    found = spread_of(normed, {"up": "colwise", "down": "rowwise"}, **parts())
    assert ways(found) == {"up": ("column, gathered", "all_gather"), "down": ("row", "all_reduce")}
    assert notes({"context": found}) == [
        "the model's tensor-parallel plan and its graph differ, and ops are split as the graph allows: "
        "up (colwise, here column, gathered)"
    ]


def test_what_the_plan_keeps_is_whole():
    def plain(model: toy.Toy, x: torch.Tensor) -> torch.Tensor:
        return x + model.down(model.up(x).relu())

    assert ways(spread_of(plain, **parts())) == {
        "up": ("column", ""),
        "down": ("row", "all_reduce"),
    }
    kept = ways(spread_of(plain, {"up": "replicate", "down": "replicate"}, **parts()))
    assert kept == {"up": ("", ""), "down": ("", "")}
    gathered = spread_of(plain, {"up": "colwise_gather_output", "down": "rowwise"}, **parts())
    assert ways(gathered) == {"up": ("column", ""), "down": ("row", "all_reduce")}
    assert "up (colwise_gather_output, here column)" in notes({"context": gathered})[0]


def test_an_operator_that_nothing_is_known_of_needs_whole_values():
    def odd(model: toy.Toy, x: torch.Tensor) -> torch.Tensor:
        return x + model.down(torch.special.hermite_polynomial_h(model.up(x), 2).cumsum(-1))

    found = spread_of(odd, **parts())
    assert ways(found)["up"] == ("", "")


def test_an_unnamed_operator_is_noted():
    def odd(model: toy.Toy, x: torch.Tensor) -> torch.Tensor:
        waves = torch.fft.rfft(model.up(x).float()).real.to(x.dtype)
        return x + model.down(waves[..., :20].repeat(1, 1, 2))

    found = spread_of(odd, **parts())
    assert ways(found)["up"] == ("", "")
    assert "is not known: what it reads is whole on every rank" in notes({"context": found})[-1]


def test_sums_wait_for_each_other():
    def two(model: toy.Toy, x: torch.Tensor) -> torch.Tensor:
        return x + (model.down(model.up(x).relu()) + 2 * model.down2(model.up2(x).relu()))

    more = {"up2": toy.linear(16), "down2": toy.linear(toy.WIDTH, 16)}
    found = ways(spread_of(two, **parts(), **more))
    assert (found["down"][1], found["down2"][1]) == ("joined", "all_reduce")


def test_a_sum_is_not_scaled_by_what_is_split():
    """Partial sums times a gate that is dealt would be no sum: the gate is whole."""

    def gated(model: toy.Toy, x: torch.Tensor) -> torch.Tensor:
        return x + model.gate(x).sigmoid() * model.down(model.up(x).relu())

    found = ways(spread_of(gated, **parts(), gate=toy.linear(toy.WIDTH)))
    assert found["down"] == ("row", "all_reduce")
    assert found["gate"] == ("", "")


def test_keys_normed_over_all_heads_are_cached_by_head():
    """A norm over the features of all heads needs them on every rank; the rank keeps those of its heads."""
    small_models.BROUGHT["olmo2"] = {
        "model_type": "olmo2",
        **{k: v for k, v in small_models.SMALL["llama"].items() if k not in PLACED},
    }
    found = small_models.report("olmo2")["kv_cache"]
    assert found["leaves"]
    assert all(leaf["shards"] == {"2": leaf["bytes"]} for leaf in found["leaves"])


def test_repeated_keys_leave_the_heads_of_the_values_as_they_are():
    """A delta rule over 3 key heads that the model repeats for 6 value heads is dealt in 6, not in 3."""

    def body(model: toy.Toy, x: torch.Tensor) -> torch.Tensor:
        parts = model.q(x), model.k(x), model.v(x)
        query, key, value = (part.unflatten(-1, (-1, 4)) for part in parts)
        query, key = (part.repeat_interleave(2, dim=2) for part in (query, key))
        gate = model.g(x)
        return model.down(gated_delta_rule.chunked(query, key, value, gate, gate)[0].flatten(2))

    linears = {"q": toy.linear(12), "k": toy.linear(12), "v": toy.linear(24), "g": toy.linear(6)}
    found = spread_of(body, **linears, down=toy.linear(toy.WIDTH, 24))
    (rule,) = found.dealt
    assert [found.parts(state) for state in found.all_of(rule)] == [{6: 6}] * 2
    assert {found.module(n): found.portions(n) for n in found.linears} == {
        "q": {3: 12}, "k": {3: 12}, "v": {6: 24}, "g": {6: 6}, "down": {6: 24},
    }  # fmt: skip


def test_heads_of_dealt_groups_can_be_kept_whole():
    """Queries are whole, so a rank would do the heads of its keys: a norm over all of them needs the keys whole."""

    def body(model: toy.Toy, x: torch.Tensor) -> torch.Tensor:
        query = model.q(x)
        query = query * query.pow(2).mean(-1, keepdim=True)
        heads = toy.heads(query, 6), toy.heads(model.k(x), 2), toy.heads(model.v(x), 2)
        out = attention.attention(model, *heads, None)[0].flatten(2)
        return model.down(out * out.pow(2).mean(-1, keepdim=True) if model.normed else out)

    found = {}
    for normed in (False, True):
        linears = {"q": toy.linear(24), "k": toy.linear(8), "v": toy.linear(8)}
        spread = spread_of(body, **linears, down=toy.linear(toy.WIDTH, 24), normed=normed)
        found[normed] = ways(spread)
    assert found[False] == {"q": ("", ""), "k": ("column", ""), "v": ("column", ""),
                            "down": ("row", "all_reduce")}  # fmt: skip
    assert found[True] == {
        **dict.fromkeys("qkv", ("", "")),
        "down": ("column, gathered", "all_gather"),
    }


def test_plans_of_experts_and_stages_are_read():
    """A model whose config has both: experts are dealt whole, modules before and behind the layers have their stage."""
    ops = of("qwen3_moe")
    assert ops["mlp.experts"]["shards"] == {
        "num_experts": {"9": 9},
        "intermediate_size": {"30": 30},
    }
    assert (ops["model.embed_tokens"]["stage"], ops["model.norm"]["stage"]) == ("first", "last")
    assert all(op["stage"] == "" for op in ops.values() if op["layer"])


@pytest.mark.parametrize(
    ("plan", "dealt"), [({"layers.*.mlp.experts": "moe_tp_experts"}, False), ({}, True)]
)
def test_experts_are_dealt_as_the_plan_says(plan, dealt):
    """A plan that deals no whole experts leaves their features to be split, and ep is refused; none deals them."""
    config = {**small_models.SMALL["qwen3_moe"], "base_model_ep_plan": plan}
    found = analysis.analyse(small_models.write(config), analysis.Options(), lambda *_: None)
    ops = OpList.from_json(found)
    experts = [op for op in ops.ops("context") if op.op == "moe"]
    assert experts
    assert all(("num_experts" in op.shards) == dealt for op in experts)
    layers = [Layer.from_json(layer) for layer in found["layers"]]
    shard(ops, Layout(tp=2), layers)
    with contextlib.nullcontext() if dealt else pytest.raises(InvalidInputError, match="deals no"):
        shard(ops, Layout(dp=3, ep=3), layers)


def test_where_a_plan_puts_modules():
    """By their order at the level of the layers; what another level or no entry holds has no stage."""
    plan = Plan(stages=("head", "m.embed_in", "m.drop", "m.blocks", "m.ln_f"))
    stages = {
        "m.embed_in": "first", "m.drop.inner": "first", "m.ln_f": "last", "m.blocks.3.mlp": "", "m.rotary": "",
        "head": "", "m": "", "m.ln_f2": "",
    }  # fmt: skip
    assert {module: plan.stage(module, "m.blocks") for module in stages} == stages
    assert plan.stage("m.ln_f", "m.others") == ""
    assert Plan().stage("m.ln_f", "m.blocks") == ""
