"""Op lists of ranks: what they hold and run adds up to the whole, and they send what the split needs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layout import Layout
from models.sharding import shard
from models.stages import deal
from oplib.errors import InvalidInputError
from oplib.op import Op
from oplib.symbols import B, S
from tests.models import op_lists
from tests.models.op_lists import LAYERS, listed, mixture

AT = {"b": 3, "s": 40, "p": 0}
SENT = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p"}


def sent(ops: tuple[Op, ...]) -> Counter:
    """How often each message is sent, by kind, ranks and bytes."""
    found: Counter = Counter()
    for op in ops:
        if op.op in SENT:
            found[op.op, op.params["num_gpus"], str(op.dims["bytes"])] += op.count
    return found


def computing(ops: tuple[Op, ...]) -> list[Op]:
    return [op for op in ops if op.op not in SENT]


@settings(deadline=None, max_examples=60)
@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.integers(1, 7),
    wide=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    ep_all=st.booleans(),
    inner=st.integers(1, 4),
)
def test_ranks_add_up_to_the_whole(tp, pp, wide, groups, ep_all, inner):
    """FLOPs and weight bytes of what is split, over all ranks and stages; what is not split is on each rank."""
    whole = mixture(heads=8 * wide * groups, kv=8 * wide, inner=8 * inner, count=16, vocab=8 * 40)
    layout = Layout(tp=tp, pp=pp, ep=tp if ep_all else 1)
    stages = shard(whole, layout, LAYERS)
    assert len(stages) == pp
    for phase in ("context", "generation"):
        for name in {op.name for op in whole.ops(phase)}:
            before = [op for op in whole.ops(phase) if op.name == name]
            after = [
                op for stage in stages for op in computing(stage.ops(phase)) if op.name == name
            ]
            ranks = tp if before[0].parallel else 1
            assert sum(op.count for op in after) == sum(op.count for op in before), name
            for measure in ("flops", "weight_bytes"):
                total = sum(getattr(op.cost_at(**AT), measure) for op in before)
                assert ranks * sum(getattr(op.cost_at(**AT), measure) for op in after) == total, (
                    name, measure,
                )  # fmt: skip


def test_one_rank_runs_the_whole():
    whole = mixture()
    (alone,) = shard(whole, Layout(), LAYERS)
    for phase in whole.phases:
        assert [(o.op, o.params, o.dims, o.count, o.weight_bytes) for o in alone.ops(phase)] == [
            (o.op, o.params, o.dims, o.count, o.weight_bytes) for o in whole.ops(phase)
        ]


def test_key_heads_are_repeated_query_heads_are_not():
    whole = mixture(heads=16, kv=2, size=8)
    (local,) = shard(whole, Layout(tp=8), LAYERS)
    found = {op.name: op.params for op in local.ops("context") if op.layer == op_lists.DENSE}
    assert found["self_attn.qkv_proj"]["n"] == 16 // 8 * 8 + 2 * 8  # one key and one value head
    assert found["self_attn.attention"]["num_heads"] == 2
    assert found["self_attn.attention"]["num_kv_heads"] == 1
    assert found["self_attn.o_proj"]["k"] == 16
    with pytest.raises(InvalidInputError, match=r"tp 5 does not divide the .*Sizes that do: 1, 2"):
        shard(whole, Layout(tp=5), LAYERS)
    with pytest.raises(InvalidInputError, match="16 heads of context_attention"):
        shard(listed(op_lists.attention(16, 2, 8)), Layout(tp=32), LAYERS)


def test_a_vocabulary_is_padded():
    whole = listed(op_lists.embedding(1001, 64), op_lists.logits(1001, 64))
    (local,) = shard(whole, Layout(tp=8), ())
    table, _, head, _ = local.ops("context")
    assert table.params["num_embeddings"] == head.params["n"] == 126
    assert table.weight_bytes == head.weight_bytes == 126 * 64 * 2


def test_blocks_of_a_weight_are_not_cut():
    whole = listed(op_lists.gemm("up", 1536, 512, dtype="fp8_block", column={1536: 1536}))
    shard(whole, Layout(tp=4), LAYERS)
    with pytest.raises(InvalidInputError, match="192 on a rank, which cuts the 128 x 128 blocks"):
        shard(whole, Layout(tp=8), LAYERS)


def test_experts_by_rank_and_inside():
    whole = mixture(count=16, inner=96)
    for layout, ep, inner in (
        (Layout(tp=8), 1, 12),
        (Layout(tp=8, ep=8), 8, 96),
        (Layout(tp=8, ep=2), 2, 24),
        (Layout(tp=2, dp=4, ep=8), 8, 96),
    ):
        (local,) = shard(whole, layout, LAYERS)
        moe = next(op for op in local.ops("context") if op.op == "moe")
        assert (moe.params["ep_size"], moe.params["intermediate_size"]) == (ep, inner)
        assert moe.params["num_experts"] == 16
        assert moe.dims["m"] == layout.dp * B * S
        original = next(op for op in whole.ops("context") if op.op == "moe")
        assert moe.weight_bytes * 8 == original.weight_bytes
        assert moe.flops_at(**AT) * 8 == layout.dp * original.flops_at(**AT)
    with pytest.raises(InvalidInputError, match="ep 32 does not divide the 16 experts"):
        shard(listed(op_lists.experts(64, 96, 16, 3)), Layout(tp=32, ep=32), LAYERS)


def test_one_sum_for_all_that_is_added_up():
    """Two per layer, one for the embedding, and the logits gathered: as hand-written lists have it."""
    (local,) = shard(mixture(), Layout(tp=4), LAYERS)
    assert sent(local.ops("context")) == {
        ("all_reduce", 4, "128*b*s"): 2 * 7 + 1,
        ("all_gather", 4, "640*b"): 1,
    }
    places = [op.name for op in local.ops("context") if op.layer == op_lists.MIXTURE]
    assert places.index("mlp.down_proj.all_reduce") == places.index("mlp.down_proj") + 1
    assert "mlp.experts.all_reduce" not in places


def test_tokens_travel_between_groups():
    """Dispatch and combination in place of the sum; the shared expert's own sum stays in its group."""
    (alone,) = shard(mixture(), Layout(dp=8, ep=8), LAYERS)
    assert sent(alone.ops("context")) == {("all_to_all", 8, "384*b*s"): 2 * 5}
    (pairs,) = shard(mixture(), Layout(tp=2, dp=4, ep=8), LAYERS)
    assert sent(pairs.ops("context")) == {
        ("all_reduce", 2, "128*b*s"): 2 * 7 + 1,
        ("all_to_all", 8, "192*b*s"): 2 * 5,
        ("all_gather", 2, "128*b*s"): 5,
        ("all_gather", 2, "640*b"): 1,
    }
    (cut,) = shard(mixture(), Layout(tp=2, dp=4), LAYERS)
    assert sent(cut.ops("context")) == {
        ("all_reduce", 2, "128*b*s"): 2 * 7 + 1 + 5,
        ("all_gather", 4, "512*b*s"): 5,
        ("reduce_scatter", 4, "512*b*s"): 5,
        ("all_gather", 2, "640*b"): 1,
    }


