"""The signature of an architecture: the features that its ops show, read off a report of `trace-model`.

Features come from op kinds, parameters and the modules they belong to, never from the names of models. They leave out
sizes and quantisation, so that two configs of one architecture mostly agree. The known ones are made from
`serving` ops; other lowerings differ where a rewrite finds the op, as for experts written as one batched product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from models.layer_view import Json, LayerView, role_of

_PLAIN_KINDS = frozenset({"gemm", "bmm", "embedding", "pointwise", "causal_conv1d"})
_COVERED_ROLES = frozenset({"attention", "scan", "moe"})
_NORM_FUNCTIONS = frozenset({"layer_norm", "native_layer_norm", "rms_norm", "group_norm"})
# A layer norm that is written out subtracts the mean.
_LAYER_NORM = frozenset({"layer_norm", "native_layer_norm", "sub"})
_RMS_STEPS = frozenset({"mean", "pow"})
_ACTIVATIONS = ("gelu", "relu", "silu")
_MOST_BLOCK_NORMS = 2  # one before each of two blocks; more are sandwich norms


def signature(report: Json) -> frozenset[str]:
    """The features of the model in a report; names and words are in `models.features`."""
    phases = report["op_list"]["phases"]
    ops: list[Json] = phases.get("context") or next(iter(phases.values()), [])
    outside = [op for op in ops if not op["layer"]]
    heads = [op["params"]["k"] for op in outside if op["op"] == "gemm"]
    hidden: int = heads[-1] if heads else 0
    gaps = {entry.get("layer", "") for entry in report.get("unsupported", ())}
    layers = [
        LayerView(
            layer,
            [op for op in ops if op["layer"] == layer["id"]],
            hidden,
            complete=layer["id"] not in gaps,
        )
        for layer in report["layers"] or [{"id": "", "indices": [0]}]
    ]
    found = set(_outside(LayerView({"id": "", "indices": []}, outside, hidden, complete=True)))
    for layer in layers:
        for rule in (_attention, _attention_block, _scans, _experts, _dense, _products, _norms):
            found.update(rule(layer))
    found.update(_pattern(layers))
    found.update(_differences(layers))
    return frozenset(found)


def _outside(rest: LayerView) -> Iterator[str]:
    """Embeddings, head and last norm: what lies outside the layers."""
    if any(op["params"].get("tied") for op in rest.ops):
        yield "embedding:tied"
    if len(rest.of("embedding")) > 1:
        yield "embedding:several"
    products = [i for i, op in enumerate(rest.ops) if op["op"] == "gemm"]
    after = rest.ops[products[-1] + 1 :] if products else []
    if any("tanh" in _functions(op) for op in after):
        yield "logits:softcap"
    norms = [functions for functions in rest.functions().values() if _is_norm(functions)]
    if any(functions & _LAYER_NORM for functions in norms):
        yield "norm:layer"
    elif norms:
        yield "norm:rms"


def _functions(op: Json) -> set[str]:
    return set(str(op["params"].get("functions", "")).split("+"))


def _is_norm(functions: set[str]) -> bool:
    return bool(functions & _NORM_FUNCTIONS) or functions >= _RMS_STEPS


def _attention(layer: LayerView) -> Iterator[str]:
    """Kinds of attention and what they do to the scores."""
    for op in layer.role("attention"):
        params = op["params"]
        if "topk" in params and "causal" not in params:
            yield "sparse:indexer"
            continue
        if "topk" in params:
            yield "attention:sparse"
            if params.get("index_source") == "blocks":
                yield "sparse:blocks"
        yield from _heads(params)
        yield from (
            f"attention:{n}" for n in ("window", "chunk", "softcap", "sinks") if params.get(n)
        )
        if not any(params.get(name) for name in ("window", "chunk", "topk")):
            yield "attention:full"
        if params.get("causal") is False:
            yield "attention:bidirectional"


def _heads(params: Json) -> Iterator[str]:
    if params.get("kv_lora_rank"):
        yield "attention:latent"
        return
    yield "attention:plain"
    groups = {params["num_heads"]: "mha", 1: "mqa"}
    yield f"attention:{groups.get(params['num_kv_heads'], 'gqa')}"
    if params["v_head_dim"] != params["head_dim"]:
        yield "attention:value_size"


def _attention_block(layer: LayerView) -> Iterator[str]:
    """What stands around the attention core: biases, norms of q and k, an output gate, low-rank queries."""
    cores = [op for op in layer.role("attention") if "causal" in op["params"]]
    if not cores:
        return
    blocks, core = layer.blocks(cores[0]), layer.ops.index(cores[0])
    gemms = [
        (i, op)
        for i, op in enumerate(layer.ops)
        if op["op"] == "gemm" and layer.blocks(op) & blocks
    ]
    if any(op["params"].get("bias") for i, op in gemms if i < core):
        yield "bias:attention_in"
    if any(op["params"].get("bias") for i, op in gemms if i > core):
        yield "bias:attention_out"
    functions = layer.functions()
    if any("sigmoid" in functions.get(block, ()) for block in blocks):
        yield "attention:output_gate"
    params = cores[0]["params"]
    size = params.get("head_dim") or params["qk_nope_head_dim"] + params["qk_rope_head_dim"]
    queries = [
        op for i, op in gemms if i < core and op["params"]["n"] == params["num_heads"] * size
    ]
    if any(op["params"]["k"] != layer.hidden for op in queries):
        yield "attention:query_low_rank"
    if params.get("kv_lora_rank"):
        return
    if any(_is_norm(f) for path, f in functions.items() if _norm_inside(layer, path, blocks)):
        yield "attention:qk_norm"


def _norm_inside(layer: LayerView, path: str, blocks: set[str]) -> bool:
    """Whether a module is a leaf strictly inside one of the blocks, with no product of its own."""
    block, _, rest = path.partition(".")
    return block in blocks and bool(rest) and not layer.owns_products(path)


def _scans(layer: LayerView) -> Iterator[str]:
    for op in layer.role("scan"):
        gate = op["params"].get("gate")
        yield f"scan:{op['op']}:{gate}" if gate else f"scan:{op['op']}"
    if layer.of("causal_conv1d"):
        yield "conv:causal"


def _experts(layer: LayerView) -> Iterator[str]:
    """Routed experts, and dense MLPs of the same layer: in the block of the experts they are shared experts."""
    for op in layer.role("moe"):
        params = op["params"]
        yield "moe:routed"
        yield "moe:gated" if params["gated"] else "moe:plain"
        if params.get("bias"):
            yield "moe:bias"
        if params["top_k"] == 1:
            yield "moe:top_1"
        if params["hidden_size"] != layer.hidden:
            yield "moe:latent"
        beside = layer.mlps()
        if any(mlp.block in layer.blocks(op) for mlp in beside):
            yield "moe:shared_experts"
        if any(mlp.block not in layer.blocks(op) for mlp in beside):
            yield "moe:beside_mlp"
        if any(g["params"]["n"] == 1 for g in layer.of("gemm")):
            yield "moe:shared_expert_gate"


def _dense(layer: LayerView) -> Iterator[str]:
    functions = layer.functions()
    for mlp in layer.mlps():
        if not layer.role("moe"):
            yield "mlp:dense"
            yield "mlp:gated" if mlp.gated else "mlp:plain"
        if mlp.bias:
            yield "bias:mlp"
        inside = [
            f for p, f in functions.items() if mlp.path and f"{p}.".startswith(f"{mlp.path}.")
        ]
        seen = set().union(*inside)
        yield from (f"mlp:{name}" for name in _ACTIVATIONS if name in seen)


def _products(layer: LayerView) -> Iterator[str]:
    """Batched products that are not part of latent attention, and op kinds that no other rule reads."""
    latent = any(op["params"].get("kv_lora_rank") for op in layer.role("attention"))
    for op in layer.of("bmm"):
        if not op["params"].get("shared_b"):
            yield "bmm:activations"
        elif not (latent and layer.blocks(op) & layer.mixer_blocks):
            yield "bmm:weights"
    for op in layer.ops:
        if op["op"] not in _PLAIN_KINDS and role_of(op) not in _COVERED_ROLES:
            yield f"op:{op['op']}"


def _norms(layer: LayerView) -> Iterator[str]:
    """Norms between the blocks of a layer: modules directly in the layer without products."""
    norms = [
        path
        for path, functions in layer.functions().items()
        if "." not in path and _is_norm(functions) and not layer.owns_products(path)
    ]
    if len(norms) > _MOST_BLOCK_NORMS:
        yield "norm:sandwich"


def _pattern(layers: Sequence[LayerView]) -> Iterator[str]:
    """How layers with different blocks follow each other."""
    experts = [i for layer in layers if layer.role("moe") for i in layer.indices]
    dense = [i for layer in layers if layer.mlps() and not layer.role("moe") for i in layer.indices]
    if experts and dense:
        leading = max(dense) < min(experts)
        yield "layers:leading_dense" if leading else "layers:interleaved_dense"
    mixers = [
        (bool(x.role("attention")), bool(x.role("scan") or x.of("causal_conv1d"))) for x in layers
    ]
    if any(attends and scans for attends, scans in mixers):
        yield "layers:parallel_mixers"
    if (True, False) in mixers and (False, True) in mixers:
        yield "layers:hybrid"
    mixed = [x.mixes for x in layers if x.mixes or x.complete]
    if any(mixed) and not all(mixed):
        alone = not any(x.mixes and (x.role("moe") or x.mlps()) for x in layers)
        yield "layers:single_mixer" if alone else "layers:without_mixer"


def _differences(layers: Sequence[LayerView]) -> Iterator[str]:
    """What is not the same in every layer: sizes, and who selects the keys."""
    selects = {bool(x.of("sparse_indexer")) for x in layers if _selected(x)}
    if len(selects) > 1:
        yield "sparse:shared"
    names = ("num_heads", "num_kv_heads", "head_dim")
    heads = {
        tuple(op["params"][name] for name in names)
        for layer in layers
        for op in layer.role("attention")
        if op["params"].get("num_kv_heads")
    }
    if len(heads) > 1:
        yield "attention:mixed_heads"
    widths = {mlp.width for layer in layers if not layer.role("moe") for mlp in layer.mlps()}
    if len(widths) > 1:
        yield "mlp:mixed_widths"


def _selected(layer: LayerView) -> bool:
    """Whether attention sees selected keys only."""
    return any("topk" in op["params"] and "causal" in op["params"] for op in layer.ops)
