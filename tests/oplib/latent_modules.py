"""What the tables of module kinds share: small sizes, and the parts' sums by hand."""

#: H=2, hidden 32, Q=8, L=16, N=8, R=4, V=8, all bfloat16: 2 bytes an element, 2 FLOPs a multiply-add.
BASE = {
    "num_heads": 2,
    "hidden_size": 32,
    "q_lora_rank": 8,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "dtype": "bfloat16",
    "kv_dtype": "bfloat16",
}
INDEXER = {"index_n_heads": 3, "index_head_dim": 4, "index_topk": 4}
SHARED = {"index_n_heads": 0, "index_head_dim": 0, "index_topk": 4, "index_source": "shared"}


def gemm(m, n, k):
    """FLOPs and bytes of a linear layer."""
    return 2 * m * n * k, 2 * (m * k + n * k + m * n)


def bmm(batch, m, n, k):
    """FLOPs and bytes of products of heads with a parameter."""
    return 2 * batch * m * n * k, 2 * batch * (m * k + n * k + m * n)


def around(x):
    """Projections into the latents, of queries, and of the output."""
    return [gemm(x, 8 + 16 + 4, 32), gemm(x, 2 * 12, 8), gemm(x, 32, 2 * 8)]


def absorbed(x):
    """Products into the latent space and out of it."""
    return [bmm(2, x, 16, 8), bmm(2, x, 8, 16)]


def total(parts):
    """FLOPs and bytes of several parts."""
    return sum(part[0] for part in parts), sum(part[1] for part in parts)
