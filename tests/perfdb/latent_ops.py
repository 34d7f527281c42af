"""A layer with a latent attention module as op lists have it, and a table of such modules that no GPU measured."""

from dataclasses import replace
from itertools import product
from pathlib import Path

from oplib.op import Op, kind
from oplib.oplist import OpList
from oplib.symbols import B, P, S
from perfdb.speed_of_light import bound_ms
from perfdb.systems import load_system
from perfdb.table_file import Measurement, write_table

SYSTEM = "h200_sxm"
PATH = "model.layers.0.self_attn"
SIZES = {
    "num_heads": 4,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 96,
}
HIDDEN, RANK = 1024, 512
INDEX = {"index_n_heads": 8, "index_head_dim": 64, "index_topk": 128, "index_source": "indexer"}
DTYPES = {"dtype": "bfloat16", "kv_dtype": "bfloat16"}
PARAMS = {**SIZES, "hidden_size": HIDDEN, "q_lora_rank": RANK, "dtype": "bfloat16", "kv_dtype": "bfloat16"}  # fmt: skip
B_ROWS, S_ROWS, P_ROWS = (1, 4, 16), (64, 256, 1024), (0, 255, 1023)


def op(name, params, dims, *, inside="self_attn", called="", count=2, **more):
    """One op of the layer, placed in the module that it comes from and named after it, or called otherwise."""
    where = f"{PATH.removesuffix('.self_attn')}.{inside}"
    return Op(
        op=name, name=called or inside, count=count, params=params, dims=dims, where=(where,), layer="model.layers.0",
        **more,
    )  # fmt: skip


def linear(inside, n, k, m, **more):
    """A linear layer of the attention module."""
    params = {"n": n, "k": k, "dtype": more.pop("dtype", "bfloat16")}
    return op(
        "gemm", params, {"m": m}, inside=f"self_attn.{inside}", weight_bytes=2 * n * k, **more
    )


def norm(inside):
    """Pointwise work of some bytes."""
    sizes = {"read": 64 * B, "written": 64 * B}
    return op("pointwise", {"functions": "mul", "dtype": "bfloat16"}, sizes, inside=inside)


def products(phase, x):
    """The products around attention: rebuilt keys in context, in and out of the latent space in generation."""
    heads, rank = SIZES["num_heads"], SIZES["kv_lora_rank"]
    if phase == "context":
        return [linear("kv_b_proj", heads * (64 + 96), rank, B * (S + P))], []
    into = {"n": rank, "k": 64, "dtype": "bfloat16", "shared_b": True}
    out = {"n": 96, "k": rank, "dtype": "bfloat16", "shared_b": True}
    return [op("bmm", into, {"batch": heads, "m": x}, called="self_attn.into")], [
        op("bmm", out, {"batch": heads, "m": x}, called="self_attn.out")
    ]


def module_ops(phase, *, source=""):
    """The ops of the module, with an indexer where `source` says what selects: indexer or shared."""
    s = S if phase == "context" else 1
    x = B * s
    heads, latent = SIZES["num_heads"], SIZES["kv_lora_rank"] + SIZES["qk_rope_head_dim"]
    before, after = products("generation" if source else phase, x)
    dims = {"b": B, "s": s, "p": P}
    core = {**SIZES, **DTYPES, "absorbed": bool(source) or phase == "generation"}
    ops = [
        linear("q_a_proj", RANK + latent, HIDDEN, x),
        norm("self_attn.q_a_layernorm"),
        linear("q_b_proj", heads * (64 + 32), RANK, x),
    ]
    if source == "indexer":
        scored = {"num_heads": 8, "head_dim": 64, "topk": 128, "dtype": "bfloat16"}
        ops += [
            linear("indexer.wq_b", 8 * 64, RANK, x),
            linear("indexer.wk", 64, HIDDEN, x),
            linear("indexer.weights_proj", 8, HIDDEN, x),
            op("sparse_indexer", scored, dims, inside="self_attn.indexer"),
        ]
    if source:
        core |= {"topk": 128, "index_source": source}
    name = "sparse_attention" if source else f"{phase}_mla"
    out = linear("o_proj", HIDDEN, heads * 96, x)
    return [*ops, *before, op(name, core, dims, called="self_attn.core"), *after, out]


def layer(phase, *, source=""):
    """The module between what else a layer has."""
    mlp = op("gemm", {"n": 64, "k": HIDDEN, "dtype": "bfloat16"}, {"m": B}, inside="mlp.gate")
    return [norm("input_layernorm"), *module_ops(phase, source=source), mlp]


def op_list(*, source=""):
    """Both phases."""
    phases = {phase: tuple(layer(phase, source=source)) for phase in ("context", "generation")}
    return OpList(lowering="serving", phases=phases)


def write_modules(folder: Path, *, source="", most=10**9, **changes):
    """Tables of both phases in `folder`, of at most so many new tokens in all; times are 1.5 of the bound and 50 us.
    `changes` are of the parameters."""
    family = "dsa" if source else "mla"
    for phase in ("context", "generation"):
        one = kind(f"{phase}_{family}_module")
        index = {**INDEX, "index_source": source} if source else {}
        if source == "shared":
            index |= {"index_n_heads": 0, "index_head_dim": 0}
        params = one.complete({**PARAMS, **index, **changes})
        lengths = S_ROWS if phase == "context" else (1,)
        path = folder / SYSTEM / "toy" / "1.0" / f"{one.table_format.stem}.txt"
        places = [at for at in product(B_ROWS, lengths, P_ROWS) if at[0] * at[1] <= most]
        write_table(path, one, [row(one, params, *at) for at in places])


def row(one, params, b, s, p):
    """One measurement by the law of the table."""
    dims = {"b": b, "s": s, "p": p}
    bound = float(bound_ms(one, params, dims, load_system(SYSTEM)))
    return Measurement(
        params=params, dims=dims, latency=1.5 * bound + 0.05, framework="Toy", version="1.0", device="H200",
        kernel_source="toy_module",
    )  # fmt: skip


def changed(ops, place, **fields):
    """The ops with fields of one of them changed."""
    return [replace(one, **fields) if i == place else one for i, one in enumerate(ops)]
