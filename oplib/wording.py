"""Parameters, sizes and times as short text, the same in every report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Parameters that tables name in full; a line of text has no room for that.
SHORT_NAMES = {
    "num_heads": "h",
    "num_kv_heads": "kv",
    "num_k_heads": "hk",
    "num_v_heads": "hv",
    "head_dim": "d",
    "head_k_dim": "dk",
    "head_v_dim": "dv",
    "v_head_dim": "dv",
    "kv_lora_rank": "lora",
    "qk_nope_head_dim": "nope",
    "qk_rope_head_dim": "rope",
    "num_experts": "E",
    "top_k": "top",
    "topk": "top",
    "hidden_size": "H",
    "intermediate_size": "I",
    "num_embeddings": "V",
    "embedding_dim": "H",
    "d_inner": "inner",
    "d_state": "state",
    "channels": "c",
    "kernel_size": "k",
    "window": "win",
}
SHORT_DTYPES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
    "fp8_block": "fp8b",
}
# Settings that most ops share; they stay in the detail view.
HIDDEN_PARAMS = frozenset({"masking", "distribution", "kv_dtype", "state_dtype", "phase", "causal"})


def short_params(params: Mapping[str, Any]) -> str:
    """The parameters on one short line: sizes first, then words, the dtype last."""
    sizes, words = [], []
    for name, value in params.items():
        if name in HIDDEN_PARAMS or name == "dtype" or value in (None, False, 0, 0.0, ""):
            continue
        if value is True:
            words.append(name)
        elif isinstance(value, str):
            words.append(value)
        else:
            sizes.append(f"{SHORT_NAMES.get(name, name)}{value}")
    dtype = params.get("dtype")
    tail = [SHORT_DTYPES.get(dtype, str(dtype))] if dtype else []
    return " ".join(sizes + words + tail)


def scaled(value: float | None, unit: str, *, digits: int = 3) -> str:
    """`1.6e10, "B"` as `16 GB`: decimal prefixes, as data sheets use them."""
    if value is None:
        return "-"
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.{digits}g} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}"


def gib(size: float | None) -> str:
    """Bytes of memory as `16.3 GiB`, as drivers count what a GPU holds."""
    if size is None:
        return "-"
    found = size / 2**30
    if 0 < found < 0.005:
        return "<0.01 GiB"
    return f"{found:.2f} GiB" if found < 9.995 else f"{found:.1f} GiB"


def duration(ms: float | None) -> str:
    """Milliseconds in the unit that reads best."""
    if ms is None:
        return "-"
    if ms >= 1e7:
        return f"{ms / 3.6e6:.3g} h"
    if ms >= 1000:
        return f"{ms / 1000:.3g} s"
    return f"{ms:.3g} ms" if ms >= 1 else f"{ms * 1000:.3g} us"
