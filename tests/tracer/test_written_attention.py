"""Attention that a model writes out: every form is one op with its parameters, every near miss stays in pieces."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from oplib.symbols import B, S
from tests.tracer import small_models, toy
from tests.tracer.older import BIDIRECTIONAL
from tests.tracer.toy import claims, heads, linear, parameter
from tracer import analysis, build

HEADS, KV_HEADS, SIZE, VALUE = 6, 2, 10, 7
NEVER = torch.finfo(torch.bfloat16).min


def parts(**more):
    return {
        "q": linear(HEADS * SIZE),
        "k": linear(HEADS * SIZE),
        "v": linear(HEADS * VALUE),
        **more,
    }


def mask(x, window=0):
    """(1, 1, s, s): 0 where a query sees a key."""
    at = torch.arange(x.shape[1], device=x.device)
    seen = at[None, :] <= at[:, None]
    if window:
        seen = seen & (at[None, :] > at[:, None] - window)
    return torch.where(seen, 0.0, NEVER)[None, None].to(x.dtype)


def slopes(x):
    """(heads, 1, s): one number per head and key, made of positions."""
    at = torch.arange(x.shape[1], device=x.device)
    return 2.0 ** -torch.arange(1, HEADS + 1, device=x.device)[:, None, None] * at


def attend(m, x, *, change=lambda scores, _x: scores, prob=lambda p: p):
    """Scores divided, changed, masked; probabilities in float32."""
    q, k, v = heads(m.q(x), HEADS), heads(m.k(x), HEADS), heads(m.v(x), HEADS)
    scores = change(q @ k.transpose(2, 3) / SIZE**0.5, x) + mask(x)
    return prob(scores.softmax(-1, dtype=torch.float32).to(x.dtype)) @ v


def einsums(m, x):
    q, k, v = (p(x).unflatten(-1, (HEADS, -1)) for p in (m.q, m.k, m.v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.3 + mask(x)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


def batched(m, x):
    """bloom's form: heads in the batch, bias and scale in the product."""
    q, k, v = (heads(p(x), HEADS).flatten(0, 1) for p in (m.q, m.k, m.v))
    bias = slopes(x).repeat(x.shape[0], 1, 1).to(x.dtype)
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), beta=1.0, alpha=0.3)
    scores = scores.unflatten(0, (-1, HEADS)) + mask(x)
    return torch.bmm(functional.dropout(scores.softmax(-1), 0.0).flatten(0, 1), v)


def transposed(m, x):
    """Keys on the left, softmax over their axis."""
    q, k, v = heads(m.q(x), HEADS), heads(m.k(x), HEADS), heads(m.v(x), HEADS)
    scores = (k @ q.transpose(2, 3)) + mask(x).transpose(2, 3)
    return v.transpose(2, 3) @ scores.softmax(2)


def sinks(m, x):
    def join(scores, x):
        column = m.sinks.reshape(1, -1, 1, 1).expand(x.shape[0], -1, x.shape[1], -1)
        return torch.cat([scores, column], -1)

    q, k, v = heads(m.q(x), HEADS), heads(m.k(x), HEADS), heads(m.v(x), HEADS)
    scores = join(q @ k.transpose(2, 3) + mask(x), x)
    scores = scores - scores.max(-1, keepdim=True).values
    return scores.softmax(-1)[..., :-1] @ v


def grouped(repeat):
    def body(m, x):
        q, k, v = heads(m.q(x), HEADS), heads(m.k(x), KV_HEADS), heads(m.v(x), KV_HEADS)
        return (q @ repeat(k).transpose(2, 3) + mask(x)).softmax(-1) @ repeat(v)

    return body


def expand(x):
    groups = HEADS // KV_HEADS
    return x[:, :, None].expand(-1, -1, groups, -1, -1).reshape(x.shape[0], HEADS, *x.shape[2:])


