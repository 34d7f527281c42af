"""Which ops of a list are one module of a table, and which only look like it."""

from dataclasses import replace

import pytest

from oplib.op import Op, kind
from oplib.symbols import B, S
from perfdb.modules import find_modules
from tests.perfdb import latent_ops
from tests.perfdb.latent_ops import HIDDEN, INDEX, PARAMS, changed, layer, linear, module_ops

PHASES = pytest.mark.parametrize("phase", ["context", "generation"])
SOURCES = pytest.mark.parametrize("source", ["", "indexer", "shared"])


def only(ops, phase):
    """The one set of ops that might be a module."""
    (found,) = find_modules(ops, phase)
    return found


@PHASES
@SOURCES
def test_a_module_is_its_parts(phase, source):
    """Every op from inside the module is one of its parts, and no other; its sizes are read off them."""
    ops = layer(phase, source=source)
    found = only(ops, phase)
    whole, given = found.found
    assert [ops[i].name for i in whole.parts] == [
        op.name for op in module_ops(phase, source=source)
    ]
    assert whole.op.op == f"{phase}_{'dsa' if source else 'mla'}_module"
    index = {**INDEX, "index_source": source} if source else {}
    if source == "shared":
        index |= {"index_n_heads": 0, "index_head_dim": 0}
    assert whole.op.params == kind(whole.op.op).complete({**PARAMS, **index})
    assert (whole.op.count, whole.op.name, whole.op.layer) == (2, "self_attn", "model.layers.0")
    assert whole.op.weight_bytes == sum(ops[i].weight_bytes for i in whole.parts)
    assert given.op.params["latents"] == "given"
    left = set(whole.parts) - set(given.parts)
    assert [ops[i].name for i in left] == ["self_attn.q_a_proj"]


@PHASES
def test_the_work_of_a_module_is_that_of_its_parts(phase):
    """FLOPs of the set and of the module that stands for it agree at sizes that the search has not used."""
    for source in ("", "indexer", "shared"):
        ops = layer(phase, source=source)
        whole = only(ops, phase).found[0]
        at = {"b": 5, "s": 300 if phase == "context" else 1, "p": 4000}
        parts = [op for op in (ops[i] for i in whole.parts) if op.op != "pointwise"]
        (way,) = [w for w in whole.op.kind.ways(whole.op.params, whole.op.dims_at(**at))
                  if sorted(p.kind.name for p in w) == sorted(op.op for op in parts)]  # fmt: skip
        assert sum(op.flops_at(**at) for op in parts) == sum(
            part.kind.flops(part.params, part.dims) * part.times for part in way
        )


def test_latents_apart_are_latents():
    """An engine's list that does not merge the projections of one input is the same module."""
    ops = module_ops("context")
    first = ops[0]
    apart = [
        linear("q_a_proj", 512, HIDDEN, B * S),
        linear("kv_a_proj_with_mqa", 288, HIDDEN, B * S),
    ]
    found = only([*apart, *ops[1:]], "context")
    assert found.found[0].op.params == only(ops, "context").found[0].op.params
    assert found.found[0].parts[:2] == (0, 1)
    assert first.params["n"] == 512 + 288


def test_a_further_product_stays_beside_the_module():
    """A gate on the output is no part: the module without its latents stands for the rest, the gate is priced alone."""
    ops = module_ops("context")
    gate = linear("g_proj", 4 * 96, HIDDEN, B * S)
    found = only([ops[0], gate, *ops[1:]], "context")
    (given,) = found.found
    assert given.op.params["latents"] == "given"
    assert {0, 1} & set(given.parts) == set()


NEAR_MISSES = {
    "other counts": (lambda ops: changed(ops, 1, count=3), "equally often"),
    "two attentions": (lambda ops: [*ops[:-1], ops[-2], ops[-1]], "2 ops context_mla, not one"),
    "a window": (
        lambda ops: changed(ops, -2 % len(ops), params={**ops[-2].params, "window": 64}),
        "window 64",
    ),
    "eager masks": (
        lambda ops: changed(ops, -2 % len(ops), params={**ops[-2].params, "masking": "computed"}),
        "masking computed",
    ),
    "two dtypes": (
        lambda ops: changed(ops, 2, params={**ops[2].params, "dtype": "fp8_block"}),
        "bfloat16, fp8_block",
    ),
    "no output": (lambda ops: ops[:-1], "last linear layer"),
    "no queries": (lambda ops: [*ops[:2], *ops[3:]], "features of queries"),
    "other keys": (
        lambda ops: changed(ops, 3, params={**ops[3].params, "n": 999}),
        "other work",
    ),
    "a scan": (
        lambda ops: [
            latent_ops.op("embedding", {"num_embeddings": 8, "embedding_dim": 8, "dtype": "bfloat16"}, {"m": B}),
            *ops,
        ],
        "other work",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(NEAR_MISSES))
def test_near_misses(name):
    """A set that a module does not stand for is refused in words."""
    change, words = NEAR_MISSES[name]
    found = find_modules(change(module_ops("context")), "context")[0]
    assert not found.found
    assert words in found.reason


def test_ops_of_other_modules_and_collectives_are_not_inside():
    """Neighbours in name only, other layers, and what ranks send each other."""
    ops = layer("generation")
    send = Op(
        op="all_reduce", name="sum", count=2, params={"num_gpus": 8, "dtype": "bfloat16"}, dims={"bytes": B},
        where=ops[-2].where, layer=ops[-2].layer,
    )  # fmt: skip
    beside = linear("x", 7, HIDDEN, B)
    beside = replace(beside, where=("model.layers.0.self_attn2.x",))
    other = replace(linear("q_a_proj", 7, HIDDEN, B), layer="model.layers.1")
    found = only([*ops, send, beside, other], "generation")
    assert found.found[0].parts == only(ops, "generation").found[0].parts
