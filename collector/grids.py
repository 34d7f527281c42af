"""Cases of a kind: the shapes of published models (`shapes.json`) at every size of its grid that a device can take."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from oplib.case import Case
from oplib.errors import InvalidInputError
from oplib.op import kind
from oplib.ops.moe import expert_bytes
from oplib.symbols import evaluate, parse_expr
from perfdb.speed_of_light import bound_ms, sides_ms
from perfdb.systems import System, load_system

MOST_TOKENS = 65536  # b*s of a case
MOST_MS = 20.0  # the bound of a case: what is longer interpolates well, and costs most of a run
MEMORY_SHARE = 0.25  # of the device's memory, that the tensors of a case may take
LAP = 1024  # cases that are sorted at a time
WINDOW_MEMORY = 0.05  # of the device's memory, that the tensors of a window may take
LOAD_MS = 0.03  # of work at peak, from which a case draws the most power
WINDOW_MS = 40.0  # the bounds of the cases of a window, together
_HOST_SECONDS = 0.006  # of a case that needs no compilation
_CPU_FLOPS, _CPU_BYTES = 4e10, 8e9  # per second of one core, in a torch of 2026
_TOKENS = tuple(2**i for i in range(15))  # where a cluster's bytes are taken


@cache
def shapes() -> Mapping[str, list[dict[str, Any]]]:  # Any: decoded JSON
    """Parameters by op kind, as tools/model_shapes.py wrote them; `models` says whose they are."""
    text = (files("collector") / "shapes.json").read_text(encoding="utf-8")
    found: Mapping[str, list[dict[str, Any]]] = json.loads(text)
    return found


def grid_cases(
    op: str,
    system: str,
    *,
    dtypes: Iterable[str] = (),
    num_gpus: int = 1,
    models: Iterable[str] = (),
) -> list[Case]:
    """The cases of a kind that have shapes here; `dtypes` replaces the models' own, one case for each. Communication
    has one shape, a group of `num_gpus`. `models` are parts of names: only shapes of such models are kept."""
    known: Mapping[str, list[dict[str, Any]]] = shapes()
    if kind(op).role == "communication":
        known = {op: [{"params": {"num_gpus": num_gpus}}]}
    if op not in known:
        raise InvalidInputError(f"No shapes of {op} are known.", f"Known: {', '.join(shapes())}.")
    facts = load_system(system)
    found: dict[str, Case] = {}
    wanted, given = tuple(models), tuple(dtypes)
    for shape in known[op]:
        if wanted and not any(part in name for part in wanted for name in shape.get("models", ())):
            continue
        for params in _with_dtypes(shape["params"], given):
            for dims in _dims(op, shape):
                case = Case(op=op, params=params, dims=dims)
                if fits(case, facts):
                    found.setdefault(case.case_id, case)
    if wanted and not found:
        raise InvalidInputError(
            f"No shape of {op} is of a model whose name has {' or '.join(wanted)}.",
            "Leave --models out, or give parts of the names of published models.",
        )
    return list(found.values())


def _with_dtypes(params: dict[str, Any], dtypes: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    yield from ({**params, "dtype": dtype} for dtype in dtypes) if dtypes else (params,)


def _dims(op: str, shape: dict[str, Any]) -> Iterator[dict[str, int]]:
    """Every size of the kind's grid and between; a shape that states its dims in b, s, p has them at as many tokens."""
    if "dims" in shape:
        parsed = {name: parse_expr(text) for name, text in shape["dims"].items()}
        for tokens in _TOKENS:
            yield {name: int(evaluate(dim, b=tokens, s=1, p=0)) for name, dim in parsed.items()}
        return
    grid, between = kind(op).grid(), kind(op).between()
    sizes = {
        name: shape.get("grid", {}).get(name) or sorted({*values, *between.get(name, ())})
        for name, values in grid.items()
    }
    for values in itertools.product(*sizes.values()):
        yield dict(zip(sizes, values, strict=True))


def fits(case: Case, system: System) -> bool:
    """Whether a case keeps to the guard rails; its memory is its bytes, and all experts of a mixture."""
    dims = case.dims
    if dims.get("b", 1) * dims.get("s", 1) > MOST_TOKENS:
        return False
    if float(bound_ms(case.kind, case.params, dims, system)) > MOST_MS:
        return False
    return memory_share(case, system) < MEMORY_SHARE


def memory_share(case: Case, system: System) -> float:
    """The part of the device's memory that the tensors of a case take."""
    moved = float(case.kind.bytes(case.params, case.dims))
    return max(moved, _held(case)) / system.memory_capacity.base


def _held(case: Case) -> float:
    """Bytes of weights that are there whether read or not."""
    if case.op == "moe":
        experts = int(str(case.params["num_experts"])) // int(str(case.params["ep_size"]))
        return float(experts * expert_bytes(case.params))
    return 0.0


def spread_out(cases: list[Case], seed: int = 0) -> list[Case]:
    """The same cases in an order that covers all of them evenly, so that a run that ends early leaves no region out."""
    mixed = sorted(cases, key=lambda case: case.case_id)
    random.Random(seed).shuffle(mixed)
    return mixed


def in_laps(cases: list[Case], system: System) -> list[Case]:
    """The same cases in laps of `LAP`, each sorted by kind, dtype and work of its cases, up and down by turns.

    A GPU that is held at its power lowers its clock within milliseconds and raises it again in a few hundred: beside
    neighbours of the same kind, dtype and weight a case meets the same clock in every run; those of another dtype
    reach another share of their peak, and draw another power. Cases too light for that lie at one end, all kinds
    together.
    """

    def place(case: Case) -> tuple[str, str, float]:
        work = work_ms(case, system)
        heavy = work >= LOAD_MS
        return (case.op, str(case.params.get("dtype")), work) if heavy else ("", "", work)

    found: list[Case] = []
    for start in range(0, len(cases), LAP):
        lap = sorted(cases[start : start + LAP], key=place)
        found += lap if start // LAP % 2 == 0 else lap[::-1]
    return found


def work_ms(case: Case, system: System) -> float:
    """Milliseconds of its arithmetic at peak."""
    return float(sides_ms(case.kind, case.params, case.dims, system)[0])


def window_share(case: Case, system: System, *, cpu: bool = False) -> float:
    """The part of a window of cases, measured side by side, that one fills with its tensors or its time."""
    memory = memory_share(case, system) / WINDOW_MEMORY
    return min(max(memory, _bound(case, system, cpu=cpu) / WINDOW_MS), 1.0)


def expected_seconds(case: Case, system: System, *, cpu: bool = False) -> float:
    """What a case takes, roughly: the host's part, and as many calls as samples need at half the bound's speed."""
    bound = _bound(case, system, cpu=cpu)
    if bound >= 1.0:
        return _HOST_SECONDS + 6 * 2 * bound / 1e3
    return _HOST_SECONDS + 15 * max(2 * bound, 0.2) / 1e3


def _bound(case: Case, system: System, *, cpu: bool) -> float:
    """ms of the system's bound, or of what one core of a host does."""
    if not cpu:
        return float(bound_ms(case.kind, case.params, case.dims, system))
    flops = float(case.kind.flops(case.params, case.dims))
    moved = float(case.kind.bytes(case.params, case.dims))
    return max(flops / _CPU_FLOPS, moved / _CPU_BYTES) * 1e3
