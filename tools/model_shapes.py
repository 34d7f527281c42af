"""Write collector/shapes.json: the distinct parameters of the ops of published models, whole and in shards.

    python tools/model_shapes.py CONFIG_FOLDER [...]

Each folder holds a config.json. Models of up to 10 billion parameters count whole, larger ones as the shards that one
of 1, 2, 4 and 8 GPUs holds. The op lists are those of the `torch` lowering. Minutes for thirty models.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from oplib.op import kind as op_kind  # noqa: E402

Json = dict[str, Any]  # Any: decoded JSON
WHOLE = 10e9  # parameters of a model that one GPU serves
SHARDS = (1, 2, 4, 8)
LEFT_OUT = ("group_size", "bias", "tied", "name")  # of a gemm: they hardly change its time
PLAIN = ("bfloat16", "float16", "float32")


def op_list(folder: Path) -> Json:
    """The op list of a model under the torch lowering, its number of parameters, and its tensor-parallel plan."""
    from oplib.errors import TraceModelError
    from perfdb.backends import lowering_of
    from tracer import analysis

    try:
        traced = analysis.trace_model(str(folder))
        found = analysis.report(traced, analysis.Options(lowering=lowering_of("torch")))
    except TraceModelError as error:
        print(f"{folder.name}: left out: {error}", file=sys.stderr)
        return {"model": folder.name, "parameters": 0, "ops": {"phases": {}}, "plan": {}}
    plan = dict(
        getattr(traced.model.config, "base_model_tp_plan", None) or {}
    )  # a class attribute of configs
    return {
        "model": folder.name,
        "parameters": found["parameters"],
        "ops": found["op_list"],
        "plan": plan,
    }


def shapes_of(model: Json) -> Iterator[tuple[str, Json]]:
    """(op, shape) of a model: parameters, and for clusters the dims as expressions in b."""
    sizes = (1,) if model["parameters"] <= WHOLE else SHARDS
    for phase, ops in model["ops"]["phases"].items():
        for op in ops:
            for tp in sizes:
                sharded = shard(op, model["plan"], tp)
                if sharded is not None:
                    yield op["op"], shape(op["op"], sharded, op["dims"], phase)


def shape(kind: str, params: Json, dims: Json, phase: str) -> Json:
    """What identifies a shape; a checkpoint's quantisation is left to `--dtypes`."""
    kept = {k: v for k, v in params.items() if k not in LEFT_OUT or kind != "gemm"}
    if kind in ("gemm", "moe", "bmm", "embedding"):
        kept = {**kept, "dtype": params["dtype"] if params["dtype"] in PLAIN else "bfloat16"}
    if kind == "moe":
        kept.pop("group_size", None)
    found: Json = {"params": kept}
    if kind == "pointwise":
        found["dims"] = {k: str(v) for k, v in dims.items()}
    if kind in ("causal_conv1d", "mamba2", "gated_delta_rule") and "phase" in kept:
        sizes = {*op_kind(kind).grid()["s"], *op_kind(kind).between()["s"]}
        prompts = sorted(sizes - {1})
        found["grid"] = {"s": [1] if kept["phase"] == "generation" else prompts}
    return found if phase else {}


def shard(op: Json, plan: dict[str, str], tp: int) -> Json | None:
    """The parameters of an op on one of `tp` GPUs; None where it does not divide."""
    params = dict(op["params"])
    if tp == 1:
        return params
    divided = {
        "gemm": _gemm_axis(op, plan),
        "moe": ("intermediate_size",),
        "context_attention": ("num_heads", "num_kv_heads"),
        "generation_attention": ("num_heads", "num_kv_heads"),
        "context_mla": ("num_heads",),
        "generation_mla": ("num_heads",),
        "mamba2": ("d_inner", "num_heads", "n_groups"),
        "causal_conv1d": ("channels",),
        "gated_delta_rule": ("num_k_heads", "num_v_heads"),
    }.get(op["op"], ())
    for name in divided:
        if params[name] % tp and name in ("num_kv_heads", "n_groups"):
            params[name] = 1  # a head that several GPUs need is there on each
        elif params[name] % tp:
            return None
        else:
            params[name] //= tp
    return params


def _gemm_axis(op: Json, plan: dict[str, str]) -> tuple[str, ...]:
    for place in op["where"]:
        for pattern, style in plan.items():
            if fnmatch.fnmatch(place, f"*{pattern}"):
                return (
                    ("n",)
                    if style.startswith("colwise")
                    else ("k",)
                    if style.startswith("rowwise")
                    else ()
                )
        if place == "lm_head":
            return ("n",)
    return ()


def main() -> int:
    """Trace, shard, and write the distinct shapes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    found: dict[str, dict[str, Json]] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        for model in pool.map(op_list, options.folders):
            for kind, one in shapes_of(model):
                known = found.setdefault(kind, {}).setdefault(
                    json.dumps(one, sort_keys=True), {**one, "models": []}
                )
                if model["model"] not in known["models"]:
                    known["models"].append(model["model"])
    text = {kind: [shapes[key] for key in sorted(shapes)] for kind, shapes in sorted(found.items())}
    lines = (
        f"{json.dumps(k)}: [\n" + ",\n".join(json.dumps(one) for one in v) + "\n]"
        for k, v in text.items()
    )
    (ROOT / "collector" / "shapes.json").write_text(
        "{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8"
    )
    print({kind: len(shapes) for kind, shapes in text.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
