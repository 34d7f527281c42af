"""gemm: bytes are input, weight with its scales, output."""

import pytest

BASE = {"n": 4, "k": 5, "dtype": "bfloat16"}
M3 = {"m": 3}
ROWS = [
    ({}, M3, 2 * 3 * 4 * 5, 2 * (15 + 20 + 12)),
    ({"bias": True}, M3, 120, 94 + 4 * 2),
    ({"tied": True}, M3, 120, 94),
    ({"dtype": "float32"}, M3, 120, 4 * (15 + 20 + 12)),
    ({"dtype": "fp8"}, M3, 120, 15 + (20 + 4) + 12 * 2),
    ({"dtype": "fp8_wo"}, M3, 120, 15 * 2 + (20 + 4) + 12 * 2),
    ({"dtype": "int8"}, M3, 120, 15 + (20 + 4 * 4) + 12 * 2),
    ({"dtype": "int8_wo"}, M3, 120, 15 * 2 + (20 + 4 * 4) + 12 * 2),
    # 256 x 256 is 2 x 2 blocks with a float32 scale each
    ({"n": 256, "k": 256, "dtype": "fp8_block"}, {"m": 1}, 131072, 256 + 65536 + 4 * 4 + 512),
    # half a byte each; one fp8 scale per 16 of 32; one float32 per tensor
    ({"n": 16, "k": 32, "dtype": "nvfp4"}, {"m": 2}, 2048, 32 + (256 + 16 * 2 + 4) + 64),
    # half a byte each; one exponent byte per 32 of 64; 16-bit activation, then fp8 activation
    ({"n": 4, "k": 64, "dtype": "mxfp4"}, {"m": 1}, 512, 128 + (128 + 4 * 2) + 8),
    ({"n": 4, "k": 64, "dtype": "w4a8_mxfp4"}, {"m": 1}, 512, 64 + (128 + 4 * 2) + 8),
    # 2 rows of 2 groups: a float16 scale and a 4-bit zero each
    ({"n": 2, "k": 256, "dtype": "int4_wo"}, {"m": 1}, 1024, 512 + (256 + 4 * 2 + 2) + 4),
    # Qwen3-8B qkv projection, 8192 tokens
    ({"n": 6144, "k": 4096}, {"m": 8192}, 412316860416, 67108864 + 50331648 + 100663296),
]


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("gemm", {**BASE, **changes}, dims) == (flops, moved)