def test_layers_are_dealt_evenly():
    dense, mixed = op_lists.DENSE, op_lists.MIXTURE
    assert deal(LAYERS, 1) == [{dense: 2, mixed: 5}]
    assert deal(LAYERS, 3) == [{dense: 2}, {mixed: 3}, {mixed: 2}]
    assert [sum(stage.values()) for stage in deal(LAYERS, 5)] == [1, 1, 2, 2, 1]
    with pytest.raises(InvalidInputError, match="pp 8 asks for more stages than the 7 layers"):
        deal(LAYERS, 8)


def test_stages_hand_over_hidden_states():
    first, second = shard(mixture(), Layout(pp=2), LAYERS)
    assert first.ops("context")[0].op == "embedding"
    assert first.ops("context")[-1].op == "p2p"
    assert str(first.ops("context")[-1].dims["bytes"]) == "128*b*s"
    assert second.ops("context")[-1].name == "lm_head"
    assert not sent(second.ops("context"))


def test_modules_are_on_the_stage_that_the_model_says():
    """What runs outside the layers stays on its side of them, unless the model's pipeline plan puts it elsewhere."""
    *rest, head = mixture().ops("context")
    norm = op_lists.gemm("model.extra", 64, 64, layer="")
    for stage, expected in (("", [1, 0]), ("first", [1, 0]), ("last", [0, 1])):
        placed = replace(norm, stage=stage)
        found = shard(listed(placed, *rest, head), Layout(pp=2), LAYERS)
        held = [sum(op.name == norm.name for op in one.ops("context")) for one in found]
        assert held == expected
    with pytest.raises(InvalidInputError, match="stage 'middle'"):
        replace(norm, stage="middle")


def test_a_tied_head_is_held_on_its_stage():
    table = op_lists.embedding(320, 64)
    head = op_lists.logits(320, 64)
    tied = Op.from_json(
        {**head.to_json(), "params": {**head.params, "tied": True}, "weight_bytes": 0}
    )
    whole = listed(table, *mixture().ops("context")[1:-1], tied)
    for pp, expected in ((1, [0]), (2, [320 * 64 * 2])):
        last = shard(whole, Layout(pp=pp), LAYERS)[-1]
        assert [op.weight_bytes for op in last.ops("context") if op.name == "lm_head"] == expected


def test_the_bias_of_a_tied_head_is_dealt():
    head = op_lists.logits(320, 64)
    biased = Op.from_json(
        {**head.to_json(), "params": {**head.params, "bias": True}, "weight_bytes": 640}
    )
    (local,) = shard(listed(biased), Layout(tp=8), ())
    assert local.ops("context")[0].weight_bytes == 80


def test_shared_weights_are_held_where_they_run():
    """Occurrences that hold a shared weight come first, on every stage that has one."""
    held = op_lists.gemm("shared.proj", 64, 64, layer=op_lists.MIXTURE)
    parts = [
        Op.from_json({**held.to_json(), "count": 1}),
        Op.from_json({**held.to_json(), "count": 4, "weight_bytes": 0}),
    ]
    stages = shard(listed(*parts), Layout(pp=2), LAYERS)
    assert [[op.count for op in stage.ops("context") if op.op == "gemm"] for stage in stages] == [
        [1, 1],
        [1, 2],
    ]


def test_a_list_is_split_once():
    (local,) = shard(mixture(), Layout(tp=4), LAYERS)
    assert not any(op.shards or op.collective for op in local.ops("context"))
