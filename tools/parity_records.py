"""The reference's prices: one record per model, layout and workload, with both of its modes side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parity_lists import REFERENCE_LEFT_OUT

Json = dict[str, Any]  # Any: parsed JSON
Layout = tuple[tuple[str, int], ...]
STRIDE = 32  # it evaluates every 32nd step of a generation and lets each stand for the steps up to the next
ONE_GPU: Layout = (("tp", 1), ("pp", 1), ("dp", 1), ("moe_tp", 1), ("moe_ep", 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A batch (per rank) of prompts of `isl` tokens that get `osl` tokens each."""

    batch: int
    isl: int
    osl: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.isl}+{self.osl}"

    @property
    def steps(self) -> list[int]:
        """Cached tokens at each step that is evaluated."""
        return list(range(self.isl, self.isl + self.osl - 1, STRIDE))

    @property
    def weights(self) -> list[int]:
        """How many steps each of `steps` stands for."""
        last = self.isl + self.osl - 1
        return [min(STRIDE, last - step) for step in self.steps]


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Milliseconds of one op of the reference, repetitions included; a generation's are those of its first step."""

    ms: float
    source: str
    sol_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the reference says of one model under one layout at one workload; prices by phase and name of its op."""

    model: str
    layout: Layout
    workload: Workload
    quant: Mapping[str, str]
    prices: Mapping[str, Mapping[str, Price]] = field(default_factory=dict)
    ttft_ms: float = 0.0
    tpot_ms: float = 0.0
    sol_ttft_ms: float = 0.0
    sol_tpot_ms: float = 0.0
    failure: str = ""


def layout_of(parallel: Mapping[str, int]) -> Layout:
    return tuple((name, parallel[name]) for name, _ in ONE_GPU)


def text_of_layout(layout: Layout) -> str:
    return ", ".join(f"{name} {size}" for name, size in layout if size > 1) or "one GPU"


def records(prices: Json) -> list[Record]:
    """The records of the file, SILICON joined with SOL, in its order."""
    joined: dict[tuple[str, Layout, Workload], dict[str, Json]] = {}
    for entry in prices["records"]:
        workload = Workload(batch=entry["batch"], isl=entry["isl"], osl=entry["osl"])
        key = entry["model"], layout_of(entry["parallel"]), workload
        joined.setdefault(key, {})[entry["mode"]] = entry
    return [_record(*key, modes["SILICON"], modes["SOL"]) for key, modes in joined.items()]


def _record(model: str, layout: Layout, workload: Workload, silicon: Json, sol: Json) -> Record:
    if silicon["status"] != "ok":
        reason = str(silicon["error"]).splitlines()[0]
        return Record(
            model=model, layout=layout, workload=workload, quant=silicon["quant"], failure=reason
        )
    return Record(
        model=model,
        layout=layout,
        workload=workload,
        quant=silicon["quant"],
        prices={
            "context": _prices(silicon["context"], sol["context"]),
            "generation": _prices(silicon["decode_first_step"], sol["decode_first_step"]),
        },
        ttft_ms=silicon["context"]["total_ms"],
        tpot_ms=silicon["generation"]["tpot_ms"],
        sol_ttft_ms=sol["context"]["total_ms"],
        sol_tpot_ms=sol["generation"]["tpot_ms"],
    )


def _prices(silicon: Json, sol: Json) -> dict[str, Price]:
    bounds = {op["name"]: op["ms"] for op in sol["ops"]}
    return {
        op["name"]: Price(ms=op["ms"], source=op["source"], sol_ms=bounds[op["name"]])
        for op in silicon["ops"]
    }


def left_out(entry: Json, phase: str) -> dict[str, str]:
    """The ops at the top of a list that are compared only in sum: their class, by name."""
    return {op["name"]: op["op"] for op in entry[f"{phase}_ops"] if op["op"] in REFERENCE_LEFT_OUT}
