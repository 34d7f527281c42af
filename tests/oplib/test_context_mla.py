"""context_mla: H=2, latent 16, key 8 + 4, value 8 over b=2, s=3, p=5."""

import pytest

BASE = {
    "num_heads": 2,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "absorbed": False,
    "dtype": "bfloat16",
    "kv_dtype": "bfloat16",
}
DIMS = {"b": 2, "s": 3, "p": 5}
# q 2·3·2·12, output 2·3·2·8, k and v of 8 tokens 2·8·2·20, latents to the cache 2·3·20
EXPANDED = 2 * (144 + 96 + 640 + 120)
# q 2·3·2·20, output 2·3·2·16, new latents in and out 2·3·20 each, cached 2·5·20
ABSORBED = 2 * (240 + 192 + 120 + 120 + 200)
ROWS = [
    ({}, DIMS, 2 * 2 * 2 * (6 + 7 + 8) * (12 + 8), EXPANDED),
    ({"masking": "computed"}, DIMS, 2 * 2 * 2 * 24 * (12 + 8), EXPANDED),
    ({"causal": False}, DIMS, 2 * 2 * 2 * 24 * (12 + 8), EXPANDED),
    ({"absorbed": True}, DIMS, 2 * 2 * 2 * 21 * (20 + 16), ABSORBED),
]


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("context_mla", {**BASE, **changes}, dims) == (flops, moved)
