"""The shared body of the kinds that stand for a whole latent attention module with a selection of keys."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import ClassVar

from oplib.arithmetic import Amount, maximum, minimum
from oplib.errors import InvalidInputError
from oplib.kind import Dims, Listed, Part
from oplib.latent_module import (
    DEEPSEEK_V3,
    LATENT_PARAMS,
    LatentModule,
    Sizes,
    absorbed,
    core_params,
    inward,
    linear,
    outward,
    part,
)
from oplib.params import Param, Params, ParamValue, integer, text
from oplib.table_format import Array, Columns, Derived, TableFormat

_SKIPS = "_skip_indexer"  # how `op_name` ends where another layer selects

_GLM_5 = MappingProxyType(
    {
        "hidden_size": 6144,
        "q_lora_rank": 2048,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 192,
        "qk_rope_head_dim": 64,
        "v_head_dim": 256,
        "index_n_heads": 32,
        "index_head_dim": 128,
        "index_topk": 2048,
    }
)
_DEEPSEEK_V32 = MappingProxyType(
    {
        **DEEPSEEK_V3["deepseek-ai/DeepSeek-V3"],
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 2048,
    }
)


class SparseModule(LatentModule):
    """A latent attention module with a lightning indexer; a subclass names the phase, docs and grid."""

    params: ClassVar[tuple[Param, ...]] = (
        *LATENT_PARAMS,
        Param(name="index_n_heads", type=int, minimum=0, doc="scoring heads"),
        Param(name="index_head_dim", type=int, minimum=0, doc="size of a scoring key"),
        Param(name="index_topk", type=int, doc="keys selected per query at most"),
        Param(
            name="index_source",
            type=str,
            default="indexer",
            doc="what selects the keys: the module's own indexer, or that of another layer",
            allowed=("indexer", "shared"),
        ),
    )
    models: ClassVar[Sizes] = MappingProxyType(
        {
            "deepseek-ai/DeepSeek-V3.2": _DEEPSEEK_V32,
            **dict.fromkeys(
                (
                    "zai-org/GLM-5",
                    "zai-org/GLM-5-FP8",
                    "zai-org/GLM-5.2",
                    "zai-org/GLM-5.2-FP8",
                    "nvidia/GLM-5.2-NVFP4",
                ),
                _GLM_5,
            ),
        }
    )

    def check(self, params: Params) -> None:
        sizes = [integer(params, name) for name in ("index_n_heads", "index_head_dim")]
        scores = text(params, "index_source") == "indexer"
        if any(bool(size) != scores for size in sizes):
            raise InvalidInputError(
                f"{self.name} has index_n_heads {sizes[0]}, index_head_dim {sizes[1]}, "
                f"index_source {params['index_source']}.",
                "An indexer of its own has scoring heads of some size; where another layer selects both are 0.",
            )

    def recognise(self, ops: Sequence[Listed]) -> tuple[dict[str, ParamValue], ...]:
        scorers = [op.params for op in ops if op.op == "sparse_indexer"]
        cores = [op.params for op in ops if op.op in self.cores]
        found: dict[str, ParamValue] = {}
        for core in cores[:1]:
            source = core["index_source"]
            if len(scorers) != (source == "indexer"):
                raise InvalidInputError(
                    f"Its keys come from {source}, and it has {len(scorers)} sparse_indexer ops."
                )
            found = {
                "index_topk": core["topk"],
                "index_source": source,
                "index_n_heads": 0,
                "index_head_dim": 0,
            }
        for scorer in scorers:
            if (scorer["topk"], scorer["ratio"]) != (found["index_topk"], 1):
                raise InvalidInputError(
                    f"Its indexer selects {scorer['topk']} keys of {scorer['ratio']} tokens each, "
                    f"its attention {found['index_topk']} tokens."
                )
            found |= {"index_n_heads": scorer["num_heads"], "index_head_dim": scorer["head_dim"]}
        return self.with_sizes(ops, found)

    @property
    def table_format(self) -> TableFormat:
        """As LatentModule; `op_name` tells the rows that another layer's indexer selects for."""
        form = super().table_format
        names = {"index_source": Derived(columns=("op_name",), read=_source, write=self._op_name)}
        for size in ("index_n_heads", "index_head_dim"):
            names[size] = _of_an_indexer(form.derived[size])
        return TableFormat(
            stem=form.stem,
            columns=form.columns,
            derived={**form.derived, **names},
            rows=form.rows,
        )

    def _op_name(self, values: Columns) -> dict[str, Array]:
        own, shared = self.op_names
        return {
            "op_name": values.each(
                "index_source", lambda source: own if source == "indexer" else shared
            )
        }

    def around(self, params: Params, dims: Dims) -> list[Part]:
        """The parts of either way: the projections and what selects the keys.

        As long as every key is selected nothing has to be scored; the keys to score are kept all the same.
        """
        b, s, p = dims["b"], dims["s"], dims["p"]
        x, topk = b * s, integer(params, "index_topk")
        parts = [*inward(params, x), outward(params, x)]
        if text(params, "index_source") == "shared":
            return parts
        heads, size = integer(params, "index_n_heads"), integer(params, "index_head_dim")
        hidden, rank = integer(params, "hidden_size"), integer(params, "q_lora_rank")
        scores: Amount = minimum(1, maximum(0, s + p - topk))
        scored: dict[str, ParamValue] = {
            "num_heads": heads,
            "head_dim": size,
            "topk": topk,
            "dtype": "fp8",
        }
        return [
            *parts,
            linear(params, x, n=size, k=hidden),
            linear(params, x, n=heads * size, k=rank or hidden, times=scores),
            part(
                "gemm",
                {"n": heads, "k": hidden, "dtype": params["attention_dtype"]},
                scores,
                m=x,
            ),
            part("sparse_indexer", scored, scores, b=b, s=s, p=p),
        ]

    def in_latent_space(self, params: Params, dims: Dims) -> list[Part]:
        """Attention over the selected keys, absorbed."""
        b, s, p = dims["b"], dims["s"], dims["p"]
        sizes = {
            **core_params(params, absorbed=True),
            "topk": params["index_topk"],
            "index_source": params["index_source"],
        }
        return absorbed(params, part("sparse_attention", sizes, b=b, s=s, p=p), b * s)


def _source(raw: Columns) -> Array:
    return raw.each("op_name", lambda name: "shared" if str(name).endswith(_SKIPS) else "indexer")


def _of_an_indexer(size: Derived) -> Derived:
    """A size of the indexer: none where the rows have no indexer of their own."""

    def read(raw: Columns) -> Array:
        own = raw.each("op_name", lambda name: int(not str(name).endswith(_SKIPS)))
        return size.read(raw) * own

    return Derived(columns=(*size.columns, "op_name"), read=read, write=size.write)
