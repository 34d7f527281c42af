"""Both op lists in one vocabulary: what is compared of a report of ours and of an entry of the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from parity_shapes import OURS, REFERENCE, Json, Shape, any_shape

PHASES = ("context", "generation")

# Its fused and its communicating ops have no counterpart at one GPU, or are fused differently.
REFERENCE_LEFT_OUT = {"ElementWise", "MoEDispatch", "CustomAllReduce", "NCCL", "P2P"}
OURS_LEFT_OUT = {"pointwise"}
SENT = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p"}
PRECISIONS = {"fp8_static": "fp8", "w4a16_mxfp4": "mxfp4", "w4a8_mxfp4_mxfp8": "w4a8_mxfp4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One op of either list: what must be equal (`phase`, `kind`, `shape`, `rows`) and where it comes from."""

    phase: str
    kind: str
    shape: Shape
    count: int
    name: str
    rows: str = ""  # m of a GEMM, in b, s and p
    parameters: int = 0  # of one occurrence, without biases and scales
    layer: str = ""
    where: str = ""
    dtype: str = ""
    cache_dtype: str = ""
    reason: str = ""  # why no op claims it, for a primitive
    op: Json = field(default_factory=dict, compare=False)  # what it was read from
    block: str = ""  # the op of the reference that is priced with it inside, or itself
    stream: str = ""  # which of the block's parts it is in

    @property
    def key(self) -> tuple[str, str, Shape, str]:
        return self.phase, self.kind, self.shape, self.rows

    def dim(self, name: str) -> int | str:
        return dict(self.shape)[name]


def ours(report: Json, *, sent: bool = False) -> list[Line]:
    """The lines of a report of `trace-model`, primitives included; what ranks send where `sent` asks for it."""
    left_out = OURS_LEFT_OUT if sent else OURS_LEFT_OUT | SENT
    found = []
    for phase in PHASES:
        for op in report["op_list"]["phases"][phase]:
            if op["op"] not in left_out:
                found.append(_our_line(phase, op))
    for entry in report["unsupported"]:
        found.append(
            Line(
                phase=entry["phase"],
                kind="primitive",
                shape=(("node", entry["primitive"]),),
                count=entry["count"],
                name=entry["primitive"],
                layer=entry["layer"],
                where=entry["where"],
                reason=entry["reason"],
            )
        )
    return _name_logits(found)


def reference(entry: Json) -> list[Line]:
    """The lines of an entry of the reference, both phases; a block with a finer form is read in that form."""
    lines = [
        replace(_reference_line(phase, op), block=block, stream=stream)
        for phase in PHASES
        for op, block, stream in _flat(entry[f"{phase}_ops"])
    ]
    return _name_logits(lines)


def _flat(ops: list[Json], block: str = "", stream: str = "") -> Iterator[tuple[Json, str, str]]:
    """The ops that have no finer form, each with the op at the top that holds it and which of its parts."""
    for op in ops:
        children = op.get("children", {})
        for part, inner in children.items():
            if part != "primary" or "fallback" not in children:
                yield from _flat(inner, block or op["name"], stream or part)
        if not children and op["op"] not in REFERENCE_LEFT_OUT:
            yield op, block or op["name"], stream


def _name_logits(lines: list[Line]) -> list[Line]:
    """A GEMM with the embedding's two sizes is the logits."""
    tables = {(line.dim("rows"), line.dim("width")) for line in lines if line.kind == "embedding"}
    return [
        replace(line, kind="logits")
        if line.kind == "gemm" and (line.dim("n"), line.dim("k")) in tables
        else line
        for line in lines
    ]


def _our_line(phase: str, op: Json) -> Line:
    p, dims = op["params"], op["dims"]
    kind, shape, parameters = OURS.get(op["op"], any_shape)(p, dims, phase)
    return Line(
        phase=phase,
        kind=kind or op["op"],
        shape=shape,
        rows=str(dims["m"]).replace(" ", "") if op["op"] == "gemm" else "",
        count=op["count"],
        name=op["name"],
        parameters=0 if p.get("tied") else parameters,
        layer=op["layer"],
        where=op["where"][0],
        dtype=str(p.get("dtype", "")),
        cache_dtype=str(p.get("kv_dtype", "")),
        op=op,
    )


def _reference_line(phase: str, op: Json) -> Line:
    p = op["params"]
    if op["op"] not in REFERENCE:
        raise ValueError(f"the reference has an op that this comparison does not know: {op['op']}")
    kind, shape, parameters = REFERENCE[op["op"]](p, op, phase)
    logits = op["name"].endswith("logits_gemm")
    dtype = str(p.get("quant_mode", p.get("fmha_quant_mode", "")))
    return Line(
        phase=phase,
        kind="logits" if logits else kind,
        shape=shape,
        rows=("b" if logits or phase == "generation" else "b*s") if op["op"] == "GEMM" else "",
        count=round(op["scale_factor"]),
        name=op["name"].removeprefix(f"{phase}_"),
        parameters=parameters,
        dtype=PRECISIONS.get(dtype, dtype),
        cache_dtype=str(p.get("kv_cache_dtype", "")),
        op=op,
    )
