"""generation_mla_module: absorbed over b=2, s=1, p=5."""

import pytest

from tests.oplib.latent_modules import BASE, absorbed, around, gemm, total

DIMS = {"b": 2, "s": 1, "p": 5}
# pairs 2·6 of 2 heads, key 20 and value 16; q 2·2·20, output 2·2·16, new latents in and out 2·20 each, cached 2·5·20
CORE = (2 * 2 * 2 * 6 * 36, 2 * (80 + 64 + 40 + 40 + 200))
WHOLE = total([*around(2), *absorbed(2), CORE])
ROWS = [
    ({}, WHOLE),
    ({"latents": "given"}, tuple(w - g for w, g in zip(WHOLE, gemm(2, 28, 32), strict=True))),
]


@pytest.mark.parametrize(("changes", "sums"), ROWS)
def test_hand_sums(price, changes, sums):
    """FLOPs and bytes are the sums of the parts'."""
    assert price("generation_mla_module", {**BASE, **changes}, DIMS) == sums
