"""Kind, shape and parameters of an op, in words that both lists share: one reader per op of either side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Json = Mapping[str, Any]  # Any: parsed JSON
Shape = tuple[tuple[str, int | str], ...]
Read = tuple[str, Shape, int]
# parameters of the op, then the dims of ours or the whole op of the reference, and the phase
Reader = Callable[[Json, Json, str], Read]

# The reference's MLA ops carry only the number of heads: these are the literals in its formulas.
REFERENCE_MLA = {"kv_lora_rank": 512, "nope": 128, "rope": 64, "v_head_dim": 128}


def _shape(**values: int | str) -> Shape:
    return tuple(values.items())


def any_shape(p: Json, _dims: Json, _phase: str) -> Read:
    return "", tuple((k, v) for k, v in p.items() if isinstance(v, int | str)), 0


def _gemm(p: Json, _more: Json, _phase: str) -> Read:
    return "gemm", _shape(n=p["n"], k=p["k"]), p["n"] * p["k"]


def _our_bmm(p: Json, dims: Json, _phase: str) -> Read:
    n, k, batch = (p.get(name, dims.get(name)) for name in ("n", "k", "batch"))
    return "bmm", _shape(batch=batch, n=n, k=k), n * k * batch if p["shared_b"] else 0


def _our_attention(p: Json, _dims: Json, _phase: str) -> Read:
    shape = _attention_shape(
        p["num_heads"], p["num_kv_heads"], p["head_dim"], window=p["window"], chunk=p["chunk"]
    )
    if p["v_head_dim"] != p["head_dim"]:
        shape += (("v", p["v_head_dim"]),)
    return "attention", shape, 0


def _attention_shape(heads: int, kv: int, size: int, *, window: int, chunk: int = 0) -> Shape:
    return _shape(heads=heads, kv=kv, size=size, window=window, chunk=chunk)


def _our_mla(p: Json, _dims: Json, _phase: str) -> Read:
    dims = {
        "kv_lora_rank": p["kv_lora_rank"],
        "nope": p["qk_nope_head_dim"],
        "rope": p["qk_rope_head_dim"],
        "v_head_dim": p["v_head_dim"],
    }
    return "mla", _shape(heads=p["num_heads"], **dims), 0


def _moe(*, hidden: int, inter: int, topk: int, experts: int, gated: bool, ep: int) -> Read:
    shape = _shape(hidden=hidden, inter=inter, topk=topk, experts=experts, gated=int(gated))
    shape += _shape(ep=ep) if ep > 1 else ()
    return "moe", shape, experts * hidden * inter * (3 if gated else 2)


def _scan(p: Json, _dims: Json, phase: str) -> Read:
    shape = _shape(heads=p["num_heads"], size=p["head_dim"], state=p["d_state"])
    shape += _shape(groups=p["n_groups"])
    # One new token has no chunks.
    return "mamba2", shape + (_shape(chunk=p["chunk_size"]) if phase == "context" else ()), 0


def _delta(p: Json, _more: Json, _phase: str) -> Read:
    names = {"num_k_heads": "k heads", "head_k_dim": "k size"}
    names |= {"num_v_heads": "v heads", "head_v_dim": "v size"}
    return "gated delta rule", tuple((short, p[long]) for long, short in names.items()), 0


def _conv(channels: int, kernel: int) -> Read:
    return "conv1d", _shape(channels=channels, kernel=kernel), channels * kernel


def _reference_delta(p: Json, op: Json, phase: str) -> Read:
    if not p["kernel_source"].startswith("causal_conv1d"):
        return _delta(p, op, phase)
    width = 2 * p["num_k_heads"] * p["head_k_dim"] + p["num_v_heads"] * p["head_v_dim"]
    return _conv(width, p["d_conv"])


def _reference_mamba2(p: Json, op: Json, phase: str) -> Read:
    if p["kernel_source"].startswith("causal_conv1d"):
        return _conv(p["nheads"] * p["head_dim"] + 2 * p["n_groups"] * p["d_state"], p["d_conv"])
    return _scan({**p, "num_heads": p["nheads"]}, op, phase)


def _reference_attention(p: Json, _op: Json, _phase: str) -> Read:
    shape = _attention_shape(p["n"], p["n_kv"], p["head_size"], window=p["window_size"])
    return "attention", shape, 0


def _reference_mla(p: Json, _op: Json, _phase: str) -> Read:
    return "mla", _shape(heads=p["num_heads"], **REFERENCE_MLA), 0


def _reference_mla_bmm(p: Json, _op: Json, _phase: str) -> Read:
    latent = REFERENCE_MLA["kv_lora_rank"]
    n, k = (latent, REFERENCE_MLA["nope"]) if p["is_pre"] else (REFERENCE_MLA["v_head_dim"], latent)
    return "bmm", _shape(batch=p["num_heads"], n=n, k=k), p["num_heads"] * n * k


def _reference_moe(p: Json, _op: Json, _phase: str) -> Read:
    return _moe(
        hidden=p["hidden_size"],
        inter=p["inter_size"] // p["moe_tp_size"],
        topk=p["topk"],
        experts=p["num_experts"],
        gated=p["is_gated"],
        ep=p["moe_ep_size"],
    )


def _attention_module(p: Json, op: Json, _phase: str) -> Read:
    kind = {"module": p["attn_kind"]} if "attn_kind" in p else {}
    shape = _shape(**kind, heads=p["num_heads"], topk=p["index_topk"])
    return "attention module", shape, _module_parameters(op, p["gemm_quant_mode"])


def _stream_module(p: Json, op: Json, _phase: str) -> Read:
    shape = _shape(module=p["op"], streams=p["hc_mult"], hidden=p["hidden_size"])
    return "stream module", shape, _module_parameters(op, p["quant_mode"])


def _module_parameters(op: Json, quant_mode: str) -> int:
    """Parameters of one occurrence; the reference counts one byte of an 8-bit weight and no scales."""
    width = {"bfloat16": 2, "fp8": 1, "fp8_block": 1}.get(quant_mode)
    return round(op["weight_bytes"] / width / op["scale_factor"]) if width else 0


OURS: dict[str, Reader] = {
    "embedding": lambda p, _d, _phase: (
        "embedding",
        _shape(rows=p["num_embeddings"], width=p["embedding_dim"]),
        p["num_embeddings"] * p["embedding_dim"],
    ),
    "gemm": _gemm,
    "bmm": _our_bmm,
    "context_attention": _our_attention,
    "generation_attention": _our_attention,
    "context_mla": _our_mla,
    "generation_mla": _our_mla,
    "moe": lambda p, _d, _phase: _moe(
        hidden=p["hidden_size"],
        inter=p["intermediate_size"],
        topk=p["top_k"],
        experts=p["num_experts"],
        gated=p["gated"],
        ep=p["ep_size"],
    ),
    "causal_conv1d": lambda p, _d, _phase: _conv(p["channels"], p["kernel_size"]),
    "mamba2": _scan,
    "gated_delta_rule": _delta,
    "sparse_attention": lambda p, _d, _phase: (
        "sparse attention",
        _shape(heads=p["num_heads"], topk=p["topk"]),
        0,
    ),
    "compressed_attention": lambda p, _d, _phase: (
        "compressed attention",
        _shape(heads=p["num_heads"], size=p["head_dim"], ratio=p["ratio"], topk=p["topk"]),
        0,
    ),
    "sparse_indexer": lambda p, _d, _phase: (
        "sparse indexer",
        _shape(heads=p["num_heads"], size=p["head_dim"], topk=p["topk"]),
        0,
    ),
}
REFERENCE: dict[str, Reader] = {
    "Embedding": lambda p, _o, _phase: (
        "embedding",
        _shape(rows=p["vocab_size"], width=p["hidden_size"]),
        p["vocab_size"] * p["hidden_size"],
    ),
    "GEMM": _gemm,
    "ContextAttention": _reference_attention,
    "GenerationAttention": _reference_attention,
    "ContextMLA": _reference_mla,
    "GenerationMLA": _reference_mla,
    "MLABmm": _reference_mla_bmm,
    "MoE": _reference_moe,
    "GDNKernel": _reference_delta,
    "KDAKernel": _reference_delta,
    "Mamba2Kernel": _reference_mamba2,
    "ContextDSAModule": _attention_module,
    "GenerationDSAModule": _attention_module,
    "ContextDeepSeekV4AttentionModule": _attention_module,
    "GenerationDeepSeekV4AttentionModule": _attention_module,
    "DeepSeekV4MHCModule": _stream_module,
}
