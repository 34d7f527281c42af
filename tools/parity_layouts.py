"""Op lists of one rank of eight: ours, split as the trace says, against the reference's of the same layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from parity_causes import explain
from parity_lists import ours, reference
from parity_shapes import Json
from parity_sites import GRANULARITY, REFERENCE, UNEXPLAINED, Cause, Site, View, compare, within

from models.layout import Layout
from models.sharding import shard
from oplib.errors import InvalidInputError
from oplib.oplist import Layer, OpList

HEAD = """\
The same comparison for one rank of eight GPUs: local n, k, heads, experts and expert widths. *Sums* are all-reduces of
hidden states in a context pass, ours / theirs: its dispatch op behind experts stands for one, that before them for one
where its attention has none, and a table that it does not split needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One model under one layout: its sites, the differing ones with their causes, all-reduces, or the error."""

    model: str
    layout: str
    sites: tuple[Site, ...] = ()
    differences: tuple[tuple[Site, Cause], ...] = ()
    sums: tuple[int, int] = (0, 0)
    error: str = ""


def layout_of(entry: Json) -> Layout:
    """The layout of an entry, in our words."""
    sizes = entry["parallel"]
    return Layout(tp=sizes["tp"], pp=sizes["pp"], dp=sizes["dp"], ep=sizes["moe_ep"])


def split(report: Json, entry: Json) -> Split:
    """Our list of a report under the layout of an entry, against the entry."""
    layout = layout_of(entry)
    layers = [Layer.from_json(layer) for layer in report["layers"]]
    try:
        (local,) = shard(OpList.from_json(report), layout, layers)
    except InvalidInputError as error:
        refused = "both refuse" if entry["status"] != "ok" else "we refuse"
        return Split(model=entry["model"], layout=str(layout), error=f"{refused}: {error.message}")
    if entry["status"] != "ok":
        return Split(
            model=entry["model"], layout=str(layout), error=f"it refuses: {entry['error']}"
        )
    sites = compare(ours({**report, "op_list": local.to_json()}), reference(entry))
    indices = {layer["id"]: layer["indices"] for layer in report["layers"]}
    known = {id(site): cause for site, cause in explain(sites, indices)}
    causes = [(s, _cause(s, sites, known[id(s)], layout)) for s in sites if not s.equal]
    return Split(
        model=entry["model"],
        layout=str(layout),
        sites=tuple(sites),
        differences=tuple(causes),
        sums=(_our_sums(local), _reference_sums(entry)),
    )


def _our_sums(local: OpList) -> int:
    return sum(op.count for op in local.ops("context") if op.op == "all_reduce")


def _reference_sums(entry: Json) -> int:
    if entry["parallel"]["tp"] == 1:
        return 0
    return sum(round(op["scale_factor"]) for op in entry["context_ops"] if _sums_up(op))


def _sums_up(op: Json) -> bool:
    """Whether an op of the reference is an all-reduce: dispatch before experts is where attention has none."""
    if op["op"] == "MoEDispatch":
        return not (op["params"]["pre_dispatch"] and op["params"]["attn_ar_modeled"])
    return bool(op["op"] == "CustomAllReduce")


def _cause(site: Site, sites: list[Site], found: Cause, layout: Layout) -> Cause:
    """What the rules for one GPU say, else whether the reference leaves whole what a rank has a part of."""
    if found.side != UNEXPLAINED:
        return found
    view = View(phase=site.phase, sites=[s for s in sites if s.phase == site.phase], others=[])
    inside = [n for n in site.our_lines if within(n.where, view.attention_paths())]
    rest = site.ours - sum(line.count for line in inside)
    if inside and rest == site.reference and view.of("attention module"):
        text = f"two ops of one shape on a rank: {site.ours - rest} are in the reference's attention module"
        return Cause(side=GRANULARITY, text=text)
    for other in view.of(site.kind):
        mine, theirs = (site, other) if site.ours > site.reference else (other, site)
        if mine is not theirs and theirs.reference > theirs.ours and _is_part(mine, theirs, layout):
            text = f"the reference has all of it on every rank, ours 1/{layout.tp}"
            return Cause(side=REFERENCE, text=text)
    return found


def _is_part(mine: Site, theirs: Site, layout: Layout) -> bool:
    """Whether one site is the other with some of its sizes divided by tp."""
    pairs = list(zip(mine.shape, theirs.shape, strict=False))
    same = [name == other and value == size for (name, value), (other, size) in pairs]
    parts = [
        isinstance(value, int) and isinstance(size, int) and value * layout.tp == size
        for (_, value), (_, size) in pairs
    ]
    return any(parts) and all(a or b for a, b in zip(same, parts, strict=True))


def section(splits: list[Split]) -> Iterator[str]:
    """The part of the page about layouts."""
    yield "## Eight GPUs"
    yield ""
    yield HEAD
    yield ""
    compared = [s for s in splits if not s.error]
    sites = [site for s in compared for site in s.sites]
    equal = sum(site.equal for site in sites)
    sides = Counter(cause.side for s in compared for _, cause in s.differences)
    sums = sum(s.sums[0] == s.sums[1] for s in compared)
    yield f"{equal} of {len(sites)} sites equal; " + ", ".join(
        f"{side} {number}" for side, number in sorted(sides.items())
    ) + f". All-reduces equal in {sums} of {len(compared)} lists."  # fmt: skip
    yield ""
    yield "| model | layout | equal / different | sums | sides |"
    yield "|---|---|---|---|---|"
    for s in splits:
        if s.error:
            yield f"| {s.model} | {s.layout} | | | {s.error} |"
            continue
        mine = Counter(cause.side for _, cause in s.differences)
        named = ", ".join(f"{side} {number}" for side, number in sorted(mine.items()))
        same = sum(site.equal for site in s.sites)
        cells = f"{same} / {len(s.sites) - same} | {s.sums[0]} / {s.sums[1]} | {named}"
        yield f"| {s.model} | {s.layout} | {cells} |"
    yield ""
    yield "Causes that one GPU does not show, and what no rule explains:"
    yield ""
    yield from _new_causes(compared)


def _new_causes(compared: list[Split]) -> Iterator[str]:
    texts: Counter[str] = Counter()
    for s in compared:
        for site, cause in s.differences:
            if cause.side == UNEXPLAINED or "on every rank" in cause.text:
                names = {line.name for line in (*site.our_lines, *site.reference_lines)}
                texts[f"{site.kind} ({', '.join(sorted(names)[:2])}): {cause.text}"] += 1
    for text, number in sorted(texts.items()):
        yield f"- {number} x {text}"
