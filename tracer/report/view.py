"""Words and numbers that the terminal report and the page share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

VERDICTS = {
    "S1": "Every operation is known and measured at these parameters.",
    "S2": "Every operation is known; some parameter points have no measurements yet.",
    "S1-or-S2": "Every operation is known. Whether they are measured was not checked.",
    "S3": "Some primitives are unknown: no op claims them, so the op list is a lower bound.",
}

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


def index_ranges(indices: Iterable[int]) -> str:
    """`[0, 1, 2, 5]` as `0-2, 5`."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def phase_workload(report: Mapping[str, Any], phase: str) -> dict[str, int]:
    """The b, s and p of one phase; see the package docstring for a single workload."""
    workload = report.get("workload") or {"b": 1, "s": 1, "p": 0}
    if phase in workload:
        return dict(workload[phase])
    if "b" not in workload:  # one per phase, but not for this one
        workload = next(iter(workload.values()))
    if phase == "generation":
        return {"b": workload["b"], "s": 1, "p": workload["p"] + workload["s"]}
    return {axis: workload[axis] for axis in ("b", "s", "p")}


def verdict(report: Mapping[str, Any]) -> str:
    """One sentence on what the situation means, with the numbers of this model."""
    situation = report["situation"]
    sentence = VERDICTS.get(situation, "")
    if situation == "S3":
        kinds = sorted({item["primitive"] for item in report["unsupported"]})
        noun = "primitive is" if len(kinds) == 1 else "primitives are"
        sentence = f"{len(kinds)} {noun} unknown: no op claims them, the op list is a lower bound."
    coverage = report.get("coverage") or {}
    if situation in ("S1", "S2") and coverage.get("checked"):
        tables = f"{coverage['system']} {coverage['backend']} {coverage['version']}"
        if situation == "S1":
            return f"Every operation is known, and {tables} has measured it all."
        sentence = (
            f"Every operation is known; {len(coverage['missing'])} points have no measurement in "
            f"{tables}."
        )
    return sentence


def scaled(value: float | None, unit: str, *, digits: int = 3) -> str:
    """`1.6e10, "B"` as `16 GB`: decimal prefixes, as bandwidths and capacities use them."""
    if value is None:
        return "-"
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.{digits}g} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}"


def duration(ms: float | None) -> str:
    """Milliseconds in the unit that reads best."""
    if ms is None:
        return "-"
    if ms >= 1000:
        return f"{ms / 1000:.3g} s"
    return f"{ms:.3g} ms" if ms >= 1 else f"{ms * 1000:.3g} us"


def as_list(value: Any) -> list[Any]:
    """A list of what may be a list, one value or nothing."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def layer_title(report: Mapping[str, Any], layer: str) -> str:
    """What heads the ops of one representative layer."""
    for item in report["layers"]:
        if item.get("id") == layer:
            return f"{layer} {item['class']} x{item['count']}"
    return layer or "outside the layers"
