"""Why two prices of one op differ by more than 3 %: a rule per cause, over the lists, the prices and the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from parity_evidence import Evidence, Tail, elsewhere
from parity_pairs import CLOSE, Compared, Cost, Pair
from parity_sites import GRANULARITY, OURS, REFERENCE, UNEXPLAINED, Cause

from oplib.errors import PerfDataNotAvailableError
from oplib.op import Op
from perfdb.database import PerfDatabase

INTERPOLATION = "interpolation"
FORMULA = "formula"
SIDES = (REFERENCE, INTERPOLATION, GRANULARITY, FORMULA, OURS, UNEXPLAINED)
RECOMPUTED = 0.001  # a guess of how the reference got to a number has to give it this closely
SMOOTHED = (
    0.1  # what an estimate at the end of a lane, smoothed over rows, may be off its last rows
)
CONSTANT_MS = 0.001
WIDEST = 1.5  # neighbours further apart than this say nothing of what lies between them


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a rule may look at: the tables, and the same list at the other workloads."""

    db: PerfDatabase
    others: list[Compared]

    def same(self, pair: Pair) -> Iterator[Pair]:
        """The pair at every workload."""
        for compared in self.others:
            for other in compared.pairs:
                if (other.phase, other.label) == (pair.phase, pair.label):
                    yield other


def reason(pair: Pair, view: View) -> Cause:
    """The cause that the first fitting rule gives."""
    for rule in RULES:
        if cause := rule(pair, view):
            return cause
    return Cause(side=UNEXPLAINED, text="unexplained")


def below_bound(pair: Pair, _view: View) -> Cause | None:
    """The reference's price is less than the bytes and FLOPs take at best."""
    if pair.theirs > 0.97 * pair.sol_ours:
        return None
    times = pair.sol_ours / pair.theirs
    text = f"{times:.3g} times below the speed of light: its formula leaves work or bytes out"
    return Cause(side=REFERENCE, text=text)


def formula(pair: Pair, _view: View) -> Cause | None:
    """No side, or only one, has a measurement."""
    theirs = pair.source not in ("silicon", "mixed")
    ours = pair.origin == "empirical"
    if not (theirs or ours):
        return None
    who = "neither side has a measurement" if theirs and ours else "no measurement"
    whose = "" if theirs and ours else " in the reference" if theirs else " of ours"
    bounds = f"bounds {pair.sol_ours:.4g} / {pair.sol_theirs:.4g} ms"
    side = OURS if ours and not theirs else FORMULA
    return Cause(side=side, text=f"{who}{whose}: a share of the bound plus a launch; {bounds}")


def other_file(pair: Pair, view: View) -> Cause | None:
    """The op was measured in several files, and the reference takes another row than we."""
    if len(pair.costs) != 1 or pair.costs[0].origin == "empirical":
        return None
    cost = pair.costs[0]
    each = pair.theirs / pair.repetitions
    for stem, ms in elsewhere(cost.op, place(cost, pair), view.db).items():
        if abs(ms / each - 1) < CLOSE:
            text = (
                f"two files measured it: `{stem}` says {ms * 1e3:.4g} us, as the reference; ours "
            )
            text += f"is of the other, {pair.ours / pair.repetitions * 1e3:.4g} us"
            return Cause(side=OURS, text=text)
    return None


def parallel_streams(pair: Pair, _view: View) -> Cause | None:
    """The reference counts the longer of streams that run side by side; which parts of it ours lacks."""
    if len({line.stream for line in pair.lines}) < 2:
        return None
    text = f"streams run side by side: the longest of ours is {pair.ours:.4g} ms, their sum "
    text += f"{pair.summed:.4g}; the reference's stream holds its dispatch too"
    return Cause(side=GRANULARITY, text=text)


