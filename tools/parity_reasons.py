"""Why two prices of one op differ by more than 3 %: a rule per cause, over the lists, the prices and the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from parity_evidence import Evidence, elsewhere
from parity_pairs import CLOSE, Compared, Cost, Pair
from parity_sites import GRANULARITY, OURS, REFERENCE, UNEXPLAINED, Cause

from oplib.errors import PerfDataNotAvailableError
from perfdb.database import PerfDatabase

INTERPOLATION = "interpolation"
FORMULA = "formula"
SIDES = (REFERENCE, INTERPOLATION, GRANULARITY, FORMULA, OURS, UNEXPLAINED)
RECOMPUTED = 0.001  # a guess of how the reference got to a number has to give it this closely
CONSTANT_MS = 0.001


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
            text = f"two files measured it: `{stem}` says {ms * 1e3:.4g} us, as the reference; ours "
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


def whole_module(pair: Pair, _view: View) -> Cause | None:
    """The reference measured the module as one; ours is the sum of its parts."""
    if not pair.block:
        return None
    longest = max(pair.costs, key=lambda cost: cost.ms)
    share = longest.ms / pair.summed
    text = f"measured as one module there, {len(pair.costs)} parts here; the largest is "
    text += f"`{longest.line.name}`, {share:.0%}"
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
    text = f"the reference adds {least * 1e3:.1f} us per layer to the measured row, as much at {at} "
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
        return None
    rows = ", ".join(f"{e:.3f}" for e in tail.efficiencies)
    text = f"past the last row ({tail.dim} = {tail.last:,.0f}): efficiencies of the last rows {rows}; "
    text += f"theirs holds their median, ours the last. The last row from those before it: median "
    text += f"{tail.median_off:+.1%}, nearest {tail.nearest_off:+.1%}"
    return Cause(side=INTERPOLATION, text=text)


def neighbours(pair: Pair, view: View) -> Cause | None:
    """Nothing was measured there; what the rows around it say."""
    if (evidence := _evidence(pair, view)) is None or evidence.row is not None:
        return None
    prices = [ms * pair.repetitions for ms in evidence.around()]
    if not prices:
        return Cause(side=INTERPOLATION, text="no row there, and none next to it")
    low, high = min(prices), max(prices)
    text = f"no row there; the efficiencies of the {len(prices)} rows around give {low:.4g} to {high:.4g} ms: "
    inside = [low <= ms <= high for ms in (pair.ours, pair.theirs)]
    words = {True: "inside", False: "outside"}
    text += f"ours {words[inside[0]]}, theirs {words[inside[1]]}"
    sigma = max(cost.uncertainty for cost in pair.costs)
    text += f"; ours states {sigma:.0%}" if sigma < 1 else "; ours states no more than its order"
    return Cause(side=INTERPOLATION, text=text)


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
    parallel_streams,
    whole_module,
    added_constant,
    beyond_the_last_row,
    neighbours,
)
