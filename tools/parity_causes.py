"""Derive the cause of each difference between two op lists from the lists themselves: a rule per cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from parity_modules import attention_module, stream_module
from parity_sites import CORES, OURS, REFERENCE, UNEXPLAINED, Cause, Site, View, ranges, reach


def explain(sites: list[Site], layers: Mapping[str, list[int]]) -> Iterator[tuple[Site, Cause]]:
    """Every differing site with the cause that the first fitting rule gives."""
    for site in sites:
        if site.equal:
            continue
        view = View(
            phase=site.phase,
            sites=[s for s in sites if s.phase == site.phase],
            others=[s for s in sites if s.phase != site.phase],
            layers=layers,
        )
        causes = (rule(site, view) for rule in RULES)
        unknown = Cause(side=UNEXPLAINED, text="unexplained")
        yield site, next((cause for cause in causes if cause), unknown)


def unclaimed(site: Site, _view: View) -> Cause | None:
    """Ours has nodes that no op of ours claims."""
    if site.kind != "primitive":
        return None
    reasons = "; ".join(dict.fromkeys(line.reason for line in site.our_lines))
    return Cause(side=OURS, text=f"no op of ours claims it, so it stands in no table: {reasons}")


def no_context_logits(site: Site, view: View) -> Cause | None:
    """The reference has logits in generation only."""
    has = any(other.kind == "logits" and other.reference for other in view.others)
    if site.kind == "logits" and site.phase == "context" and site.ours and not site.reference:
        return (
            Cause(side=REFERENCE, text="the reference has no logits GEMM in context")
            if has
            else None
        )
    return None


def dense_as_moe(site: Site, view: View) -> Cause | None:
    """The reference counts layers without experts as MoE layers: its count is the sum of both."""
    moe = [line for line in view.our_lines("moe") if line.layer]
    sparse = {line.layer for line in moe}
    dense = {layer: at for layer, at in view.layers.items() if layer not in sparse}
    of_dense, of_moe = sum(map(len, dense.values())), sum(line.count for line in moe)
    counted = sum(other.reference for other in view.of("moe"))
    if not (dense and moe) or counted != of_dense + of_moe:
        return None
    inside = {line.layer for line in site.our_lines}
    too_many = site.ours and inside <= sparse and site.reference - site.ours == of_dense
    left_out = not site.reference and inside and inside <= dense.keys() and site.ours == of_dense
    if not (too_many or left_out):
        return None
    which = ranges(sorted(i for at in dense.values() for i in at))
    text = f"the reference counts the dense layers ({which}) as MoE layers: {counted} = "
    return Cause(side=REFERENCE, text=text + f"{of_dense} dense + {of_moe} MoE in the trace")


def no_shared_expert(site: Site, view: View) -> Cause | None:
    """Linears of a module beside the routed experts that the reference does not have."""
    if site.kind != "gemm" or site.reference:
        return None
    for line in site.our_lines:
        experts = [m.name for m in view.our_lines("moe") if m.layer == line.layer]
        block = experts[0].rpartition(".")[0] if experts else ""
        beside = line.name.removeprefix(f"{block}.")
        if not block or beside == line.name or "." not in beside:
            return None
    module = site.our_lines[0].name.rpartition(".")[0]
    size = f"{-site.parameters:,} parameters"
    return Cause(side=REFERENCE, text=f"the reference has no shared expert (`{module}`, {size})")


def layer_pattern(site: Site, view: View) -> Cause | None:
    """As many attention cores of the same heads, split otherwise over windows and chunks."""
    if site.kind != "attention":
        return None
    same = [s for s in view.of("attention") if s.shape[:3] == site.shape[:3] and not s.equal]
    total = sum(s.ours for s in same)
    if len(same) < 2 or total != sum(s.reference for s in same):
        return None
    counts = ", ".join(f"{reach(s)} {s.ours} / {s.reference}" for s in same)
    text = f"local and global layers, trace / reference: {counts}; both sum to {total}"
    for s in same:
        at = sorted(i for line in s.our_lines for i in view.layers.get(line.layer, ()))
        if reach(s) == "full" and at:
            text += f"; full are layers {ranges(at)}"
        if s.dim("chunk") and any(s.dim("chunk") == o.dim("window") for o in same):
            text += "; the reference takes chunks for a sliding window"
    return Cause(side=REFERENCE, text=text)


def core_heads(site: Site, view: View) -> Cause | None:
    """The reference's MLA core has other heads than the products that it puts around it."""
    cores = view.of("mla")
    if site.kind != "mla" or len(cores) != 2:
        return None
    mine, theirs = sorted(cores, key=lambda core: core.ours, reverse=True)
    if theirs.ours or mine.reference or mine.ours != theirs.reference:
        return None
    heads, other = mine.dim("heads"), theirs.dim("heads")
    around = [s for s in (*view.sites, *view.others) if s.kind == "bmm" and s.reference]
    if not around or any(s.dim("batch") != heads for s in around):
        return None
    text = (
        f"the reference prices its core with {other} heads; its own products around it have {heads}"
    )
    return Cause(side=REFERENCE, text=f"{text}, as the trace")


def no_attention_gate(site: Site, view: View) -> Cause | None:
    """A linear of every attention module, one output per head, that the reference does not have."""
    if site.kind != "gemm" or site.reference:
        return None
    cores = {line.where: line for line in view.our_lines(*CORES)}
    for line in site.our_lines:
        core = cores.get(line.where.rpartition(".")[0])
        if core is None or core.count != line.count or core.dim("heads") != line.dim("n"):
            return None
    name, size = site.our_lines[0].name, f"{-site.parameters:,} parameters"
    text = f"the reference has no gate per head (`{name}`, n = heads, {site.ours} layers, {size})"
    return Cause(side=REFERENCE, text=text)


def rows(site: Site, view: View) -> Cause | None:
    """The same GEMM, as often, for another number of rows."""
    for other in view.of(site.kind):
        same = other.shape == site.shape and other.rows != site.rows
        if same and (site.ours, site.reference) == (other.reference, other.ours):
            mine, theirs = (site, other) if site.ours else (other, site)
            text = f"m is {theirs.rows} in the reference, {mine.rows} in the trace"
            if "p" in mine.rows:
                text += ": cached tokens are projected up again too; equal without a prefix"
            return Cause(side=REFERENCE, text=text)
    return None


Rule = Callable[[Site, View], Cause | None]
RULES: tuple[Rule, ...] = (
    unclaimed,
    no_context_logits,
    dense_as_moe,
    no_shared_expert,
    layer_pattern,
    attention_module,
    stream_module,
    core_heads,
    no_attention_gate,
    rows,
)