def gathered_tokens(pair: Pair, view: View) -> Cause | None:
    """The reference gives the tokens of all ranks to all of them and sums up; ours sends each where its experts are."""
    if pair.block or {line.kind for line in pair.lines} != {"all_to_all"}:
        return None
    p, w = pair.lines[0].op["params"], pair.record.workload
    gpus = p["moe_tp_size"] * p["moe_ep_size"]
    tokens = w.batch * (w.isl if pair.phase == "context" else 1) * p["attention_dp_size"]
    guess, params = 0.0, {"num_gpus": gpus, "dtype": "bfloat16"}
    for name in ("all_gather", "reduce_scatter"):
        op = Op(op=name, name=name, params=params, dims={"bytes": 2 * tokens * p["hidden_size"]})
        guess += float(view.db.query(op, b=1, s=1, p=0)) * pair.repetitions / 2
    if abs(guess / pair.theirs - 1) > CLOSE:
        return None
    text = f"the reference gathers the tokens of all ranks and scatters the sums, in 16 bit: our {guess:.4g} ms for "
    text += "that; ours sends a token once to each rank with an expert of it, at the experts' width"
    return Cause(side=GRANULARITY, text=text)


def whole_module(pair: Pair, _view: View) -> Cause | None:
    """The reference measured the module as one; ours is the sum of its parts, or the same module's row."""
    if not pair.block:
        return None
    if wholes := {cost.whole for cost in pair.costs if cost.whole}:
        text = f"both price the module as one, ours as {', '.join(sorted(wholes))}, {pair.origin}"
        side = INTERPOLATION if pair.origin != "measured" else OURS
        return Cause(side=side, text=text)
    parts: dict[str, float] = {}
    for cost in pair.costs:
        parts[cost.op.op] = parts.get(cost.op.op, 0.0) + cost.ms
    whole = sum(parts.values())
    shares = sorted(parts.items(), key=lambda item: -item[1])
    text = "one module there, the sum of its parts here: "
    text += ", ".join(f"{name} {ms / whole:.0%}" for name, ms in shares)
    return Cause(side=GRANULARITY, text=text)


def added_constant(pair: Pair, view: View) -> Cause | None:
    """What the reference adds to a measured row is the same at every number of tokens."""
    extras = {}
    for other in view.same(pair):
        if other.origin == "measured":
            tokens = other.record.workload.batch * other.record.workload.isl
            extras[tokens] = (other.theirs - other.ours) / other.repetitions
    least, most = min(extras.values(), default=0), max(extras.values(), default=0)
    if len(extras) < 2 or pair.source != "mixed" or least <= 0 or most - least > CONSTANT_MS:
        return None
    at = " and ".join(f"{tokens:,}" for tokens in sorted(extras))
    text = (
        f"the reference adds {least * 1e3:.1f} us per layer to the measured row, as much at {at} "
    )
    text += "tokens: rotary, cache write and head norms, not multiplied by the tokens"
    rest = replace(pair, theirs=pair.theirs - least * pair.repetitions)
    if rest.close:
        return Cause(side=REFERENCE, text=text)
    if more := neighbours(rest, view):
        return Cause(side=more.side, text=f"{text}; besides, {more.text}")
    return None


def beyond_the_last_row(pair: Pair, view: View) -> Cause | None:
    """Past the end of a lane the reference holds the median efficiency of the last three rows, we that of the last."""
    if (evidence := _evidence(pair, view)) is None or (tail := evidence.tail()) is None:
        return None
    median = sorted(tail.efficiencies)[1]
    guess = evidence.bound / median * pair.repetitions
    if abs(guess / pair.theirs - 1) > RECOMPUTED:
        return _steeper(pair, evidence, tail)
    rows = ", ".join(f"{e:.3f}" for e in tail.efficiencies)
    text = (
        f"past the last row ({tail.dim} = {tail.last:,.0f}): efficiencies of the last rows {rows}; "
    )
    text += "theirs holds their median, ours the last. The last row from those before it: median "
    text += f"{tail.median_off:+.1%}, nearest {tail.nearest_off:+.1%}"
    return Cause(side=INTERPOLATION, text=text)


