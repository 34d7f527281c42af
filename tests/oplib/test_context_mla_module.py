"""context_mla_module: two ways over b=2, s=3, p=5; one sequence of few tokens is cheaper absorbed."""

import pytest

from tests.oplib.latent_modules import BASE, absorbed, around, gemm, total

DIMS = {"b": 2, "s": 3, "p": 5}
# the two ways of attention itself: test_context_mla.py has the same sizes
EXPANDED = (2 * 2 * 2 * 21 * 20, 2 * (144 + 96 + 640 + 120))
ABSORBED = (2 * 2 * 2 * 21 * 36, 2 * (240 + 192 + 120 + 120 + 200))
KV_B = gemm(16, 2 * 16, 16)  # rebuilds 2·8 tokens
WAYS = (
    total([*around(6), KV_B, EXPANDED]),
    total([*around(6), *absorbed(6), ABSORBED]),
)
GIVEN = tuple(
    tuple(whole - part for whole, part in zip(way, gemm(6, 28, 32), strict=True)) for way in WAYS
)
AT_ONCE = [gemm(6, 2 * 12 + 20, 32), gemm(6, 32, 16)]  # no latent of queries
ROWS = [
    ({}, WAYS),
    ({"latents": "given"}, GIVEN),
    ({"q_lora_rank": 0}, (
        total([*AT_ONCE, KV_B, EXPANDED]), total([*AT_ONCE, *absorbed(6), ABSORBED]),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "ways"), ROWS)
def test_hand_sums(price, changes, ways):
    """FLOPs and bytes are those of the way with fewer of each."""
    flops, moved = (min(side) for side in zip(*ways, strict=True))
    assert price("context_mla_module", {**BASE, **changes}, DIMS) == (flops, moved)
