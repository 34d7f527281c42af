"""The cache as expressions: what sizes can be read off, what is refused, and the bytes of real caches."""

from __future__ import annotations

import functools

import pytest
import sympy
import torch

from oplib.symbols import B, P, evaluate, parse_expr
from tests.tracer import small_models
from tests.tracer.real import build, held
from tests.tracer.small_models import SMALL, each
from tracer.cache import expression, infer, leaves, rebuild
from tracer.sizes import UNLIMITED

POINTS = UNLIMITED.points
FORMS = {
    "constant": sympy.Integer(17),
    "batch": B,
    "rows of several heads": 6 * B,
    "length": P,
    "one more": P + 1,
    "all but one": P - 1,
    "window": sympy.Min(P, 512),
    "compressed": sympy.floor(P / 4),
    "rest of a short block": sympy.Mod(P, 4),
    "rest of a block of no power of two": sympy.Mod(P, 6),
    "rest of a block": sympy.Mod(P, 128),
}


@pytest.mark.parametrize("name", sorted(FORMS))
def test_forms_are_read_off_sizes(name):
    """The form that made the sizes comes back, at the points and elsewhere."""
    form = FORMS[name]
    sizes = [int(form.subs({B: b, P: p})) for b, p in POINTS]
    found = expression(sizes, POINTS)
    for b, p in (*POINTS, (7, 2048), (1, 77_777), (4, 511), (9, 5)):
        assert found.subs({B: b, P: p}) == form.subs({B: b, P: p})


REFUSED = {
    "nonsense": [11, 5, 901, 2, 77],
    "square": [p * p for _, p in POINTS],
    "batch times length": [b * p for b, p in POINTS],
    "a window with an exception": [390, 512, 512, 511, 3],
    "one off at one point": [390, 517, 1290, POINTS[3][1] + 1, 3],
    "square root": [19, 22, 35, 316, 1],
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_other_sizes_are_refused(name):
    """A size that no form explains at every point raises and shows its numbers; it is never guessed."""
    with pytest.raises(ValueError, match="no known form") as caught:
        expression(REFUSED[name], POINTS)
    assert str(REFUSED[name][0]) in str(caught.value)


class ToyCache:
    """Tensors in lists and attributes, a counter, a setting, and one tensor held twice."""

    def __init__(self, b: int, p: int) -> None:
        self.keys = [
            torch.empty(b, 2, p, 8, device="meta"),
            torch.empty(b, 2, min(p, 64), 8, device="meta"),
        ]
        self.alias = self.keys[0]
        self.seen = p
        self.limit = 64
        self.name = "toy"


def test_leaves_of_any_cache():
    """Tensors once each, counters that move, and no settings."""
    template, found = infer(ToyCache, POINTS)
    assert isinstance(template, ToyCache)
    shapes = {leaf.path: leaf.shape for leaf in found if leaf.dtype}
    assert shapes == {("keys", 0): (B, 2, P, 8), ("keys", 1): (B, 2, sympy.Min(P, 64), 8)}
    assert {leaf.path: leaf.value for leaf in found if leaf.dtype is None} == {("seen",): P}
    total = sum(leaf.bytes for leaf in found)
    assert sympy.expand(total - 4 * 16 * B * (P + sympy.Min(P, 64))) == 0


def test_a_part_of_constant_size_that_comes_late():
    """What the 29th token leaves is not there before it, and its bytes say so."""

    def fill(b, p):
        return {"late": torch.empty(b, 3, device="meta") if p >= 29 else None}

    _, (leaf,) = infer(fill, POINTS)
    assert leaf.since == 29
    assert [int(leaf.bytes.subs({B: 2, P: p})) for p in (1, 28, 29, 57, 1000)] == [0, 0, 24, 24, 24]


def test_rebuild_copies_and_keeps_aliases():
    """New leaves in a copy; what was one object is one object; the template is untouched."""
    template = ToyCache(2, 5)
    new = torch.zeros(1)
    copy = rebuild(template, {("keys", 0): new, ("seen",): 9})
    assert copy is not template
    assert copy.keys[0] is new
    assert copy.alias is new
    assert copy.seen == 9
    assert copy.keys[1] is template.keys[1]
    assert template.seen == 5
    assert dict(leaves(copy))["seen",] == 9


@functools.cache
def real(name: str) -> torch.nn.Module:
    """The full model with random weights on the CPU."""
    return build({k: v for k, v in SMALL[name].items() if k != "quantization_config"})


@pytest.mark.parametrize("name", each())
def test_bytes_of_a_real_cache(name):
    """At lengths below and above every window: the bytes that a run on the CPU keeps, to the last one."""
    claimed = parse_expr(small_models.report(name)["kv_cache"]["expression"])
    for b, p in ((1, 7), (2, 41)):
        ids = torch.zeros(b, p, dtype=torch.long)
        cache = small_models.step(real(name), ids)
        assert held(cache) == evaluate(claimed, b=b, p=p), (b, p)


@pytest.mark.parametrize("name", each())
def test_bytes_per_token_and_per_sequence(name):
    """The two numbers of the report are what the expression gives for one long sequence."""
    found = small_models.report(name)["kv_cache"]
    total = parse_expr(found["expression"])
    for p in (100_003, 1_000_003):
        assert found["bytes_per_token"] * p + found["bytes_per_sequence"] == evaluate(
            total, b=1, p=p
        )


@pytest.mark.parametrize("name", each())
def test_tensors_add_up_to_the_cache(name):
    """The tensors of all layers are the whole cache, and no more of one is dealt to ranks than it has."""
    found = small_models.report(name)["kv_cache"]
    for at in ({"b": 1, "p": 7}, {"b": 3, "p": 1000}):
        whole = evaluate(parse_expr(found["expression"]), **at)
        parts = [
            leaf["count"] * evaluate(parse_expr(leaf["bytes"]), **at) for leaf in found["leaves"]
        ]
        assert sum(parts) == whole
        for leaf in found["leaves"]:
            dealt = sum(evaluate(parse_expr(size), **at) for size in leaf["shards"].values())
            assert 0 <= dealt <= evaluate(parse_expr(leaf["bytes"]), **at)