def _steeper(pair: Pair, evidence: Evidence, tail: Tail) -> Cause | None:
    """Past the last row by the time per unit of that row, or by a way that is not known, where ours goes on as the
    last rows do, as far as it says it knows."""
    size = evidence.dims[tail.dim]
    units = [ms / size / pair.repetitions * 1e6 for ms in (pair.ours, pair.theirs)]
    if abs(units[1] / tail.each_ns[-1] - 1) <= RECOMPUTED:
        text = f"past the last row ({tail.dim} = {tail.last:,.0f}): theirs holds the time per {tail.dim} of that row, "
        text += f"{units[1]:.4g} ns, ours its efficiency, {units[0]:.4g}. The last row from the one before it: "
        text += f"time {tail.each_ns[-2] / tail.each_ns[-1] - 1:+.1%}, efficiency {tail.nearest_off:+.1%}"
        return Cause(side=INTERPOLATION, text=text)
    slack = min(max(cost.uncertainty for cost in pair.costs), SMOOTHED)
    if not min(tail.each_ns) * (1 - slack) <= units[0] <= max(tail.each_ns) * (1 + slack):
        return None
    rows = ", ".join(f"{each:.4g}" for each in tail.each_ns)
    text = f"past the last row ({tail.dim} = {tail.last:,.0f}): the last rows take {rows} ns per {tail.dim}, "
    text += f"ours goes on with {units[0]:.4g}, theirs with {units[1]:.4g}"
    return Cause(side=INTERPOLATION, text=text)


def neighbours(pair: Pair, view: View) -> Cause | None:
    """Nothing was measured there, and one price at least is what the rows around it say; ours errs where it is not."""
    if (evidence := _evidence(pair, view)) is None or evidence.row is not None:
        return None
    prices = [ms * pair.repetitions for ms in evidence.around()]
    if not prices:
        return None
    low, high = min(prices), max(prices)
    if high > WIDEST * low:
        return None
    ours, theirs = (
        low * (1 - CLOSE) <= ms <= high * (1 + CLOSE) for ms in (pair.ours, pair.theirs)
    )
    if not ours and not theirs:
        return None
    words = {True: "inside", False: "outside"}
    text = f"no row there; the efficiencies of the {len(prices)} rows around give {low:.4g} to "
    text += f"{high:.4g} ms: to {CLOSE:.0%}, ours is {words[ours]}, theirs {words[theirs]}"
    text += f"; the nearest rows, left out, ours foretells to {evidence.left_out():.1%}"
    sigma = max(cost.uncertainty for cost in pair.costs)
    text += f"; ours states {sigma:.0%}" if sigma < 1 else "; ours states no more than its order"
    return Cause(side=INTERPOLATION if ours else OURS, text=text)


def place(cost: Cost, pair: Pair) -> dict[str, float]:
    """The dims of a cost at the record's workload, at the first step of a generation."""
    w = pair.record.workload
    context = pair.phase == "context"
    dims = cost.op.dims_at(b=w.batch, s=w.isl if context else 1, p=0 if context else w.isl)
    return {name: float(value) for name, value in dims.items()}  # type: ignore[arg-type]


def _evidence(pair: Pair, view: View) -> Evidence | None:
    """The rows about an op that is one of our list; repetitions of it in several layers are one."""
    ops = {cost.op.op: cost for cost in pair.costs}
    if pair.block or len(ops) != 1 or pair.origin == "empirical":
        return None
    (cost,) = ops.values()
    try:
        return Evidence(cost.op, place(cost, pair), view.db)
    except PerfDataNotAvailableError:
        return None


Rule = Callable[[Pair, View], Cause | None]
RULES: tuple[Rule, ...] = (
    below_bound,
    other_file,
    formula,
    gathered_tokens,
    parallel_streams,
    whole_module,
    added_constant,
    beyond_the_last_row,
    neighbours,
)
