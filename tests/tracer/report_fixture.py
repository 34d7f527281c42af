"""A made-up report of a 61-layer mixture-of-experts model, large enough to judge a page by.

The shapes are those of a DeepSeek-like model; the short-term memory block in the expert layers is
invented so that the report has primitives that no op claims (situation S3).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HIDDEN, HEADS, Q_LORA, KV_LORA, NOPE, ROPE, V_HEAD = 7168, 128, 1536, 512, 128, 64, 128
INTER, MOE_INTER, EXPERTS, TOP_K, VOCAB = 18432, 2048, 256, 8, 129280
RATES = {
    "flops_per_s": {"float32": 4.945e14, "bfloat16": 9.895e14, "fp8": 1.979e15},
    "bytes_per_s": 4.8e12,
}
WORKLOADS = {"context": {"b": 1, "s": 4096, "p": 0}, "generation": {"b": 64, "s": 1, "p": 4096}}
FILE = "modeling_deepseek_mem.py"
STATIC = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
Json = dict[str, Any]


def evaluate(expr: str | int | float, workload: dict[str, int]) -> float:
    """The value of an expression of this file (trusted text, so plain eval is enough)."""
    names = {"Min": min, "Max": max, "floor": math.floor, "ceiling": math.ceil, **workload}
    return float(eval(str(expr), {"__builtins__": {}}, names))


def price(flops: str | int, num_bytes: str | int, dtype: str, workload: dict[str, int]) -> Json:
    """Roofline record of one occurrence."""
    compute = evaluate(flops, workload) / RATES["flops_per_s"][dtype] * 1e3  # type: ignore[index]
    memory = evaluate(num_bytes, workload) / RATES["bytes_per_s"] * 1e3  # type: ignore[operator]
    bound = "compute" if compute > memory else "memory"
    return {"ms": max(compute, memory), "compute_ms": compute, "memory_ms": memory, "bound": bound}


@dataclass
class Graph:
    """Builds the nodes and edges of one traced layer, in execution order."""

    module: str = ""
    line: int = 100
    nodes: list[Json] = field(default_factory=list)
    edges: list[list[int]] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)

    def add(self, target: str, shape: str, group: str, owner: Any, *inputs: int) -> int:
        """Append a node that reads `inputs`; returns its index."""
        stem = target.split(".")[-1]
        number = self.seen.get(stem, -1) + 1
        self.seen[stem] = number
        self.line += 1
        self.nodes.append(
            {
                "n": stem if number == 0 else f"{stem}_{number}",
                "t": target,
                "shape": shape,
                "dtype": "bfloat16",
                "module": self.module,
                "source": f"{FILE}:{self.line}",
                "group": group,
                "g": owner,
            }
        )
        index = len(self.nodes) - 1
        self.edges += [[i, index] for i in inputs]
        return index

    def free(self, target: str, shape: str, *inputs: int, why: str = "view") -> int:
        return self.add(target, shape, "free", why, *inputs)

    def chain(self, targets: str, shape: str, owner: int, *inputs: int) -> int:
        """A row of nodes of one op, each reading the one before."""
        last = inputs
        for target in targets.split():
            last = (self.add(f"aten.{target}", shape, "op", owner, *last),)
        return last[0]


RMS = "to pow mean add rsqrt mul to mul"


@dataclass
class Ops:
    """Collects the ops of one phase."""

    phase: str
    out: list[Json] = field(default_factory=list)
    layer: str = ""
    count: int = 1

    def add(self, kind: str, name: str, flops: str, num_bytes: str, **params: Any) -> int:
        weight = params.pop("weight", 0)
        rewrites = params.pop("rewrites", [])
        dims = params.pop("dims", {"m": "b*s"})
        parts = params.pop("parts", [name])
        dtype = "fp8" if params.get("dtype") == "fp8_block" else "bfloat16"
        prefix = f"{self.layer}." if self.layer else "model."
        self.out.append(
            {
                "op": kind,
                "name": name,
                "count": self.count,
                "params": params,
                "dims": dims,
                "axes": ["x"] if list(dims) == ["m"] else ["b", "s", "p"],
                "flops": flops,
                "bytes": num_bytes,
                "weight_bytes": weight,
                "where": [prefix + part for part in parts],
                "source": f"{FILE}:{200 + 3 * len(self.out)}",
                "rewrites": rewrites,
                "layer": self.layer,
                **{"parallel": "", "shards": {}, "collective": "", "message": 0},
                "compute_dtype": dtype,
            }
        )
        return len(self.out) - 1

    def gemm(self, name: str, n: int, k: int, *parts: str, dtype: str = "fp8_block") -> int:
        bits = 1 if dtype == "fp8_block" else 2
        weight = n * k * bits + (4 * math.ceil(n / 128) * math.ceil(k / 128) if bits == 1 else 0)
        return self.add(
            "gemm",
            name,
            f"{2 * n * k}*b*s",
            f"{weight} + b*s*({k * bits} + {2 * n})",
            n=n,
            k=k,
            dtype=dtype,
            weight=weight,
            parts=list(parts) or [name],
            rewrites=["merge_parallel_linears"] if len(parts) > 1 else [],
        )

    def pointwise(self, name: str, functions: str, width: int, *, weight: int = 0) -> int:
        return self.add(
            "pointwise",
            name,
            "0",
            f"b*s*{width * 6} + {weight}",
            functions=functions,
            dtype="bfloat16",
            dims={"read": f"b*s*{width * 4}", "written": f"b*s*{width * 2}"},
            weight=weight,
            rewrites=["fuse_pointwise"],
        )

    def attention(self) -> int:
        generation = self.phase == "generation"
        per_pair = 2 * KV_LORA + ROPE if generation else NOPE + ROPE + V_HEAD
        cache = KV_LORA + ROPE
        pairs = "b*(p + 1)" if generation else "b*(s*p + s*(s + 1)/2)"
        return self.add(
            "generation_mla" if generation else "context_mla",
            "self_attn",
            f"{2 * HEADS * per_pair}*{pairs}",
            f"b*(p + s)*{2 * cache} + b*s*{2 * HEADS * (NOPE + ROPE + V_HEAD)}",
            num_heads=HEADS,
            kv_lora_rank=KV_LORA,
            qk_nope_head_dim=NOPE,
            qk_rope_head_dim=ROPE,
            v_head_dim=V_HEAD,
            absorbed=generation,
            dtype="bfloat16",
            kv_dtype="bfloat16",
            masking="skipped",
            dims={"b": "b", "s": "s", "p": "p"},
            rewrites=["absorb_mla"] if generation else [],
        )

    def moe(self) -> int:
        expert = 3 * HIDDEN * MOE_INTER
        touched = f"{EXPERTS}*(1 - (31/32)**(b*s))"
        return self.add(
            "moe",
            "mlp.experts",
            f"{6 * TOP_K * HIDDEN * MOE_INTER}*b*s",
            f"{touched}*{expert} + b*s*{4 * HIDDEN}",
            hidden_size=HIDDEN,
            intermediate_size=MOE_INTER,
            num_experts=EXPERTS,
            top_k=TOP_K,
            gated=True,
            dtype="fp8_block",
            distribution="balanced",
            weight=EXPERTS * expert,
        )


def norm(g: Graph, ops: Ops, name: str, width: int, x: int) -> int:
    """An RMS norm: one pointwise op and its nodes."""
    op = ops.pointwise(name, "mean+mul+pow+rsqrt", width, weight=2 * width)
    g.module = name
    return g.chain(RMS, f"b x s x {width}", op, x)


def mask_and_positions(g: Graph) -> list[int]:
    """Mask and rotary tables: free nodes that reach the attention core only."""
    g.module = ""
    size = g.free("aten.sym_size", "s", why="shape")
    pos = g.free("aten.arange", "s", size, why="position")
    mask = pos
    steps = ["unsqueeze", "add", "le", "expand", "where", "full", "masked_fill", "to", "view"]
    for step in steps * 5:
        mask = g.free(f"aten.{step}", "b x 1 x s x (s+p)", mask, why="mask")
    angles = pos
    for step in ["unsqueeze", "to", "mul", "cat"]:
        angles = g.free(f"aten.{step}", "b x s x 64", angles, why="position")
    cos = g.free("aten.cos", "b x s x 64", angles, why="position")
    sin = g.free("aten.sin", "b x s x 64", angles, why="position")
    return [mask, cos, sin]


def rotate(g: Graph, op: int, x: int, cos: int, sin: int, heads: int) -> int:
    """Rotary embedding of one tensor, as the source spells it."""
    shape = f"b x {heads} x s x 64"
    view = g.free("aten.view", shape, x)
    pairs = g.free("aten.transpose", shape, view)
    flat = g.free("aten.reshape", shape, pairs)
    left = g.free("aten.slice", f"b x {heads} x s x 32", flat)
    right = g.free("aten.slice", f"b x {heads} x s x 32", flat)
    negative = g.add("aten.neg", f"b x {heads} x s x 32", "op", op, right)
    turned = g.add("aten.cat", shape, "op", op, negative, left)
    a = g.add("aten.mul", shape, "op", op, flat, g.free("aten.unsqueeze", shape, cos))
    b = g.add("aten.mul", shape, "op", op, turned, g.free("aten.unsqueeze", shape, sin))
    return g.add("aten.add", shape, "op", op, a, b)


def attention_block(g: Graph, ops: Ops, x: int, tables: list[int]) -> int:
    """Multi-head latent attention; returns the node of its output projection."""
    mask, cos, sin = tables
    generation = ops.phase == "generation"
    n_qk = HEADS * (NOPE + ROPE)
    down = ops.gemm(
        "self_attn.qkv_a_proj",
        Q_LORA + KV_LORA + ROPE,
        HIDDEN,
        "self_attn.q_a_proj",
        "self_attn.kv_a_proj_with_mqa",
    )
    g.module = "self_attn.q_a_proj"
    q = g.add("aten.linear", f"b x s x {Q_LORA}", "op", down, x)
    g.module = "self_attn.kv_a_proj_with_mqa"
    kv = g.add("aten.linear", f"b x s x {KV_LORA + ROPE}", "op", down, x)
    q = norm(g, ops, "self_attn.q_a_layernorm", Q_LORA, q)
    up = ops.gemm("self_attn.q_b_proj", n_qk, Q_LORA)
    g.module = "self_attn.q_b_proj"
    q = g.add("aten.linear", f"b x s x {n_qk}", "op", up, q)
    g.module = "self_attn"
    for step in ("sym_size", "view", "transpose"):
        q = g.free(f"aten.{step}" if step != "sym_size" else "aten.alias", "b x 128 x s x 192", q)
    q_nope = g.free("aten.split", "b x 128 x s x 128", q)
    q_rope = g.free("aten.getitem", "b x 128 x s x 64", q)
    c = g.free("aten.split", f"b x s x {KV_LORA}", kv)
    k_rope = g.free("aten.getitem", "b x s x 64", kv)
    c = norm(g, ops, "self_attn.kv_a_layernorm", KV_LORA, c)
    rope = ops.pointwise("self_attn.rotary", "add+cat+mul+neg", 129 * ROPE)
    g.module = "self_attn"
    q_rope = rotate(g, rope, q_rope, cos, sin, HEADS)
    k_rope = rotate(g, rope, k_rope, cos, sin, 1)
    if generation:
        q_nope = latent_bmm(g, ops, "self_attn.q_absorb", KV_LORA, NOPE, q_nope)
        key, value = c, c
    else:
        n_kv = HEADS * (NOPE + V_HEAD)
        op = ops.gemm("self_attn.kv_b_proj", n_kv, KV_LORA)
        g.module = "self_attn.kv_b_proj"
        wide = g.add("aten.linear", f"b x s x {n_kv}", "op", op, c)
        wide = g.free(
            "aten.transpose", "b x 128 x s x 256", g.free("aten.view", "b x s x 128 x 256", wide)
        )
        key, value = (
            g.free("aten.split", "b x 128 x s x 128", wide),
            g.free("aten.getitem", "b x 128 x s x 128", wide),
        )
    core = ops.attention()
    g.module = "self_attn"
    query = g.free("aten.cat", "b x 128 x s x 192", q_nope, q_rope)
    wide_rope = g.free("aten.expand", "b x 128 x s x 64", k_rope)
    key = g.free("aten.cat", "b x 128 x s x 192", key, wide_rope)
    cached = g.add("cache.update", "b x 128 x (s+p) x 192", "op", core, key, value)
    out = g.add(
        "trace_model.attention", "b x 128 x s x 128", "op", core, query, cached, value, mask
    )
    if generation:
        out = latent_bmm(g, ops, "self_attn.v_absorb", V_HEAD, KV_LORA, out)
    for step in ("transpose", "contiguous", "reshape"):
        out = g.free(f"aten.{step}", "b x s x 16384", out)
    op = ops.gemm("self_attn.o_proj", HIDDEN, HEADS * V_HEAD)
    g.module = "self_attn.o_proj"
    return g.add("aten.linear", f"b x s x {HIDDEN}", "op", op, out)


def latent_bmm(g: Graph, ops: Ops, name: str, n: int, k: int, x: int) -> int:
    """One of the two products that absorb kv_b_proj into the latent cache."""
    weight = HEADS * n * k * 2
    op = ops.add(
        "bmm",
        name,
        f"{2 * HEADS * n * k}*b*s",
        f"{weight} + b*s*{2 * HEADS * (n + k)}",
        n=n,
        k=k,
        dtype="bfloat16",
        shared_b=True,
        dims={"batch": str(HEADS), "m": "b*s"},
        weight=weight,
        parts=["self_attn.kv_b_proj"],
        rewrites=["absorb_mla"],
    )
    g.module = "self_attn.kv_b_proj"
    return g.add("aten.bmm", f"128 x (b*s) x {n}", "op", op, x)


def mlp(g: Graph, ops: Ops, name: str, inter: int, x: int) -> int:
    """Gate, up, activation, down."""
    both = ops.gemm(
        f"{name}.gate_up_proj", 2 * inter, HIDDEN, f"{name}.gate_proj", f"{name}.up_proj"
    )
    act = ops.pointwise(f"{name}.act_fn", "mul+silu", inter)
    down = ops.gemm(f"{name}.down_proj", HIDDEN, inter)
    g.module = f"{name}.gate_proj"
    gate = g.add("aten.linear", f"b x s x {inter}", "op", both, x)
    g.module = f"{name}.act_fn"
    gate = g.add("aten.silu", f"b x s x {inter}", "op", act, gate)
    g.module = f"{name}.up_proj"
    wide = g.add("aten.linear", f"b x s x {inter}", "op", both, x)
    g.module = name
    product = g.add("aten.mul", f"b x s x {inter}", "op", act, gate, wide)
    g.module = f"{name}.down_proj"
    return g.add("aten.linear", f"b x s x {HIDDEN}", "op", down, product)


def experts(g: Graph, ops: Ops, x: int) -> int:
    """Router, routed experts and the shared expert."""
    flat = g.free("aten.view", f"(b*s) x {HIDDEN}", x)
    router = ops.gemm("mlp.gate", EXPERTS, HIDDEN, dtype="bfloat16")
    select = ops.pointwise("mlp.gate.select", "add+gather+scatter+sigmoid+sum+topk", 4 * EXPERTS)
    g.module = "mlp.gate"
    logits = g.add("aten.linear", f"(b*s) x {EXPERTS}", "op", router, flat)
    scores = g.add("aten.sigmoid", f"(b*s) x {EXPERTS}", "op", select, logits)
    steps = "add view topk getitem sum topk zeros_like scatter unsqueeze expand reshape masked_fill"
    choice = g.chain(steps + " topk getitem", f"(b*s) x {TOP_K}", select, scores)
    weights = g.add("aten.gather", f"(b*s) x {TOP_K}", "op", select, scores, choice)
    weights = g.chain("sum add div mul", f"(b*s) x {TOP_K}", select, weights)
    core = ops.moe()
    g.module = "mlp.experts"
    routed = g.add("trace_model.experts", f"(b*s) x {HIDDEN}", "op", core, flat, choice, weights)
    routed = g.free("aten.view", f"b x s x {HIDDEN}", routed)
    shared = mlp(g, ops, "mlp.shared_experts", MOE_INTER, x)
    add = ops.pointwise("mlp.add_shared", "add", HIDDEN)
    g.module = "mlp"
    return g.add("aten.add", f"b x s x {HIDDEN}", "op", add, routed, shared)


def memory_block(g: Graph, ops: Ops, x: int, unsupported: list[Json]) -> int:
    """The invented block: a long convolution by FFT and a cumulative decay."""
    op = ops.gemm("memory.in_proj", HIDDEN, HIDDEN)
    g.module = "memory.in_proj"
    x = g.add("aten.linear", f"b x s x {HIDDEN}", "op", op, x)
    g.module = "memory"
    for primitive in STATIC["primitives"]:
        known = {name: value for name, value in primitive.items() if name != "line"}
        x = g.add(known["primitive"], f"b x s x {HIDDEN}", "primitive", known["reason"], x)
        g.nodes[x]["source"] = f"{FILE}:{primitive['line']}"
        cost = price(known["flops"], known["bytes"], "bfloat16", WORKLOADS[ops.phase])
        unsupported.append(
            known
            | {
                "phase": ops.phase,
                "count": ops.count,
                "where": [f"{ops.layer}.memory"],
                "source": g.nodes[x]["source"],
                "module_class": "ShortTermMemory",
                "layer": ops.layer,
                "shape": g.nodes[x]["shape"],
                "bound_ms": cost["ms"],
            }
        )
    gate = ops.pointwise("memory.gate", "exp+mul+sigmoid", HIDDEN)
    return g.chain("exp sigmoid mul to mul", f"b x s x {HIDDEN}", gate, x)


def layer(phase: str, ops: Ops, layer_id: str, count: int, unsupported: list[Json]) -> Json:
    """One representative decoder layer: its ops go to `ops`, its graph is returned."""
    ops.layer, ops.count = layer_id, count
    dense = layer_id.endswith(".0")
    g = Graph()
    start = g.free("placeholder", f"b x s x {HIDDEN}", why="input")
    tables = mask_and_positions(g)
    x = norm(g, ops, "input_layernorm", HIDDEN, start)
    x = attention_block(g, ops, x, tables)
    add = ops.pointwise("residual_attn", "add", HIDDEN)
    g.module = ""
    mid = g.add("aten.add", f"b x s x {HIDDEN}", "op", add, start, x)
    x = norm(g, ops, "post_attention_layernorm", HIDDEN, mid)
    x = mlp(g, ops, "mlp", INTER, x) if dense else experts(g, ops, x)
    if not dense:
        x = memory_block(g, ops, x, unsupported)
    add = ops.pointwise("residual_mlp", "add", HIDDEN)
    g.module = ""
    x = g.add("aten.add", f"b x s x {HIDDEN}", "op", add, mid, x)
    while len(g.nodes) < 350:  # masks of other layer kinds, which nothing here reads
        x = g.free("aten.arange", "s", why="position")
        for step in ["unsqueeze", "add", "le", "expand", "where", "to"]:
            x = g.free(f"aten.{step}", "b x 1 x s x (s+p)", x, why="mask")
    head = {"phase": phase, "layer": layer_id, "class": "DeepseekMemDecoderLayer", "count": count}
    return head | {"nodes": g.nodes, "edges": g.edges}


def outside(phase: str, ops: Ops) -> Json:
    """Embedding, last norm and the head."""
    ops.layer, ops.count = "", 1
    g = Graph(module="model.embed_tokens")
    embed = ops.add(
        "embedding",
        "embed_tokens",
        "0",
        f"b*s*{4 * HIDDEN + 8}",
        num_embeddings=VOCAB,
        embedding_dim=HIDDEN,
        dtype="bfloat16",
        weight=VOCAB * HIDDEN * 2,
    )
    ids = g.free("placeholder", "b x s", why="input")
    x = g.add("aten.embedding", f"b x s x {HIDDEN}", "op", embed, ids)
    x = norm(g, ops, "norm", HIDDEN, x)
    unembed = ops.gemm("lm_head", VOCAB, HIDDEN, dtype="bfloat16")
    g.module = "lm_head"
    x = g.free("aten.slice", f"b x 1 x {HIDDEN}", x)
    g.add("aten.linear", f"b x 1 x {VOCAB}", "op", unembed, x)
    head = {"phase": phase, "layer": "", "class": "", "count": 1}
    return head | {"nodes": g.nodes, "edges": g.edges}


def conservation(graphs: list[Json], weight_bytes: int) -> Json:
    """Counts of this report; the FLOPs are made up, and equal."""
    nodes = [n for g in graphs if g["phase"] == "context" for n in g["nodes"]]
    kinds = {"ops": "op", "pointwise": "-", "free": "free", "primitive": "primitive"}
    split = {name: sum(n["group"] == kind for n in nodes) for name, kind in kinds.items()}
    return {
        "weights": {"model": weight_bytes, "ops": weight_bytes},
        "flops": {"counter": 312_406_184_591_360, "ops": 312_406_184_591_360, "uncounted": 0},
        "nodes": {"total": len(nodes), **split},
        "exact": True,
    }


def build_report(situation: str = "S3") -> Json:
    """The whole report; with another situation the primitives are left out of it."""
    unsupported, graphs = list[Json](), list[Json]()
    phases: dict[str, list[Json]] = {}
    for phase in WORKLOADS:
        ops = Ops(phase)
        graphs.append(outside(phase, ops))
        graphs.append(layer(phase, ops, "model.layers.0", 3, unsupported))
        graphs.append(layer(phase, ops, "model.layers.3", 58, unsupported))
        phases[phase] = ops.out
    sol = {
        phase: [
            price(op["flops"], op["bytes"], op["compute_dtype"], WORKLOADS[phase]) for op in ops_
        ]
        for phase, ops_ in phases.items()
    }
    weight_bytes = sum(op["weight_bytes"] * op["count"] for op in phases["context"])
    report = STATIC["report"] | {
        "situation": situation,
        "weight_bytes": weight_bytes,
        "layers": [
            {
                "id": f"model.layers.{first}",
                "stack": "model.layers",
                "representative": first,
                "class": "DeepseekMemDecoderLayer",
                "count": len(indices),
                "indices": list(indices),
            }
            for first, indices in ((0, range(3)), (3, range(3, 61)))
        ],
        "op_list": {"lowering": "serving", "phases": phases},
        "unsupported": unsupported,
        "kv_cache": {
            "bytes_per_token": 61 * 2 * (KV_LORA + ROPE),
            "bytes_per_sequence": 0,
            "expression": f"b*p*{61 * 2 * (KV_LORA + ROPE)}",
        }
        | {"stored_as": "", "leaves": []},
        "activations": {phase: {"bytes": 0, "peaks": []} for phase in WORKLOADS},
        "conservation": conservation(graphs, weight_bytes),
        "workload": WORKLOADS,
        "system_rates": RATES,
        "graphs": graphs,
        "sol": sol,
    }
    return report if situation == "S3" else report | {"unsupported": [], "checklist": []}
