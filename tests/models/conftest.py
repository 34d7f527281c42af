"""Small reports: layers given as lists of ops, each op as (kind, module, params)."""

from __future__ import annotations

from typing import Any

import pytest

HIDDEN = 64
HEADS = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "v_head_dim": 16, "causal": True}
NORM = "add+mean+mul+pow+rsqrt"


def op(kind: str, module: str, layer: str, params: dict[str, Any]) -> dict[str, Any]:
    path = f"{layer}.{module}" if layer and module else layer or module
    return {"op": kind, "name": module, "layer": layer, "params": params, "where": [path]}


def gemm(module: str, n: int, k: int, **params: Any) -> tuple[str, str, dict[str, Any]]:
    return ("gemm", module, {"n": n, "k": k, **params})


def attention(**params: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """An attention block with its projections."""
    return [
        gemm("self_attn.qkv_proj", 128, HIDDEN),
        ("context_attention", "self_attn", HEADS | params),
        gemm("self_attn.o_proj", HIDDEN, 64),
    ]


def mlp(path: str = "mlp", width: int = 96, *, gated: bool = True, **params: Any) -> list[Any]:
    """A dense MLP; `gated` doubles the columns of the first product."""
    return [
        gemm(f"{path}.up", 2 * width if gated else width, HIDDEN, **params),
        ("pointwise", f"{path}.act_fn", {"functions": "mul+silu"}),
        gemm(f"{path}.down", HIDDEN, width, **params),
    ]


def experts(path: str = "mlp", **params: Any) -> list[Any]:
    """A router and its experts."""
    sizes = {"hidden_size": HIDDEN, "num_experts": 8, "top_k": 2, "gated": True, "bias": False}
    return [gemm(f"{path}.gate", 8, HIDDEN), ("moe", f"{path}.experts", sizes | params)]


def make_report(
    *layers: list[Any], indices: list[list[int]] | None = None, outside: list[Any] | None = None
) -> dict[str, Any]:
    """A report whose i-th distinct layer stands at `indices[i]`, by default at i alone."""
    places = indices or [[i] for i in range(len(layers))]
    entries = [{"id": f"model.layers.{at[0]}", "indices": at} for at in places]
    head = outside if outside is not None else [gemm("lm_head", 512, HIDDEN)]
    ops = [op(k, m, e["id"], p) for e, ops in zip(entries, layers, strict=True) for k, m, p in ops]
    ops += [op(kind, module, "", params) for kind, module, params in head]
    return {
        "schema": 1,
        "layers": entries,
        "op_list": {"lowering": "serving", "phases": {"context": ops, "generation": []}},
        "unsupported": [],
    }


@pytest.fixture
def build() -> Any:
    """The builders of this file, as attributes: tests are no package that could import them."""
    return type(
        "Build",
        (),
        {f.__name__: staticmethod(f) for f in (gemm, attention, mlp, experts, make_report)},
    )
