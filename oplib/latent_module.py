"""The shared body of the kinds that stand for a whole latent attention module, its linear layers included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from types import MappingProxyType
from typing import ClassVar

from oplib.arithmetic import Amount, minimum
from oplib.dtypes import FLOAT_DTYPES, quant_mode
from oplib.errors import InvalidInputError
from oplib.kind import Dims, Listed, OpKind, Part, Role
from oplib.params import KV_DTYPE, QUANT_MODE, Param, Params, ParamValue, integer, text
from oplib.registry import kind
from oplib.table_format import Array, Columns, Derived, TableFormat

Sizes = Mapping[str, Mapping[str, int]]  # of models by name

DEEPSEEK_V3: Sizes = MappingProxyType(
    {
        "deepseek-ai/DeepSeek-V3": MappingProxyType(
            {
                "hidden_size": 7168,
                "q_lora_rank": 1536,
                "kv_lora_rank": 512,
                "qk_nope_head_dim": 128,
                "qk_rope_head_dim": 64,
                "v_head_dim": 128,
            }
        )
    }
)

#: Sizes that a module and its attention have alike.
LATENT_SIZES = ("num_heads", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")

#: What the attention of a measured module is like; a kind without one of these parameters is so.
_USUAL: Mapping[str, ParamValue] = MappingProxyType(
    {"causal": True, "masking": "skipped", "window": 0, "block": 0, "tail": False}
)

LATENT_PARAMS: tuple[Param, ...] = (
    Param(name="num_heads", type=int, doc="query heads"),
    Param(name="hidden_size", type=int, doc="features of a token"),
    Param(
        name="q_lora_rank",
        type=int,
        minimum=0,
        doc="size of the latent of queries; 0: they are projected at once",
    ),
    Param(name="kv_lora_rank", type=int, doc="size of the latent of keys and values"),
    Param(name="qk_nope_head_dim", type=int, doc="key part without position"),
    Param(name="qk_rope_head_dim", type=int, minimum=0, doc="key part with rotary position"),
    Param(name="v_head_dim", type=int, doc="size of a value"),
    QUANT_MODE,
    Param(
        name="attention_dtype",
        type=str,
        default="bfloat16",
        doc="dtype in which attention multiplies",
        allowed=FLOAT_DTYPES,
    ),
    KV_DTYPE,
    Param(
        name="latents",
        type=str,
        default="computed",
        doc="whether the latents of queries and keys are computed inside, or come in and their projection is an op",
        allowed=("computed", "given"),
    ),
)
_WITHOUT_LATENTS = ("sglang",)  # engines whose published rows were measured with latents at hand


class LatentModule(OpKind):
    """A module around latent attention. A subclass names the phase, its ways, docs and grid."""

    role: ClassVar[Role] = "attention"
    dims: ClassVar[tuple[str, ...]] = ("b", "s", "p")
    params: ClassVar[tuple[Param, ...]] = LATENT_PARAMS
    coordinates: ClassVar[tuple[str, ...]] = ("b", "s", "p", "num_heads")
    shows_floor: ClassVar[bool] = True
    jointly: ClassVar[bool] = True

    #: What rows of the published file have as `op_name`, the first of them the stem of its name too.
    op_names: ClassVar[tuple[str, ...]]
    #: Sizes of the models that its rows name, by their configs.
    models: ClassVar[Sizes]

    def flops(self, params: Params, dims: Dims) -> Amount:
        """Of the way with the fewest."""
        return reduce(
            minimum,
            (
                total(part.kind.flops(part.params, part.dims) * part.times for part in way)
                for way in self.ways(params, dims)
            ),
        )

    def bytes(self, params: Params, dims: Dims) -> Amount:
        """Of the way with the fewest: every part reads its inputs and writes its outputs."""
        return reduce(
            minimum,
            (
                total(part.kind.bytes(part.params, part.dims) * part.times for part in way)
                for way in self.ways(params, dims)
            ),
        )

    def recognise(self, ops: Sequence[Listed]) -> tuple[dict[str, ParamValue], ...]:
        """With the latents computed inside, then with latents that are given."""
        return self.with_sizes(ops, {})

    def with_sizes(self, ops: Sequence[Listed], more: Params) -> tuple[dict[str, ParamValue], ...]:
        """`recognise` where parameters `more` are known of the rest."""
        found = _sizes_of(_core(self, ops), [op for op in ops if op.op == "gemm"])
        return tuple(
            self.complete({**found, **more, "latents": way}) for way in ("computed", "given")
        )

    def compute_dtype(self, params: Params) -> str:
        """That of the linear layers; attention multiplies in its own."""
        return quant_mode(text(params, "dtype")).compute_dtype

    @property
    def table_format(self) -> TableFormat:
        """A published row names a model in place of its sizes; rows of models that are not known here are no rows of
        the kind. `num_heads` is what one GPU has, whatever `tp_size` says beside it.

        SGLang's rows lack the projection into the latents: on an H200 8,192 tokens of GLM-5 take 0.59 ms with 8 heads
        and 1.04 with 16, which leaves 0.15 for what does not depend on heads, and that projection alone takes 0.34.
        """
        names = next(iter(self.models.values()))
        return TableFormat(
            stem=f"{self.op_names[0]}_perf",
            columns={
                "b": "batch_size",
                "s": "isl",
                "p": "step",
                "dtype": "gemm_type",
                "attention_dtype": "mla_dtype",
                "kv_dtype": "kv_cache_dtype",
            },
            derived={
                **{name: _size(name, self.models, first=i == 0) for i, name in enumerate(names)},
                "latents": Derived(
                    columns=("latents", "framework"), read=_latents, write=_written_latents
                ),
            },
            rows={"op_name": self.op_names, "model": (*self.models, "")},
        )


def total(amounts: Iterable[Amount]) -> Amount:
    """Their sum."""
    return reduce(lambda one, other: one + other, amounts)


def part(name: str, params: Params, times: Amount = 1, **dims: Amount) -> Part:
    """A part of a kind by name; parameters that are not given have their defaults."""
    found = kind(name)
    return Part(kind=found, params=found.complete(params), dims=dims, times=times)


def linear(params: Params, m: Amount, *, n: int, k: int, times: Amount = 1) -> Part:
    """A linear layer in the mode of the module."""
    return part("gemm", {"n": n, "k": k, "dtype": params["dtype"]}, times, m=m)


def inward(params: Params, x: Amount) -> list[Part]:
    """The projections of x tokens into latents, unless these are given, and of queries out of theirs."""
    heads, hidden = integer(params, "num_heads"), integer(params, "hidden_size")
    rope, rank = integer(params, "qk_rope_head_dim"), integer(params, "q_lora_rank")
    queries = heads * (integer(params, "qk_nope_head_dim") + rope)
    latent = integer(params, "kv_lora_rank") + rope
    onward = linear(params, x, n=queries, k=rank or hidden)
    if text(params, "latents") == "given":
        return [onward]
    if not rank:
        return [linear(params, x, n=queries + latent, k=hidden)]
    return [linear(params, x, n=rank + latent, k=hidden), onward]


def outward(params: Params, x: Amount) -> Part:
    """The output projection of x tokens."""
    inner = integer(params, "num_heads") * integer(params, "v_head_dim")
    return linear(params, x, n=integer(params, "hidden_size"), k=inner)


def core_params(params: Params, *, absorbed: bool) -> dict[str, ParamValue]:
    """Parameters that every attention op over latents has.

    Over an fp8 cache it may multiply in fp8 whatever its own dtype: Blackwell's kernels convert the queries as well.
    """
    return {
        **{name: params[name] for name in LATENT_SIZES},
        "absorbed": absorbed,
        "dtype": "fp8" if params["kv_dtype"] == "fp8" else params["attention_dtype"],
        "kv_dtype": params["kv_dtype"],
    }


def absorbed(params: Params, core: Part, x: Amount) -> list[Part]:
    """Attention in the latent space between the products of each head into it and out of it."""
    heads, rank = integer(params, "num_heads"), integer(params, "kv_lora_rank")
    into = {"n": rank, "k": integer(params, "qk_nope_head_dim")}
    out = {"n": integer(params, "v_head_dim"), "k": rank}
    shared = {"dtype": params["dtype"], "shared_b": True}
    return [
        part("bmm", {**into, **shared}, batch=heads, m=x),
        core,
        part("bmm", {**out, **shared}, batch=heads, m=x),
    ]


def expanded(params: Params, core: Part, tokens: Amount) -> list[Part]:
    """Attention over keys and values that a product rebuilds for `tokens` tokens."""
    width = integer(params, "qk_nope_head_dim") + integer(params, "v_head_dim")
    rebuilt = integer(params, "num_heads") * width
    return [linear(params, tokens, n=rebuilt, k=integer(params, "kv_lora_rank")), core]


def _core(module: OpKind, ops: Sequence[Listed]) -> Params:
    """Parameters of the attention op of the set, where it is one that the module runs."""
    cores = [op.params for op in ops if op.op in module.cores]
    if len(cores) != 1:
        raise InvalidInputError(f"It has {len(cores)} ops {' or '.join(module.cores)}, not one.")
    core = cores[0]
    for name, value in _USUAL.items():
        if core.get(name, value) != value:
            raise InvalidInputError(f"Its attention has {name} {core[name]}.", f"It takes {value}.")
    if not core["kv_lora_rank"]:
        raise InvalidInputError("Its attention has no latent.")
    return core


def _sizes_of(core: Params, linears: Sequence[Listed]) -> dict[str, ParamValue]:
    """Sizes and dtypes, from the attention and from the linear layers in the order in which they run."""
    heads, rope = integer(core, "num_heads"), integer(core, "qk_rope_head_dim")
    inner = heads * integer(core, "v_head_dim")
    queries = heads * (integer(core, "qk_nope_head_dim") + rope)
    if not linears or linears[-1].params["k"] != inner:
        raise InvalidInputError(f"Its last linear layer does not take the {inner} values of heads.")
    out = linears[-1].params
    hidden = integer(out, "n")
    latent = integer(core, "kv_lora_rank") + rope
    ranks = [integer(x.params, "k") for x in linears[:-1] if x.params["n"] == queries]
    at_once = any((x.params["n"], x.params["k"]) == (queries + latent, hidden) for x in linears)
    if not ranks and not at_once:
        raise InvalidInputError(f"No linear layer of it makes the {queries} features of queries.")
    rank = next((k for k in ranks if k != hidden), 0)
    around = [
        x.params for x in linears if x.params["k"] in (inner, rank) or x.params["n"] == queries
    ]
    if len(modes := {str(params["dtype"]) for params in around}) > 1:
        raise InvalidInputError(f"Its linear layers run in {', '.join(sorted(modes))}.")
    return {
        **{name: core[name] for name in LATENT_SIZES},
        "hidden_size": hidden,
        "q_lora_rank": rank,
        "dtype": out["dtype"],
        "attention_dtype": core["dtype"],
        "kv_dtype": core["kv_dtype"],
    }


def _size(name: str, models: Sizes, *, first: bool) -> Derived:
    """A size: its own column where a file has it, else that of the model that the row names.

    The first size of a kind writes the name as well, empty where the sizes are those of no known model.
    """

    def read(raw: Columns) -> Array:
        if name in raw:
            return raw.numbers(name)
        return raw.each("model", lambda model: models.get(str(model), {}).get(name, 0))

    def write(values: Columns) -> Mapping[str, Array]:
        column = {name: values.numbers(name)}
        if first:
            column["model"] = _names(values, models)
        return column

    return Derived(columns=(name, "model"), read=read, write=write)


def _latents(raw: Columns) -> Array:
    if "latents" in raw:
        return raw.each("latents", str)
    return raw.each(
        "framework", lambda name: "given" if str(name).lower() in _WITHOUT_LATENTS else "computed"
    )


def _written_latents(values: Columns) -> Mapping[str, Array]:
    return {"latents": values.each("latents", str)}


def _names(values: Columns, models: Sizes) -> list[str]:
    columns = {size: list(values.numbers(size)) for size in next(iter(models.values()))}
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [next((name for name, sizes in models.items() if sizes == row), "") for row in rows]
