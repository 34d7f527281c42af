"""context_dsa_module: 4 of 6, 7 and 8 keys are selected over b=2, s=3, p=5, and all of 2 and 3 over p=1."""

import pytest

from oplib.errors import InvalidInputError
from oplib.op import kind
from tests.oplib.latent_modules import BASE, INDEXER, SHARED, absorbed, around, gemm, total

DIMS = {"b": 2, "s": 3, "p": 5}
# attention: 12 pairs of 2 heads, key 20, value 16; q 240, output 192, new latents 120 twice, cached 2·5·20, 24 indices
SPARSE = (2 * 2 * 2 * 12 * 36, 2 * (240 + 192 + 120 + 120 + 200) + 2 * 12 * 4)
# every key, expanded: test_context_mla.py; kv_b rebuilds 2·8 tokens
DENSE = [gemm(16, 2 * 16, 16), (2 * 2 * 2 * 21 * 20, 2 * (144 + 96 + 640 + 120))]
# 3 heads of 4 in fp8 score 21 pairs; q 2·3·12, w 2·3·3 float32, keys in, out and cached 2·(3+3+5)·4, scores twice
SCORES = (2 * 2 * 21 * 3 * 5, 72 + 72 + 88 + 2 * 42 * 4 + 2 * 12 * 4)
KEYS = gemm(6, 4, 32)
SCORED = [KEYS, gemm(6, 12, 8), gemm(6, 3, 32), SCORES]
# p = 0, s = 3: nothing is left out, so nothing is scored. 2·(1+2+3) pairs, absorbed and expanded
FEW = {"b": 2, "s": 3, "p": 0}
FEW_SPARSE = (2 * 2 * 12 * 36, 2 * (240 + 192 + 120 + 120) + 12 * 4)
FEW_DENSE = [gemm(6, 2 * 16, 16), (2 * 2 * 12 * 20, 2 * (144 + 96 + 6 * 40 + 120))]
ROWS = [
    (INDEXER, DIMS, SCORED, [*absorbed(6), SPARSE], DENSE),
    (SHARED, DIMS, [], [*absorbed(6), SPARSE], DENSE),
    (INDEXER, FEW, [KEYS], [*absorbed(6), FEW_SPARSE], FEW_DENSE),
]


@pytest.mark.parametrize(("index", "dims", "scored", "sparse", "dense"), ROWS)
def test_hand_sums(price, index, dims, scored, sparse, dense):
    """FLOPs and bytes are those of the way with fewer of each; every key selected means none scored."""
    ways = [total([*around(6), *scored, *core]) for core in (sparse, dense)]
    flops, moved = (min(side) for side in zip(*ways, strict=True))
    assert price("context_dsa_module", {**BASE, **index}, dims) == (flops, moved)


def test_a_selection_of_another_layer_has_no_indexer():
    """Sizes of an indexer and another layer's selection exclude each other."""
    for index in ({**INDEXER, "index_source": "shared"}, {**SHARED, "index_source": "indexer"}):
        with pytest.raises(InvalidInputError, match="index_source"):
            kind("context_dsa_module").complete({**BASE, **index})
