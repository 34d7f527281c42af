"""Notes of a report on what would change a price: another list of ops, shorter passes, fewer values collected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy

from models.workload import Workload
from oplib.oplist import OpList
from perfdb.backends import lowering_of
from perfdb.systems import System

Rows = Sequence[Mapping[str, Any]]  # the ops of an object that `price-model --json` prints


def beyond_positions(most: int | None, workload: Workload) -> Iterator[str]:
    """Where sequences grow longer than the model's config lets them."""
    longest = int(numpy.max(workload.prefix + workload.isl + workload.osl))
    if most and longest > most:
        yield f"Sequences reach {longest:,} tokens, and the model's config ends at {most:,} positions."


def beyond_rows(ops: Rows) -> Iterator[str]:
    """Where prompts that are not cut leave the measured range."""
    beyond = [
        op["name"] for op in ops if op["phase"] == "context" and op["origin"] == "extrapolated"
    ]
    if beyond:
        yield (
            f"All prompts in one context pass go beyond measured rows ({listed(beyond)}): engines cut such a pass, and "
            "so does --chunk TOKENS."
        )


def of_other_ops(whole: OpList, backend: str) -> Iterator[str]:
    """Where the tables measured the ops of another lowering than that of the list."""
    measured = lowering_of(backend)
    if backend and whole.lowering != measured:
        yield (
            f"This op list was made with --lowering {whole.lowering}, and the tables of {backend} measured the ops of "
            f"another: trace-model --lowering {measured} makes such a list."
        )


def of_sums(backend: str, errors: Mapping[str, float]) -> Iterator[str]:
    """What the deviations of whole phases stand for."""
    if errors:
        known = ", ".join(f"{error:.0%} in {phase}" for phase, error in errors.items())
        yield f"± includes how far sums of ops were off whole models on {backend}: {known} (docs/alignment.md)."
    elif backend:
        yield f"± is that of the ops: on {backend} no whole model was measured beside their sum."


def beyond_servers(system: System, gpus: int) -> str:
    """What joins more GPUs than a server has, and how that is priced."""
    joined = f"{gpus} GPUs send to each other, and the {system.interconnect} of {system.id} joins {system.joins}: "
    if system.network_bw_one_way is None:
        return f"{joined}the network between servers is taken to be as fast."
    rate = system.network_bw_one_way
    return (
        f"{joined}a collective of more is at the speed of light of the network between servers ({system.network}, "
        f"{rate.value:g} {rate.unit} for each GPU). Smaller groups and hand-overs between stages are taken to lie "
        "within one."
    )


def collected(ops: Rows, whole: OpList) -> Iterator[str]:
    """Where ranks gather values within a layer because the plan of the model, whose list is `whole`, says so."""
    planned = {
        f"{op.name}.{op.collective}"
        for phase in whole.phases.values()
        for op in phase
        if op.layer and op.collective == "all_gather"
    }
    gathers = [op for op in ops if op["name"] in planned]
    if most := max((op["share"] for op in gathers), default=0.0):
        yield (
            f"The model's plan collects values within a layer ({listed(op['name'] for op in gathers)}, up to "
            f"{most:.0%} of a phase): an engine that sums over ranks instead sends less."
        )


def listed(names: Iterable[str]) -> str:
    """Up to three distinct ones, and how many more."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - 3} more" if len(distinct) > 3 else ""
    return f"{', '.join(distinct[:3])}{more}"
