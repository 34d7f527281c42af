"""What sets runs apart: the ops that make the difference between two, and the runs of a sweep that none other beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]  # Any: an object that becomes JSON
Report = Mapping[str, Any]  # an object that `price-model --json` prints


def request_ms(report: Report) -> dict[tuple[str, str, str], float]:
    """ms of a whole request by phase, name and kind of the op: one context pass, and every generation step."""
    steps = {"context": 1, "generation": report["workload"]["osl"] - 1}
    found: dict[tuple[str, str, str], float] = {}
    for op in report["ops"]:
        key = (op["phase"], op["name"], op["op"])
        found[key] = found.get(key, 0.0) + op["ms"] * steps[op["phase"]]
    return found


def differences(first: Report, second: Report) -> list[Json]:
    """ms of each op in a request of both runs, None where a run lacks it, by what it adds to their difference.

    Ops of one name and kind in several layers or stages count together. `ms` is what the second takes more.
    """
    one, other = request_ms(first), request_ms(second)
    found = [
        {
            "phase": phase,
            "name": name,
            "op": kind,
            "first_ms": one.get((phase, name, kind)),
            "second_ms": other.get((phase, name, kind)),
            "ms": other.get((phase, name, kind), 0.0) - one.get((phase, name, kind), 0.0),
        }
        for phase, name, kind in {**one, **other}
    ]
    return sorted(found, key=lambda item: -abs(item["ms"]))


def by_kind(found: Sequence[Json]) -> list[Json]:
    """`differences` summed over the ops of one kind."""
    sums: dict[tuple[str, str], Json] = {}
    for item in found:
        key = (item["phase"], item["op"])
        into = sums.setdefault(
            key, {"phase": key[0], "op": key[1], "first_ms": 0.0, "second_ms": 0.0, "ms": 0.0}
        )
        for field in ("first_ms", "second_ms", "ms"):
            into[field] += item[field] or 0.0
    return sorted(sums.values(), key=lambda item: -abs(item["ms"]))


def frontier(reports: Sequence[Report]) -> set[int]:
    """Places of the runs that fit and that no fitting run of the same lengths beats, or equals, in tokens/s per user
    and in tokens/s per GPU both."""
    lengths: dict[tuple[int, ...], list[tuple[float, float, int]]] = {}
    for place, report in enumerate(reports):
        if report["tokens_per_s_per_user"] is not None and report["memory"]["fits"] is not False:
            key = tuple(report["workload"][name] for name in ("isl", "osl", "prefix"))
            rates = (report["tokens_per_s_per_user"], report["tokens_per_s_per_gpu"], place)
            lengths.setdefault(key, []).append(rates)
    kept = set()
    for runs in lengths.values():
        most = 0.0
        for _, per_gpu, place in sorted(runs, key=lambda run: (-run[0], -run[1], run[2])):
            if per_gpu > most:
                kept.add(place)
                most = per_gpu
    return kept
