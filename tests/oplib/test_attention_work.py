"""The closed forms of pairs against counting every (query, key) pair of the mask."""

from hypothesis import given
from hypothesis import strategies as st

from oplib.attention_work import (
    capped_pairs,
    chunked_pairs,
    compressed_pairs,
    partial_blocks,
    triangle,
)
from oplib.symbols import P, S, evaluate

TOKENS, CACHED, CAP = st.integers(0, 40), st.integers(0, 40), st.integers(1, 50)


def count(s, p, visible):
    """Pairs of queries at p..p+s-1 with the keys that `visible(query, key)` leaves."""
    return sum(visible(q, k) for q in range(p, p + s) for k in range(q + 1))


@given(TOKENS, CACHED)
def test_causal(s, p):
    """Without a cap every query sees itself and all before it."""
    assert capped_pairs(s, p) == count(s, p, lambda _q, _k: True)


@given(TOKENS, CACHED, CAP)
def test_window(s, p, window):
    """A window of w leaves a query itself and the w - 1 keys before it."""
    assert capped_pairs(s, p, window) == count(s, p, lambda q, k: q - k < window)


@given(TOKENS, CACHED, CAP)
def test_chunks(s, p, chunk):
    """A query sees the keys of its own chunk up to itself."""
    assert chunked_pairs(s, p, chunk) == count(s, p, lambda q, k: q // chunk == k // chunk)


@given(TOKENS, CACHED, st.integers(1, 9), st.integers(0, 12))
def test_compressed(s, p, ratio, cap):
    """A query sees the blocks that end with it or before it, at most `cap` of them."""
    seen = [(p + i) // ratio for i in range(1, s + 1)]
    assert compressed_pairs(s, p, ratio, cap) == sum(min(n, cap) if cap else n for n in seen)


@given(TOKENS, CACHED, st.integers(1, 9), st.integers(0, 12))
def test_compressed_as_an_expression(s, p, ratio, cap):
    """The expression in s and p is the same function."""
    found = evaluate(compressed_pairs(S, P, ratio, cap), s=s, p=p)
    assert found == compressed_pairs(s, p, ratio, cap)


@given(TOKENS, CACHED, CAP)
def test_symbols_agree_with_numbers(s, p, cap):
    """The expression in s and p is the same function."""
    assert evaluate(capped_pairs(S, P, cap), s=s, p=p) == capped_pairs(s, p, cap)
    assert evaluate(chunked_pairs(S, P, cap), s=s, p=p) == chunked_pairs(s, p, cap)


def test_triangle():
    """1 + 2 + 3 + 4 = 10, exact also above 2**53."""
    assert triangle(4) == 10
    assert triangle(2**40) == 2**79 + 2**39


@given(TOKENS, CACHED, st.integers(1, 9))
def test_behind_the_last_block(s, p, block):
    """A query sees the tokens behind the last whole block, none where its own ends one."""
    assert partial_blocks(s, p, block) == sum((p + i) % block for i in range(1, s + 1))
