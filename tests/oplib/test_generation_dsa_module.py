"""generation_dsa_module: 4 of 6 keys are selected over b=2, s=1, p=5."""

import pytest

from tests.oplib.latent_modules import BASE, INDEXER, SHARED, absorbed, around, gemm, total

DIMS = {"b": 2, "s": 1, "p": 5}
# 2·4 pairs of 2 heads, key 20, value 16; q 80, output 64, new latents 40 twice, min(5, 3) cached 2·3·20, 8 indices
CORE = (2 * 2 * 2 * 4 * 36, 2 * (80 + 64 + 40 + 40 + 120) + 8 * 4)
# 3 heads of 4 in fp8 score 12 pairs; q 2·12, w 2·3 float32, keys in, out and cached 2·(1+1+5)·4, scores twice
SCORES = (2 * 12 * 3 * 5, 24 + 24 + 56 + 2 * 12 * 4 + 8 * 4)
SCORED = [gemm(2, 4, 32), gemm(2, 12, 8), gemm(2, 3, 32), SCORES]


@pytest.mark.parametrize(("index", "scored"), [(INDEXER, SCORED), (SHARED, [])])
def test_hand_sums(price, index, scored):
    """FLOPs and bytes are the sums of the parts'."""
    sums = total([*around(2), *absorbed(2), *scored, CORE])
    assert price("generation_dsa_module", {**BASE, **index}, DIMS) == sums
