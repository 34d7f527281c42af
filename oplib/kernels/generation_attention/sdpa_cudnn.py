"""scaled_dot_product_attention on cuDNN."""

from __future__ import annotations

from torch.nn.attention import SDPBackend

from oplib.kernels.attention import Sdpa


class SdpaCudnn(Sdpa):
    """torch's scaled_dot_product_attention with the cuDNN backend."""

    backend = SDPBackend.CUDNN_ATTENTION
    largest_head = 256
    preference = 20
