"""Causes where the reference prices a whole module as one op and our list has its parts."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from parity_sites import GRANULARITY, REFERENCE, Cause, Site, View, text_of, within


def attention_module(site: Site, view: View) -> Cause | None:
    """The reference prices the whole attention module as one op, we price its parts."""
    modules = view.of("attention module")
    if not modules:
        return None
    paths = view.attention_paths()
    structures = attention_structures(view, paths)
    total, counted = sum(structures.values()), sum(m.reference for m in modules)
    if total != counted:
        return None
    where = f"{counted} of both"
    if site.kind == "attention module":
        merged = merged_structures(site.reference, structures)
        text = f"one module op in the reference, its parts in ours ({where})"
        if merged:
            return Cause(side=REFERENCE, text=f"{text}; {merged}")
        return Cause(side=GRANULARITY, text=text + missing_weights(modules, view, paths))
    if not site.reference and all(within(line.where, paths) for line in site.our_lines):
        return Cause(side=GRANULARITY, text=f"part of the reference's module op ({where})")
    return None


def attention_structures(view: View, paths: set[str]) -> dict[frozenset[Any], int]:
    """How many attention modules of ours have the same parts."""
    parts: dict[str, set[Any]] = {}
    for site in view.sites:
        for line in site.our_lines:
            if within(line.where, paths):
                parts.setdefault(line.layer, set()).add((site.kind, site.shape))
    found: dict[frozenset[Any], int] = {}
    for layer, kinds in parts.items():
        key = frozenset(kinds)
        found[key] = found.get(key, 0) + len(view.layers.get(layer, ()))
    return found


def merged_structures(count: int, structures: dict[frozenset[Any], int]) -> str:
    """Which structures of ours a module op of the reference lumps together, if its count says so."""
    if count in structures.values() or count == sum(structures.values()):
        return ""
    for size in range(2, len(structures)):
        for chosen in combinations(structures.items(), size):
            if sum(number for _, number in chosen) == count:
                numbers = " + ".join(str(number) for _, number in chosen)
                lacking = frozenset.union(*(kinds for kinds, _ in chosen))
                fewest = min(chosen, key=lambda item: item[1])
                without = sorted(
                    text_of(*part) for part in lacking - fewest[0] if part[0] == "gemm"
                )
                return (
                    f"{count} = {numbers} layers that differ in the trace: {fewest[1]} of them have no "
                    + ", ".join(without)
                )
    return ""


def missing_weights(modules: list[Site], view: View, paths: set[str]) -> str:
    """What the only module op of the reference holds less than the parts, and which part that is."""
    lines = [x for site in view.sites for x in site.our_lines if within(x.where, paths)]
    lacks = sum(line.parameters * line.count for line in lines) - modules[0].parameters
    each, rest = divmod(lacks, modules[0].reference)
    if len(modules) > 1 or not modules[0].parameters or rest or each <= 0:
        return ""
    text = f"; its weights lack {each:,} parameters per layer of the parts"
    for site in view.of("sparse indexer"):
        keys = [g for g in view.of("gemm") if each == int(site.dim("size")) * int(g.dim("k"))]
        if keys:
            return f"{text}: the indexer's key projection ({site.dim('size')} x {keys[0].dim('k')})"
    return text


def stream_module(site: Site, view: View) -> Cause | None:
    """The reference prices the mixing of residual streams as module ops, we price its products."""
    modules = view.of("stream module")
    if not modules:
        return None
    streams, hidden = int(modules[0].dim("streams")), int(modules[0].dim("hidden"))
    mixing = [s for s in view.of("gemm") if not s.reference and s.dim("k") == streams * hidden]
    if site.kind == "stream module":
        text = "one module op in the reference, its products in ours"
        held = -sum(s.parameters for s in mixing if all(line.layer for line in s.our_lines))
        if site is not modules[0] and abs(site.parameters - held) <= held / 1000:
            text += "; every one of these module ops carries the weights of all products again"
            return Cause(side=REFERENCE, text=text)
        return Cause(side=GRANULARITY, text=text)
    joining = site.kind == "bmm" and (site.dim("n"), site.dim("k")) == (hidden, streams)
    if site.reference or not (joining or site in mixing):
        return None
    if all(line.layer for line in site.our_lines):
        return Cause(side=GRANULARITY, text="part of the reference's stream modules")
    name = site.our_lines[0].name
    return Cause(
        side=REFERENCE, text=f"the reference has no mixing behind the last layer (`{name}`)"
    )
