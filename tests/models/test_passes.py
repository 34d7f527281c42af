"""Context passes of limited size: every token has its turn once, after those before it, and no work is lost."""

from dataclasses import replace

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.passes import MOST, Passes
from models.pricing import price
from models.workload import Workload, grid
from oplib.errors import InvalidInputError
from oplib.oplist import OpList
from oplib.symbols import P
from perfdb.database import PerfDatabase
from tests.models.op_lists import attention, gemm

GEMM = gemm("mlp.up_proj", 512, 256)


def causal(**params):
    """Causal attention over cached tokens and new ones."""
    op = attention(8, 2, 64)
    return replace(op, params={**op.params, **params}, dims={**op.dims, "p": P})


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 300), st.integers(0, 50))


def passes_of(sizes, chunk):
    b, s, p = map(numpy.array, zip(*sizes, strict=True))
    return Passes.of(b, s, p, chunk=chunk)


@given(sizes=st.lists(SIZES, min_size=1, max_size=5), chunk=st.integers(1, 400))
def test_every_token_once(sizes, chunk):
    """Pieces of each sequence follow each other from its cached tokens to its end, and no pass is too large."""
    found = passes_of(sizes, chunk)
    assert (found.b * found.s <= chunk).all()
    for workload, (b, s, p) in enumerate(sizes):
        turns: dict[int, int] = {}  # sequences that are at a place, by place
        turns[p] = b
        for i in numpy.flatnonzero(found.owner == workload):
            here, sequences = int(found.p[i]), int(found.b[i] * found.times[i])
            turns[here] = turns.get(here, 0) - sequences
            after = here + int(found.s[i])
            turns[after] = turns.get(after, 0) + sequences
        assert {place: count for place, count in turns.items() if count} == {p + s: b}


@given(sizes=st.lists(SIZES, min_size=1, max_size=5))
def test_one_pass_where_all_fits(sizes):
    """A limit that nothing reaches, and none at all, give the workload itself."""
    for chunk in (0, 40 * 300):
        found = passes_of(sizes, chunk)
        rows = zip(found.b.tolist(), found.s.tolist(), found.p.tolist(), strict=True)
        assert list(rows) == sizes
        assert (found.count == 1).all()


def test_by_hand():
    """5 sequences of 10 tokens in passes of 25: two, two, one. One of 60 behind 7: 25, 25, 10, for each of 2."""
    found = passes_of([(5, 10, 0), (2, 60, 7)], 25)
    assert found.count.tolist() == [3, 6]
    rows = [
        tuple(int(column[i]) for column in (found.owner, found.b, found.s, found.p, found.times))
        for i in range(len(found.b))
    ]
    assert sorted(rows) == [
        (0, 1, 10, 0, 1),
        (0, 2, 10, 0, 2),
        (1, 1, 10, 57, 2),
        (1, 1, 25, 7, 2),
        (1, 1, 25, 32, 2),
    ]


@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize("chunk", [1, 37, 128, 1000])
def test_no_work_is_lost(window, chunk):
    """FLOPs of a gemm and pairs of causal attention, windows included, add up to those of the uncut pass."""
    b, s, p = 3, 777, 50
    cut = passes_of([(b, s, p)], chunk)
    for op in (GEMM, causal(window=window)):
        whole = op.kind.flops(op.params, op.dims_at(b=b, s=s, p=p))
        parts = op.kind.flops(op.params, op.dims_at(b=cut.b, s=cut.s, p=cut.p))
        assert cut.sum(parts)[0] == whole


def test_a_price_is_the_sum_of_its_passes():
    """TTFT equals the sum over workloads that are the passes; in a sweep as on its own."""
    stages, db = (
        [OpList(lowering="serving", phases={"context": (GEMM, causal()), "generation": (GEMM,)})],
        PerfDatabase.load(system="h200_sxm"),
    )

    def ttft(**sizes):
        return float(price(stages, db, Workload(osl=1, **sizes)).ttft.latency[0])

    cut = ttft(batch=2, isl=5000, prefix=100, chunk=2048)
    pieces = [(2048, 100), (2048, 2148), (904, 4196)]
    assert cut == pytest.approx(sum(2 * ttft(batch=1, isl=s, prefix=p) for s, p in pieces))
    sweep = grid(batch=(1, 2), isl=(16, 5000), osl=(1,), prefix=(0, 100), chunk=2048)
    found = price(stages, db, sweep).ttft.latency
    assert found[1, 1, 0, 1] == pytest.approx(cut, rel=1e-12)
    assert found[1, 0, 0, 0] == pytest.approx(ttft(batch=2, isl=16, prefix=0), rel=1e-12)


def test_refused():
    """Too many passes, or a negative limit, are errors that say so."""
    with pytest.raises(InvalidInputError, match="in all"):
        passes_of([(1, MOST + 1, 0)], 1)
    with pytest.raises(InvalidInputError, match="chunk is -1"):
        passes_of([(1, 5, 0)], -1)
