"""How many (query, key) pairs attention works on, and what one pair costs.

Letters: b batch, s new tokens, p cached tokens, H query heads, G key/value heads, D key size, V value size.
Query i (1 to s) stands at position p + i of its sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

from oplib.arithmetic import Amount, exact_div, floor_div, maximum, minimum, modulo
from oplib.dtypes import storage_bytes
from oplib.errors import InvalidInputError
from oplib.params import Params, flag, integer, text


def triangle(n: Amount) -> Amount:
    """1 + 2 + ... + n."""
    return exact_div(n * (n + 1), 2)


def capped_pairs(s: Amount, p: Amount, cap: int = 0) -> Amount:
    """Σ over i = 1..s of min(p + i, cap): causal pairs when a query sees at most `cap` keys (0: no cap).

    The first t = clamp(cap - p, 0, s) queries see all p + i keys, the other s - t see `cap`:
    t·p + t(t+1)/2 + (s - t)·cap. Without a cap t = s.
    """
    if not cap:
        return s * p + triangle(s)
    t = minimum(s, maximum(cap - p, 0))
    return t * p + triangle(t) + (s - t) * cap


def limited_cache(p: Amount, params: Params) -> Amount:
    """Tokens in the cache: p, or the last `cache_limit` of them."""
    limit = integer(params, "cache_limit")
    return minimum(p, limit) if limit else p


def cached_tokens(p: Amount, params: Params, cap: int) -> Amount:
    """Cached tokens at hand where a query sees `cap` keys at most, itself included (0: all).

    A cache that is cut for that keeps cap - 1 of them; one that is not gives all to computed masking.
    """
    kept = limited_cache(p, params)
    whole = flag(params, "whole_cache") and text(params, "masking") == "computed"
    return minimum(kept, cap - 1) if cap and not whole else kept


def chunked_pairs(s: Amount, p: Amount, chunk: int) -> Amount:
    """Causal pairs when a query sees only its own chunk of `chunk` positions.

    The query at 0-based position q sees q mod chunk + 1 keys. Over the first n positions these sum to
    F(n) = ⌊n/chunk⌋·chunk(chunk+1)/2 + r(r+1)/2 with r = n mod chunk; the answer is F(p + s) - F(p).
    """

    def first(n: Amount) -> Amount:
        return floor_div(n, chunk) * triangle(chunk) + triangle(modulo(n, chunk))

    return first(p + s) - first(p)


def keys_after(tokens: Amount, ratio: int) -> Amount:
    """Keys that `tokens` tokens leave when each stands for `ratio` of them."""
    return tokens if ratio == 1 else floor_div(tokens, ratio)


def compressed_pairs(s: Amount, p: Amount, ratio: int, cap: int = 0) -> Amount:
    """Σ over i = 1..s of min(⌊(p + i)/ratio⌋, cap): causal pairs with keys that stand for `ratio` tokens each, of
    which a query sees those whose tokens have all come, at most `cap` of them (0: no cap).

    Over the first n positions the uncapped sum is F(n) = ratio·q(q-1)/2 + q(r + 1) with q = ⌊n/ratio⌋ and
    r = n mod ratio: each of the q values below ⌊n/ratio⌋ stands ratio times, the last one r + 1 times. From position
    cap·ratio on every query sees `cap`: G(n) = F(min(n, cap·ratio)) + cap·max(n - cap·ratio, 0). The answer is
    G(p + s) - G(p).
    """
    if ratio == 1:
        return capped_pairs(s, p, cap)

    def uncapped(n: Amount) -> Amount:
        whole = floor_div(n, ratio)
        return ratio * exact_div(whole * (whole - 1), 2) + whole * (modulo(n, ratio) + 1)

    def first(n: Amount) -> Amount:
        if not cap:
            return uncapped(n)
        full = cap * ratio
        return uncapped(minimum(n, full)) + cap * maximum(n - full, 0)

    return first(p + s) - first(p)


def partial_blocks(s: Amount, p: Amount, block: int) -> Amount:
    """Σ over i = 1..s of (p + i) mod block: causal pairs with the tokens behind the last whole block.

    Over the first n positions these sum to F(n) = ⌊n/block⌋·block(block-1)/2 + r(r+1)/2 with r = n mod block.
    """

    def first(n: Amount) -> Amount:
        return floor_div(n, block) * triangle(block - 1) + triangle(modulo(n, block))

    return first(p + s) - first(p)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSizes:
    """Elements per token, all heads together: of the query, of the output, of a key with its value, and of what
    the cache keeps of a token. `keys_from_cache` is false where keys are rebuilt outside, as activations."""

    query: int
    output: int
    key_value: int
    cache: int
    keys_from_cache: bool = True

    def flops(self, b: Amount, pairs: Amount) -> Amount:
        """A pair costs one multiply-add per query element for its score, one per output element for its share."""
        return 2 * b * (self.query + self.output) * pairs

    def bytes(self, b: Amount, s: Amount, cached: Amount, params: Params) -> Amount:
        """q read, output written, new keys read and written to the cache, `cached` older keys read."""
        width, cache_width = (
            storage_bytes(text(params, "dtype")),
            storage_bytes(text(params, "kv_dtype")),
        )
        old_width = cache_width if self.keys_from_cache else width
        new = (self.query + self.output + self.key_value) * width + self.cache * cache_width
        return b * (s * new + cached * self.key_value * old_width)


def check_head_groups(kind: str, params: Params) -> None:
    """Reject query heads that key/value heads cannot share evenly."""
    if integer(params, "num_heads") % integer(params, "num_kv_heads"):
        raise InvalidInputError(
            f"{kind} has {params['num_heads']} query heads over "
            f"{params['num_kv_heads']} key/value heads.",
            "Each key/value head serves the same whole number of query heads.",
        )


def plain_heads(*, heads: int, kv_heads: int, head_dim: int, v_head_dim: int) -> HeadSizes:
    """Multi-head, grouped-query and multi-query attention."""
    key_value = kv_heads * (head_dim + v_head_dim)
    return HeadSizes(
        query=heads * head_dim, output=heads * v_head_dim, key_value=key_value, cache=key_value
    )


def latent_heads(
    *, heads: int, rank: int, nope: int, rope: int, v_head_dim: int, absorbed: bool
) -> HeadSizes:
    """Multi-head latent attention.

    Absorbed, each query is projected into the latent space and all heads share one key of rank + rope, whose first
    rank elements are the value too. Expanded, every head has its own key of nope + rope and value of v_head_dim,
    rebuilt from the latent by a linear layer outside. The cache keeps the latent in both.
    """
    if absorbed:
        return HeadSizes(
            query=heads * (rank + rope),
            output=heads * rank,
            key_value=rank + rope,
            cache=rank + rope,
        )
    return HeadSizes(
        query=heads * (nope + rope),
        output=heads * v_head_dim,
        key_value=heads * (nope + rope + v_head_dim),
        cache=rank + rope,
        keys_from_cache=False,
    )
