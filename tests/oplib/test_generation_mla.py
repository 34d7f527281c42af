"""generation_mla: H=2, latent 16 + 4, one new token after 7."""

import pytest

BASE = {
    "num_heads": 2,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "absorbed": True,
    "dtype": "bfloat16",
    "kv_dtype": "bfloat16",
}
DIMS = {"b": 2, "s": 1, "p": 7}
ROWS = [
    # q 2·2·20, output 2·2·16, new latents in and out, cached 2·7·20
    ({}, DIMS, 2 * 2 * 2 * 8 * (20 + 16), 2 * (80 + 64 + 40 + 40 + 280)),
    # a window of 4 leaves three cached latents
    ({"window": 4}, DIMS, 2 * 2 * 2 * 4 * (20 + 16), 2 * (80 + 64 + 40 + 40 + 120)),
    ({"kv_dtype": "fp8"}, DIMS, 2304, 2 * (80 + 64 + 40) + 40 + 280),
    # q 2·2·12, output 2·2·8, k and v of 8 tokens 2·8·2·20, latents to the cache
    ({"absorbed": False}, DIMS, 2 * 2 * 2 * 8 * (12 + 8), 2 * (48 + 32 + 640 + 40)),
    # DeepSeek-V3: 128 heads on 4096 cached tokens; 2·128·4097·(576 + 512) FLOPs
    (
        {
            "num_heads": 128,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
        },
        {"b": 1, "s": 1, "p": 4096},
        2 * 128 * 4097 * (576 + 512),
        2 * (128 * 576 + 128 * 512 + 576 + 576 + 4096 * 576),
    ),
]


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("generation_mla", {**BASE, **changes}, dims) == (flops, moved)