def groups_in_einsum(m, x):
    q = m.q(x).unflatten(-1, (KV_HEADS, HEADS // KV_HEADS, -1))
    k, v = (p(x).unflatten(-1, (KV_HEADS, -1)) for p in (m.k, m.v))
    scores = torch.einsum("bsgrd,btgd->bgrst", q, k) + mask(x)[:, None]
    return torch.einsum("bgrst,btgv->bsgrv", scores.softmax(-1), v)


def folded(m, x):
    """One key head for all: heads stand beside the tokens."""
    q = m.q(x).unflatten(-1, (HEADS, -1)).flatten(1, 2)
    scores = (q @ m.k(x).transpose(1, 2)).unflatten(1, (-1, HEADS)) + mask(x).transpose(1, 2)
    return scores.softmax(-1).flatten(1, 2) @ m.v(x)


def table(m, x):
    at = torch.arange(x.shape[1], device=x.device)
    far = (at[:, None] - at[None, :]).clamp(0, 7)
    return functional.embedding(far, m.table).permute(2, 0, 1)


ONE = {"k": linear(SIZE), "v": linear(VALUE)}
FEW = {"k": linear(KV_HEADS * SIZE), "v": linear(KV_HEADS * VALUE)}
FORMS = {
    "plain": (attend, {}, {}),
    "bool mask": (lambda m, x: attend(m, x, change=lambda s, x: s.masked_fill(mask(x) < 0, NEVER)), {}, {}),
    "where": (lambda m, x: attend(m, x, change=lambda s, x: torch.where(mask(x) == 0, s, -1e9)), {}, {}),
    "window": (lambda m, x: attend(m, x, change=lambda s, x: s + mask(x, 5)), {}, {"window": 5}),
    "soft cap": (lambda m, x: attend(m, x, change=lambda s, _x: torch.tanh(s / 3) * 3), {}, {"softcap": 3.0}),
    "alibi": (lambda m, x: attend(m, x, change=lambda s, x: s + slopes(x)), {}, {"bias": "alibi"}),
    "relative": (
        lambda m, x: attend(m, x, change=lambda s, x: s + table(m, x)),
        {"table": parameter(8, HEADS)},
        {"bias": "relative"},
    ),
    "content": (
        lambda m, x: attend(m, x, change=lambda s, x: s + m.gate(x).transpose(1, 2)[..., None]),
        {"gate": linear(HEADS)},
        {"bias": "content"},
    ),
    "in place": (lambda m, x: attend(m, x, change=lambda s, _x: s.mul_(0.5)), {}, {}),
    "clamped": (lambda m, x: attend(m, x, change=lambda s, _x: s.clamp(-50, 50)), {}, {}),
    "einsum": (einsums, {}, {}),
    "heads in the batch": (batched, {}, {"bias": "alibi"}),
    "keys on the left": (transposed, {}, {}),
    "sinks": (sinks, {"sinks": parameter(HEADS)}, {"sinks": True}),
    "expanded": (grouped(expand), FEW, {"num_kv_heads": KV_HEADS}),
    "interleaved": (grouped(lambda x: x.repeat_interleave(3, 1)), FEW, {"num_kv_heads": KV_HEADS}),
    "groups": (groups_in_einsum, FEW, {"num_kv_heads": KV_HEADS}),
    "one key head": (folded, ONE, {"num_kv_heads": 1}),
    "wide": (lambda m, x: attend(m, x, change=lambda s, _x: s.float()), {}, {}),
    "bidirectional": (
        lambda m, x: (heads(m.q(x), HEADS) @ heads(m.k(x), HEADS).transpose(2, 3)).softmax(-1) @ heads(m.v(x), HEADS),
        {},
        {"causal": False},
    ),
    "no heads": (
        lambda m, x: (m.q(x) @ m.k(x).transpose(1, 2) + mask(x)[0]).softmax(-1) @ m.v(x),
        {},
        {"num_heads": 1, "num_kv_heads": 1, "head_dim": HEADS * SIZE, "v_head_dim": HEADS * VALUE},
    ),
}  # fmt: skip
DEFAULTS = {
    "num_heads": HEADS,
    "num_kv_heads": HEADS,
    "head_dim": SIZE,
    "v_head_dim": VALUE,
    "window": 0,
    "chunk": 0,
    "softcap": 0.0,
    "sinks": False,
    "bias": "none",
    "causal": True,
}


@pytest.mark.parametrize("name", sorted(FORMS))
def test_form(name):
    """Each form is one op that owns both products, with its parameters read off the graph."""
    body, more, different = FORMS[name]
    found = toy.matched(body, **{**parts(), **more})
    (claim,) = claims(found, "context_attention")
    assert {key: claim.params[key] for key in DEFAULTS} == {**DEFAULTS, **different}
    assert (claim.dims["b"], claim.dims["s"], claim.dims["p"]) == (B, S, 0)
    assert not claims(found, "bmm")
    assert len(claim.parameters) == (1 if name == "sinks" else 0)
    if name == "relative":
        assert any(c.parameters and c.kind == "embedding" for c in found.claims[1:])


def why(found) -> str:
    return "; ".join(
        r.reason for rs in found.refusals.values() for r in rs if r.op == "context_attention"
    )


def sorted_keys(m, x):
    k = heads(m.k(x), HEADS).sort(2).values
    scores = heads(m.q(x), HEADS) @ k.transpose(2, 3) + mask(x)
    return scores.softmax(-1) @ heads(m.v(x), HEADS)


def running_values(m, x):
    scores = heads(m.q(x), HEADS) @ heads(m.k(x), HEADS).transpose(2, 3) + mask(x)
    return scores.softmax(-1) @ heads(m.v(x), HEADS).cumsum(2)


def few_keys(m, x):
    q, k, v = heads(m.q(x), HEADS), heads(m.k(x), HEADS)[:, :, :8], heads(m.v(x), HEADS)[:, :, :8]
    return (q @ k.transpose(2, 3)).softmax(-1) @ v


def read_twice(m, x):
    kept = []
    out = attend(m, x, prob=lambda p: kept.append(p) or p)
    return torch.cat([out.flatten(1).sum(1), kept[0].flatten(1).sum(1)])


def scores_read(m, x):
    kept = []
    out = attend(m, x, change=lambda s, _x: kept.append(s) or s)
    return torch.cat([out.flatten(1).sum(1), kept[0].flatten(1).sum(1)])


def two_products(m, x):
    other = heads(m.v(x), HEADS)
    return attend(m, x, change=lambda s, _x: s + other @ other.transpose(2, 3))


def fixed_keys(m, x):
    scores = heads(m.q(x), HEADS) @ m.memory.transpose(1, 2)
    return scores.softmax(-1) @ m.memory


def unknown_mask(m, x):
    seen = m.buffer[torch.arange(x.shape[1], device=x.device) % 64]
    return attend(m, x, change=lambda s, _x: s + torch.where(seen, 0.0, NEVER))


MISSES = {
    "softmax over queries": (
        lambda m, x: (heads(m.q(x), HEADS) @ heads(m.k(x), HEADS).transpose(2, 3)).softmax(2) @ heads(m.v(x), HEADS),
        "sums over another",
    ),
    "softmax over heads": (
        lambda m, x: (heads(m.q(x), HEADS) @ heads(m.k(x), HEADS).transpose(2, 3)).softmax(1) @ heads(m.v(x), HEADS),
        "not the tokens of one factor",
    ),
    "probabilities read twice": (read_twice, "its probabilities are read by"),
    "scores read twice": (scores_read, "is read by"),
    "sorted keys": (sorted_keys, "its keys or values come out of aten.sort"),
    "running values": (running_values, "its keys or values come out of aten.cumsum"),
    "running scores": (lambda m, x: attend(m, x, change=lambda s, _x: s.cumsum(-1)), "come out of aten.cumsum"),
    "sorted probabilities": (
        lambda m, x: attend(m, x, prob=lambda p: p.sort(-1).values),
        "its probabilities pass",
    ),
    "squared probabilities": (lambda m, x: attend(m, x, prob=lambda p: p * p), "its probabilities pass"),
    "gated scores": (
        lambda m, x: attend(m, x, change=lambda s, x: s * x.mean(-1)[:, None, :, None]),
        "multiplies its scores with token data",
    ),
    "data mask": (
        lambda m, x: attend(m, x, change=lambda s, x: s.masked_fill(x.mean(-1)[:, None, None] < 0, NEVER)),
        "hides keys by token data",
    ),
    "filled with zero": (
        lambda m, x: attend(m, x, change=lambda s, x: s.masked_fill(mask(x) < 0, 0.0)),
        "which hides no key",
    ),
    "two products": (two_products, "joins 2 products of tokens"),
    "few keys": (few_keys, "it sees 8 keys"),
    "fixed keys": (fixed_keys, "what no token enters"),
    "unknown mask": (unknown_mask, "which keys it sees is not known"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MISSES))
def test_near_miss(name):
    """What only looks like attention is refused with the reason, and its products stay ops of their own."""
    body, reason = MISSES[name]
    more = {}
    if name == "fixed keys":
        more = {"memory": parameter(HEADS, 50, SIZE)}
    if name == "unknown mask":
        more = {"buffer": nn.Buffer(torch.empty(64, dtype=torch.bool, device="meta"))}
    found = toy.matched(body, **parts(**more))
    assert not claims(found, "context_attention")
    assert reason in why(found)
    assert len(claims(found, "bmm")) >= 2


def test_without_softmax_is_no_attention():
    """A running sum of scores, or none at all, is products and work between them."""
    for between in (lambda s: s, lambda s: s.relu(), lambda s: s.cumsum(-1)):
        found = toy.matched(
            lambda m, x, between=between: between(heads(m.q(x), HEADS) @ heads(m.k(x), HEADS).transpose(2, 3))
            @ heads(m.v(x), HEADS),
            **parts(),
        )  # fmt: skip
        assert not claims(found, "context_attention")
        assert len(claims(found, "bmm")) == 2


def test_a_router_is_nothing_to_attention():
    """A softmax without products around it is not even a near miss."""
    assert not why(toy.matched(lambda m, x: m.q(x).softmax(-1).topk(2).values, **parts()))


def test_sdpa_with_a_mask_of_a_window():
    """A mask that `scaled_dot_product_attention` gets is read as a written one is."""

    def body(m, x):
        q, k, v = heads(m.q(x), HEADS), heads(m.k(x), KV_HEADS), heads(m.v(x), KV_HEADS)
        return functional.scaled_dot_product_attention(
            q, expand(k), expand(v), attn_mask=mask(x, 9) == 0
        )

    (claim,) = claims(toy.matched(body, **{**parts(), **FEW}), "context_attention")
    names = ("num_heads", "num_kv_heads", "window", "causal")
    assert [claim.params[n] for n in names] == [HEADS, KV_HEADS, 9, True]


# models -----------------------------------------------------------------------------------------

_SIZES = {"num_hidden_layers": 3, "vocab_size": 173}
_DECODER = {**_SIZES, "hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 112, "is_decoder": True,
            "max_position_embeddings": 14_000_000, "pad_token_id": None}  # fmt: skip
_HALF = {**_SIZES, "n_positions": 14_000_000, "n_embd": 48, "n_head": 4, "rotary_dim": 4}
_FALCON = {**_SIZES, "hidden_size": 48, "num_attention_heads": 6}
#: Models whose classes write attention out -> config, and (heads, key/value heads, head size, bias).
EAGER_ONLY = {
    "bloom": ({"n_layer": 3, "vocab_size": 173, "hidden_size": 48, "n_head": 6}, (6, 6, 8, "alibi")),
    "falcon": (_FALCON, (6, 1, 8, "none")),
    "falcon alibi": ({**_FALCON, "alibi": True}, (6, 1, 8, "alibi")),
    "falcon grouped": ({**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}, (6, 6, 8, "none")),
    "gptj": ({**_HALF, "n_layer": 3}, (4, 4, 12, "none")),
    "codegen": ({**_HALF, "n_layer": 3}, (4, 4, 12, "none")),
    "gpt_neox_japanese": (
        {**_SIZES, "hidden_size": 48, "num_attention_heads": 6, "intermediate_multiple_size": 2},
        (6, 6, 8, "none"),
    ),
    "xglm": (
        {"num_layers": 3, "vocab_size": 173, "d_model": 48, "attention_heads": 6, "ffn_dim": 96},
        (6, 6, 8, "none"),
    ),
    "rembert": ({**_DECODER, "input_embedding_size": 20}, (6, 6, 8, "none")),
    "megatron-bert": (_DECODER, (6, 6, 8, "none")),
}  # fmt: skip


@functools.cache
def eager_only(name: str) -> dict:
    config, _ = EAGER_ONLY[name]
    folder = small_models.write({"model_type": name.split()[0], **config})
    return analysis.analyse(folder, analysis.Options(lowering="eager"))


QUICK = ("bloom", "falcon alibi", "gptj", "xglm")


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in sorted(EAGER_ONLY)],
)
def test_a_model_that_writes_its_attention_out(name):
    """Attention is one op with the heads of the config in both phases, and FLOPs are the counter's in both."""
    found = eager_only(name)
    _, (num_heads, kv_heads, size, bias) = EAGER_ONLY[name]
    for phase, ops in found["op_list"]["phases"].items():
        attention = [op for op in ops if op["op"] == f"{phase}_attention"]
        assert sum(op["count"] for op in attention) == 3
        for op in attention:
            params = op["params"]
            assert (params["num_heads"], params["num_kv_heads"]) == (num_heads, kv_heads)
            assert (params["head_dim"], params["v_head_dim"]) == (size, size)
            causal = phase == "generation" or name not in BIDIRECTIONAL
            assert (params["bias"], params["causal"], params["window"]) == (bias, causal, 0)
        assert not any(op["op"] == "bmm" and "p" in json.dumps(op["dims"]) for op in ops)
        counted = found["conservation"]["flops"]["phases"][phase]
        assert counted["counter"] == counted["ops"]
    assert not found["unsupported"]


SAME = ("llama", "gemma2", "gpt_oss", "deepseek_v3", "llama4", "phi3", "cohere", "qwen3_moe")


@pytest.mark.parametrize("name", small_models.each(SAME))
def test_eager_and_registry_give_the_same_op_list(name, monkeypatch):
    """Written out or handed to the registry, attention is the same op: windows, chunks, sinks and latents included."""
    direct = build._build

    def eager(resolved, config, options):
        return direct(resolved, config, {**options, "attn_implementation": "eager"})

    registry = small_models.report(name)
    monkeypatch.setattr(build, "_build", eager)
    written = analysis.analyse(small_models.folder(name), analysis.Options())
    assert written["conservation"]["exact"]
    for phase in ("context", "generation"):
        lists = [
            [{k: v for k, v in op.items() if k not in ("source", "where")} for op in r["op_list"]["phases"][phase]]
            for r in (registry, written)
        ]  # fmt: skip
        assert lists[0] == lists[1]
