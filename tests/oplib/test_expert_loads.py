"""How many experts a batch reads: by hand where it is simple, against simulated routing where it is not."""

import numpy
import pytest
import sympy

from oplib.expert_loads import DISTRIBUTIONS, EXPONENTS, distinct_experts
from oplib.symbols import B, S, evaluate, format_expr, parse_expr

POWER_LAWS = tuple(EXPONENTS)


def routed(distribution, experts, top_k, m, *, rounds=40, seed=0):
    """Experts that m tokens choose, in the mean of simulations: each draws top_k without replacement, by popularity."""
    random, a = numpy.random.default_rng(seed), EXPONENTS[distribution]
    low, high = (1, 0.8 * m) if m * top_k > experts else (0.01, 2)
    counts = []
    for _ in range(rounds):
        u = random.random(experts)
        weights = (low ** (1 - a) + u * (high ** (1 - a) - low ** (1 - a))) ** (1 / (1 - a))
        scores = numpy.log(weights) - numpy.log(-numpy.log(random.random((m, experts))))
        counts.append(len(numpy.unique(numpy.argsort(scores, axis=1)[:, -top_k:])))
    return numpy.mean(counts)


def test_balanced_by_hand():
    """Two of four experts: one token reads 2, two tokens 4·(1 - 1/4)."""
    assert distinct_experts("balanced", 4, 2, 1) == 2
    assert distinct_experts("balanced", 4, 2, 2) == 3


@pytest.mark.parametrize("distribution", POWER_LAWS)
@pytest.mark.parametrize(("experts", "top_k"), [(128, 8), (256, 8), (512, 22)])
@pytest.mark.parametrize("m", [2, 8, 33, 128, 1024])
def test_a_power_law_is_what_routing_gives(distribution, experts, top_k, m):
    found = distinct_experts(distribution, experts, top_k, m)
    assert found == pytest.approx(routed(distribution, experts, top_k, m), rel=0.05)


@pytest.mark.parametrize("distribution", POWER_LAWS)
def test_few_experts_are_no_continuum(distribution):
    """With eight experts one sample of popularities differs from the next, and the formula is a little low."""
    for m in (4, 16, 64):
        share = distinct_experts(distribution, 8, 2, m) / routed(distribution, 8, 2, m, rounds=400)
        assert 0.75 < share <= 1.02


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(("experts", "top_k"), [(2, 1), (8, 2), (8, 8), (160, 6), (384, 8)])
def test_bounds_and_growth(distribution, experts, top_k):
    """At least the experts of one token, at most all, never fewer for more tokens; a power law reads fewer."""
    m = numpy.arange(1, 3000)
    found = distinct_experts(distribution, experts, top_k, m)
    assert found[0] == pytest.approx(top_k)
    assert found.min() >= top_k * (1 - 1e-12)
    assert found.max() <= experts
    assert (numpy.diff(found) >= -1e-9).all()
    even = distinct_experts("balanced", experts, top_k, m)
    assert (found <= even * (1 + 1e-12) + 1e-9).all() or top_k == experts


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_numbers_arrays_and_symbols_agree(distribution):
    """The expression goes through an op list's text as well."""
    m = numpy.array([1, 3, 32, 33, 500])
    numbers = [distinct_experts(distribution, 256, 8, int(one)) for one in m]
    assert distinct_experts(distribution, 256, 8, m) == pytest.approx(numbers)
    symbolic = parse_expr(format_expr(sympy.sympify(distinct_experts(distribution, 256, 8, B * S))))
    for one, number in zip(m, numbers, strict=True):
        assert evaluate(symbolic, b=int(one), s=1, p=0) == pytest.approx(number)
